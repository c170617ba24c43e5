"""What each gradient method takes, in bytes and in forward steps.

Units: F is one accepted step forward, B the vjp of one step given its tapes (taken as 2 F). What
counts as bytes: everything alive because a gradient is wanted, beyond the inputs, the outputs
asked for and the working set of the solve itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import _schedules
from .._adjoints import RecursiveCheckpointAdjoint, Shape

__all__ = ["Cost", "checkpoint_cost", "fitting_checkpoints", "slot_bytes"]

VJP = 2.0
"""Cost of one step's vjp in units of F; measured on request in a later version."""


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
    """Bytes of slots and window."""
    free = 1 if shape.free_slot else 0
    rows = shape.steps if adjoint.checkpoints is None else min(adjoint.checkpoints, shape.steps)
    if not shape.free_slot and adjoint.checkpoints is None and shape.bound is not None:
        rows = shape.bound  # a traced buffer is as long as the bound
    window = adjoint.window if adjoint.window > 1 else 0
    return (max(0, rows - free) + window) * shape.state


def checkpoint_cost(shape: Shape, adjoint: RecursiveCheckpointAdjoint) -> Cost:
    """Cost of recursive checkpointing (of storing everything where it has no limit)."""
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
    return Cost(size, 1 + extra / n + 1 + VJP)


def fitting_checkpoints(shape: Shape, budget: int) -> RecursiveCheckpointAdjoint | None:
    """The cheapest setting whose slots and window fit; None where not even one slot does."""
    room = budget - sum(shape.fixed.values())
    states = room // shape.state + (1 if shape.free_slot else 0) if room >= 0 else 0
    bound = shape.steps if shape.known else shape.bound
    if bound is not None and states >= bound:
        return RecursiveCheckpointAdjoint()
    if states >= _MANY and bound is None:
        return RecursiveCheckpointAdjoint()
    if states < 1:
        return None
    if shape.windows:
        segments = _schedules.choose_segments(shape.steps, states) if shape.known else None
        if segments is not None:
            return RecursiveCheckpointAdjoint(segments.slots, segments.window)
        if states >= 3 * _WINDOW:
            return RecursiveCheckpointAdjoint(states - _WINDOW, _WINDOW)
    return RecursiveCheckpointAdjoint(states)


_WINDOW = 8
"""Leaf of a traced reversal: its bookkeeping costs as much as some ten cheap steps."""

_MANY = 2**24
"""More states than any eager loop takes steps."""
