"""Where events are found, in which order, what they do, and what is recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg


def fall(backend):
    """A ball at 10, args = (gravity, restitution)."""

    def f(t, y, a):
        return backend.namespace(y).stack([y[1], 0.0 * y[0] - a[0]])

    return f, backend.array([10.0, 0.0]), backend.array([9.81, 0.8])


def bounce(backend, **keywords):
    def reset(t, y, a):
        return backend.namespace(y).stack([0.0 * y[0], -a[1] * y[1]])

    return rg.Event(lambda t, y, a: y[0], direction=-1, reset=reset, **keywords)


def rate(t, y, a):
    """y' = 1."""
    return 0.0 * y + 1.0


def at(q, **keywords):
    return rg.Event(lambda t, y, a: y[0] - q, **keywords)


def straight(event, t1=3.0, **keywords):
    """y = t from 0, in one step of Euler's method unless it says otherwise."""
    settings = {"solver": "euler", "dt": 10.0, **keywords}
    return rg.solve(rate, np.zeros(1), 0.0, t1, event=event, **settings)


STEPS = {"constant": {"dt": 0.3, "solver": "rk4"}, "adaptive": {}, "order 8": {"solver": "dopri8"}}


@pytest.mark.settings(steps=list(STEPS), few={"jax:jit": ["adaptive"], "jax": ["constant"]})
def test_a_ball_hits_the_ground(backend, steps):
    f, y0, a = fall(backend)
    ground = rg.Event(lambda t, y, a: y[0], direction=-1)
    run = backend.compiled(lambda y0: rg.solve(f, y0, 0.0, 5.0, a, event=ground, **STEPS[steps]))
    sol = run(y0)
    there = math.sqrt(2 * 10 / 9.81)
    assert (int(sol.status), int(sol.event)) == (rg.Status.event, 0)
    backend.assert_close(sol.ts, np.asarray([there]), rtol=1e-12)
    backend.assert_close(sol.ys, np.asarray([[0.0, -9.81 * there]]), rtol=1e-12, atol=1e-12)
    assert int(sol.events[0].count) == 1
    backend.assert_close(sol.events[0].ts, np.asarray([there]), rtol=1e-12)


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_a_ball_bounces(backend):
    f, y0, a = fall(backend)
    saveat = rg.SaveAt(ts=[1.0, 2.0, 4.9])
    run = backend.compiled(
        lambda y0: rg.solve(f, y0, 0.0, 5.0, a, event=bounce(backend, capacity=4), saveat=saveat)
    )
    sol = run(y0)
    first = math.sqrt(2 * 10 / 9.81)
    v = 9.81 * first
    second = first + 2 * 0.8 * v / 9.81
    hits = backend.to_numpy(sol.events[0])
    assert int(hits.count) == 2
    assert int(sol.status) == rg.Status.converged
    np.testing.assert_allclose(hits.ts[:2], [first, second], rtol=1e-12)
    np.testing.assert_allclose(hits.ys[:2, 1], [-v, -0.8 * v], rtol=1e-12)
    np.testing.assert_allclose(hits.after[:2, 1], [0.8 * v, 0.64 * v], rtol=1e-12)
    assert np.all(np.isinf(hits.ts[2:]))
    s = 2.0 - first
    np.testing.assert_allclose(
        backend.to_numpy(sol.ys)[:2, 0], [10 - 9.81 / 2, 0.8 * v * s - 9.81 / 2 * s * s], rtol=1e-10
    )


