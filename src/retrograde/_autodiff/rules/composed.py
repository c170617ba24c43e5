"""Functions composed of others that have rules: they need no derivative of their own.

Each takes the recording namespace first. ``zeros_like`` and its like make variables that
depend on nothing yet and may be written into.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..._base.types import Array
from ..tape import Recorded, leaf, record, refuse
from . import elementwise, shaping
from .unbroadcast import device_of, is_complex

__all__ = ["COMPOSED", "LIKE"]


def clip(ns: Any, x: Any, /, min: Any = None, max: Any = None) -> Any:
    return record(elementwise.clip, (x, min, max), broadcast=True)


def where(ns: Any, condition: Any, x: Any, y: Any, /) -> Any:
    if isinstance(condition, Recorded):
        condition = condition.value
    return record(elementwise.where, (x, y), (condition,), broadcast=True)


def astype(ns: Any, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    xp = x.tape.xp
    dtype = xp.zeros((), dtype=dtype).dtype
    if not xp.isdtype(dtype, ("real floating", "complex floating")):
        return xp.asarray(x.value, dtype=dtype)  # piecewise constant, as floor is
    return record(shaping.astype, (x,), (dtype,), {"device": device})


def asarray(
    ns: Any, x: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
) -> Any:
    if isinstance(x, (list, tuple)):
        x = ns.stack([asarray(ns, v) if isinstance(v, (list, tuple)) else v for v in x])
    same = dtype is None or dtype == x.dtype
    if same and not copy and (device is None or device == device_of(x.value)):
        return x
    return astype(ns, x, x.dtype if dtype is None else dtype, device=device)


def unstack(ns: Any, x: Any, /, axis: int = 0) -> tuple[Any, ...]:
    lead = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*lead, k, ...)] for k in range(x.shape[axis]))


def broadcast_arrays(ns: Any, *arrays: Any) -> tuple[Any, ...]:
    values = [x.value if isinstance(x, Recorded) else x for x in arrays]
    tape = next(x.tape for x in arrays if isinstance(x, Recorded))
    shape = tape.xp.broadcast_arrays(*values)[0].shape
    return tuple(ns.broadcast_to(x, shape) for x in arrays)


def var(
    ns: Any,
    x: Any,
    /,
    axis: Any = None,
    correction: float = 0.0,
    keepdims: bool = False,
    ddof: float = 0.0,
) -> Any:
    """The variance; ``ddof`` is NumPy's name for ``correction``."""
    off = x - ns.mean(x, axis=axis, keepdims=True)
    squares = ns.square(ns.abs(off) if is_complex(x.tape.xp, x.dtype) else off)
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    count = math.prod(x.shape[a] for a in axes)
    return ns.sum(squares, axis=axis, keepdims=keepdims) / (count - correction - ddof)


def std(ns: Any, x: Any, /, *settings: Any, **named: Any) -> Any:
    return ns.sqrt(var(ns, x, *settings, **named))


def sort(ns: Any, x: Any, /, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    down = {"descending": True} if descending else {}  # NumPy lacks the argument
    order = x.tape.xp.argsort(x.value, axis=axis, stable=stable, **down)
    return ns.take_along_axis(x, order, axis=axis)


def diff(
    ns: Any, x: Any, /, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None
) -> Any:
    ends = [v for v in (prepend, x, append) if v is not None]
    x = ns.concat(ends, axis=axis) if len(ends) > 1 else x
    lead = (slice(None),) * (axis % x.ndim)
    for _ in range(n):
        x = x[(*lead, slice(1, None), ...)] - x[(*lead, slice(None, -1), ...)]
    return x


def vecdot(ns: Any, x: Any, y: Any, /, axis: int = -1) -> Any:
    return ns.sum(ns.conj(x) * y, axis=axis)


def outer(ns: Any, x: Any, y: Any, /) -> Any:
    return ns.reshape(x, (-1, 1)) * ns.reshape(y, (1, -1))


def trace(ns: Any, x: Any, /, offset: int = 0) -> Any:
    return ns.sum(ns.linalg.diagonal(x, offset=offset), axis=-1)


def vector_norm(
    ns: Any, x: Any, /, axis: Any = None, keepdims: bool = False, ord: float = 2
) -> Any:
    if ord == 2:
        return record(shaping.vector_norm, (x,), (axis, keepdims))
    size = ns.abs(x)
    if ord == math.inf or ord == -math.inf:
        return (ns.max if ord > 0 else ns.min)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        raise refuse("`vector_norm` of order 0", "use another order")
    total = ns.sum(size if ord == 1 else size**ord, axis=axis, keepdims=keepdims)
    return total if ord == 1 else total ** (1 / ord)


COMPOSED: dict[str, Callable[..., Any]] = {
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


def _like(name: str) -> Callable[..., Any]:
    def make(ns: Any, x: Any, /, *settings: Any, **named: Any) -> Any:
        value: Array = getattr(x.tape.xp, name)(x.value, *settings, **named)
        return leaf(x, value)

    return make


LIKE = {name: _like(name) for name in ("zeros_like", "ones_like", "empty_like", "full_like")}
