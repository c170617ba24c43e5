"""What backsolve and reversible adjoints share: a reverse sweep that takes steps back.

The forward march stores up to c states and notes projections of the others; the reverse sweep
inverts steps as long as the guard accepts them, and replays the rest (``_loops.inversion``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import _schedules
from .._errors import InputError
from .._loops import Invertible, Report, reverse_inverting
from .._solution import Status
from .._types import Inputs, Wanted
from .base import AbstractAdjoint
from .guard import Guard
from .recursive_checkpoint import RecursiveCheckpointAdjoint, finished
from .residuals import fill, strip
from .sweep import StepPull

__all__ = ["InvertingAdjoint"]

TRUST = 30.0
"""The guard's tolerance is a part of ``grad_rtol``: in 100 random runs of a
prototype gradients erred by up to 6 times their states' error, and by 11 in the worst example."""

TRUST_REVERSIBLE = 1e4
"""The same for reversible solvers, whose states' error is rounding, grown: that of the gradient was
up to 3,400 times as much (a coupled RK4 over 1,000 steps of Lotka-Volterra)."""

DEFAULT_RTOL = {8: 1e-6, 4: 1e-3}
"""Relative error of the gradient by the bytes of a real."""

SLOTS = 16
"""States stored where neither a number nor a budget is given."""


@dataclass(frozen=True)
class InvertingAdjoint(AbstractAdjoint):
    """A reverse sweep by inverted steps, under guard; subclasses say how well they invert."""

    checkpoints: int | None = None
    guard: int | None = 1
    grad_rtol: float | None = None
    window: int = 1
    one_tape: bool = False
    accuracy: ClassVar[str] = "guarded"
    corrected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.replaying  # noqa: B018 - checks checkpoints and window
        if self.guard is not None and (not isinstance(self.guard, int) or self.guard < 0):
            raise InputError(
                f"`guard` is {self.guard!r}; pass the steps from one guarded state to the next, "
                "None to guard by the stored states alone, or 0 to invert nothing."
            )
        if self.grad_rtol is not None and not 0 < self.grad_rtol < 1:
            raise InputError(f"`grad_rtol` is {self.grad_rtol!r}; pass a number between 0 and 1.")

    @property
    def slots(self) -> int:
        """States stored."""
        return SLOTS if self.checkpoints is None else self.checkpoints

    @property
    def replaying(self) -> RecursiveCheckpointAdjoint:
        """The same slots without inversion."""
        return RecursiveCheckpointAdjoint(self.slots, self.window, self.one_tape)

    def tolerance(self, loop: Any) -> float:
        """Relative error that a reconstructed state may have."""
        size = loop.bk.itemsize(loop.layout.real_dtype)
        trust = TRUST_REVERSIBLE if loop.solver.reversible and size > 4 else TRUST
        return (self.grad_rtol or DEFAULT_RTOL.get(size, 1e-2)) / trust

    def inverts(self, loop: Any) -> bool:
        """Whether any step of a solve may be inverted."""
        n, most = loop.count, loop.max_steps
        if n is None:
            return self.window == 1 and self.guard != 0 and (most is None or self.slots < most)
        return self.inverts_any(n if most is None else min(n, most))

    def inverts_any(self, n: int) -> bool:
        """Whether a range between stored states of n steps is dearer to replay than to invert."""
        c = self.slots
        # up to there the binomial splits leave no range longer than its `replay_limit`
        return self.guard != 0 and self.window == 1 and n > _schedules.capacity(c, 2)

    def forward(self, loop: Any, inputs: Inputs) -> tuple[Any, Any]:
        if not self.inverts(loop):
            return self.replaying.forward(loop, inputs)
        guard = None if self.guard is None else Guard(loop, self.guard)
        slots = self.replaying.slots(loop)
        final = loop.march(inputs, slots, record=loop.adaptive, guard=guard)
        return final, [strip(loop, slots, final._replace(inside=final.inside[:1]))]

    def reverse(
        self, loop: Any, inputs: Inputs, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Inputs:
        if not self.inverts(loop):
            cts = self.replaying.reverse(loop, inputs, residuals, cotangents, wanted)
            n = loop.count if isinstance(residuals[0].n, tuple) else residuals[0].n
            return cts._replace(told=_told(Report(0, loop.clock.real(0.0)), n))
        bk, final = loop.bk, residuals[0]
        if final.stored is None:  # a second pull: the first one used the slots up
            final = self.forward(loop, inputs)[1][0]
        if bk.slots_by_reference:
            residuals[0] = final._replace(stored=None, noted=None)
        slots = self.replaying.slots(loop)
        final = fill(loop, slots, final, self.replaying.placed(slots.length or 0))
        step = StepPull(loop, inputs, final, cotangents, wanted, one_tape=self.one_tape)
        carry, report = reverse_inverting(
            bk,
            slots,
            final.stored,
            (final.n, final.y),
            self._invertible(loop, step, final.noted),
            step.start(final, loop.rows_inside(final)),
            loop.clock,
        )
        ok = final.status == int(Status.converged)
        return finished(bk, ok, step.finish(carry))._replace(told=_told(report, final.n))

    def _invertible(self, loop: Any, step: StepPull, noted: Any) -> Invertible:
        guard, axpy = Guard(loop, self.guard), loop.carried.axpy
        return Invertible(
            advance=step.advance,
            pull=step.pull,
            invert=step.invert,
            correct=lambda y, after, x: axpy(axpy(y, -1.0, after), 1.0, x),
            error=lambda i, y: guard.error(noted, i, y),
            apart=guard.apart,
            every=self.guard,
            tolerance=self.tolerance(loop),
            corrected=self.corrected,
        )


def _told(report: Report, n: Any) -> dict[str, Any]:
    """Statistics of a reverse sweep."""
    return {
        "inverted": report.inverted,
        "replayed": n - report.inverted,
        "max_guard_error": report.error,
    }
