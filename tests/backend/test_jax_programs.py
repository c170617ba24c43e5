"""JAX: what programs are made of, so that they compile in as few kernels as they need.

Guards rows J5 and J7 of ``asv_bench/report.py``.
"""

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
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def bodies(t: Any, y: Any, masses: Any) -> Any:
    apart = y[None, :] - y[:, None]
    pull = masses[None, None] * apart / ((apart * apart).sum() + 1.0) ** masses.sum()
    return jnp.stack([pull[i].sum(0) for i in range(6)])


def gradient(f: Any, **keywords: Any) -> Any:
    def loss(y: Any, p: Any) -> Any:
        end = rg.solve(f, y, 0.0, 1.0, p, **keywords).ys
        return (end * end).sum()

    return jax.jit(jax.grad(loss, (0, 1)))


def test_the_flag_leaves_gradients_as_they_are(monkeypatch):
    y, masses = np.linspace(0.1, 1.0, 18).reshape(6, 3), np.linspace(0.4, 0.6, 3)
    f = lambda t, y, p: bodies(t, jnp.sin(y), p)  # noqa: E731
    programs, found = [], []
    for flag in ("1", "0"):
        monkeypatch.setenv("RETROGRADE_XLA_CPU", flag)
        fn = gradient(f, solver="bosh3", dt=0.1)
        programs.append(str(fn.lower(y, masses).as_text()))
        found.append(fn(y, masses))
    assert not any(mark in programs[1] for mark in ("xla_cpu_small_call", "inlineable"))
    assert programs[0].count("while") > programs[1].count("while") or not gate.enabled()
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


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
