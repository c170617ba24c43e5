"""Order 8 in the rest of the house: trees, complex states, batches, reversible and continuous."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

Y0, T1 = [1.0, 0.0], 3.0
TS = [0.0, 0.4, 0.41, 0.9, 1.7, 2.999, 3.0]


def turn(backend, calls=None):
    """A rotation whose angle is t + t**2 / 2; notes its calls."""

    def f(t, y, rate):
        if calls is not None:
            calls.append(1)
        return rate * (1.0 + t) * backend.namespace(y).stack([-y[1, ...], y[0, ...]])

    return f


def exact(t):
    angle = np.asarray(t) + np.asarray(t) ** 2 / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


@pytest.mark.libraries("numpy strict torch", slow="jax")  # the same programs
def test_complex_trees(backend):
    """y' = i rate y in a tree, with rows inside; the leaves go through the sums of arrays."""
    y0 = {"a": backend.array([1.0, 0.5j], "complex128"), "b": backend.array(2.0 + 0j, "complex128")}
    f = lambda t, y, rate: backend.map(lambda x: 1j * rate * x, y)  # noqa: E731
    keywords = {
        "solver": "dopri8",
        "rtol": 1e-10,
        "atol": 1e-10,
        "saveat": rg.SaveAt(ts=[0.7, 2.0]),
    }
    sol = rg.solve(f, y0, 0.0, 2.0, backend.array(1.5), **keywords)
    for name, start in (("a", np.asarray([1.0, 0.5j])), ("b", np.asarray(2.0 + 0j))):
        rows = np.stack([np.exp(1.5j * t) * start for t in (0.7, 2.0)])
        np.testing.assert_allclose(backend.to_numpy(sol.ys[name]), rows, rtol=1e-8)


@pytest.mark.libraries("numpy torch", slow="strict jax")  # the same programs under jit
@pytest.mark.parametrize("steps", [{"dt": 0.21}, {"rtol": 1e-9, "atol": 1e-9}], ids=str)
def test_the_reversible_form_has_its_inside_too(backend, steps):
    """Rows within its steps: their accuracy, and the gradient by inversion."""
    if not backend.eager and "dt" in steps:
        pytest.skip("the same programs")
    keywords = {"solver": rg.Reversible(rg.Dopri8()), "max_steps": 64, **steps}
    problem = turn(backend), backend.array(Y0), 0.0, T1, backend.array(1.0)
    found = [
        backend.gradient(*problem, adjoint=adjoint, saveat=rg.SaveAt(ts=TS), **keywords)
        for adjoint in (rg.RecursiveCheckpointAdjoint(), rg.ReversibleAdjoint())
    ]
    np.testing.assert_allclose(found[0].ys, exact(TS), atol=3e-7 if "dt" in steps else 2e-8)
    # the angle by the rate, at rate 1, is the angle itself
    angle = np.asarray(TS) + np.asarray(TS) ** 2 / 2
    slope = np.sum(angle[:, None] * np.stack([-exact(TS)[:, 1], exact(TS)[:, 0]], axis=1))
    for g in found:
        np.testing.assert_allclose(g.args, slope, rtol=1e-5)
        np.testing.assert_allclose(g.args, found[0].args, rtol=1e-10)
        np.testing.assert_allclose(g.y0, found[0].y0, rtol=1e-10)


@pytest.mark.needs(Capability.TRACED)
def test_field_is_traced_once_whatever_the_stages(backend):
    import jax

    traces = []

    def f(t, y, rate):
        traces.append(t)
        return -rate * y

    def loss(y0, rate):
        keywords = {"solver": "dopri8", "saveat": rg.SaveAt(ts=[0.3, 1.0]), "max_steps": 64}
        return rg.solve(f, y0, 0.0, 1.0, rate, **keywords).ys.sum()

    y0, rate = backend.array([1.0]), backend.array(2.0)
    jax.jit(loss).lower(y0, rate)
    assert len(traces) <= 2
    traces.clear()
    jax.jit(jax.grad(loss, (0, 1))).lower(y0, rate)
    assert len(traces) <= 3


@pytest.mark.slow  # batches of other methods: test_batched_solves
@pytest.mark.libraries("numpy strict torch jax")  # compiled as it is
@pytest.mark.needs(Capability.TRACED)
def test_lanes_of_a_batch_are_single_solves(backend):
    import jax

    def loss(y0, rate):
        keywords = {"solver": "dopri8", "rtol": 1e-8, "atol": 1e-8, "max_steps": 64}
        saveat = rg.SaveAt(ts=[0.3, 0.8, 2.0])
        return rg.solve(turn(backend), y0, 0.0, 2.0, rate, saveat=saveat, **keywords).ys[:, 0].sum()

    y0 = backend.array([[1.0, 0.0], [0.3, -2.0], [0.0, 1e-3]])
    rate = backend.array([1.0, 1.3, 0.2])
    lanes = jax.vmap(jax.grad(loss, (0, 1)))(y0, rate)
    for i in range(3):
        one = jax.grad(loss, (0, 1))(y0[i], rate[i])
        for a, b in zip(lanes, one, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10, atol=1e-13)


@pytest.mark.libraries("numpy strict torch")  # calls of compiled programs can't be counted
@pytest.mark.parametrize("seminorm", [False, True])
def test_the_continuous_adjoint(backend, seminorm):
    """Both estimates hold its quadratures too: as few calls as the states alone take, or nearly."""
    calls, found = [], []
    problem = turn(backend, calls), backend.array(Y0), 0.0, T1, backend.array(1.0)
    keywords = {"solver": "dopri8", "rtol": 1e-9, "atol": 1e-9}
    for adjoint in (
        rg.RecursiveCheckpointAdjoint(),
        rg.BacksolveAdjoint(mode="continuous", seminorm=seminorm),
    ):
        calls.clear()
        g = backend.solve_vjp(*problem, adjoint=adjoint, **keywords)
        found.append((g, len(calls)))
    (exact_, steps), (g, other) = found
    np.testing.assert_allclose(g.args, exact_.args, rtol=1e-7)
    np.testing.assert_allclose(g.y0, exact_.y0, rtol=1e-7)
    assert other < 1.5 * steps
