"""Steps that events cut or ended, taken again by operations that autodiff follows.

Of each hit the place theta in its step is known. On the step's interpolant u it is a root of
g(theta) = condition(t + theta h, u(theta)), and what it depends on comes of a few chords,
theta - g(theta) / slope, from the root itself: each gets one more order of derivatives right
(Christianson 1994, doi:10.1080/10556789408805572), so that three serve Hessians and one derivative
more. The slope only has to be near: a difference of g on the interpolant tells it to ten digits, in
every transform of every library, and its error is multiplied with the one before.

What lies behind a reset moves with its time, as what lies before it moves with t0: that is carried
from step to step, beside the state.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from .._base.errors import InputError
from .._base.types import Array, Bool, Buffer, Function, Index, Inputs, Leaves, Scalar, State
from .._integrate.events import ENDED, EVENT, KIND, STEP, THETA, TIME
from .._integrate.moving_times import zero_of
from .event_vjp import GRAZING, Cuts, grazed
from .retaken import Retaken

if TYPE_CHECKING:
    from .._base.types import VectorFieldFn
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final
    from .._solvers.base import AbstractStepper

CHORDS = 3
"""Orders of derivatives of an event's time that are right."""


class RetakenWithEvents(Retaken):
    """The same of a solve with events: what is carried ends with a zero that has the derivative of
    the time that steps move with."""

    def __init__(self, loop: Integrator, inputs: Inputs, constant: Inputs, final: Final) -> None:
        super().__init__(loop, inputs, constant, final)
        assert loop.events is not None
        self.clock, self.events, self.hits = loop.clock, loop.events, final.events
        self.cuts, self.ended = Cuts(loop, final), self.hits.ended >= 0
        self.happened: Leaves = ()
        given = self.events.given
        self.cut_only = all(e.reset is not None or e.last == 1 for e in given)
        """Whether every hit cuts its step: then the step behind tells when it was."""
        self.conditions = [self._call(e.condition) for e in given]
        self.resets = [None if e.reset is None else self._call(e.reset) for e in given]

    def _call(self, fn: VectorFieldFn) -> Function:
        """A condition or reset as ``call(t, y) -> leaves``."""
        call = self.bk.guard(self.loop.problem.bind_output(fn, self.inputs.params))
        return lambda t, y: tuple(call(self.layout.time(t), y))

    # --- what a solve hands out
    def rows(self) -> Leaves:
        bk, loop, final = self.bk, self.loop, self.final
        last, states = bk.scan_states(final.n, loop.max_steps, self._advance, self._begin())
        self.happened = self._hits(states, last)
        self.end = self.clock.where(self.ended, self._time(self.hits.number - 1), self.end)
        found = []
        counts = loop.outputs.rows_inside(final)
        for k, (out, count) in enumerate(zip(loop.outputs.parts, counts, strict=True)):
            rows = self._rows_of(out, count, states, last)
            if out.inside == "ts":  # an event may have ended the solve before
                there = final.inside[k][0] + out.saveat.t0
                ends = [x[-1:, ...] for x in rows] if out.saveat.final else []
                rows = tuple(x[: count + out.saveat.t0, ...] for x in rows)
                rows = bk.blank(rows, there, 0.0)
                if ends:
                    rows = tuple(
                        bk.xp.concat(pair, axis=0) for pair in zip(rows, ends, strict=True)
                    )
            found.append(rows)
        end = bk.scalar_array(self.end, loop.layout)
        return (*(x for rows in found for x in rows), *self.happened, end)

    def _hits(self, states: Buffer, last: State) -> Leaves:
        """States before and after each hit, and its time; zeros where there was none."""
        bk, number = self.bk, self.hits.number
        if not self.clock.traced and not number:
            count = len(self.layout.shapes) * (1 + self.events.resets)
            blank = [bk.zeros_like(x)[None, ...][:0, ...] for x in self.leaves]
            rows = [blank[k % len(blank)] for k in range(count)]
            return (*rows, bk.times_array([], self.loop.layout))

        def row(k: Index) -> Leaves:
            on = k < number
            i = self._place(k)[1]
            t, h, stepper = self._again(i, states)
            if self.cut_only:
                behind = bk.look_state(states, i + 1, self.final.n, last)
                at, y, to = self._hit_of_cut(k, on, (t, h), stepper, behind)
            else:
                at, y, to = self._hit(k, on, (t, h), stepper)
            after = to if self.events.resets else ()
            return (*y, *after, bk.scalar_array(at, self.loop.layout))

        capacity = self.events.capacity if self.clock.traced else number
        return bk.blank(bk.map_rows(row, capacity), number, 0.0)

    def _time(self, k: Index) -> Scalar:
        """When hit k was."""
        times = self.happened[-1]
        if not self.clock.traced:
            return times[k] if k >= 0 else 0.0
        return times[self.bk.pick(k > 0, k, 0)]

    def _end(self, i: Index, states: Buffer, final: State) -> tuple[Scalar, State]:
        bk, (k, cut) = self.bk, self.cuts.of(i)
        whole = super()._end
        if not self.clock.traced and not cut:
            return whole(i, states, final)
        width = len(self.layout.shapes)
        t, y = self._time(k), tuple(x[k, ...] for x in self.happened[:width])
        if not self.clock.traced:
            return t, y
        end, y1 = whole(i, states, final)
        pairs = zip(y, y1, strict=True)
        return bk.xp.where(cut, t, end), tuple(bk.xp.where(cut, a, b) for a, b in pairs)

    # --- steps
    def _begin(self) -> State:
        zero = self.clock.real(self.t0) if self.clock.traced else self.t0
        return (*super()._begin(), zero)

    def _carried(self, before: State) -> State:
        return before[:-1]

    def _step(self, i: Index, before: State) -> tuple[Scalar, Scalar]:
        t, h = self.loop.step_again(self.grid, i)
        moved, where = before[-1], self.clock.where
        last = self.clock.both(i + 1 == self.final.n, self.ended == False)  # noqa: E712
        size = where(self._lands(t, h, last)[0], moved, 0.0)
        end = where(last, self.t1, 0.0)
        if self.jumps is not None:
            end = end + self._of_jumps(t, h)[1]
        return t + moved, h - size + end

    def _lands(self, t: Scalar, h: Scalar, last: Bool) -> tuple[Bool, Bool]:
        """Whether a step was to end where it does not move, and whether that is before t1."""
        stops = self.loop.stops
        return (last, False) if stops is None else stops.lands(t, h)

    def _advance(self, i: Index, before: State) -> State:
        t, h = self._step(i, before)
        k, cut = self.cuts.of(i)
        on_stop = self._lands(*self.grid.step(i), False)[1]
        behind = 0.0 * before[-1]
        if self.jumps is not None:
            behind = behind + self._of_jumps(*self.grid.step(i))[1]
        moved = self.clock.where(on_stop, behind, before[-1])
        stepper, y1 = self._taken(t, h, self._carried(before))

        def at_cut(_: State) -> State:
            stepper.extra_stages()
            at, _, to = self._hit(k, cut, (t, h), stepper)
            moved = zero_of(self.bk, at) if self.bk.is_array(at) else 0.0
            return (*stepper.start(at, to), moved)

        return self.bk.cond(cut, at_cut, lambda s: s, (*y1, moved))

    # --- a hit
    def _place(self, k: Index) -> tuple[Scalar, Index, Index, Index]:
        """Where hit k is: theta, step, event and kind."""
        row = self.bk.table_get(self.hits.table, k)
        numbers = [row[STEP], row[EVENT], row[KIND]]
        if self.clock.traced:
            numbers = [self.bk.xp.astype(x, self.bk.xp.int32) for x in numbers]
        step, event, kind = numbers
        return row[THETA], step, event, kind

    def _hit(
        self, k: Index, on: Bool, step: tuple[Scalar, Scalar], stepper: AbstractStepper
    ) -> tuple[Scalar, State, State]:
        """When hit k was, and the states before and after it, where ``on``."""
        (t, h), bk, clock = step, self.bk, self.clock
        theta, _, number, kind = self._place(k)
        rooted: Bool = False
        for j, boolean in enumerate(self.events.boolean):
            if not boolean:
                rooted = clock.either(rooted, number == j)
        rooted = clock.both(on, rooted)
        root = functools.partial(self._root, number, rooted, step, stepper)
        theta = bk.cond(rooted, root, lambda theta: theta, theta)
        at = t + theta * h
        y = stepper.interpolate(theta)
        to = y
        for j, reset in enumerate(self.resets):
            if reset is not None:
                mine = clock.both(clock.both(on, number == j), kind != ENDED)
                to = bk.cond(mine, lambda y, reset=reset: tuple(reset(at, y)), lambda y: y, to)
        return at, tuple(y), tuple(to)

    def _hit_of_cut(
        self,
        k: Index,
        on: Bool,
        step: tuple[Scalar, Scalar],
        stepper: AbstractStepper,
        behind: State,
    ) -> tuple[Scalar, State, State]:
        """The same of a hit that cut its step, from what was carried from there: no root is sought
        again, whose derivatives are most of a compiled program."""
        (t, h), where = step, self.clock.where
        at = self.bk.table_get(self.hits.table, k)[TIME] + behind[-1]
        theta = where(on, (at - t) / where(on, h, 1.0), 0.0)
        return at, tuple(stepper.interpolate(theta)), tuple(self._state(behind))

    def _root(
        self,
        j: Index,
        on: Bool,
        step: tuple[Scalar, Scalar],
        stepper: AbstractStepper,
        theta: Scalar,
    ) -> Scalar:
        """theta with its derivatives, as a root of condition j."""
        (t, h), bk, clock, condition = step, self.bk, self.clock, self._condition(j)

        def g(x: Scalar) -> Array:
            return condition(t + x * h, tuple(stepper.interpolate(x)))

        slope, grazes = self._slope(g, theta)
        if not clock.traced and grazes:
            t, h = (bk.number(bk.stop_gradient(x)) for x in step)
            at = self.loop.user_time(self.inputs, t + theta * h)
            raise InputError(grazed(j, at, slope / h))
        slope = clock.where(clock.both(on, grazes == False), slope, 1.0)  # noqa: E712
        start = clock.real(theta) if clock.traced else theta
        chord = lambda i, s: (s[0] - g(s[0]) / slope,)  # noqa: E731
        (x,), _ = bk.scan_states(CHORDS, None, chord, (start,))
        x = theta + zero_of(bk, x)
        if not clock.traced:
            return x
        well = clock.either(on == False, grazes == False)  # noqa: E712
        return clock.real(bk.poison_gradient(well, x))

    def _condition(self, j: Index) -> Function:
        """Condition j, one that has roots."""
        pairs = zip(self.conditions, self.events.boolean, strict=True)
        fns = [(k, fn) for k, (fn, boolean) in enumerate(pairs) if not boolean]
        found: Function = lambda t, y: fns[-1][1](t, y)[0]  # noqa: E731
        for k, fn in fns[-2::-1]:

            def either(t: Scalar, y: State, k: int = k, fn: Function = fn, other: Function = found
                       ) -> Array:  # fmt: skip
                return self.bk.cond(j == k, lambda t, y: fn(t, y)[0], other, t, y)

            found = either
        return found

    def _slope(self, g: Function, theta: Scalar) -> tuple[Scalar, Bool]:
        """g' at theta, near enough, and whether it is nothing beside g's change in the step."""
        bk, clock = self.bk, self.clock
        d = clock.eps**0.25
        places = [theta - 2 * d, theta - d, theta + d, theta + 2 * d, 0.0, 1.0]
        if clock.traced:
            places = bk.xp.stack([clock.real(x) for x in places])
        row = lambda i: (bk.stop_gradient(g(places[i])),)  # noqa: E731
        (values,) = bk.map_rows(row, 6)
        far, near, ahead, beyond, first, last = (bk.number(values[i]) for i in range(6))
        slope = (far - beyond + 8.0 * (ahead - near)) / (12.0 * d)
        least = GRAZING * math.sqrt(clock.eps) * clock.maximum(abs(first), abs(last))
        return slope, clock.either(abs(slope) <= least, slope == 0)
