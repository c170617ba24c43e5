"""One or more calls of every function that has a rule; ``test_rules`` fails for one without.

A case is ``(call, *inputs)``: ``call(xp, *arrays)`` is smooth at the inputs (nested lists).
"""

from __future__ import annotations

V = [0.3, 0.7, -0.4]
W = [1.2, -0.5, 2.1]
UP = [1.3, 2.7, 1.8]
M = [[0.5, -1.2, 0.3], [1.1, 0.4, -0.7]]
SQUARE = [[2.0, 0.3, -0.1], [0.4, 1.5, 0.2], [-0.3, 0.1, 1.8]]
CUBE = [[[0.1, 0.5], [-0.3, 0.9], [0.7, -0.2]], [[1.1, -0.6], [0.2, 0.4], [-0.8, 0.35]]]
SCALAR = 0.6


def _pair(name, x=V, y=W):
    """A function of two arrays: same shape, broadcast both ways, constants, one array twice."""

    def call(xp, x, y):
        return getattr(xp, name)(x, y)

    # Rows offset from each other, so that no two elements tie.
    wide = [x, [v + 0.05 for v in x]]
    return [
        (call, x, y),
        (call, wide, y),
        (call, x, [[v] for v in y]),
        (call, x, y[2]),
        (call, x[0], y),
        (lambda xp, x: call(xp, x, xp.asarray(y, dtype=x.dtype)), x),
        (lambda xp, y: call(xp, xp.asarray(x, dtype=y.dtype), y), y),
        (lambda xp, x: call(xp, x, 1.7), x),
        (lambda xp, y: call(xp, 1.7, y), y),
    ]


def _one(name, *inputs):
    return [(lambda xp, x: getattr(xp, name)(x), x) for x in inputs]


def _reduction(name, x=CUBE):
    return [
        (lambda xp, x: getattr(xp, name)(x), x),
        (lambda xp, x: getattr(xp, name)(x, axis=1), x),
        (lambda xp, x: getattr(xp, name)(x, axis=(0, -1)), x),
        (lambda xp, x: getattr(xp, name)(x, axis=-2, keepdims=True), x),
        (lambda xp, x: getattr(xp, name)(x * x), V),
    ]


def _indices(xp, *values):
    return xp.asarray(values, dtype=xp.int64)


def _filled(d, x):
    d[...] = x * x
    return d


