"""Times of rows as functions of the times that a solve was given.

Step sizes are constants of a gradient. So a row's time moves with t0, t1, a saved time or that of a
jump at the rate 1, or stands still: what a solve tells as numbers becomes differentiable by adding
zeros that carry the derivatives, and nothing is added where no time is differentiated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.types import Array, Index, Inputs, Scalar, Table
from .._controllers import StepTo

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout
    from .integrator import Integrator
    from .outputs import Output


class Moving(NamedTuple):
    """At what rates times of rows move, arrays of shape (k,): with t0, and with t1; and with each
    jump, of shape (k, jumps) (None: with none)."""

    t0: Array
    t1: Array
    jumps: Array | None = None


def rates(loop: Integrator, inputs: Inputs, out: Output, times: Array, n: Index) -> Moving:
    """Those of an output's rows, n of the steps taken; saved times move with themselves."""
    bk, layout, xp = loop.bk, loop.layout, loop.bk.xp
    first, last = int(out.saveat.t0), int(out.saveat.final)
    inside = int(times.shape[0]) - first - last

    def marks(*blocks: float) -> Array:
        values = [x for x, k in zip(blocks, (first, inside, last), strict=True) for _ in range(k)]
        return bk.array(values, layout.real_dtype, layout.device)

    # an event may have put its own time in the place of t1: then that is told apart
    by_t0, by_t1 = marks(1.0, 0.0, 0.0), marks(0.0, 0.0, 0.0 if loop.events else 1.0)
    by_jumps = None
    if out.inside == "steps" and inside and loop.events is None:
        along: Array = 0.0 if isinstance(loop.controller, StepTo) else 1.0
        if loop.adaptive and len(inputs.settings) > 2:  # what is behind a stop stands still
            start, stop = bk.stop_gradient(inputs.t0), loop.placed(inputs).stops
            assert stop is not None
            reach = abs(loop.user_time(inputs, stop.first) - start)
            along = xp.where(abs(times - start) < reach, xp.ones_like(by_t0), 0.0 * by_t0)
        places = [float(i + 1 - first) for i in range(first + inside)] + [0.0] * last
        place = bk.array(places, layout.real_dtype, layout.device)
        ends, none = marks(0.0, 1.0, 0.0), xp.zeros_like(by_t0)
        by_t0 = by_t0 + xp.where(place < n, along * ends, none)
        by_t1 = by_t1 + xp.where(place == n, ends, none)
        if len(inputs.jumps):
            here = xp.where(place < n, ends, none)
            by_jumps = here[:, None] * _by_jumps(loop, inputs, times)
    return Moving(by_t0, by_t1, by_jumps)


def _by_jumps(loop: Integrator, inputs: Inputs, times: Array) -> Array:
    """1 where the last stop that a time is at or behind is a jump, shape (k, jumps); else 0."""
    bk, layout, xp, stops = loop.bk, loop.layout, loop.bk.xp, loop.placed(inputs).stops
    assert stops is not None

    def as_user(clocked: Table, sign: Scalar) -> Array:
        if bk.is_array(clocked):
            return loop.user_time(inputs, sign * clocked)
        return bk.times_array([loop.user_time(inputs, sign * t) for t in clocked], layout)

    sign, start = stops.sign, bk.scalar_array(bk.stop_gradient(inputs.t0), layout)
    every, jumps = sign * as_user(stops.stops, sign), sign * as_user(stops.given, 1.0)
    at = sign * bk.stop_gradient(times)
    slack = 8 * xp.finfo(times.dtype).eps * xp.abs(at)
    met = (every > sign * start)[None, :] & (every[None, :] <= (at + slack)[:, None])
    last = xp.max(xp.where(met, every[None, :], xp.zeros_like(every)[None, :] - math.inf), axis=1)
    here = xp.astype(last[:, None] == jumps[None, :], times.dtype)
    first = xp.argmax(here, axis=1)  # of equal ones
    chosen = first[:, None] == xp.arange(len(inputs.jumps), device=bk.device_of(times))[None, :]
    return xp.where(chosen, here, xp.zeros_like(here))


def moves(bk: AbstractBackend, t: Scalar) -> bool:
    """Whether a time may be differentiated by the library's own autodiff."""
    if not bk.is_array(t):
        return hasattr(t, "tensor")
    return Capability.TRACED in bk.capabilities or bk.tracked(t)


def moving_times(loop: Integrator, inputs: Inputs, out: Output, times: Array, n: Index) -> Array:
    """Times of an output's rows, with the derivatives of the times that the solve was given."""
    bk, layout = loop.bk, loop.layout
    if not any(moves(bk, t) for t in (*inputs[2:5], inputs.jumps)):
        return times
    times = bk.stop_gradient(times)
    zeros = [zero_of(bk, bk.scalar_array(t, layout)) for t in inputs[2:4]]
    by = rates(loop, inputs, out, times, n)
    moved = times + by.t0 * zeros[0] + by.t1 * zeros[1] + with_jumps(bk, inputs, by, layout)
    if out.inside != "ts" or not moves(bk, inputs.ts):
        return moved
    own = zero_of(bk, bk.times_array(inputs.ts, layout))[out.first : out.last + 1]
    ends = (int(out.saveat.t0), int(out.saveat.final))
    around = [bk.array([0.0] * k, layout.real_dtype, layout.device) for k in ends]
    return moved + bk.xp.concat([around[0], own, around[1]], axis=0)


def with_jumps(bk: AbstractBackend, inputs: Inputs, by: Moving, layout: Layout) -> Array:
    """Zeros with the derivatives of the jumps that times of rows move with."""
    if by.jumps is None or not moves(bk, inputs.jumps):
        return 0.0
    zeros = zero_of(bk, bk.times_array(inputs.jumps, layout))
    return bk.xp.sum(by.jumps * zeros[None, :], axis=1)


def untold_by_jumps(loop: Integrator, inputs: Inputs, times: Array) -> Array:
    """Times of steps' ends in a solve with events, of which no derivative by jumps is told: it is
    nan in traced code, else asked for in vain."""
    bk = loop.bk
    if not moves(bk, inputs.jumps):
        return times
    if Capability.TRACED not in bk.capabilities:
        raise InputError(
            "`jump_ts` requires a gradient, which dense output and rows of `SaveAt(steps=True)` do "
            "not have in a solve with events; save at times, or detach it."
        )
    zeros = zero_of(bk, bk.times_array(inputs.jumps, loop.layout))
    return times + bk.xp.sum(bk.poison_gradient(False, zeros))


def zero_of(bk: AbstractBackend, t: Array) -> Array:
    """A zero with the derivative of t."""
    return t - bk.stop_gradient(t)
