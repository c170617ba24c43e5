"""Solutions, plans and gradients as pytrees of JAX: through jit, vmap, meshes, and other trees."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde import Status

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)  # as the harness does
jnp = jax.numpy


def decay(t, y, args):
    return -y


def solve(y0, t1=1.0, **keywords):
    return rg.solve(decay, y0, 0.0, t1, **{"solver": "bosh3", "rtol": 1e-5, **keywords})


def same(sol, other):
    assert isinstance(sol, rg.Solution)
    for a, b in zip(jax.tree.leaves(sol), jax.tree.leaves(other), strict=True):
        assert not isinstance(a, jax.core.Tracer)
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_jitted_function_returns_a_solution():
    y0 = jnp.asarray([1.0, 2.0])
    here = solve(y0)
    same(jax.jit(solve)(y0), here)
    same(jax.jit(lambda sol: sol)(here), here)
    assert here.status is Status.converged  # not changed by having been flattened
    both, sol = jax.jit(jax.value_and_grad(lambda y: (lambda s: (s.ys.sum(), s))(solve(y)),
                                           has_aux=True))(y0)  # fmt: skip
    same(both[1], here)
    assert isinstance(both[1].plan, rg.Plan)
    np.testing.assert_allclose(sol, np.exp(-1.0) * np.ones(2), rtol=1e-4)


def test_a_batch_of_solutions():
    y0 = jnp.arange(1.0, 7.0).reshape(3, 2)
    mapped = jax.vmap(solve)(y0)
    assert mapped.ys.shape == (3, 1, 2)
    assert mapped.status.shape == mapped.t_final.shape == mapped.stats["num_steps"].shape == (3,)
    same(jax.jit(jax.vmap(solve))(y0), mapped)
    one = jax.tree.map(lambda x: x[1], mapped)
    np.testing.assert_allclose(one.raise_if_failed().ys, solve(y0[1]).ys, rtol=1e-12)


@pytest.mark.slow  # two devices: test_jax_devices
def test_a_mesh_of_one_device():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    run = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    y0 = jnp.ones((2, 3))
    same(run(y0), jax.vmap(solve)(y0))


def test_equinox_takes_it():
    eqx = pytest.importorskip("equinox")
    y0 = jnp.asarray([1.0, 2.0])
    same(eqx.filter_jit(solve)(y0), solve(y0))


def test_gradients_and_plans():
    y0, k = jnp.ones(2), jnp.asarray(0.5)

    @jax.jit
    def run(y0, k):
        sol, pullback = rg.solve_vjp(lambda t, y, k: -k * y, y0, 0.0, 1.0, k, dt=0.1, memory=4096)
        return sol, pullback(jnp.ones_like(sol.ys)), sol.plan

    sol, g, plan = run(y0, k)
    np.testing.assert_allclose(g.args, -2.0 * np.exp(-0.5), rtol=1e-6)
    assert plan == sol.plan
    assert hash(plan) == hash(sol.plan)
    assert jax.tree.leaves(plan) == []


def test_a_plan_is_static_and_compiled_functions_are_kept():
    """Other predictions and readings of memory make no other plan."""
    traces = []

    @jax.jit
    def total(sol):
        traces.append(1)
        return sol.ys.sum()

    @jax.jit
    def gradient(y0):
        def loss(y):
            sol = solve(y, memory="1 MiB")
            return sol.ys.sum(), sol

        return jax.grad(loss, has_aux=True)(y0)

    for y0 in (jnp.ones(2), 2 * jnp.ones(2)):
        total(gradient(y0)[1])
    total.clear_cache()
    gradient.clear_cache()
    other = gradient(jnp.ones(2))[1]
    total(other)
    assert len(traces) == 2  # one more for the caches that were cleared
    assert other.plan == gradient(jnp.zeros(2))[1].plan


def test_the_first_sample_that_failed_is_named():
    rates = jnp.asarray([[1.0, 1.0], [1.0, 400.0], [jnp.nan, 1.0]])

    def run(rate):
        sol = rg.solve(
            lambda t, y, k: -k * y, jnp.ones(()), 0.0, 1.0, rate, solver="bosh3", max_steps=20
        )
        return sol.ys[-1], sol

    grads, sol = jax.jit(jax.vmap(jax.vmap(jax.grad(run, has_aux=True))))(rates)
    failed = np.isnan(np.asarray(sol.ys)[..., 0])
    assert failed.tolist() == [[False, False], [False, True], [True, False]]
    story = r"Sample \(1, 1\) \(2 of 6 failed\): At t = 0\.\d+ after 20 steps: the number of tries"
    with pytest.raises(rg.SolveFailed, match=story) as error:
        sol.raise_if_failed()
    assert error.value.solution is sol
    with pytest.raises(
        rg.SolveFailed, match=r"Sample 0 \(1 of 2 failed\): At t = 0.0 .* nan or inf"
    ):
        jax.tree.map(lambda x: x[2], sol).raise_if_failed()
    ended = jax.tree.map(lambda x: x[0], sol)
    assert ended.raise_if_failed() is ended
    np.testing.assert_array_equal(np.isnan(grads), failed)
    np.testing.assert_allclose(grads[0], -np.exp(-1.0), rtol=1e-3)


def test_no_verdict_inside_of_a_trace():
    with pytest.raises(rg.InputError, match=r"`raise_if_failed\(\)` was called inside of a traced"):
        jax.jit(lambda y: solve(y).raise_if_failed().ys)(jnp.ones(1))


def test_eager_solves_have_it_too(reference):
    sol = rg.solve(decay, np.ones(1), 0.0, 1.0)
    assert sol.raise_if_failed() is sol
    sol = rg.solve(decay, np.ones(1), 0.0, 1.0, max_steps=2, throw=False)
    with pytest.raises(rg.SolveFailed, match=r"^At t = 0\.\d+ after 2 steps: the number of tries"):
        sol.raise_if_failed()
