"""What is solved: vector fields in array API, data in NumPy, and references to be held to.

References come from outside the package: SciPy's DOP853 at tight tolerances for adaptive solves,
a plain loop for the Euler toy. Gradients are held to central differences of those.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "PROBLEMS",
    "Problem",
    "burgers",
    "decay",
    "lorenz",
    "lotka_volterra",
    "neural_ode",
    "toy",
]


@dataclass(frozen=True, eq=False)
class Problem:
    """An initial value problem and the settings of its solve.

    Attributes
    ----------
    name : str
    field : callable
        ``field(xp) -> f(t, y, args)`` in the operations of a namespace.
    y0 : array of NumPy
    args : array, tuple of array or None
    t1 : float [time]
        Solves begin at 0.
    dt : float or None [time]
        Constant Euler steps; None solves with Tsit5 to the tolerances.
    rtol, atol : float
    target : float
        Largest error of the solution, relative to its largest element, that a timing may have.
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

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of ``retrograde.solve``."""
        if self.dt is not None:
            return {"solver": "euler", "dt": self.dt}
        return {"solver": "tsit5", "rtol": self.rtol, "atol": self.atol}

    @functools.cached_property
    def reference(self) -> Any:
        """The state at t1 (Euler: after the last step), by other code than ours."""
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
        found = [
            sum(float(np.sum(np.asarray(g) * d)) for g, d in zip(gradient, direction, strict=True))
            for direction in self.directions
        ]
        largest = np.max(np.abs(self.derivatives))
        return float(np.max(np.abs(np.asarray(found) - self.derivatives)) / largest)

    def _solution(self, y0: Any, args: Any) -> Any:
        f = self.field(np)
        if self.dt is not None:
            y = y0
            for i in range(round(self.t1 / self.dt)):
                y = y + self.dt * f(i * self.dt, y, args)
            return y
        from scipy.integrate import solve_ivp

        flat = lambda t, y: f(t, y.reshape(y0.shape), args).reshape(-1)  # noqa: E731
        start, span = y0.astype(float).reshape(-1), (0.0, self.t1)
        run = solve_ivp(flat, span, start, method="DOP853", rtol=1e-12, atol=1e-13)
        return run.y[:, -1].reshape(y0.shape)


def toy() -> Problem:
    """Two coupled unknowns, 500 Euler steps: the seed of the project (row T1)."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, args: Any) -> Any:
            return xp.stack((xp.cos(y[1]) * t**2, xp.sin(y[0]) * t**2))

        return f

    return Problem("toy", make, np.ones(2), None, 5.0, dt=0.01, target=1e-7)


def parts(xp: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Cheapest ways to take a small vector apart and to make one.

    Floats in NumPy, and in torch what has no gradient; torch's ``unbind`` else, whose derivative
    is one node where that of each index is one.
    """
    if xp is np:
        return np.ndarray.tolist, np.array
    return lambda y: y.unbind(), xp.stack


def numbers(p: Any) -> Any:
    """Parameters as floats, or as views where they may get a gradient."""
    return p.unbind() if getattr(p, "requires_grad", False) else p.tolist()


def lotka_volterra(*, scalar: bool = False) -> Problem:
    """Predator and prey; ``scalar`` is each library's cheapest way of taking y apart."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, p: Any) -> Any:
            hare, lynx = y[0], y[1]
            return xp.stack((p[0] * hare - p[1] * hare * lynx, p[3] * hare * lynx - p[2] * lynx))

        return f

    def make_scalar(xp: Any) -> Callable[..., Any]:
        apart, join = parts(xp)

        def f(t: Any, y: Any, p: Any) -> Any:
            hare, lynx = apart(y)
            a, b, c, d = numbers(p)
            return join((hare * (a - b * lynx), lynx * (d * hare - c)))

        return f

    rates = np.array([1.5, 1.0, 3.0, 1.0])
    field = make_scalar if scalar else make
    return Problem("lotka_volterra", field, np.ones(2), rates, 20.0, target=1e-3)


def lorenz(*, scalar: bool = False) -> Problem:
    """Lorenz 1963 over a span in which errors have not yet outgrown the attractor."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, p: Any) -> Any:
            x, v, z = y[0], y[1], y[2]
            return xp.stack((p[0] * (v - x), x * (p[1] - z) - v, x * v - p[2] * z))

        return f

    def make_scalar(xp: Any) -> Callable[..., Any]:
        apart, join = parts(xp)

        def f(t: Any, y: Any, p: Any) -> Any:
            x, v, z = apart(y)
            s, r, b = numbers(p)
            return join((s * (v - x), x * (r - z) - v, x * v - b * z))

        return f

    args = np.array([10.0, 28.0, 8.0 / 3.0])
    field = make_scalar if scalar else make
    return Problem("lorenz", field, np.ones(3), args, 5.0, target=1e-2)


def burgers(n: int) -> Problem:
    """Viscous Burgers on a ring, in units of the mesh width: n sets the size, not the steps."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, u: Any, args: Any) -> Any:
            ring = xp.concat((u[-1:], u, u[:1]))
            left, right = ring[:-2], ring[2:]
            return 0.5 * (left + right) - u - 0.5 * u * (right - left)

        return f

    x = np.arange(n)
    y0 = 0.5 + np.sin(2 * np.pi * x / 50) + 0.3 * np.cos(2 * np.pi * x / 125)
    return Problem(f"burgers_{n}", make, y0, None, 20.0)


def decay(n: int = 2) -> Problem:
    """``f = -y`` in some hundred steps: a solve that is all overhead."""
    y0 = np.ones(n)
    return Problem("decay", lambda xp: lambda t, y, args: -y, y0, None, 10.0, None, 1e-9, 1e-12)


def neural_ode(dtype: str = "float32") -> Problem:
    """A batch of 64 under a tanh network 16-64-64-16; args are its weights and biases."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, args: Any) -> Any:
            w1, b1, w2, b2, w3, b3 = args
            return xp.tanh(xp.tanh(y @ w1 + b1) @ w2 + b2) @ w3 + b3

        return f

    rng = np.random.default_rng(0)
    sizes = (16, 64, 64, 16)
    args: list[Any] = []
    for a, b in itertools.pairwise(sizes):
        args += [rng.standard_normal((a, b)) * (2.0 / a) ** 0.5, np.zeros(b)]
    y0 = rng.standard_normal((64, 16)).astype(dtype)
    weights = tuple(w.astype(dtype) for w in args)
    return Problem("neural_ode", make, y0, weights, 1.0, rtol=1e-5, atol=1e-5, target=1e-3)


PROBLEMS = {"toy": toy, "lotka_volterra": lotka_volterra, "burgers_1000": lambda: burgers(1000)}
"""The problems of the asv benchmarks."""
