"""A guarded backsolve on NumPy: steps that it runs over those of checkpoints alone, and its error.

Van der Pol's oscillator falls back by itself at no cost, Lotka-Volterra is inverted whole from
one slot, and the toy (diffrax#572), on which continuous backsolves are 300 % wrong, is replayed.
"""

from typing import Any

import numpy as np

import retrograde as rg

from . import _problems as problems
from .schedule import extra_advances

CASES: dict[str, tuple[Any, ...]] = {
    "van der Pol, mu = 10": (problems.van_der_pol, 10.0, 10.0, "rk4", 4000),
    "van der Pol, mu = 1000": (problems.van_der_pol, 1.0, 1000.0, "rk4", 4000),
    "Lotka-Volterra": (problems.lotka_volterra, 10.0, [1.5, 1.0, 3.0, 1.0], "rk4", 1000),
    "toy": (problems.toy, 5.0, 0.0, "euler", 500),
}
"""Problems, spans, parameters, methods and steps."""


class Guarded:
    """Discrete backsolve from 1 and 16 slots."""

    params = (tuple(CASES), (1, 16))
    param_names = ("problem", "slots")
    timeout = 300

    def setup(self, name: str, slots: int) -> None:
        if slots == 1 and name != "Lotka-Volterra":
            raise NotImplementedError  # would replay n**2 / 2 steps
        self.count = 0

    def gradient(self, name: str, adjoint: Any) -> tuple[Any, int]:
        """Gradient by y0, and evaluations of f in the reverse pass."""
        make, t1, args, solver, n = CASES[name]
        problem = make()
        f, y0 = problem.field(np), problem.y0

        def field(t: Any, y: Any, p: Any) -> Any:
            self.count += 1
            return f(t, y, p)

        keywords = {"solver": solver, "dt": t1 / n, "adjoint": adjoint}
        sol, pullback = rg.solve_vjp(field, y0, 0.0, t1, np.asarray(args), **keywords)
        self.count = 0
        g = pullback(np.ones_like(sol.ys))
        return g.y0, self.count

    def track_steps_over_checkpoints(self, name: str, slots: int) -> float:
        """Forward, inverse, replayed and linearised steps; at most 1.02."""
        _, calls = self.gradient(name, rg.BacksolveAdjoint(checkpoints=slots))
        n, stages = CASES[name][-1], 4 if CASES[name][-2] == "rk4" else 1
        return (n + calls / stages) / (2 * n + extra_advances(n, slots))

    def track_error(self, name: str, slots: int) -> float:
        """Relative error of the gradient; at most 1e-6."""
        g, _ = self.gradient(name, rg.BacksolveAdjoint(checkpoints=slots))
        exact, _ = self.gradient(name, rg.RecursiveCheckpointAdjoint())
        return float(np.linalg.norm(g - exact) / np.linalg.norm(exact))


Guarded.track_steps_over_checkpoints.unit = "steps/steps"  # type: ignore[attr-defined]
Guarded.track_error.unit = "relative"  # type: ignore[attr-defined]
