"""Order 8: calls of f a step, an interpolant with stages of its own, a last stage that waits.

And trees, complex states, batches, the reversible form and continuous adjoints by it.
"""

from __future__ import annotations

import math

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


def van_der_pol(backend, calls=None):
    """Sharp enough for steps to be rejected."""

    def f(t, y, mu):
        if calls is not None:
            calls.append(1)
        return backend.namespace(y).stack([y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]])

    return f, backend.array([2.0, 0.0]), backend.array(5.0)


# --- calls of f


@pytest.mark.libraries("numpy strict torch")  # calls of compiled programs can't be counted
@pytest.mark.parametrize("saveat", [{}, {"ts": [1.0, 1.001, 9.0]}, {"steps": True}], ids=str)
def test_calls_are_counted_and_no_more_than_needed(backend, saveat):
    """12 an accepted step, 11 a rejected one, 3 more where the inside is asked for, 2 to start."""
    calls = []
    f, y0, mu = van_der_pol(backend, calls)
    keywords = {"solver": "dopri8", "rtol": 1e-7, "atol": 1e-7, "saveat": rg.SaveAt(**saveat)}
    stats = rg.solve(f, y0, 0.0, 10.0, mu, **keywords).stats
    accepted, rejected = stats["num_accepted_steps"], stats["num_rejected_steps"]
    assert rejected > 3
    inside = 2 if "ts" in saveat else 0
    assert stats["num_f_evals"] == 2 + 12 * accepted + 11 * rejected + 3 * inside
    assert len(calls) - 1 == stats["num_f_evals"]  # one looks at what f returns


@pytest.mark.parametrize("solver", ["dopri8", "tsit5", "rk4"])
@pytest.mark.parametrize("saveat", [{}, {"ts": [0.33, 0.34, 0.9]}, {"steps": True}], ids=str)
def test_calls_of_constant_steps(reference, solver, saveat):
    """Rows take the slope at t0 once more where the last one is kept."""
    calls = []
    keywords = {"solver": solver, "dt": 0.1, "saveat": rg.SaveAt(**saveat)}
    sol = rg.solve(turn(reference, calls), np.asarray(Y0), 0.0, 1.0, np.asarray(1.0), **keywords)
    assert sol.stats["num_f_evals"] == len(calls) - 1


def test_compiled_programs_count_their_calls(backend):
    """Every try is whole there: 12 calls, whether it is rejected or not."""
    if backend.eager:
        pytest.skip("Python's loops")
    f, y0, mu = van_der_pol(backend)
    keywords = {"solver": "dopri8", "rtol": 1e-7, "atol": 1e-7, "saveat": rg.SaveAt(ts=[1.0, 9.0])}
    stats = rg.solve(f, y0, 0.0, 10.0, mu, max_steps=500, **keywords).stats
    assert int(stats["num_f_evals"]) == 2 + 12 * int(stats["num_steps"]) + 3 * 2


# --- the interpolant


@pytest.mark.libraries("numpy strict torch jax")  # the same programs
def test_saved_times_inside_steps_are_of_order_7(backend):
    """Halve the step, and the largest error of all rows falls by 2**7 at least."""
    found, one = [], backend.array(1.0)
    for n in (10, 20):
        saveat = rg.SaveAt(ts=TS)
        sol = rg.solve(
            turn(backend),
            backend.array(Y0),
            0.0,
            T1,
            one,
            solver="dopri8",
            dt=T1 / n,
            saveat=saveat,
        )
        found.append(np.max(np.abs(backend.to_numpy(sol.ys) - exact(TS))))
    assert math.log2(found[0] / found[1]) > 6.8
    assert found[1] < 1e-8


@pytest.mark.libraries("numpy strict torch jax")  # the same programs
def test_rows_are_as_accurate_as_the_tolerance(backend):
    f, y0, saveat = turn(backend), backend.array(Y0), rg.SaveAt(ts=TS)
    keywords = {"solver": "dopri8", "rtol": 1e-10, "atol": 1e-10, "saveat": saveat}
    sol = rg.solve(f, y0, 0.0, T1, backend.array(1.0), **keywords)
    np.testing.assert_allclose(backend.to_numpy(sol.ys), exact(TS), atol=2e-9)


