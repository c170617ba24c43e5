"""Gradients without a record of accepted times: the same numbers, in slots that tell the clock."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

Checkpoints = rg.RecursiveCheckpointAdjoint
TOLERANCES = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-6, "max_steps": 300}


def pendulum(backend, dtype="float64"):
    """Field, state and parameter; some steps are rejected."""

    def f(t, y, rate):
        xp = backend.namespace(y)
        return xp.stack([y[1], 4.0 * (1 - y[0] ** 2) * y[1] * rate - y[0]])

    return f, backend.array([2.0, 0.0], dtype), backend.array(1.1, dtype)


def both(backend, setting, dtype="float64", **keywords):
    """Gradients with a record and without."""
    f, y0, rate = pendulum(backend, dtype)
    keywords = {**TOLERANCES, **keywords}
    return [
        backend.gradient(
            f, y0, 0.0, 4.0, rate, adjoint=Checkpoints(*setting, record=record), **keywords
        )
        for record in (True, False)
    ]


def same(a, b, rtol=1e-11):
    for x, y in zip(a, b, strict=True):
        if x is not None:
            np.testing.assert_allclose(y, x, rtol=rtol, atol=rtol)


@pytest.mark.settings(
    setting=[(None,), (1,), (5,), (9, 4)],
    few={"strict": [(5,)], "torch": [(5,), (9, 4)], "jax": [(5,)], "jax:jit": []},
)
def test_the_gradient_is_that_of_recorded_times(backend, setting):
    same(*both(backend, setting, times=True))


def test_rows_inside_steps_get_their_gradients(backend):
    saveat = rg.SaveAt(t0=True, ts=[0.0, 0.7, 0.71, 2.5], t1=True)
    same(*both(backend, (4,), times=True, saveat=saveat))


# the first two keep their last slope, the second where a step is accepted
@pytest.mark.settings(
    solver=["bosh3", "dopri8", "heun"], dcoeff=[0.0, 0.1], few={"jax": [], "jax:jit": []}
)
def test_every_memory_of_a_controller_is_kept(backend, solver, dcoeff):
    controller = rg.PIDController(rtol=1e-3, atol=1e-4, dcoeff=dcoeff)
    same(*both(backend, (3,), solver=solver, controller=controller))


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_single_precision(backend):
    same(*both(backend, (4,), dtype="float32", rtol=1e-3, atol=1e-4), rtol=1e-4)


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_complex_states(backend):
    def f(t, y, rate):
        return 1j * rate * y * y

    y0 = backend.array([1.0 + 0.5j, 0.3j], "complex128")
    rate = backend.array(0.7)
    a, b = (
        backend.gradient(f, y0, 0.0, 1.0, rate, adjoint=Checkpoints(3, record=record), **TOLERANCES)
        for record in (True, False)
    )
    same(a, b)


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_rows_at_the_ends_of_steps_record_times_anyway(backend):
    f, y0, rate = pendulum(backend)
    saveat = rg.SaveAt(steps=True)
    solutions = [
        rg.solve_vjp(f, y0, 0.0, 1.0, rate, adjoint=adjoint, saveat=saveat, **TOLERANCES)
        for adjoint in (Checkpoints(3), Checkpoints(3, record=False))
    ]
    grads = [pull(backend.cotangent(sol.ys, None)) for sol, pull in solutions]
    same(*([backend.to_numpy(x) for x in g[:2]] for g in grads))


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_a_second_pull_solves_again(backend):
    f, y0, rate = pendulum(backend)
    adjoint = Checkpoints(3, record=False)
    sol, pull = rg.solve_vjp(f, y0, 0.0, 2.0, rate, adjoint=adjoint, **TOLERANCES)
    one, two = (pull(backend.cotangent(sol.ys, None)) for _ in range(2))
    same(*([backend.to_numpy(x) for x in g[:2]] for g in (one, two)))


@pytest.mark.libraries("jax", slow="jax:jit")  # an eager record is as long as the solve
def test_a_traced_plan_drops_the_record_where_it_does_not_fit(backend):
    f, y0, rate = pendulum(backend)
    keywords = {**TOLERANCES, "max_steps": 4096}
    small, large = (
        rg.plan(f, y0, 0.0, 4.0, rate, memory=memory, **keywords) for memory in (8_000, 200_000)
    )
    assert (small.adjoint.record, large.adjoint.record) == (False, True)
    assert "times not recorded" in str(small)
    assert small.items["record of times"] == 0
    g = backend.gradient(f, y0, 0.0, 4.0, rate, memory=8_000, **keywords)
    same(backend.gradient(f, y0, 0.0, 4.0, rate, adjoint=Checkpoints(), **keywords), g)
