"""What each gradient method takes, in bytes and in forward steps.

Units: F is one accepted step forward, B the vjp of one step given its tapes (``Shape.vjp``: 2 F,
of implicit methods by calls of f, unless it was measured). What counts as bytes: everything alive
because a gradient is wanted, beyond the inputs, the outputs asked for and the working set of the
solve itself.

Beside slots a budget buys guards: four projections of a state at every step, or at every few,
where they take less than the states themselves. Steps with an exact inverse can be guarded by the
stored states alone, of which four are needed at least; others drift on the way from one to the
next, and a range that is inverted in vain takes more than its replay (measured: 8.8 F a step where
replays take 5.8), so that states of few numbers are replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .._adjoints.base import AbstractAdjoint
from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.inversion import BacksolveAdjoint, InvertingAdjoint, ReversibleAdjoint
from .._adjoints.projection_guard import noted_rows
from .._checkpointing import schedules
from .shape import ARRAYS_ONLY, CHEAP_BYTES, RECORD, UNLIMITED, Shape

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
    exact = shape.known or shape.free_slot or shape.bound is None
    most = shape.steps if exact else shape.bound or 0
    if c is None or (not shape.free_slot and c >= most):
        # a traced buffer is as long as the bound; small steps of stored states are recorded whole
        return (most - shape.free_slot) * shape.state + shape.joint
    c = max(min(c, most), _least(shape))
    if shape.known and window and c * window >= shape.steps:
        return (c + window) * shape.state
    return (c - shape.free_slot) * shape.slot + shape.scratch + window * shape.state


def _least(shape: Shape) -> int:
    """Fewest slots that are paid for: a compiled buffer of one row takes as much as one of two."""
    return 1 + (COMPILED in shape.fixed)


def direct_cost(shape: Shape) -> Cost:
    """Cost of recording every step for the library's own autodiff."""
    size = shape.needed + shape.joint + shape.steps * shape.recorded
    return Cost(size, 1 + shape.vjp)


def tape_cost(shape: Shape) -> Cost:
    """Cost of storing the tapes of every step; a traced buffer is as long as the bound.

    Those of one step more are for solves that store states after all.
    """
    rows = shape.steps if shape.known or shape.bound is None else shape.bound
    shape = shape.with_tapes(one=False)
    return Cost(shape.needed + rows * shape.kept, 1 + shape.vjp)


def forward_cost(shape: Shape, numbers: int) -> Cost:
    """Cost of tangents by some real numbers along the steps, and of their rows."""
    size = numbers * ((shape.stages + 2) * shape.state + shape.rows)
    return Cost(size, 1 + JVP * numbers)


def checkpoint_cost(shape: Shape, adjoint: RecursiveCheckpointAdjoint) -> Cost:
    """Cost of recursive checkpointing (of storing everything where it has no limit)."""
    shape = shape.with_tapes(one=adjoint.one_tape)
    n = max(1, shape.steps)
    extra = _advances(shape, n, adjoint)
    if not adjoint.record:
        shape, extra = shape.without_record(), CONTROLLED * extra + 0.01 * n
    size = shape.needed + slot_bytes(shape, adjoint)
    return Cost(size, 1 + extra / n + 1 + adjoint.one_tape * shape.again + shape.vjp)


CONTROLLED = 1.3
"""A replay under the controller, rejected tries included, in units of one over recorded times."""


