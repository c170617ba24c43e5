"""Batches of solves in JAX whose lanes take steps of their own: each is what it is alone.

Alone they are solved by NumPy, which compiles nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jnp = jax.numpy

N = 5
DRAWS = np.random.default_rng(0)
STARTS = DRAWS.uniform(0.5, 2.0, (N, 2))
RATES = np.asarray([1.5, 1.0, 3.0, 1.0]) * DRAWS.uniform(0.9, 1.1, (N, 4))
ENDS = np.linspace(1.0, 5.0, N)
TIMES = np.asarray([0.0, 0.5, 1.0, 2.5, 4.0])
NEAR = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def float64() -> None:
    jax.config.update("jax_enable_x64", True)


def rates(t: Any, y: Any, a: Any) -> Any:
    """Lotka-Volterra; prey and predators."""
    xp = np if isinstance(y, np.ndarray) or hasattr(y, "__array_function__") else jnp
    return xp.stack([a[0] * y[0] - a[1] * y[0] * y[1], a[3] * y[0] * y[1] - a[2] * y[1]])


def solve(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> Any:
    return rg.solve(rates, y, 0.0, t1, jnp.asarray(a), **{**NEAR, **keywords})


def rows(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> Any:
    return solve(y, a, t1, **keywords).ys


def loss(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> Any:
    ys = rows(y, a, t1, **keywords)
    return (jnp.arange(1.0, ys.shape[0] + 1)[:, None] * jnp.sin(ys)).sum()


def alone(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> tuple[Any, Any, Any]:
    """``loss``, its gradients (y0, a, t0, t1, ts) and the solution of a lane by itself."""
    sol, pull = rg.solve_vjp(rates, y, 0.0, t1, a, **{**NEAR, **keywords})
    weights = np.arange(1.0, len(sol.ys) + 1)[:, None]
    return (weights * np.sin(sol.ys)).sum(), pull(weights * np.cos(sol.ys)), sol


def each_alone(names: str, *arrays: Any, **keywords: Any) -> Any:
    """``loss`` of every lane, and its gradients by what is named."""
    found = [alone(*lane, **keywords)[:2] for lane in zip(*arrays, strict=True)]
    grads = [[getattr(g, name) for _, g in found] for name in names.split()]
    return np.stack([value for value, _ in found]), tuple(map(np.stack, grads))


def lanes(fn: Any, *arrays: Any) -> list[Any]:
    """``fn`` of all lanes at once, in NumPy's arrays, lane by lane."""
    found = jax.device_get(jax.jit(jax.vmap(fn))(*arrays))
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(arrays[0]))]


def agree(found: Any, right: Any, rtol: float = 1e-11) -> None:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


