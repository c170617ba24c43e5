"""What a problem is: its vector field in array API, data in NumPy, settings, and its reference.

References come from outside the package: SciPy's DOP853 at tight tolerances, or a plain loop where
the steps are a fixed low-order method's. Gradients are held to central differences of those. What
is periodic is solved on one period, so that a million unknowns have a reference at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Problem"]

PLAIN_LOOPS = ("euler", "semi_implicit_euler")
"""Methods whose steps the reference repeats; else it solves the equation itself."""


@dataclass(frozen=True, eq=False)
class Problem:
    """An initial value problem and the settings of its solve.

    Attributes
    ----------
    name : str
    field : callable
        ``field(xp) -> f(t, y, args)`` in the operations of a namespace.
    y0 : array of NumPy
        Of a pair (q, p) the two are its first axis.
    args : array, tuple of array or None
    t1 : float [time]
        Solves begin at 0.
    dt : float or None [time]
        Constant steps; None solves to the tolerances.
    rtol, atol : float
    target : float
        Largest error of the solution, relative to its largest element, that a timing may have.
    solver : str
    pair : bool
        Whether f takes and gives a pair (q, p).
    cell : Problem or None
        One period of what is periodic in its last axes.
    max_steps : int
        Tries that peers are allowed.
    """

    name: str
    field: Callable[[Any], Callable[..., Any]]
    y0: Any
    args: Any
    t1: float
    dt: float | None = None
    rtol: float = 1e-6
    atol: float = 1e-9
    target: float = 1e-4
    solver: str = "tsit5"
    pair: bool = False
    cell: Problem | None = None
    max_steps: int = 4096

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of ``retrograde.solve``."""
        if self.dt is not None:
            return {"solver": self.solver, "dt": self.dt}
        return {"solver": self.solver, "rtol": self.rtol, "atol": self.atol}

    @property
    def steps(self) -> int:
        """Constant steps."""
        assert self.dt is not None
        return round(self.t1 / self.dt)

    def state(self, y: Any) -> Any:
        """The array as f takes it."""
        return (y[0], y[1]) if self.pair else y

    def array(self, xp: Any, state: Any) -> Any:
        """The inverse of :meth:`state`."""
        return xp.stack(state) if self.pair else state

    @functools.cached_property
    def reference(self) -> Any:
        """The state at t1 (plain loops: after the last step), by other code than ours."""
        if self.cell is not None:
            return np.tile(self.cell.reference, self._tiles)
        return self._solution(self.y0, self.args)

    @property
    def leaves(self) -> tuple[Any, ...]:
        """What a gradient is taken of: y0 and the arrays of args."""
        return (self.y0, *self.unpack(self.args))

    def pack(self, args: Sequence[Any]) -> Any:
        """Leaves of args in the form that the field takes."""
        if isinstance(self.args, tuple):
            return tuple(args)
        return args[0] if args else None

    def unpack(self, args: Any) -> tuple[Any, ...]:
        """The inverse of :meth:`pack`."""
        if isinstance(self.args, tuple):
            return tuple(args)
        return () if args is None else (args,)

    @functools.cached_property
    def directions(self) -> list[list[Any]]:
        """Directions of :attr:`leaves` in which gradients are checked."""
        rng = np.random.default_rng(7)
        return [[rng.standard_normal(x.shape) for x in self.leaves] for _ in range(4)]

    @functools.cached_property
    def derivatives(self) -> Any:
        """Derivatives of ``sum(y(t1))`` along them, by central differences of order 4."""
        eps = 1e-3
        weights = ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0))
        total = np.zeros(len(self.directions))
        for i, direction in enumerate(self.directions):
            for step, weight in weights:
                pairs = zip(self.leaves, direction, strict=True)
                moved = [x.astype(float) + step * eps * d for x, d in pairs]
                total[i] += weight * np.sum(self._solution(moved[0], self.pack(moved[1:])))
        return total / (12 * eps)

    def error(self, y1: Any) -> float:
        """Largest error of a solution, relative to the largest element of the reference."""
        difference = np.max(np.abs(np.asarray(y1, dtype=float) - self.reference))
        return float(difference / np.max(np.abs(self.reference)))

    def gradient_error(self, gradient: Sequence[Any]) -> float:
        """Relative error of a gradient of ``sum(y(t1))`` with respect to :attr:`leaves`."""
        if self.cell is not None:
            return self.cell.gradient_error(self._folded(gradient))
        found = [
            sum(float(np.sum(np.asarray(g) * d)) for g, d in zip(gradient, direction, strict=True))
            for direction in self.directions
        ]
        largest = np.max(np.abs(self.derivatives))
        return float(np.max(np.abs(np.asarray(found) - self.derivatives)) / largest)

    @property
    def _tiles(self) -> tuple[int, ...]:
        assert self.cell is not None
        return tuple(a // b for a, b in zip(self.y0.shape, self.cell.y0.shape, strict=True))

    def _folded(self, gradient: Sequence[Any]) -> list[Any]:
        """A gradient's mean over the periods: that of one of them."""
        assert self.cell is not None
        by_y0 = np.asarray(gradient[0])
        for axis, (tiles, size) in enumerate(zip(self._tiles, self.cell.y0.shape, strict=True)):
            shape = by_y0.shape
            split = by_y0.reshape(*shape[:axis], tiles, size, *shape[axis + 1 :])
            by_y0 = split.mean(axis)
        return [by_y0, *(np.asarray(g) / np.prod(self._tiles) for g in gradient[1:])]

    def _solution(self, y0: Any, args: Any) -> Any:
        f = self.field(np)
        if self.dt is not None and self.solver in PLAIN_LOOPS:
            return self._loop(f, y0, args)
        from scipy.integrate import solve_ivp

        flat = lambda t, y: f(t, y.reshape(y0.shape), args).reshape(-1)  # noqa: E731
        start, span = y0.astype(float).reshape(-1), (0.0, self.t1)
        run = solve_ivp(flat, span, start, method="DOP853", rtol=1e-12, atol=1e-13)
        return run.y[:, -1].reshape(y0.shape)

    def _loop(self, f: Callable[..., Any], y: Any, args: Any) -> Any:
        dt = self.dt
        for i in range(self.steps):
            if self.pair:
                q = y[0] + dt * f(i * dt, (y[0], y[1]), args)[0]
                y = np.stack((q, y[1] + dt * f(i * dt, (q, y[1]), args)[1]))
            else:
                y = y + dt * f(i * dt, y, args)
        return y
