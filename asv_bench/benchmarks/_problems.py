"""What is solved, small: vector fields in array API; ``_grids`` and ``_systems`` have more."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from retrograde._commands.compare import problem as compared

from ._grids import burgers, heat, heat_batch, wave
from ._problem import Problem

__all__ = [
    "PROBLEMS",
    "Problem",
    "batch",
    "burgers",
    "decay",
    "heat",
    "heat_batch",
    "lorenz",
    "lorenz_batch",
    "lotka_volterra",
    "neural_ode",
    "toy",
    "van_der_pol",
    "wave",
]


def toy() -> Problem:
    """Two coupled unknowns, 500 Euler steps: the seed of the project (row T1)."""

    return Problem(
        "toy", compared.toy().field, np.ones(2), None, 5.0, dt=0.01, target=1e-7, solver="euler"
    )


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

    def make_scalar(xp: Any) -> Callable[..., Any]:
        apart, join = parts(xp)

        def f(t: Any, y: Any, p: Any) -> Any:
            hare, lynx = apart(y)
            a, b, c, d = numbers(p)
            return join((hare * (a - b * lynx), lynx * (d * hare - c)))

        return f

    rates = np.array([1.5, 1.0, 3.0, 1.0])
    field = make_scalar if scalar else compared.lotka_volterra().field
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


def van_der_pol() -> Problem:
    """Ten relaxations of van der Pol's oscillator, mu = 10: some 1,600 adaptive steps."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, mu: Any) -> Any:
            return xp.stack((y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]))

        return f

    y0, mu = np.array([2.0, 0.0]), np.array(10.0)
    return Problem("van_der_pol", make, y0, mu, 100.0, target=1e-2)


def batch(size: int) -> Problem:
    """So many Lotka-Volterra systems from different starts, state (2, size), one step for all."""
    start = 1.0 + 0.5 * np.sin(np.arange(2 * size).reshape(2, size))
    name, single = f"lotka_volterra_x{size}", lotka_volterra()
    return Problem(name, single.field, start, single.args, 10.0, target=1e-3)


def lorenz_batch(size: int, period: int = 100) -> Problem:
    """So many Lorenz systems, state (3, size), from 100 different starts that recur."""
    n = min(size, period)
    start = 1.0 + 0.5 * np.sin(np.arange(3 * n).reshape(3, n))
    cell = lorenz_batch(period) if size > period else None
    y0, single = np.tile(start, size // n), lorenz()
    return Problem(f"lorenz_x{size}", single.field, y0, single.args, 2.0, target=1e-2, cell=cell)


def decay(n: int = 2) -> Problem:
    """``f = -y`` in some hundred steps: a solve that is all overhead."""
    y0 = np.ones(n)
    return Problem("decay", lambda xp: lambda t, y, args: -y, y0, None, 10.0, None, 1e-9, 1e-12)


def neural_ode(dtype: str = "float32", batch: int = 64) -> Problem:
    """A batch under a tanh network 16-64-64-16; args are its weights and biases.

    64 samples recur in a larger batch.
    """

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
    y0 = np.tile(rng.standard_normal((64, 16)).astype(dtype), (batch // 64, 1))
    weights = tuple(w.astype(dtype) for w in args)
    name, cell = ("neural_ode", None) if batch == 64 else (f"neural_ode_{batch}", neural_ode(dtype))
    return Problem(name, make, y0, weights, 1.0, rtol=1e-5, atol=1e-5, target=1e-3, cell=cell)


PROBLEMS = {"toy": toy, "lotka_volterra": lotka_volterra, "burgers_1000": lambda: burgers(1000)}
"""The problems of the asv benchmarks."""
