"""Times that steps end on, and jumps of f: values and gradients against closed forms."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise

import numpy as np
import pytest

import retrograde as rg

ON, OFF, K = 2.0, 2.05, 0.3
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def pulse(backend):
    """y' = rate - K y while ON <= t < OFF, else -K y."""

    def f(t, y, rate):
        xp = backend.namespace(y)
        on = backend.namespace(t).where((t >= ON) & (t < OFF), 1.0 + 0.0 * t, 0.0 * t)
        return on * rate * xp.ones_like(y) - K * y

    return f


def level(t0, t1, rate, ts):
    """y at ts from y(t0) = 1, either way, and its derivatives by y0, rate, t0, and t."""
    inside = np.clip(ts, ON, OFF) - np.clip(t0, ON, OFF)
    base = np.exp(-K * (ts - t0))
    # the integral of exp(-K (t - s)) over the part of the pulse from t0 to t
    low, high = np.clip(t0, ON, OFF), np.clip(ts, ON, OFF)
    gain = (np.exp(-K * (ts - high)) - np.exp(-K * (ts - low))) / K
    assert np.all((inside != 0) == (gain != 0))
    return base + rate * gain, base, gain, K * base


def controller(jumps=(ON, OFF), **keywords):
    return rg.PIDController(**{**TIGHT, **keywords}, jump_ts=jumps)


ADJOINTS = {
    "auto": "auto",
    "slots": rg.RecursiveCheckpointAdjoint(3),
    "unrecorded": rg.RecursiveCheckpointAdjoint(3, record=False),
    "inverted": rg.BacksolveAdjoint(checkpoints=2),
    "direct": "direct",
}
WAYS = {"forward": (0.0, 5.0), "shifted": (1.0, 6.0), "back": (5.0, 0.0)}


@pytest.mark.settings(
    name=list(ADJOINTS),
    way=list(WAYS),
    solver=["tsit5", "dopri8"],
    few={
        "jax": [],
        "jax:jit": [("unrecorded", "back", "tsit5")],
        "strict": [("slots", "shifted", "tsit5"), ("unrecorded", "back", "dopri8")],
    },
)
def test_a_pulse_is_found_and_differentiated(backend, name, way, solver):
    """By y0, its rate, t0 and t1, with rows on both sides of it: no difference from no jump."""
    if name == "direct" and rg.backend.Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip("no autodiff")
    t0, t1 = WAYS[way]
    ts = np.linspace(t0, t1, 7)[1:]
    g = backend.gradient(
        pulse(backend), backend.array([1.0]), t0, t1, backend.array(10.0), times=True,
        controller=controller(), saveat=rg.SaveAt(ts=ts.tolist()), solver=solver,
        adjoint=ADJOINTS[name], max_steps=200,
    )  # fmt: skip
    value, by_y0, by_rate, by_t0 = level(t0, t1, 10.0, ts)
    for found, expected in ((g.ys[:, 0], value), (g.y0, by_y0.sum()), (g.args, by_rate.sum()),
                            (g.t0, by_t0.sum()), (g.ts, -K * value)):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_the_step_that_ends_on_a_jump_sees_the_left_alone(backend):
    """Every stage: a field that is nan on the wrong side would spoil the solve."""

    def f(t, y, args):
        now = backend.namespace(t)
        bad = now.where(
            t == 1.0, math.nan + 0.0 * t, now.where(t < 1.0, 1.0 + 0.0 * t, 2.0 + 0.0 * t)
        )
        return bad * backend.namespace(y).ones_like(y)

    for dtype, t0, t1 in (("float64", 0.0, 3.0), ("float32", 0.25, 2.0), ("float32", 3.0, 0.0)):
        steps = rg.PIDController(rtol=1e-4, jump_ts=backend.array([1.0, 7.0], dtype))
        sol = rg.solve(f, backend.array([0.0], dtype), t0, t1, controller=steps, max_steps=50)
        height = lambda t: max(1.0, 1.0 + 2.0 * (t - 1.0)) if t > 1 else t  # noqa: E731
        exact = height(t1) - height(t0)
        assert float(sol.ys[-1, 0]) == pytest.approx(
            exact, rel=1e-12 if dtype == "float64" else 1e-6
        )
        assert int(sol.stats["num_rejected_steps"]) == 0


def test_calls_of_f_are_counted_where_slopes_are_evaluated_anew(reference):
    calls = []

    def f(t, y, args):
        calls.append(t)
        return np.where(t < 1.0, 1.0, 30.0 * np.cos(9.0 * t)) - y

    for solver in ("tsit5", "heun", "dopri8", "bosh3"):
        calls.clear()
        steps = rg.PIDController(rtol=1e-6, jump_ts=[1.0])
        stats = rg.solve(f, np.ones(1), 0.0, 3.0, controller=steps, solver=solver).stats
        assert len(calls) == stats["num_f_evals"] + stats["num_trial_f_evals"]


