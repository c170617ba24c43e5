"""Public loops of small carries in JAX: one kernel each way where that is safe, never elsewhere.

Guards the times of ``asv_bench/benchmarks/loops.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jnp = jax.numpy
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")

pytestmark = pytest.mark.optimised

MARK = "xla_cpu_small_call"

marking = pytest.mark.skipif(not gate.enabled(), reason="kernels are for the CPU, from JAX 0.7 on")


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def printed(y: Any) -> Any:
    jax.debug.callback(lambda y: None, y)
    return y


WIDE = 0.01 * np.ones((64, 64))
BODIES: dict[str, tuple[Any, int]] = {
    "sums": (lambda y, p: y + 0.01 * p * jnp.sum(y) * jnp.sin(y), 3),
    "matrix and vector": (lambda y, p: jnp.tanh(WIDE[:8, :8] @ y * p), 8),
    "branch": (lambda y, p: jax.lax.cond(y[0] > 0.5, jnp.sin, jnp.cos, p * y), 3),
    "loop": (lambda y, p: jax.lax.fori_loop(0, 3, lambda i, y: 0.9 * p * y, y), 3),
    "indices": (lambda y, p: 0.9 * p * y[jnp.asarray([2, 0, 1])], 3),
    "sort": (lambda y, p: 0.9 * p * jnp.sort(y), 5),
    "fft": (lambda y, p: p * jnp.fft.ifft(jnp.fft.fft(y)).real, 8),
    "linear solve": (lambda y, p: jnp.linalg.solve(jnp.eye(4) * (1 + p), y), 4),
    "matrix product": (lambda y, p: (WIDE @ WIDE @ y) * p, 64),
    "large sum": (lambda y, p: y * p * jnp.sum(jnp.ones(9000) * y[0]) / 9000, 3),
    "callback": (lambda y, p: 0.9 * p * printed(y), 2),
    "random": (lambda y, p: p * y * jax.random.uniform(jax.random.key(3)), 2),
    "cumulative": (lambda y, p: 0.9 * p * jnp.cumprod(y), 4),
}
KERNELS = ("sums", "matrix and vector", "branch", "loop")


def sweeps(fn: Any, *arrays: Any) -> int:
    """Loops that are kernels: marked functions with a ``while`` (bookkeeping alone has none)."""
    text = str(fn.lower(*arrays).as_text())
    functions = text.split("func.func private @kernel")[1:]
    return sum("stablehlo.while" in x.split("func.func")[0] for x in functions) * (MARK in text)


def gradient(body: Any, kind: str, **settings: Any) -> Any:
    def total(y: Any, p: Any) -> Any:
        if kind == "scan":
            xs = jnp.linspace(0.9, 1.1, 30)
            end, ys = rg.scan(lambda c, x: (body(c, p * x), c[0] * x), y, xs, **settings)
            return jnp.sum(end) + jnp.sum(ys**2)
        start = jnp.asarray(0), y
        step = lambda c: (c[0] + 1, body(c[1], p))  # noqa: E731
        return jnp.sum(rg.while_loop(lambda c: c[0] < 30, step, start, max_steps=50, **settings)[1])

    return jax.jit(jax.grad(total, (0, 1)))


@pytest.mark.quick("branch-scan", "callback-scan", "matrix and vector-while_loop")
@pytest.mark.parametrize("kind", ["scan", "while_loop"])
@pytest.mark.parametrize("name", BODIES)
def test_any_body_compiles_to_the_gradient_without_kernels(name, kind, monkeypatch):
    body, size = BODIES[name]
    y, p = jnp.linspace(0.4, 1.2, size), jnp.asarray(0.95)
    marked = gradient(body, kind, checkpoints=5)
    if gate.enabled():
        assert sweeps(marked, y, p) == (2 if name in KERNELS else 0)  # forward and back
    found = marked(y, p)
    monkeypatch.setenv("RETROGRADE_XLA_CPU", "0")
    plain = gradient(lambda y, p: body(y, p), kind, checkpoints=5)
    assert sweeps(plain, y, p) == 0
    for a, b in zip(found, plain(y, p), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@marking
@pytest.mark.quick("{}", "{'memory': '2 KiB'}")
@pytest.mark.parametrize("settings", [{}, {"checkpoints": 50}, {"memory": "2 KiB"}], ids=str)
def test_both_passes_are_marked_whatever_is_stored(settings):
    fn = gradient(BODIES["sums"][0], "while_loop", **settings)
    assert sweeps(fn, jnp.ones(3), jnp.asarray(0.9)) == 2


@marking
def test_large_carries_are_left_as_they_were():
    fn = gradient(BODIES["sums"][0], "scan", checkpoints=5)
    assert [sweeps(fn, jnp.ones(n), jnp.asarray(0.9)) for n in (256, 257)] == [2, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scan", "while_loop"])
def test_lanes_of_different_length_and_keys_in_the_carry(kind):
    body = BODIES["sums"][0]
    y, p = jnp.linspace(0.3, 1.0, 3), jnp.asarray(0.9)
    many = jnp.stack([y, 1.1 * y, 0.7 * y])
    one = gradient(body, kind, checkpoints=5)
    found = jax.vmap(one, (0, None))(many, p)
    for i in range(3):
        for a, b in zip(one(many[i], p), found, strict=True):
            np.testing.assert_allclose(b[i], a, rtol=1e-12)

    def noisy(y: Any) -> Any:
        def step(c: Any) -> Any:
            key, i, y = c
            return jax.random.split(key)[0], i + 1, y * jax.random.uniform(key, minval=0.8)

        start = jax.random.key(7), jnp.asarray(0), y
        return jnp.sum(rg.while_loop(lambda c: c[1] < 9, step, start, max_steps=20)[2])

    near = (noisy(y + 1e-6) - noisy(y - 1e-6)) / 2e-6
    np.testing.assert_allclose(jnp.sum(jax.jit(jax.grad(noisy))(y)), near, rtol=1e-6)