@pytest.mark.libraries("numpy strict torch jax")  # the same programs
def test_gradients_of_rows_inside_steps(backend, reference):
    """Against differences, in y0, args and all times; some steps have rows, some have none."""
    keywords = {"solver": "dopri8", "dt": 0.55}
    weights = np.cos(np.arange(len(TS) * 2.0)).reshape(len(TS), 2)
    times = [0.1, *TS[1:-2], 2.98, 2.99]
    f, y0 = turn(backend), backend.array(Y0)
    saveat = rg.SaveAt(ts=times)
    g = backend.gradient(
        f, y0, 0.0, T1, backend.array(0.9), weights, times=True, saveat=saveat, **keywords
    )

    def loss(y, rate, t0, t1, ts):
        wish = rg.SaveAt(ts=list(ts))
        args = (turn(reference), y, float(t0), float(t1), np.asarray(rate))
        return np.sum(weights * rg.solve(*args, saveat=wish, **keywords).ys)

    point = [np.asarray(Y0), 0.9, 0.0, T1, np.asarray(times)]
    given = [g.y0, g.args, g.t0, g.t1, g.ts]
    rng, e = np.random.default_rng(2), 1e-4
    for i in range(len(point)):
        v = rng.normal(size=np.shape(point[i]))
        ends = [loss(*point[:i], point[i] + k * e * v, *point[i + 1 :]) for k in (-2, -1, 1, 2)]
        slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * e)
        np.testing.assert_allclose(np.sum(given[i] * v), slope, rtol=1e-8, atol=1e-9)


@pytest.mark.libraries("numpy strict torch")  # sums of arrays, whatever their size
def test_large_states_whose_products_skip_stages(backend, reference):
    """Copies side by side: the steps, rows and gradients of one; replays to the last bit."""
    copies, start = 2500, np.asarray(Y0)
    keywords = {"solver": "dopri8", "rtol": 1e-8, "atol": 1e-8, "saveat": rg.SaveAt(ts=TS, t1=True)}
    weights = np.cos(np.arange(2.0 * (len(TS) + 1))).reshape(-1, 2)

    def gradient(lib, copies, slots):
        """Of one copy, that of args per copy."""
        y0 = np.repeat(start[:, None], copies, axis=1)
        adjoint = rg.RecursiveCheckpointAdjoint(slots)
        given = lib.array(y0.tolist()), 0.0, T1, lib.array(0.9), weights[:, :, None]
        g = lib.solve_vjp(turn(lib), *given, adjoint=adjoint, times=True, **keywords)
        return [g.ys[:, :, 0], g.y0[:, 0], g.args / copies, g.t1 / copies, g.ts / copies]

    one = gradient(reference, 1, None)
    many, again = gradient(backend, copies, None), gradient(backend, copies, 2)
    for a, b, c in zip(one, many, again, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
        assert np.array_equal(b, c)


# --- the last stage, which waits for the verdict


@pytest.mark.libraries("numpy strict torch")  # every try is whole
def test_a_step_accepted_in_spite_of_its_error(backend):
    """``force_dtmin``: its last slope is evaluated by whoever needs it first."""
    f, y0, mu = van_der_pol(backend)
    controller = rg.PIDController(rtol=1e-13, atol=1e-13, dt0=0.05, dtmin=0.05, force_dtmin=True)
    ts = [0.011, 0.24, 0.26, 0.5]
    keywords = {"solver": "dopri8", "saveat": rg.SaveAt(ts=ts)}
    forced = rg.solve(f, y0, 0.0, 0.5, mu, controller=controller, **keywords)
    plain = rg.solve(f, y0, 0.0, 0.5, mu, dt=0.05, **keywords)
    assert forced.stats["num_rejected_steps"] == 0
    np.testing.assert_allclose(backend.to_numpy(forced.ys), backend.to_numpy(plain.ys), rtol=1e-12)


@pytest.mark.libraries("numpy strict torch jax")  # the same programs
def test_an_error_of_zero(backend):
    """Both estimates vanish: the step grows, and nothing is divided by 0."""
    nothing = lambda x: 0.0 * x  # noqa: E731
    for y0 in (backend.array([1.0, 2.0]), (backend.array([1.0]), backend.array(2.0))):
        sol = rg.solve(
            lambda t, y, a: backend.map(nothing, y), y0, 0.0, 100.0, solver="dopri8", max_steps=64
        )
        assert [float(x.sum()) for x in backend.bk.flatten(backend.to_numpy(sol.ys))[0]] in (
            [3.0], [1.0, 2.0]
        )  # fmt: skip


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
