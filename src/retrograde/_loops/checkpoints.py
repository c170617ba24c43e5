"""What a loop's gradient stores: a schedule from a number of checkpoints, or from bytes.

Everything is stored where it fits. Otherwise slots are bought for what is left after the
cotangents and the tape of a step; in eager libraries a leaf of the reversal is several steps
recorded as one, which needs no replay of its own, so that tapes and slots share the budget.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.direct import DirectAdjoint
from .._autodiff.field_vjp import TapePullback
from .._backend.protocols import Capability
from .._base.errors import InputError, PlanInfeasible
from .._base.memory import budget_bytes, format_bytes
from .._base.types import Memory, NeedsGradient
from .._checkpointing import schedules
from .._planner.shape import ARRAYS_ONLY
from .body_vjp import BodyVJP, Span
from .loop import LoopSpec

SLOTS = 64
"""Slots of a traced loop of unknown length if nobody says more: one more pass up to 2,144 steps,
two up to 47,904. They are a buffer of this many rows whatever the loop takes."""

COUNTERS = 2048
"""Bytes of a compiled loop's counters and predicates, and what its arrays are padded by."""

WIDEST = 1024
"""Steps recorded as one where their number is not known."""


class Bytes(NamedTuple):
    """What a gradient takes: one slot, one step's tape, and what it needs anyway.

    ``entries`` are a slot's in the tables of a compiled reversal.
    """

    slot: int
    tape: int
    fixed: dict[str, int]
    entries: int

    @property
    def needed(self) -> int:
        """What it needs anyway, in all."""
        return sum(self.fixed.values())


Adjoint: TypeAlias = RecursiveCheckpointAdjoint | DirectAdjoint
Chosen: TypeAlias = tuple[Adjoint, Adjoint | None]
"""(adjoint, fallback)."""


def check(loop: LoopSpec, kind: str, checkpoints: int | None, memory: Memory | None) -> None:
    """Raise InputError for settings that can't be used, whether a gradient is asked for or not."""
    if checkpoints is None and memory is None:
        return
    if kind != "checkpointed":
        raise InputError(
            f"`checkpoints` or `memory` is set, but `kind` is {kind!r}, which stores every step; "
            'leave them out, or use "checkpointed".'
        )
    if checkpoints is not None and memory is not None:
        raise InputError("`checkpoints` and `memory` are both set; pass one of them.")
    if checkpoints is None:
        budget_bytes(memory, loop.bk, next(iter(loop.params)))
    elif isinstance(checkpoints, bool) or not isinstance(checkpoints, int) or checkpoints < 1:
        raise InputError(
            f"`checkpoints` is {checkpoints!r}; pass a whole number of at least 1, or None."
        )


def choose(
    loop: LoopSpec, checkpoints: int | None, memory: Memory | None, wanted: NeedsGradient
) -> Chosen:
    """(adjoint, fallback) of kind "checkpointed"."""
    if checkpoints is not None:
        return RecursiveCheckpointAdjoint(checkpoints), None
    bk = loop.bk
    like = next(iter(loop.params))
    budget, source = budget_bytes(memory, bk, like)
    traced = Capability.TRACED in bk.capabilities
    size = _measured(loop, wanted, budget)
    if traced and loop.count is None and memory is None:
        bound = SLOTS if loop.max_steps is None else min(SLOTS, loop.max_steps)
        budget = min(budget, size.needed + (bound + 1) * (size.slot + size.entries))
    room = budget - size.needed
    if room < size.slot:
        items = {**size.fixed, "one state": size.slot}
        listed = ", ".join(f"{name} {format_bytes(n)}" for name, n in items.items())
        raise PlanInfeasible(
            f"{source}, but the smallest gradient of this loop needs "
            f"{format_bytes(size.needed + size.slot)}: {listed}."
        )
    return _traced(loop, size, room) if traced else _eager(loop, size, room)


def _measured(loop: LoopSpec, wanted: NeedsGradient, budget: int) -> Bytes:
    """The bytes of one step's gradient."""
    bk = loop.bk
    leaves = loop.initial(loop.params)
    state = loop.state(leaves)
    pull = BodyVJP(loop, loop.params, wanted, [leaves[i] for i in loop.floating])
    if isinstance(pull.vjp, TapePullback):
        pull.vjp.account = True
    fresh = tuple(leaves[i] for i in pull.active)
    fresh += tuple(loop.single[k] for k in pull.moved)
    span = Span(state, [loop.single])
    tape, same = bk.body_tape_bytes(pull.vjp, span, fresh)
    moved = sum(bk.nbytes(x) for x in fresh)
    hoisted = zip(loop.params, pull.hoisted, strict=True)
    totals = sum(bk.nbytes(x) for x, wanted in hoisted if wanted)
    kept = dict(zip(pull.active, same, strict=False))  # what is handed on is stored once
    changing = [x for i, x in zip(loop.moving, state, strict=True) if not kept.get(i)]
    slot = sum(bk.nbytes(x) for x in changing if bk.is_array(x))
    slot += bk.array_overhead * len(changing)
    fixed = {"cotangents of the carry": 2 * moved, "cotangents of constants": 2 * totals}
    fixed["a step's tape"] = tape + loop.layout.nbytes
    if Capability.TRACED in bk.capabilities and budget > ARRAYS_ONLY:
        fixed["counters"] = COUNTERS
    entries = bk.table_entries(loop, pull.vjp, span, fresh)
    return Bytes(max(1, slot), max(1, tape + slot), fixed, entries)


def _traced(loop: LoopSpec, size: Bytes, room: int) -> Chosen:
    n, states = loop.count, room // size.slot
    if n is not None and states >= n:
        return RecursiveCheckpointAdjoint(), None
    found = None if n is None else schedules.choose_segments(n, states)
    if found is not None:
        return RecursiveCheckpointAdjoint(found.slots, found.window), None
    slots = max(1, room // (size.slot + size.entries) - 1)  # and a scratch row
    return RecursiveCheckpointAdjoint(min(slots, loop.max_steps or slots)), None


def _eager(loop: LoopSpec, size: Bytes, room: int) -> Chosen:
    n = loop.count
    fits = room // size.tape
    again = _recursive(n, size, room)
    if Capability.NATIVE_GRADIENT in loop.bk.capabilities and (n or 1) <= fits:
        return DirectAdjoint(limit=fits), again
    return again, None


def _recursive(n: int | None, size: Bytes, room: int) -> RecursiveCheckpointAdjoint:
    """Slots, and steps recorded as one, for the fewest advances."""
    if n is None:
        width = max(1, min(WIDEST, room // 2 // size.tape))
        return RecursiveCheckpointAdjoint(max(1, (room - (width - 1) * size.tape) // size.slot),
                                          width)  # fmt: skip
    if n * size.slot <= room:
        return RecursiveCheckpointAdjoint()
    best, least = RecursiveCheckpointAdjoint(max(1, room // size.slot)), None
    width = 1
    while (slots := (room - (width - 1) * size.tape) // size.slot) >= 1 and width <= n:
        blocks = -(-n // width)
        cost = width * schedules.extra_advances(blocks, min(slots, blocks))
        if least is None or cost < least:
            least = cost
            best = RecursiveCheckpointAdjoint(min(slots, blocks), width)
        width = width + 1 if width < 16 else width * 9 // 8
    return best
