"""Times out of range or out of order: an error where they are known, nan and a status where not."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde import Status


def decay(t, y, args):
    return -y


def traced():
    """JAX, in double precision as the harness has it."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


BAD = {
    "behind t1": [0.5, 1.001],
    "far behind t1": [0.5, 1.5],
    "out of order": [0.9, 0.5],
    "before t0": [-0.5, 0.5],
    "nan": [0.5, np.nan],
    "inf": [0.5, np.inf],
}
GOOD = ([0.5, 1.0], [0.0, 0.0], [0.0, 1.0], [0.25, 0.25])


@pytest.mark.parametrize("name", BAD)
def test_known_times_are_an_error(backend, name):
    with pytest.raises(rg.InputError, match=r"`saveat.ts\[\d\]` is"):
        rg.solve(decay, backend.array([1.0]), 0.0, 1.0, dt=0.1, saveat=rg.SaveAt(ts=BAD[name]))


@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {"rtol": 1e-8, "atol": 1e-8}], ids=str)
def test_traced_times_have_a_status(keywords):
    """Both ways through time; the row at t0 is there, nothing else is, and no gradient."""
    jax = traced()
    jnp, sign = jax.numpy, 1.0

    @jax.jit
    def run(ts, t0, t1, sign):
        def solve(ts, t1):
            flipped = {k: sign * v if k == "dt" else v for k, v in keywords.items()}
            sol = rg.solve(
                lambda t, y, a: -sign * y, jnp.ones(1), t0, t1,
                saveat=rg.SaveAt(t0=True, ts=ts), **flipped,
            )  # fmt: skip
            return sol.ys.sum(), (sol.ts, sol.ys[:, 0], sol.status, sol.t_final)

        grads, out = jax.grad(solve, argnums=(0, 1), has_aux=True)(ts, t1)
        return *out, *grads

    for sign in (1.0, -1.0):
        for times in BAD.values():
            ts = sign * np.asarray(times)
            found, ys, status, t, *grads = run(ts, 0.0, sign, sign)
            assert (int(status), float(t)) == (Status.bad_times, 0.0)
            np.testing.assert_array_equal(found, [0.0, np.nan, np.nan])
            np.testing.assert_array_equal(ys, [1.0, np.nan, np.nan])
            assert np.all(np.isnan(np.concatenate([np.ravel(g) for g in grads])))
        for times in GOOD:
            ts = sign * np.asarray(times)
            found, ys, status, _, g, _ = run(ts, 0.0, sign, sign)
            assert int(status) == Status.converged
            np.testing.assert_array_equal(found[1:], ts)
            np.testing.assert_allclose(ys[1:], np.exp(-np.abs(ts)), rtol=1e-6)
            np.testing.assert_allclose(g, -sign * np.exp(-np.abs(ts)), rtol=1e-4)


def test_traced_ends_that_steps_can_not_reach():
    jax = traced()
    jnp = jax.numpy
    cases = (
        ({"dt": 0.1}, (0.0, -1.0)),
        ({"dt": 0.1}, (0.0, np.nan)),
        ({}, (0.0, np.inf)),
        ({"controller": rg.PIDController(dt0=0.1)}, (0.0, -1.0)),
        ({"controller": rg.StepTo([0.0, 0.5, 1.0])}, (0.0, 1.5)),
    )
    for keywords, times in cases:
        run = jax.jit(lambda t0, t1, k=keywords: rg.solve(decay, jnp.ones(2), t0, t1, **k))
        sol = run(*times)
        assert int(sol.status) == Status.bad_times
        assert np.all(np.isnan(sol.ys))
        with pytest.raises(rg.SolveFailed, match=r"At t = 0.0 .* was not begun"):
            sol.raise_if_failed()
        if times[1] == -1.0:  # the same program, with times that fit
            np.testing.assert_allclose(run(0.0, 1.0).ys[0], np.exp(-1.0), rtol=1e-4)


def test_traced_step_sizes():
    """A size of the wrong sign, 0 or nan would take no step at all."""
    jax = traced()
    run = jax.jit(lambda dt: rg.solve(decay, jax.numpy.ones(1), 0.0, 1.0, dt=dt))
    np.testing.assert_allclose(run(0.01).raise_if_failed().ys, [[np.exp(-1.0)]], rtol=1e-8)
    for dt in (-0.01, 0.0, np.nan):
        sol = run(dt)
        assert int(sol.status) == Status.bad_times
        assert np.all(np.isnan(sol.ys))


def test_many_known_times_in_a_traced_function():
    """Iterated over, an array of a hundred rows or more makes tracers of its numbers."""
    jax = traced()
    ts = jax.numpy.linspace(0.0, 1.0, 201)

    @jax.jit
    def run(y0):
        rows = rg.solve(decay, y0, 0.0, 1.0, dt=0.1, saveat=rg.SaveAt(ts=ts)).ys
        given = rg.solve(decay, y0, 0.0, 1.0, controller=rg.StepTo(ts)).ys
        with pytest.raises(rg.InputError, match=r"`saveat.ts\[0\]`"):  # known, so checked
            rg.solve(decay, y0, 0.5, 1.0, dt=0.1, saveat=rg.SaveAt(ts=ts))
        return rows, given

    rows, given = run(jax.numpy.ones(1))
    np.testing.assert_allclose(rows[:, 0], np.exp(-np.asarray(ts)), rtol=1e-6)
    np.testing.assert_allclose(given, [[np.exp(-1.0)]], rtol=1e-10)


@pytest.mark.parametrize("transform", ["jit", "vmap", "grad"])
def test_times_to_step_to_are_known_ones(transform):
    jax = traced()

    def run(ts):
        return rg.solve(decay, jax.numpy.ones(()), 0.0, 1.0, controller=rg.StepTo(ts)).ys[0]

    ts = np.linspace(0.0, 1.0, 4)
    with pytest.raises(rg.InputError, match=r"`controller=StepTo\(ts\)` takes numbers"):
        getattr(jax, transform)(run)(ts[None] if transform == "vmap" else ts)
