"""JAX: what programs are made of, so that they compile in as few kernels as they need."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing import Slots

jax = pytest.importorskip("jax")
jnp = jax.numpy
adapter: Any = pytest.importorskip("retrograde_backends.jax.adapter")
stages: Any = pytest.importorskip("retrograde_backends.jax.scanned_stages")
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")

MARK = "xla_cpu_small_call"

marking = pytest.mark.skipif(not gate.enabled(), reason="kernels are for the CPU, from JAX 0.7 on")


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def network(t: Any, y: Any, w: Any) -> Any:
    return jnp.tanh(y @ w) @ w.T


def bodies(t: Any, y: Any, masses: Any) -> Any:
    apart = y[None, :] - y[:, None]
    pull = masses[None, None] * apart / ((apart * apart).sum() + 1.0) ** masses.sum()
    return jnp.stack([pull[i].sum(0) for i in range(6)])


def gradient(f: Any, **keywords: Any) -> Any:
    def loss(y: Any, p: Any) -> Any:
        end = rg.solve(f, y, 0.0, 1.0, p, **keywords).ys
        return (end * end).sum()

    return jax.jit(jax.grad(loss, (0, 1)))


Y, W = (
    np.linspace(-1.0, 1.0, 32 * 16).reshape(32, 16),
    np.linspace(-0.1, 0.2, 16 * 64).reshape(16, 64),
)

SETTINGS: tuple[dict[str, Any], ...] = (
    {}, {"dt": 0.25, "solver": "rk4"}, {"saveat": rg.SaveAt(ts=[0.3, 1.0])}, {"solver": "bosh3"},
    {"dt": 0.2, "saveat": rg.SaveAt(steps=True)},
    {"adjoint": rg.RecursiveCheckpointAdjoint(3, one_tape=True)},
)  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_stages_in_a_loop_give_the_same_gradient(settings, monkeypatch):
    looped = gradient(network, **settings)
    assert gate.dear(jax.make_jaxpr(network)(0.0, Y, W).jaxpr, Y.size)
    found = looped(Y, W)
    monkeypatch.setattr(stages, "dear", lambda *_: False)
    plain = gradient(lambda t, y, w: network(t, y, w), **settings)
    calls = [str(fn.lower(Y, W).as_text()).count("stablehlo.tanh") for fn in (looped, plain)]
    assert calls[0] < calls[1]
    for a, b in zip(found, plain(Y, W), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_stages_in_a_loop_under_jvp_and_vmap():
    fn = lambda y: rg.solve(network, y, 0.0, 1.0, jnp.asarray(W), dt=0.25).ys  # noqa: E731
    y = jnp.asarray(Y)
    value, dot = jax.jvp(fn, (y,), (jnp.ones_like(y),))
    near = (fn(y + 1e-6) - fn(y - 1e-6)) / 2e-6
    np.testing.assert_allclose(dot, near, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(jax.vmap(fn)(jnp.stack([y, y]))[1], value, rtol=1e-12)


@pytest.mark.parametrize("solver", ["tsit5", "reversible_heun"])
def test_the_tape_of_a_costly_field_gives_the_same_gradient(solver, monkeypatch):
    y, masses = np.linspace(0.1, 1.0, 18).reshape(6, 3), np.linspace(0.4, 0.6, 3)
    costly = lambda t, y, p: bodies(t, jnp.sin(y), p)  # noqa: E731
    assert gate.costly(jax.make_jaxpr(costly)(0.0, y, masses).jaxpr)
    found = gradient(costly, dt=0.1, solver=solver)(y, masses)
    monkeypatch.setattr(stages, "costly", lambda *_: False)
    again = gradient(lambda *x: costly(*x), dt=0.1, solver=solver)(y, masses)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@marking
def test_bookkeeping_of_a_large_state_is_kernels(monkeypatch):
    fn = gradient(network)
    marks = str(fn.lower(Y, W).as_text()).count(MARK)
    assert marks >= 2  # splits, errors
    monkeypatch.setenv("RETROGRADE_KERNEL", "0")
    plain = gradient(lambda t, y, w: network(t, y, w))
    assert MARK not in str(plain.lower(Y, W).as_text())
    for a, b in zip(fn(Y, W), plain(Y, W), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_a_failed_solve_has_no_gradient_by_anything():
    f = lambda t, y, p: y * y + 0.0 * p[0].sum()  # noqa: E731
    for settings in ({"max_steps": 3}, {"dt": 0.5, "max_steps": 1}):
        found = gradient(f, **settings)(np.ones(3), (np.ones(2), np.ones(1)))
        assert all(np.isnan(x).all() for x in jax.tree_util.tree_leaves(found))


@pytest.mark.parametrize("rows", [3, 46, 200, 3000])
def test_rows_in_order_of_their_positions(rows):
    rng = np.random.default_rng(rows)
    positions = np.append(rng.permutation(5 * rows)[:rows], 0).astype(np.int32)
    positions[rows // 2 : rows] = 2**30  # free ones
    slots = Slots(rows, (), (), 1, None)  # outside of kernels, positions are all that is read
    order, top = jax.jit(lambda p: adapter.backend.rank(slots, p, 2**29))(positions)
    assert (order == np.argsort(positions[:rows], kind="stable")).all()
    assert top == rows // 2


def test_a_walk_back_by_inverses_copies_no_state_a_step():
    """Four where a slot is stored; once eight, there and in each noted and inverted step."""

    def f(t: Any, y: Any, c: Any) -> Any:
        return y[1], c * (jnp.roll(y[0], 1, 0) + jnp.roll(y[0], -1, 0) - 2.0 * y[0])

    def loss(q: Any, c: Any) -> Any:
        adjoint = rg.ReversibleAdjoint(checkpoints=5)
        settings: Any = {"dt": 0.1, "solver": "semi_implicit_euler", "adjoint": adjoint}
        return rg.solve(f, (q, 0 * q), 0.0, 10.0, c, **settings).ys[0].sum()

    derivative = jax.jit(jax.grad(loss, (0, 1)))
    text = derivative.lower(jnp.ones((64, 64)), jnp.asarray(1.0)).compile().as_text()
    loops = text[: text.index("\nENTRY")]
    assert len(re.findall(r"= f64\[64,64\]\S* copy\(", loops)) <= 5
