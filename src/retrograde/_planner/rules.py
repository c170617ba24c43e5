"""The choice of the adjoint: an ordered list of rules, the first that answers decides.

To add a rule: a function of a :class:`Case`, its entry in ``RULES`` at its place, and where it
brings a method of its own a row in ``options`` and in ``cost_of``, which are the rows of a plan's
table: every method with its bytes, its time, and why it is not chosen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from .._adjoints.base import AbstractAdjoint
from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.direct import DirectAdjoint
from .._adjoints.forward_mode import ForwardMode
from .._adjoints.inversion import BacksolveAdjoint, InvertingAdjoint
from .._adjoints.stored_vjp import TapeAdjoint
from .._base.errors import PlanInfeasible
from .._base.memory import format_bytes
from .._checkpointing import schedules
from .costs import (
    Cost,
    as_compiled,
    checkpoint_cost,
    continuous_cost,
    direct_cost,
    fitting_checkpoints,
    fitting_inversion,
    forward_cost,
    inversion_cost,
    limit,
    slot_bytes,
    tape_cost,
)
from .plan import Candidate, Plan
from .report import counted, describe
from .shape import PYTHON_OBJECTS, UNLIMITED, Shape


class Case(NamedTuple):
    """What the rules decide on.

    Attributes
    ----------
    shape : Shape
    budget : int [bytes]
    named : AbstractAdjoint or None
        What the user named.
    recording : DirectAdjoint, TapeAdjoint or None
        Every step's tape kept, where the library can and gains by it.
    fitting : RecursiveCheckpointAdjoint or None
        The cheapest setting that fits.
    why : str
        Why there is a named one.
    """

    shape: Shape
    budget: int
    named: AbstractAdjoint | None
    recording: DirectAdjoint | TapeAdjoint | None
    fitting: RecursiveCheckpointAdjoint | None
    why: str


class Choice(NamedTuple):
    """An adjoint, and why."""

    adjoint: AbstractAdjoint
    reason: str


def options(case: Case) -> list[AbstractAdjoint]:
    """What the table shows beside the choice."""
    options: list[AbstractAdjoint] = [] if case.recording is None else [case.recording]
    options.append(RecursiveCheckpointAdjoint())
    if case.fitting is not None and case.fitting not in options:
        options.append(case.fitting)
    if not case.shape.stiff:
        options.append(BacksolveAdjoint(mode="continuous"))
    return options


def cost_of(shape: Shape, adjoint: AbstractAdjoint) -> Cost:
    if isinstance(adjoint, BacksolveAdjoint) and adjoint.mode == "continuous":
        return continuous_cost(shape, adjoint)
    if isinstance(adjoint, InvertingAdjoint):
        return inversion_cost(shape, adjoint)
    if isinstance(adjoint, RecursiveCheckpointAdjoint):
        return checkpoint_cost(shape, adjoint)
    if isinstance(adjoint, ForwardMode):
        return forward_cost(shape, shape.numbers or 1)
    if isinstance(adjoint, TapeAdjoint):
        return tape_cost(shape)
    if shape.recorded:
        return direct_cost(shape)
    # not recordable here: the steps are taken again, over a bound number of tapes
    each = shape.graph or shape.stages * (shape.tape + shape.state)
    steps = shape.bound or shape.steps
    return direct_cost(shape._replace(recorded=each, steps=steps))


def candidate(
    adjoint: AbstractAdjoint, cost: Cost, case: Case, chosen: Choice, own: Cost
) -> Candidate:
    verdict, reason, kind = "fits", "fits, in more bytes", adjoint.kind
    if isinstance(adjoint, InvertingAdjoint) and kind == "guarded" and case.shape.known:
        kind = "guarded" if adjoint.inverts_any(case.shape.steps) else "exact"
    if isinstance(adjoint, RecursiveCheckpointAdjoint):
        kind = case.shape.accuracy
    if adjoint == chosen.adjoint:
        verdict, reason = "chosen", chosen.reason
    elif adjoint.kind not in ("exact", "guarded"):
        verdict, reason = "by name only", "its gradient is not that of the solve"
    elif cost.bytes > case.budget:
        verdict = "too large"
        reason = f"too large by {format_bytes(cost.bytes - case.budget)}"
    elif cost == own:
        reason = "takes the same"
    elif cost.time > own.time:
        reason = f"fits, but takes {cost.time:.1f} F a step to {own.time:.1f}"
    elif case.named is not None:
        reason = "fits, but another was named"
    elif cost.bytes < own.bytes:
        reason = "fits, with room for the predicted steps alone"
    return Candidate(describe(adjoint), cost.bytes, cost.time, kind, verdict, reason)


def too_small(shape: Shape, budget: int, source: str) -> str:
    shape = (shape.without_record() if shape.clock else shape).with_tapes(one=True)
    least = shape.needed + slot_bytes(shape, RecursiveCheckpointAdjoint(1))
    items = ", ".join(f"{name}: {format_bytes(n)}" for name, n in shape.fixed.items() if n)
    return (
        f"`memory` is {format_bytes(budget)} ({source}), but the smallest plan needs "
        f"{format_bytes(least)} for a state of {format_bytes(shape.state)} ({items}). Raise the "
        "budget or pass a smaller batch."
    )


# --- the rules


def the_named_one(case: Case) -> Choice | None:
    """What the user named is checked, never replaced; numbers left open are the budget's."""
    named, fitting = case.named, case.fitting
    if named is None:
        return None
    if isinstance(named, InvertingAdjoint) and _guarded_in_vain(case, named):
        slots = max(named.slots, schedules.twice(case.shape.steps))
        replayed = replace(named, checkpoints=slots, guard=0)
        return Choice(replayed, f"{case.why}; its guard would take more than every state does")
    if case.budget < UNLIMITED and fitting is not None and _open(named):
        best: AbstractAdjoint | None = fitting
        if isinstance(named, InvertingAdjoint):
            best = (
                case.shape.known and fitting_inversion(case.shape, case.budget, fitting)
            ) or None
            if best is not None:
                open_ = {"checkpoints": None, "guard": 1, "window": 1, "one_tape": False}
                kept = [name for name, value in open_.items() if getattr(named, name) == value]
                best = replace(named, **{name: getattr(best, name) for name in kept})
        if best is not None:
            return Choice(best, f"{case.why}, with what the budget buys")
    return Choice(named, case.why)


