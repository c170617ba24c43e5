"""Rules of elementwise operations, in array API; zeros of a derivative are stated here.

A rule is ``rule(xp, *values) -> (out, back, ...)``. Closures keep only what the way back
needs: the input or the output, never both. Choices where the derivative is not unique:

- ``maximum``, ``minimum``: equal arguments share the cotangent, half each;
- ``clip``: on a bound the argument gets it all, the bound nothing;
- ``abs``: zero at zero; ``x ** p``: zero derivative with respect to p where x is 0;
- ``sign floor ceil round trunc floor_divide`` and comparisons have derivative zero wherever
  they have one: they return plain arrays (namespace.PLAIN);
- ``sqrt`` and its like have an infinite derivative at zero, and ``where`` does not hide it:
  ``where(y > c, sqrt(y - c), 0)`` has the gradient nan below c, since 0 * nan is nan. Write
  ``sqrt(where(y > c, y - c, 1))`` inside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..._base.types import Array, Namespace
from .unbroadcast import Back, conjugates_itself, device_of, is_complex

FROM_INPUT: dict[str, Callable[[Namespace, Array], Array]] = {
    "log": lambda xp, x: 1 / x,
    "log1p": lambda xp, x: 1 / (1 + x),
    "log2": lambda xp, x: 1 / (math.log(2) * x),
    "log10": lambda xp, x: 1 / (math.log(10) * x),
    "square": lambda xp, x: 2 * x,
    "sin": lambda xp, x: xp.cos(x),
    "cos": lambda xp, x: -xp.sin(x),
    "asin": lambda xp, x: 1 / xp.sqrt((1 - x) * (1 + x)),
    "acos": lambda xp, x: -1 / xp.sqrt((1 - x) * (1 + x)),
    "atan": lambda xp, x: 1 / (1 + x * x),
    "sinh": lambda xp, x: xp.cosh(x),
    "cosh": lambda xp, x: xp.sinh(x),
    "asinh": lambda xp, x: 1 / xp.sqrt(1 + x * x),
    "acosh": lambda xp, x: 1 / (xp.sqrt(x - 1) * xp.sqrt(x + 1)),
    "atanh": lambda xp, x: 1 / ((1 - x) * (1 + x)),
}
"""The derivative as a function of the input."""

FROM_OUTPUT: dict[str, Callable[[Namespace, Array], Array]] = {
    "exp": lambda xp, y: y,
    "expm1": lambda xp, y: y + 1,
    "sqrt": lambda xp, y: 0.5 / y,
    "reciprocal": lambda xp, y: -y * y,
    "tan": lambda xp, y: 1 + y * y,
    "tanh": lambda xp, y: (1 - y) * (1 + y),
}
"""The derivative as a function of the output."""


def negative(xp: Namespace, x: Array) -> tuple[Array, Back]:
    return -x, lambda g: -g


def positive(xp: Namespace, x: Array) -> tuple[Array, Back]:
    return +x, lambda g: g


@conjugates_itself
def abs(xp: Namespace, x: Array) -> tuple[Array, Back]:
    return xp.abs(x), lambda g: g * xp.sign(x)


@conjugates_itself
def conj(xp: Namespace, x: Array) -> tuple[Array, Back]:
    return xp.conj(x), lambda g: xp.conj(g)


@conjugates_itself
def real(xp: Namespace, x: Array) -> tuple[Array, Back]:
    return xp.real(x), lambda g: g


@conjugates_itself
def imag(xp: Namespace, x: Array) -> tuple[Array, Back]:
    dtype = x.dtype
    if not is_complex(xp, dtype):
        return xp.imag(x), lambda g: 0 * g
    return xp.imag(x), lambda g: xp.asarray(g, dtype=dtype) * 1j


def add(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    return x + y, lambda g: g, lambda g: g


def subtract(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    return x - y, lambda g: g, lambda g: -g


def multiply(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    return x * y, lambda g: g * y, lambda g: g * x


def divide(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    out = x / y
    return out, lambda g: g / y, lambda g: -g * out / y


def pow(xp: Namespace, x: Array, p: Array) -> tuple[Array, Back, Back]:
    out = x**p

    def back_x(g: Array) -> Array:
        if not hasattr(p, "dtype"):
            return g * (p * x ** (p - 1)) if p else xp.zeros_like(g)
        return g * (p * x ** xp.where(p == 0, xp.ones_like(p), p - 1))

    def back_p(g: Array) -> Array:
        base = xp.asarray(x, dtype=out.dtype, device=device_of(out))
        return g * out * xp.log(xp.where(base == 0, xp.ones_like(base), base))

    return out, back_x, back_p


def remainder(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    return x % y, lambda g: g, lambda g: -g * xp.floor(x / y)


def atan2(xp: Namespace, y: Array, x: Array) -> tuple[Array, Back, Back]:
    return (
        xp.atan2(y, x),
        lambda g: g * x / (x * x + y * y),
        lambda g: -g * y / (x * x + y * y),
    )


def hypot(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    out = xp.hypot(x, y)
    return out, lambda g: g * x / out, lambda g: g * y / out


def logaddexp(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    out = xp.logaddexp(x, y)
    return out, lambda g: g * xp.exp(x - out), lambda g: g * xp.exp(y - out)


def _won(xp: Namespace, g: Array, more: Array, less: Array) -> Array:
    """The cotangent of the greater of two arguments; half of it where they are equal."""
    return xp.where(more == less, g / 2, xp.where(more > less, g, xp.zeros_like(g)))


def maximum(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    return xp.maximum(x, y), lambda g: _won(xp, g, x, y), lambda g: _won(xp, g, y, x)


def minimum(xp: Namespace, x: Array, y: Array) -> tuple[Array, Back, Back]:
    return xp.minimum(x, y), lambda g: _won(xp, g, y, x), lambda g: _won(xp, g, x, y)


def clip(xp: Namespace, x: Array, low: Array, high: Array) -> tuple[Array, Back, Back, Back]:
    def where_clipped(g: Array, which: int) -> Array:
        # `x != x` stands for "nowhere": a nan is not kept within bounds that are not there.
        below = x < low if low is not None else x != x
        above = x > high if high is not None else x != x
        kept = ((~below) & (~above), below & (~above), above)[which]
        return xp.where(kept, g, xp.zeros_like(g))

    return (
        xp.clip(x, low, high),
        lambda g: where_clipped(g, 0),
        lambda g: where_clipped(g, 1),
        lambda g: where_clipped(g, 2),
    )


def where(xp: Namespace, x: Array, y: Array, condition: Array) -> tuple[Array, Back, Back]:
    return (
        xp.where(condition, x, y),
        lambda g: xp.where(condition, g, xp.zeros_like(g)),
        lambda g: xp.where(condition, xp.zeros_like(g), g),
    )


UNARY = {
    "negative": negative,
    "positive": positive,
    "abs": abs,
    "conj": conj,
    "real": real,
    "imag": imag,
}
BINARY = {
    "add": add,
    "subtract": subtract,
    "multiply": multiply,
    "divide": divide,
    "pow": pow,
    "remainder": remainder,
    "atan2": atan2,
    "hypot": hypot,
    "logaddexp": logaddexp,
    "maximum": maximum,
    "minimum": minimum,
}
