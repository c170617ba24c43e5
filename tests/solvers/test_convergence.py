"""Observed order of every solver: halve the step, and the error falls by 2**order."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg

SOLVERS = {
    solver.name: solver
    for solver in (
        rg.Euler(),
        rg.Heun(),
        rg.Midpoint(),
        rg.Ralston(),
        rg.Bosh3(),
        rg.RK4(),
        rg.Dopri5(),
        rg.Tsit5(),
    )
}
each = pytest.mark.parametrize("name", SOLVERS)


def errors(backend, solver, t0, t1, counts):
    """Errors at t1 of y' = y cos t, with numbers of steps."""

    def f(t, y, args):
        return y * backend.namespace(y).cos(t)

    exact = np.exp(math.sin(t1) - math.sin(t0))
    found = []
    for n in counts:
        dt = (t1 - t0) / n
        sol = rg.solve(f, backend.array([1.0]), t0, t1, solver=solver, dt=dt)
        found.append(abs(float(backend.to_numpy(sol.ys)[0, 0]) - exact))
    return found


@each
@pytest.mark.parametrize(("t0", "t1"), [(0.3, 2.3), (2.3, 0.3)], ids=["forward", "backward"])
def test_observed_order(backend, name, t0, t1):
    solver = SOLVERS[name]
    if not backend.eager and name not in ("euler", "tsit5"):
        pytest.skip("two solvers are enough to compile")
    coarse, fine = errors(backend, solver, t0, t1, (40, 80) if solver.order < 5 else (20, 40))
    assert solver.order - 0.25 < math.log2(coarse / fine) < solver.order + 0.6


@each
def test_name_and_instance_are_one(reference, name):
    y0 = np.asarray([1.0, 0.5])
    by_name, by_instance = (
        rg.solve(lambda t, y, a: -y * t, y0, 0.0, 1.0, solver=solver, dt=0.1).ys
        for solver in (name, SOLVERS[name])
    )
    assert np.array_equal(by_name, by_instance)


@each
def test_tolerance_controls_the_error(reference, name):
    """A hundredth of the tolerance: an error smaller by ten at least."""
    solver = SOLVERS[name]
    if solver.error_order is None:
        pytest.skip("no error estimate")
    y0, exact = np.asarray([1.0]), np.exp(math.sin(3.0))
    found = []
    for tol in (1e-4, 1e-6):
        sol = rg.solve(
            lambda t, y, a: y * np.cos(t), y0, 0.0, 3.0, solver=solver, rtol=tol, atol=tol
        )
        found.append(abs(sol.ys[0, 0] - exact))
    assert found[1] < found[0] / 10
    assert found[0] < 100 * 1e-4


def test_a_tableau_of_the_users(backend):
    """A page with a tableau is a solver: Heun's third-order method."""

    class Heun3(rg.ExplicitRungeKutta):
        tableau = rg.Tableau(
            a=((), (1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4), c=(0.0, 1 / 3, 2 / 3), order=3
        )

    coarse, fine = errors(backend, Heun3(), 0.0, 1.0, (20, 40))
    assert 2.75 < math.log2(coarse / fine) < 3.6
