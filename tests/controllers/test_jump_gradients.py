"""Derivatives by the times at which f jumps: closed forms, rows of every kind, events behind."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

import retrograde as rg

ON, OFF, K, RATE = 2.0, 2.7, 0.3, 10.0
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
JUMPS = [OFF, ON]  # in any order
WAYS = {"forward": (0.0, 5.0), "shifted": (1.0, 6.0), "back": (5.0, 0.0)}


def pulse(backend):
    """y' = RATE (1 + t) while ON <= t < OFF, less K y, of a time that f reads in steps too."""

    def f(t, y, jumps):
        now = backend.namespace(t)
        on = now.where((t >= jumps[1]) & (t < jumps[0]), RATE * (1.0 + t), 0.0 * t)
        return on * backend.namespace(y).ones_like(y) - K * y

    return f


def by_jump(tau, t0, ts, order=1):
    """Derivatives of y at ts by the end ``tau`` of the pulse; by its start, times -1."""
    low, high = np.minimum(t0, ts), np.maximum(t0, ts)
    inside = np.where((low < tau) & (tau < high), np.sign(ts - t0), 0.0)
    factor = 1.0 + tau if order == 1 else 1.0 + K * (1.0 + tau)
    return inside * RATE * factor * np.exp(-K * (ts - tau))


def run(backend, jumps, span, saveat, **keywords):
    """The solve, with jumps of any library, and stops between them."""
    values = [float(t) for t in JUMPS]  # a time in a comparison alone has no derivative anyway
    steps = rg.PIDController(**TIGHT, jump_ts=jumps, step_ts=[1.5, 2.3, 4.0])
    call = pulse(backend), backend.array([1.0]), *span, values
    solve = keywords.pop("solve", rg.solve)
    return solve(*call, controller=steps, saveat=saveat, max_steps=300, **keywords)


def gradient(backend, loss, jumps):
    """Of a loss of the jumps, by the library's own autodiff."""
    x = backend.array(jumps)
    if backend.bk.name == "jax":
        return np.asarray(backend.compiled(importlib.import_module("jax").grad(loss))(x))
    x.requires_grad_()
    return backend.xp.autograd.grad(loss(x), x)[0].numpy()


def native(backend):
    return rg.backend.Capability.NATIVE_GRADIENT in backend.bk.capabilities


ADJOINTS = {
    "auto": "auto",
    "slots": rg.RecursiveCheckpointAdjoint(3),
    "unrecorded": rg.RecursiveCheckpointAdjoint(3, record=False),
    "inverted": rg.BacksolveAdjoint(checkpoints=2),
    "direct": "direct",
}


@pytest.mark.settings(
    name=list(ADJOINTS),
    way=list(WAYS),
    solver=["tsit5", "rodas5p"],
    few={
        "jax": [],
        "jax:jit": [("unrecorded", "back", "tsit5")],
        "strict": [("slots", "shifted", "tsit5"), ("unrecorded", "back", "tsit5")],
    },
)
def test_by_the_time_of_a_jump(backend, name, way, solver):
    """At rows on both sides; stops that are no jumps lie between."""
    if (name == "direct" and not native(backend)) or (name == "inverted" and solver == "rodas5p"):
        pytest.skip("no autodiff, or no way back")
    span = WAYS[way]
    ts = np.linspace(*span, 6)[1:]
    keywords = {"saveat": rg.SaveAt(ts=ts.tolist()), "adjoint": ADJOINTS[name], "solver": solver}
    if native(backend):
        loss = lambda x: backend.xp.sum(run(backend, x, span, **keywords).ys)  # noqa: E731
        found = gradient(backend, loss, JUMPS)
    else:
        sol, pullback = run(backend, JUMPS, span, solve=rg.solve_vjp, **keywords)
        found = backend.to_numpy(pullback(0 * sol.ys + 1).jump_ts)
    expected = [by_jump(OFF, span[0], ts).sum(), -by_jump(ON, span[0], ts).sum()]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.libraries("numpy torch", slow="strict")
