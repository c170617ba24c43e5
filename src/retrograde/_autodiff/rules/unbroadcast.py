"""Cotangents taken to the shape, dtype and convention of the operand they belong to.

Rules are written for real arrays of one dtype and, where they are elementwise, of one shape:
they compute J^T g. :func:`fit` makes of that what an operand needs otherwise: the sum over
broadcast axes, the cast back to its own dtype, and for complex arrays J^H g, which is
``conj(J^T conj(g))`` for a holomorphic operation (its real part where the operand is real).
That is the convention of PyTorch: the gradient of a real loss is dL/da + i dL/db. The rules
that are not holomorphic (``abs``, ``conj``, ``real``, ``imag``, ...) state J^H g themselves
and are marked by :func:`conjugates_itself`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from ..._base.types import Array, Device, DType, Function, Namespace

Back: TypeAlias = Callable[[Array], Array]
"""A cotangent of a result to one of an operand."""

Axis: TypeAlias = int | tuple[int, ...] | None

Setting: TypeAlias = Any
"""An axis, a shape, a dtype: what a function takes beside arrays."""

Key: TypeAlias = Any
"""What stands between the brackets of ``x[...]``."""

Rule = TypeVar("Rule", bound=Function)
_own: set[Function] = set()


@functools.lru_cache(maxsize=64)
def is_complex(xp: Namespace, dtype: DType) -> bool:
    """Whether a dtype is complex."""
    return bool(xp.isdtype(dtype, "complex floating"))


def device_of(x: Array) -> Device:
    """Where an array lives; None where its library has no such thing."""
    return getattr(x, "device", None)


def conjugates_itself(rule: Rule) -> Rule:
    """Mark a rule that follows the complex convention by itself."""
    _own.add(rule)
    return rule


def unbroadcast(xp: Namespace, g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g over the axes along which an array of this shape was broadcast."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + k for k, n in enumerate(shape) if n == 1 and g.shape[extra + k] != 1
    )
    return xp.reshape(xp.sum(g, axis=axes), shape)


def fit(
    xp: Namespace,
    rule: Function,
    back: Callable[[Array], Array],
    x: Array,
    out: Array,
    broadcast: bool,
) -> Callable[[Array], Array]:
    """``back`` with its result in the shape, dtype and convention of the operand x."""
    shape, dtype = x.shape, x.dtype
    complex_x = is_complex(xp, dtype)
    complex_out = is_complex(xp, out.dtype)
    conjugate = complex_out and rule not in _own

    def fitted(g: Array) -> Array:
        c = xp.conj(back(xp.conj(g))) if conjugate else back(g)
        if complex_out and not complex_x and is_complex(xp, c.dtype):
            c = xp.real(c)
        if c.dtype != dtype:
            c = xp.asarray(c, dtype=dtype)  # not astype: that refuses NumPy's scalars
        return unbroadcast(xp, c, shape) if broadcast else c

    return fitted