def _advances(shape: Shape, n: int, adjoint: RecursiveCheckpointAdjoint) -> float:
    """Steps run again by the reversal, its bookkeeping in units of a cheap step included."""
    c, window = adjoint.checkpoints, adjoint.window
    if c is None or (shape.known and c >= n):
        return 0
    if shape.known and window > 1 and c * window >= n:
        return n - c
    kept = shape.windows * BOOKKEEPING * n / window
    if c >= n:
        return kept
    if shape.known:
        return kept + schedules.block_advances(n, c, window)
    blocks = -(-n // window)
    return kept + schedules.events(c).extra_advances(blocks) * window + n - blocks


BOOKKEEPING = 0.25
"""What a leaf of a traced reversal costs beside its steps, in units of a cheap one."""


def fitting_checkpoints(shape: Shape, budget: int) -> RecursiveCheckpointAdjoint | None:
    """The cheapest setting whose tapes, slots and window fit; None where none does."""
    options = []
    for one, record in ((False, True), (False, False), (True, True), (True, False)):
        if not (record or shape.clock):
            continue
        form = (shape if record else shape.without_record()).with_tapes(one=one)
        room = budget - form.needed
        if room >= 0:
            settings = RecursiveCheckpointAdjoint(one_tape=one, record=record)
            options += _fitting(form, room, settings)
        if options and options[0].checkpoints is None:
            break
    return min(options, key=lambda option: checkpoint_cost(shape, option).time, default=None)


def _fitting(
    shape: Shape, room: int, settings: RecursiveCheckpointAdjoint
) -> list[RecursiveCheckpointAdjoint]:
    """Settings whose slots and window fit into so many bytes."""
    free = int(shape.free_slot)
    states = max(0, room - shape.joint) // shape.state + free
    bound = shape.steps if shape.known else shape.bound
    if states >= (_MANY if bound is None else bound) and (bound or 0) <= ample_rows(shape):
        return [settings]
    options = []
    states = room // shape.state + free
    if shape.windows and shape.known:
        segments = schedules.choose_segments(shape.steps, states)
        if segments is not None:
            slots, window = segments
            options.append(replace(settings, checkpoints=slots, window=window))
    slots = (room - shape.scratch) // shape.slot + free if room >= shape.scratch else 0
    if shape.joint and shape.known:
        slots = min(slots, max(1, shape.steps - 1))  # as many as steps would be recorded whole
    if slots < _least(shape):
        return options
    if not (shape.free_slot or shape.known):
        slots = min(slots, ample_rows(shape) + _WINDOW)
    window = min(slots - 1, -(-_WINDOW * shape.state // shape.slot))
    if shape.windows and slots >= 3 * _WINDOW:
        options.append(replace(settings, checkpoints=slots - window, window=_WINDOW))
    slots = min(slots, ample_rows(shape))
    return [*options, replace(settings, checkpoints=slots, window=1)]


def ample_rows(shape: Shape) -> int:
    """Rows beyond which a traced loop of unknown length gains nothing that is likely.

    A traced buffer takes its rows whether they are used or not, so it is not as long as the bound
    but as the prediction asks for, with a margin; more where they cost next to nothing. A solve
    that takes more steps recomputes some of them.
    """
    if shape.known or shape.free_slot:
        return 2**62
    cheap = min(_CHEAP_ROWS, CHEAP_BYTES // shape.state)
    return max(1, cheap, math.ceil(_MARGIN * shape.steps))


def as_compiled(shape: Shape, budget: int) -> Shape:
    """The shape with the compiler's own account in place of the sum of a step's arrays.

    A compiler fuses: what a step takes beside the slots is often a third of the sum of its arrays.
    To know costs a compilation, so it is asked only where that is a good part of what is at stake,
    and not where the budget is a multiple of what everything takes.
    """
    if shape.compiled is None or not ARRAYS_ONLY < budget < UNLIMITED:
        return shape
    upper = shape.with_tapes(one=False).needed
    whole = slot_bytes(shape, RecursiveCheckpointAdjoint(ample_rows(shape)))
    if upper < _WORTH_IT * min(budget, upper + whole) or budget >= _AMPLE * (upper + whole):
        return shape
    full = shape.compiled(False)
    one = full
    if budget - full < _FEW * shape.state:
        one = min(full, shape.compiled(True))
    tape = -(-(full - one) // max(1, shape.stages - 1))
    record = shape.fixed[RECORD]
    fixed = {COMPILED: max(0, one - tape - record), RECORD: record}
    return shape._replace(fixed=fixed, tape=tape, second=0, hidden=0)


def limit(
    shape: Shape,
    adjoint: AbstractAdjoint,
    fitting: RecursiveCheckpointAdjoint | None,
    budget: int,
) -> int | None:
    """Steps whose states and times fit; None where every number does that may come."""
    used = adjoint if isinstance(adjoint, RecursiveCheckpointAdjoint) else fitting
    if not shape.growing or used is None:
        return None
    shape = shape.with_tapes(one=used.one_tape)
    room = budget - shape.without_times - shape.growing
    most = (room + shape.free_slot * shape.state) // (shape.state + shape.growing)
    if used.checkpoints is not None:
        full = slot_bytes(shape._replace(steps=max(used.checkpoints, shape.steps)), used)
        most = max(most, (room - full) // shape.growing)
    return None if shape.bound is not None and most >= shape.bound else most


COMPILED = "one step as compiled"

_WORTH_IT = 0.08
"""Part of the budget from which the sum of a step's arrays is too coarse a prediction."""

_AMPLE = 8
"""Multiple of all that could be taken, from which nothing depends on a prediction."""

_FEW = 8
"""Slots below which room for one more tape may matter."""

_WINDOW = 8
"""Leaf of a traced reversal: its bookkeeping costs as much as some ten cheap steps."""

_MANY = 2**24
"""More states than any eager loop takes steps."""

_MARGIN = 1.5
"""Rows for each predicted step of a traced solve."""

_CHEAP_ROWS = 4096
"""Rows that are taken without a prediction, if they take no more than ``CHEAP_BYTES``."""


WORKING = 3
"""States of a walk back: the end of the step, its start, and a correction of it. A compiler finds
room for them among what a step takes anyway."""

FEWEST_GUARDS = 4
"""Guarded states without which nothing is inverted: a path may leave and come back between two."""


def inversion_cost(shape: Shape, adjoint: InvertingAdjoint) -> Cost:
    """Cost of inverted steps; where none would be inverted, that of the replays."""
    plain = checkpoint_cost(shape, adjoint.replaying)
    if adjoint.guard == 0 or (shape.known and not adjoint.inverts_any(shape.steps)):
        return plain
    inverting = plain.bytes + guard_cost(shape, adjoint.guard) + shape.starts
    replays = plain.time - (2 + adjoint.one_tape + shape.vjp)
    return Cost(inverting, plain.time - replays + min(1.0, replays))


def guard_cost(shape: Shape, every: int | None) -> int:
    """Bytes of a guard, and of the states that a walk back holds."""
    size = WORKING * shape.state if shape.compiled is None else 0
    if every is not None:
        # where the number of steps is not known, there is room for all that may come
        most = shape.steps if shape.known or shape.bound is None else shape.bound
        size += shape.vectors + noted_rows(most, every) * shape.noted
    return size if every == 1 else size + shape.returning


def continuous_cost(shape: Shape, adjoint: BacksolveAdjoint) -> Cost:
    """Cost of the adjoint ODE on constant steps; of adaptive ones the way back is not known."""
    rows = shape.outputs.get("saved states", 0) if adjoint.reset else 0
    size = (2 * shape.stages + 7) * shape.state + shape.tape + 2 * shape.returning + rows
    return Cost(size, 2 + shape.vjp)


def fitting_inversion(
    shape: Shape, budget: int, fitting: RecursiveCheckpointAdjoint
) -> InvertingAdjoint:
    """The setting of inverted steps that a budget buys; without a guard where they don't pay.

    Parameters
    ----------
    fitting : RecursiveCheckpointAdjoint
        What the budget buys without inversion.
    """
    kind = ReversibleAdjoint if shape.reversible else BacksolveAdjoint
    same = kind(checkpoints=fitting.checkpoints, window=fitting.window, one_tape=fitting.one_tape)
    plain = checkpoint_cost(shape, fitting)
    if not same.inverts_any(shape.steps) and plain.time <= 3 + fitting.one_tape + shape.vjp:
        return same  # all ranges are no dearer to replay
    options = [
        option for one in (False, True) if (option := _fitting_inversion(shape, budget, kind, one))
    ]
    best = min(options, key=lambda option: inversion_cost(shape, option).time, default=None)
    if best is None or inversion_cost(shape, best).time >= plain.time:
        return replace(same, guard=0)
    return best


def _fitting_inversion(
    shape: Shape, budget: int, kind: type[InvertingAdjoint], one: bool
) -> InvertingAdjoint | None:
    """Slots and guards for the room that a step leaves."""
    room = budget - shape.with_tapes(one=one).needed
    every = _spacing(shape, room - guard_cost(shape, None) - shape.vectors)
    if every is None and not shape.reversible:
        return None
    room -= guard_cost(shape, every)
    least = _least(shape)
    adjoint = kind(checkpoints=least, guard=every, one_tape=one)
    first = slot_bytes(shape, adjoint.replaying)
    each = slot_bytes(shape, replace(adjoint.replaying, checkpoints=least + 1)) - first
    if room < first:
        return None
    slots = least + (room - first) // max(1, each)
    rows = 0 if every is None else noted_rows(shape.steps, every)
    if slots + rows < FEWEST_GUARDS:
        return None
    return replace(adjoint, checkpoints=min(slots, shape.steps))


def _spacing(shape: Shape, room: int) -> int | None:
    """Steps from one noted state to the next: half of the room at most is for notes."""
    if shape.noted >= shape.state or room <= 0:
        return None
    every = max(1, -(-2 * shape.steps * shape.noted // room))
    # sparser than one in an eighth of the solve, they tell no more than stored states
    return every if 8 * every <= shape.steps else None
