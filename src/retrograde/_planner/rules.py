"""The choice of the adjoint: an ordered list of rules, the first that answers decides.

To add a rule: a function of a :class:`Case`, its entry in ``RULES`` at its place, and where it
brings a method of its own a row in :func:`_options` and in :func:`_cost`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from .._adjoints import AbstractAdjoint, DirectAdjoint, RecursiveCheckpointAdjoint, Shape
from .._errors import PlanInfeasible
from .._units import format_bytes
from .charges import charged, limit, reserved
from .costs import (
    Cost,
    checkpoint_cost,
    direct_cost,
    fitting_checkpoints,
    slot_bytes,
    with_tapes,
)
from .plan import Candidate, Plan
from .probe import PYTHON_OBJECTS, RECORD
from .report import describe

__all__ = ["RULES", "Case", "Choice", "make_plan", "widened"]


class Case(NamedTuple):
    """What the rules decide on.

    Attributes
    ----------
    shape : Shape
    budget : int [bytes]
    named : AbstractAdjoint or None
        What the user named.
    recording : DirectAdjoint or None
        Every step recorded, where the library can.
    fitting : RecursiveCheckpointAdjoint or None
        The cheapest setting that fits.
    """

    shape: Shape
    budget: int
    named: AbstractAdjoint | None
    recording: DirectAdjoint | None
    fitting: RecursiveCheckpointAdjoint | None


class Choice(NamedTuple):
    """An adjoint, and why."""

    adjoint: AbstractAdjoint
    reason: str


# --- the rules


def the_named_one(case: Case) -> Choice | None:
    """What the user named is checked, never replaced."""
    return Choice(case.named, "it was named") if case.named is not None else None


def everything_recorded(case: Case) -> Choice | None:
    """Every step's tape kept: exact, and the fastest."""
    if case.recording is None or direct_cost(case.shape).bytes > case.budget:
        return None
    return Choice(case.recording, "every step's tape fits, and nothing is computed twice")


def everything_stored(case: Case) -> Choice | None:
    """Every state kept: exact, and nothing recomputed."""
    fitting = case.fitting
    if fitting is None:
        return None
    if fitting.checkpoints is None:
        return Choice(fitting, "every state fits into the budget, and nothing is recomputed")
    if case.shape.known or fitting.checkpoints < case.shape.steps:
        return None
    return Choice(
        fitting,
        f"every state of the predicted steps fits; there are {fitting.checkpoints} slots should "
        "it take more",
    )


def checkpoints(case: Case) -> Choice | None:
    """As many slots as the budget buys."""
    if case.fitting is None:
        return None
    steps = "the number of steps is known" if case.shape.known else "steps are adaptive"
    slots = case.fitting.checkpoints
    return Choice(case.fitting, f"not every state fits, and {steps}: the budget buys {slots} slots")


RULES: tuple[Callable[[Case], Choice | None], ...] = (
    the_named_one,
    everything_recorded,
    everything_stored,
    checkpoints,
)
"""In this order, first match."""


# --- the plan


