"""Gradients past events: closed forms, and differences of the same discrete solve."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

FLIGHT = {
    "constant": {"dt": 0.15, "solver": "bosh3"},
    "stored": {"dt": 0.15, "solver": "tsit5"},
    "checkpoints": {"dt": 0.15, "solver": "bosh3", "adjoint": rg.RecursiveCheckpointAdjoint(3)},
    "order 8": {"dt": 0.4, "solver": "dopri8", "adjoint": rg.RecursiveCheckpointAdjoint(2)},
    "reversible": {"dt": 0.05, "solver": "reversible_heun", "memory": "8 KiB"},
    "program": {"dt": 0.05, "solver": "alf"},
}
"""Steps of one size, so that differences see the sizes that gradients hold constant."""


def weights(x):
    return np.cos(1.0 + np.arange(x.size)).reshape(x.shape)


def value(backend, sol, counts):
    """A loss of all that an event solve tells, as the library sums it."""
    xp = backend.xp

    def paired(x):
        return xp.sum(x * backend.array(weights(np.zeros(tuple(x.shape))).tolist()))

    parts = [paired(sol.ys), 3.0 * sol.ts[-1]]
    for hit, k in zip(sol.events, counts, strict=True):
        if k:
            parts += [paired(hit.ts[:k]), paired(hit.ys[:k, ...])]
            parts += [] if hit.after is None else [paired(hit.after[:k, ...])]
    return sum(parts)


def gradient(backend, solve, y0, args, counts):
    """(value, dL/dy0, dL/dargs) as a user of the library gets them."""
    y0, args = backend.array(y0), backend.array(args)
    name = backend.bk.name
    if name == "torch":
        y0.requires_grad_()
        args.requires_grad_()
        loss = value(backend, solve(rg.solve, y0, args), counts)
        loss.backward()
        return [backend.to_numpy(x) for x in (loss, y0.grad, args.grad)]
    if name == "jax":
        import jax

        run = jax.value_and_grad(
            lambda y0, args: value(backend, solve(rg.solve, y0, args), counts), (0, 1)
        )
        loss, grads = backend.compiled(run)(y0, args)
        return [backend.to_numpy(x) for x in (loss, *grads)]
    sol, pullback = solve(rg.solve_vjp, y0, args)

    def ct(x):
        return None if x is None else backend.array(weights(backend.to_numpy(x)).tolist())

    hits = [rg.Hit(ct(h.ts), ct(h.ys), ct(h.after), h.count) for h in sol.events]
    ts = np.zeros(sol.ts.shape)
    ts[-1] = 3.0
    g = pullback(ct(sol.ys), ts=backend.array(ts.tolist()), events=hits)
    return [backend.to_numpy(x) for x in (value(backend, sol, counts), g.y0, g.args)]


def differences(fn, x, step=2e-3):
    """Central differences of fourth order."""
    found = np.zeros(x.size)
    for i in range(x.size):
        d = np.zeros(x.size)
        d[i] = step
        near, far = (fn(x + s * d) - fn(x - s * d) for s in (0.5, 1.0))
        found[i] = (8 * near - far) / (6 * step)
    return found


def flight(backend, keywords, saveat=None):
    """A ball with drag that bounces on a floor twice, passes a height, and ends falling there.

    args: gravity, drag, restitution, floor, and where it ends.
    """

    def f(t, y, a):
        xp = backend.namespace(y)
        return xp.stack([y[1], -a[0] - a[1] * y[1] * xp.abs(y[1])])

    def reset(t, y, a):
        xp = backend.namespace(y)
        return xp.stack([0.0 * y[0] + a[3], -a[2] * y[1] + 0.01 * t])

    events = [
        rg.Event(lambda t, y, a: y[0] - a[3] - 0.3, direction=1, terminal=False, capacity=4),
        rg.Event(lambda t, y, a: y[0] - a[3], direction=-1, reset=reset, capacity=4),
        rg.Event(lambda t, y, a: y[1] + 0.2 * y[0] + a[4] * (t - 1.0), direction=-1, terminal=3),
    ]

    def solve(call, y0, args):
        return call(f, y0, 0.2, 9.0, args, event=events, saveat=saveat, **keywords)

    return solve, np.array([2.0, 0.1]), np.array([9.81, 0.02, 0.8, 0.1, -0.4])


@pytest.mark.settings(
    steps=list(FLIGHT), few={"jax:jit": ["checkpoints"], "jax": [], "strict": ["stored"]}
)
def test_all_that_a_flight_tells(backend, reference, steps):
    """By y0 and args: hits of three events, rows before and behind them, and the end."""
    rough = (
        FLIGHT[steps]["dt"] < 0.1
    )  # methods whose inside has kinks, which differences would meet
    saveat = rg.SaveAt(t0=True, ts=None if rough else [0.5, 1.1, 1.4], t1=True)
    solve, y0, args = flight(backend, FLIGHT[steps], saveat)
    here, _, _ = flight(reference, FLIGHT[steps], saveat)
    sol = here(rg.solve, y0, args)
    assert sol.event == 2
    counts = [hit.count for hit in sol.events]
    assert min(counts) >= 1
    _, g_y0, g_args = gradient(backend, solve, y0, args, counts)
    loss = lambda y0, a: float(value(reference, here(rg.solve, y0, a), counts))  # noqa: E731
    step, near = (2e-4, 1e-8) if rough else (1e-3, 1e-9)
    near = {"rtol": 0.0, "atol": near * np.max(np.abs(g_args))}
    np.testing.assert_allclose(g_y0, differences(lambda y: loss(y, args), y0, step), **near)
    np.testing.assert_allclose(g_args, differences(lambda a: loss(y0, a), args, step), **near)


@pytest.mark.libraries("numpy torch jax:jit")
def test_rows_of_steps_and_functions_of_them(backend, reference):
    """``SaveAt(steps=True, fn=...)``: the row of a step that was cut is at the cut; and times."""
    fn = lambda t, y, a: y * y + a[0] * t  # noqa: E731
    saveat = rg.SaveAt(t0=True, steps=True, fn=fn)
    keywords = {"dt": 0.15, "solver": "bosh3", "max_steps": 40}

    def solve(call, y0, args, backend=backend):
        return flight(backend, keywords, saveat)[0](call, y0, args)

    _, y0, args = flight(reference, keywords)
    sol = solve(rg.solve, y0, args, reference)
    rows = sol.ys.shape[0]

    def loss(backend, sol):
        w = [backend.array(weights(np.zeros(shape)).tolist()) for shape in ((rows, 2), (rows,))]
        sum_ = backend.xp.sum
        return sum_(w[0] * sol.ys[:rows, ...]) + sum_(w[1] * sol.ts[:rows])

    def run(call, y0, args):
        sol = solve(call, y0, args)
        return sol

    if backend.bk.name == "numpy":
        _, pullback = run(rg.solve_vjp, y0, args)
        found = pullback(weights(sol.ys), ts=weights(sol.ts)).args
    elif backend.bk.name == "torch":
        a = backend.array(args).requires_grad_()
        loss(backend, run(rg.solve, backend.array(y0), a)).backward()
        found = backend.to_numpy(a.grad)
    else:
        import jax

        call = jax.grad(lambda a: loss(backend, run(rg.solve, backend.array(y0), a)))
        found = backend.to_numpy(jax.jit(call)(backend.array(args)))
    expected = differences(
        lambda a: float(loss(reference, solve(rg.solve, y0, a, reference))), args
    )
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-9 * np.max(np.abs(expected)))


CLOSED = {
    # y' = 1 from y0 at t0; args = (q, p): where it ends, what it is reset by
    "end": (lambda t, y, a: y[0] - a[0], None, {}, (-1.0, [1.0, 0.0], 1.0)),
    # an end at t = q moves with q alone
    "time": (lambda t, y, a: t - a[0], None, {}, (0.0, [1.0, 0.0], 0.0)),
}


@pytest.mark.parametrize("case", CLOSED)
def test_an_end_moves_as_it_should(reference, case):
    """dT/dy0, dT/d(q, p), dT/dt0 of the time T at which y' = 1 ends."""
    condition, reset, keywords, (by_y0, by_args, by_t0) = CLOSED[case]
    event = rg.Event(condition, reset=reset, **keywords)
    f = lambda t, y, a: 0.0 * y + 1.0  # noqa: E731
    _, pullback = rg.solve_vjp(
        f, np.zeros(1), 0.5, 9.0, np.array([2.3, 0.4]), event=event, dt=0.7, solver="heun"
    )
    g = pullback(np.zeros((1, 1)), ts=np.ones(1))
    np.testing.assert_allclose(g.y0, [by_y0], atol=1e-12)
    np.testing.assert_allclose(g.args, by_args, atol=1e-12)
    np.testing.assert_allclose([g.t0, g.t1], [by_t0, 0.0], atol=1e-12)
    g = pullback(np.ones((1, 1)))  # y at the end is q, or q less where it began
    np.testing.assert_allclose(g.args, [1.0, 0.0], atol=1e-12)


