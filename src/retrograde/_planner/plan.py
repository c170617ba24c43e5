"""The choice of the adjoint, with its reasons.

Rule of this version, first match: (a) an adjoint that the user named; (b) every step recorded
where autodiff follows Python and the tapes fit; (c) every state stored where that fits; (d)
recursive checkpointing with as many slots as the budget buys.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

from .._adjoints import AbstractAdjoint, DirectAdjoint, RecursiveCheckpointAdjoint, Shape
from .._errors import PlanInfeasible
from .._units import format_bytes
from .costs import (
    Cost,
    as_compiled,
    checkpoint_cost,
    direct_cost,
    fitting_checkpoints,
    slot_bytes,
    with_tapes,
    without_record,
)

__all__ = ["UNLIMITED", "Candidate", "Plan", "make_plan"]

UNLIMITED = 2**62
"""The budget where an adjoint was named and no budget given [bytes]."""


@dataclass(frozen=True)
class Candidate:
    """A row of the plan's table.

    Attributes
    ----------
    method : str
    bytes : int [bytes]
    time : float [F per accepted step]
        F is one step forward; a solve without gradient takes 1.
    accuracy : str
    verdict : str
        'chosen', 'fits' or 'too large'.
    reason : str
    """

    method: str
    bytes: int
    time: float
    accuracy: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """How a gradient will be computed, and why.

    Attributes
    ----------
    adjoint : AbstractAdjoint
        What ``solve`` uses; pass the plan as ``adjoint=`` to follow it.
    memory : int [bytes]
        Predicted bytes of the gradient.
    budget : int [bytes]
    source : str
        Where the budget comes from.
    steps : int
        Accepted steps, exact or predicted.
    known : bool
        Whether ``steps`` is exact.
    items : dict of str to int [bytes]
        What every method needs.
    candidates : tuple of Candidate
    reason : str
    fallback : AbstractAdjoint or None
        What takes over where recorded steps turn out to be more than there is room for.
    """

    adjoint: AbstractAdjoint
    memory: int
    budget: int
    source: str
    steps: int
    known: bool
    items: dict[str, int] = field(repr=False)
    candidates: tuple[Candidate, ...] = field(repr=False)
    reason: str = ""
    fallback: AbstractAdjoint | None = field(default=None, repr=False)

    def __str__(self) -> str:
        limit = "" if self.budget >= UNLIMITED else f" of {format_bytes(self.budget)}"
        head = (
            f"Plan: {describe(self.adjoint)}\n"
            f"  {format_bytes(self.memory)}{limit} ({self.source})\n"
            f"  because {self.reason}\n"
            f"  steps: {self.steps} ({'exact' if self.known else 'predicted'})\n"
        )
        rows = [("method", "bytes", "time [F/step]", "accuracy", "verdict")]
        rows += [
            (c.method, format_bytes(c.bytes), f"{c.time:.2f}", c.accuracy, c.verdict)
            for c in self.candidates
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        items = ", ".join(f"{name} {format_bytes(n)}" for name, n in self.items.items() if n)
        needs = textwrap.fill(
            f"needed by all: {items or 'nothing'}",
            88,
            initial_indent="  ",
            subsequent_indent="    ",
        )
        return head + "\n".join([*lines, needs])


def describe(adjoint: AbstractAdjoint) -> str:
    """An adjoint in words."""
    if isinstance(adjoint, RecursiveCheckpointAdjoint):
        c = adjoint.checkpoints
        words = "every state stored" if c is None else "1 slot" if c == 1 else f"{c} slots"
        words += f", window {adjoint.window}" if adjoint.window > 1 else ""
        words += ", one tape at a time" if adjoint.one_tape else ""
        words += "" if adjoint.record else ", times not recorded"
        return f"RecursiveCheckpointAdjoint, {words}"
    if isinstance(adjoint, DirectAdjoint):
        return "DirectAdjoint, every step recorded"
    return adjoint.name


def make_plan(shape: Shape, budget: int, source: str, named: AbstractAdjoint | None) -> Plan:
    """Choose an adjoint for a solve of this shape.

    Raises
    ------
    PlanInfeasible
        If nothing fits, or not the adjoint that was named.
    """
    shape = _charged(shape, budget)
    if ARRAYS_ONLY < budget < UNLIMITED:
        shape = as_compiled(shape, budget)
    fitting = fitting_checkpoints(shape, budget)
    options: list[AbstractAdjoint] = [RecursiveCheckpointAdjoint()]
    if shape.recorded:
        room = budget - sum(shape.fixed.values())
        options.insert(0, DirectAdjoint(max(0, room) // shape.recorded))
    if fitting is not None and fitting not in options:
        options.append(fitting)
    if named is not None:
        chosen, reason = named, "it was named"
        if named not in options:
            options.append(named)
    elif shape.recorded and direct_cost(shape).bytes <= budget:
        chosen, reason = options[0], "every step's tape fits, and nothing is computed twice"
    elif fitting is None:
        raise PlanInfeasible(_too_small(shape, budget, source))
    else:
        chosen, reason = fitting, _why(shape, fitting)
    costs = [_cost(shape, option) for option in options]
    size = costs[options.index(chosen)].bytes
    if size > budget:
        raise PlanInfeasible(
            f"`memory` is {format_bytes(budget)}, but {describe(chosen)} needs "
            f"{format_bytes(size)}. Raise the budget or pass adjoint='auto'."
        )
    rows = zip(options, costs, strict=True)
    return Plan(
        adjoint=chosen,
        memory=size,
        budget=budget,
        source=source,
        steps=shape.steps,
        known=shape.known,
        items=_items(shape, chosen),
        candidates=tuple(_candidate(a, cost, budget, a == chosen, reason) for a, cost in rows),
        reason=reason,
        fallback=fitting,
    )


def _items(shape: Shape, adjoint: AbstractAdjoint) -> dict[str, int]:
    shape = shape if getattr(adjoint, "record", True) else without_record(shape)
    return with_tapes(shape, one=getattr(adjoint, "one_tape", False)).fixed


def _cost(shape: Shape, adjoint: AbstractAdjoint) -> Cost:
    if isinstance(adjoint, RecursiveCheckpointAdjoint):
        return checkpoint_cost(shape, adjoint)
    # not recordable here: the steps are taken again, over a bound number of tapes
    each = shape.recorded or shape.stages * (shape.tape + shape.state)
    steps = shape.bound or shape.steps
    return direct_cost(shape._replace(recorded=each, steps=steps))


def _charged(shape: Shape, budget: int) -> Shape:
    """The shape with what is no array among its items, in full from budgets of 64 KiB on.

    Below, the arrays kept are what is counted; charged at once, the objects of a tape would
    leave a budget of 65 KiB fewer slots than one of 63, so the charge grows as far as 64 KiB.
    """
    total = sum(shape.passing.values())
    fixed, room = dict(shape.fixed), max(0, min(total, budget - max(0, ARRAYS_ONLY - total)))
    for name, size in shape.passing.items():
        fixed[name] = min(size, room)
        room -= fixed[name]
    half = ARRAYS_ONLY // 2
    part = max(0, min(budget, ARRAYS_ONLY) - half)
    tables = shape.tables * (part if shape.free_slot else half + part) // half
    tables = tables if shape.free_slot else tables // 2
    return shape._replace(fixed=fixed, tables=tables)


ARRAYS_ONLY = 64 * 1024
"""Budgets up to this count arrays alone: allocators pad and interpreters keep what is free."""


def _why(shape: Shape, adjoint: RecursiveCheckpointAdjoint) -> str:
    if adjoint.checkpoints is None:
        return "every state fits into the budget, and nothing is recomputed"
    if not shape.known and adjoint.checkpoints >= shape.steps:
        return (
            f"every state of the predicted steps fits; there are {adjoint.checkpoints} slots "
            "should it take more"
        )
    steps = "the number of steps is known" if shape.known else "steps are adaptive"
    return f"not every state fits, and {steps}: the budget buys {adjoint.checkpoints} slots"


def _candidate(
    adjoint: AbstractAdjoint, cost: Cost, budget: int, chosen: bool, reason: str
) -> Candidate:
    verdict = "chosen" if chosen else "fits" if cost.bytes <= budget else "too large"
    return Candidate(
        describe(adjoint),
        cost.bytes,
        cost.time,
        adjoint.accuracy,
        verdict,
        reason if chosen else verdict,
    )


def _too_small(shape: Shape, budget: int, source: str) -> str:
    shape = with_tapes(without_record(shape) if shape.clock else shape, one=True)
    least = sum(shape.fixed.values()) + slot_bytes(shape, RecursiveCheckpointAdjoint(1))
    items = "; ".join(f"{name}: {format_bytes(n)}" for name, n in shape.fixed.items() if n)
    return (
        f"`memory` is {format_bytes(budget)} ({source}), but the smallest plan needs "
        f"{format_bytes(least)} for a state of {format_bytes(shape.state)} ({items}). Raise the "
        "budget or pass a smaller batch."
    )