def _open(named: AbstractAdjoint) -> bool:
    """Whether a number of slots is the budget's to tell."""
    if isinstance(named, BacksolveAdjoint) and named.mode == "continuous":
        return False
    return getattr(named, "checkpoints", 0) is None


def _guarded_in_vain(case: Case, named: InvertingAdjoint) -> bool:
    """Whether inverted steps keep more than every state takes: their notes of few numbers.

    Replays take no longer than inversion then, from states enough to take no step more than once
    again. Where slots or a budget are given, those tell.
    """
    if case.budget < UNLIMITED or not _open(named):
        return False
    data = case.shape._replace(state=case.shape.state - case.shape.header, tables=0)
    every = cost_of(data, RecursiveCheckpointAdjoint())
    return cost_of(data, named).bytes > every.bytes


def everything_recorded(case: Case) -> Choice | None:
    """Every step's tape kept: exact, and the fastest."""
    if case.recording is None or cost_of(case.shape, case.recording).bytes > case.budget:
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
        f"every state of the predicted steps fits; there are {fitting.checkpoints} checkpoints "
        "should it take more",
    )


def inverted_steps(case: Case) -> Choice | None:
    """Constant steps are taken back in place of being stored, under guard."""
    shape, fitting = case.shape, case.fitting
    if not shape.known or shape.stiff or fitting is None:
        return None
    adjoint = fitting_inversion(shape, case.budget, fitting)
    steps = "the solver is reversible" if shape.reversible else "steps are constant"
    slots = counted(adjoint.slots, "checkpoint")
    if adjoint.guard == 0:
        return Choice(
            adjoint,
            f"not every state fits, and {steps}: but a guard of inverted steps would take more "
            f"than it saves, so all is replayed from {slots}",
        )
    if not adjoint.inverts_any(shape.steps):
        return Choice(
            adjoint,
            f"not every state fits, and {steps}: with {slots} every range is "
            "no dearer to replay than to invert",
        )
    guards = (
        "the stored states are its guards"
        if adjoint.guard is None
        else f"with a guard every {adjoint.guard} steps"
        if adjoint.guard > 1
        else "with a guard at every step"
    )
    return Choice(
        adjoint,
        f"not every state fits, and {steps}: they are inverted, {guards}; {slots} to replay from",
    )


def checkpoints(case: Case) -> Choice | None:
    """As many slots as the budget buys."""
    if case.fitting is None:
        return None
    steps = "steps are adaptive"
    if case.shape.known:
        steps = "the solver is for stiff problems"
    slots = counted(case.fitting.checkpoints or 0, "checkpoint")
    return Choice(case.fitting, f"not every state fits, and {steps}: the budget buys {slots}")


