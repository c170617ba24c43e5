"""ReversibleAdjoint: for solvers whose steps have an exact inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .._errors import InputError
from .inverting import InvertingAdjoint

__all__ = ["ReversibleAdjoint"]


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

    def check(self, loop: Any) -> None:
        if not loop.solver.reversible:
            solver = getattr(loop.solver, "solver", loop.solver)  # a compiled one's own
            name = type(solver).__name__
            raise InputError(
                f"`adjoint` is ReversibleAdjoint, but `solver` {name} has no exact inverse; pass a "
                f"reversible solver (such as velocity_verlet, alf, reversible_heun, or "
                f"rg.Reversible({name}()) for a Runge-Kutta method), or adjoint='backsolve', which "
                "inverts any step under guard."
            )