def test_differences_keep_to_their_side_of_a_jump(backend):
    """Second derivatives of an f that takes no complex numbers, and of one's own vjp."""
    (t0, t1), values, scale = WAYS["shifted"], [float(t) for t in JUMPS], backend.array(1.0)
    ts = np.linspace(t0, t1, 6)[1:]
    plain = lambda t, y, a: pulse(backend)(t, y, values) * a  # noqa: E731

    def real(t, y, a):
        return plain(t, y, a) + K * (y - abs(y))

    def pulled(t, y, a, ct):
        now = backend.namespace(t)
        rate = now.where((t >= ON) & (t < OFF), RATE + 0.0 * t, 0.0 * t)
        return rate * ct[0], -K * ct, ct[0] * plain(t, y, a)[0]

    steps = rg.PIDController(**TIGHT, jump_ts=JUMPS)
    for field in (real, rg.VectorField(plain, vjp=pulled)):
        sol, pullback = rg.solve_vjp(
            field, backend.array([1.0]), t0, t1, scale, controller=steps, saveat=ts.tolist(),
            solver="rodas5p", max_steps=300,
        )  # fmt: skip
        found = backend.to_numpy(pullback(0 * sol.ys + 1).jump_ts)
        expected = [by_jump(OFF, t0, ts).sum(), -by_jump(ON, t0, ts).sum()]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def loss_of_steps(xp, ts, ys):
    """Of times and states at steps' ends, weighted so that none is like another."""
    return xp.sum(xp.cos(ts) * ys[:, 0] + xp.sin(2.0 * ts))


@pytest.mark.libraries("numpy torch jax:jit")
@pytest.mark.settings(way=["shifted", "back"], few={"jax:jit": []})
def test_rows_of_steps_and_dense_output(backend, way):
    """Times of rows move with the last jump behind them, unless a stop lies between."""
    span, at = WAYS[way], [2.9, 4.5, 2.35]
    sign = np.sign(span[1] - span[0])
    wish = (rg.SaveAt(steps=True), rg.SaveAt(dense=True))
    if native(backend):

        def loss(x):
            sol = run(backend, x, span, wish)
            ts, ys = (z[: len(where)] for z in (sol.ts[0], sol.ys[0]))
            return loss_of_steps(backend.xp, ts, ys) + backend.xp.sum(
                sol.evaluate(backend.array(at))
            )

        sol = run(backend, backend.array(JUMPS), span, wish)
        where = [t for t in backend.to_numpy(sol.ts[0]) if math.isfinite(t)]
        ys = backend.to_numpy(sol.ys[0])[: len(where), 0]
        found = gradient(backend, loss, JUMPS)
    else:
        sol, pullback = run(backend, JUMPS, span, wish, solve=rg.solve_vjp)
        where, ys = sol.ts[0], sol.ys[0][:, 0]
        ct_t = 2 * np.cos(2 * where) - np.sin(where) * ys
        ct = (np.cos(where)[:, None], 0 * sol.ys[1]), (ct_t, 0 * sol.ts[1])
        found = pullback(*ct, evaluated=(np.asarray(at), np.ones((3, 1)))).jump_ts
    where, stops, expected = np.asarray(where), (1.5, ON, 2.3, OFF, 4.0), []
    for tau, way in ((OFF, 1.0), (ON, -1.0)):
        stop = min(sign * s for s in (*stops, span[1]) if sign * s > sign * tau)
        moved = (sign * where >= sign * tau) & (sign * where < stop)
        left = where - sign * 1e-9
        slope = np.where((left >= ON) & (left < OFF), RATE * (1 + where), 0.0) - K * ys
        by_t = 2 * np.cos(2 * where) - np.sin(where) * ys + np.cos(where) * slope
        by_y = np.cos(where) * way * by_jump(tau, span[0], where)
        expected.append(
            np.sum(by_y + moved * by_t) + way * by_jump(tau, span[0], np.asarray(at)).sum()
        )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.libraries("torch", slow="jax:jit")
