"""Timed rows of the report for stiff problems of few unknowns: Robertson's, HIRES, and others.

ST1: solves and gradients by ``rodas5p`` in JAX against diffrax' ``Kvaerno5``, its gradient by
``RecursiveCheckpointAdjoint``; ST2: solves in NumPy and PyTorch, compiled or not, against SciPy's
``Radau`` and ``LSODA``, and compiled gradients in PyTorch against those that are not; ST4: tracing
and compiling gradients of ST1, JAX itself warm. Tolerances are those at which errors are about
equal, of each pair by itself. HIRES misses its targets beside ``Radau`` in NumPy and uncompiled
PyTorch: there calls of f take most of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg

from ._cases import Case, Entrant, Rival

__all__ = ["stiff_cases"]


class Stiff(NamedTuple):
    """A problem; ``scale`` is that of atol, ``rtol`` by who solves it.

    ``end`` is of SciPy's ``Radau`` at rtol 1e-11.
    """

    f: Any
    y0: tuple[float, ...]
    t1: float
    args: Any
    scale: float
    rtol: dict[str, float]
    end: tuple[float, ...]


def van_der_pol(xp: Any, t: Any, y: Any, mu: Any) -> Any:
    """Relaxation between jumps."""
    return xp.stack([y[1], mu * ((1.0 - y[0] ** 2) * y[1]) - y[0]])


def oregonator(xp: Any, t: Any, y: Any, k: Any) -> Any:
    """Belousov and Zhabotinsky's reaction, 3 species."""
    return xp.stack([
        k[0] * (y[1] + y[0] * (1.0 - k[1] * y[0] - y[1])),
        (y[2] - (1.0 + y[0]) * y[1]) / k[0],
        k[2] * (y[0] - y[2]),
    ])  # fmt: skip


def robertson(xp: Any, t: Any, y: Any, k: Any) -> Any:
    """Rates of 0.04 to 3e7."""
    a, b, c = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
    return xp.stack([c - a, a - b - c, b])


def hires(xp: Any, t: Any, y: Any, k: Any) -> Any:
    """High irradiance responses, 8 species (Hairer & Wanner, *Solving ODEs II*, IV.10)."""
    bound = k * y[5] * y[7] - 1.81 * y[6]
    return xp.stack([
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -k * y[5] * y[7] + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        bound,
        -bound,
    ])  # fmt: skip


PROBLEMS = {
    "Robertson": Stiff(
        robertson, (1.0, 0.0, 0.0), 1e5, (0.04, 3e7, 1e4), 1e-6,
        {"ours": 4e-7, "ours, as Radau": 1e-6, "jax": 1e-8, "Kvaerno5": 1e-6, "Radau": 1e-5,
         "LSODA": 1e-7},
        (0.0178659211421158, 7.274751468442964e-08, 0.9821340061103861),
    ),
    "HIRES": Stiff(
        hires, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), 321.8122, 280.0, 1e-3,
        {"ours": 1e-6, "ours, as Radau": 3e-6, "jax": 2e-7, "Kvaerno5": 1e-6, "Radau": 1e-4,
         "LSODA": 1e-7},
        (0.0007371312573325968, 0.00014424857263162436, 5.888729740968132e-05,
         0.0011756513432832048, 0.0023863561988322285, 0.00623896825274533,
         0.0028499983951866792, 0.0028500016048133418),
    ),
    "Robertson to 1e11": Stiff(
        robertson, (1.0, 0.0, 0.0), 1e11, (0.04, 3e7, 1e4), 1e-6,
        {"ours": 1e-6, "jax": 1e-6, "Kvaerno5": 1e-7, "Radau": 1e-5, "LSODA": 1e-8},
        (2.0833401546205094e-08, 8.333360790011816e-14, 0.9999999791664946),
    ),
    "van der Pol": Stiff(
        van_der_pol, (2.0, 0.0), 3000.0, 1000.0, 1.0,
        {"ours": 1e-6, "jax": 5e-7, "Kvaerno5": 1e-7, "Radau": 1e-5, "LSODA": 1e-8},
        (-1.5106069368192336, 0.0011783800005806294),
    ),
    "Oregonator": Stiff(
        oregonator, (1.0, 2.0, 3.0), 360.0, (77.27, 8.375e-6, 0.161), 1e-3,
        {"ours": 6e-6, "ours, as Radau": 1e-5, "jax": 1e-6, "Kvaerno5": 1e-7, "Radau": 1e-4,
         "LSODA": 1e-7},
        (1.000814870318523, 1228.178521549901, 132.0554942846629),
    ),
}  # fmt: skip


EAGER = (
    ("NumPy", "Radau", 1.4), ("NumPy", "LSODA", 0.33), ("PyTorch", "Radau", 0.25),
    ("PyTorch, compiled", "Radau", 1.0),
)  # fmt: skip
"""Library, peer, and what the ratio is to be."""

COMPILED = ("Robertson", "HIRES")
"""Those that the rows of compilation take."""

TUNED = {"pcoeff": 0.3, "icoeff": 0.3}
"""Gains with which diffrax' ``Kvaerno5`` rejects few tries; its default ones are (0, 1)."""


def _error(case: Stiff, y: Any) -> float:
    """The largest of the components', relative to each."""
    end = np.asarray(case.end)
    return float(np.max(np.abs(np.asarray(y) - end) / (np.abs(end) + 1e-3 * case.scale)))


