"""JAX: the traced clock: times, steps and errors as 0-d arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from retrograde._base.types import Bool, DType, Index, Scalar, State, Table

from .primitives import write_row
from .types import Ref
from .xla_cpu.eligible import allowed
from .xla_cpu.power import fixed_power

__all__ = [
    "TracedClock",
    "precision",
]


def precision(dtype: DType) -> Ref:
    """``finfo`` of a dtype, ml_dtypes' included."""
    finfo: Any = jnp.finfo
    return finfo(dtype)


class TracedClock:
    """Times, steps and errors as 0-d arrays of the state's real dtype; counts as int32."""

    traced = True
    yes = True

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.eps = float(precision(dtype).eps)
        self.holds_squares = self.eps < 1e-10  # of ordinary ones, in float64

    def real(self, x: Scalar) -> Scalar:
        return jnp.asarray(x, self.dtype)

    def constant(self, x: Scalar) -> Scalar:
        return lax.stop_gradient(x)

    def count(self, n: int) -> Index:
        return jnp.asarray(n, jnp.int32)

    def steps(self, t0: Scalar, t1: Scalar, dt: Scalar) -> Index:
        part = (t1 - t0) / dt
        return jnp.maximum(0, jnp.ceil(part * (1 - 4 * self.eps) - 1e-9)).astype(jnp.int32)

    def land(self, t: Scalar, h: Scalar, t1: Scalar) -> tuple[Scalar, Scalar]:
        rest = t1 - t
        t_new = jnp.where(jnp.abs(h) >= jnp.abs(rest) * (1 - 4 * self.eps), t1, t + h)
        return t_new, t_new - t

    def reached(self, at: Scalar, t: Scalar, h: Scalar) -> Bool:
        return jnp.where(h > 0, at <= t, at >= t)

    def beyond(self, at: Scalar, t: Scalar, h: Scalar) -> Bool:
        return jnp.where(h > 0, at > t, at < t)

    def running(self, t: Scalar, t1: Scalar, h: Scalar, floor: float, left: Index) -> Bool:
        going = (t != t1) & (jnp.abs(h) > floor + 4 * self.eps * jnp.abs(t))
        return going if isinstance(left, int) else going & (left > 0)

    def select(self, ok: Bool, new: State, old: State) -> State:
        if ok is True:
            return new
        return jax.tree_util.tree_map(lambda a, b: jnp.where(ok, a, b), new, old)

    def where(self, ok: Bool, a: Scalar, b: Scalar) -> Scalar:
        return (a if ok else b) if isinstance(ok, bool) else jnp.where(ok, a, b)

    def both(self, a: Bool, b: Bool) -> Bool:
        return b if a is True else jnp.logical_and(a, b)

    def either(self, a: Bool, b: Bool) -> Bool:
        return jnp.logical_or(a, b)

    def is_finite(self, x: Scalar) -> Bool:
        return jnp.isfinite(x)

    def near(self, t: Scalar, other: Scalar) -> Bool:
        """Whether two times are the same but for rounding."""
        return jnp.abs(t - other) <= 8 * self.eps * jnp.maximum(jnp.abs(t), jnp.abs(other))

    def in_order(self, t0: Scalar, ts: Table, t1: Scalar) -> Bool:
        """Whether finite times run from t0 to t1, but for rounding."""
        times = jnp.concatenate([t0[None], *([ts] if len(ts) else []), t1[None]])
        steps = jnp.diff(times) * jnp.where(t1 < t0, -1.0, 1.0)
        least = -8 * self.eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
        return jnp.all(steps >= least) & jnp.isfinite(t1 - t0)

    def power(self, x: Scalar, p: float) -> Scalar:
        return jnp.exp(p * jnp.log(x))  # cheaper than pow, and 0**p = exp(-inf) = 0

    def powers(self, x: Scalar, exponents: Sequence[float]) -> tuple[Scalar, ...]:
        # a step waits for the first; for the others there is time until its end
        logarithm = jnp.log(x)
        first = fixed_power(x, exponents[0]) if allowed() else jnp.exp(exponents[0] * logarithm)
        return first, *(jnp.exp(p * logarithm) for p in exponents[1:])

    def root(self, a: Scalar, b: Scalar) -> Scalar:
        return jnp.sqrt(a / b)

    def clip(self, x: Scalar, low: Scalar, high: Scalar) -> Scalar:
        return jnp.where(x > low, jnp.minimum(x, high), low)

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        return jnp.where(b > a, b, a)

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        return jnp.where(b < a, b, a)

    def record_new(self, t0: Scalar, rows: int | None) -> Table:
        assert rows is not None
        return jnp.full(rows + 1, jnp.inf, self.dtype).at[0].set(t0)

    def record(self, times: Table, n: Index, t_new: Scalar, ok: Bool) -> Table:
        # written whether accepted or not: the next try writes the same place again
        return write_row(times, n + 1, t_new)
