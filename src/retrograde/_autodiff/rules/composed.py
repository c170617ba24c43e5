"""Functions composed of others that have rules: they need no derivative of their own.

Each takes the recording namespace first. ``zeros_like`` and its like make variables that
depend on nothing yet and may be written into.
"""

from __future__ import annotations

import math

from ..._base.types import Array, Device, DType, Function, Leaves, Namespace
from ..tape import Recorded, leaf, record, refuse
from . import elementwise, shaping
from .unbroadcast import Axis, Setting, device_of, is_complex


def clip(ns: Namespace, x: Array, /, min: Array = None, max: Array = None) -> Array:
    return record(elementwise.clip, (x, min, max), broadcast=True)


def where(ns: Namespace, condition: Array, x: Array, y: Array, /) -> Array:
    if isinstance(condition, Recorded):
        condition = condition.value
    return record(elementwise.where, (x, y), (condition,), broadcast=True)


def astype(
    ns: Namespace, x: Array, dtype: DType, /, *, copy: bool = True, device: Device = None
) -> Array:
    xp = x.tape.xp
    dtype = xp.zeros((), dtype=dtype).dtype
    if not xp.isdtype(dtype, ("real floating", "complex floating")):
        return xp.asarray(x.value, dtype=dtype)  # piecewise constant, as floor is
    return record(shaping.astype, (x,), (dtype,), {"device": device})


def asarray(
    ns: Namespace,
    x: Array,
    /,
    *,
    dtype: DType = None,
    device: Device = None,
    copy: bool | None = None,
) -> Array:
    if isinstance(x, (list, tuple)):
        x = ns.stack([asarray(ns, v) if isinstance(v, (list, tuple)) else v for v in x])
    same = dtype is None or dtype == x.dtype
    if same and not copy and (device is None or device == device_of(x.value)):
        return x
    return astype(ns, x, x.dtype if dtype is None else dtype, device=device)


def unstack(ns: Namespace, x: Array, /, axis: int = 0) -> Leaves:
    lead = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*lead, k, ...)] for k in range(x.shape[axis]))


def broadcast_arrays(ns: Namespace, *arrays: Array) -> Leaves:
    values = [x.value if isinstance(x, Recorded) else x for x in arrays]
    tape = next(x.tape for x in arrays if isinstance(x, Recorded))
    shape = tape.xp.broadcast_arrays(*values)[0].shape
    return tuple(ns.broadcast_to(x, shape) for x in arrays)


def var(
    ns: Namespace,
    x: Array,
    /,
    axis: Axis = None,
    correction: float = 0.0,
    keepdims: bool = False,
    ddof: float = 0.0,
) -> Array:
    """The variance; ``ddof`` is NumPy's name for ``correction``."""
    off = x - ns.mean(x, axis=axis, keepdims=True)
    squares = ns.square(ns.abs(off) if is_complex(x.tape.xp, x.dtype) else off)
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    count = math.prod(x.shape[a] for a in axes)
    return ns.sum(squares, axis=axis, keepdims=keepdims) / (count - correction - ddof)


def std(ns: Namespace, x: Array, /, *settings: Setting, **named: Setting) -> Array:
    return ns.sqrt(var(ns, x, *settings, **named))


def sort(
    ns: Namespace, x: Array, /, axis: int = -1, descending: bool = False, stable: bool = True
) -> Array:
    down = {"descending": True} if descending else {}  # NumPy lacks the argument
    order = x.tape.xp.argsort(x.value, axis=axis, stable=stable, **down)
    return ns.take_along_axis(x, order, axis=axis)


def diff(
    ns: Namespace,
    x: Array,
    /,
    n: int = 1,
    axis: int = -1,
    prepend: Array = None,
    append: Array = None,
) -> Array:
    ends = [v for v in (prepend, x, append) if v is not None]
    x = ns.concat(ends, axis=axis) if len(ends) > 1 else x
    lead = (slice(None),) * (axis % x.ndim)
    for _ in range(n):
        x = x[(*lead, slice(1, None), ...)] - x[(*lead, slice(None, -1), ...)]
    return x


def vecdot(ns: Namespace, x: Array, y: Array, /, axis: int = -1) -> Array:
    return ns.sum(ns.conj(x) * y, axis=axis)


def outer(ns: Namespace, x: Array, y: Array, /) -> Array:
    return ns.reshape(x, (-1, 1)) * ns.reshape(y, (1, -1))


def trace(ns: Namespace, x: Array, /, offset: int = 0) -> Array:
    return ns.sum(ns.linalg.diagonal(x, offset=offset), axis=-1)


def vector_norm(
    ns: Namespace, x: Array, /, axis: Axis = None, keepdims: bool = False, ord: float = 2
) -> Array:
    if ord == 2:
        return record(shaping.vector_norm, (x,), (axis, keepdims))
    size = ns.abs(x)
    if ord == math.inf or ord == -math.inf:
        return (ns.max if ord > 0 else ns.min)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        raise refuse("`vector_norm` of order 0", "use another order")
    total = ns.sum(size if ord == 1 else size**ord, axis=axis, keepdims=keepdims)
    return total if ord == 1 else total ** (1 / ord)


COMPOSED: dict[str, Function] = {
    "clip": clip,
    "where": where,
    "astype": astype,
    "asarray": asarray,
    "unstack": unstack,
    "broadcast_arrays": broadcast_arrays,
    "var": var,
    "std": std,
    "sort": sort,
    "diff": diff,
    "vecdot": vecdot,
    "outer": outer,
    "trace": trace,
    "vector_norm": vector_norm,
}


def _like(name: str) -> Function:
    def make(ns: Namespace, x: Array, /, *settings: Setting, **named: Setting) -> Array:
        value: Array = getattr(x.tape.xp, name)(x.value, *settings, **named)
        return leaf(x, value)

    return make


LIKE = {name: _like(name) for name in ("zeros_like", "ones_like", "empty_like", "full_like")}
