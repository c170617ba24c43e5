"""Timed rows of the report for a stiff system on a mesh: the Brusselator of 1,000 unknowns.

ST3: solves by ``rodas5p`` and bands in JAX against CVODE's (scikit-sundae), whose core is C and
whose f is NumPy's, and in NumPy against SciPy's ``Radau``, told the sparsity, and ``LSODA``, told
the band. Tolerances are those at which errors are about equal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import retrograde as rg

from ._cases import Case, Entrant, Rival

__all__ = ["mesh_rows"]

CELLS = 500
END = 10.0
ARGS = np.array([0.02, 1.0, 3.0])
RTOL = {"ours": 2e-6, "CVODE": 1e-6, "Radau": 1e-4, "LSODA": 1e-6}


def brusselator(xp: Any, t: Any, y: Any, k: Any) -> Any:
    """Diffusion and two reactions on a line (Hairer & Wanner, *Solving ODEs II*, IV.10); k is
    (diffusion, A, B)."""
    u, v = y[0::2], y[1::2]
    scale = k[0] * (u.shape[0] + 1.0) ** 2

    def spread(x: Any, edge: Any) -> Any:
        wide = xp.concat([edge, x, edge])
        return scale * (wide[2:] - 2.0 * x + wide[:-2])

    both = u * u * v
    du = k[1] + both - (k[2] + 1.0) * u + spread(u, k[1:2])
    dv = k[2] * u - both + spread(v, k[2:3])
    return xp.stack([du, dv], axis=1).reshape(-1)


def start() -> Any:
    """A wave of u; v is B."""
    x = np.arange(1, CELLS + 1) / (CELLS + 1)
    return np.stack([1 + np.sin(2 * np.pi * x), 3 + 0 * x], axis=1).reshape(-1)


def _field(t: Any, y: Any) -> Any:
    return brusselator(np, t, y, ARGS)


def scipy(method: str, rtol: float | None = None) -> Entrant:
    """``solve_ivp`` with what is known of the Jacobian."""
    from scipy.integrate import solve_ivp
    from scipy.sparse import diags_array

    rtol = RTOL[method] if rtol is None else rtol
    known: dict[str, Any] = {"lband": 2, "uband": 2}
    if method == "Radau":
        bands = [np.ones(2 * CELLS - abs(i)) for i in range(-2, 3)]
        known = {"jac_sparsity": diags_array(bands, offsets=range(-2, 3))}
    keywords = {"method": method, "rtol": rtol, "atol": rtol, **known}
    return Entrant(lambda: solve_ivp(_field, (0.0, END), start(), **keywords).y[:, -1], _error)


def cvode() -> Entrant:
    """CVODE's BDF with a banded matrix of differences."""
    try:
        from sksundae.cvode import CVODE
    except ImportError as absent:
        raise NotImplementedError(f"scikit-sundae: {absent}") from None

    def rhs(t: Any, y: Any, ydot: Any) -> None:
        ydot[:] = _field(t, y)

    def run() -> Any:
        rtol = RTOL["CVODE"]
        band = {"linsolver": "band", "lband": 2, "uband": 2}
        return CVODE(rhs, rtol=rtol, atol=rtol, **band).solve([0.0, END], start()).y[-1]

    return Entrant(run, _error)


def _solve(xp: Any, y0: Any, args: Any) -> Any:
    f = rg.VectorField(partial(brusselator, xp), structure=rg.Banded(2, 2))
    rtol = RTOL["ours"]
    return rg.solve(f, y0, 0.0, END, args, solver="rodas5p", rtol=rtol, atol=rtol).ys[-1]


def numpy_ours() -> Entrant:
    """Ours in NumPy."""
    return Entrant(lambda: _solve(np, start(), ARGS), _error)


def jax_ours() -> Entrant:
    """Ours in JAX, compiled."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    run, y0, args = jax.jit(partial(_solve, jnp)), jnp.asarray(start()), jnp.asarray(ARGS)
    return Entrant(lambda: jax.block_until_ready(run(y0, args)), _error)


@functools.cache
def _exact() -> Any:
    return scipy("LSODA", 1e-12).run()


def _error(y: Any) -> float:
    """The largest, relative."""
    return float(np.max(np.abs(np.asarray(y) - _exact()) / np.abs(_exact())))


def mesh_rows() -> Iterator[Case]:
    """ST3."""
    yield Case(
        "solve, Brusselator of 1,000, JAX", jax_ours, (Rival("ST3", "CVODE, band", 0.7, cvode),)
    )
    rivals = (
        Rival("ST3", "SciPy, Radau, sparse", 1.0, partial(scipy, "Radau")),
        Rival("ST3", "SciPy, LSODA, band", 0.25, partial(scipy, "LSODA")),
    )
    yield Case("solve, Brusselator of 1,000, NumPy", numpy_ours, rivals, rounds=5)
