"""What is solved, as row J5 wants it: small systems over 200 constant steps of Tsit5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ._grids import heat
from ._problem import Problem
from ._problems import lorenz

__all__ = ["SYSTEMS"]

STEPS = 200


def fixed(name: str, make: Any, y0: Any, args: Any, t1: float, target: float = 1e-4) -> Problem:
    """A problem of so many constant steps."""
    return Problem(name, make, y0, args, t1, t1 / STEPS, target=target)


def lorenz_fixed() -> Problem:
    """Lorenz 1963 over 2 units of time."""
    free = lorenz()
    return fixed("lorenz", free.field, free.y0, free.args, 2.0, 1e-2)


def robertson() -> Problem:
    """Robertson's kinetics, the second species in units of 1e-4."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, p: Any) -> Any:
            slow, back, fast = p[0] * y[0], p[1] * y[1] * y[2], p[2] * y[1] * y[1]
            return xp.stack((back - slow, 1e4 * (slow - back - fast), fast))

        return f

    y0, rates = np.array([1.0, 0.0, 0.0]), np.array([0.04, 1.0, 0.3])
    return fixed("robertson", make, y0, rates, 0.1, 1e-2)


def three_body() -> Problem:
    """Three masses in space, 18 unknowns, near the figure of eight; args are the masses."""

    def make(xp: Any) -> Callable[..., Any]:
        eye = xp.eye(3)

        def f(t: Any, y: Any, masses: Any) -> Any:
            x, v = y[:3], y[3:]
            apart = x[None, :, :] - x[:, None, :]
            distance2 = xp.sum(apart * apart, axis=-1) + eye
            pull = masses[None, :, None] * apart / (distance2**1.5)[:, :, None]
            return xp.concat((v, xp.sum(pull, axis=1)))

        return f

    x, v = np.array([0.97000436, -0.24308753, 0.0]), np.array([0.93240737, 0.86473146, 0.0])
    y0 = np.stack((x, -x, 0.0 * x, v / 2, v / 2, -v))
    return fixed("three_body", make, y0, np.ones(3), 2.0)


def linear(n: int = 8) -> Problem:
    """A rotation that is damped; args is its matrix."""
    a = np.random.default_rng(1).standard_normal((n, n)) / n**0.5
    make = lambda xp: lambda t, y, a: a @ y  # noqa: E731
    return fixed(f"linear_{n}", make, np.ones(n), a - a.T - 0.2 * np.eye(n), 5.0)


def network() -> Problem:
    """A tanh network 4-16-4."""

    def make(xp: Any) -> Callable[..., Any]:
        return lambda t, y, p: xp.tanh(y @ p[0] + p[1]) @ p[2] + p[3]

    rng = np.random.default_rng(2)
    weights = rng.standard_normal((4, 16)), np.zeros(16), 0.3 * rng.standard_normal((16, 4))
    return fixed("network_4_16_4", make, np.ones(4), (*weights, np.zeros(4)), 2.0)


def ring(n: int = 16) -> Problem:
    """A ring of second-order reactions, written out species by species."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, k: Any) -> Any:
            flow = [k[i] * y[i] * y[i] for i in range(n)]
            return xp.stack([flow[i - 1] - flow[i] - 0.1 * y[i] for i in range(n)])

        return f

    y0 = 1.0 + 0.5 * np.sin(np.arange(n))
    return fixed(f"ring_{n}", make, y0, 1.0 + 0.1 * np.arange(n), 4.0)


SYSTEMS = {
    "Lorenz": lorenz_fixed,
    "Robertson": robertson,
    "3-body": three_body,
    "linear, n = 4": lambda: linear(4),
    "linear, n = 8": linear,
    "network 4-16-4": network,
    "ring of 16 reactions": ring,
    "heat 64": lambda: heat(64, 20.0, 0.1),
    "heat 1024": lambda: heat(1024, 20.0, 0.1),
}
"""Small systems by the names of the report."""
