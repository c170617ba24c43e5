"""Times as the clock counts them: from t0.

A time of 1e6 has a resolution of 0.06 in float32, one of 2.46e6 (a Julian date) of 5e-10 in
float64; what a solve needs are differences of times, which are small and exact. So they are taken
once, before a solve, from the numbers as they were given (on the host in float64, where they are
numbers), and the clock counts from 0. Only f, ``SaveAt.fn`` and the user see t0 + t. Where t0 is
known to be 0, clock and user count alike, and nothing is added.

Saved times that rounding has carried beyond an end of the solve are that end (:func:`clamped`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._base.types import Array, Scalar, Table
from .._controllers import StepTo

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._controllers.base import AbstractController
    from .problem import Problem

EPS = {8: 2.0**-52, 4: 2.0**-23}
"""Relative spacing of reals by their bytes."""

COARSEST = 2.0**-8

ENDLESS = 1e30
"""Where a solve to infinity ends that its event does not end: far behind its last step, and finite
in every dtype that times have."""


def unending(t1: float) -> bool:
    """Whether a solve goes on until an event ends it."""
    return abs(t1) >= ENDLESS / 2


def resolution(bk: AbstractBackend, times: Sequence[Table]) -> float:
    """Relative spacing of the coarsest of these times (numbers, arrays, lists); Python's at least.

    An array of integers is as good as reals of that size.
    """
    found = EPS[8]
    for x in times:
        if isinstance(x, (list, tuple)):
            found = max(found, resolution(bk, x))
        dtype = getattr(x, "dtype", None)
        if dtype is not None:
            size = getattr(dtype, "itemsize", None) or bk.itemsize(dtype)
            found = max(found, spacing(size))
    return found


def spacing(size: int) -> float:
    """Relative spacing of reals of so many bytes."""
    return EPS.get(min(size, 8), COARSEST)


def near(t: float | None, given: float, eps: float) -> float | None:
    """The time given where t is it but for rounding; t else."""
    if t is not None and abs(t - given) <= 2 * eps * max(abs(t), abs(given)):
        return given
    return t


def clamped(ts: Sequence[float], t0: float, t1: float, eps: float) -> list[float]:
    """Saved times, those beyond t0 or t1 by rounding alone set to it.

    Examples
    --------
    >>> clamped([0.0, 0.30000000000000004, 0.4], 0.0, 0.3, 2.0**-52)
    [0.0, 0.3, 0.4]
    """
    low, high = min(t0, t1), max(t0, t1)
    slack = 2 * eps * max(abs(t0), abs(t1))
    found = []
    for t in ts:
        if high < t <= high + slack:
            t = high
        elif low - slack <= t < low:
            t = low
        found.append(t)
    return found


def relative_times(
    problem: Problem,
    controller: AbstractController,
    given: tuple[Scalar, Scalar, Table],
    known: tuple[float | None, float | None, list[float] | None],
) -> tuple[tuple[Scalar, Scalar, Table] | tuple[()], bool]:
    """Start, end and saved times as the clock counts them, or () where that is as they were given.

    Parameters
    ----------
    given : tuple
        t0, t1 and the saved times (() for none).
    known : tuple
        The same as numbers, None where they are traced.

    Returns
    -------
    times : tuple
    shifted : bool
        Whether t0 has to be added to them.
    """
    (t0, t1, ts), (start, end, values) = given, known
    if isinstance(controller, StepTo):  # which knows where it begins and ends
        start, end = controller.times[0], controller.times[-1]
    bk, layout = problem.bk, problem.layout
    # differences of given times are as exact as they can be where the clock has their precision
    exact = isinstance(controller, StepTo) and bk.clock(layout).eps <= EPS[8]
    shifted = start != 0 and not exact
    constant = bk.stop_gradient
    t0 = constant(t0) if start is None else start
    t1 = constant(t1) if end is None else end
    traced = start is None or end is None or values is None
    same = not len(ts) or (not traced and bk.concrete_times(ts) == values)
    moved = [bk.concrete(t) not in (None, own) for t, own in zip(given, (start, end), strict=False)]
    same = same and not any(moved)
    if not shifted and same:
        return (), False
    begin, end = (0.0, t1 - t0) if shifted else (t0, t1)
    if not len(ts):
        return (begin, end, ()), shifted
    if values is not None and start is not None:
        own = bk.time_sequence([t - start for t in values] if shifted else values, layout)
    else:
        own = constant(ts) - t0 if shifted else constant(ts)
    if traced:
        slack = 2 * resolution(bk, (ts,)) * bk.xp.maximum(*_sizes(bk, t0, t1))
        own = _traced_clamp(bk, own, (begin, end), slack)
    return (begin, end, own), shifted


def _traced_clamp(
    bk: AbstractBackend, ts: Array, ends: tuple[Scalar, Scalar], slack: Scalar
) -> Array:
    """The same of times whose values are not known."""
    xp, (begin, end) = bk.xp, ends
    low, high = xp.minimum(begin, end), xp.maximum(begin, end)
    inside = xp.clip(ts, low, high)
    return xp.where(abs(ts - inside) <= slack, inside, ts)


def _sizes(bk: AbstractBackend, *times: Scalar) -> list[Array]:
    return [abs(bk.xp.asarray(t)) for t in times]