@pytest.mark.settings(
    first=["end", "reset"], few={"jax": ["end"], "jax:jit": ["reset"], "strict": ["reset"]}
)
@pytest.mark.quick("reset")
def test_two_events_in_one_step(backend, first):
    """u' = v' = 1, an end where v = q, u to 0 where it is p, in one step of Euler's method: T = q,
    and u there q - p, in either order of declaration."""
    xp = backend.xp
    events = [
        rg.Event(lambda t, y, a: y[1] - a[0]),
        rg.Event(lambda t, y, a: y[0] - a[1], capacity=4,
                 reset=lambda t, y, a: backend.namespace(y).stack([0.0 * y[0], y[1]])),
    ]  # fmt: skip
    events = events if first == "end" else events[::-1]
    f, weight = lambda t, y, a: 0.0 * y + 1.0, [0.3, 0.8]

    def end(solve, a):
        return solve(
            f, backend.array([0.0, 0.0]), 0.0, 4.0, a, event=events, dt=2.0, solver="euler"
        )

    def loss(a):
        sol = end(rg.solve, a)
        return 3.0 * sol.ts[-1] + xp.sum(backend.array(weight) * sol.ys[-1])

    a = backend.array([1.7, 1.2])
    if backend.bk.name == "torch":
        a.requires_grad_()
        value, by = loss(a), None
        (by,) = xp.autograd.grad(value, a)
        value = value.detach()
    elif backend.bk.name == "jax":
        import jax

        value, by = backend.compiled(jax.value_and_grad(loss))(a)
    else:
        sol, pullback = end(rg.solve_vjp, a)
        by = pullback(backend.array([weight]), ts=backend.array([3.0])).args
        value = 3.0 * sol.ts[-1] + xp.sum(backend.array(weight) * sol.ys[-1, ...])
    assert float(value) == pytest.approx(3.0 * 1.7 + 0.3 * 0.5 + 0.8 * 1.7, rel=1e-12)
    np.testing.assert_allclose(backend.to_numpy(by), [3.0 + 0.3 + 0.8, -0.3], rtol=1e-10)


