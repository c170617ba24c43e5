"""Rules of products and solves of linear algebra, in array API.

A rule is ``rule(xp, x, y) -> (out, back_x, back_y)``. Operands may be batched; cotangents are
summed over the batch axes that were broadcast. Not here: decompositions, determinants, einsum.

References
----------
Giles, M. (2008), Collected matrix derivative results for forward and reverse mode algorithmic
differentiation, doi:10.1007/978-3-540-68942-3_4, sections 2.2.1 (products) and 2.2.3 (inverse).
"""

from __future__ import annotations

from ..._base.errors import InputError
from ..._base.types import Array, Namespace
from .unbroadcast import Back, Setting, unbroadcast


def matmul(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    x_shape, y_shape = x.shape, y.shape

    def as_matrices(g: Array) -> Array:
        if len(y_shape) == 1:
            g = g[..., None]
        return g[..., None, :] if len(x_shape) == 1 else g

    def back_x(g: Array) -> Array:
        rows = y[None, :] if len(y_shape) == 1 else xp.matrix_transpose(y)
        shape = x_shape if len(x_shape) > 1 else (1, *x_shape)
        return xp.reshape(unbroadcast(xp, xp.matmul(as_matrices(g), rows), shape), x_shape)

    def back_y(g: Array) -> Array:
        columns = x[:, None] if len(x_shape) == 1 else xp.matrix_transpose(x)
        shape = y_shape if len(y_shape) > 1 else (*y_shape, 1)
        return xp.reshape(unbroadcast(xp, xp.matmul(columns, as_matrices(g)), shape), y_shape)

    return xp.matmul(x, y), back_x, back_y


def tensordot(xp: Namespace, x: Array, y: Array, axes: Setting = 2) -> tuple[Array, Back, Back]:
    if isinstance(axes, int):
        axes = (range(x.ndim - axes, x.ndim), range(axes))
    over_x, over_y = (
        tuple(a % v.ndim for a in ((pair,) if isinstance(pair, int) else pair))
        for pair, v in zip(axes, (x, y), strict=True)
    )
    free_x = tuple(k for k in range(x.ndim) if k not in over_x)
    free_y = tuple(k for k in range(y.ndim) if k not in over_y)
    ndim_x, ndim_y = x.ndim, y.ndim

    def back_x(g: Array) -> Array:
        tail = tuple(range(len(free_x), len(free_x) + len(free_y)))
        c = xp.tensordot(g, y, axes=(tail, free_y))
        # c has x's free axes, then the contracted ones in the order in which y has them.
        order = free_x + tuple(over_x[over_y.index(k)] for k in sorted(over_y))
        return xp.permute_dims(c, tuple(order.index(k) for k in range(ndim_x)))

    def back_y(g: Array) -> Array:
        head = tuple(range(len(free_x)))
        c = xp.tensordot(x, g, axes=(free_x, head))
        order = tuple(over_y[over_x.index(k)] for k in sorted(over_x)) + free_y
        return xp.permute_dims(c, tuple(order.index(k) for k in range(ndim_y)))

    return xp.tensordot(x, y, axes=(over_x, over_y)), back_x, back_y


def solve(xp: Namespace, a: Array, b: Array) -> tuple[Array, Back, Back]:
    out = xp.linalg.solve(a, b)
    vector, a_shape, b_shape = b.ndim == 1, a.shape, b.shape
    if vector and a.ndim > 2:
        raise InputError(
            f"`solve` got matrices of shape {tuple(a.shape)} and one vector; give every matrix "
            "its right-hand side, of shape (..., n, 1)."
        )

    def back_b(g: Array) -> Array:
        c = xp.linalg.solve(xp.matrix_transpose(a), g)
        return c if vector else unbroadcast(xp, c, b_shape)

    def back_a(g: Array) -> Array:
        c = xp.linalg.solve(xp.matrix_transpose(a), g)
        c, x = (c[..., None], out[..., None]) if vector else (c, out)
        return unbroadcast(xp, -xp.matmul(c, xp.matrix_transpose(x)), a_shape)

    return out, back_a, back_b


def inv(xp: Namespace, x: Array) -> tuple[Array, Back]:
    out = xp.linalg.inv(x)

    def back(g: Array) -> Array:
        transpose = xp.matrix_transpose(out)
        return -xp.matmul(xp.matmul(transpose, g), transpose)

    return out, back


PRODUCTS = {"matmul": matmul, "tensordot": tensordot, "solve": solve}
