"""Every array of a gradient is charged: what autograd makes for parts of args, what rows add."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.registry import adapter
from retrograde._commands.demo.fit import Objective
from retrograde._commands.demo.problem import guesses
from retrograde.measure import peak_gradient_bytes


def fields(xp):
    """Right-hand sides that take their numbers from a matrix p of many rows, by all its routes."""

    def indices(t, y, p):
        h, l = xp.exp(y[0]), xp.exp(y[1])  # noqa: E741
        return xp.stack([p[0] - p[1] * l, p[3] * h - p[2]])

    def slices(t, y, p):
        h, l = xp.exp(y[:1]), xp.exp(y[1:])  # noqa: E741
        return xp.concatenate([p[:1] - p[1:2] * l, p[3:4] * h - p[2:3]])

    def rows(t, y, p):
        a, b, c, d, *_ = p.unbind() if hasattr(p, "unbind") else list(p)
        h, l = xp.exp(y[0]), xp.exp(y[1])  # noqa: E741
        return xp.stack([a - b * l, d * h - c])

    def sums(t, y, p):
        return xp.sin(1e-9 * (p * p).sum() + p.mean()) * y

    return {"indices": indices, "slices": slices, "rows": rows, "sums": sums}


def measured(library, name, rows, budget, *, native=False):
    """(measured, plan) of the gradient of a solve whose args hold so many rows."""
    xp = pytest.importorskip(library)
    if library == "jax":
        xp.config.update("jax_enable_x64", True)
        xp = importlib.import_module("jax.numpy")
    f, array = fields(xp)[name], adapter(library).xp.asarray
    y0, p = array(np.ones((2, 64))), array(np.linspace(0.0, 1.0, 64 * rows).reshape(rows, 64))
    keywords = {"dt": 0.1, "solver": "rk4"}

    def forward(y0, p):
        return rg.solve(f, y0, 0.0, 4.0, p, **keywords).ys

    def gradient(y0, p):
        sol, pull = rg.solve_vjp(f, y0, 0.0, 4.0, p, memory=budget, **keywords)
        return pull(xp.ones_like(sol.ys))

    def autograd(y0, p):
        y0, p = (x.detach().requires_grad_() for x in (y0, p))
        ys = rg.solve(f, y0, 0.0, 4.0, p, memory=budget, **keywords).ys
        return xp.autograd.grad(ys.sum(), (y0, p))

    plan = rg.plan(f, y0, 0.0, 4.0, p, memory=budget, **keywords)
    size = peak_gradient_bytes(forward, autograd if native else gradient, y0, p).bytes
    return size, plan


@pytest.mark.quick("indices-40-120000-solve_vjp", "slices-40-120000-backward")
@pytest.mark.parametrize("native", [False, True], ids=["solve_vjp", "backward"])
@pytest.mark.parametrize(
    ("name", "rows", "budget"),
    [
        ("indices", 4, 70_000),
        ("indices", 40, 120_000),
        ("indices", 400, 860_000),
        ("slices", 40, 120_000),
        ("rows", 40, 120_000),
    ],
)
def test_parts_of_args_are_charged_on_torch(name, rows, budget, native):
    """Each ``p[i]`` is a tensor of zeros as large as p in the vjp; a sum of two a third."""
    size, plan = measured("torch", name, rows, budget, native=native)
    assert size <= budget
    if isinstance(plan.adjoint, rg.BacksolveAdjoint):
        assert 0.85 <= size / plan.memory <= 1


def test_what_does_not_fit_with_its_zeros_is_refused():
    """400 rows are 205 kB: their sums, and three of that size in each pull, are beyond 450 kB."""
    with pytest.raises(rg.PlanInfeasible, match=r"cotangents of a pull: 60\d KiB"):
        measured("torch", "indices", 400, 450_000)


def test_args_that_are_summed_are_charged_on_torch():
    size, _ = measured("torch", "sums", 100, 450_000)
    assert size <= 450_000


@pytest.mark.parametrize("name", ["indices", "slices", "rows", "sums"])
def test_parts_of_args_are_charged_on_numpy(name):
    size, _ = measured("numpy", name, 40, 300_000)
    assert size <= 300_000


def test_parts_of_args_are_charged_on_jax():
    """A sum of parts is made in place there."""
    size, _ = measured("jax", "indices", 400, 900_000)
    assert size <= 900_000


@pytest.mark.slow
@pytest.mark.parametrize("before", ["slow", "as long"])
@pytest.mark.parametrize("kib", [80, 96])
def test_the_demo_keeps_its_budget_after_short_solves_and_long_ones(kib, before):
    """A plan follows the count of the solve before: few steps of slow rates, 193 of the guesses."""
    pytest.importorskip("torch")
    bk = adapter("torch")
    x = bk.xp.asarray(guesses(np, 64))
    weights = bk.xp.ones((21, 2, 64), dtype=bk.xp.float64)
    slow = bk.xp.asarray(np.concatenate([np.full((4, 64), -6.0), np.full((2, 64), 1.0)]))
    objective = Objective(bk, f"{kib} KiB")
    objective.pull(slow if before == "slow" else x, weights)
    forward = lambda x, _: objective.curves(x)  # noqa: E731
    size = peak_gradient_bytes(forward, objective.pull, x, weights).bytes
    assert 0.8 * kib * 1024 <= size <= kib * 1024
