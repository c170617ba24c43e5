"""Times of steps in a solve with events, as functions of t0 and of what the events told.

A step begins at t0 and the sizes of the steps before it, or, behind a reset, at the time of the
event and the sizes since: so each knot moves with one time, t0 or that of the last reset before it;
the last one with the time of the end (an event's, or t1). Behind the next stop (``stops``) after
the time that it would move with, a knot stands still. The size of a step is a constant, but that of
one that was to end on a stop, or that ends on t1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .._base.types import Array, Aux, Bool, Index, Inputs, Leaves
from .moving_times import moves, untold_by_jumps, zero_of

if TYPE_CHECKING:
    from .integrator import Integrator


class KnotSources(NamedTuple):
    """What the knots of a solve move with.

    Attributes
    ----------
    place : array of int, shape (n + 1,)
        0: with t0; k + 1: with hit k; the number of hits + 1: with the end; + 2: with nothing.
    starts, ends : array, shape (n,)
        1 for a step whose size shrinks as its begin moves, and grows as its end moves; else 0.
    """

    place: Array
    starts: Array
    ends: Array


def knot_sources(
    loop: Integrator,
    inputs: Inputs,
    steps_of: tuple[Array, Array],
    n: Index,
    happened: Leaves,
    aux: Aux,
) -> KnotSources:
    """Those of knots as the user counts time, beside the sizes of their steps, n of them taken;
    ``happened``: the leaves of the events, ``aux`` what else they told."""
    knots, sizes = steps_of
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
    starts = ends = end[1:] & (xp.zeros_like(steps[1:]) + aux[2] < 0)
    if len(inputs.settings) > 2 and count > 1:
        place, starts, whole = _held(loop, inputs, (rest, bk.stop_gradient(sizes)), times, place)
        ends = starts & whole
    place = xp.where(end, xp.zeros_like(place) + float(hits + 1), place)
    starts, ends = (xp.astype(x, knots.dtype) for x in (starts, ends))
    return KnotSources(xp.astype(place, xp.int32), starts, ends)


def _held(
    loop: Integrator,
    inputs: Inputs,
    steps_of: tuple[Array, Array],
    times: Array,
    place: Array,
) -> tuple[Array, Bool, Bool]:
    """The same places where steps end on stops, behind which nothing moves; which steps were to end
    on one or on t1, and which did so, uncut."""
    bk, xp, stops, (knots, sizes) = loop.bk, loop.bk.xp, loop.placed(inputs).stops, steps_of
    assert stops is not None
    own, sign = stops.stops, bk.scalar_array(stops.sign, loop.layout)
    own = own if bk.is_array(own) else bk.times_array(own, loop.layout)
    start, end = (bk.scalar_array(bk.stop_gradient(t), loop.layout) for t in inputs[2:4])
    own = own + sign * start if loop.shifted else own  # as the user counts, times the sign

    def ahead(t: Array) -> Array:
        far = xp.zeros_like(own)[None, :] + math.inf
        return xp.min(xp.where(own[None, :] > t[:, None], own[None, :], far), axis=1)

    places, at = sign * knots, xp.concat([xp.reshape(start, (1,)), times], axis=0)
    slack = 16 * xp.finfo(knots.dtype).eps * xp.abs(knots)
    stop = xp.take(ahead(sign * at), xp.astype(place, xp.int32), axis=0)
    held = places >= stop - slack
    place = xp.where(held, xp.zeros_like(place) + float(times.shape[0] + 2), place)
    meant = xp.minimum(ahead(places[:-1] + slack[:-1]), sign * end)
    starts = xp.abs(meant - places[:-1] - sign * sizes) <= slack[:-1]
    whole = xp.abs(places[1:] - places[:-1] - sign * sizes) <= slack[:-1]
    return place, starts, whole


def moved_knots(loop: Integrator, inputs: Inputs, happened: Leaves, place: Array) -> Array:
    """Zeros with the derivatives of the times that knots move with, shape (n + 1,)."""
    bk, xp = loop.bk, loop.bk.xp
    start = bk.scalar_array(inputs.t0, loop.layout)
    times, end = (xp.where(xp.isfinite(x), x, xp.zeros_like(x)) for x in happened[-2:])
    nothing = xp.zeros_like(xp.reshape(start, (1,)))
    parts = [xp.reshape(start, (1,)), times, xp.reshape(end, (1,)), nothing]
    return xp.take(zero_of(bk, xp.concat(parts, axis=0)), place, axis=0)


def pulled_knots(loop: Integrator, place: Array, happened: Leaves, total: Array) -> Array:
    """Cotangents of t0, of the time of each hit and of the end from those of knots."""
    bk, xp = loop.bk, loop.bk.xp
    many = int(happened[-2].shape[0]) + 2  # what moves with nothing is left out
    column = xp.arange(many, device=bk.device_of(total))
    one = xp.astype(place[None, :] == column[:, None], total.dtype)
    found: Array = bk.matmul(one, total[:, None])[:, 0]
    return found


def row_sources(
    loop: Integrator,
    inputs: Inputs,
    times: Array,
    n: Index,
    events: tuple[Leaves, Aux],
    *,
    first: bool,
) -> Array:
    """``KnotSources.place`` behind t0, of rows at the ends of steps; ``first``: and one at t0."""
    bk, xp = loop.bk, loop.bk.xp
    knots = bk.stop_gradient(times)
    if not first:
        start = bk.scalar_array(bk.stop_gradient(inputs.t0), loop.layout)
        knots = xp.concat([xp.reshape(start, (1,)), knots], axis=0)
    none = xp.zeros_like(knots[1:])  # sizes do not matter to the places
    return knot_sources(loop, inputs, (knots, none), n, *events).place[1:]


def may_move(loop: Integrator, inputs: Inputs, happened: Leaves) -> bool:
    """Whether the library's own autodiff may ask what the knots move with: else it is not found
    out, which takes a number for each pair of a step and a hit."""
    times = inputs.t0, inputs.t1, inputs.jumps, *happened[-2:]
    return any(moves(loop.bk, t) for t in times)


def moved_rows(
    loop: Integrator,
    inputs: Inputs,
    times: Array,
    n: Index,
    events: tuple[Leaves, Aux],
    *,
    first: bool,
) -> Array:
    """Times of rows at the ends of steps, with the derivatives of what they move with."""
    if not may_move(loop, inputs, events[0]):
        return times
    times = untold_by_jumps(loop, inputs, times)
    place = row_sources(loop, inputs, times, n, events, first=first)
    moved = moved_knots(loop, inputs, events[0], place)
    if not first:
        return times + moved
    return loop.bk.xp.concat([times[:1], times[1:] + moved], axis=0)
