"""Rules of reductions, rearrangements and selections, in array API.

A rule is ``rule(xp, x, *settings) -> (out, back)``; settings are no arrays (save indices).
:func:`selection` serves every operation that only picks elements: the positions it picks are
found by applying it to ``arange(x.size)`` in x's shape, and the cotangent is added there by
:func:`scatter`. Choices where the derivative is not unique: equal extrema share the cotangent
in equal parts; ``vector_norm`` has derivative zero at zero. ``prod`` is exact with zeros.

Known limit: the standard has no scatter-add, so :func:`scatter` sorts the positions
(O(n log n)) and goes once over x for every time that the most often picked element is picked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..._base.types import Array, Device, DType, Leaves, Namespace
from .unbroadcast import Axis, Back, Setting, conjugates_itself, device_of, unbroadcast


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in ((axis,) if isinstance(axis, int) else axis))


def _kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape after a reduction with ``keepdims``."""
    axes = _axes(axis, len(shape))
    return tuple(1 if k in axes else n for k, n in enumerate(shape))


def _spread(xp: Namespace, g: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """g of a reduction, repeated along the axes it ran over (an array that owns its data)."""
    zeros = xp.zeros(shape, dtype=g.dtype, device=device_of(g))
    return zeros + xp.reshape(g, _kept(shape, axis))


def sum(
    xp: Namespace, x: Array, axis: Axis = None, dtype: DType = None, keepdims: bool = False
) -> tuple[Array, Back]:
    shape = x.shape
    out = xp.sum(x, axis=axis, dtype=dtype, keepdims=keepdims)
    return out, lambda g: _spread(xp, g, shape, axis)


def mean(
    xp: Namespace, x: Array, axis: Axis = None, dtype: DType = None, keepdims: bool = False
) -> tuple[Array, Back]:
    shape = x.shape
    count = math.prod(shape[a] for a in _axes(axis, x.ndim))
    x = x if dtype is None else xp.asarray(x, dtype=dtype)
    return xp.mean(x, axis=axis, keepdims=keepdims), lambda g: _spread(xp, g / count, shape, axis)


def prod(
    xp: Namespace, x: Array, axis: Axis = None, dtype: DType = None, keepdims: bool = False
) -> tuple[Array, Back]:
    def back(g: Array) -> Array:
        zero = x == 0
        safe = xp.where(zero, xp.ones_like(x), x)
        others = xp.prod(safe, axis=axis, keepdims=True) / safe
        zeros = xp.sum(xp.asarray(zero, dtype=xp.int64), axis=axis, keepdims=True)
        elsewhere = zeros - xp.asarray(zero, dtype=xp.int64)
        partial = xp.where(elsewhere == 0, others, xp.zeros_like(others))
        return xp.reshape(g, _kept(x.shape, axis)) * partial

    return xp.prod(x, axis=axis, dtype=dtype, keepdims=keepdims), back


def _extremum(name: str) -> Callable[..., tuple[Array, Back]]:
    def rule(
        xp: Namespace, x: Array, axis: Axis = None, keepdims: bool = False
    ) -> tuple[Array, Back]:
        out = getattr(xp, name)(x, axis=axis, keepdims=keepdims)

        def back(g: Array) -> Array:
            kept = _kept(x.shape, axis)
            hit = xp.asarray(x == xp.reshape(out, kept), dtype=g.dtype)
            return hit * (xp.reshape(g, kept) / xp.sum(hit, axis=axis, keepdims=True))

        return out, back

    return rule


def cumulative_sum(
    xp: Namespace,
    x: Array,
    axis: int | None = None,
    dtype: DType = None,
    include_initial: bool = False,
) -> tuple[Array, Back]:
    along = 0 if axis is None else axis % x.ndim
    first = (slice(None),) * along + (slice(1, None), ...)
    out = xp.cumulative_sum(x, axis=along, dtype=dtype, include_initial=include_initial)

    def back(g: Array) -> Array:
        g = g[first] if include_initial else g
        return xp.flip(xp.cumulative_sum(xp.flip(g, axis=along), axis=along), axis=along)

    return out, back


@conjugates_itself
def vector_norm(
    xp: Namespace, x: Array, axis: Axis = None, keepdims: bool = False
) -> tuple[Array, Back]:
    """The 2-norm; the other orders are composed (composed.vector_norm)."""
    out = xp.linalg.vector_norm(x, axis=axis, keepdims=keepdims)

    def back(g: Array) -> Array:
        kept = _kept(x.shape, axis)
        size = xp.reshape(out, kept)
        return x * (xp.reshape(g, kept) / xp.where(size == 0, xp.ones_like(size), size))

    return out, back


def reshape(
    xp: Namespace, x: Array, shape: int | tuple[int, ...], *, copy: bool | None = None
) -> tuple[Array, Back]:
    old = x.shape
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return xp.reshape(x, shape), lambda g: xp.reshape(g, old)


def expand_dims(xp: Namespace, x: Array, axis: Axis = 0) -> tuple[Array, Back]:
    old = x.shape
    return xp.expand_dims(x, axis=axis), lambda g: xp.reshape(g, old)


def squeeze(xp: Namespace, x: Array, axis: Axis = None) -> tuple[Array, Back]:
    old = x.shape
    axis = tuple(k for k, n in enumerate(old) if n == 1) if axis is None else axis
    return xp.squeeze(x, axis=axis), lambda g: xp.reshape(g, old)


def permute_dims(xp: Namespace, x: Array, axes: Sequence[int] | None = None) -> tuple[Array, Back]:
    ndim = x.ndim
    there = tuple(reversed(range(ndim))) if axes is None else tuple(a % ndim for a in axes)
    home = tuple(there.index(k) for k in range(ndim))
    return xp.permute_dims(x, there), lambda g: xp.permute_dims(g, home)


def moveaxis(xp: Namespace, x: Array, source: Setting, destination: Setting) -> tuple[Array, Back]:
    return xp.moveaxis(x, source, destination), lambda g: xp.moveaxis(g, destination, source)


def matrix_transpose(xp: Namespace, x: Array) -> tuple[Array, Back]:
    return xp.matrix_transpose(x), lambda g: xp.matrix_transpose(g)


def flip(xp: Namespace, x: Array, axis: Axis = None) -> tuple[Array, Back]:
    return xp.flip(x, axis=axis), lambda g: xp.flip(g, axis=axis)


def roll(xp: Namespace, x: Array, shift: Setting, axis: Axis = None) -> tuple[Array, Back]:
    back_shift = tuple(-s for s in shift) if isinstance(shift, tuple) else -shift
    return xp.roll(x, shift, axis=axis), lambda g: xp.roll(g, back_shift, axis=axis)


def broadcast_to(xp: Namespace, x: Array, shape: int | tuple[int, ...]) -> tuple[Array, Back]:
    old = x.shape
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return xp.broadcast_to(x, shape), lambda g: unbroadcast(xp, g, old)


def tril(xp: Namespace, x: Array, k: int = 0) -> tuple[Array, Back]:
    return xp.tril(x, k=k), lambda g: xp.tril(g, k=k)


def triu(xp: Namespace, x: Array, k: int = 0) -> tuple[Array, Back]:
    return xp.triu(x, k=k), lambda g: xp.triu(g, k=k)


def astype(
    xp: Namespace, x: Array, dtype: DType, *, copy: bool = True, device: Device = None
) -> tuple[Array, Back]:
    return xp.asarray(x, dtype=dtype, copy=True, device=device), lambda g: g


def scatter(xp: Namespace, g: Array, positions: Array, size: int) -> Array:
    """Zeros of shape (size,) with every element of g added at its position.

    Parameters
    ----------
    g, positions : arrays of one shape
    size : int
    """
    g, at = xp.reshape(g, (-1,)), xp.reshape(positions, (-1,))
    total = xp.zeros((size,), dtype=g.dtype, device=device_of(g))
    n = at.shape[0]
    if n == 0:
        return total
    order = xp.argsort(at, stable=True)
    at = xp.take(at, order, axis=0)
    spare = xp.zeros((1,), dtype=g.dtype, device=device_of(g))
    g = xp.concat([xp.take(g, order, axis=0), spare], axis=0)
    cells = xp.arange(size, dtype=at.dtype, device=device_of(at))
    first = xp.searchsorted(at, cells, side="left")
    count = xp.searchsorted(at, cells, side="right") - first
    for k in range(int(xp.max(count))):
        total = total + xp.take(g, xp.where(count > k, first + k, n), axis=0)
    return total


def selection(xp: Namespace, x: Array, pick: Callable[[Array], Array]) -> tuple[Array, Back]:
    """The rule of ``pick(x)`` for a function that only picks elements of x."""
    shape, device = x.shape, device_of(x)
    size = math.prod(shape)

    def back(g: Array) -> Array:
        positions = pick(xp.reshape(xp.arange(size, device=device), shape))
        return xp.reshape(scatter(xp, g, positions, size), shape)

    return pick(x), back


def _selecting(
    find: Callable[[Namespace], Callable[..., Array]],
) -> Callable[..., tuple[Array, Back]]:
    def rule(xp: Namespace, x: Array, *settings: Setting, **named: Setting) -> tuple[Array, Back]:
        return selection(xp, x, lambda v: find(xp)(v, *settings, **named))

    return rule


def concat(xp: Namespace, *arrays: Array, axis: int | None = 0) -> Leaves:
    if axis is None:
        flat, *backs = concat(xp, *(xp.reshape(x, (-1,)) for x in arrays))
        shapes = [x.shape for x in arrays]
        return (
            flat,
            *(lambda g, b=b, n=n: xp.reshape(b(g), n) for b, n in zip(backs, shapes, strict=True)),
        )
    along, backs, start = axis % arrays[0].ndim, [], 0
    for x in arrays:
        block = ((slice(None),) * along) + (slice(start, start + x.shape[along]), ...)
        backs.append(lambda g, block=block: g[block])
        start += x.shape[along]
    return (xp.concat(arrays, axis=along), *backs)


def stack(xp: Namespace, *arrays: Array, axis: int = 0) -> Leaves:
    out = xp.stack(arrays, axis=axis)
    lead = (slice(None),) * (axis % out.ndim)
    return (out, *(lambda g, key=(*lead, k, ...): g[key] for k in range(len(arrays))))


SHAPING: dict[str, Callable[..., tuple[Array, Back]]] = {
    "sum": sum,
    "mean": mean,
    "prod": prod,
    "max": _extremum("max"),
    "min": _extremum("min"),
    "cumulative_sum": cumulative_sum,
    "reshape": reshape,
    "expand_dims": expand_dims,
    "squeeze": squeeze,
    "permute_dims": permute_dims,
    "moveaxis": moveaxis,
    "matrix_transpose": matrix_transpose,
    "flip": flip,
    "roll": roll,
    "broadcast_to": broadcast_to,
    "tril": tril,
    "triu": triu,
    "astype": astype,
}
SELECTIONS = {
    "take": _selecting(lambda xp: xp.take),
    "take_along_axis": _selecting(lambda xp: xp.take_along_axis),
    "repeat": _selecting(lambda xp: xp.repeat),
    "tile": _selecting(lambda xp: xp.tile),
    "diagonal": _selecting(lambda xp: xp.linalg.diagonal),
}
JOINING = {"concat": concat, "stack": stack}
