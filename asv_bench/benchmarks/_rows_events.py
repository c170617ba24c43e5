"""Timed rows of the report with events: a ball with drag, thrown until it meets the ground.

EV1: the solve and its end, in NumPy against SciPy, in PyTorch against torchdiffeq, in JAX against
diffrax; methods of one order, at tolerances where our error of the time at which it lands is no
larger. SciPy looks at a condition once a step, we do four times: two roots in a step are found.

EV2: a batch of such balls, each with steps and an end of its own, in NumPy and PyTorch against the
same by ``solve_ivp``, one by one; errors are of the worst ball.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import retrograde as rg

from ._cases import Case, Entrant, Rival

__all__ = ["event_rows"]

START = (0.0, 0.0, 30.0, 40.0)
DRAG = 0.01
TOLERANCE = {"rtol": 1e-7, "atol": 1e-9}
LANDS = 5.87231584996891
"""When it lands, by tolerances of 1e-13 (order 8)."""


def field(xp: Any) -> Any:
    """The ball, in a library's functions."""

    def f(t: Any, y: Any, k: Any) -> Any:
        speed = xp.sqrt(y[2] * y[2] + y[3] * y[3])
        return xp.stack([y[2], y[3], -k * speed * y[2], -9.81 - k * speed * y[3]])

    return f


def height(t: Any, y: Any, k: Any) -> Any:
    """Zero at the ground."""
    return y[1]


GROUND = rg.Event(height, direction=-1)


def _entrant(run: Any) -> Entrant:
    return Entrant(run, lambda t: abs(float(t) - LANDS) / LANDS)


def ours(library: str) -> Entrant:
    """Ours: the time at which it lands."""
    if library == "numpy":
        f, y0 = field(np), np.asarray(START)
    elif library == "torch":
        import torch

        f, y0 = field(torch), torch.tensor(START, dtype=torch.float64)
    else:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        f, y0 = field(jnp), jnp.asarray(START)
        run = jax.jit(lambda y0: rg.solve(f, y0, 0.0, 20.0, DRAG, event=GROUND, **TOLERANCE).ts[-1])
        return _entrant(lambda: run(y0).block_until_ready())
    keywords: Any = {"event": GROUND, "rtol": 3e-7, "atol": 3e-9}
    return _entrant(lambda: rg.solve(f, y0, 0.0, 20.0, DRAG, **keywords).ts[-1])


def scipy_solve() -> Entrant:
    """``solve_ivp`` with a terminal event."""
    from scipy.integrate import solve_ivp

    f, y0 = field(np), np.asarray(START)

    def ground(t: float, y: Any) -> Any:
        return y[1]

    ground.terminal, ground.direction = True, -1.0  # type: ignore[attr-defined]
    fun = partial(lambda t, y: f(t, y, DRAG))
    keywords = {"events": ground, "method": "RK45", **TOLERANCE}
    return _entrant(lambda: solve_ivp(fun, (0.0, 20.0), y0, **keywords).t_events[0][0])


def torchdiffeq_solve() -> Entrant:
    """``odeint_event``; it has no direction, so the start is above the ground by a rounding."""
    import torch
    import torchdiffeq

    f, t0 = field(torch), torch.tensor(0.0, dtype=torch.float64)
    y0 = torch.tensor(START, dtype=torch.float64) + 1e-14

    def run() -> Any:
        with torch.no_grad():
            return torchdiffeq.odeint_event(
                lambda t, y: f(t, y, DRAG), y0, t0, event_fn=lambda t, y: y[1],
                odeint_interface=torchdiffeq.odeint, method="dopri5", **TOLERANCE,
            )[0]  # fmt: skip

    return _entrant(run)


def diffrax_solve() -> Entrant:
    """``diffeqsolve`` with an event and its Newton iteration."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import optimistix

    jax.config.update("jax_enable_x64", True)
    f, y0 = field(jnp), jnp.asarray(START)
    newton = optimistix.Newton(1e-10, 1e-10, optimistix.rms_norm)
    event = diffrax.Event(lambda t, y, args, **_: y[1], newton, direction=False)
    controller = diffrax.PIDController(**TOLERANCE, pcoeff=0.2, icoeff=0.65)

    @jax.jit
    def run(y0: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, 20.0, None, y0, DRAG, event=event,
            stepsize_controller=controller,
        ).ts[-1]  # fmt: skip

    return _entrant(lambda: run(y0).block_until_ready())


def balls(count: int) -> np.ndarray:
    """As many, thrown upwards at 20 to 60."""
    speeds = np.linspace(20.0, 60.0, count)
    return np.stack([0 * speeds, 0 * speeds, 30.0 + 0 * speeds, speeds], axis=-1)


def batch_field(xp: Any) -> Any:
    """The balls of a batch."""

    def f(t: Any, y: Any, k: Any) -> Any:
        u, w = y[..., 2], y[..., 3]
        speed = xp.sqrt(u * u + w * w)
        return xp.stack([u, w, -k * speed * u, -9.81 - k * speed * w], -1)

    return f


def landings(library: str, count: int, **keywords: Any) -> Any:
    """When each ball lands, by one solve of all."""
    xp = importlib.import_module(library)
    y0, f = xp.asarray(balls(count)), batch_field(xp)
    ground = rg.Event(lambda t, y, k: y[..., 1], direction=-1)
    sol = rg.solve(f, y0, 0.0, 20.0, DRAG, event=ground, per_sample=True, **keywords)
    return np.asarray(sol.ts[-1])


@functools.cache
def landed(count: int) -> Any:
    """The same, to compare with."""
    return landings("numpy", count, solver="dopri8", rtol=1e-12, atol=1e-12)


def _worst(run: Any, count: int) -> Entrant:
    return Entrant(run, lambda t: float(np.max(np.abs(t / landed(count) - 1.0))))


def ours_of_all(library: str, count: int) -> Entrant:
    """Ours: one solve."""
    return _worst(partial(landings, library, count, **TOLERANCE), count)


def scipy_one_by_one(count: int) -> Entrant:
    """A ``solve_ivp`` for each."""
    from scipy.integrate import solve_ivp

    f = field(np)

    def ground(t: float, y: Any) -> Any:
        return y[1]

    ground.terminal, ground.direction = True, -1.0  # type: ignore[attr-defined]
    keywords: Any = {"events": ground, "method": "RK45", **TOLERANCE}
    fun = partial(lambda t, y: f(t, y, DRAG))

    def run() -> Any:
        found = [solve_ivp(fun, (0.0, 20.0), y0, **keywords) for y0 in balls(count)]
        return np.asarray([one.t_events[0][0] for one in found])

    return _worst(run, count)


def event_rows() -> Iterator[Case]:
    """EV1 and EV2."""
    rivals = {
        "numpy": Rival("EV1", "SciPy RK45", 0.6, scipy_solve),
        "torch": Rival("EV1", "torchdiffeq dopri5", 1.0, torchdiffeq_solve),
        "jax": Rival("EV1", "diffrax Tsit5", 1.0, diffrax_solve),
    }
    for library, rival in rivals.items():
        yield Case(f"until an event, {library}, a ball with drag", partial(ours, library), (rival,))
    for library in ("numpy", "torch"):
        work = f"until an event of each, {library}, 1,000 balls with drag"
        rival = Rival("EV2", "SciPy RK45, one by one", 10.0, partial(scipy_one_by_one, 1000))
        yield Case(work, partial(ours_of_all, library, 1000), (rival,), rounds=3)
