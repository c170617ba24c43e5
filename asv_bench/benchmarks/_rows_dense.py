"""Timed rows of the report with dense output: a solve, and the solution at 1,000 times afterwards.

DO1: in NumPy against SciPy's ``OdeSolution``, in JAX against diffrax (which has an interpolant of
order 4 with Tsit5, as we do); methods of one order, at tolerances where our error is no larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import retrograde as rg

from ._cases import Case, Entrant, Rival

__all__ = ["dense_rows"]

END, TIMES = 10.0, np.linspace(0.0, 10.0, 1000)
START, RATES = (10.0, 10.0), (1.5, 1.0, 3.0, 1.0)
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}
OURS = {"numpy": {"rtol": 5e-6, "atol": 5e-8}, "jax": {"rtol": 3e-7, "atol": 3e-9}}
"""At which our errors are 0.6 and 0.4 of the others'."""
DENSE = rg.SaveAt(dense=True)


def field(xp: Any) -> Any:
    """Lotka and Volterra's, in a library's functions."""

    def f(t: Any, y: Any, rates: Any) -> Any:
        a, b, c, d = rates
        return xp.stack([a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]])

    return f


def _entrant(run: Any) -> Entrant:
    """The error is the largest of all times, relative to the largest number."""
    exact = rg.solve(
        field(np), np.asarray(START), 0.0, END, RATES, solver="dopri8", rtol=1e-12, atol=1e-12,
        saveat=DENSE,
    ).evaluate(TIMES)  # fmt: skip
    return Entrant(run, lambda ys: float(np.abs(np.asarray(ys) - exact).max() / exact.max()))


def ours(library: str) -> Entrant:
    """Ours: rows of shape (1000, 2)."""
    if library == "numpy":
        f, y0 = field(np), np.asarray(START)
        keywords: Any = {"saveat": DENSE, **OURS["numpy"]}
        return _entrant(lambda: rg.solve(f, y0, 0.0, END, RATES, **keywords).evaluate(TIMES))
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    f, y0, times = field(jnp), jnp.asarray(START), jnp.asarray(TIMES)
    keywords = {"saveat": DENSE, "max_steps": 512, **OURS["jax"]}
    run = jax.jit(lambda y0: rg.solve(f, y0, 0.0, END, RATES, **keywords).evaluate(times))
    return _entrant(lambda: run(y0).block_until_ready())


def scipy_dense() -> Entrant:
    """``solve_ivp`` with ``dense_output``."""
    from scipy.integrate import solve_ivp

    f, y0 = field(np), np.asarray(START)
    fun = partial(lambda t, y: f(t, y, RATES))
    keywords = {"dense_output": True, "method": "RK45", **TOLERANCE}
    return _entrant(lambda: solve_ivp(fun, (0.0, END), y0, **keywords).sol(TIMES).T)


def diffrax_dense() -> Entrant:
    """``diffeqsolve`` with ``SaveAt(dense=True)``."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    f, y0, times = field(jnp), jnp.asarray(START), jnp.asarray(TIMES)
    controller = diffrax.PIDController(**TOLERANCE)

    @jax.jit
    def run(y0: Any) -> Any:
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, END, None, y0, RATES,
            saveat=diffrax.SaveAt(dense=True), stepsize_controller=controller, max_steps=512,
        )  # fmt: skip
        return jax.vmap(sol.evaluate)(times)

    return _entrant(lambda: run(y0).block_until_ready())


def dense_rows() -> Iterator[Case]:
    """DO1."""
    rivals = {
        "numpy": Rival("DO1", "SciPy RK45", 1.0, scipy_dense),
        "jax": Rival("DO1", "diffrax Tsit5", 2.0, diffrax_dense),
    }
    for library, rival in rivals.items():
        yield Case(f"dense output at 1,000 times, {library}", partial(ours, library), (rival,))
