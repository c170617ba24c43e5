"""Adjoints that take steps back: BacksolveAdjoint, ReversibleAdjoint, and what they share.

The forward integration stores up to c states and notes projections of the others; the reverse pass
inverts steps as long as the guard accepts them, and replays the rest
(``_checkpointing.reverse_by_inversion``).

ReversibleAdjoint is for solvers whose steps have an exact inverse. BacksolveAdjoint takes steps
back in place of states stored: its discrete mode inverts the forward step by a step of -h and takes
the exact vjp of the forward step at the state that it finds, under guard. The textbook's adjoint
ODE is ``continuous``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Index, Inputs, Leaves, NeedsGradient, Residuals, Scalar, Table
from .._checkpointing import schedules
from .._checkpointing.reverse_by_inversion import Invertible, Report, reverse_inverting
from .._integrate.events import reached
from .base import AbstractAdjoint
from .checkpointed import RecursiveCheckpointAdjoint, fill, finished, strip
from .projection_guard import Guard
from .step_vjp import ReverseStep

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final

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
    """A reverse pass by inverted steps, under guard; subclasses say how well they invert."""

    checkpoints: int | None = None
    guard: int | None = 1
    grad_rtol: float | None = None
    window: int = 1
    one_tape: bool = False
    accuracy: ClassVar[str] = "guarded"
    passes_events: ClassVar[bool] = True
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

    def tolerance(self, loop: Integrator) -> float:
        """Relative error that a reconstructed state may have."""
        size = loop.bk.itemsize(loop.layout.real_dtype)
        trust = TRUST_REVERSIBLE if loop.solver.reversible and size > 4 else TRUST
        return (self.grad_rtol or DEFAULT_RTOL.get(size, 1e-2)) / trust

    def inverts(self, loop: Integrator) -> bool:
        """Whether any step of a solve may be inverted."""
        n, most = loop.count, loop.max_steps
        if n is None:
            return self.window == 1 and self.guard != 0 and (most is None or self.slots < most)
        return self.inverts_any(n if most is None else min(n, most))

    def inverts_any(self, n: int) -> bool:
        """Whether a range between stored states of n steps is dearer to replay than to invert."""
        c = self.slots
        # up to there the binomial splits leave no range longer than its `replay_limit`
        return self.guard != 0 and self.window == 1 and n > schedules.capacity(c, 2)

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        if not self.inverts(loop):
            return self.replaying.forward(loop, inputs)
        guard = None if self.guard is None else Guard(loop, self.guard)
        slots = self.replaying.slots(loop)
        if (events := loop.events) is not None:
            loop = copy.copy(loop)
            loop.events = events.keeping_starts()
        final = loop.integrate(inputs, slots, record=loop.adaptive, guard=guard)
        kept = final._replace(inside=loop.outputs.counted(final))
        if loop.events is not None:
            kept = kept._replace(events=final.events.kept())
        return final, [strip(loop, slots, kept)]

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        if not self.inverts(loop):
            cts = self.replaying.reverse(loop, inputs, residuals, cotangents, wanted)
            n = loop.count if isinstance(residuals[0].n, tuple) else residuals[0].n
            return cts._replace(stats=_stats(Report(0, loop.clock.real(0.0)), n))
        bk, final = loop.bk, residuals[0]
        if final.stored is None:  # a second pull: the first one used the slots up
            final = self.forward(loop, inputs)[1][0]
        if bk.slots_by_reference:
            residuals[0] = final._replace(stored=None, noted=None)
        slots = self.replaying.slots(loop)
        final = fill(loop, slots, final, self.replaying.placed(slots.length or 0))
        step = ReverseStep(loop, inputs, final, cotangents, wanted, one_tape=self.one_tape)
        carry, report = reverse_inverting(
            bk,
            slots,
            final.stored,
            (final.n, final.y),
            self._invertible(loop, step, final.noted),
            step.start(final),
            loop.clock,
        )
        ok = reached(loop, final)
        return finished(bk, ok, step.finish(carry))._replace(stats=_stats(report, final.n))

    def _invertible(self, loop: Integrator, step: ReverseStep, noted: Table) -> Invertible:
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


def _stats(report: Report, n: Index) -> dict[str, Scalar]:
    """Statistics of a reverse pass."""
    return {
        "inverted": report.inverted,
        "replayed": n - report.inverted,
        "max_guard_error": report.error,
    }


@dataclass(frozen=True)
class ReversibleAdjoint(InvertingAdjoint):
    """Take the steps of a reversible solver back, in place of storing states.

    Parameters
    ----------
    checkpoints, guard, grad_rtol, window, one_tape
        As in :class:`BacksolveAdjoint`.

    Notes
    -----
    Exact for the solver's own scheme but for round-off, which the inverse may amplify: what the
    flow contracts by a factor, reversal expands by it. So it is guarded in the same way, and
    replays what the guard refuses. Costs one inverse a step.

    References
    ----------
    Kidger et al. 2021 (arXiv:2105.13493), Zhuang et al. 2021 (arXiv:2102.04668), McCallum &
    Foster 2024 (arXiv:2410.11648) for such solvers.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> keywords = {"adjoint": rg.ReversibleAdjoint(), "dt": 0.01, "solver": "reversible_heun"}
    >>> sol, pullback = rg.solve_vjp(lambda t, y, k: -k * y, [1.0], 0.0, 1.0, 0.5, **keywords)
    >>> abs(float(pullback([[1.0]]).args) + math.exp(-0.5)) < 1e-4
    True
    """

    corrected: ClassVar[bool] = False

    def check(self, loop: Integrator) -> None:
        if not loop.solver.reversible:
            name = type(loop.solver).__name__
            raise InputError(
                f"`adjoint` is ReversibleAdjoint, but `solver` {name} has no exact inverse; pass a "
                f"reversible solver (such as velocity_verlet, alf, reversible_heun, or "
                f"rg.Reversible({name}()) for a Runge-Kutta method), or adjoint='backsolve', which "
                "inverts any step under guard."
            )


@dataclass(frozen=True)
class BacksolveAdjoint(InvertingAdjoint):
    """Take steps back in place of storing states.

    Parameters
    ----------
    checkpoints : int or None
        States stored, y0's included: where a guard fails, replay begins at the one below. None:
        what the budget buys, 16 without one; or those that replay no step more than twice, where
        a guard's notes (of a state of few numbers) would take more than every state.
    guard : int or None
        Steps from one guarded state to the next; 1 lets nothing unguarded pass. None: the stored
        states alone are guards, and what was pulled between two of them is dropped and replayed
        if the lower one is missed. 0: nothing is inverted.
    grad_rtol : float or None
        Relative error that inverted states may bring into the gradient; None is 1e-6 in float64
        and 1e-3 in float32.
    window : int
        As in :class:`RecursiveCheckpointAdjoint`; more than 1 replays everything.
    one_tape : bool
        As there.
    mode : {'discrete', 'continuous'}
        'continuous' solves the adjoint ODE backward (Chen et al. 2018), without a guard: its
        gradient is that of the ODE, with an error of O(h**p), which the error of its state does
        not bound (300 % on a published example). It is never chosen by a plan.
    reset : bool
        Continuous mode: set the state to the saved rows at their times.
    seminorm : bool
        Continuous mode, adaptive steps: leave parameters out of the error norm.

    Notes
    -----
    Discrete mode: a step of -h from y_{i+1} gives y_i but for O(h**(p+1)); up to two fixed-point
    corrections follow where they are cheaper than a replay. The result is compared with four
    Gaussian projections of the true state, noted on the way forward (16 to 32 bytes a step;
    states of up to four numbers are noted whole), and refused where the relative error is above
    ``grad_rtol / 30``: then the range is replayed, exactly. Ranges that are no dearer to replay
    than to invert are replayed from the start. So the gradient is guarded: it is exact but for
    the errors that pass, of first order and with the small probability that projections miss
    one. Dissipative and stiff problems fall back by themselves.

    Costs 1 F for each inverted step (F: one step forward) and at worst one try for each stored
    state more than :class:`RecursiveCheckpointAdjoint` with the same slots. After a pull,
    ``sol.stats`` has ``inverted``, ``replayed`` and ``max_guard_error``.

    References
    ----------
    Gholami, Keutzer & Biros 2019 (arXiv:1902.10298) on why an unguarded reverse solve fails;
    Chen et al. 2018 (arXiv:1806.07366) and Kidger, Chen & Lyons 2021 (arXiv:2009.09457) for the
    continuous mode.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> keywords = {"adjoint": rg.BacksolveAdjoint(), "dt": 0.01}
    >>> sol, pullback = rg.solve_vjp(lambda t, y, k: -k * y, [1.0], 0.0, 1.0, 0.5, **keywords)
    >>> abs(float(pullback([[1.0]]).args) + math.exp(-0.5)) < 1e-4
    True
    """

    mode: str = "discrete"
    reset: bool = True
    seminorm: bool = True

    def check(self, loop: Integrator) -> None:
        if loop.solver.implicit:
            raise InputError(
                f"`adjoint` is BacksolveAdjoint, but `solver` {loop.solver.name} is for stiff "
                "problems: what the flow contracts, the way back expands, so that no step could be "
                "taken back. Pass adjoint='auto', which stores states."
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("discrete", "continuous"):
            raise InputError(f"`mode` is {self.mode!r}; pass 'discrete' or 'continuous'.")

    @property
    def kind(self) -> str:
        """Its accuracy: 'guarded', or of the class of the solver's order."""
        return self.accuracy if self.mode == "discrete" else "O(h^p)"

    def check_events(self, loop: Integrator) -> None:
        if loop.events is not None and self.mode == "continuous" and loop.outputs.stepped:
            raise UnsupportedByBackend(
                "`adjoint` is BacksolveAdjoint(mode='continuous'), which can't pass the events of "
                "a solve whose steps are saved (SaveAt(steps=True) or dense=True): their ends move "
                "with the events. Save times, or use mode='discrete'."
            )

    @property
    def continuous(self) -> AbstractAdjoint | None:
        """The method of the continuous mode; None in the discrete one."""
        if self.mode == "discrete":
            return None
        from .continuous import ContinuousAdjoint  # by name only, so rarely loaded

        return ContinuousAdjoint(self.reset, self.seminorm)

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        other = self.continuous
        return super().forward(loop, inputs) if other is None else other.forward(loop, inputs)

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        other = self.continuous
        if other is None:
            return super().reverse(loop, inputs, residuals, cotangents, wanted)
        return other.reverse(loop, inputs, residuals, cotangents, wanted)