CASES = {
    name: _one(name, V, SCALAR, [V, [0.9, -0.2, 0.1]])
    for name in (
        "negative positive abs exp expm1 sin cos tan asin acos atan sinh cosh tanh asinh "
        "atanh square reciprocal"
    ).split()
}
CASES |= {name: _one(name, UP, 1.6) for name in "log log1p log2 log10 sqrt acosh".split()}
CASES |= {name: _reduction(name) for name in "sum mean prod max min var std".split()}
CASES |= {
    name: _pair(name)
    for name in "add subtract multiply divide atan2 hypot logaddexp maximum minimum".split()
}
CASES |= {
    "conj": _one("conj", V),
    "real": _one("real", V),
    "pow": [*_pair("pow", UP, W)[:-1], (lambda xp, x: xp.pow(x, 3), V), (lambda xp, p: 2.0**p, V)],
    "remainder": _pair("remainder", [0.3, 0.7, 1.4], [1.2, 0.5, 2.1]),
    "clip": [
        (lambda xp, x: xp.clip(x, 0.0, 0.5), V),
        (lambda xp, x: xp.clip(x, min=0.0), V),
        (lambda xp, x: xp.clip(x, max=0.45), M),
        (lambda xp, x, low, high: xp.clip(x, low, high), V, -0.1, [0.5, 0.6, 0.7]),
    ],
    "where": [
        (lambda xp, x, y: xp.where(x > 0.5, x, y), V, W),
        (lambda xp, x, y: xp.where(x > 0.45, x * x, y), M, 0.2),
        (lambda xp, x: xp.where(xp.asarray([[True], [False]]), x, 0.0), V),
    ],
    "imag": [(lambda xp, x: xp.imag((1 + 2j) * x), V)],
    "cumulative_sum": [
        (lambda xp, x: xp.cumulative_sum(x), V),
        (lambda xp, x: xp.cumulative_sum(x, axis=-2), CUBE),
        (lambda xp, x: xp.cumulative_sum(x, axis=1, include_initial=True), CUBE),
    ],
    "reshape": [(lambda xp, x: xp.reshape(x, (3, -1)), CUBE)],
    "expand_dims": [(lambda xp, x: xp.expand_dims(x, axis=1), M)],
    "squeeze": [(lambda xp, x: xp.squeeze(x, axis=1), [[[1.0, 2.0]], [[3.0, 4.0]]])],
    "permute_dims": [(lambda xp, x: xp.permute_dims(x, (2, 0, 1)), CUBE)],
    "moveaxis": [(lambda xp, x: xp.moveaxis(x, 0, -1), CUBE)],
    "matrix_transpose": [
        (lambda xp, x: xp.matrix_transpose(x), CUBE),
        (lambda xp, x: x.mT, CUBE),
        (lambda xp, x: x.T, M),
    ],
    "flip": [
        (lambda xp, x: xp.flip(x), CUBE),
        (lambda xp, x: xp.flip(x, axis=(0, 2)), CUBE),
    ],
    "roll": [
        (lambda xp, x: xp.roll(x, 1), V),
        (lambda xp, x: xp.roll(x, (1, -1), axis=(0, 1)), CUBE),
        (lambda xp, x: xp.roll(x, 2), M),
    ],
    "broadcast_to": [
        (lambda xp, x: xp.broadcast_to(x, (4, 3)), V),
        (lambda xp, x: xp.broadcast_to(x, (2, 3, 2)), [[0.1], [0.2], [0.3]]),
    ],
    "broadcast_arrays": [(lambda xp, x, y: xp.multiply(*xp.broadcast_arrays(x, y)), M, V)],
    "tril": [(lambda xp, x: xp.tril(x, k=-1), SQUARE)],
    "triu": [(lambda xp, x: xp.triu(x), SQUARE)],
    "astype": [(lambda xp, x: xp.astype(x, x.dtype) * x, V)],
    "asarray": [
        (lambda xp, x: xp.asarray(x, copy=True) * x, V),
        (lambda xp, x: x * (xp.asarray(x) + 1.0), V),
    ],
    "take": [
        (lambda xp, x: xp.take(x, _indices(xp, 0, 2, 2, 0, 2)), V),
        (lambda xp, x: xp.take(x, _indices(xp, 1, 1, 0), axis=1), CUBE),
    ],
    "take_along_axis": [
        (lambda xp, x: xp.take_along_axis(x, xp.asarray([[0, 0], [2, 1]]), axis=1), M)
    ],
    "repeat": [
        (lambda xp, x: xp.repeat(x, 3), V),
        (lambda xp, x: xp.repeat(x, _indices(xp, 2, 0, 1), axis=1), CUBE),
    ],
    "tile": [(lambda xp, x: xp.tile(x, (2, 2)), M)],
    "sort": [(lambda xp, x: xp.sort(x, axis=1), CUBE)],
    "diff": [
        (lambda xp, x: xp.diff(x, n=2), V),
        (lambda xp, x, y: xp.diff(x, axis=0, prepend=y), V, [0.5]),
    ],
    "unstack": [
        (lambda xp, x: xp.unstack(x)[0] * xp.unstack(x)[1], M),
        (lambda xp, x: xp.unstack(x, axis=-1)[1], CUBE),
    ],
    "concat": [
        (lambda xp, x, y: xp.concat([x, y, x]), V, W),
        (lambda xp, x, y: xp.concat([x, y], axis=1), M, [[0.2], [0.4]]),
        (lambda xp, x, y: xp.concat([x, y], axis=None), M, V),
    ],
    "stack": [
        (lambda xp, x: xp.stack([x[0] * x[1], x[2], x[0]]), V),
        (lambda xp, x, y: xp.stack([x, y], axis=1), V, W),
        (lambda xp, x, y: xp.stack([x, y], axis=-1), M, M),
    ],
    "matmul": [
        (lambda xp, x, y: xp.matmul(x, y), V, W),
        (lambda xp, x, y: x @ y, M, V),
        (lambda xp, x, y: x @ y, V, SQUARE),
        (lambda xp, x, y: x @ y, M, SQUARE),
        (lambda xp, x, y: x @ y, CUBE, M),
        (lambda xp, x, y: x @ y, V, CUBE),
        (lambda xp, x, y: x @ y, CUBE, [0.4, -0.9]),
        (lambda xp, x: xp.matmul(xp.asarray(SQUARE, dtype=x.dtype), x), V),
        (lambda xp, x: x @ xp.asarray(SQUARE, dtype=x.dtype), V),
    ],
    "tensordot": [
        (lambda xp, x, y: xp.tensordot(x, y, axes=1), CUBE, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
        (lambda xp, x, y: xp.tensordot(x, y, axes=((2, 1), (0, 1))), CUBE, [[0.1, 0.2, 0.3]] * 2),
        (lambda xp, x, y: xp.tensordot(x, y, axes=((1, 2), (2, 0))), CUBE, [[V], [W]]),
        (lambda xp, x, y: xp.tensordot(x, y, axes=0), V, M),
    ],
    "vecdot": [(lambda xp, x, y: xp.vecdot(x, y, axis=-1), M, V)],
    "outer": [(lambda xp, x, y: xp.linalg.outer(x, y), V, W)],
    "trace": [(lambda xp, x: xp.linalg.trace(x, offset=1), SQUARE)],
    "diagonal": [(lambda xp, x: xp.linalg.diagonal(x), SQUARE)],
    "vector_norm": [
        (lambda xp, x: xp.linalg.vector_norm(x), M),
        (lambda xp, x: xp.linalg.vector_norm(x, axis=1, keepdims=True), M),
        (lambda xp, x: xp.linalg.vector_norm(x, ord=1, axis=0), M),
        (lambda xp, x: xp.linalg.vector_norm(x, ord=3), V),
        (lambda xp, x: xp.linalg.vector_norm(x, ord=float("inf")), V),
        (lambda xp, x: xp.linalg.vector_norm(x, ord=-float("inf")), V),
    ],
    "solve": [
        (lambda xp, a, b: xp.linalg.solve(a, b), SQUARE, V),
        (lambda xp, a, b: xp.linalg.solve(a, b), SQUARE, [[1.0, 2.0], [3.0, -1.0], [0.5, 0.2]]),
        (lambda xp, a, b: xp.linalg.solve(a, b), [SQUARE, SQUARE], [[1.0], [3.0], [0.5]]),
    ],
    "inv": [(lambda xp, x: xp.linalg.inv(x), SQUARE)],
    "zeros_like": [(lambda xp, x: xp.zeros_like(x) + x, V)],
    "ones_like": [(lambda xp, x: xp.ones_like(x) * x, V)],
    "empty_like": [(lambda xp, x: _filled(xp.empty_like(x), x), V)],
    "full_like": [(lambda xp, x: xp.full_like(x, 3.0) * x, V)],
}
"""By the name of the function."""

OPERATORS = {
    "mixed": [
        (lambda xp, x: (2 + x - 1) * 3 / 4 - (1 - x) * -x, V),
        (lambda xp, x: 1 / x + x**2 - x**-1 + x**1 + x**0 + x**2.5, UP),
        (lambda xp, x, y: x * y - x / y + (x - y) * (y + x), V, W),
        (lambda xp, a, x: a * x + x * a - a / x + x / a + (a - x) * (x - a), SCALAR, UP),
        (lambda xp, x, y: x**y + 2**y + abs(-x) + (+x), UP, W),
        (lambda xp, x: (x % 0.7) + (5.0 % x), [0.3, 0.9, 1.6]),
        (lambda xp, x: x + x + x, V),
        (lambda xp, x: x * xp.asarray(UP, dtype=x.dtype) / xp.asarray(W, dtype=x.dtype), V),
    ],
    "reads": [
        (lambda xp, x: x[0] * x[-1], V),
        (lambda xp, x: x[1:] * x[:-1] + x[::-2], V),
        (
            lambda xp, x: x[..., 1] + x[0, :, 0],
            [[[0.1, 0.5], [-0.3, 0.9]], [[1.0, 2.0], [3.0, 4.0]]],
        ),
        (lambda xp, x: x[:, None, :] * x[None, :, :], M),
        (lambda xp, x: x[()] * x[...] + x[None, ...][0], SCALAR),
        (lambda xp, x: x[_indices(xp, 1, 1, 2)] * x, V),
        (lambda xp, x: x[_indices(xp, 1, 0), _indices(xp, 2, 2)], M),
        (lambda xp, x: x[x > 0.0], V),
        (lambda xp, x: x[1, ...][2] * x[1, 0] + x[0, :][:2][1], M),
        (lambda xp, x: sum(v * k for k, v in enumerate(x)), V),
    ],
}
"""Operators and indexing; not functions, so not in the table above."""
