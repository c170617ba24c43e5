"""What is solved, large: Burgers, heat and waves on periodic meshes, in units of the mesh width.

The size sets the number of unknowns and not that of the steps, and every start is periodic, so
that one period is the reference of all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ._problem import Problem

__all__ = ["burgers", "heat", "heat_batch", "wave"]


def burgers(n: int, t1: float = 20.0) -> Problem:
    """Viscous Burgers on a ring of n cells; a multiple of 250 is checked on that many."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, u: Any, args: Any) -> Any:
            ring = xp.concat((u[-1:], u, u[:1]))
            left, right = ring[:-2], ring[2:]
            return 0.5 * (left + right) - u - 0.5 * u * (right - left)

        return f

    x = np.arange(n)
    y0 = 0.5 + np.sin(2 * np.pi * x / 50) + 0.3 * np.cos(2 * np.pi * x / 125)
    cell = burgers(250, t1) if n > 250 and n % 250 == 0 else None
    return Problem(f"burgers_{n}", make, y0, None, t1, cell=cell)


def heat(n: int, t1: float = 20.0, dt: float | None = None) -> Problem:
    """Heat on a ring as people write it, by ``roll``; args is the conductivity."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, u: Any, k: Any) -> Any:
            return k * (xp.roll(u, 1) - 2.0 * u + xp.roll(u, -1))

        return f

    x = np.arange(n)
    y0 = 1.0 + np.sin(2 * np.pi * x / 32) + 0.5 * np.cos(2 * np.pi * x / 8)
    cell = heat(32, t1, dt) if n > 32 and n % 32 == 0 else None
    return Problem(f"heat_{n}", make, y0, np.array(0.5), t1, dt, cell=cell)


def heat_batch(size: int, n: int = 64) -> Problem:
    """So many heat equations of n unknowns from different starts, state (n, size)."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, u: Any, k: Any) -> Any:
            return k * (xp.roll(u, 1, axis=0) - 2.0 * u + xp.roll(u, -1, axis=0))

        return f

    start = 1.0 + 0.5 * np.sin(np.arange(n * size).reshape(n, size))
    return Problem(f"heat_{n}_x{size}", make, start, np.array(0.5), 40.0)


def wave(m: int = 256, steps: int = 200) -> Problem:
    """Waves on a torus of m x m cells by semi-implicit Euler; y is (displacement, velocity)."""

    def make(xp: Any) -> Callable[..., Any]:
        def f(t: Any, y: Any, c2: Any) -> Any:
            q, p = y
            around = xp.roll(q, 1, axis=0) + xp.roll(q, -1, axis=0)
            around = around + xp.roll(q, 1, axis=1) + xp.roll(q, -1, axis=1)
            return p, c2 * (around - 4.0 * q)

        return f

    x = 2 * np.pi * np.arange(m) / 32
    start = np.sin(x)[:, None] * np.cos(x)[None, :] + 0.3 * np.cos(2 * x)[:, None]
    cell = wave(32, steps) if m > 32 else None
    return Problem(
        f"wave_{m}x{m}", make, np.stack((start, np.zeros_like(start))), np.array(1.0),
        0.1 * steps, 0.1, solver="semi_implicit_euler", pair=True, cell=cell,
    )  # fmt: skip
