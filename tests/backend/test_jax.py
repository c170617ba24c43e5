"""The JAX adapter: what is traced, what is kept, and what a compiled program must notice."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)  # as the harness does
jnp = jax.numpy

TIGHT = {"rtol": 1e-8, "atol": 1e-10}


def decay(t, y, rate):
    return -rate * y


def test_an_eager_solve_is_compiled_once():
    from retrograde_backends.jax.adapter import backend

    y0 = jnp.ones(3)
    backend._compiled.clear()  # full, it would make room for each program by dropping another
    rg.solve(decay, y0, 0.0, 1.0, 0.5)
    before = len(backend._compiled)
    for rate in (0.25, 0.5):
        rg.solve(decay, 2 * y0, 0.0, 2.0, jnp.asarray(rate))
        rg.solve(decay, y0, 0.0, 1.0, 0.5)
    assert len(backend._compiled) == before + 1  # args as an array: another program


def test_a_field_is_traced_once_whatever_is_wanted():
    calls = []

    def field(t, y, rate):
        calls.append(t)
        return -rate * y

    def loss(rate):
        sol = rg.solve(field, jnp.ones(2), 0.0, 1.0, rate, saveat=rg.SaveAt(ts=[0.5, 1.0]))
        return sol.ys.sum()

    jax.jit(jax.grad(loss)).lower(0.5).compile()
    assert len(calls) == 1


def test_kept_programs_notice_what_a_closure_became():
    factor, weight = 2.0, jnp.ones(2)

    def field(t, y, args):
        return -factor * y * weight

    def row(t, y, args):
        return factor * weight * y

    def solve():
        wish = rg.SaveAt(fn=row)
        return rg.solve(field, jnp.ones(2), 0.0, 1.0, saveat=wish, **TIGHT).ys[0]

    np.testing.assert_allclose(solve(), 2 * np.exp(-2), rtol=1e-7)
    factor = 3.0
    np.testing.assert_allclose(solve(), 3 * np.exp(-3), rtol=1e-7)
    weight = 2 * jnp.ones(2)
    np.testing.assert_allclose(solve(), 6 * np.exp(-6), rtol=1e-7)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_tracers_in_closures_of_field_and_output_get_gradients(transform):
    def loss(s):
        wish = rg.SaveAt(fn=lambda t, y, args: s * y)
        y0, keys = jnp.ones(2), {"solver": "bosh3", **TIGHT}
        return rg.solve(lambda t, y, args: -s * y, y0, 0.0, 1.0, saveat=wish, **keys).ys.sum()

    s = np.asarray([1.0, 2.0]) if transform is jax.vmap else np.asarray(2.0)
    expected = 2 * (1 - s) * np.exp(-s)
    np.testing.assert_allclose(transform(jax.grad(loss))(s), expected, rtol=1e-6, atol=1e-7)


def test_step_size_and_tolerances_may_be_traced_but_not_differentiated():
    def loss(rate, **keywords):
        return rg.solve(decay, jnp.ones(2), 0.0, 1.0, rate, solver="bosh3", **keywords).ys.sum()

    fine = jax.jit(lambda rate, dt: jax.grad(loss)(rate, dt=dt))(0.5, 0.01)
    np.testing.assert_allclose(fine, jax.grad(loss)(0.5, dt=0.01), rtol=1e-12)
    adaptive = jax.jit(lambda rate, rtol: jax.grad(loss)(rate, rtol=rtol))(0.5, 1e-6)
    np.testing.assert_allclose(adaptive, jax.grad(loss)(0.5, rtol=1e-6), rtol=1e-10)
    for name in ("dt", "rtol", "atol"):
        with pytest.raises(rg.InputError, match="constants of the gradient"):
            jax.grad(lambda x, name=name: loss(0.5, **{name: x}))(0.01)


def test_a_failed_solve_has_neither_value_nor_gradient_by_direct():
    def loss(rate):
        keywords = {"adjoint": "direct", "max_steps": 3, "throw": False}
        return rg.solve(decay, jnp.ones(2), 0.0, 1.0, rate, **keywords, **TIGHT).ys.sum()

    assert np.isnan(loss(0.5))
    assert np.isnan(jax.grad(loss)(0.5))