@pytest.mark.libraries("numpy torch", slow="strict jax jax:jit")
@pytest.mark.parametrize(
    ("direction", "expected"), [(0, [0.5, 1.5, 2.5]), (1, [1.5]), (-1, [0.5, 2.5])]
)
def test_crossings_of_an_oscillator(backend, direction, expected):
    """y'' = -y from (1, 0): zero at pi/2, falling, and so on."""
    event = rg.Event(lambda t, y, a: y[0], direction=direction, terminal=False, capacity=4)
    f = lambda t, y, a: backend.namespace(y).stack([y[1], -y[0]])  # noqa: E731
    call = f, backend.array([1.0, 0.0]), 0.0, 9.0
    keywords = {"rtol": 1e-10, "atol": 1e-12, "saveat": [4.0, 9.0]}
    sol, count = rg.solve(*call, event=event, **keywords), len(expected)
    hits = backend.to_numpy(sol.events[0].ts)
    np.testing.assert_allclose(hits[:count], np.asarray(expected) * math.pi, rtol=1e-8)
    assert int(sol.events[0].count) == count
    plain = backend.to_numpy(rg.solve(*call, **keywords).ys)
    apart = 0.0 if backend.eager else 1e-13  # recording changes no step
    np.testing.assert_allclose(backend.to_numpy(sol.ys), plain, rtol=0.0, atol=apart)
    assert int(sol.event) == -1
    counted = rg.Event(event.condition, direction=direction, terminal=count, capacity=4)
    sol = rg.solve(*call, event=counted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(backend.to_numpy(sol.ts), [expected[-1] * math.pi], rtol=1e-8)


@pytest.mark.parametrize("levels", [(1.7, 1.2), (1.2, 1.7)])
def test_the_earliest_of_two_events_in_a_step_wins(levels):
    sol = straight([at(q) for q in levels])
    np.testing.assert_allclose(sol.ts, [1.2], rtol=1e-14)
    assert sol.event == levels.index(1.2)
    sol = straight([at(q, terminal=False) for q in levels])
    for q, hit in zip(levels, sol.events, strict=True):
        np.testing.assert_allclose(hit.ts, [q], rtol=1e-14)
    sol = straight([at(q, terminal=q == 1.7) for q in levels])
    assert [hit.count for hit in sol.events] == [1, 1]
    np.testing.assert_allclose(sol.ts, [1.7], rtol=1e-14)


def test_two_roots_in_one_step():
    both = rg.Event(lambda t, y, a: (y[0] - 1.2) * (y[0] - 2.0), terminal=False)
    sol = straight(both)
    np.testing.assert_allclose(sol.events[0].ts, [1.2, 2.0], rtol=1e-14)
    assert sol.stats["num_steps"] == 1
    second = rg.Event(both.condition, terminal=2)
    np.testing.assert_allclose(straight(second).ts, [2.0], rtol=1e-14)


def test_events_at_one_time_are_both_found():
    jump = at(1.0, reset=lambda t, y, a: y - 0.5)
    sol = straight([jump, rg.Event(lambda t, y, a: t - 1.0, terminal=False)])
    np.testing.assert_allclose(sol.events[1].ts, [1.0], rtol=1e-12)
    np.testing.assert_allclose(sol.events[0].ts, [1.0, 1.5, 2.0, 2.5, 3.0][: sol.events[0].count])
    assert sol.events[0].count >= 4


def test_short_bounces_are_not_lost():
    """Flights far shorter than a step, from a ground where the condition is zero."""
    f = lambda t, y, a: np.stack([y[1], 0.0 * y[0] - 1.0])  # noqa: E731
    reset = lambda t, y, a: np.stack([0.0 * y[0], 0.0 * y[0] + 0.01])  # noqa: E731
    ball = rg.Event(lambda t, y, a: y[0], direction=-1, reset=reset)
    sol = rg.solve(f, np.array([0.0, 0.01]), 0.0, 0.2, event=ball, dt=0.1, solver="midpoint")
    np.testing.assert_allclose(np.diff(sol.events[0].ts), 0.02, rtol=1e-9)
    assert sol.events[0].count in (9, 10)


def test_a_start_at_zero_is_no_event():
    f, y0, a = (lambda t, y, a: np.stack([y[1], 0.0 * y[0] - 1.0])), np.array([0.0, 1.0]), None
    sol = rg.solve(f, y0, 0.0, 5.0, a, event=rg.Event(lambda t, y, a: y[0]))
    np.testing.assert_allclose(sol.ts, [2.0], rtol=1e-12)


def test_an_event_at_t1_is_one():
    sol = straight(at(1.0), t1=1.0, dt=0.25)
    assert sol.status is rg.Status.event
    assert sol.ts.tolist() == [1.0]


@pytest.mark.libraries("numpy torch jax:jit")
def test_booleans_fire_at_the_step_s_end(backend):
    y0 = backend.array([0.0])
    event = [
        rg.Event(lambda t, y, a: y[0] > 0.6, terminal=False),
        rg.Event(lambda t, y, a: y[0] < 0.6, direction=-1, terminal=False),
        rg.Event(lambda t, y, a: y[0] > 0.8),
    ]
    run = lambda y0: rg.solve(rate, y0, 0.0, 3.0, event=event, solver="euler", dt=0.25)  # noqa: E731
    sol = backend.compiled(run)(y0)
    for hit in sol.events[:2]:
        assert float(hit.ts[0]) == 0.75
    assert float(sol.ts[-1]) == 1.0
    assert int(sol.event) == 2


def test_backwards_and_far_from_zero():
    sol = rg.solve(rate, np.zeros(1), 1e6, 1e6 - 3.0, event=at(-1.5), dt=-0.4, solver="euler")
    np.testing.assert_allclose(sol.ts, [1e6 - 1.5], rtol=1e-15)


def test_rows_behind_the_end_are_padding():
    saveat = rg.SaveAt(t0=True, ts=[0.5, 1.0, 2.0], t1=True)
    sol = straight(at(1.25), saveat=saveat)
    np.testing.assert_allclose(sol.ts, [0.0, 0.5, 1.0, np.inf, 1.25], rtol=1e-14)
    np.testing.assert_allclose(sol.ys[:, 0], [0.0, 0.5, 1.0, np.inf, 1.25], rtol=1e-14)
    steps = straight(at(1.25), saveat=rg.SaveAt(steps=True), dt=0.5)
    np.testing.assert_allclose(steps.ts, [0.5, 1.0, 1.25], rtol=1e-14)


def test_trees_of_states_and_calls_of_f():
    calls = []

    def f(t, y, a):
        calls.append(t)
        return {"x": y["v"], "v": 0.0 * y["x"] - 1.0}

    event = rg.Event(
        lambda t, y, a: y["x"][0], direction=-1,
        reset=lambda t, y, a: {"x": 0.0 * y["x"], "v": -0.5 * y["v"]},
    )  # fmt: skip
    y0 = {"x": np.ones(1), "v": np.zeros(1)}
    sol = rg.solve(f, y0, 0.0, 3.0, event=event)
    assert set(sol.events[0].after) == {"x", "v"}
    np.testing.assert_allclose(sol.events[0].ts, np.sqrt(2) * np.array([1.0, 2.0]), rtol=1e-12)
    assert len(calls) == sol.stats["num_f_evals"] + sol.stats["num_trial_f_evals"]


@pytest.mark.libraries("jax:jit")
def test_more_hits_than_rows_are_a_failure(backend):
    f, y0, a = fall(backend)
    sol = backend.compiled(
        lambda y0: rg.solve(f, y0, 0.0, 5.0, a, event=bounce(backend, capacity=1))
    )(y0)
    assert int(sol.status) == rg.Status.too_many_events
    assert np.all(np.isnan(backend.to_numpy(sol.ys)))
    with pytest.raises(rg.SolveFailed, match="capacity"):
        sol.raise_if_failed()


WRONG = {
    "shape": (lambda: rg.Event(lambda t, y, a: y), {}, "shape"),
    "dtype": (lambda: rg.Event(lambda t, y, a: y[0] * 1j), {}, "dtype"),
    "reset": (lambda: at(1.0, reset=lambda t, y, a: y[0]), {}, "like `y0`"),
    "given steps": (lambda: at(1.0), {"controller": rg.StepTo([0.0, 3.0]), "dt": None}, "StepTo"),
    "direction": (lambda: at(1.0, direction=2), {}, "direction"),
    "terminal": (lambda: at(1.0, terminal=0), {}, "terminal"),
    "callable": (lambda: rg.Event(1.0), {}, "condition"),
    "kind": (lambda: [1.0], {}, "rg.Event"),
    "adjoint": (
        lambda: at(1.0),
        {"adjoint": rg.BacksolveAdjoint(mode="continuous"), "saveat": rg.SaveAt(steps=True)},
        "can't pass the events",
    ),
    "record": (lambda: at(1.0), {"adjoint": rg.RecursiveCheckpointAdjoint(record=False)}, "record"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_event_is_an_error(case):
    make, keywords, words = WRONG[case]
    settings = {"solver": "euler", "dt": 1.0, **keywords}
    with pytest.raises((rg.InputError, rg.UnsupportedByBackend), match=words):
        rg.solve_vjp(rate, np.zeros(1), 0.0, 3.0, event=make(), **settings)


@pytest.mark.libraries("numpy torch jax:jit")
def test_an_end_at_infinity(backend):
    """A ball that falls ``whenever``: t = sqrt(2 h / g); and what ends by no event is an error."""
    ground = rg.Event(lambda t, y, a: y[0], direction=-1)

    def solve(y0, **keywords):
        f = lambda t, y, a: backend.namespace(y).stack([y[1], 0.0 * y[0] - 9.81])  # noqa: E731
        return rg.solve(f, y0, 0.5, math.inf, **keywords)

    y0 = backend.array([10.0, 0.0])
    for keywords in ({}, {"dt": 0.1, "saveat": rg.SaveAt(ts=[0.7], t1=True)}):
        times = backend.compiled(lambda y0, k=keywords: solve(y0, event=ground, **k).ts)(y0)
        end = float(backend.to_numpy(times)[-1])
        assert end == pytest.approx(0.5 + math.sqrt(20 / 9.81), rel=1e-9)
    crossing = rg.Event(lambda t, y, a: y[0], terminal=False)
    for event in (None, crossing):
        with pytest.raises(rg.InputError, match="no event ends"):
            solve(y0, event=event)
    never = rg.Event(lambda t, y, a: y[0] - 20.0)
    with pytest.raises(rg.SolveFailed, match="max_steps"):
        solve(y0, event=never, max_steps=20)
