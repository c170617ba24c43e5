"""The vjp of events: where a step was cut, and what was recorded inside of it.

At an event the interpolant u of its step meets g(t, u(t)) = 0, which makes its time a function of
all that the step depends on. With ybar and tbar the cotangents of the state and the time there, and
nu = -(tbar + ybar.u') / (g_t + g_y.u'), the step is pulled with the source ybar + nu g_y at the
event, as for a saved row, and what g depends on gets nu g_args (implicit function theorem; Corner &
others 2020, arXiv:2011.03902). u' is the derivative of the interpolant, not f: so the gradient is
that of the discrete solve. No root is sought again: of each hit the place in its step is known.

Steps behind a cut move with the event: the cotangent of their starts, which goes to t0 before the
first event, is a part of tbar. Where g only touches zero its slope vanishes, and there is no
derivative: an error, in traced code nan.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .._autodiff.field_vjp import output_pullback
from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.types import (
    Bool,
    Carry,
    Function,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
)
from .._integrate.events import ENDED, EVENT, KIND, RECORDED, STEP, THETA, TIME, bound_event
from .output_vjp import Found, StepSpan

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP, FieldVJP
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final
    from .._solvers.base import AbstractStepper


class Place(NamedTuple):
    """A hit on the way back: its row, kind, time and the state there."""

    k: Index
    kind: Index
    t: Scalar
    y: State


class HitCotangents(NamedTuple):
    """What is threaded through it: cotangents of the state and time at the hit, of the starts of
    the steps behind, of what is carried from it, and of parameters."""

    y: State
    t: Scalar
    start: Scalar
    g: State
    params: ParamSums


class Cuts:
    """Which hits cut steps."""

    def __init__(self, loop: Integrator, final: Final) -> None:
        assert loop.events is not None
        self.xp, self.hits, self.traced = loop.bk.xp, final.events, loop.clock.traced
        self.capacity = loop.events.capacity

    @functools.cached_property
    def known(self) -> dict[int, int]:
        """The hit that cut a step, by the step, where the host knows."""
        rows = [(k, self.hits.table[k]) for k in range(self.hits.number)]
        return {row[STEP]: k for k, row in rows if row[KIND] > RECORDED}

    def of(self, i: Index) -> tuple[Index, Bool]:
        """The hit that cut step i, and whether one did."""
        if not self.traced:
            return self.known.get(i, 0), i in self.known
        xp, table = self.xp, self.hits.table[: self.capacity]
        mine = (table[:, STEP] == i) & (table[:, KIND] > RECORDED)
        return xp.argmax(xp.where(mine, 1, 0)), xp.any(mine)


class EventVJP:
    """Pulls the hits of one solve back.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
    wanted : NeedsGradient
    final : Final
    cotangents : tuple of array
        Of the leaves that ``Events.leaves`` gives.
    """

    def __init__(
        self,
        loop: Integrator,
        inputs: Inputs,
        wanted: NeedsGradient,
        final: Final,
        cotangents: Leaves,
    ) -> None:
        assert loop.events is not None
        self.loop, self.events, self.inputs = loop, loop.events, inputs
        self.bk, self.clock, self.layout = loop.bk, loop.clock, loop.layout
        self.state = final.events
        self.cuts = Cuts(loop, final)
        *rows, times, end = cotangents
        width = len(self.layout.shapes)
        self.left, self.right, self.times = tuple(rows[:width]), tuple(rows[width:]), times
        self.end = self.bk.scalar(end)
        bare = wanted
        if Capability.AUTODIFF in self.bk.capabilities:  # a tape needs all that g is called with
            bare = wanted._replace(params=(False,) * len(wanted.params))

        def pullback(fn: Function, needs: NeedsGradient) -> FieldVJP:
            vjp = output_pullback(loop.problem, fn, inputs.params, needs)
            if hasattr(vjp, "notice"):
                vjp.notice = None  # a time that g does not tell the derivative by is an error
            return vjp

        given = self.events.given
        self.slopes = [pullback(e.condition, bare) for e in given]
        self.conditions = [pullback(e.condition, wanted) for e in given]
        self.resets = [None if e.reset is None else pullback(e.reset, wanted) for e in given]

    # --- where a solve ended
    @property
    def ended(self) -> Bool:
        """Whether an event ended it."""
        return self.state.ended >= 0

    def row(self, k: Index) -> Carry:
        """Row k of the table of hits."""
        return self.bk.table_get(self.state.table, k)

    def here(self, i: Index, hit: Index) -> Bool:
        """Whether the last of ``hit`` hits is in step i."""
        if not self.clock.traced and not hit:
            return False
        row = self.row(self.bk.pick(hit > 0, hit - 1, 0))
        return self.clock.both(hit > 0, row[STEP] == i)

    def cut(self, i: Index, hit: Index) -> tuple[Bool, Scalar]:
        """Whether the last of ``hit`` hits cut step i, and where."""
        here = self.here(i, hit)
        if here is False:
            return False, 1.0
        row = self.row(self.bk.pick(hit > 0, hit - 1, 0))
        return self.clock.both(here, row[KIND] > RECORDED), row[THETA]

    # --- forward again
    def replayed(self, replay: AbstractStepper, i: Index, step: tuple[Scalar, Scalar], y: State,
                 y1: State) -> State:  # fmt: skip
        """What is carried from step i, whose end would be y1: from its cut, if there was one."""
        k, cut = self.cuts.of(i)
        again = lambda y1: self._from_cut(replay, k, step, y)  # noqa: E731
        return self.bk.cond(cut, again, lambda y1: y1, y1)

    def inverted(
        self, replay: AbstractStepper, i: Index, step: tuple[Scalar, Scalar], y_after: State
    ) -> State:
        """What was carried to step i, from what was carried from it; where it was cut, as kept."""
        k, cut = self.cuts.of(i)
        return self.bk.cond(
            cut,
            lambda y: self.bk.read(self.state.starts, k),
            lambda y: replay.invert(*step, y),
            y_after,
        )

    def _from_cut(
        self, replay: AbstractStepper, k: Index, step: tuple[Scalar, Scalar], y: State
    ) -> State:
        (t, h), row = step, self.row(k)
        replay.step(t, h, y, replay.init(t, y), error=True)
        replay.extra_stages()
        to = replay.interpolate(row[THETA])
        for j, event in enumerate(self.events.given):
            if event.reset is not None:
                call = bound_event(self.loop, event.reset, self.inputs)
                reset = lambda y, call=call: self.layout.pack(call(row[TIME], y))  # noqa: E731
                mine = self.clock.both(row[EVENT] == j, row[KIND] != ENDED)
                to = self.bk.cond(mine, reset, lambda y: y, to)
        return replay.start(row[TIME], to)

    # --- one step back
    def in_step(
        self,
        step_vjp: AbstractStepVJP,
        step: StepSpan,
        found: Found,
        carried: tuple[Index, Scalar],
    ) -> tuple[Found, Index, Scalar]:
        """The hits of a step that is linearised, the last one first.

        ``carried``: how many are left, and the cotangent of the starts of the steps behind.
        """
        real, zeros, (hit, start) = self.clock.real, self.layout.zeros, carried
        if not self.clock.traced and not self.here(step.i, hit):
            return found, hit, start
        inside = step_vjp.sources() if found.inside is None else found.inside
        left = zeros() if found.left is None else found.left

        def body(s: Carry) -> Carry:
            hit, start, g, params, inside, ct_t, ct_h, left, left_t = s
            k = hit - 1
            row = self.row(k)
            theta, y = row[THETA], step_vjp.interpolate(row[THETA])
            ct = self.layout.add(self.layout.row(self.left, k), left)
            at = real(self.bk.scalar(self.times[k])) + left_t
            place = Place(k, row[KIND], row[TIME], y)
            cts = HitCotangents(ct, at, start, g, params)
            for j in range(len(self.events.given)):
                pull = functools.partial(self.pull, j, step_vjp, step, place)
                cts = self.branch(row[EVENT] == j, pull, cts)
            inside = step_vjp.add_source(inside, theta, step.h, cts.y)
            ct_t, ct_h = ct_t + cts.t, ct_h + theta * cts.t
            return k, cts.start, cts.g, cts.params, inside, ct_t, ct_h, zeros(), real(0.0)

        s = (hit, start, found.g, found.params, inside, real(found.t), real(found.h), left,
             real(found.left_t))  # fmt: skip
        s = self.bk.while_loop(lambda s: self.here(step.i, s[0]), body, s)
        hit, start, g, params, inside, t, h = s[:7]
        done = found._replace(g=g, params=params, inside=inside, t=t, h=h, left=None, left_t=0.0)
        return done, hit, start

    def branch(
        self, on: Bool, fn: Callable[[HitCotangents], HitCotangents], cts: HitCotangents
    ) -> HitCotangents:
        if len(self.events.given) == 1:
            return fn(cts)
        found: HitCotangents = self.bk.cond(on, fn, lambda cts: cts, cts)
        return found

    def pull(
        self, j: int, step_vjp: AbstractStepVJP, step: StepSpan, place: Place, cts: HitCotangents
    ) -> HitCotangents:
        """Cotangents of the interpolant and of the step's time from those at a hit of event j."""
        event = self.events.given[j]
        if event.last is not None:
            ended = functools.partial(self._through_end, step_vjp, place)
            cts = self.bk.cond(place.kind == ENDED, ended, lambda cts: cts, cts)
        if event.reset is not None:
            reset = functools.partial(self._through_reset, j, step_vjp, place)
            cts = self.bk.cond(place.kind != ENDED, reset, lambda cts: cts, cts)
        if self.events.boolean[j]:
            return cts
        return self._through_root(j, step_vjp, step, place, cts)

    def _through_end(
        self, step_vjp: AbstractStepVJP, place: Place, cts: HitCotangents
    ) -> HitCotangents:
        """The state at which the solve ended is carried from it as it is."""
        gy, gt, params = step_vjp.finish(place.t, place.y, cts.g, cts.params)
        y = self.layout.add(cts.y, gy)
        if self.right:
            y = self.layout.add(y, self.layout.row(self.right, place.k))
        return self._passed(y, cts.t + cts.start + gt, params)

    def _through_reset(
        self, j: int, step_vjp: AbstractStepVJP, place: Place, cts: HitCotangents
    ) -> HitCotangents:
        """A reset, and what is carried from the state that it gave."""
        layout, vjp = self.layout, self.resets[j]
        assert vjp is not None
        leaves, pull = vjp(layout.time(place.t), place.y)
        gy, gt, params = step_vjp.finish(place.t, layout.pack(leaves), cts.g, cts.params)
        gy = layout.add(gy, layout.row(self.right, place.k))
        mu, ct_t, params = pull(layout.unpack(gy), params)
        t = cts.t + cts.start + gt + ct_t
        return self._passed(layout.add(cts.y, layout.pack(mu)), t, params)

    def _passed(self, y: State, t: Scalar, params: ParamSums) -> HitCotangents:
        """All that comes from behind has gone to the state and the time."""
        real = self.clock.real
        return HitCotangents(y, real(t), real(0.0), self.loop.carried.zeros(), params)

    def _through_root(
        self, j: int, step_vjp: AbstractStepVJP, step: StepSpan, place: Place, cts: HitCotangents
    ) -> HitCotangents:
        """The time of the hit, at which condition j is zero."""
        layout, real, time = self.layout, self.clock.real, self.layout.time(place.t)
        u = step_vjp.slope((place.t - step.t) / step.h)
        d = cts.t + layout.inner(cts.y, u)
        if not self.clock.traced and d == 0:
            return cts
        (x,), pull = self.slopes[j](time, place.y)
        one = self.bk.array(1.0, x.dtype, layout.device)
        g_y, g_t, _ = pull((one,), self.slopes[j].zero())
        slope = real(g_t) + layout.inner(layout.pack(g_y), u)
        nu = self._quotient(j, step_vjp, step, place, (d, slope))
        (x,), pull = self.conditions[j](time, place.y)
        mu, ct_t, params = pull((self.bk.array(nu, x.dtype, layout.device),), cts.params)
        y = layout.add(cts.y, layout.pack(mu))
        return cts._replace(y=y, t=real(cts.t + ct_t), params=params)

    def _quotient(
        self,
        j: int,
        step_vjp: AbstractStepVJP,
        step: StepSpan,
        place: Place,
        parts: tuple[Scalar, Scalar],
    ) -> Scalar:
        """-d / slope, unless g only touches zero: the slope is nothing beside g's change."""
        clock, where, (d, slope) = self.clock, self.clock.where, parts
        g = bound_event(self.loop, self.events.given[j].condition, self.inputs)
        ends = [g(step.t + theta * step.h, step_vjp.interpolate(theta)) for theta in (0.0, 1.0)]
        size = clock.maximum(*(abs(clock.real(x)) for (x,) in ends))
        grazes = abs(slope * step.h) <= GRAZING * math.sqrt(clock.eps) * size
        if clock.traced:
            nu = where(grazes, math.nan, -d / where(grazes, 1.0, slope))
            return where(d == 0, 0.0, nu)
        if grazes or slope == 0:
            raise InputError(grazed(j, self.loop.user_time(self.inputs, place.t), slope))
        return -d / slope


def grazed(j: int, t: Scalar, slope: Scalar) -> str:
    """What is said of a condition that only touches zero."""
    return (
        f"`event[{j}]` only touches zero at t = {float(t):.6g} (its condition's slope there is "
        f"{float(slope):.2g}), so its time has no derivative; choose a condition that crosses "
        "zero, or take no gradient through this event."
    )


GRAZING = 8
"""Times the root of the rounding: a slope, over a step, below that part of the condition's size."""