def make_plan(shape: Shape, budget: int, source: str, named: AbstractAdjoint | None) -> Plan:
    """Choose an adjoint for a solve of this shape.

    A prediction alone refuses nothing: where the times of the predicted steps do not fit but
    those of a third of them do, that is the plan, and the solve tells.

    Raises
    ------
    PlanInfeasible
        If nothing fits, or not the adjoint that was named.
    """
    try:
        return _plan_for(shape, budget, source, named)
    except PlanInfeasible:
        if not shape.growing:
            raise
        steps, doubt = -(-shape.steps // DOUBT), f"a third of the {shape.steps} {shape.source}"
        with contextlib.suppress(PlanInfeasible):
            return _plan_for(_of_steps(shape, steps, doubt), budget, source, named)
        raise


DOUBT = 3
"""Factor within which 9 of 10 predictions lie."""


def _of_steps(shape: Shape, steps: int, source: str) -> Shape:
    """The shape with another prediction."""
    fixed = {**shape.fixed, RECORD: shape.growing * (steps + 1)}
    return shape._replace(steps=steps, source=source, fixed=fixed)


def _plan_for(shape: Shape, budget: int, source: str, named: AbstractAdjoint | None) -> Plan:
    given, shape = shape, charged(shape, budget)
    recording = None
    if shape.recorded:
        room = budget - sum(with_tapes(shape, one=False).fixed.values())
        recording = DirectAdjoint(max(0, room) // shape.recorded)
    fitting = fitting_checkpoints(reserved(shape, budget), budget)
    case = Case(shape, budget, named, recording, fitting)
    answers = (rule(case) for rule in RULES)
    chosen = next((answer for answer in answers if answer is not None), None)
    if chosen is None:
        raise PlanInfeasible(_too_small(shape, budget, source))
    adjoint = chosen.adjoint
    options = _options(case)
    if adjoint not in options:
        options.append(adjoint)
    costs = [_cost(shape, option) for option in options]
    own = costs[options.index(adjoint)]
    if own.bytes > budget:
        raise PlanInfeasible(
            f"`memory` is {format_bytes(budget)}, but {describe(adjoint)} needs "
            f"{format_bytes(own.bytes)}. Raise the budget or pass adjoint='auto'."
        )
    rows = [
        _candidate(option, cost, case, chosen, own)
        for option, cost in zip(options, costs, strict=True)
    ]
    return Plan(
        adjoint=adjoint,
        memory=own.bytes,
        budget=budget,
        source=source,
        steps=shape.steps,
        known=shape.known,
        items=with_tapes(shape, one=getattr(adjoint, "one_tape", False)).fixed,
        candidates=(*rows, _offloaded(shape)),
        reason=chosen.reason,
        fallback=fitting,
        limit=limit(shape, adjoint, fitting, budget),
        shape=given,
        named=named,
    )


def widened(plan: Plan) -> Plan:
    """A plan for a solve that outgrew this one's limit: for four times the steps if that fits.

    Raises
    ------
    PlanInfeasible
        If there is no room for more steps.
    """
    assert plan.limit is not None
    passing = dict(plan.shape.passing)
    if passing.get(PYTHON_OBJECTS):
        passing[PYTHON_OBJECTS] += LEFT_BEHIND
    given = plan.shape._replace(passing=passing)
    for factor in (4.0, 2.0, 1.25):
        steps = int(plan.limit * factor) + 1
        shape = _of_steps(given, steps, f"begun again, for more than {plan.limit}")
        with contextlib.suppress(PlanInfeasible):
            wider = _plan_for(shape, plan.budget, plan.source, plan.named)
            if wider.limit is None or wider.limit > plan.limit:
                return wider
    raise PlanInfeasible(
        f"`memory` is {format_bytes(plan.budget)} ({plan.source}), but this solve takes more than "
        f"{plan.limit} steps, and there is no room for the times of more of them beside what "
        "every plan needs. Raise the budget, or loosen `rtol` and `atol`."
    )


LEFT_BEHIND = 8 * 1024
"""Python objects of the first start that await the collector (measured on NumPy)."""


def _options(case: Case) -> list[AbstractAdjoint]:
    """What the table shows beside the choice."""
    options: list[AbstractAdjoint] = [] if case.recording is None else [case.recording]
    options.append(RecursiveCheckpointAdjoint())
    if case.fitting is not None and case.fitting not in options:
        options.append(case.fitting)
    return options


def _cost(shape: Shape, adjoint: AbstractAdjoint) -> Cost:
    if isinstance(adjoint, RecursiveCheckpointAdjoint):
        return checkpoint_cost(shape, adjoint)
    # not recordable here: the steps are taken again, over a bound number of tapes
    each = shape.recorded or shape.stages * (shape.tape + shape.state)
    steps = shape.bound or shape.steps
    return direct_cost(shape._replace(recorded=each, steps=steps))


# --- the reasons


def _candidate(
    adjoint: AbstractAdjoint, cost: Cost, case: Case, chosen: Choice, own: Cost
) -> Candidate:
    verdict, reason = "fits", "fits, in more bytes"
    if adjoint == chosen.adjoint:
        verdict, reason = "chosen", chosen.reason
    elif cost.bytes > case.budget:
        verdict = "too large"
        reason = f"too large by {format_bytes(cost.bytes - case.budget)}"
    elif cost.time > own.time:
        reason = f"fits, but takes {cost.time:.1f} F a step to {own.time:.1f}"
    elif case.named is not None:
        reason = "fits, but another was named"
    return Candidate(describe(adjoint), cost.bytes, cost.time, adjoint.accuracy, verdict, reason)


def _offloaded(shape: Shape) -> Candidate:
    """Slots in the memory of the host: three states stay on the device, for copies under way."""
    size = sum(with_tapes(shape, one=False).fixed.values()) + 3 * shape.state
    time = checkpoint_cost(shape, RecursiveCheckpointAdjoint()).time
    reason = "not available in this version"
    return Candidate("host offload of slots", size, time, "exact", "not available", reason)


def _too_small(shape: Shape, budget: int, source: str) -> str:
    shape = with_tapes(shape, one=True)
    least = sum(shape.fixed.values()) + slot_bytes(shape, RecursiveCheckpointAdjoint(1))
    items = "; ".join(f"{name}: {format_bytes(n)}" for name, n in shape.fixed.items() if n)
    return (
        f"`memory` is {format_bytes(budget)} ({source}), but the smallest plan needs "
        f"{format_bytes(least)} for a state of {format_bytes(shape.state)} ({items}). Raise the "
        "budget or pass a smaller batch."
    )