RULES: tuple[Callable[[Case], Choice | None], ...] = (
    the_named_one,
    everything_recorded,
    everything_stored,
    inverted_steps,
    checkpoints,
)
"""In this order, first match."""


# --- the plan


def make_plan(
    shape: Shape,
    budget: int,
    source: str,
    named: AbstractAdjoint | None,
    why: str = "it was named",
) -> Plan:
    """Choose an adjoint for a solve of this shape, or follow the one ``named`` (and ``why``).

    A prediction alone refuses nothing: where the times of the predicted steps do not fit but
    those of a third of them do, that is the plan, and the solve tells. Steps of stiff solvers may
    grow without bound, so that theirs may be any part of the predicted ones.

    Raises
    ------
    PlanInfeasible
        If nothing fits, or not the adjoint that was named.
    """
    try:
        return _plan_for(shape, budget, source, named, why)
    except PlanInfeasible:
        if not shape.growing:
            raise
        tries = {-(-shape.steps // DOUBT): "a third"}
        if shape.stiff:
            tries |= {few: f"{few}" for few in FEW_STEPS if few < shape.steps}
        for steps, part in tries.items():
            doubt = f"{part} of the {shape.steps} {shape.source}"
            with contextlib.suppress(PlanInfeasible):
                return _plan_for(shape.of_steps(steps, doubt), budget, source, named, why)
        raise


DOUBT = 3
"""Factor within which 9 of 10 predictions lie, of solvers that are not for stiff problems."""

FEW_STEPS = (4096, 256, 32)
"""Steps of stiff solvers that are planned for where those that were predicted do not fit."""


def _plan_for(
    shape: Shape, budget: int, source: str, named: AbstractAdjoint | None, why: str
) -> Plan:
    given, shape = shape, as_compiled(shape.charged(budget), budget)
    recording: DirectAdjoint | TapeAdjoint | None = TapeAdjoint() if shape.taping else None
    if shape.recorded:
        room = budget - shape.needed - shape.joint
        recording = DirectAdjoint(max(0, room) // shape.recorded)
    fitting = fitting_checkpoints(shape.reserved(budget), budget)
    case = Case(shape, budget, named, recording, fitting, why)
    answers = (rule(case) for rule in RULES)
    chosen = next((answer for answer in answers if answer is not None), None)
    if chosen is None:
        raise PlanInfeasible(too_small(shape, budget, source))
    adjoint = chosen.adjoint
    shown = options(case)
    if adjoint not in shown:
        shown.append(adjoint)
    costs = [cost_of(shape, option) for option in shown]
    own = costs[shown.index(adjoint)]
    if own.bytes > budget:
        other = "" if named is None else " or pass adjoint='auto'"
        raise PlanInfeasible(
            f"`memory` is {format_bytes(budget)}, but {describe(adjoint)} needs "
            f"{format_bytes(own.bytes)}. Raise the budget{other}."
        )
    pairs = zip(shown, costs, strict=True)
    rows = [candidate(option, cost, case, chosen, own) for option, cost in pairs]
    needed = shape.with_tapes(one=getattr(adjoint, "one_tape", False))
    return Plan(
        adjoint=adjoint,
        memory=own.bytes,
        budget=budget,
        source=source,
        steps=shape.steps,
        known=shape.known,
        items=(needed if getattr(adjoint, "record", True) else needed.without_record()).fixed,
        candidates=tuple(rows),
        reason=chosen.reason,
        fallback=fitting,
        limit=None if budget >= UNLIMITED else limit(shape, adjoint, fitting, budget),
        shape=given._replace(compiled=None),  # it holds the problem, whose arrays may be traced
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
    for factor in (4.0, 2.0, 1.25, 1.1):
        steps = int(plan.limit * factor) + 1
        shape = given.of_steps(steps, f"begun again, for more than {plan.limit}")
        with contextlib.suppress(PlanInfeasible):
            wider = _plan_for(shape, plan.budget, plan.source, plan.named, plan.reason)
            if wider.limit is None or wider.limit > plan.limit:
                return replace(wider, made_for=plan.made_for)
    raise PlanInfeasible(
        f"`memory` is {format_bytes(plan.budget)} ({plan.source}), but this solve takes more than "
        f"{plan.limit} steps, and there is no room for the times of more of them beside what "
        "every plan needs. Raise the budget, or loosen `rtol` and `atol`."
    )


LEFT_BEHIND = 8 * 1024
"""Python objects of the first start that await the collector (measured on NumPy)."""
