"""Gradients of public loops: the same from every schedule and library, and by differences."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing.schedules import events, extra_advances
from retrograde.backend import Capability

from .loops import Decay, gradient, rnn, rnn_inputs, weights

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {}, "1 slot": {"checkpoints": 1}, "2 slots": {"checkpoints": 2},
    "5 slots": {"checkpoints": 5}, "64 slots": {"checkpoints": 64}, "small": {"memory": "1500 B"},
    "large": {"memory": "4 KiB"}, "bounded": {"kind": "bounded"},
}  # fmt: skip


def assert_same(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)


def flat(tree: Any) -> Any:
    return importlib.import_module("optree").tree_leaves(tree)


@pytest.fixture(scope="module")
def while_reference(reference):
    loop = Decay()
    args = (loop.cond, loop.body), (loop.init(reference),)
    return gradient(reference, rg.while_loop, *args)


@pytest.fixture(scope="module")
def scan_reference(reference):
    return gradient(reference, rg.scan, (rnn,), rnn_inputs(reference, 17))


@pytest.mark.settings(name=SETTINGS, few={"jax": ["5 slots"], "jax:jit": ["bounded"]})
def test_while_loop(backend, name, while_reference):
    loop, settings = Decay(), SETTINGS[name]
    if name == "bounded":
        settings = {**settings, "max_steps": 100}
    args = (loop.cond, loop.body), (loop.init(backend),)
    result, grads = gradient(backend, rg.while_loop, *args, **settings)
    assert_same(flat(result), flat(while_reference[0]))
    assert_same(grads, while_reference[1])


@pytest.mark.settings(
    name=SETTINGS,
    reverse=[False, True],
    few={
        "jax": [("2 slots", False)],
        "jax:jit": [("64 slots", True)],
    },
)
def test_scan(backend, name, reverse, reference):
    expected = gradient(reference, rg.scan, (rnn,), rnn_inputs(reference, 17), reverse=reverse)
    inputs = rnn_inputs(backend, 17)
    result, grads = gradient(backend, rg.scan, (rnn,), inputs, reverse=reverse, **SETTINGS[name])
    assert_same(flat(result), flat(expected[0]))
    assert_same(grads, expected[1])


def test_differences(reference):
    """Central differences of the weighted sum, by every input of a scan."""
    carry, xs = rnn_inputs(reference, 6)

    def loss(h: Any, w: Any, u: Any, v: Any) -> float:
        out = flat(rg.scan(rnn, (h, w), {"u": u, "v": v}))
        return float(sum((x * weights(x)).sum() for x in out if x.dtype.kind == "f"))

    inputs = [*carry, xs["u"], xs["v"]]
    _, grads = gradient(reference, rg.scan, (rnn,), (carry, xs), checkpoints=2)
    for k, x in enumerate(inputs):
        for j in np.ndindex(x.shape):
            move = np.zeros_like(x)
            move[j] = 1e-6
            up, down = ([*inputs[:k], x + s * move, *inputs[k + 1 :]] for s in (1, -1))
            assert grads[k][j] == pytest.approx((loss(*up) - loss(*down)) / 2e-6, rel=1e-7)


def test_reverse_is_a_scan_of_flipped_rows(reference):
    carry, xs = rnn_inputs(reference, 5)
    forward = rg.scan(rnn, carry, {k: x[::-1] for k, x in xs.items()})
    back = rg.scan(rnn, carry, xs, reverse=True)
    np.testing.assert_array_equal(back[0][0], forward[0][0])
    np.testing.assert_array_equal(back[1]["h"], forward[1]["h"][::-1])


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 8, 30, 40])
def test_calls_of_the_body_are_the_binomial_optimum(reference, checkpoints):
    n, loop = 30, Decay()
    calls = [0]

    def body(c: Any, x: Any) -> Any:
        calls[0] += 1
        return loop.body(c), None

    _, pull = rg.loop_vjp(rg.scan, body, loop.init(reference), None, n, checkpoints=checkpoints)
    assert calls[0] == n
    pull(None)
    assert calls[0] == 2 * n + extra_advances(n, min(n, checkpoints))


@pytest.mark.parametrize("checkpoints", [1, 2, 5, 9])
def test_calls_of_the_body_where_the_length_is_not_known(reference, checkpoints):
    loop = Decay(60)
    args = loop.cond, loop.body, loop.init(reference)
    _, pull = rg.loop_vjp(rg.while_loop, *args, checkpoints=checkpoints)
    pull(None)
    assert loop.calls == 120 + events(checkpoints).extra_advances(60)


def test_executed_calls_of_a_compiled_body():
    jax = pytest.importorskip("jax")
    count = [0]

    def body(y: Any, _: Any) -> Any:
        jax.debug.callback(lambda: count.__setitem__(0, count[0] + 1))
        return y + 0.01 * jax.numpy.sin(y), None

    def loss(y: Any) -> Any:
        return rg.scan(body, y, None, 40, checkpoints=6)[0]

    jax.jit(jax.grad(loss))(jax.numpy.asarray(0.3)).block_until_ready()
    jax.effects_barrier()
    assert count[0] == 80 + extra_advances(40, 6)


def test_a_second_pull(reference):
    loop = Decay()
    args = loop.cond, loop.body, loop.init(reference)
    _, pull = rg.loop_vjp(rg.while_loop, *args, checkpoints=3)
    ct = {**loop.init(reference), "y": np.asarray([1.0, 2.0])}
    first, second = pull(ct), pull(ct)
    np.testing.assert_array_equal(first["y"], second["y"])


@pytest.mark.needs(Capability.NATIVE_GRADIENT)
@pytest.mark.settings(name=SETTINGS, few={"jax": ["small"], "jax:jit": []})
def test_closures(backend, name):
    """What a body closes over gets its gradient."""
    _, expected = gradient(
        backend, rg.scan, (lambda c, _: ((c[0] + 0.1 * c[1] * c[0], c[1]), None),),
        ((backend.array(0.4), backend.array(1.3)), None), length=12,
    )  # fmt: skip

    def loss(h: Any, w: Any) -> Any:
        out, _ = rg.scan(lambda h, _: (h + 0.1 * w * h, None), h, None, 12, **SETTINGS[name])
        return out * math.cos(1.0)

    h, w = backend.array(0.4), backend.array(1.3)
    if backend.bk.name == "torch":
        h, w = h.requires_grad_(), w.requires_grad_()
        loss(h, w).backward()
        found = [h.grad, w.grad]
    else:
        found = backend.compiled(importlib.import_module("jax").grad(loss, (0, 1)))(h, w)
    # the other loop's weights: cos(1) for both leaves of its carry
    found = [backend.one_to_numpy(x) for x in found]
    assert_same(found, [expected[0], expected[1] - math.cos(1.0)], rtol=1e-11)


@pytest.mark.device
@pytest.mark.needs(Capability.HIGHER_ORDER)
@pytest.mark.parametrize("kind", ["bounded", "checkpointed"])
def test_higher_order(backend, kind):
    """Value, first and second derivative of a loop with a polynomial result."""
    y = backend.array(0.7)

    def fn(x: Any) -> Any:
        return rg.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x), max_steps=50, kind=kind
        )[1]

    if backend.bk.name == "torch" and kind == "checkpointed":
        pytest.skip("one derivative of a checkpointed loop in PyTorch")
    value, first, second = backend.second(fn, y)
    for found, exact in ((value, 0.7**4), (first, 4 * 0.7**3), (second, 12 * 0.7**2)):
        assert backend.one_to_numpy(found) == pytest.approx(exact, rel=1e-12)