def test_steps_end_on_given_times_and_go_on_as_they_were(backend):
    """In any order, those outside of no effect; the sizes behind a stop are those before it."""
    stops = [3.0, 0.1, 1.0, 9.0, -1.0, 1.0]
    wish = rg.SaveAt(t0=True, steps=True)

    def ends(**keywords):
        steps = rg.PIDController(1e-6, 1e-9, **keywords)
        sol = rg.solve(
            lambda t, y, a: -y, backend.array([1.0]), 0.0, 4.0, controller=steps, saveat=wish,
            max_steps=64,
        )  # fmt: skip
        ts = backend.to_numpy(sol.ts)
        return ts[np.isfinite(ts)].tolist()

    plain, stopped = ends(), ends(step_ts=stops)
    assert {0.1, 1.0, 3.0} <= set(stopped)
    assert stopped[-1] == 4.0
    assert len(stopped) <= len(plain) + 3
    assert max(b - a for a, b in pairwise(stopped)) <= 1.3 * max(b - a for a, b in pairwise(plain))


@pytest.mark.libraries("jax:jit")
def test_stops_may_be_traced(backend):
    """Sorted or not; the same numbers as known ones."""
    f, y0 = pulse(backend), backend.array([1.0])

    def run(jumps):
        sol = rg.solve(f, y0, 0.0, 5.0, backend.array(10.0), controller=controller(jumps))
        return sol.ys[-1, 0]

    traced = backend.compiled(run)
    exact = level(0.0, 5.0, 10.0, np.asarray(5.0))[0]
    assert float(traced(backend.array([OFF, ON]))) == float(run((ON, OFF)))
    assert float(traced(backend.array([OFF, ON]))) == pytest.approx(exact, rel=1e-9)
    assert math.isnan(float(traced(backend.array([OFF, math.nan]))))
    later = backend.compiled(importlib.import_module("jax").grad(run))(backend.array([OFF, ON]))
    by = [10.0 * math.exp(-K * (5.0 - OFF)), -10.0 * math.exp(-K * (5.0 - ON))]
    np.testing.assert_allclose(later, by, rtol=1e-8)


@pytest.mark.libraries("numpy torch", slow="jax")
@pytest.mark.parametrize("mode", ["discrete", "continuous"])
def test_the_adjoint_system_sees_both_sides(backend, mode):
    g = backend.gradient(
        pulse(backend), backend.array([1.0]), 0.0, 5.0, backend.array(10.0), times=True,
        controller=controller(), adjoint=rg.BacksolveAdjoint(mode=mode), max_steps=100,
    )  # fmt: skip
    value, by_y0, by_rate, by_t0 = level(0.0, 5.0, 10.0, np.asarray(5.0))
    for found, expected in (
        (g.ys[0, 0], value),
        (g.y0[0], by_y0),
        (g.args, by_rate),
        (g.t0, by_t0),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        ([0.5, math.nan], "`jump_ts` holds nan"),
        ([[0.5]], "`jump_ts` has an entry of type list"),
        (0.5, "`jump_ts` is 0.5"),
        (np.ones((2, 2)), "`jump_ts` is of shape"),
    ],
)
def test_bad_stops(stops, message):
    with pytest.raises(rg.InputError, match=message):
        rg.solve(
            lambda t, y, a: -y, np.ones(1), 0.0, 1.0, controller=rg.PIDController(jump_ts=stops)
        )


@pytest.mark.parametrize("stops", [[], [5.0], [0.0, 1.0], np.zeros(0)])
def test_stops_that_change_nothing(stops):
    """None, one beyond t1, the ends themselves: bitwise the solve without them."""
    f = lambda t, y, a: np.cos(3 * t) - y  # noqa: E731
    plain, stopped = (
        rg.solve(f, np.ones(2), 0.0, 1.0, controller=rg.PIDController(step_ts=ts)).ys
        for ts in (None, stops)
    )
    assert (plain == stopped).all()


