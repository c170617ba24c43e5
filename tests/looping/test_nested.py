"""Loops in loops, random keys and complex numbers in the carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

SETTINGS: tuple[dict[str, Any], ...] = ({}, {"checkpoints": 2})


@pytest.mark.quick("{'checkpoints': 2}")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scans_in_scans(settings):
    """JAX and PyTorch against JAX's own scans."""
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    jax.config.update("jax_enable_x64", True)

    def loss(y: Any, p: Any, xs: Any, sin: Any, scan: Any, **keywords: Any) -> Any:
        def inner(c: Any, x: Any) -> Any:
            return c + 0.1 * sin(p * c) * x, c

        def outer(c: Any, _: Any) -> Any:
            return scan(inner, c, xs, **keywords)[0], None

        return scan(outer, y, None, length=6, **keywords)[0]

    rows = np.arange(1.0, 5.0)
    own = jax.grad(lambda y, p: loss(y, p, rows, jax.numpy.sin, jax.lax.scan), (0, 1))(0.3, 1.2)

    def ours(y: Any, p: Any) -> Any:
        return loss(y, p, jax.numpy.asarray(rows), jax.numpy.sin, rg.scan, **settings)

    np.testing.assert_allclose(jax.jit(jax.grad(ours, (0, 1)))(0.3, 1.2), own, rtol=1e-12)
    y, p = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 1.2))
    loss(y, p, torch.as_tensor(rows), torch.sin, rg.scan, **settings).backward()
    np.testing.assert_allclose([y.grad, p.grad], own, rtol=1e-12)


@pytest.mark.quick("{'checkpoints': 2}")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_while_loop_in_a_scan(settings):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def loss(y: Any, p: Any, kind: str, **keywords: Any) -> Any:
        def step(z: Any) -> Any:
            return z[0] + 1, z[1] + 0.1 * jnp.sin(p * z[1])

        def outer(c: Any, _: Any) -> Any:
            return rg.while_loop(
                lambda z: z[0] < 4, step, (0, c), max_steps=9, kind=kind, **keywords
            )[1], None

        return rg.scan(outer, y, None, 5)[0]

    expected = jax.grad(loss, (0, 1))(0.3, 1.2, "bounded")
    found = jax.grad(lambda y, p: loss(y, p, "checkpointed", **settings), (0, 1))(0.3, 1.2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    each = jax.vmap(jax.grad(lambda y: loss(y, 1.2, "checkpointed", **settings)))
    np.testing.assert_allclose(each(jnp.full(3, 0.3)), [expected[0]] * 3, rtol=1e-12)


@pytest.mark.quick("{'checkpoints': 2}")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_random_keys_are_replayed(settings):
    jax = pytest.importorskip("jax")

    def body(c: Any, _: Any) -> Any:
        key, y = c
        key, used = jax.random.split(key)
        return (key, y * (1.0 + 0.1 * jax.random.normal(used))), None

    def loss(y: Any, scan: Any, **keywords: Any) -> Any:
        return scan(body, (jax.random.key(0), y), None, 10, **keywords)[0][1]

    expected = jax.grad(loss)(1.0, jax.lax.scan)
    found = [fn(lambda y: loss(y, rg.scan, **settings))(1.0) for fn in (jax.grad, _compiled)]
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-12)


def _compiled(fn: Any) -> Any:
    import jax

    return jax.jit(jax.grad(fn))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_complex_carries(settings):
    """The gradient dL/da + i dL/db of |z|**2, which is JAX's conjugate."""
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    jax.config.update("jax_enable_x64", True)

    def body(c: Any, _: Any) -> Any:
        return c * (0.9 + 0.3j) + 0.1 * c**2, None

    start = 0.3 + 0.2j
    z, pull = rg.loop_vjp(rg.scan, body, np.asarray(start), None, 7, **settings)
    expected = pull((2 * z[0], None))[0]

    def loss(z: Any) -> Any:
        return abs(rg.scan(body, z, None, 7, **settings)[0]) ** 2

    np.testing.assert_allclose(jax.grad(loss)(start), np.conj(expected), rtol=1e-12)
    leaf = torch.tensor(start, dtype=torch.complex128, requires_grad=True)
    loss(leaf).backward()
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-12)
