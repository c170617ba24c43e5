"""What inverted steps cost, and the setting that a budget buys for them.

Beside slots a budget buys guards: four projections of a state at every step, or at every few,
where they take less than the states themselves. Steps with an exact inverse can be guarded by the
stored states alone, of which four are needed at least; others drift on the way from one to the
next, and a range that is inverted in vain takes more than its replay (measured: 8.8 F a step where
replays take 5.8), so that states of few numbers are replayed.
"""

from __future__ import annotations

from dataclasses import replace

from .._adjoints import (
    BacksolveAdjoint,
    InvertingAdjoint,
    RecursiveCheckpointAdjoint,
    ReversibleAdjoint,
    Shape,
)
from .._adjoints.guard import noted_rows
from .costs import Cost, checkpoint_cost, slot_bytes, with_tapes

__all__ = ["continuous_cost", "fitting_inversion", "inversion_cost"]

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
    inverting = plain.bytes + guard_cost(shape, adjoint.guard)
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
    options = [option for one in (False, True) if (option := _fitting(shape, budget, kind, one))]
    best = min(options, key=lambda option: inversion_cost(shape, option).time, default=None)
    if best is None or inversion_cost(shape, best).time >= plain.time:
        return replace(same, guard=0)
    return best


def _fitting(
    shape: Shape, budget: int, kind: type[InvertingAdjoint], one: bool
) -> InvertingAdjoint | None:
    """Slots and guards for the room that a step leaves."""
    room = budget - sum(with_tapes(shape, one=one).fixed.values())
    every = _spacing(shape, room - guard_cost(shape, None) - shape.vectors)
    if every is None and not shape.reversible:
        return None
    room -= guard_cost(shape, every)
    adjoint = kind(checkpoints=1, guard=every, one_tape=one)
    first = slot_bytes(shape, adjoint.replaying)
    each = slot_bytes(shape, replace(adjoint.replaying, checkpoints=2)) - first
    if room < first:
        return None
    slots = 1 + (room - first) // each
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
