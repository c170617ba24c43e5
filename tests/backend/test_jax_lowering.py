"""JAX programs written for other platforms, on a machine that has none of them.

What serves the CPU alone (marks of kernels, forms of sums and shifts that its compiler wants) stays
out of a program lowered for CUDA, nothing calls back to the host, one program can be for both, and
what decides is computed in full precision, whatever the default of a GPU's products is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
export = pytest.importorskip("jax.export")
adapter: Any = pytest.importorskip("retrograde_backends.jax.adapter")
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")
lax_module: Any = pytest.importorskip("jax._src.lax.lax")
jnp = jax.numpy


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def lotka(t: Any, y: Any, p: Any) -> Any:
    return jnp.stack([p * y[0] - y[0] * y[1], y[0] * y[1] - y[1]])


def network(t: Any, y: Any, p: Any) -> Any:
    w = 0.1 * jnp.cos(jnp.arange(y.shape[-1] * 8.0)).reshape(-1, 8)
    return p * jnp.tanh(y @ w) @ w.T


def waves(t: Any, y: Any, p: Any) -> Any:
    return y[1], p * (jnp.roll(y[0], 1, 1) + jnp.roll(y[0], -1, 1) - 2.0 * y[0])


def end(f: Any, **keywords: Any) -> Callable[..., Any]:
    def loss(y: Any, p: Any) -> Any:
        ys = jax.tree_util.tree_leaves(rg.solve(f, y, 0.0, 1.0, p, **keywords).ys)
        return sum((x[-1] ** 2).sum() for x in ys)

    return loss


def loop(y: Any, p: Any) -> Any:
    step = lambda c: (c[0] + 1, jnp.sin(p * c[1]))  # noqa: E731
    return rg.while_loop(lambda c: c[0] < 9, step, (0, y), max_steps=20)[1].sum()


def scan(y: Any, p: Any) -> Any:
    total, ys = rg.scan(lambda c, x: (p * c + x, jnp.sin(c)), y, jnp.ones((9, *y.shape)))
    return total.sum() + ys.sum()


def batch(loss: Any) -> Any:
    return lambda y, p: jax.vmap(loss, (0, None))(jnp.stack([y, 2.0 * y]), p).sum()


TWO, SIXTEEN = np.asarray([1.0, 0.5]), np.linspace(-1.0, 1.0, 64).reshape(4, 16)
MESH = (np.ones((8, 130)), np.zeros((8, 130)))
SMALL: dict[str, Any] = {"dt": 0.25, "max_steps": 8}
PROGRAMS: dict[str, tuple[Any, Any]] = {
    "solve": (lambda y, p: rg.solve(lotka, y, 0.0, 1.0, p).ys, TWO),
    "gradient": (jax.grad(end(lotka), (0, 1)), TWO),
    "constant": (jax.grad(end(lotka, **SMALL), (0, 1)), TWO),
    "saved": (jax.grad(end(lotka, saveat=rg.SaveAt(ts=[0.3, 1.0])), (0, 1)), TWO),
    "few slots": (jax.grad(end(lotka, adjoint=rg.RecursiveCheckpointAdjoint(3))), TWO),
    "tape": (jax.grad(end(lotka, adjoint="tape", **SMALL)), TWO),
    "inverted": (jax.grad(end(network, adjoint=rg.BacksolveAdjoint(4), dt=0.05)), SIXTEEN),
    "reversible": (jax.grad(end(network, adjoint="reversible", solver="alf", dt=0.05)), SIXTEEN),
    "tangent": (lambda y, p: jax.jvp(end(lotka), (y, p), (y, p))[1], TWO),
    "hessian": (jax.hessian(end(lotka, **SMALL), 1), TWO),
    "network": (jax.grad(end(network), (0, 1)), SIXTEEN),
    "mesh": (jax.grad(end(waves, solver="semi_implicit_euler", dt=0.1)), MESH),
    "batch": (jax.grad(batch(end(lotka, **SMALL))), TWO),
    "while loop": (jax.grad(loop, (0, 1)), TWO),
    "scan": (jax.grad(scan, (0, 1)), TWO),
    "batch of loops": (jax.grad(batch(loop)), TWO),
}
FOR_BOTH = ("solve", "network", "mesh", "scan", "batch of loops")


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_for_cuda_hold_nothing_of_the_cpu(name):
    fn, y = PROGRAMS[name]
    for platforms in (("cuda",), ("cpu", "cuda"))[: 1 + (name in FOR_BOTH)]:
        text = export.export(jax.jit(fn), platforms=platforms)(y, np.asarray(0.9)).mlir_module()
        assert "xla_cpu_" not in text, platforms  # a folder of ours is called xla_cpu
        assert "callback" not in text, platforms


def test_kernels_come_back_where_the_cpu_is_the_only_one():
    fn, y = PROGRAMS["gradient"]
    text = export.export(jax.jit(fn), platforms=("cpu",))(y, np.asarray(0.9)).mlir_module()
    assert ("xla_cpu_small_call" in text) == (bool(gate.UNCACHED) and gate.enabled())


@pytest.mark.slow
def test_one_program_for_both_platforms_gives_the_gradient_here():
    fn, y = PROGRAMS["gradient"]
    both = export.export(jax.jit(fn), platforms=("cpu", "cuda"))(y, np.asarray(0.9))
    for a, b in zip(both.call(y, np.asarray(0.9)), fn(y, np.asarray(0.9)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.slow
def test_the_guard_is_not_of_the_precision_of_a_gpus_products(monkeypatch):
    """float32 products by default are of 10 bits there: rounded so, as many steps are inverted."""
    rounded = []
    plain = lax_module.dot_general

    def as_on_a_gpu(a: Any, b: Any, *rest: Any, precision: Any = None, **more: Any) -> Any:
        default = precision in (None, jax.lax.Precision.DEFAULT)
        rounded.append(default)
        if default and a.dtype == jnp.float32:
            a, b = (jax.lax.reduce_precision(x, 8, 10) for x in (a, b))
        return plain(a, b, *rest, precision=precision, **more)

    def inverted() -> tuple[int, Any]:
        y = jnp.linspace(0.5, 1.0, 300, dtype=jnp.float32)
        field = lambda t, y, p: -p * jnp.sin(y)  # noqa: E731
        settings: Any = {"dt": 0.01, "adjoint": rg.BacksolveAdjoint(8)}
        sol, pullback = rg.solve_vjp(field, y, 0.0, 1.0, jnp.float32(0.5), **settings)
        g = pullback(jnp.ones_like(sol.ys))
        return int(sol.stats["inverted"]), g.y0

    count, gradient = inverted()
    monkeypatch.setattr(lax_module, "dot_general", as_on_a_gpu)
    jax.clear_caches()  # of traces with the products as they are
    x = jnp.linspace(0.0, 1.0, 8, dtype=jnp.float32)
    if float(x @ x) == float(np.asarray(x) @ np.asarray(x)):
        pytest.skip("this JAX forms its products elsewhere")
    rounded.clear()
    again, found = inverted()
    assert rounded
    assert not any(rounded)
    assert again == count > 50
    np.testing.assert_array_equal(found, gradient)
