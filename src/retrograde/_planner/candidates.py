"""The rows of a plan's table: every method with its bytes, its time, and why it is not chosen."""

from __future__ import annotations

from typing import NamedTuple

from .._adjoints import (
    AbstractAdjoint,
    BacksolveAdjoint,
    DirectAdjoint,
    ForwardMode,
    InvertingAdjoint,
    RecursiveCheckpointAdjoint,
    Shape,
    TapeAdjoint,
)
from .._units import format_bytes
from .costs import (
    Cost,
    checkpoint_cost,
    direct_cost,
    forward_cost,
    slot_bytes,
    tape_cost,
    with_tapes,
    without_record,
)
from .inversion import continuous_cost, inversion_cost
from .plan import Candidate
from .report import describe

__all__ = ["Case", "Choice", "candidate", "cost_of", "offloaded", "options", "too_small"]


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
    each = shape.stages * (shape.tape + shape.state)
    steps = shape.bound or shape.steps
    return direct_cost(shape._replace(recorded=each, steps=steps))


def candidate(
    adjoint: AbstractAdjoint, cost: Cost, case: Case, chosen: Choice, own: Cost
) -> Candidate:
    verdict, reason, kind = "fits", "fits, in more bytes", adjoint.kind
    if isinstance(adjoint, InvertingAdjoint) and kind == "guarded" and case.shape.known:
        kind = "guarded" if adjoint.inverts_any(case.shape.steps) else "exact"
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
    return Candidate(describe(adjoint), cost.bytes, cost.time, kind, verdict, reason)


def offloaded(shape: Shape) -> Candidate:
    """Slots in the memory of the host: three states stay on the device, for copies under way."""
    size = sum(with_tapes(shape, one=False).fixed.values()) + 3 * shape.state
    time = checkpoint_cost(shape, RecursiveCheckpointAdjoint()).time
    reason = "not available in this version"
    return Candidate("host offload of slots", size, time, "exact", "not available", reason)


def too_small(shape: Shape, budget: int, source: str) -> str:
    shape = with_tapes(without_record(shape) if shape.clock else shape, one=True)
    least = sum(shape.fixed.values()) + slot_bytes(shape, RecursiveCheckpointAdjoint(1))
    items = ", ".join(f"{name}: {format_bytes(n)}" for name, n in shape.fixed.items() if n)
    return (
        f"`memory` is {format_bytes(budget)} ({source}), but the smallest plan needs "
        f"{format_bytes(least)} for a state of {format_bytes(shape.state)} ({items}). Raise the "
        "budget or pass a smaller batch."
    )
