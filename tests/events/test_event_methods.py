"""Every gradient method passes events: steps taken back, autodiff of the library's own, twice."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.measure import peak_gradient_bytes

from .test_event_gradients import FLIGHT, differences, flight, gradient

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

STEPS = {"dt": 0.02, "solver": "tsit5", "max_steps": 150}
METHODS = {
    "taken back": {**STEPS, "adjoint": rg.BacksolveAdjoint(2)},
    "guarded by what is stored": {**STEPS, "adjoint": rg.BacksolveAdjoint(4, guard=None)},
    "adaptive, taken back": {"rtol": 1e-9, "atol": 1e-9, "adjoint": rg.BacksolveAdjoint(2)},
    "continuous": {
        "rtol": 1e-10,
        "atol": 1e-10,
        "max_steps": 400,
        "adjoint": rg.BacksolveAdjoint(mode="continuous"),
    },
    "reversible": {**STEPS, "solver": "alf", "adjoint": rg.ReversibleAdjoint(2)},
    "direct": {**FLIGHT["stored"], "adjoint": "direct"},
}


@pytest.mark.settings(
    method=[
        "taken back",
        "guarded by what is stored",
        "adaptive, taken back",
        "reversible",
        "continuous",
    ],
    few={
        "strict": ["reversible"],
        "torch": ["taken back", "direct", "continuous"],
        "jax:jit": ["taken back"],
        "jax": [],
    },
    slow={"jax:jit": ["continuous"]},
)
def test_its_gradient_is_that_of_checkpoints(backend, reference, method):
    keywords = METHODS[method]
    saveat = rg.SaveAt(t0=True, ts=[0.5, 1.1, 1.4], t1=True)
    solve, y0, args = flight(backend, keywords, saveat)
    plain, _, _ = flight(reference, {**keywords, "adjoint": "recursive_checkpoint"}, saveat)
    sol = plain(rg.solve, y0, args)
    counts = [hit.count for hit in sol.events]
    assert (sol.event, sum(counts)) == (2, 7)
    exact = gradient(reference, plain, y0, args, counts)
    found = gradient(backend, solve, y0, args, counts)
    size = max(np.max(np.abs(x)) for x in exact) * (100 if method == "continuous" else 1)
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-8 * size)
    if method == "taken back" and backend.bk.name == "numpy":
        solved, pullback = solve(rg.solve_vjp, y0, args)
        pullback(np.ones_like(solved.ys))
        assert solved.stats["inverted"] > 0.9 * solved.stats["num_accepted_steps"]


def bounced(backend):
    """A ball falls, bounces and ends where it falls again: by height, gravity and restitution."""
    xp = backend.xp
    f = lambda t, y, p: xp.stack([y[1], 0.0 * y[0] - p[1]])  # noqa: E731
    turn = lambda t, y, p: xp.stack([0.0 * y[0], -p[2] * y[1]])  # noqa: E731
    floor = rg.Event(lambda t, y, p: y[0], direction=-1, reset=turn, terminal=2)

    def loss(p):
        y0 = xp.stack([p[0], 0.0 * p[0]])
        keywords = {"dt": 0.1, "solver": "bosh3", "event": floor, "max_steps": 40}
        sol = rg.solve(f, y0, 0.0, 9.0, p, **keywords)
        return sol.ts[-1] + 0.3 * sol.events[0].after[0, 1]

    h, g, r = p = np.array([1.3, 9.81, 0.8])
    t, v = np.sqrt(2 * h / g) * (1 + 2 * r), 0.3 * r * np.sqrt(2 * g * h)
    # each is a product of powers: exponents of h, g, r + 1/2 and of h, g, r
    first = t * np.array([0.5 / h, -0.5 / g, 1 / (r + 0.5)])
    first += v * np.array([0.5 / h, 0.5 / g, 1 / r])

    def second(value, powers, at):
        rates = np.array(powers) / at
        return value * (np.outer(rates, rates) - np.diag(np.array(powers) / at**2))

    hessian = second(t, [0.5, -0.5, 1.0], np.array([h, g, r + 0.5]))
    return loss, p, first, hessian + second(v, [0.5, 0.5, 1.0], p)


@pytest.mark.libraries("torch", slow="jax:jit")
def test_tangents_and_second_derivatives(backend):
    """Closed forms: a solve that is exact for parabolas."""
    loss, p, first, second = bounced(backend)
    p, v = backend.array(p), backend.array([1.0, -2.0, 0.5])
    if backend.bk.name == "jax":
        import jax

        def both(p):
            return jax.jvp(jax.grad(loss), (p,), (v,))

        g, row = backend.compiled(both)(p)
    else:
        import torch

        g, row = torch.func.grad(loss)(p), torch.func.hessian(loss)(p) @ v
        along = torch.func.jvp(loss, (p,), (v,))[1]
        np.testing.assert_allclose(along, first @ v.numpy(), rtol=1e-11)
        x = p.clone().requires_grad_()
        (again,) = torch.autograd.grad(loss(x), x)
        np.testing.assert_allclose(again, first, rtol=1e-11)
    np.testing.assert_allclose(backend.to_numpy(g), first, rtol=1e-11)
    np.testing.assert_allclose(backend.to_numpy(row), second @ backend.to_numpy(v), rtol=1e-9)


@pytest.mark.libraries("torch", slow="jax:jit")
def test_a_condition_that_only_touches_zero(backend):
    """has no derivative on this way either: an error, in traced code nan."""
    xp = backend.xp
    f = lambda t, y, a: xp.stack([a + 0.0 * y[0]])  # noqa: E731
    touch = rg.Event(lambda t, y, a: (y[0] - 0.55) ** 3)

    def end(a):
        y0 = backend.array([0.0])
        keywords = {"dt": 0.1, "solver": "bosh3", "max_steps": 40, "adjoint": "direct"}
        return rg.solve(f, y0, 0.0, 2.0, a, event=touch, **keywords).ts[-1]

    a = backend.array(1.0)
    if backend.bk.name == "jax":
        import jax

        value, g = backend.compiled(jax.value_and_grad(end))(a)
        assert abs(float(value) - 0.55) < 1e-3
        assert not np.isfinite(float(g))
        return
    with pytest.raises(rg.InputError, match="touches zero"):
        end(a.requires_grad_())


@pytest.mark.libraries("numpy torch")
@pytest.mark.settings(
    adjoint=["auto", rg.BacksolveAdjoint(3)], few={"numpy": ["auto"], "torch": ["auto"]}
)
def test_measured_peak_is_within_the_budget(backend, adjoint):
    """Bounces, recorded tops, and an end, within room for a third of the states."""
    size, keywords = 8_000, {"dt": 0.02, "solver": "bosh3", "adjoint": adjoint}
    budget = 40 * 16 * size

    def f(t, y, a):
        xp = backend.namespace(y)
        return xp.concat([y[size:], -a + 0.0 * y[:size]])

    def turn(t, y, a):
        xp = backend.namespace(y)
        return xp.concat([0.0 * y[:size], -0.8 * y[size:]])

    events = [
        rg.Event(lambda t, y, a: y[0], direction=-1, reset=turn, capacity=8),
        rg.Event(lambda t, y, a: y[size], direction=-1, terminal=False, capacity=8),
    ]

    def solve(call, y0, a, **more):
        return call(f, y0, 0.0, 2.5, a, event=events, **keywords, **more)

    y0, a = backend.array([1.0] * size + [0.0] * size), backend.array(9.81)
    plan = solve(rg.plan, y0, a, memory=budget)

    def run(y0, a):
        if backend.bk.name == "numpy":
            sol, pullback = solve(rg.solve_vjp, y0, a, memory=budget)
            hits = [rg.Hit(np.ones_like(hit.ts), None, None, 1) for hit in sol.events]
            return pullback(np.ones_like(sol.ys), events=hits)
        a = a.detach().clone().requires_grad_()
        sol = solve(rg.solve, y0, a, memory=budget)
        (sol.ys.sum() + sum(hit.ts.sum() for hit in sol.events)).backward()
        return None

    counts = [hit.count for hit in solve(rg.solve, y0, a).events]
    assert min(counts) >= 2
    measured = peak_gradient_bytes(lambda y0, a: solve(rg.solve, y0, a), run, y0, a)
    assert 16 * size < measured.bytes <= plan.memory <= budget


@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno5"])
def test_methods_for_stiff_problems_pass_events(solver):
    """A spring that bounces off a floor: differences of the same solve."""
    floor = rg.Event(
        lambda t, y, a: y[0],
        direction=-1,
        reset=lambda t, y, a: np.stack([0.0 * y[0], -0.8 * y[1]]),
    )
    keywords = {"solver": solver, "dt": 0.05, "event": floor}

    def f(t, y, a):
        return np.stack([y[1], -a[0] * y[1] - a[1] * y[0]])

    y0, a = np.array([1.0, 0.0]), np.array([3.0, 40.0])
    sol, pullback = rg.solve_vjp(f, y0, 0.0, 1.7, a, **keywords)
    assert sol.events[0].count >= 1
    end = lambda a: float(rg.solve(f, y0, 0.0, 1.7, a, **keywords).ys[-1, 1])  # noqa: E731
    found = pullback(np.array([[0.0, 1.0]])).args
    np.testing.assert_allclose(found, differences(end, a, 1e-3), rtol=0.0, atol=1e-10)
