"""Against equinox's loops, on the same bodies with the same number of checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
eqxi = pytest.importorskip("equinox.internal")
jnp = jax.numpy


def cheap(y: Any, p: Any) -> Any:
    return y + 0.001 * (p * y - y**3)


def network(h: Any, w: Any) -> Any:
    return jnp.tanh(w @ h + 0.1)


def elementwise(y: Any, p: Any) -> Any:
    return y + 0.001 * jnp.sin(p * y)


def case(name: str) -> Any:
    jax.config.update("jax_enable_x64", True)
    if name == "cheap":
        return cheap, jnp.asarray(0.3), jnp.asarray(1.7), 300, 20
    if name == "network":
        w = 0.1 * jax.random.normal(jax.random.key(0), (64, 64))
        return network, jnp.ones(64), w, 100, 9
    return elementwise, jnp.linspace(0.0, 1.0, 10_000), jnp.asarray(1.7), 60, 8


def losses(name: str, loop: str) -> Any:
    """(ours, theirs, y, p) for a scan or a while loop of a case."""
    body, y, p, n, slots = case(name)

    def scan(run: Any, **more: Any) -> Any:
        def loss(y: Any, p: Any) -> Any:
            step: Any = lambda c, _: (body(c, p), None)  # noqa: E731
            return run(step, y, None, n, checkpoints=slots, **more)[0].sum()

        return loss

    def unknown(run: Any, **more: Any) -> Any:
        def loss(y: Any, p: Any) -> Any:
            start = jnp.asarray(0), y
            step: Any = lambda c: (c[0] + 1, body(c[1], p))  # noqa: E731
            return run(lambda c: c[0] < n, step, start, checkpoints=slots, **more)[1].sum()

        return loss

    if loop == "scan":
        return scan(rg.scan), scan(eqxi.scan, kind="checkpointed"), y, p
    theirs = unknown(eqxi.while_loop, kind="checkpointed", max_steps=None)
    return unknown(rg.while_loop), theirs, y, p


@pytest.mark.quick("network-scan")
@pytest.mark.parametrize("loop", ["scan", "while_loop"])
@pytest.mark.parametrize("name", ["cheap", "network", "elementwise"])
def test_same_gradient_in_fewer_bytes(name, loop):
    ours, theirs, y, p = losses(name, loop)
    programs = [jax.jit(jax.grad(f, (0, 1))).lower(y, p).compile() for f in (ours, theirs)]
    found, expected = (program(y, p) for program in programs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    mine, peer = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert mine <= peer


def calls(loss: Any, y: Any, p: Any) -> int:
    """Executed calls of a body that ticks."""
    ticks.clear()
    jax.block_until_ready(jax.jit(jax.grad(loss, (0, 1)))(y, p))
    jax.effects_barrier()
    return len(ticks)


ticks: list[int] = []


@pytest.mark.quick("while_loop-3")
@pytest.mark.parametrize("slots", [3, 8, 20])
@pytest.mark.parametrize("loop", ["scan", "while_loop"])
def test_no_more_calls_of_the_body(loop, slots):
    jax.config.update("jax_enable_x64", True)
    n = 60

    def body(y: Any) -> Any:
        jax.debug.callback(lambda: ticks.append(0))
        return jnp.sin(y)

    def scan(run: Any, **more: Any) -> Any:
        step: Any = lambda c, _: (body(c), None)  # noqa: E731
        return lambda y, _: run(step, y, None, n, checkpoints=slots, **more)[0]

    def unknown(run: Any, **more: Any) -> Any:
        step: Any = lambda c: (c[0] + 1, body(c[1]))  # noqa: E731
        start: Any = lambda y: (jnp.asarray(0), y)  # noqa: E731
        cond: Any = lambda c: c[0] < n  # noqa: E731
        return lambda y, _: run(cond, step, start(y), checkpoints=slots, **more)[1]

    make, run, peer = {
        "scan": (scan, rg.scan, eqxi.scan),
        "while_loop": (unknown, rg.while_loop, eqxi.while_loop),
    }[loop]
    y = jnp.asarray(0.7)
    assert calls(make(run), y, y) <= calls(make(peer, kind="checkpointed"), y, y)