def test_a_reset_moves_what_comes_behind(reference):
    """y' = 1 from 0, to 0 where y = p: y(T) = T - p, and by t1, t0."""
    event = rg.Event(lambda t, y, p: y[0] - p, reset=lambda t, y, p: 0.0 * y)
    f = lambda t, y, p: 0.0 * y + 1.0  # noqa: E731
    sol, pullback = rg.solve_vjp(f, np.zeros(1), 0.0, 1.9, np.asarray(1.2), event=event)
    g = pullback([[1.0]])
    np.testing.assert_allclose(sol.ys, [[0.7]], rtol=1e-12)
    np.testing.assert_allclose([g.args, g.t0, g.t1], [-1.0, -1.0, 1.0], atol=1e-12)


def test_a_condition_that_touches_zero_has_no_derivative(reference):
    event = rg.Event(lambda t, y, q: (t - 0.5) * (t - 0.5) + 0.0 * q, terminal=False)
    f = lambda t, y, q: 0.0 * y + q  # noqa: E731
    sol, pullback = rg.solve_vjp(
        f, np.ones(1), 0.0, 1.0, np.asarray(0.3), event=event, dt=1.0, solver="heun"
    )
    assert sol.events[0].count == 1
    assert np.isfinite(pullback([[1.0]]).args)  # the end does not depend on it
    with pytest.raises(rg.InputError, match="only touches zero"):
        pullback([[1.0]], events=[rg.Hit(np.ones(1), None, None, 1)])