def test_tangents_and_second_derivatives(backend):
    """By adjoint="direct", forward mode and a Hessian: that of a jump by itself alone."""
    span, at = (0.0, 5.0), np.asarray(5.0)
    keywords = {"saveat": rg.SaveAt(t1=True), "adjoint": "auto"}
    library = backend.xp if backend.bk.name == "torch" else importlib.import_module("jax")
    func = library.func if backend.bk.name == "torch" else library
    loss = lambda x: run(backend, x, span, **keywords).ys[-1, 0]  # noqa: E731
    x, along = backend.array(JUMPS), backend.array([0.3, 2.0])
    tangent = backend.compiled(lambda x: func.jvp(loss, (x,), (along,))[1])(x)
    first = [by_jump(OFF, 0.0, at), -by_jump(ON, 0.0, at)]
    assert float(tangent) == pytest.approx(np.dot(first, [0.3, 2.0]), rel=1e-8)
    keywords["adjoint"] = "direct"
    hessian = backend.compiled(func.hessian(loss))(x)
    second = [by_jump(OFF, 0.0, at, 2), -by_jump(ON, 0.0, at, 2)]
    np.testing.assert_allclose(backend.to_numpy(hessian), np.diag(second), rtol=1e-6, atol=1e-6)


@pytest.mark.libraries("torch")
def test_what_has_no_derivative_by_a_jump(backend):
    """Stops where f is smooth, continuous adjoints, rows of steps beside events."""
    x = backend.array(JUMPS).requires_grad_()
    with pytest.raises(rg.InputError, match="`step_ts` requires a gradient"):
        rg.solve(
            pulse(backend), backend.array([1.0]), 0.0, 5.0, JUMPS,
            controller=rg.PIDController(step_ts=x),
        )  # fmt: skip
    saved, continuous = rg.SaveAt(ts=[5.0]), rg.BacksolveAdjoint(mode="continuous")
    sol = run(backend, x, (0.0, 5.0), saved, adjoint=continuous)
    with pytest.raises(rg.InputError, match="continuous adjoint does not pass"):
        sol.ys.sum().backward()
    event = rg.Event(lambda t, y, args: y[0] - 3.0, terminal=False)
    assert run(backend, x, (0.0, 5.0), saved, event=event).ys.requires_grad
    for wish in (rg.SaveAt(steps=True), rg.SaveAt(dense=True)):
        with pytest.raises(rg.InputError, match="solve with events"):
            run(backend, x, (0.0, 5.0), wish, event=event)


def test_gradients_of_solve_vjp_that_are_not_told(reference):
    call = pulse(reference), reference.array([1.0]), 0.0, 5.0, JUMPS
    continuous = rg.BacksolveAdjoint(mode="continuous")
    steps = rg.PIDController(jump_ts=JUMPS)
    sol, pullback = rg.solve_vjp(*call, controller=steps, adjoint=continuous)
    assert pullback(0 * sol.ys + 1).jump_ts is None
    assert rg.solve_vjp(*call)[1](0 * sol.ys + 1).jump_ts is None
    plain = lambda t, y, args: math.cos(t) * y  # noqa: E731
    sol, pullback = rg.solve_vjp(plain, reference.array([1.0]), 0.0, 5.0, controller=steps)
    g = pullback(0 * sol.ys + 1)
    assert g.y0[0] == pytest.approx(math.exp(math.sin(5.0)), rel=1e-3)
    with pytest.raises(rg.UnsupportedByBackend, match="`jump_ts` has no gradient"):
        g.jump_ts  # noqa: B018


@pytest.mark.libraries("numpy torch", slow="jax:jit")
def test_samples_with_steps_of_their_own(backend):
    """One jump for all of them: its derivatives add up."""

    def f(t, y, args):
        now = backend.namespace(t)
        return now.where(t < 2.0, RATE + 0.0 * t, 0.0 * t)[:, None] - K * y

    y0 = backend.array([[1.0], [2.0], [-30.0]])

    def batch(solve, jumps):
        steps = rg.PIDController(**TIGHT, jump_ts=jumps)
        return solve(f, y0, 0.0, 5.0, controller=steps, per_sample=True)

    if native(backend):
        found = gradient(backend, lambda x: backend.xp.sum(batch(rg.solve, x).ys), [2.0])
    else:
        sol, pullback = batch(rg.solve_vjp, [2.0])
        found = pullback(0 * sol.ys + 1).jump_ts
    np.testing.assert_allclose(found, [3 * RATE * math.exp(-3 * K)], rtol=1e-8)