@pytest.mark.slow
@pytest.mark.libraries("jax:jit", slow="jax")
def test_lanes_of_a_batch_have_jumps_of_their_own(backend):
    """Under vmap, with gradients: each lane is the single solve; and each try is told."""
    jax = importlib.import_module("jax")
    tries = []

    def f(t, y, args):
        on = backend.xp.where((t >= args["on"]) & (t < args["on"] + 0.05), 1.0, 0.0)
        return on * args["rate"] - K * y

    def run(rate, on):
        jumps = backend.xp.stack([on, on + 0.05])
        sol = rg.solve(
            f, backend.array([1.0]), 0.0, 5.0, {"rate": rate, "on": on}, max_steps=100,
            controller=controller(jumps), on_step=lambda *tried: tries.append(tried),
        )  # fmt: skip
        return sol.ys[-1, 0], sol.stats["num_steps"]

    rates, ons = backend.array([10.0, 3.0, 7.0]), backend.array([2.0, 1.2, 4.5])
    grad = jax.value_and_grad(run, (0, 1), has_aux=True)
    (values, steps), (by_rate, by_on) = backend.compiled(jax.vmap(grad))(rates, ons)
    low, high = np.asarray(ons), np.asarray(ons) + 0.05
    gain = (np.exp(-K * (5.0 - high)) - np.exp(-K * (5.0 - low))) / K
    expected = np.exp(-5.0 * K) + np.asarray(rates) * gain
    np.testing.assert_allclose(values, expected, rtol=1e-8)
    np.testing.assert_allclose(by_rate, gain, rtol=1e-8)
    np.testing.assert_allclose(by_on, K * np.asarray(rates) * gain, rtol=1e-7)
    jax.effects_barrier()
    assert len(tries) == int(steps.sum())


@pytest.mark.libraries("jax torch")
def test_forms_that_know_of_no_jumps_are_refused(backend):
    f, y0 = pulse(backend), backend.array([1.0])
    keywords = {"jax": {"adjoint": "tape"}, "torch": {"compile": True}}[backend.bk.name]
    with pytest.raises(rg.UnsupportedByBackend, match="jump_ts"):
        backend.gradient(
            f, y0, 0.0, 5.0, backend.array(1.0), controller=controller(), max_steps=9, **keywords
        )


def bounced(gravity, height, t0, jump):
    """Where a ball is at t = 3 that is let go at t0, under half the gravity from the jump on."""
    t, y, v = t0, height, 0.0
    while True:
        g, stop = (9.8 * gravity, jump) if t < jump else (4.9 * gravity, 3.0)
        hits = math.sqrt(v * v + 2 * g * y)
        if t + (v + hits) / g <= stop:
            t, y, v = t + (v + hits) / g, 0.0, 0.9 * hits
            continue
        left = stop - t
        t, y, v = stop, y + v * left - g * left**2 / 2, v - g * left
        if t == 3.0:
            return y


@pytest.mark.settings(
    adjoint=["auto", rg.RecursiveCheckpointAdjoint(2)],
    steps=[(), (0.2, 1.2, 2.9)],
    few={"jax": [], "jax:jit": [("auto", (0.2, 1.2, 2.9))]},
)
def test_events_between_stops(backend, adjoint, steps):
    """Steps move with the event that they follow, up to the next stop; by closed form."""

    def f(t, y, gravity):
        g = backend.namespace(t).where(t < 1.5, -9.8 + 0.0 * t, -4.9 + 0.0 * t)
        return backend.namespace(y).stack([y[1], g * gravity])

    bounce = rg.Event(
        lambda t, y, args: y[0], direction=-1, terminal=False, capacity=8,
        reset=lambda t, y, args: backend.namespace(y).stack([0.0 * y[0], -0.9 * y[1]]),
    )  # fmt: skip
    call = f, backend.array([1.0, 0.0]), 0.1, 3.0, backend.array(1.0)
    keywords = {
        "event": bounce, "adjoint": adjoint, "max_steps": 100,
        "controller": rg.PIDController(1e-10, 1e-12, jump_ts=[1.5], step_ts=steps),
    }  # fmt: skip
    weights = np.asarray([[1.0, 0.0]])
    g = backend.gradient(*call, weights, times=True, **keywords)
    base, e = (1.0, 1.0, 0.1, 1.5), 1e-4
    by = []
    for k in range(4):
        near = [
            bounced(*(x + (i == k) * s * e for i, x in enumerate(base))) for s in (-2, -1, 1, 2)
        ]
        by.append((near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * e))
    assert g.ys[-1, 0] == pytest.approx(bounced(*base), rel=1e-8)
    np.testing.assert_allclose([g.args, g.y0[0], g.t0], by[:3], rtol=1e-7)
    if backend.eager:  # of one program in JAX
        pullback = rg.solve_vjp(*call, **keywords)[1]
        jumps = backend.to_numpy(pullback(backend.array(weights.tolist())).jump_ts)
        np.testing.assert_allclose(jumps, by[3:], rtol=1e-7)
