"""Random programs in which values are shared, written into and read again."""

from __future__ import annotations

import random

import numpy as np
import pytest

from retrograde._autodiff.vjp import vjp


def write(x, y):
    d = np.zeros_like(x)
    d[..., 1:] = y[..., :-1] * x[..., 1:]
    d[..., 0] += x[..., 1]
    d *= y
    return d


STEPS = [
    (np.sin, 1),
    (np.tanh, 1),
    (lambda x: x * x - x / 2.0, 1),
    (lambda x: 1.0 - x, 1),
    (lambda x: np.roll(x, 1, axis=-1), 1),
    (lambda x: np.cumsum(x, axis=-1), 1),
    (lambda x: x - np.mean(x), 1),
    (lambda x: np.concatenate([x[..., 1:], x[..., :1]], axis=-1), 1),
    (lambda x: x.T.T[..., ::-1], 1),
    (lambda x, y: x * y, 2),
    (lambda x, y: x + y, 2),
    (lambda x, y: x / (2 + y * y), 2),
    (lambda x, y: np.hypot(x, y), 2),
    (lambda x, y: x * y[..., 0:1] - y[0], 2),
    (write, 2),
]


def program(seed, length=8):
    draw = random.Random(seed)
    chosen = [draw.choice(STEPS) for _ in range(length)]
    steps = [(f, [draw.randrange(i + 2) for _ in range(n)]) for i, (f, n) in enumerate(chosen)]

    def run(*values):
        values = list(values)
        for f, operands in steps:
            values.append(f(*[values[k] for k in operands]))
        return values[-2:]

    return run


def inner(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seed", range(120))
def test_cotangents_pair_with_tangents(seed):
    rng = np.random.default_rng(seed)
    shape = (3, 3) if seed % 3 else (4,)
    x, v, ct = ([rng.normal(size=shape) for _ in range(2)] for _ in range(3))
    frozen = [a.copy() for a in (*x, *ct)]
    run = program(seed)
    outputs, pull = vjp(run, x, np)
    for out, want in zip(outputs, run(*x), strict=True):
        np.testing.assert_allclose(out, want, rtol=1e-12)
    grads = pull(ct)
    h = 1e-5
    ends = [run(*[a + s * b for a, b in zip(x, v, strict=True)]) for s in (h, -h)]
    slopes = [(a - b) / (2 * h) for a, b in zip(*ends, strict=True)]
    scale = inner([abs(c) for c in ct], [abs(s) for s in slopes])
    assert inner(grads, v) == pytest.approx(inner(ct, slopes), abs=1e-6 * scale + 1e-9)
    for a, b in zip((*x, *ct), frozen, strict=True):
        np.testing.assert_array_equal(a, b)
