"""What each gradient method takes, in bytes and in forward steps.

Units: F is one accepted step forward, B the vjp of one step given its tapes (taken as 2 F). What
counts as bytes: everything alive because a gradient is wanted, beyond the inputs, the outputs
asked for and the working set of the solve itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import _schedules
from .._adjoints import RecursiveCheckpointAdjoint, Shape

__all__ = [
    "Cost",
    "checkpoint_cost",
    "direct_cost",
    "fitting_checkpoints",
    "forward_cost",
    "slot_bytes",
    "with_tapes",
]

VJP = 2.0
"""Cost of one step's vjp in units of F; measured on request in a later version."""


JVP = 1.5
"""Cost of carrying one tangent along a step in units of F."""


@dataclass(frozen=True)
class Cost:
    """Predicted bytes and time of one gradient.

    Attributes
    ----------
    bytes : int [bytes]
    time : float [F per accepted step]
    """

    bytes: int
    time: float


def slot_bytes(shape: Shape, adjoint: RecursiveCheckpointAdjoint) -> int:
    """Bytes of slots, their tables and the window."""
    c, window = adjoint.checkpoints, adjoint.window if adjoint.window > 1 else 0
    if c is None:
        traced_rows = not shape.free_slot and shape.bound is not None
        # a traced buffer is as long as the bound
        return (shape.bound or 0 if traced_rows else shape.steps - shape.free_slot) * shape.state
    c = min(c, shape.steps)
    if shape.known and window and c * window >= shape.steps:
        return (c + window) * shape.state
    each, scratch = _ranges(shape)
    return (c - shape.free_slot) * each + scratch + window * shape.state


def _ranges(shape: Shape) -> tuple[int, int]:
    """Bytes of a slot with its entries in tables, and of the scratch row of traced loops."""
    if shape.free_slot:
        return shape.state, 0
    each = shape.state + TABLES
    return each, each


TABLES = 12
"""Entries of a traced reversal's int32 tables (position, order, their copy) for each slot."""


def direct_cost(shape: Shape) -> Cost:
    """Cost of recording every step for the library's own autodiff."""
    size = sum(with_tapes(shape, one=False).fixed.values()) + shape.steps * shape.recorded
    return Cost(size, 1 + VJP)


def forward_cost(shape: Shape, numbers: int) -> Cost:
    """Cost of tangents by some real numbers along the steps, and of their rows."""
    size = numbers * ((shape.stages + 2) * shape.state + shape.rows)
    return Cost(size, 1 + JVP * numbers)


def checkpoint_cost(shape: Shape, adjoint: RecursiveCheckpointAdjoint) -> Cost:
    """Cost of recursive checkpointing (of storing everything where it has no limit)."""
    shape = with_tapes(shape, one=adjoint.one_tape)
    n, c = max(1, shape.steps), adjoint.checkpoints
    if c is None or c >= n:
        extra = 0
    elif shape.known:
        extra = _schedules.block_advances(n, c, adjoint.window)
    else:
        blocks = -(-n // adjoint.window)
        online = _schedules.events(c).extra_advances(blocks)
        extra = online * adjoint.window + n - blocks
    size = sum(shape.fixed.values()) + slot_bytes(shape, adjoint)
    return Cost(size, 1 + extra / n + 1 + adjoint.one_tape + VJP)


def with_tapes(shape: Shape, *, one: bool) -> Shape:
    """The shape with the tapes of a step, or of one stage, among its items."""
    tapes = shape.tape if one else shape.stages * shape.tape
    return shape._replace(fixed={**shape.fixed, TAPES: tapes})


TAPES = "tapes of a step"


def fitting_checkpoints(shape: Shape, budget: int) -> RecursiveCheckpointAdjoint | None:
    """The cheapest setting whose tapes, slots and window fit; None where none does."""
    full = _fitting(with_tapes(shape, one=False), budget)
    if full is not None and full.checkpoints is None:
        return full
    lean = _fitting(with_tapes(shape, one=True), budget)
    lean = lean and replace(lean, one_tape=True)
    options = [option for option in (full, lean) if option is not None]
    return min(options, key=lambda option: checkpoint_cost(shape, option).time, default=None)


def _fitting(shape: Shape, budget: int) -> RecursiveCheckpointAdjoint | None:
    room = budget - sum(shape.fixed.values())
    free = int(shape.free_slot)
    states = room // shape.state + free if room >= 0 else 0
    bound = shape.steps if shape.known else shape.bound
    if states >= (_MANY if bound is None else bound):
        return RecursiveCheckpointAdjoint()
    if shape.windows and shape.known:
        segments = _schedules.choose_segments(shape.steps, states)
        if segments is not None:
            return RecursiveCheckpointAdjoint(segments.slots, segments.window)
    each, scratch = _ranges(shape)
    slots = (room - scratch) // each + free if room >= scratch else 0
    if slots < 1:
        return None
    window = min(slots - 1, -(-_WINDOW * shape.state // each))
    if shape.windows and slots >= 3 * _WINDOW:
        return RecursiveCheckpointAdjoint(slots - window, _WINDOW)
    return RecursiveCheckpointAdjoint(slots)


_WINDOW = 8
"""Leaf of a traced reversal: its bookkeeping costs as much as some ten cheap steps."""

_MANY = 2**24
"""More states than any eager loop takes steps."""
