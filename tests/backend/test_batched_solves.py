"""Batches of solves in JAX whose lanes take steps of their own: each is what it is alone."""

from __future__ import annotations

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
    return jnp.stack([a[0] * y[0] - a[1] * y[0] * y[1], a[3] * y[0] * y[1] - a[2] * y[1]])


def solve(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> Any:
    return rg.solve(rates, y, 0.0, t1, jnp.asarray(a), **{**NEAR, **keywords})


def rows(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> Any:
    return solve(y, a, t1, **keywords).ys


def loss(y: Any, a: Any, t1: Any = 4.0, **keywords: Any) -> Any:
    ys = rows(y, a, t1, **keywords)
    return (jnp.arange(1.0, ys.shape[0] + 1)[:, None] * jnp.sin(ys)).sum()


def alone(fn: Any, *arrays: Any) -> Any:
    """``fn`` of each lane by itself."""
    return jax.jit(lambda *x: jax.lax.map(lambda lane: fn(*lane), x))(*arrays)


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
    agree(jax.jit(jax.vmap(one))(STARTS, RATES, ENDS), alone(one, STARTS, RATES, ENDS))


def test_gradients_of_saved_times_and_of_what_is_made_of_the_states() -> None:
    def one(y: Any, a: Any, ts: Any) -> Any:
        saveat = rg.SaveAt(ts=ts, t1=True, fn=lambda t, y, a: jnp.sin(a[0] * y) + t)
        return loss(y, a, 4.1, saveat=saveat)

    times = TIMES * np.linspace(0.6, 1.0, N)[:, None]
    each = jax.value_and_grad(one, (0, 1, 2))
    agree(jax.jit(jax.vmap(each))(STARTS, RATES, times), alone(each, STARTS, RATES, times))


def test_rows_of_steps() -> None:
    def one(y: Any) -> Any:
        sol = solve(y, RATES[0], max_steps=96, saveat=rg.SaveAt(steps=True))
        weights = jnp.where(jnp.isfinite(sol.ts), 1.0, 0.0)[:, None]
        return (weights * jnp.sin(sol.ys)).sum(), (sol.ys, sol.ts, sol.stats)

    each = jax.value_and_grad(one, has_aux=True)
    # where steps end depends on the last digits of their errors
    agree(jax.jit(jax.vmap(each))(STARTS), alone(each, STARTS), rtol=1e-6)


def test_cotangents_of_what_lanes_share_add_up_part_by_part_within_a_budget() -> None:
    """Two parts of two lanes, and one with a lane that fills it up."""

    def total(y: Any, a: Any) -> Any:
        return jax.vmap(lambda y: loss(y, a, memory="8 KiB"))(y).sum()

    each = jax.grad(lambda y, a: loss(y, a), (0, 1))
    right = alone(lambda y: each(y, RATES[0]), STARTS)
    program = jax.jit(jax.grad(total, (0, 1))).lower(STARTS, RATES[0])
    assert "tensor<3x2x2xf64>" in program.as_text()
    compiled = program.compile()
    agree(compiled(STARTS, RATES[0]), (right[0], right[1].sum(0)))
    outside = 8 * STARTS.nbytes  # rows, their cotangents and those of y0, of all lanes
    tables = 64 * 24  # which small budgets leave out in single solves, too
    assert compiled.memory_analysis().temp_size_in_bytes <= 2**13 + outside + tables


def test_nested_batches_and_jacobians() -> None:
    def last(y: Any, a: Any) -> Any:
        return rows(y, a, solver="heun")[-1]

    across = jax.vmap(jax.vmap(jax.jacrev(last), (None, 0)), (0, None))
    right = jax.jit(jax.vmap(jax.vmap(jax.jacfwd(last), (None, 0)), (0, None)))(STARTS, RATES)
    agree(jax.jit(across)(STARTS, RATES), right, rtol=1e-9)


@pytest.mark.slow
def test_second_derivatives() -> None:
    def one(y: Any) -> Any:
        return loss(y, RATES[0], max_steps=64)

    right = alone(jax.hessian(one), STARTS)
    agree(jax.jit(jax.vmap(jax.hessian(one)))(STARTS), right, rtol=1e-9)

    def along(y: Any) -> Any:
        return jnp.vdot(jax.grad(lambda y: jax.vmap(one)(y).sum())(y), STARTS)

    agree(jax.jit(jax.grad(along))(STARTS), jnp.einsum("ijk,ik->ij", right, STARTS), rtol=1e-9)


def test_a_lane_that_fails_is_nan_alone() -> None:
    def one(y: Any) -> Any:
        sol = solve(y, RATES[0], max_steps=58)
        return jnp.sin(sol.ys).sum(), (sol.status, sol.stats, sol.ts)

    each = jax.value_and_grad(one, has_aux=True)
    starts = np.concatenate([STARTS, [[np.nan, 1.0]]])
    (value, aux), grad = jax.jit(jax.vmap(each))(starts)
    agree(((value, aux), grad), alone(each, starts))
    failed = np.asarray(aux[0]) != 0
    assert 1 < failed.sum() < N + 1  # of too many steps, of nan, and not all
    assert np.array_equal(np.isnan(grad).all(1), failed)


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
