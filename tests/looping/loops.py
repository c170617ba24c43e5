"""Loops that the tests differentiate, and how users of each library do it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

import retrograde as rg


def weights(x: Any) -> np.ndarray:
    """Some cotangent of the shape of x."""
    size = int(np.prod(tuple(x.shape)))
    return np.cos(np.arange(1.0, size + 1.0)).reshape(tuple(x.shape))


def gradient(backend: Any, loop: Any, functions: Any, trees: Any, **keywords: Any) -> Any:
    """(result, gradients of the floating leaves of ``trees``) of a weighted sum of the result."""
    bk = backend.bk
    leaves, treedef = bk.flatten(trees)
    where = [i for i, x in enumerate(leaves) if bk.is_array(x) and bk.floating(x)]

    def rebuilt(flat: Any) -> Any:
        new = list(leaves)
        for i, x in zip(where, flat, strict=True):
            new[i] = x
        return bk.unflatten(treedef, new)

    flat = [leaves[i] for i in where]
    name = bk.name
    if name not in ("torch", "jax"):
        result, pullback = rg.loop_vjp(loop, *functions, *trees, **keywords)
        cts = backend.map(lambda x: _cotangent(backend, x), result)
        found = pullback(cts)
        found = found if loop is rg.scan else (found,)
        none = [x for x in _slots(bk, trees, found) if x is not None]
        return backend.to_numpy(result), [backend.one_to_numpy(x) for x in none]

    def loss(flat: Any) -> Any:
        result = loop(*functions, *rebuilt(flat), **keywords)
        total: Any = 0.0
        for x in bk.flatten(result)[0]:
            if bk.is_array(x) and bk.floating(x):
                total = total + (x * backend.array(weights(x))).sum()
        return total, result

    if name == "torch":
        flat = [x.detach().clone().requires_grad_() for x in flat]
        value, result = loss(flat)
        value.backward()
        grads = [backend.xp.zeros_like(x) if x.grad is None else x.grad for x in flat]
    else:
        jax = importlib.import_module("jax")
        (_, result), grads = backend.compiled(jax.value_and_grad(loss, has_aux=True))(flat)
    return backend.to_numpy(result), [backend.one_to_numpy(x) for x in grads]


def _cotangent(backend: Any, x: Any) -> Any:
    if backend.bk.floating(x):
        return backend.array(weights(x))
    return x


def _slots(bk: Any, trees: Any, found: Any) -> list[Any]:
    """Cotangents in the order of the floating leaves of the inputs."""
    out = []
    for tree, cts in zip(trees, found, strict=True):
        leaves = bk.flatten(tree)[0]
        given = iter(bk.flatten(cts)[0])
        out += [next(given) for x in leaves if bk.is_array(x) and bk.floating(x)]
    return out


class Decay:
    """A while loop with a counter, a flag, an invariant parameter and nested containers."""

    def __init__(self, steps: int = 23) -> None:
        self.steps, self.calls = steps, 0

    def cond(self, c: Any) -> Any:
        return c["i"] < self.steps

    def body(self, c: Any) -> Any:
        self.calls += 1
        y, (z, p) = c["y"], c["rest"]
        y = y + 0.1 * (p * y - y**3) * (1.0 + 0.1 * z)
        z = z * 0.98 + 0.01 * y[0]
        return {"i": c["i"] + 1, "odd": c["i"] % 2 == 0, "y": y, "rest": (z, p)}

    def init(self, backend: Any) -> Any:
        xp = backend.xp
        return {
            "i": xp.asarray(0),
            "odd": xp.asarray(False),
            "y": backend.array([0.3, 1.2]),
            "rest": (backend.array(0.5), backend.array(1.7)),
        }


def rnn(carry: Any, x: Any) -> Any:
    """A scan with a parameter in the carry, a tree of rows and two outputs."""
    h, w = carry
    h = h + 0.2 * (x["u"] * w - h**3) * x["v"]
    return (h, w), {"h": h, "n": (x["v"] > 0, h * w)}


def rnn_inputs(backend: Any, n: int) -> Any:
    """(init, xs)."""
    u = np.sin(np.arange(2.0 * n)).reshape(n, 2)
    v = np.cos(np.arange(1.0 * n))
    carry = backend.array([0.2, -0.4]), backend.array([1.1, 0.7])
    return carry, {"u": backend.array(u), "v": backend.array(v)}
