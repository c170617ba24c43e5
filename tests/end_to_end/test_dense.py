"""Dense output: the interpolant itself, its derivative, and the gradients of both."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

DENSE = rg.SaveAt(dense=True)
TIMES = [0.3, 0.311, 0.55, 0.8, 1.1, 1.25]
"""The first is t0, the last t1, and one is the end of a step of 0.05."""
KINDS = {
    "constant": {"dt": 0.05, "solver": "bosh3"},
    "adaptive": {"rtol": 1e-5, "solver": "tsit5"},
    "extra stages": {"rtol": 1e-8, "solver": "dopri8"},
    "reversible": {"dt": 0.1, "solver": "reversible_heun"},
}


def swing(xp):
    return lambda t, y, a: xp.stack([y[1] * a, 0.1 * t - y[0] * xp.cos(t)])


def ends(backward):
    return (1.25, 0.3) if backward else (0.3, 1.25)


def keywords(kind, backward):
    found = KINDS[kind] | {"max_steps": 48}
    return found | ({"dt": -found["dt"]} if backward and "dt" in found else {})


@pytest.mark.settings(
    kind=list(KINDS),
    backward=[False, True],
    few={"jax": [], "jax:jit": [("adaptive", True), ("reversible", False)]},
)
def test_it_is_what_saved_times_give(backend, kind, backward):
    """At any times in any order, to rounding; and the state itself at the end of a step."""
    y0, (t0, t1) = backend.array([1.0, 0.5]), ends(backward)
    f, args = swing(backend.namespace(y0)), backend.array(1.3)
    order = [3, 0, 5, 2, 1, 4]
    times = sorted(TIMES, reverse=backward)

    @backend.compiled
    def run(y0):
        several = {"rows": rg.SaveAt(ts=times), "end": rg.SaveAt(t1=True, dense=True)}
        sol = rg.solve(f, y0, t0, t1, args, saveat=several, **keywords(kind, backward))
        mixed = sol.evaluate([times[i] for i in order])
        return sol.ys["rows"], mixed, sol.ys["end"], sol.evaluate(t1), sol.evaluate(TIMES[2])

    rows, mixed, end, at_end, one = (backend.to_numpy(x) for x in run(y0))
    np.testing.assert_allclose(mixed, rows[order], rtol=2e-13, atol=2e-13)
    np.testing.assert_array_equal(at_end, end[0])
    np.testing.assert_allclose(one, rows[times.index(TIMES[2])], rtol=2e-13)


def pulled(kind, times, weights, point):
    """sol and the gradient of the weighted rows of evaluate, by NumPy."""
    keys = keywords(kind, point[3] > point[4])
    y0, a, t0, t1 = point[:2], point[2], point[3], point[4]
    sol, pullback = rg.solve_vjp(swing(np), y0, t0, t1, a, saveat=DENSE, **keys)
    g = pullback(None, evaluated=(times, weights))
    return sol, np.concatenate([g.y0, [g.args, g.t0, g.t1]])


@pytest.mark.parametrize("kind", KINDS)
def test_its_gradient_is_that_of_the_discrete_solve(kind):
    """Central differences by y0 and args over the steps that were taken, by t0 and t1 over one."""
    times, weights = np.asarray([0.311, 0.562, 0.83, 1.13]), np.random.RandomState(0).randn(4, 2)
    point = np.asarray([1.0, 0.5, 1.3, 0.3, 1.25])
    sol, g = pulled(kind, times, weights, point)
    knots = 0.3 + sol.dense.knots
    knots[-1] = 1.25
    solver = KINDS[kind]["solver"]

    def value(x):
        ts = np.concatenate([[x[3]], knots[1:-1] + (x[3] - 0.3), [x[4]]])
        found = rg.solve(swing(np), x[:2], x[3], x[4], x[2], solver=solver,
                         controller=rg.StepTo(ts), saveat=rg.SaveAt(ts=times))  # fmt: skip
        return (found.ys * weights).sum()

    for i, way in enumerate(2e-5 * np.eye(5)):
        slope = (value(point + way) - value(point - way)) / 4e-5
        assert abs(slope - g[i]) < 1e-9 * max(1.0, abs(g).max())


@pytest.mark.needs(Capability.NATIVE_GRADIENT)
@pytest.mark.settings(
    kind=list(KINDS),
    few={"numpy": [], "strict": [], "jax": [], "jax:jit": ["constant", "reversible"]},
)
def test_libraries_give_the_same_gradient(backend, kind):
    """By y0, args, t0, t1 and t; that by t is the derivative."""
    weights = np.random.RandomState(0).randn(6, 2)
    if kind in ("adaptive", "extra stages"):  # steps of the same sizes
        keys = {"controller": rg.StepTo([0.3, 0.4, 0.7, 1.25]), "solver": KINDS[kind]["solver"]}
    else:
        keys = keywords(kind, False)
    point = np.asarray([1.0, 0.5, 1.3, 0.3, 1.25, *TIMES])
    xp = backend.namespace(backend.array(point))

    def loss(x):
        sol = rg.solve(swing(xp), x[:2], x[3], x[4], x[2], saveat=DENSE, **keys)
        return (sol.evaluate(x[5:]) * backend.array(weights)).sum()

    sol, pullback = rg.solve_vjp(swing(np), point[:2], 0.3, 1.25, point[2], saveat=DENSE, **keys)
    g = pullback(None, evaluated=(TIMES, weights))
    by_t = (sol.derivative(TIMES) * weights).sum(axis=1)
    expected = np.concatenate([g.y0, [g.args, g.t0, g.t1], by_t])
    if backend.bk.name == "torch":
        import torch

        x = torch.asarray(point, requires_grad=True)
        (found,) = torch.autograd.grad(loss(x), x)
    else:
        import jax

        found = backend.compiled(jax.grad(loss))(jax.numpy.asarray(point))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10, atol=1e-10)


def test_the_derivative_is_that_of_evaluate():
    eps, t = 1e-5, np.asarray([0.31, 0.62, 1.02])
    for kind in KINDS:
        sol, _ = pulled(kind, t, np.ones((3, 2)), np.asarray([1.0, 0.5, 1.3, 0.3, 1.25]))
        slope = (sol.evaluate(t + eps) - sol.evaluate(t - eps)) / (2 * eps)
        np.testing.assert_allclose(sol.derivative(t), slope, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("solver", "order"), [("bosh3", 3), ("tsit5", 4), ("dopri8", 7)])
def test_it_is_of_the_solvers_own_order(solver, order):
    t, errors = np.linspace(0.0, 1.0, 41), []
    for dt in (0.25, 0.125):
        sol = rg.solve(lambda t, y, a: -y, np.ones(1), 0.0, 1.0, solver=solver, dt=dt, saveat=DENSE)
        errors.append(abs(sol.evaluate(t)[:, 0] - np.exp(-t)).max())
    assert np.log2(errors[0] / errors[1]) > order - 0.5


def test_it_has_the_tree_of_y_and_can_be_sent_elsewhere():
    y0 = {"a": np.ones((2, 3)), "b": np.ones(())}
    f = lambda t, y, args: {"a": -y["a"], "b": y["b"]}  # noqa: E731
    sol, pullback = rg.solve_vjp(f, y0, 0.0, 1.0, saveat=DENSE, dt=0.1)
    sent = pickle.loads(pickle.dumps(sol))
    t = [0.1, 0.55]
    for key, shape in (("a", (2, 2, 3)), ("b", (2,))):
        assert sent.evaluate(t)[key].shape == shape
        np.testing.assert_array_equal(sent.evaluate(t)[key], sol.evaluate(t)[key])
    assert sol.derivative(0.5)["b"].shape == ()
    ct = {"a": np.ones((2, 2, 3)), "b": np.ones(2)}
    g = pullback(None, evaluated=(t, ct))
    np.testing.assert_allclose(g.y0["b"], np.exp(t).sum(), rtol=1e-4)
    both = pullback({"a": np.zeros((1, 2, 3)), "b": np.ones(1)}, evaluated=(t, ct))
    np.testing.assert_allclose(both.y0["b"], np.exp([*t, 1.0]).sum(), rtol=1e-4)


@pytest.mark.libraries("numpy strict torch", slow="jax:jit")
def test_times_outside_and_solves_that_failed(backend):
    y0 = backend.array([1.0, 2.0])
    f = lambda t, y, args: -y  # noqa: E731
    sol = rg.solve(f, y0, 0.0, 1.0, saveat=DENSE, solver="heun", dt=0.1, max_steps=20)
    with pytest.raises(rg.InputError, match=r"outside of t0 = 0.0 to t1 = 1.0"):
        sol.evaluate([0.5, 1.5])
    with pytest.raises(rg.InputError, match="dense=True"):
        rg.solve(f, y0, 0.0, 1.0, solver="heun", dt=0.1).evaluate(0.5)
    short = rg.solve(f, y0, 0.0, 1.0, saveat=DENSE, solver="heun", dt=0.1, max_steps=2, throw=False)
    assert np.isnan(backend.to_numpy(short.evaluate(0.1))).all()
    still = rg.solve(f, y0, 0.5, 0.5, saveat=DENSE, solver="heun", max_steps=4)
    backend.assert_close(still.evaluate(0.5), np.asarray([1.0, 2.0]))
    if backend.jit:
        import jax

        def at(t):
            sol = rg.solve(f, y0, 0.0, 1.0, saveat=DENSE, solver="heun", dt=0.1, max_steps=20)
            return sol.evaluate(t).sum()

        value, slope = jax.jit(jax.value_and_grad(at))(1.5)
        assert np.isnan(value)
        assert np.isnan(slope)


ENDINGS = {"none": {}, "the second": {"terminal": 2}, "the first": {"reset": None}}


def bounce(xp):
    """A ball that falls from y = 10; at the ground its speed turns."""
    fall = lambda t, y, g: xp.stack([y[1], -g + 0.0 * y[0]])  # noqa: E731
    turned = lambda t, y, g: xp.stack([0.0 * y[0], -0.8 * y[1]])  # noqa: E731
    return fall, {"direction": -1, "reset": turned}


@pytest.mark.settings(name=ENDINGS, few={"jax": [], "jax:jit": ["none"]})
def test_a_step_that_an_event_cut_is_evaluated_as_far_as_it_goes(backend, name):
    """Before the event, behind a reset, and at the event itself: there the state before it."""
    y0, ending = backend.array([10.0, 0.0]), ENDINGS[name]
    fall, event = bounce(backend.namespace(y0))
    event = rg.Event(lambda t, y, g: y[0], **(event | ending))
    times = np.linspace(0.01, 1.42 if ending else 2.99, 50).tolist()

    @backend.compiled
    def run(y0):
        keys = {"event": event, "rtol": 1e-6, "max_steps": 32}
        both = {"rows": rg.SaveAt(ts=times), "dense": rg.SaveAt(dense=True)}
        sol = rg.solve(fall, y0, 0.0, 3.0, 9.81, saveat=both, **keys)
        return sol.ys["rows"], sol.evaluate(times), sol.evaluate((20 / 9.81) ** 0.5 - 1e-9)

    rows, found, ground = (backend.to_numpy(x) for x in run(y0))
    np.testing.assert_allclose(found, rows, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ground, [0.0, -((20 * 9.81) ** 0.5)], atol=1e-7)


HITS = [0.33, 1.027, 1.42, 2.33, 2.777, 3.305]
"""Times before, between and behind two bounces; the last is in the step that t1 ends."""


STOPS = {"rtol": 1e3, "atol": 1e3, "dt0": 0.05, "dtmax": 0.05, "step_ts": [0.713, 1.1, 2.9]}
"""Steps of 0.05, but that they end on some times."""


def past_events(xp, array, x, ending, stops=False):
    """A weighted sum of evaluate, of y0, g, t0 and t1 in x; the ball, with a drag."""
    fall, event = bounce(xp)
    drag = lambda t, y, g: fall(t, y, g * (1.0 + 0.02 * t)) - 0.1 * y  # noqa: E731
    event = rg.Event(lambda t, y, g: y[0] - 0.01 * g, **(event | ending))
    keys = {"event": event, "dt": 0.05, "solver": "bosh3", "max_steps": 90, "saveat": DENSE}
    if stops:
        keys |= {"dt": None, "controller": rg.PIDController(**STOPS)}
    times = HITS[:3] if ending else HITS
    weights = array(np.random.RandomState(0).randn(6, 2)[: len(times)].tolist())
    return (drag, x[:2], x[3], x[4], x[2]), keys, times, weights


@pytest.mark.parametrize(
    ("ending", "stops"),
    [({}, False), ({"reset": None}, False), ({}, True), ({"reset": None}, True)],
)
def test_gradients_past_events(ending, stops):
    """Central differences of the same solve, by y0, g, t0 and t1."""
    point = np.asarray([10.0, 0.0, 9.81, 0.31, 3.31])
    call, keys, times, weights = past_events(np, np.asarray, point, ending, stops)
    _, pullback = rg.solve_vjp(*call, **keys)
    g = pullback(None, evaluated=(times, weights))
    g = np.concatenate([g.y0, [g.args, g.t0, g.t1]])

    def value(x):
        call, keys, times, weights = past_events(np, np.asarray, x, ending, stops)
        return (rg.solve(*call, **keys).evaluate(times) * weights).sum()

    for i, way in enumerate(1e-5 * np.eye(5)):
        slope = (value(point + way) - value(point - way)) / 2e-5
        assert abs(slope - g[i]) < 1e-9 * abs(g).max()
    assert ending or g[4] != 0


@pytest.mark.libraries("torch", slow="jax:jit")
def test_libraries_give_the_same_gradient_past_events(backend):
    point = np.asarray([10.0, 0.0, 9.81, 0.31, 3.31])
    xp = backend.namespace(backend.array(point))
    call, keys, times, weights = past_events(np, np.asarray, point, {})
    g = rg.solve_vjp(*call, **keys)[1](None, evaluated=(times, weights))

    def loss(x):
        call, keys, times, weights = past_events(xp, backend.array, x, {})
        return (rg.solve(*call, **keys).evaluate(times) * weights).sum()

    if backend.jit:
        import jax

        found = jax.jit(jax.grad(loss))(jax.numpy.asarray(point))
    else:
        import torch

        x = torch.asarray(point, requires_grad=True)
        (found,) = torch.autograd.grad(loss(x), x)
    expected = np.concatenate([g.y0, [g.args, g.t0, g.t1]])
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-9, atol=1e-9)


def test_its_bytes_are_in_the_plan():
    call = (lambda t, y, args: -y, np.ones(1000), 0.0, 1.0)
    sizes = [rg.plan(*call, dt=0.01, saveat=s).memory for s in (None, DENSE)]
    assert sizes[1] > sizes[0]
    assert "saved states 3.07 MiB" in str(rg.plan(*call, dt=0.01, saveat=DENSE))


def test_single_precision_warns_of_no_wide_integers():
    """A plain JAX has none; y' = 1, back to 0 at h: y(1.5) = 1.5 - 2 h where h = 0.6."""
    jax = pytest.importorskip("jax")
    event = rg.Event(lambda t, y, h: y - h, reset=lambda t, y, h: 0.0 * y, capacity=4)

    def loss(h):
        f, zero = (lambda t, y, h: 0.0 * y + 1.0), jax.numpy.float32(0.0)
        sol = rg.solve(f, zero, 0.0, 2.0, h, dt=0.125, event=event, saveat=DENSE)
        return sol.evaluate(jax.numpy.float32(1.5))

    with jax.enable_x64(False):
        value, by = jax.jit(jax.value_and_grad(loss))(jax.numpy.float32(0.6))
    np.testing.assert_allclose([value, by], [0.3, -2.0], rtol=1e-5)