@pytest.mark.libraries("torch")
def test_modules_in_conditions_get_gradients(backend):
    torch = backend.xp
    level = torch.nn.Parameter(backend.array(1.5))
    push = torch.nn.Parameter(backend.array(0.3))
    event = rg.Event(lambda t, y, a: y[0] - level, reset=lambda t, y, a: y * push)
    sol = rg.solve(
        lambda t, y, a: 0.0 * y + 1.0, backend.array([0.0]), 0.0, 2.2, event=event, dt=0.5
    )
    sol.ys.sum().backward()  # y(T) = level push + (T - level)
    np.testing.assert_allclose([level.grad, push.grad], [0.3 - 1.0, 1.5], atol=1e-12)


@pytest.mark.libraries("jax:jit")
def test_lanes_of_a_batch_end_for_themselves(backend):
    """``vmap`` of gradients, tracers that conditions close over, and a touched zero: nan."""
    import jax
    import jax.numpy as jnp

    def end(q, push):
        event = rg.Event(lambda t, y, a: y[0] * y[0] - q, direction=1)
        sol = rg.solve(
            lambda t, y, a: y - y + a, jnp.zeros(1), 0.0, 9.0, push, event=event, dt=0.7,
            solver="heun",
        )  # fmt: skip
        return sol.ts[-1] + 0.0 * sol.ys[0, 0]

    q, push = jnp.asarray([1.21, 6.25, 0.25]), jnp.asarray([1.0, 2.0, 0.5])
    call = jax.jit(jax.vmap(jax.value_and_grad(end, (0, 1))))
    times, (by_q, by_push) = call(q, push)
    root = np.sqrt(q)
    np.testing.assert_allclose(times, root / push, rtol=1e-12)
    np.testing.assert_allclose(by_q, 0.5 / root / push, rtol=1e-10)
    np.testing.assert_allclose(by_push, -root / push**2, rtol=1e-10)


@pytest.mark.libraries("numpy torch", slow="strict jax jax:jit")
def test_cannonball_with_drag(backend, reference):
    """d t_end / d drag, adaptive: of the exact solution up to the tolerance."""

    def ball(backend):
        def f(t, y, k):
            xp = backend.namespace(y)
            speed = xp.sqrt(y[2] * y[2] + y[3] * y[3])
            return xp.stack([y[2], y[3], -k * speed * y[2], -9.81 - k * speed * y[3]])

        return f, backend.array([0.0, 0.0, 30.0, 40.0]), 0.0, 20.0

    event = rg.Event(lambda t, y, k: y[1], direction=-1)
    tight = {"rtol": 1e-11, "atol": 1e-11, "event": event}

    def end(k, backend=backend):
        return rg.solve(*ball(backend), k, **tight).ts[-1]

    expected = differences(lambda k: float(end(k[0], reference)), np.array([0.01]), 1e-4)[0]
    k = backend.array(0.01)
    if backend.bk.name == "torch":
        (found,) = backend.xp.autograd.grad(end(k.requires_grad_()), k)
    elif backend.bk.name == "jax":
        import jax

        found = backend.compiled(jax.grad(end))(k)
    else:
        _, pullback = rg.solve_vjp(*ball(backend), k, **tight)
        found = pullback(backend.array([[0.0] * 4]), ts=backend.array([1.0])).args
    assert float(found) == pytest.approx(expected, rel=1e-7)


