"""Reversible solvers on the linear test problem, and over long times."""

from __future__ import annotations

import math
import pathlib
import runpy

import numpy as np
import pytest

import retrograde as rg

_cases = runpy.run_path(str(pathlib.Path(__file__).with_name("reversible_cases.py")))
matrix = _cases["matrix"]
oscillator = _cases["oscillator"]


# --- the linear test problem


@pytest.mark.parametrize("lam", [0.999, 0.99, 0.9])
@pytest.mark.parametrize("base", [rg.Heun(), rg.RK4(), rg.Tsit5()], ids=lambda s: s.name)
def test_coupled_steps_on_the_linear_problem(base, lam):
    """Determinant lam; stable on the negative axis exactly where the base's R(z) is above lam."""
    solver = rg.Reversible(base, lam)
    for z in (-0.3, 0.2, 0.5j, -0.1 + 1j):
        np.testing.assert_allclose(np.linalg.det(matrix(solver, z)), lam, rtol=1e-13)

    def radius(z):
        return np.max(np.abs(np.linalg.eigvals(matrix(solver, z))))

    edge = -math.log(lam)
    assert radius(-0.98 * edge) <= 1 + 1e-12
    assert radius(-1.05 * edge) > 1


@pytest.mark.parametrize("solver", [rg.ReversibleHeun(), rg.ALF()], ids=lambda s: s.name)
def test_undamped_solvers_are_stable_on_a_segment(solver):
    def radius(z):
        return np.max(np.abs(np.linalg.eigvals(matrix(solver, z))))

    for y in (0.1, 0.5, 0.99):
        assert radius(1j * y) < 1 + 1e-7
    assert radius(1.02j) > 1.05
    assert radius(-0.05) > 1.04


@pytest.mark.parametrize("eta", [0.6, 0.8, 0.95])
def test_damped_alf_on_the_linear_problem(eta):
    def radius(z):
        return np.max(np.abs(np.linalg.eigvals(matrix(rg.ALF(eta), z))))

    for z in (-0.2, 0.3j, 0.1):
        determinant = np.linalg.det(matrix(rg.ALF(eta), z))
        np.testing.assert_allclose(determinant, 1 - 2 * eta, rtol=1e-13)
    edge = 2 * (1 - eta) / eta
    assert radius(-0.99 * edge) <= 1 + 1e-12
    assert radius(-1.01 * edge) > 1


EDGES = {"leapfrog": 2.0, "yoshida4": 1.5734, "mclachlan4": 3.0349, "yoshida6": 2.2685}


@pytest.mark.parametrize("solver", EDGES)
def test_splittings_are_stable_up_to_a_frequency(solver):
    """Of an oscillator; where they are, eigenvalues lie on the circle and the determinant is 1."""

    def step(omega):
        def turn(t, y, args):
            return omega * y[1], -omega * y[0]

        def ahead(q, p):
            y0 = (np.asarray([q]), np.asarray([p]))
            return np.stack(rg.solve(turn, y0, 0.0, 1.0, solver=solver, dt=1.0).ys)[:, 0, 0]

        return np.stack([ahead(1.0, 0.0), ahead(0.0, 1.0)], axis=1)

    for omega in (0.3, 0.99 * EDGES[solver]):
        np.testing.assert_allclose(np.linalg.det(step(omega)), 1.0, rtol=1e-12)
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(step(omega))), 1.0, rtol=1e-7)
    assert np.max(np.abs(np.linalg.eigvals(step(1.01 * EDGES[solver])))) > 1.01


# --- long times


ENERGIES = {
    "semi_implicit_euler": 0.06, "leapfrog": 3e-3, "yoshida4": 4e-4, "mclachlan4": 1e-6,
    "yoshida6": 2e-6,
}  # fmt: skip


@pytest.mark.quick(*(name for name in ENERGIES if name not in ("mclachlan4", "yoshida6")))
@pytest.mark.parametrize("solver", ENERGIES)
def test_energy_stays_bounded(reference, solver):
    """Twelve thousand steps of a pendulum; Euler's energy grows beyond all bounds on the way."""

    def pendulum(t, y, args):
        return y[1], -np.sin(y[0])

    def energies(solver, n):
        y0 = (np.asarray([1.0]), np.asarray([0.0]))
        at = rg.SaveAt(ts=list(np.linspace(0, n * 0.1, 400)))
        q, p = rg.solve(pendulum, y0, 0.0, n * 0.1, solver=solver, dt=0.1, saveat=at).ys
        return p**2 / 2 - np.cos(q)

    e = energies(solver, 12_000)
    assert np.max(np.abs(e - e[0])) < ENERGIES[solver]
    late, early = np.max(np.abs(e[200:] - e[0])), np.max(np.abs(e[:200] - e[0]))
    assert late < 1.1 * early
    assert np.max(np.abs(energies("euler", 1200) - e[0])) > 1


def spring(backend, t1, saves, dt=1e-4):
    """T7: r' = v, v' = -k r from (1, 0), its rows and the gradient of sum(r) to k."""
    y0 = (backend.array([1.0]), backend.array([0.0]))
    ts = [t1 * (i + 1) / saves for i in range(saves)]
    weights = (np.ones((saves, 1)), np.zeros((saves, 1)))
    g = backend.gradient(
        oscillator, y0, 0.0, t1, backend.array(1.0), weights, solver="leapfrog", dt=dt,
        saveat=rg.SaveAt(ts=ts), adjoint=rg.RecursiveCheckpointAdjoint(100),
    )  # fmt: skip
    t = np.asarray(ts)
    np.testing.assert_allclose(g.ys[0][:, 0], np.cos(t), atol=3e-8 * max(1, dt / 1e-4) ** 2)
    expected = np.sum(-t * np.sin(t) / 2)
    np.testing.assert_allclose(g.args, expected, rtol=1e-6 * max(1, dt / 1e-4) ** 2)


@pytest.mark.libraries("numpy jax", slow="strict torch")
def test_spring(backend):
    """T7, a tenth of its time in larger steps."""
    spring(backend, 3.0, 30, 1e-3)


@pytest.mark.slow
@pytest.mark.libraries("jax")
def test_spring_in_full(backend):
    """300,000 steps, which take NumPy minutes to tell no more than ``test_spring``."""
    spring(backend, 30.0, 300)