CONSTANT = {"dt": 0.1, "max_steps": 128}
SETTINGS = [
    pytest.param({}, id="adaptive"),
    pytest.param(CONSTANT, id="constant", marks=pytest.mark.slow),
    pytest.param({"adjoint": rg.RecursiveCheckpointAdjoint(7)}, id="few", marks=pytest.mark.slow),
    pytest.param({**CONSTANT, "saveat": TIMES[:3]}, id="saved", marks=pytest.mark.slow),
    pytest.param({"adjoint": "tape"}, id="tape", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients_of_lanes_whose_ends_differ(settings: dict[str, Any]) -> None:
    one = jax.value_and_grad(lambda y, a, t1: loss(y, a, t1, **settings), (0, 1, 2))
    known = {k: v for k, v in settings.items() if v != "tape"}  # which NumPy does not have
    right = each_alone("y0 args t1", STARTS, RATES, ENDS, **known)
    agree(jax.jit(jax.vmap(one))(STARTS, RATES, ENDS), right)


def test_gradients_of_saved_times_and_of_what_is_made_of_the_states() -> None:
    def wish(ts: Any, xp: Any) -> Any:
        return rg.SaveAt(ts=ts, t1=True, fn=lambda t, y, a: xp.sin(a[0] * y) + t)

    def one(y: Any, a: Any, ts: Any) -> Any:
        return loss(y, a, 4.1, saveat=wish(ts, jnp))

    times = TIMES * np.linspace(0.6, 1.0, N)[:, None]
    each = lanes(jax.value_and_grad(one, (0, 1, 2)), STARTS, RATES, times)
    for found, y, a, ts in zip(each, STARTS, RATES, times, strict=True):
        value, g, _ = alone(y, a, 4.1, saveat=wish(ts, np))
        agree(found, (value, (g.y0, g.args, g.ts)))


def test_rows_of_steps() -> None:
    wish = {"max_steps": 96, "saveat": rg.SaveAt(steps=True)}

    def one(y: Any) -> Any:
        sol = solve(y, RATES[0], **wish)
        terms = jnp.arange(1.0, 97.0)[:, None] * jnp.sin(sol.ys)
        kept = jnp.where(jnp.isfinite(sol.ts)[:, None], terms, 0.0)
        return kept.sum(), (sol.ys, sol.ts, sol.stats)

    found = lanes(jax.value_and_grad(one, has_aux=True), STARTS)
    for y, ((value, (ys, ts, stats)), grad) in zip(STARTS, found, strict=True):
        right, g, sol = alone(y, RATES[0], **wish)
        n = len(sol.ts)
        assert stats == {name: sol.stats[name] for name in stats}
        assert not np.isfinite(ts[n:]).any()
        # where steps end depends on the last digits of their errors
        agree((value, ys[:n], ts[:n], grad), (right, sol.ys, sol.ts, g.y0), rtol=1e-6)


def test_cotangents_of_what_lanes_share_add_up_part_by_part_within_a_budget() -> None:
    """Two parts of two lanes, and one with a lane that fills it up."""

    def total(y: Any, a: Any) -> Any:
        return jax.vmap(lambda y: loss(y, a, memory="8 KiB"))(y).sum()

    _, right = each_alone("y0 args", STARTS, np.tile(RATES[0], (N, 1)))
    program = jax.jit(jax.grad(total, (0, 1))).lower(STARTS, RATES[0])
    assert "tensor<3x2x2xf64>" in program.as_text()
    compiled = program.compile()
    agree(compiled(STARTS, RATES[0]), (right[0], right[1].sum(0)))
    outside = 8 * STARTS.nbytes  # rows, their cotangents and those of y0, of all lanes
    tables = 64 * 24  # which small budgets leave out in single solves, too
    assert compiled.memory_analysis().temp_size_in_bytes <= 2**13 + outside + tables


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jacrev", "jacfwd"])
def test_nested_batches_and_jacobians(mode: str) -> None:
    def last(y: Any, a: Any) -> Any:
        return rows(y, a, solver="heun")[-1]

    across = jax.vmap(jax.vmap(getattr(jax, mode)(last), (None, 0)), (0, None))
    found = np.asarray(jax.jit(across)(STARTS[:3], RATES[:2]))
    for (i, y), (j, a) in itertools.product(enumerate(STARTS[:3]), enumerate(RATES[:2])):
        _, pull = rg.solve_vjp(rates, y, 0.0, 4.0, a, **{**NEAR, "solver": "heun"})
        agree(found[i, j], np.stack([pull(row[None]).y0 for row in np.eye(2)]), rtol=1e-9)


@pytest.mark.slow
def test_second_derivatives() -> None:
    def one(y: Any) -> Any:
        return loss(y, RATES[0], max_steps=64)

    right = jax.jit(lambda ys: jax.lax.map(jax.hessian(one), ys))(STARTS)
    agree(jax.jit(jax.vmap(jax.hessian(one)))(STARTS), right, rtol=1e-9)

    def along(y: Any) -> Any:
        return jnp.vdot(jax.grad(lambda y: jax.vmap(one)(y).sum())(y), STARTS)

    agree(jax.jit(jax.grad(along))(STARTS), jnp.einsum("ijk,ik->ij", right, STARTS), rtol=1e-9)


def test_a_lane_that_fails_is_nan_alone() -> None:
    def one(y: Any) -> Any:
        sol = solve(y, RATES[0], max_steps=58)
        return jnp.sin(sol.ys).sum(), (sol.status, sol.stats, sol.ts)

    starts = np.concatenate([STARTS, [[np.nan, 1.0]]])
    *found, last = lanes(jax.value_and_grad(one, has_aux=True), starts)
    for y, ((value, (status, stats, ts)), grad) in zip(STARTS, found, strict=True):
        right, g, sol = alone(y, RATES[0], max_steps=58, throw=False)
        assert status == sol.status
        assert stats == {name: sol.stats[name] for name in stats}
        if sol.status == 0:
            agree((value, ts, grad), (right, sol.ts, g.y0))
        else:  # traced code can't stop: nan tells
            assert np.isnan([value, *ts, *grad]).all()
    failed = [status for (_, (status, *_)), _ in found if status != 0]
    assert 0 < len(failed) < N  # of too many steps, and not all
    (value, (status, stats, _)), grad = last
    assert status not in (0, *failed)  # of nan, which an eager library refuses
    assert stats["num_accepted_steps"] == 0
    assert np.isnan([value, *grad]).all()


def test_bytes_do_not_grow_with_the_bound_of_steps() -> None:
    def program(bound: int) -> Any:
        def total(y: Any) -> Any:
            return jax.vmap(lambda y: loss(y, RATES[0], max_steps=bound, solver="heun"))(y).sum()

        return jax.jit(jax.grad(total)).lower(np.tile(STARTS, (8, 1)))

    small, large = program(512), program(2**20)
    assert "select" in large.as_text()  # of numbers, never of rows
    for line in large.as_text().splitlines():
        assert "stablehlo.select" not in line or "x64x" not in line, line
    temp = [x.compile().memory_analysis().temp_size_in_bytes for x in (small, large)]
    assert temp[1] <= 1.05 * temp[0] + 8 * 2**12, temp