@pytest.mark.libraries("numpy torch jax:jit")
def test_what_a_failed_solve_recorded_has_no_gradient(backend):
    """A root that was met before the steps ran out is told; its gradient is nan, not a number."""
    xp = backend.xp
    crossing = rg.Event(lambda t, y, k: y[0], terminal=False, capacity=4)

    def f(t, y, k):
        return backend.namespace(y).stack([y[1], -k * y[0]])

    def first(y0):
        sol, pull = rg.solve_vjp(
            f, y0, 0.0, 50.0, 1.0, event=crossing, rtol=1e-8, atol=1e-8, max_steps=20, throw=False
        )
        at = sol.events[0].ts
        only = rg.Hit(xp.ones_like(at), None, None, 1)
        return at[0], pull(xp.zeros_like(sol.ys), events=[only]).y0

    at, g = backend.compiled(first)(backend.array([1.0, 0.0]))
    np.testing.assert_allclose(backend.to_numpy(at), np.pi / 2, rtol=1e-6)
    assert np.isnan(backend.to_numpy(g)).all()


@pytest.mark.libraries("numpy jax:jit")
def test_cotangents_of_the_hits_of_two_events(backend):
    """Each goes to its own hit, in a compiled function too: of y = t + y0, times q - y0 of q."""
    xp = backend.xp

    def at(q):
        return rg.Event(lambda t, y, k: (y[0] - q) * (y[0] - q - 2.0), terminal=False, capacity=3)

    def run(y0):
        sol, pull = rg.solve_vjp(
            lambda t, y, k: 0.0 * y + k,
            y0,
            0.0,
            5.0,
            1.0,
            dt=0.25,
            solver="heun",
            event=[at(1.0), at(1.6)],
        )
        ct = [
            rg.Hit(w * xp.ones_like(hit.ts), None, None, 2)
            for w, hit in zip((1.0, 10.0), sol.events, strict=True)
        ]
        g = pull(xp.zeros_like(sol.ys), events=ct)
        return [hit.ts for hit in sol.events], g.y0, g.args

    times, by_y0, by_k = backend.compiled(run)(backend.array([0.1]))
    for found, q in zip(times, (1.0, 1.6), strict=True):
        np.testing.assert_allclose(backend.to_numpy(found)[:2], [q - 0.1, q + 1.9], rtol=1e-12)
    np.testing.assert_allclose(backend.to_numpy(by_y0), [-22.0], rtol=1e-9)
    np.testing.assert_allclose(float(by_k), -(0.9 + 2.9 + 10 * (1.5 + 3.5)), rtol=1e-9)


def test_a_solve_of_no_length(backend):
    """No step, no hit: its rows, what it evaluates, and the gradient by its ends."""
    saveat, event = rg.SaveAt(t1=True, dense=True), rg.Event(lambda t, y, args: y[0] - 0.5)
    call = (lambda t, y, args: -y * args, backend.array([1.0]), 1.0, 1.0, backend.array(2.0))
    sol, pullback = rg.solve_vjp(*call, saveat=saveat, event=event)
    g = pullback(backend.array([[1.0]]), evaluated=(backend.array([1.0]), backend.array([[1.0]])))
    assert float(sol.evaluate(1.0)[0]) == float(sol.ys[0, 0]) == 1.0
    np.testing.assert_allclose([float(g.y0[0]), float(g.t0), float(g.t1)], [2.0, 2.0, -2.0])
