"""Observed order of every solver: halve the step, and the error falls by 2**order."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

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
        rg.Dopri8(),
        rg.ReversibleHeun(),
        rg.ALF(),
    )
}
each = pytest.mark.parametrize("name", SOLVERS)


def turn(xp):
    """A rotation whose angle is t + t**2 / 2."""

    def f(t, y, args):
        return (1.0 + t) * xp(y).stack([-y[1], y[0]])

    return f


def angle(t0, t1):
    return t1 - t0 + (t1**2 - t0**2) / 2


def errors(backend, solver, t0, t1, counts):
    """Largest errors at t1 from (1, 0), with numbers of steps."""
    exact = [math.cos(angle(t0, t1)), math.sin(angle(t0, t1))]
    found = []
    for n in counts:
        dt, f = (t1 - t0) / n, turn(backend.namespace)
        sol = rg.solve(f, backend.array([1.0, 0.0]), t0, t1, solver=solver, dt=dt)
        found.append(np.max(np.abs(backend.to_numpy(sol.ys)[0] - exact)))
    return found


@pytest.mark.settings(
    name=SOLVERS,
    way=["forward", "backward"],
    few={"jax": [("tsit5", "forward")], "jax:jit": [("euler", "backward")]},
)
def test_observed_order(backend, name, way):
    check_order(backend, SOLVERS[name], *((0.3, 2.3) if way == "forward" else (2.3, 0.3)))


@pytest.mark.slow
@pytest.mark.needs(Capability.TRACED)
@each
def test_observed_order_of_every_compiled_solver(backend, name):
    check_order(backend, SOLVERS[name], 0.3, 2.3)


def check_order(backend, solver, t0, t1):
    """The error falls by 2**order from one number of steps to twice as many."""
    coarse, fine = errors(backend, solver, t0, t1, (160, 320) if solver.order < 3 else (20, 40))
    assert solver.order - 0.3 < math.log2(coarse / fine) < solver.order + 1.0


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
    found = []
    for tol in (1e-4, 1e-6):
        f, y0 = turn(lambda y: np), np.asarray([1.0, 0.0])
        sol = rg.solve(f, y0, 0.0, 3.0, solver=solver, rtol=tol, atol=tol)
        exact = [math.cos(angle(0.0, 3.0)), math.sin(angle(0.0, 3.0))]
        found.append(np.max(np.abs(sol.ys[0] - exact)))
    assert found[1] < found[0] / 10
    assert found[0] < 100 * 1e-4


def test_a_tableau_of_the_users(backend):
    """A page with a tableau is a solver: Heun's third-order method."""

    class Heun3(rg.ExplicitRungeKutta):
        tableau = rg.Tableau(
            c=(0.0, 1 / 3, 2 / 3),
            a=((), (1 / 3,), (0.0, 2 / 3)),
            b=(1 / 4, 0.0, 3 / 4),
            b_error=None,
            order=3,
            error_order=4,
            interpolation=((1 / 4,), (0.0,), (3 / 4,)),
            interpolation_order=1,
        )

    coarse, fine = errors(backend, Heun3(), 0.0, 1.0, (20, 40))
    assert 2.75 < math.log2(coarse / fine) < 3.6
