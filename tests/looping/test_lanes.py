"""Batches of while loops in JAX: each lane's result and gradient, and one count of trips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jnp = jax.numpy

SETTINGS: tuple[dict[str, Any], ...] = ({}, {"checkpoints": 1}, {"checkpoints": 5})
STARTS = np.asarray([1.0, 2.0, 60.0, 0.5])
ENDS = np.asarray([50.0, 40.0, 45.0, 30.0])  # the third lane takes no step
RATE = 0.7


def loss(y: Any, p: Any, end: Any, **keywords: Any) -> Any:
    """Growth until ``end``; its root has no derivative at 0, where no lane is while it steps."""

    def body(c: Any) -> Any:
        n, y, z = c
        return n + 1, y * (1.0 + 0.1 * p) + 0.01 * jnp.sqrt(y), 0.9 * z

    _, y, z = rg.while_loop(
        lambda c: c[1] < end, body, (0, y, jnp.ones(3)), max_steps=500, **keywords
    )
    return jnp.sin(y) + z.sum() * y


@pytest.fixture(scope="module")
def lanes() -> Any:
    """Values and gradients, lane by lane, differentiated by hand."""
    jax.config.update("jax_enable_x64", True)
    found = []
    for y, end in zip(STARTS, ENDS, strict=True):
        by_y, by_p, z = 1.0, 0.0, 3.0
        while y < end:
            slope = 1.0 + 0.1 * RATE + 0.005 / np.sqrt(y)
            by_y, by_p = slope * by_y, slope * by_p + 0.1 * y
            y, z = y * (1.0 + 0.1 * RATE) + 0.01 * np.sqrt(y), 0.9 * z
        slope = np.cos(y) + z
        found.append([np.sin(y) + z * y, slope * by_y, slope * by_p])
    return np.asarray(found)


@pytest.mark.quick("{'checkpoints': 5}")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_values_and_gradients_of_lanes(lanes, settings):
    def one(y: Any, p: Any, end: Any) -> Any:
        return loss(y, p, end, **settings)

    each = jax.vmap(jax.value_and_grad(one, (0, 1)), (0, None, 0))
    value, (gy, gp) = jax.jit(each)(STARTS, RATE, ENDS)
    np.testing.assert_allclose(np.stack([value, gy, gp], 1), lanes, rtol=1e-12)

    def total(y: Any, p: Any) -> Any:
        return jax.vmap(one, (0, None, 0))(y, p, ENDS).sum()

    gy, gp = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(STARTS), RATE)
    np.testing.assert_allclose(gy, lanes[:, 1], rtol=1e-12)
    np.testing.assert_allclose(gp, lanes[:, 2].sum(), rtol=1e-12)


def test_a_batch_of_batches(lanes):
    def total(y: Any, p: Any) -> Any:
        inner = jax.vmap(lambda y, p, end: loss(y, p, end, checkpoints=4), (0, None, 0))
        return jax.vmap(inner, (None, 0, None))(y, p, ENDS).sum()

    gy, gp = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(STARTS), jnp.full(2, RATE))
    np.testing.assert_allclose(gy, 2 * lanes[:, 1], rtol=1e-12)
    np.testing.assert_allclose(gp, lanes[:, 2].sum(), rtol=1e-12)


def test_forward_mode_of_a_batch(lanes):
    def total(y: Any) -> Any:
        return jax.vmap(loss, (0, None, 0))(y, RATE, ENDS)

    _, tangents = jax.jvp(total, (jnp.asarray(STARTS),), (jnp.ones(4),))
    np.testing.assert_allclose(tangents, lanes[:, 1], rtol=1e-12)


def test_lanes_that_ended_are_not_differentiated():
    """Behind its end, the body would divide by zero: no nan comes of it."""

    def loss(y: Any) -> Any:
        return rg.while_loop(lambda y: y > 0.5, lambda y: y - 1.0 / jnp.sqrt(y - 0.5) * 0.1, y)

    def body(y: Any) -> Any:
        return rg.while_loop(lambda y: y > 1.0, lambda y: y - jnp.sqrt(y - 1.0) - 0.01, y)

    starts = jnp.asarray([1.0, 1.5, 7.0])  # the square root's slope is infinite where y is 1
    jit, alone = jax.jit, np.ones(3)
    for i, y in enumerate([1.0, 1.5, 7.0]):
        while y > 1.0:
            alone[i] *= 1.0 - 0.5 / np.sqrt(y - 1.0)
            y -= np.sqrt(y - 1.0) + 0.01
    np.testing.assert_allclose(jit(jax.vmap(jax.grad(body)))(starts), alone, rtol=1e-12)
    np.testing.assert_allclose(
        jit(jax.grad(lambda y: jax.vmap(body)(y).sum()))(starts), alone, rtol=1e-12
    )
    assert np.isfinite(jit(jax.vmap(jax.grad(loss)))(jnp.asarray([0.6, 3.0]))).all()


def _eqns(jaxpr: Any) -> Any:
    for eqn in jaxpr.eqns:
        yield eqn
        for x in jax.tree_util.tree_leaves(list(eqn.params.values())):
            inner = getattr(x, "jaxpr", x)
            if hasattr(inner, "eqns"):
                yield from _eqns(inner)


def test_counters_stay_unbatched_and_buffers_are_not_selected():
    """No operation of a batched gradient selects a buffer; loops ask one predicate."""
    rows, lanes = 7, 5

    def total(y: Any) -> Any:
        return jax.vmap(lambda y, end: loss(y, RATE, end, checkpoints=rows))(y, ends).sum()

    ends = jnp.linspace(10.0, 50.0, lanes)
    jaxpr = jax.make_jaxpr(jax.grad(total))(jnp.linspace(0.5, 2.0, lanes))
    found = list(_eqns(jaxpr.jaxpr))
    shapes = {v.aval.shape for e in found for v in e.outvars if hasattr(v.aval, "shape")}
    assert (lanes, rows + 1, 3) in shapes  # the buffer of z, its scratch row included
    selected = [e.outvars[0].aval.shape for e in found if e.primitive.name == "select_n"]
    assert all(rows + 1 not in shape for shape in selected)
    for eqn in found:
        if eqn.primitive.name == "while":
            assert eqn.params["cond_jaxpr"].out_avals[0].shape == ()


def test_a_batch_takes_as_many_trips_as_its_longest_lane():
    trips = []

    def body(c: Any) -> Any:
        i, y = c
        jax.debug.callback(lambda i: trips.append(np.asarray(i)), i)
        return i + 1, y * 1.5

    def last(end: Any) -> Any:
        return rg.while_loop(lambda c: c[1] < end, body, (0, jnp.asarray(1.0)))[1]

    ends = jnp.asarray([2.0, 10.0, 100.0])
    jax.block_until_ready(jax.vmap(last)(ends))
    jax.effects_barrier()
    longest = 12  # 1.5 ** 12 = 129.7
    assert len(trips) == 3 * longest  # vmap calls back for each lane of each trip


def test_a_predicate_that_no_lane_steers_selects_nothing():
    def last(y: Any) -> Any:
        return rg.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, y))[1]

    jaxpr = jax.make_jaxpr(jax.vmap(jax.grad(last)))(jnp.ones(4))
    shapes = [e.outvars[0].aval.shape for e in _eqns(jaxpr.jaxpr) if e.primitive.name == "select_n"]
    assert (4,) not in shapes
