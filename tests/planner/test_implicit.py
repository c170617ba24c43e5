"""What solves by implicit methods leave behind, take, and are planned to take."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import retrograde as rg
from retrograde.measure import peak_gradient_bytes, traced_peak


def field(xp):
    """Diffusion between cold ends, a reaction, and a force that depends on time."""

    def heat(t, y, k):
        cold = xp.zeros_like(y[:1])
        between = xp.concat([y[1:], cold]) - 2.0 * y + xp.concat([cold, y[:-1]])
        return 30.0 * k * between - y**3 + xp.cos(t)

    return heat


def rates(xp):
    """Robertson's reactions in each row of a batch."""

    def react(t, y, k):
        a, b, c = 0.04 * y[:, 0], 3e3 * y[:, 1] * y[:, 1], k * y[:, 1] * y[:, 2]
        return xp.stack([c - a, a - b - c, b], axis=1)

    return react


def cooled(t, y, k):
    """A part that is not stiff."""
    return k * y**2


BAND = rg.Banded(1, 1)
SOLVERS = {
    "tsit5": "tsit5",
    "rodas5p": "rodas5p",
    "kvaerno3": "kvaerno3",
    "auto": "auto",
    "gmres": rg.Kvaerno3(linear_solver=rg.GMRES()),
    "split": "kencarp3",
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_leaves_nothing_to_the_collector(name):
    """A matrix that waits for the garbage collector is one that no plan has counted."""
    f = rg.Split(cooled, field(np)) if name == "split" else field(np)
    y0 = np.linspace(0.2, 1.0, 12)

    def gradient():
        sol, pull = rg.solve_vjp(f, y0, 0.0, 0.1, np.asarray(0.7), solver=SOLVERS[name])
        return pull(np.ones_like(sol.ys))

    gradient()  # what is made once a process
    gc.collect()
    gc.disable()
    try:
        gradient()
        assert gc.collect() == 0
    finally:
        gc.enable()


# --- budgets
T1, ARRAYS_ONLY = 0.1, 64 * 1024
"""Budgets beyond that count all that a library's account sees."""


class Case:
    """A gradient on one library, measured within budgets."""

    def __init__(self, backend, solver, kind, n):
        self.backend, xp = backend, backend.bk.xp
        self.more = {"solver": SOLVERS.get(solver, solver), "rtol": 1e-5, "atol": 1e-7}
        y0, k, f = np.linspace(0.2, 1.0, n), np.asarray(0.7), field(xp)
        if kind in ("banded", "split"):
            f = rg.VectorField(f, structure=BAND)
        if kind == "split":
            f = rg.Split(cooled, f)
        if kind == "coloured":
            near = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1
            f = rg.VectorField(f, structure=rg.Coloured(near))
        if kind == "batch":
            f, y0 = rg.VectorField(rates(xp), structure="batch"), np.repeat(np.eye(3)[:1], n, 0)
        if kind == "mass":
            self.more["mass"] = backend.array(np.diag(np.linspace(1.0, 2.0, n)))
        if kind == "wide":  # args as large as a matrix
            f, k = lambda t, y, w: -(w @ y) - y**3, np.diag(np.linspace(1.0, 40.0, n))
        self.f, self.point = f, (backend.array(y0), backend.array(k))

    def plan(self, memory):
        y0, k = self.point
        if self.backend.bk.name == "torch":
            y0, k = (x.clone().requires_grad_() for x in self.point)
        return rg.plan(self.f, y0, 0.0, T1, k, memory=memory, **self.more)

    def solve(self, y0, k, **more):
        return rg.solve(self.f, y0, 0.0, T1, k, **self.more, **more).ys

    def measured(self, memory):
        name = self.backend.bk.name

        def gradient(y0, k):
            if name == "numpy":
                more = {**self.more, "memory": memory}
                sol, pull = rg.solve_vjp(self.f, y0, 0.0, T1, k, **more)
                return pull(np.ones_like(sol.ys))
            y0, k = (x.detach().requires_grad_() for x in (y0, k))
            ys = self.solve(y0, k, memory=memory)
            found = self.backend.bk.xp.autograd.grad(ys.sum(), (y0, k))
            del ys, found

        if name == "jax":
            import jax

            gradient = jax.grad(lambda *x: self.solve(*x, memory=memory).sum(), argnums=(0, 1))
        return peak_gradient_bytes(self.solve, gradient, *self.point).bytes


def check(case):
    """Measured <= planned <= budget where all is stored, and where some of that fits."""
    whole = case.plan(2**40)
    assert isinstance(whole.adjoint, rg.RecursiveCheckpointAdjoint)
    for part in (1.0, 0.9, 0.7):
        budget = int(whole.memory * part)
        if part == 1.0:
            budget = max(budget, ARRAYS_ONLY + 1024)
        if budget <= ARRAYS_ONLY:
            break
        try:
            plan = case.plan(budget)
        except rg.PlanInfeasible:
            break
        assert case.measured(budget) <= plan.memory <= budget
        assert part > 0.8 or plan.adjoint != whole.adjoint


QUICK = [
    ("rosenbrock23", "dense", 20), ("rodas5p", "wide", 30), ("kvaerno3", "banded", 60),
    ("split", "split", 300), ("rodas5p", "batch", 300),
]  # fmt: skip
ALL = [
    (solver, kind, n)
    for n in (24, 60, 200)
    for solver, kinds in {
        "rodas5p": ("dense", "banded", "coloured", "batch", "mass", "wide"),
        "rosenbrock23": ("dense", "banded", "coloured", "batch", "mass"),
        "kvaerno5": ("dense", "banded", "coloured", "batch", "wide"),
        "kencarp4": ("split",),
        "auto": ("dense", "banded"),
        "gmres": ("dense", "banded"),
    }.items()
    for kind in kinds
]


@pytest.mark.libraries("numpy")
@pytest.mark.parametrize(("solver", "kind", "n"), QUICK)
def test_measured_peak_is_within_the_budget(backend, solver, kind, n):
    check(Case(backend, solver, kind, n))


@pytest.mark.slow
@pytest.mark.libraries("numpy")
@pytest.mark.parametrize(("solver", "kind", "n"), ALL)
def test_measured_peak_is_within_the_budget_of_every_kind(backend, solver, kind, n):
    check(Case(backend, solver, kind, n))


@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3", "auto"])
def test_the_cost_of_a_vjp_is_told_and_can_be_measured(solver):
    call = field(np), np.linspace(0.2, 1.0, 12), 0.0, 0.1, np.asarray(0.7)
    plan = rg.plan(*call, solver=solver)
    assert "F (by calls of f)" in str(plan)
    assert 1.0 < plan.vjp < 4.0
    assert "continuous" not in str(plan)  # which these methods have not
    assert rg.plan(*call, solver=solver, calibrate=True).calibrated


def test_a_plan_tells_that_a_gradient_is_by_differences():
    """Where f is not analytic, a product with second derivatives is."""
    call = lambda t, y, k: -k * np.abs(y) * y, np.asarray([1.0, -2.0]), 0.0, 1.0, np.asarray(0.7)
    plan = rg.plan(*call, solver="rodas5p")
    assert [c.accuracy for c in plan.candidates if c.verdict == "chosen"] == ["1e-9"]
    plan = rg.plan(*call, solver="kvaerno3")
    assert [c.accuracy for c in plan.candidates if c.verdict == "chosen"] == ["exact"]


@pytest.mark.slow
@pytest.mark.libraries("torch jax")
@pytest.mark.parametrize(
    ("solver", "kind", "n"), [("rodas5p", "dense", 60), ("kvaerno3", "wide", 30)]
)
def test_the_same_by_the_account_of_each_library(backend, solver, kind, n):
    """Below 64 KiB too: these libraries see arrays alone."""
    case = Case(backend, solver, kind, n)
    case.more["max_steps"] = 256
    budget = case.plan(2**40).memory
    assert case.measured(budget) <= case.plan(budget).memory <= budget


def test_planning_makes_no_matrix():
    """Of 4,000 unknowns one would be 128 MB."""
    call = field(np), np.linspace(0.2, 1.0, 4000), 0.0, 0.1, np.asarray(0.7)
    for solver in ("rodas5p", "kvaerno3"):
        peak = traced_peak(lambda s: rg.plan(*call, solver=s, dt=0.01), solver)
        assert peak < 8 * 4000 * 200
