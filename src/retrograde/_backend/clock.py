"""Clocks: the only place that knows what times, step sizes and counts are.

A host clock computes with Python floats (eager libraries), a traced clock with 0-d arrays. A
clock of rows, one time for each sample of a batch, fits the same methods; the loops never
look inside. Controllers are written in a clock's arithmetic, so each is written once.

A clock counts from t0 (``_integrate.relative_time``). Times only ever move by ``land``: a step's
size is always ``t_new - t``, so that a pass that knows the recorded times alone takes bitwise the
same steps (T16: (t + h) - t is not h).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from .._base.types import TINY, Array, Index, Scalar, State

NEARLY = 1.0 - TINY
"""A step of so much of what is left goes all the way."""

SLACK = 1e-9
"""A remainder of less than this part of a constant step is rounding, not a step."""

ROUNDED = 0.01
"""The same where t0 is so large that its rounding tells in a step."""


def step_count(t0: float, t1: float, dt: float, eps: float = 2.0**-52) -> int:
    """Number of steps of size dt from t0 to t1, the last one shortened.

    What is left of the span by the rounding of t0 and t1 (relative: eps) is no step either: the
    last one is then longer by as much.

    Examples
    --------
    >>> step_count(0.0, 1.0, 0.1), step_count(0.0, 1.0, 0.3), step_count(1.0, 1.0, 0.1)
    (10, 4, 0)
    >>> step_count(2.46e6, 2.46e6 + 1e-4, 1e-6)
    100
    """
    rounded = min(eps * max(abs(t0), abs(t1)) / abs(dt), ROUNDED)
    return max(0, math.ceil((t1 - t0) / dt * (1 - 4e-16) - SLACK - rounded))


class HostClock:
    """Python floats and ints; comparisons are bools; branches are ``if``."""

    traced = False
    yes = True
    holds_squares = True
    """Whether squares of y's numbers neither overflow nor vanish in this clock's scalars."""
    steps = staticmethod(step_count)

    def __init__(self, eps: float = 2.0**-52) -> None:
        self.eps = eps

    def real(self, x: Array) -> float:
        """A time, step or error as this clock keeps it."""
        return float(x)

    def constant(self, x: float) -> float:
        """A step size or error that derivatives see as a constant."""
        return x

    def count(self, n: int) -> int:
        """A counter as this clock keeps it."""
        return n

    def land(self, t: float, h: float, t1: float) -> tuple[float, float]:
        """One step of h, or onto t1 if that is nearer: (t_new, t_new - t)."""
        rest = t1 - t
        if abs(h) >= abs(rest) * NEARLY:
            return t1, rest
        t_new = t + h
        return t_new, t_new - t

    def reached(self, at: float, t: float, h: float) -> bool:
        """Whether a step of the sign of h that ends at t has reached a time: no product of two
        differences, which vanishes in float32."""
        return at <= t if h > 0 else at >= t

    def beyond(self, at: float, t: float, h: float) -> bool:
        """Whether a time lies behind t in the direction of h."""
        return at > t if h > 0 else at < t

    def running(self, t: float, t1: float, h: float, floor: float, left: Index) -> bool:
        """Whether to try another step: not at t1, tries left, and h above its floor."""
        return t != t1 and left > 0 and abs(h) > floor + 4 * self.eps * abs(t)

    def select(self, ok: bool, new: State, old: State) -> State:
        """``new`` where ok, else ``old``."""
        return new if ok else old

    def where(self, ok: bool, a: Array, b: Array) -> Scalar:
        """Scalar choice."""
        return a if ok else b

    def both(self, a: bool, b: bool) -> bool:
        """Logical and."""
        return a and b

    def either(self, a: bool, b: bool) -> bool:
        """Logical or."""
        return a or b

    def is_finite(self, x: float) -> bool:
        """Whether a scalar is finite."""
        return math.isfinite(x)

    def power(self, x: float, p: float) -> float:
        """x**p for x > 0."""
        return x**p  # type: ignore[no-any-return]

    def powers(self, x: float, exponents: Sequence[float]) -> tuple[float, ...]:
        """x**p of x > 0 for each exponent; |p| is at most some 1/2."""
        return tuple(x**p for p in exponents)

    def root(self, a: float, b: float) -> float:
        """sqrt(a / b) for a, b >= 0; nan where b is 0."""
        return math.sqrt(a / b) if b > 0 and a >= 0 else math.nan

    def clip(self, x: float, low: float, high: float) -> float:
        """x between low and high; nan gives low."""
        return min(max(low, x), high)

    def maximum(self, a: Array, b: Array) -> Scalar:
        """The larger; a where b is nan."""
        return b if b > a else a

    def minimum(self, a: Array, b: Array) -> Scalar:
        """The smaller; a where b is nan."""
        return b if b < a else a

    def record_new(self, t0: float, rows: int | None) -> array[float]:
        """A record of accepted times that begins with t0."""
        return array("d", [t0])

    def record(self, times: array[float], n: int, t_new: float, ok: bool) -> array[float]:
        """Note t_new as time n + 1 if the step was accepted."""
        if ok:
            times.append(t_new)
        return times
