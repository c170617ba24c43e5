"""BacksolveAdjoint: steps taken back in place of states stored.

Discrete mode inverts the forward step by a step of -h and takes the exact vjp of the forward
step at the state that it finds, under guard. The textbook's adjoint ODE is ``continuous``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._errors import InputError
from .._types import Inputs, Wanted
from .base import AbstractAdjoint
from .inverting import InvertingAdjoint

__all__ = ["BacksolveAdjoint"]


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("discrete", "continuous"):
            raise InputError(f"`mode` is {self.mode!r}; pass 'discrete' or 'continuous'.")

    @property
    def kind(self) -> str:
        """Its accuracy: 'guarded', or of the class of the solver's order."""
        return self.accuracy if self.mode == "discrete" else "O(h^p)"

    @property
    def continuous(self) -> AbstractAdjoint | None:
        """The method of the continuous mode; None in the discrete one."""
        if self.mode == "discrete":
            return None
        from .continuous import ContinuousAdjoint  # by name only, so rarely loaded

        return ContinuousAdjoint(self.reset, self.seminorm)

    def forward(self, loop: Any, inputs: Inputs) -> tuple[Any, Any]:
        other = self.continuous
        return super().forward(loop, inputs) if other is None else other.forward(loop, inputs)

    def reverse(
        self, loop: Any, inputs: Inputs, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Inputs:
        other = self.continuous
        if other is None:
            return super().reverse(loop, inputs, residuals, cotangents, wanted)
        return other.reverse(loop, inputs, residuals, cotangents, wanted)
