"""Backsolve in discrete mode: guarded, falling back by itself, never silently wrong."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing import schedules
from retrograde.backend import Capability

EXACT = rg.RecursiveCheckpointAdjoint()


def lotka_volterra(backend, end=10.0):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])

    return f, backend.array([1.0, 1.0]), 0.0, end, backend.array([1.5, 1.0, 3.0, 1.0])


def toy(backend):
    """Trap T1 (diffrax#572)."""

    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([xp.cos(y[1]) * t * t, xp.sin(y[0]) * t * t])

    return f, backend.array([1.0, 1.0]), 0.0, 5.0, None


def van_der_pol(mu, end):
    def make(backend):
        def f(t, y, p):
            xp = backend.namespace(y)
            return xp.stack([y[1], p * (1 - y[0] ** 2) * y[1] - y[0]])

        return f, backend.array([2.0, 0.0]), 0.0, end, backend.array(float(mu))

    return make


def decay(backend):
    return (lambda t, y, p: p * y), backend.array([1.0, 2.0]), 0.0, 1.0, backend.array(-50.0)


def network(gain):
    """A tanh network of 8-32-8, as neural ODEs are made of."""

    def make(backend):
        draw = np.random.default_rng(0)
        first, second = draw.normal(size=(32, 8)) / 8**0.5, draw.normal(size=(8, 32)) / 32**0.5

        def f(t, y, p):
            xp = backend.namespace(y)
            return p[1] @ xp.tanh(p[0] @ y)

        weights = (backend.array(gain * first), backend.array(gain * second))
        return f, backend.array(draw.normal(size=8)), 0.0, 10.0, weights

    return make


def hill(backend):
    """Errors grow by e**9 from t = 2 back to 1, and shrink as much from there to 0."""
    phase = np.arange(6.0)

    def f(t, y, p):
        xp = backend.namespace(y)
        shift = 3 * t + xp.asarray(phase)
        u = y - 1 - 0.5 * xp.sin(shift)
        return p * (1 - t) * (u + u * u) + 1.5 * xp.cos(shift)

    return f, backend.array(1 + 0.5 * np.sin(phase)), 0.0, 2.0, backend.array(18.0)


def solved(backend, problem, n, adjoint, solver="rk4", **keywords):
    f, y0, t0, t1, p = problem(backend)
    sol, pullback = rg.solve_vjp(
        f, y0, t0, t1, p, solver=solver, dt=(t1 - t0) / n, adjoint=adjoint, **keywords
    )
    ones = backend.map(lambda x: backend.array(np.ones(tuple(x.shape))), sol.ys)
    return backend.to_numpy(pullback(ones)), sol.stats


def distance(g, exact):
    pairs = zip(_leaves((g.y0, g.args)), _leaves((exact.y0, exact.args)), strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def _leaves(tree):
    if isinstance(tree, tuple):
        return [x for part in tree for x in _leaves(part)]
    return [] if tree is None else [np.asarray(tree)]


@pytest.mark.settings(guard=[1, 7, None], few={"strict": [1], "torch": [7]}, slow={"jax": [(7,)]})
def test_lotka_volterra_in_one_slot_replays_nothing(backend, reference, guard):
    """Over a thousand steps on NumPy, a hundred of the same size elsewhere."""
    n = 1000 if backend is reference else 100
    problem = functools.partial(lotka_volterra, end=n / 100)
    exact, _ = solved(reference, problem, n, EXACT)
    g, stats = solved(backend, problem, n, rg.BacksolveAdjoint(checkpoints=1, guard=guard))
    assert distance(g, exact) <= 1e-8
    assert stats["inverted"] == n - 3
    assert stats["replayed"] == 3  # the last range is no dearer to replay than to invert
    assert 0 < stats["max_guard_error"] <= 1e-6 / 30


@pytest.mark.settings(
    slots=[4, 8],
    guard=[1, 7, None],
    few={"strict": [(8, 7)], "torch": [(4, 1), (8, None)], "jax": [(8, 7)]},
)
def test_toy_falls_back(backend, slots, guard):
    """T1: where peers' backsolve is 300 % off, ours replays and is exact."""
    adjoint = rg.BacksolveAdjoint(checkpoints=slots, guard=guard)
    g, stats = solved(backend, toy, 500, adjoint, solver="euler")
    np.testing.assert_allclose(g.y0, [-6.673239, 5.042737], rtol=1e-6)
    assert (stats["inverted"], stats["replayed"]) == (0, 500)


STIFF = {
    "10": (van_der_pol(10, 20.0), 8000),
    "100": (van_der_pol(100, 10.0), 8000),
    "1000": (van_der_pol(1000, 1.0), 4000),
}
FEW = {("1000", 64)}


@pytest.mark.parametrize(
    ("mu", "slots"),
    [
        pytest.param(mu, slots, marks=() if (mu, slots) in FEW else pytest.mark.slow)
        for mu in STIFF
        for slots in (4, 16, 64)
    ],
)
def test_van_der_pol_falls_back_at_no_cost(reference, mu, slots):
    """Within 2 % of checkpoints alone, in evaluations of f; and right."""
    problem, n = STIFF[mu]
    f, *rest = problem(reference)
    calls = []

    def counted(t, y, p):
        calls.append(isinstance(y, np.ndarray))
        return f(t, y, p)

    adjoint = rg.BacksolveAdjoint(checkpoints=slots)
    exact, _ = solved(reference, problem, n, EXACT)
    g, _ = solved(reference, lambda _: (counted, *rest), n, adjoint)
    assert distance(g, exact) <= 1e-4
    # forward, inverses and replays; linearised steps are called with tapes
    taken = (calls.count(True) - 1) / 4 + calls.count(False) / 4
    alone = 2 * n + schedules.extra_advances(n, slots)
    assert taken <= 1.02 * alone


@pytest.mark.settings(
    name=["decay", "network 1", "network 3"],
    slots=[4, 16],
    few={"strict": [("decay", 16)], "torch": [("decay", 4), ("network 3", 16)]},
    slow={"jax": [("network 1", 4)]},
)
def test_dissipative_and_expanding_problems(backend, reference, name, slots):
    problem, n = {
        "decay": (decay, 400),
        "network 1": (network(1.0), 200),
        "network 3": (network(3.0), 800),
    }[name]
    exact, _ = solved(reference, problem, n, EXACT)
    g, stats = solved(backend, problem, n, rg.BacksolveAdjoint(checkpoints=slots))
    assert distance(g, exact) <= 1e-6
    if name != "decay":  # whose errors grow by exp(50 t) on the way back
        assert stats["inverted"] > (0.3 if slots == 4 else 0.1) * n


@pytest.mark.parametrize("guard", [pytest.param(1, marks=pytest.mark.slow), 20])
def test_a_path_error_behind_a_small_mismatch_at_y0_is_caught(reference, guard):
    n, saveat = 400, rg.SaveAt(ts=[1.0], fn=lambda t, y, p: y * y)

    def gradient(adjoint):
        return solved(reference, hill, n, adjoint, saveat=saveat)

    exact, _ = gradient(EXACT)
    blind, stats = gradient(rg.BacksolveAdjoint(checkpoints=1, guard=None))
    assert stats["inverted"] == n - 3
    assert stats["max_guard_error"] < 2e-9  # what y0 tells: nothing amiss
    wrong = np.linalg.norm(blind.y0 - exact.y0) / np.linalg.norm(exact.y0)
    assert wrong > 1000 * stats["max_guard_error"]
    g, stats = gradient(rg.BacksolveAdjoint(checkpoints=1, guard=guard))
    assert stats["replayed"] > n / 2
    np.testing.assert_allclose(g.y0, exact.y0, rtol=1e-6)


WISHES = {
    "rows": {"saveat": rg.SaveAt(t0=True, ts=[0.0, 0.4, 0.41, 9.5], t1=True)},
    "steps": {"saveat": rg.SaveAt(steps=True)},
    "fn": {"saveat": rg.SaveAt(ts=[0.3, 7.9], fn=lambda t, y, p: p[0] * y * t)},
}


@pytest.mark.settings(
    wish=WISHES,
    guard=[1, None],
    few={"strict": [], "torch": [("rows", 1), ("fn", None)], "jax": [("rows", None)]},
)
def test_rows_times_and_parameters(backend, reference, guard, wish):
    exact, _ = solved(reference, lotka_volterra, 300, EXACT, **WISHES[wish])
    adjoint = rg.BacksolveAdjoint(checkpoints=3, guard=guard)
    g, stats = solved(backend, lotka_volterra, 300, adjoint, **WISHES[wish])
    assert stats["inverted"] > 0
    for a, b in zip(_leaves(tuple(g)), _leaves(tuple(exact)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.libraries("numpy torch", slow="strict jax jax:jit")
def test_adaptive_steps_by_name(backend):
    """The planner checkpoints them; inverted by name, the accepted steps are the same."""
    f, y0, t0, t1, p = lotka_volterra(backend)
    keywords = {"rtol": 1e-7, "atol": 1e-9, "max_steps": 400}
    exact = backend.gradient(f, y0, t0, t1, p, adjoint=EXACT, **keywords)
    adjoint = rg.BacksolveAdjoint(checkpoints=4)
    g = backend.gradient(f, y0, t0, t1, p, adjoint=adjoint, **keywords)
    np.testing.assert_allclose(g.y0, exact.y0, rtol=1e-6)
    np.testing.assert_allclose(g.args, exact.args, rtol=1e-6)
    np.testing.assert_array_equal(g.ys, exact.ys)


@pytest.mark.settings(dtype=["float32", "complex128"], few={}, slow={"jax:jit": [("float32",)]})
def test_other_dtypes(backend, dtype):
    y0 = backend.array(np.linspace(1, 2, 6), dtype)
    rate = backend.array([-1.0, 0.5, 0.1, -0.3, 0.2, 0.4], dtype)
    field, keywords = (lambda t, y, p: p * y), {"solver": "rk4", "dt": 0.02}
    exact = backend.gradient(field, y0, 0.0, 2.0, rate, adjoint=EXACT, **keywords)
    adjoint = rg.BacksolveAdjoint(checkpoints=3)
    g = backend.gradient(field, y0, 0.0, 2.0, rate, adjoint=adjoint, **keywords)
    rtol = 1e-3 if dtype == "float32" else 1e-6
    np.testing.assert_allclose(g.y0, exact.y0, rtol=rtol)
    np.testing.assert_allclose(g.args, exact.args, rtol=rtol)


@pytest.mark.libraries("numpy strict torch", slow="jax")
def test_trees_of_many_blocks(backend):
    """Projections over leaves longer and shorter than their blocks."""
    draw = np.random.default_rng(1)
    y0 = {"a": backend.array(draw.normal(size=(3, 311))), "b": backend.array(draw.normal(size=7))}

    def f(t, y, p):
        xp = backend.namespace(y["a"])
        return {"a": xp.sin(y["a"]) * p, "b": -y["b"] * p}

    def gradient(adjoint):
        p = backend.array(0.7)
        return backend.solve_vjp(f, y0, 0.0, 1.0, p, solver="rk4", dt=0.02, adjoint=adjoint)

    exact, g = gradient(EXACT), gradient(rg.BacksolveAdjoint(checkpoints=2))
    for name in y0:
        np.testing.assert_allclose(g.y0[name], exact.y0[name], rtol=1e-6)
    np.testing.assert_allclose(g.args, exact.args, rtol=1e-6)


@pytest.mark.libraries("numpy strict torch jax")
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_failed_solve_has_no_gradient(backend):
    def f(t, y, p):
        return y * y * p

    adjoint = rg.BacksolveAdjoint(checkpoints=2)
    y0, p = backend.array([1.0]), backend.array(1.0)
    keywords = {"solver": "rk4", "dt": 0.05, "adjoint": adjoint, "throw": False}
    g = backend.solve_vjp(f, y0, 0.0, 4.0, p, **keywords)
    assert np.all(np.isnan(g.y0))
    assert np.all(np.isnan(g.args))


@pytest.mark.libraries("numpy", slow="strict torch jax")
def test_a_pullback_can_be_called_again(backend):
    f, y0, t0, t1, p = lotka_volterra(backend)
    adjoint = rg.BacksolveAdjoint(checkpoints=3)
    _, pullback = rg.solve_vjp(f, y0, t0, t1, p, solver="rk4", dt=0.05, adjoint=adjoint)
    ones = backend.array([[1.0, 1.0]])
    first, second = (backend.to_numpy(pullback(ones)) for _ in range(2))
    np.testing.assert_array_equal(first.y0, second.y0)


@pytest.mark.device
@pytest.mark.needs(Capability.NATIVE_GRADIENT)
def test_native_gradients(backend):
    f, y0, t0, t1, p = lotka_volterra(backend)
    keywords = {"solver": "rk4", "dt": 0.02, "times": True}
    exact = backend.gradient(f, y0, t0, t1, p, adjoint=EXACT, **keywords)
    g = backend.gradient(f, y0, t0, t1, p, adjoint="backsolve", **keywords)
    for a, b in zip(g[:5], exact[:5], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.quick("None")
@pytest.mark.parametrize("guard", [1, None])
def test_vmap_on_jax(reference, guard):
    jax = pytest.importorskip("jax")

    def problem(xp):
        def f(t, y, p):
            return xp.stack([xp.cos(y[1]), p * xp.sin(y[0]) - y[1]])

        return f

    keywords = {"solver": "heun", "dt": 0.01}
    ys = np.asarray([[1.0, 1.0], [0.3, -2.0], [4.0, 0.1]])
    exact = [reference.solve_vjp(problem(np), y, 0.0, 3.0, 0.7, **keywords).y0 for y in ys]

    def loss(y0, adjoint):
        f = problem(jax.numpy)
        return rg.solve(f, y0, 0.0, 3.0, 0.7, adjoint=adjoint, **keywords).ys.sum()

    adjoint = rg.BacksolveAdjoint(checkpoints=3, guard=guard)
    batch = jax.jit(jax.vmap(jax.grad(lambda y: loss(y, adjoint))))(jax.numpy.asarray(ys))
    np.testing.assert_allclose(batch, exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoints": 0}, "`checkpoints` is 0"),
        ({"guard": -1}, "`guard` is -1"),
        ({"grad_rtol": 2.0}, "`grad_rtol` is 2.0"),
        ({"mode": "exact"}, "`mode` is 'exact'; pass 'discrete' or 'continuous'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(rg.InputError, match=message):
        rg.BacksolveAdjoint(**settings)


@pytest.mark.libraries("numpy torch", slow="jax strict")
def test_without_a_budget_there_is_no_limit_of_steps(backend, reference):
    """Notes grow with the steps taken; "as many as fit into all memory" is no number of them."""
    found, steps = [], {"rtol": 1e-6}
    for library, adjoint in ((backend, "backsolve"), (reference, EXACT)):
        found.append(library.solve_vjp(*lotka_volterra(library), adjoint=adjoint, **steps).y0)
    np.testing.assert_allclose(*found, rtol=1e-5)
