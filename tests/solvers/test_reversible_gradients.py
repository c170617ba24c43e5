"""Gradients of solves by reversible solvers: one by every adjoint, that of differences."""

from __future__ import annotations

import functools
import pathlib
import runpy

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

_cases = runpy.run_path(str(pathlib.Path(__file__).with_name("reversible_cases.py")))
SOLVERS = _cases["SOLVERS"]
pendulums = _cases["pendulums"]
waves = _cases["waves"]
flat = _cases["flat"]
each = pytest.mark.parametrize("name", SOLVERS)
ADJOINTS = {
    "all": rg.RecursiveCheckpointAdjoint(),
    "1 slot": rg.RecursiveCheckpointAdjoint(1),
    "4 slots": rg.RecursiveCheckpointAdjoint(4),
    "window": rg.RecursiveCheckpointAdjoint(3, window=2),
    "segments": rg.RecursiveCheckpointAdjoint(5, window=4),
    "one tape": rg.RecursiveCheckpointAdjoint(3, one_tape=True),
    "direct": rg.DirectAdjoint(),
}
WISHES = {
    "t1": {},
    "rows": {"t0": True, "ts": [0.0, 0.33, 0.41, 0.95], "t1": True},
    "steps": {"steps": True},
    "fn": {"ts": [0.33, 0.95], "fn": lambda t, y, p: p[0] * y[0][1] * t},
}

ADAPTIVE = {"dt": None, "rtol": 1e-3, "atol": 1e-4, "max_steps": 128}


def gradient(backend, name, wish, adjoint, weights=None, **keywords):
    f, y0, p = pendulums(backend)
    saveat = rg.SaveAt(**WISHES[wish])
    keywords = {"solver": SOLVERS[name], "dt": 0.1, "times": True, **keywords}
    return backend.gradient(
        f, y0, 0.0, 1.0, p, weights, saveat=saveat, adjoint=ADJOINTS[adjoint], **keywords
    )


@functools.cache
def everything_stored(reference, name, wish, adaptive=False):
    """Weights of the rows, and the gradient to agree with."""
    steps = ADAPTIVE if adaptive else {}
    weights = waves(gradient(reference, name, wish, "all", **steps).ys)
    return weights, gradient(reference, name, wish, "all", weights, **steps)


@pytest.mark.settings(
    name=SOLVERS,
    wish=WISHES,
    adjoint=ADJOINTS,
    few={
        "jax": [("coupled heun", "rows", "segments")],
        "jax:jit": [("alf", "fn", "4 slots")],
    },
    slow={
        "jax": [("velocity_verlet", "rows", "4 slots"), ("reversible_heun", "steps", "window")],
        "jax:jit": [
            ("mclachlan4", "rows", "4 slots"),
            ("velocity_verlet", "rows", "direct"),
            ("reversible_heun", "rows", "direct"),
            ("yoshida4", "rows", "direct"),
        ],
    },
)
def test_every_adjoint_gives_one_gradient(backend, reference, name, wish, adjoint):
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has no autodiff")
    weights, expected = everything_stored(reference, name, wish)
    same(gradient(backend, name, wish, adjoint, weights), expected)


@pytest.mark.settings(
    name=["reversible_heun", "coupled heun"],
    wish=["rows", "steps"],
    adjoint=["4 slots", "direct"],
    few={"jax": []},
)
def test_adaptive_steps(backend, reference, name, wish, adjoint):
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has no autodiff")
    weights, expected = everything_stored(reference, name, wish, adaptive=True)
    same(gradient(backend, name, wish, adjoint, weights, **ADAPTIVE), expected)


def same(g, expected):
    for actual, value in zip(flat(g), flat(expected), strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-11)


@pytest.mark.quick("velocity_verlet")
@pytest.mark.parametrize("name", ["velocity_verlet", "yoshida4", "mclachlan4", "yoshida6"])
def test_walks_back_by_inverted_steps(reference, name):
    """A thousand steps from one stored state: the gradient of every state stored."""
    f, y0, p = pendulums(reference)
    found = []
    for adjoint in (rg.ReversibleAdjoint(1), rg.RecursiveCheckpointAdjoint()):
        sol, pullback = rg.solve_vjp(
            f, y0, 0.0, 50.0, p, solver=SOLVERS[name], dt=0.05, saveat=[10.02, 50.0],
            adjoint=adjoint,
        )  # fmt: skip
        g = pullback(waves(sol.ys))
        found.append(flat((g.y0, g.args, g.t0, g.t1)))
        assert adjoint == rg.RecursiveCheckpointAdjoint() or sol.stats["inverted"] > 900
    for inverted, stored in zip(*found, strict=True):
        np.testing.assert_allclose(inverted, stored, rtol=1e-10, atol=1e-11)


@each
def test_gradient_against_differences(reference, name):
    """All inputs at once, along one direction; the last step is short, for then t1 may move."""
    f, y0, p = pendulums(reference)
    rng, t1 = np.random.default_rng(2), 0.97
    ts = np.asarray([0.33, 0.41, 0.95])

    def loss(y0, p, start, end, ts):
        rows = rg.SaveAt(ts=ts, t1=True)
        sol = rg.solve(f, y0, start, end, p, solver=SOLVERS[name], dt=0.1, saveat=rows)
        return sum(np.sum(w * x) for w, x in zip(flat(waves(sol.ys)), flat(sol.ys), strict=True))

    rows = rg.SaveAt(ts=ts, t1=True)
    sol, pullback = rg.solve_vjp(
        f, y0, 0.0, t1, p, solver=SOLVERS[name], dt=0.1, saveat=rows,
        adjoint=rg.RecursiveCheckpointAdjoint(4),
    )  # fmt: skip
    g = pullback(waves(sol.ys))
    inputs = (y0, p, 0.0, t1, ts)
    directions = [rng.normal(size=x.shape) for x in flat(inputs)]

    def moved(e):
        new = iter(x + e * d for x, d in zip(flat(inputs), directions, strict=True))
        start = ((next(new), next(new)), (next(new), next(new)))
        return loss(start, next(new), float(next(new)), float(next(new)), next(new))

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    cts = flat((g.y0, g.args, g.t0, g.t1, g.ts))
    found = sum(np.sum(x * d) for x, d in zip(cts, directions, strict=True))
    np.testing.assert_allclose(found, slope, rtol=1e-7)
