"""The way back of the continuous adjoint over the events of a solve.

Between two events the adjoint equation is solved as without them. At a hit, y goes on from the
state before it, as recorded, and a jumps: with ybar and tbar the cotangents of the state and the
time there, and nu = -(tbar + ybar.f) / (g_t + g_y.f), it becomes ybar + nu g_y (Corner & others
2020, arXiv:2011.03902). Here f stands where discrete methods have the interpolant's derivative.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from .._base.types import Bool, Carry, Inputs, Leaves, NeedsGradient, ParamSums, Scalar, State
from .._integrate.events import ENDED, EVENT, KIND, TIME, reached
from .continuous import Walk, WalkCarry
from .event_vjp import EventVJP, HitCotangents, Place
from .output_vjp import StepSpan

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final


class WalkWithEvents(Walk):
    """The same of a solve with events; behind one, ``t0`` is the cotangent of its time."""

    def __init__(
        self,
        loop: Integrator,
        inputs: Inputs,
        final: Final,
        cotangents: Leaves,
        wanted: NeedsGradient,
        adjoint: Any,
    ) -> None:
        wanted = wanted._replace(t0=True)  # what lies behind an event moves with it
        super().__init__(loop, inputs, final, cotangents, wanted, adjoint)
        rest = cotangents[loop.outputs.width :]
        self.events = EventVJP(loop, inputs, wanted, final, rest)
        if hasattr(self.augmented.vjp, "notice"):
            self.augmented.vjp.notice = None
        self.t1 = self.clock.where(self.events.ended, final.t, self.t1)
        self.size = (self.t1 - self.t0) / self.clock.maximum(self.clock.real(final.n), 1.0)

    def start(self) -> WalkCarry:
        c, final, where, ended = super().start(), self.final, self.clock.where, self.events.ended
        rows = tuple(
            final.inside[k][0] if part.inside == "ts" else c.row[k]
            for k, part in enumerate(self.out.parts)
        )
        slope = where(ended, self._rate(self.t1, final.y, c.a), 0.0)
        end = self.clock.real(c.t1 + self.events.end - slope)
        t0, t1 = where(ended, end, 0.0 * end), where(ended, 0.0 * end, end)
        ok = reached(self.loop, final)
        return self._hits_here(c._replace(t0=t0, t1=t1, row=rows, ok=ok, hit=final.events.number))

    def running(self, c: WalkCarry) -> Bool:
        both, either = self.clock.both, self.clock.either
        return both(c.ok, either(super().running(c), c.hit > 0))

    def _next(self, c: WalkCarry) -> Scalar:
        k = self.bk.pick(c.hit > 0, c.hit - 1, 0)
        if not self.clock.traced and not c.hit:
            return self.t0
        return self.clock.where(c.hit > 0, self.events.row(k)[TIME], self.t0)

    def _hits_here(self, c: WalkCarry) -> WalkCarry:
        def here(c: WalkCarry) -> Bool:
            return self.clock.both(c.hit > 0, self._next(c) == c.t)

        return self.bk.while_loop(here, self._hit, c)  # type: ignore[no-any-return]

    def _hit(self, c: WalkCarry) -> WalkCarry:
        """The jump of a at the last hit that is left."""
        bk, own, real, k = self.bk, self.own, self.clock.real, c.hit - 1
        row, y = self.events.row(k), bk.read(self.final.events.left, k)
        place = Place(k, row[KIND], row[TIME], y)
        at = cast("AbstractStepVJP", _AtHit(self, place))
        step = StepSpan(k, place.t, self.size, False, False, True)
        time = real(bk.scalar(self.events.times[k]))
        zero = self.augmented.vjp.zero()
        start = own.row(self.events.left, k), time, c.t0, c.a, type(zero)(c.g)
        cts = HitCotangents(*start)
        rooted: Bool = False
        for j, boolean in enumerate(self.events.events.boolean):
            pull = functools.partial(self.events.pull, j, at, step, place)
            cts = self.events.branch(row[EVENT] == j, pull, cts)
            if not boolean:
                rooted = self.clock.either(rooted, row[EVENT] == j)
        # without a root, a hit is the end of its step, which moves with the steps before it
        moved = cts.t + own.inner(cts.y, at.slope(1.0))
        t0 = real(cts.start + self.clock.where(rooted, 0.0, moved))
        a = own.add(cts.y, cts.g)
        return c._replace(hit=k, y=y, a=a, g=tuple(cts.params), t0=t0)


class _AtHit:
    """What ``EventVJP`` asks of the vjp of a step, of the trajectory at a hit."""

    def __init__(self, walk: WalkWithEvents, place: Place) -> None:
        self.walk, self.place = walk, place

    def interpolate(self, theta: Scalar) -> State:
        own, y = self.walk.own, self.place.y
        return own.axpy(y, theta * self.walk.size, self.slope(theta))

    def slope(self, theta: Scalar) -> State:
        """dy/dt there."""
        walk, place = self.walk, self.place
        own = walk.own
        return own.pack(walk.field(own.time(place.t), place.y))

    def finish(self, t: Scalar, y: State, g: State, params: ParamSums) -> Carry:
        """Cotangents of the state and the time from which a segment goes on."""
        walk = self.walk
        fresh = walk.own.pack(walk.field(walk.own.time(t), y))
        ended = self.place.kind == ENDED
        return g, walk.clock.where(ended, 0.0, -walk.own.inner(g, fresh)), params