def _tolerances(case: Stiff, who: str) -> dict[str, float]:
    rtol = case.rtol[who]
    return {"rtol": rtol, "atol": rtol * case.scale}


def _end(case: Stiff, xp: Any, y0: Any, args: Any, who: str = "ours", **options: bool) -> Any:
    f, found = partial(case.f, xp), _tolerances(case, who)
    return rg.solve(f, y0, 0.0, case.t1, args, solver="rodas5p", **found, **options).ys[-1]


def eager(case: Stiff, name: str, peer: str) -> Entrant:
    """Ours in NumPy or PyTorch, at a peer's error."""
    if name == "NumPy":
        xp, make = np, np.asarray
    else:
        import torch

        xp, make = torch, partial(torch.tensor, dtype=torch.float64)
    y0, args = make(case.y0), make(case.args)
    who = f"ours, as {peer}"
    who = who if who in case.rtol else "ours"
    compiled = name.endswith("compiled")
    run = lambda: _end(case, xp, y0, args, who, compile=compiled)  # noqa: E731
    return Entrant(run, partial(_error, case))


def torch_gradient(case: Stiff, *, compiled: bool) -> Entrant:
    """Ours in PyTorch, by y0 and args; its error is not known."""
    import torch

    y0, args = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (case.y0, case.args))

    def run() -> Any:
        end = _end(case, torch, y0, args, compile=compiled)
        return torch.autograd.grad(end[0], (y0, args))

    return Entrant(run, lambda found: 0.0)


def scipy(case: Stiff, method: str) -> Entrant:
    """``solve_ivp``."""
    from scipy.integrate import solve_ivp

    args = np.asarray(case.args)
    fun = lambda t, y: case.f(np, t, y, args)  # noqa: E731
    span, keywords = (0.0, case.t1), {"method": method, **_tolerances(case, method)}
    return Entrant(
        lambda: solve_ivp(fun, span, case.y0, **keywords).y[:, -1], partial(_error, case)
    )


def traced(case: Stiff, solve: Any, gradient: bool, compiling: bool = False) -> Entrant:
    """A compiled solve, or its gradient by y0 and args, or compiling that anew; the error of a
    gradient is not known."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    y0, args = jnp.asarray(case.y0), jnp.asarray(case.args)
    if gradient or compiling:
        of = lambda: jax.jit(jax.grad(lambda y0, args: solve(y0, args)[0], argnums=(0, 1)))  # noqa: E731
        if compiling:
            return Entrant(lambda: of().lower(y0, args).compile(), lambda found: 0.0)
        run = of()
        return Entrant(lambda: jax.block_until_ready(run(y0, args)), lambda found: 0.0)
    run = jax.jit(solve)
    return Entrant(lambda: jax.block_until_ready(run(y0, args)), partial(_error, case))


def jax_ours(case: Stiff, **what: bool) -> Entrant:
    """Ours in JAX."""
    import jax.numpy as jnp

    return traced(case, partial(_end, case, jnp, who="jax"), **what)


def kvaerno5(case: Stiff, gains: dict[str, float] | None = None, **what: bool) -> Entrant:
    """diffrax, as its documentation solves stiff problems, or with other gains."""
    import diffrax
    import jax.numpy as jnp

    def solve(y0: Any, args: Any) -> Any:
        controller = diffrax.PIDController(**_tolerances(case, "Kvaerno5"), **(gains or {}))
        term = diffrax.ODETerm(partial(case.f, jnp))
        return diffrax.diffeqsolve(
            term, diffrax.Kvaerno5(), 0.0, case.t1, None, y0, args,
            stepsize_controller=controller, max_steps=16**4,
        ).ys[-1]  # fmt: skip

    return traced(case, solve, **what)


def stiff_cases() -> Iterator[Case]:
    """ST1, ST2 and ST4."""
    for name, case in PROBLEMS.items():
        for work, what, least in (("solve", False, 10.0), ("gradient", True, 20.0)):
            beside = [_beside_kvaerno5("ST1", case, least, gradient=what)]
            if name in COMPILED and not what:
                make = partial(kvaerno5, case, TUNED, gradient=False)
                beside.append(Rival("ST1", "diffrax, Kvaerno5, PI", least, make))
            ours = partial(jax_ours, case, gradient=what)
            yield Case(f"{work}, {name}, JAX", ours, tuple(beside), rounds=3)
        if name in COMPILED:
            rival = _beside_kvaerno5("ST4", case, 2.0, gradient=True, compiling=True)
            ours = partial(jax_ours, case, gradient=True, compiling=True)
            yield Case(f"compile the gradient, {name}, JAX", ours, (rival,), rounds=3)
            beside_itself = partial(torch_gradient, case, compiled=False)
            rival = Rival("ST2", "not compiled", 10.0, beside_itself)
            ours = partial(torch_gradient, case, compiled=True)
            yield Case(f"gradient, {name}, PyTorch, compiled", ours, (rival,), rounds=3)
        for library, peer, least in EAGER:
            quick = (name, library) == ("Robertson", "NumPy")
            ours = partial(eager, case, library, peer)
            rival = Rival("ST2", f"SciPy, {peer}", least, partial(scipy, case, peer))
            yield Case(f"solve, {name}, {library}", ours, (rival,), quick, rounds=3)


def _beside_kvaerno5(row: str, case: Stiff, least: float, **what: bool) -> Rival:
    return Rival(row, "diffrax, Kvaerno5", least, partial(kvaerno5, case, **what))
