"""JAX: the traced clock: times, steps and errors as 0-d arrays.

JAX: x**p of a power known beforehand, in a third of the time of a logarithm and an exponential.

A controller raises the error of every try to such a power, and nothing of the next try can begin
before: in the solve of a small system the two functions were two fifths of all time (35 of 94 ns a
try; this takes 12, jax 0.10 on x86-64). With x = 2**k c (1 + r), c the middle of the 128th part of
[1, 2) that x / 2**k lies in, (2**k)**p and c**p are looked up, and (1 + r)**p is its binomial
series: at |r| <= 1/256 six terms are enough (the next is below p/6 256**-6, 6e-16 p). It is
summed pair by pair (Estrin 1960), three multiply-adds deep.

It takes few operations, for XLA's CPU client runs a program of less than 1,000, counted with every
loop taken once, in the thread of its caller; to hand it to another costs 5 us and more. The solve
of Lotka-Volterra and its gradient have 990.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .primitives import read_row, write_row

__all__ = [
    "TracedClock",
    "fixed_power",
    "precision",
]


LOWEST = -64
"""Exponent of two of the smallest x."""

_FORMATS: dict[str, tuple[Any, int, int, int]] = {
    "float64": (np.int64, 52, 1024, 6),
    "float32": (np.int32, 23, 128, 3),
}
"""An integer as wide, bits of the mantissa, the exponent of inf, and terms of the series."""

_PARTS = 7
"""Bits of the mantissa that are looked up."""


def fixed_power(x: Any, p: float) -> Any:
    """x**p for x >= 2**-64; nan where x is nan or infinite.

    Its relative error is that of rounding, some units in the last place, for |p| <= 1/2.

    Parameters
    ----------
    x : jax.Array, shape ()
    p : float
    """
    integer, digits, highest, count = _FORMATS[str(x.dtype)]

    def table_get(values: Any, i: Any) -> Any:
        # as NumPy's: where JAX before 0.8 makes an array of them, it puts it on a device
        return read_row(np.asarray(values, x.dtype), i)

    # what is not finite has an exponent of its own, the table's last; a negative nan, its first
    whole = [np.nan, *np.exp2(np.arange(LOWEST, highest, dtype=float)) ** p, np.nan]
    middles = 1 + (np.arange(2**_PARTS) + 0.5) / 2**_PARTS
    bits = lax.bitcast_convert_type(x, integer)
    k = (bits >> digits) - (highest - 2 + LOWEST)
    j = (bits >> (digits - _PARTS)) & (2**_PARTS - 1)
    one = (highest - 1) << digits
    m = lax.bitcast_convert_type((bits & (2**digits - 1)) | one, x.dtype)
    r = m * table_get(1 / middles, j) - 1
    start = table_get(whole, k)
    start = start * table_get(middles**p, j)
    return start * _sum(_binomials(p, count), r)


def _binomials(p: float, count: int) -> list[float]:
    terms = [1.0]
    for i in range(1, count):
        terms.append(terms[-1] * (p - i + 1) / i)
    return terms


def _sum(terms: Sequence[Any], r: Any) -> Any:
    while len(terms) > 1:
        pairs = itertools.zip_longest(terms[::2], terms[1::2])
        terms, r = [a if b is None else a + b * r for a, b in pairs], r * r
    return terms[0]


def precision(dtype: Any) -> Any:
    """``finfo`` of a dtype, ml_dtypes' included."""
    finfo: Any = jnp.finfo
    return finfo(dtype)


class TracedClock:
    """Times, steps and errors as 0-d arrays of the state's real dtype; counts as int32."""

    traced = True
    yes = True

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.eps = float(precision(dtype).eps)
        self.holds_squares = self.eps < 1e-10  # of ordinary ones, in float64

    def real(self, x: Any) -> Any:
        return jnp.asarray(x, self.dtype)

    def constant(self, x: Any) -> Any:
        return lax.stop_gradient(x)

    def count(self, n: int) -> Any:
        return jnp.asarray(n, jnp.int32)

    def steps(self, t0: Any, t1: Any, dt: Any) -> Any:
        part = (t1 - t0) / dt
        return jnp.maximum(0, jnp.ceil(part * (1 - 4 * self.eps) - 1e-9)).astype(jnp.int32)

    def land(self, t: Any, h: Any, t1: Any) -> tuple[Any, Any]:
        rest = t1 - t
        t_new = jnp.where(jnp.abs(h) >= jnp.abs(rest) * (1 - 4 * self.eps), t1, t + h)
        return t_new, t_new - t

    def reached(self, at: Any, t: Any, h: Any) -> Any:
        return jnp.where(h > 0, at <= t, at >= t)

    def beyond(self, at: Any, t: Any, h: Any) -> Any:
        return jnp.where(h > 0, at > t, at < t)

    def running(self, t: Any, t1: Any, h: Any, floor: float, left: Any) -> Any:
        going = (t != t1) & (jnp.abs(h) > floor + 4 * self.eps * jnp.abs(t))
        return going if isinstance(left, int) else going & (left > 0)

    def select(self, ok: Any, new: Any, old: Any) -> Any:
        if ok is True:
            return new
        return jax.tree_util.tree_map(lambda a, b: jnp.where(ok, a, b), new, old)

    def where(self, ok: Any, a: Any, b: Any) -> Any:
        return (a if ok else b) if isinstance(ok, bool) else jnp.where(ok, a, b)

    def both(self, a: Any, b: Any) -> Any:
        return b if a is True else jnp.logical_and(a, b)

    def either(self, a: Any, b: Any) -> Any:
        return jnp.logical_or(a, b)

    def is_finite(self, x: Any) -> Any:
        return jnp.isfinite(x)

    def near(self, t: Any, other: Any) -> Any:
        """Whether two times are the same but for rounding."""
        return jnp.abs(t - other) <= 8 * self.eps * jnp.maximum(jnp.abs(t), jnp.abs(other))

    def in_order(self, t0: Any, ts: Any, t1: Any) -> Any:
        """Whether finite times run from t0 to t1, but for rounding."""
        times = jnp.concatenate([t0[None], *([ts] if len(ts) else []), t1[None]])
        steps = jnp.diff(times) * jnp.where(t1 < t0, -1.0, 1.0)
        least = -8 * self.eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
        return jnp.all(steps >= least) & jnp.isfinite(t1 - t0)

    def power(self, x: Any, p: float) -> Any:
        return jnp.exp(p * jnp.log(x))  # cheaper than pow, and 0**p = exp(-inf) = 0

    def powers(self, x: Any, exponents: Sequence[float]) -> tuple[Any, ...]:
        # a step waits for the first; for the others there is time until its end
        logarithm = jnp.log(x)
        return fixed_power(x, exponents[0]), *(jnp.exp(p * logarithm) for p in exponents[1:])

    def root(self, a: Any, b: Any) -> Any:
        return jnp.sqrt(a / b)

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        return jnp.where(x > low, jnp.minimum(x, high), low)

    def maximum(self, a: Any, b: Any) -> Any:
        return jnp.where(b > a, b, a)

    def minimum(self, a: Any, b: Any) -> Any:
        return jnp.where(b < a, b, a)

    def record_new(self, t0: Any, rows: int | None) -> Any:
        assert rows is not None
        return jnp.full(rows + 1, jnp.inf, self.dtype).at[0].set(t0)

    def record(self, times: Any, n: Any, t_new: Any, ok: Any) -> Any:
        # written whether accepted or not: the next try writes the same place again
        return write_row(times, n + 1, t_new)
