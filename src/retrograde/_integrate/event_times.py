"""Times of steps in a solve with events, as functions of t0 and of what the events told.

A step begins at t0 and the sizes of the steps before it, or, behind a reset, at the time of the
event and the sizes since: so each knot moves with one time, t0 or that of the last reset before it;
the last one with the time of the end (an event's, or t1). The size of a step is a constant, but
that of the last one where it ends on t1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .._base.types import Array, Aux, Bool, Index, Inputs, Leaves
from .moving_times import zero_of

if TYPE_CHECKING:
    from .integrator import Integrator

__all__ = ["KnotSources", "knot_sources", "moved_knots"]


class KnotSources(NamedTuple):
    """What the knots of a solve move with.

    Attributes
    ----------
    place : array of int, shape (n + 1,)
        0: with t0; k + 1: with hit k; the number of hits + 1: with the end.
    last : array, shape (n,)
        1 for a step that ends on t1, else 0.
    """

    place: Array
    last: Array


def knot_sources(
    loop: Integrator, inputs: Inputs, knots: Array, n: Index, happened: Leaves, aux: Aux
) -> KnotSources:
    """Those of knots as the user counts time, n of the steps taken; ``happened``: the leaves of the
    events, ``aux`` what else they told."""
    events, bk, xp = loop.events, loop.bk, loop.bk.xp
    assert events is not None
    layout, times, hits = loop.layout, bk.stop_gradient(happened[-2]), int(happened[-2].shape[0])
    count, rest = int(knots.shape[0]), bk.stop_gradient(knots)

    def array(values: list[float]) -> Array:
        return bk.array(values, layout.real_dtype, layout.device)

    steps = array([float(i) for i in range(count)])
    place = 0.0 * steps
    if hits and count > 1:
        column = aux[0] if bk.is_array(aux[0]) else array([float(bk.number(x)) for x in aux[0]])
        resets = [j for j, event in enumerate(events.given) if event.reset is not None]
        marks: Bool = column < 0
        for j in resets:
            marks = marks | (column == j)
        sign = xp.where(rest[1] < rest[0], -1.0 * xp.ones_like(times), xp.ones_like(times))
        slack = 8 * xp.finfo(knots.dtype).eps * xp.abs(times)
        behind = (rest[:, None] - times[None, :]) * sign[None, :] >= -slack[None, :]
        behind = behind & (marks & xp.isfinite(times))[None, :]
        number = array([float(k + 1) for k in range(hits)])
        place = xp.max(xp.where(behind, number[None, :], 0.0 * number[None, :]), axis=1)
    end = steps == n
    place = xp.where(end, xp.zeros_like(place) + float(hits + 1), place)
    on_t1 = end[1:] & (xp.zeros_like(steps[1:]) + aux[2] < 0)
    return KnotSources(xp.astype(place, xp.int64), xp.astype(on_t1, knots.dtype))


def moved_knots(loop: Integrator, inputs: Inputs, happened: Leaves, place: Array) -> Array:
    """Zeros with the derivatives of the times that knots move with, shape (n + 1,)."""
    bk, xp = loop.bk, loop.bk.xp
    start = bk.scalar_array(inputs.t0, loop.layout)
    times, end = (xp.where(xp.isfinite(x), x, xp.zeros_like(x)) for x in happened[-2:])
    parts = [xp.reshape(start, (1,)), times, xp.reshape(end, (1,))]
    return xp.take(zero_of(bk, xp.concat(parts, axis=0)), place, axis=0)
