"""Misfit, its gradient, and the optimiser.

Every start is a column of one batched solve. The losses of the columns do not depend on each
other, so the gradient of their sum holds the gradient of each, and one L-BFGS-B run (Zhu, Byrd,
Lu, Nocedal 1997, doi:10.1145/279232.279236) moves all starts at once. A start whose solve gave
no finite number counts as a constant and stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..._api.solve import plan, solve, solve_vjp
from ..._backend.interface import AbstractBackend
from ..._base.memory import require
from ..._base.types import Array, Namespace, Tree, VectorFieldFn
from ..._integrate.saveat import SaveAt
from ..._integrate.solution import Solution
from ..._planner.plan import Plan
from .problem import SPAN, Series, bounds, lotka_volterra, series

Compiled = Callable[[Array], tuple[Array, Array]]
"""Sums of squares and their gradients, of the unknowns of all starts."""

TOLERANCE = 1e-7
"""Relative and absolute tolerance of the steps: 150 to 250 of them for this series."""


class Objective:
    """Sums of squares of the starts and their gradients, on one array library.

    Parameters
    ----------
    bk : AbstractBackend
    memory : str, int [bytes] or None
        Budget of the gradient.
    tolerance : float
    field : callable or None
        A vector field in place of Lotka and Volterra's own, for whoever wants to watch it.
    """

    def __init__(
        self,
        bk: AbstractBackend,
        memory: str | int | None,
        tolerance: float = TOLERANCE,
        field: VectorFieldFn | None = None,
    ) -> None:
        self.xp = xp = bk.xp
        self.field = field or lotka_volterra(xp)
        self.data: Series = series(xp)
        saveat = SaveAt(ts=[float(t) for t in self.data.years])
        self.keywords: dict[str, Tree] = {"rtol": tolerance, "atol": tolerance, "saveat": saveat}
        self.memory = memory

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Sums of squares, shape (starts,), and their gradients, shape (6, starts)."""
        xp = self.xp
        solution, pull = self._solve_vjp(x)
        residuals = solution.ys - self.data.logs[:, :, None]
        squares = xp.sum(residuals * residuals, axis=(0, 1))
        return squares, pull(2.0 * residuals)

    def pull(self, x: Array, weights: Array) -> Array:
        """Gradient of sum(weights * curves(x)): the solve's part of the gradient alone."""
        return self._solve_vjp(x)[1](weights)

    def _solve_vjp(self, x: Array) -> tuple[Solution, Callable[[Array], Array]]:
        y0, rates = self.split(x)
        call = (self.field, y0, 0.0, SPAN, rates)
        solution, pullback = solve_vjp(*call, memory=self.memory, **self.keywords)

        def pull(cotangent: Array) -> Array:
            g = pullback(cotangent)
            return self.xp.concat((g.args * rates, g.y0), axis=0)

        return solution, pull

    def curves(self, x: Array, years: Array | None = None) -> Array:
        """Log counts at the years of the series, or at others, shape (years, 2, starts)."""
        y0, rates = self.split(x)
        at = {} if years is None else {"saveat": SaveAt(ts=years)}
        return solve(self.field, y0, 0.0, SPAN, rates, **{**self.keywords, **at}).ys

    def plan(self, x: Array) -> Plan:
        """The plan of the gradient at x."""
        y0, rates = self.split(x)
        return plan(self.field, y0, 0.0, SPAN, rates, memory=self.memory, **self.keywords)

    def split(self, x: Array) -> tuple[Array, Array]:
        """(log counts at the start, rates) of the unknowns."""
        return x[4:, :], self.xp.exp(x[:4, :])


@dataclass(frozen=True)
class Fit:
    """Where an optimiser ended.

    Attributes
    ----------
    x : array, shape (6, starts)
        NumPy's.
    squares : array, shape (starts,)
    iterations, evaluations : int
    """

    x: Array
    squares: Array
    iterations: int
    evaluations: int

    @property
    def best(self) -> int:
        """The start with the least sum of squares."""
        return int(self.squares.argmin())

    def polished(self, alone: Fit) -> Fit:
        """This fit with its best start replaced by a fit of that start alone."""
        x, squares = self.x.copy(), self.squares.copy()
        x[:, self.best], squares[self.best] = alone.x[:, 0], alone.squares[0]
        total = (self.iterations + alone.iterations, self.evaluations + alone.evaluations)
        return replace(self, x=x, squares=squares, iterations=total[0], evaluations=total[1])


def fit(
    gradient: Compiled,
    np: Namespace,
    x0: Array,
    iterations: int,
    progress: Callable[[], None] = lambda: None,
) -> Fit:
    """Minimise from all columns of x0 at once.

    Parameters
    ----------
    gradient : callable
        ``gradient(x) -> (squares, their gradients)``, NumPy arrays in and out.
    np : namespace
        NumPy.
    x0 : array, shape (6, starts)
    iterations : int
        At most.
    progress : callable
        Called after every iteration.
    """
    optimize = require("scipy.optimize", "demo")
    shape = x0.shape

    def total(flat: Array) -> tuple[float, Array]:
        squares, g = gradient(flat.reshape(shape))
        good = np.isfinite(squares) & np.all(np.isfinite(g), axis=0)
        return float(np.sum(np.where(good, squares, 0.0))), np.where(good, g, 0.0).reshape(-1)

    result = optimize.minimize(
        total, x0.reshape(-1), jac=True, method="L-BFGS-B", bounds=bounds(np, shape[1]),
        callback=lambda _: progress(),
        options={"maxiter": iterations, "ftol": 1e-12, "gtol": 1e-7},
    )  # fmt: skip
    x = result.x.reshape(shape)
    squares, _ = gradient(x)
    squares = np.where(np.isfinite(squares), squares, np.inf)
    return Fit(x, squares, int(result.nit), int(result.nfev) + 1)
