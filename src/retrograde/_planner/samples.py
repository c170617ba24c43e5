"""The plan of the gradient of a batch whose samples have steps of their own.

That of a solve is made when its forward pass has ended, which keeps the times of its steps alone:
so the number of steps of every sample is known, the budget is one of total bytes, and nothing is
predicted but what a linearisation of f holds. ``rg.plan`` counts with the steps that are predicted
of single samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.per_sample_vjp import slot_sizes
from .._autodiff.field_vjp import field_pullback
from .._base.errors import InputError, PlanInfeasible
from .._base.memory import budget_bytes, format_bytes
from .implicit import COMPLEX, OWN_SECOND
from .plan import Candidate, Plan
from .shape import UNLIMITED, Shape

if TYPE_CHECKING:
    from .._adjoints.base import AbstractAdjoint
    from .._backend.interface import AbstractBackend
    from .._base.types import Inputs, Memory, NeedsGradient
    from .._integrate.outputs import Output
    from .._integrate.samples.loop import SampleIntegrator

SHARED = (
    "every sample has steps of its own: hard ones are not hidden by a norm over the batch. One "
    "step for all (`per_sample=False`) is cheaper where samples are alike and f takes less than "
    "some 100 ns a sample of a thousand, 30 of ten thousand"
)

SORTED = 5
"""Times the record that it takes to put it in order: times and places as they came, and sorted."""


def checked_adjoint(adjoint: AbstractAdjoint | None) -> RecursiveCheckpointAdjoint | None:
    """The adjoint that was named; None for the planner's choice.

    Raises
    ------
    InputError
        For one that does not serve samples with steps of their own.
    """
    if adjoint is not None and not isinstance(adjoint, RecursiveCheckpointAdjoint):
        raise InputError(
            f"`adjoint` is {adjoint.name}, which does not serve `per_sample=True`; use "
            "adjoint='auto' or RecursiveCheckpointAdjoint()."
        )
    return adjoint


def plan_samples(
    loop: SampleIntegrator,
    inputs: Inputs,
    counts: Sequence[int],
    wanted: NeedsGradient,
    named: RecursiveCheckpointAdjoint | None,
    memory: Memory | None,
    *,
    known: bool = True,
) -> Plan:
    """How many states are stored, of those that fit into the budget.

    ``counts``: how many samples take more than k steps, for k = 0, 1, ...; ``known``: from the
    solve itself.

    Raises
    ------
    PlanInfeasible
        Where the least that a gradient takes does not fit.
    """
    bk = cast("AbstractBackend", loop.bk)
    like = loop.problem.layout.unpack(inputs.y0)[0]
    budget, source = budget_bytes(memory, bk, like)
    if named is not None and memory is None:
        budget, source = UNLIMITED, "no budget was given"
    params = [x for x, w in zip(inputs.params, wanted.params, strict=True) if w]
    state, width = loop.layout.nbytes, loop.solver.stages + loop.solver.extra
    vjp = field_pullback(loop.problem, inputs.params, wanted)
    vjp.account = True  # type: ignore[attr-defined]
    start = loop.layout.time(loop.clock.real(0.0))
    tape = bk.tape_bytes(vjp, start, inputs.y0)[0]
    items = _needed(loop, counts, tape, sum(map(bk.nbytes, params)))
    sizes, fixed = slot_sizes(counts, state // loop.layout.samples), sum(items.values())
    chosen = None
    at_once = tape + 5 * state  # one tape, beside the stages that are taken once more for it
    for one_tape in (False, True):
        held = at_once if one_tape else tape * width
        slots = _fitting(sizes, budget - fixed - held)
        if named is not None:
            one_tape, wish = named.one_tape, named.checkpoints
            slots = len(sizes) if wish is None else min(wish, len(sizes))
            held = at_once if one_tape else tape * width
        taken = fixed + held + sum(sizes[:slots])
        if (slots or not sizes) and taken <= budget:
            chosen = slots, one_tape, held, taken
            break
    if chosen is None:
        least = fixed + min(at_once, tape * width) + sum(sizes[:1])
        raise PlanInfeasible(
            f"`memory` is {format_bytes(budget)} ({source}) for all samples together, but the "
            f"gradient of {loop.layout.samples} needs {format_bytes(max(least, taken))}. Raise the "
            "budget, or solve fewer samples at once."
        )
    slots, one_tape, held, taken = chosen
    adjoint = RecursiveCheckpointAdjoint(None if slots >= len(sizes) else slots, one_tape=one_tape)
    items["tapes"] = held
    shape = Shape(
        state, len(sizes), True, loop.max_steps, tape, width, items, False, False,
        source="counted in the forward pass" if known else "those of a single solve",
    )  # fmt: skip
    row = Candidate(
        "RecursiveCheckpointAdjoint", taken, 3.0 + one_tape, "exact", "chosen", "it fits"
    )
    return Plan(
        adjoint, taken, budget, source, len(sizes), known, items, (row,), SHARED, None, None, shape,
        named,
    )  # fmt: skip


def _needed(
    loop: SampleIntegrator, counts: Sequence[int], tape: int, arguments: int
) -> dict[str, int]:
    """Bytes that any gradient takes, of so many samples in each step."""
    state, samples = loop.layout.nbytes, loop.layout.samples
    items = {
        "record of times": 8 * (sum(counts) + 2 * samples),
        "stages": (3 * (loop.solver.stages + loop.solver.extra) + 1) * state,
        "cotangents": 15 * state + 32 * samples,
        "cotangents of rows": sum(_row_bytes(out, len(counts)) for out in loop.outputs.parts),
        "parameters": 2 * arguments,
    }
    if loop.solver.implicit:
        items["Jacobians"] = 5 * state * loop.layout.size
        second = 4 * tape + (2 * loop.solver.stages + OWN_SECOND) * state
        items["second derivatives"] = second + COMPLEX * arguments
    sorting = SORTED * items["record of times"]  # before anything goes back
    items["times as they are sorted"] = max(0, sorting - sum(items.values()))
    return items


def _row_bytes(out: Output, steps: int) -> int:
    """Cotangents of its rows: as given, while they are joined, and in the order of samples."""
    inside = {"ts": out.count or 0, "steps": steps * len(out.nodes)}.get(out.inside, 0)
    return 3 * (inside + out.saveat.t0) * out.layout.nbytes


def _fitting(sizes: list[int], room: int) -> int:
    """How many of the largest states fit; the first samples' steps are those of most samples."""
    taken = 0
    for i, size in enumerate(sizes):
        taken += size
        if taken > room:
            return i
    return len(sizes)
