"""Vector fields with their states, on any array library: what the budget range differentiates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """One vector field with its state; ``xp`` is the library's namespace."""

    field: Any
    y0: Any
    rate: Any
    t1: float


def oscillator(xp: Any, real: Any) -> Case:
    """Two unknowns."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        return xp.stack([y[1], -rate * y[0]])

    return Case(field, real([1.0, 0.5]), real(1.3), 20.0)


def large(xp: Any, real: Any) -> Case:
    """A hundred thousand unknowns."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        return xp.cos(3.0 * t) - rate * y * y

    return Case(field, real(np.linspace(0.1, 1.0, 100_000)), real(0.5), 8.0)


def tree(xp: Any, real: Any) -> Case:
    """Oscillators in a tree of two matrices."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        return {"x": y["v"], "v": -rate * xp.sin(y["x"])}

    x = np.linspace(0.1, 2.0, 1200).reshape(40, 30)
    return Case(field, {"x": real(x), "v": real(0 * x)}, real(1.3), 10.0)


def batch(xp: Any, real: Any) -> Case:
    """Lotka-Volterra from 256 starts, a batch axis in y."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        hare, lynx = y[:, 0], y[:, 1]
        return xp.stack([hare * (rate - lynx), lynx * (hare - 1.0)], 1)

    starts = np.stack([np.linspace(0.5, 1.5, 256), np.linspace(1.5, 0.5, 256)], 1)
    return Case(field, real(starts), real(0.9), 10.0)


CASES = {make.__name__: make for make in (oscillator, large, tree, batch)}
STEPS = {"oscillator": 300, "large": 40, "tree": 100, "batch": 120}


def keywords_of(case: str, control: str, t1: float) -> dict[str, Any]:
    if control == "constant":
        return {"solver": "rk4", "dt": t1 / STEPS[case]}
    return {"rtol": 1e-5, "atol": 1e-7}
