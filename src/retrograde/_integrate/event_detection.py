"""How events are found in a loop over tries: a walk through each accepted step, part by part.

The conditions are looked at on the step's interpolant, at four equal parts of it. Each remembers
the last value that was not zero; where the next has the other sign, the root between the two is
bracketed (ITP: Oliveira & Takahashi 2020, doi:10.1145/3423597) to four roundings of the step. The
earliest root of all comes first. One that only records leaves the step as it is; one that ends the
solve, or resets the state, cuts it there, and the next step begins at the root. Behind a reset a
condition that is still zero has no sign yet: it takes the one that it has very early in the next
step, so that neither the same root is found again nor a short bounce is lost.

Known limits: an even number of roots in a quarter of a step is not seen. A condition with a boolean
value has no root: it fires at the end of the step in which it turns true.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .._base.types import (
    Bool,
    Buffer,
    Carry,
    Function,
    Index,
    Inputs,
    Scalar,
    State,
    Tree,
    VectorFieldFn,
)
from .events import ENDED, EVENT, RECORDED, RESET, EventState, bound_event

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._solvers.base import AbstractStepper, SolverState
    from .integrator import Integrator


class Scan(NamedTuple):
    """A walk through one step: up to ``low``; ``kind`` of the hit that cut it, if any."""

    low: Scalar
    lows: tuple[Scalar, ...]
    sizes: tuple[Scalar, ...]
    theta: Scalar
    kind: Index
    going: Bool
    state: EventState


QUARTERS = (0.25, 0.5, 0.75, 1.0)
"""Where conditions are looked at, as parts of a step."""

_Roots: TypeAlias = tuple[Scalar, Index]


class Detector:
    """Finds the events of the steps of one integration.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
    stepper : AbstractStepper
    """

    def __init__(self, loop: Integrator, inputs: Inputs, stepper: AbstractStepper) -> None:
        assert loop.events is not None
        self.loop, self.inputs, self.events, self.stepper = loop, inputs, loop.events, stepper
        self.bk, self.clock = loop.bk, loop.clock
        self.conditions = [self.bound(e.condition, scalar=True) for e in self.events.given]
        self.resets = [None if e.reset is None else self.bound(e.reset) for e in self.events.given]
        self.tolerance = 4 * self.clock.eps
        self.early = 8 * math.sqrt(self.clock.eps)
        self.nothing = math.sqrt(self.clock.eps)

    def bound(self, fn: VectorFieldFn, *, scalar: bool = False) -> Function:
        """A condition or reset as it is called, of a time of the clock and a state."""
        return bound_event(self.loop, fn, self.inputs, scalar=scalar)

    def begin(self, t0: Scalar, y0: State) -> EventState:
        """The state before the first step."""
        bk, events, layout, clock = self.bk, self.events, self.loop.layout, self.clock
        rows = events.capacity if clock.traced else None
        zero = clock.count(0)
        table = bk.real_rows(None if rows is None else rows + 1, 5, layout)
        left = bk.new_buffer(rows, layout, scratch=rows is not None)
        scratch = rows is not None
        right = bk.new_buffer(rows, layout, scratch=scratch) if events.resets else ()
        starts: Buffer = ()
        if events.keeps_starts:
            starts = bk.new_buffer(rows, self.loop.carried, scratch=scratch)
        values = tuple(self.value(j, t0, y0) for j in range(len(events.given)))
        counts = (zero,) * len(values)
        full = clock.where(zero > 0, True, False)
        none = clock.count(-1)
        return EventState(values, counts, zero, zero, none, full, table, left, right, starts)

    def value(self, j: int, t: Scalar, y: State) -> Scalar:
        """Condition j; of a boolean one, 1 or -1."""
        x = self.conditions[j](t, y)
        return self.clock.real(self.clock.where(x, 1.0, -1.0) if self.events.boolean[j] else x)

    def running(self, s: EventState) -> Bool:
        """Whether no event has ended the solve."""
        return self.clock.both(s.ended < 0, s.full == False)  # noqa: E712 - may be traced

    # --- one step
    def step(
        self,
        s: EventState,
        ok: Bool,
        step: tuple[Scalar, Scalar, Scalar],
        n: Index,
        states: tuple[State, State, SolverState],
    ) -> tuple[EventState, Scalar, State, State, SolverState]:
        """Look for events in the step (t, t_new, size), accepted as number n where ``ok``.

        ``states``: what is carried to it and from its end, and the solver's state there. Returned
        are the new
        state of the events, where the step ends, what is carried there (for its rows), and what is
        carried, with the solver's state, into the next.
        """
        clock, m = self.clock, len(self.events.given)
        zero, start = clock.real(0.0), clock.count(RECORDED)
        self.stepper.extra_stages(ok)
        if not clock.traced:
            values = self._quiet(s.values, step) if ok else s.values
            if values is not None:
                _, y1, state = states
                return s._replace(values=values), step[1], y1, y1, state
        sizes = tuple(abs(v) for v in s.values)
        scan = Scan(zero, (zero,) * m, sizes, clock.real(1.0), start, ok, s)
        part = lambda scan: self._part(scan, step, n)  # noqa: E731
        scan = self.bk.while_loop(lambda scan: scan.going, part, scan)
        t_new, cut = self._time(step, scan.theta), scan.kind > RECORDED
        starts, values, ended, y1, state = self._cut(scan, cut, t_new, states)
        return scan.state._replace(values=values, starts=starts), t_new, ended, y1, state

    def _quiet(
        self, values: tuple[float, ...], step: tuple[float, float, float]
    ) -> tuple[float, ...] | None:
        """The conditions at the end of a step in which none changes its sign, else None.

        What the walk through its parts gives then, for a third of the time.
        """
        t, t_new, size = step
        now: tuple[float, ...] = values
        for theta in QUARTERS:
            y, last = self.stepper.interpolate(theta), theta == 1.0
            at = t_new if last else t + theta * size
            now = tuple(
                self.value(j, at, y) if last or not boolean else values[j]
                for j, boolean in enumerate(self.events.boolean)
            )
            for x, v in zip(now, values, strict=True):
                if not (x > 0.0 < v or x < 0.0 > v):
                    return None
        return now

    def _time(self, step: tuple[Scalar, Scalar, Scalar], theta: Scalar) -> Scalar:
        t, t_new, size = step
        return self.clock.where(theta == 1.0, t_new, t + theta * size)

    def _part(self, scan: Scan, step: tuple[Scalar, Scalar, Scalar], n: Index) -> Scan:
        """The next part of a step: up to its end, or to the first root in it."""
        clock, m = self.clock, len(self.events.given)
        both, where = clock.both, clock.where
        high = self._next(scan)
        t, y = self._time(step, high), self.stepper.interpolate(high)
        now = tuple(self.value(j, t, y) for j in range(m))
        theta, winner = self._first(scan, step, high, now)
        hit, end = theta <= 1.0, high >= 1.0
        state, kind = scan.state, scan.kind
        for j in range(m):
            on = both(hit, winner == j)
            state, kind = self._hits(j, on, (state, kind), (theta, now[j]), step, n)
        seen, lows = [], []
        for j, (x, v) in enumerate(zip(now, state.values, strict=True)):
            new = both(abs(x) > 0, end) if self.events.boolean[j] else abs(x) > 0
            new = both(hit == False, new)  # noqa: E712 - may be traced
            seen.append(where(new, x, v))
            lows.append(where(new, high, where(both(hit, winner == j), theta, scan.lows[j])))
        sizes = tuple(clock.maximum(a, abs(x)) for a, x in zip(scan.sizes, now, strict=True))
        cut = clock.either(kind > RECORDED, state.full)
        going = both(cut == False, clock.either(hit, end == False))  # noqa: E712
        state = state._replace(values=tuple(seen))
        low = where(hit, theta, high)
        stop = where(both(hit, cut), theta, scan.theta)
        return Scan(low, tuple(lows), sizes, stop, kind, going, state)

    def _next(self, scan: Scan) -> Scalar:
        """Where to look next: very early while there is a condition without a sign, then at the
        quarters."""
        clock, low = self.clock, scan.low
        where, high = clock.where, clock.real(1.0)
        for quarter in QUARTERS[2::-1]:
            high = where(low < quarter, quarter, high)
        new: Bool = False
        for v, boolean in zip(scan.state.values, self.events.boolean, strict=True):
            new = new if boolean else clock.either(new, v == 0)
        return where(clock.both(new, low < self.early), clock.real(self.early), high)

    def _first(
        self,
        scan: Scan,
        step: tuple[Scalar, Scalar, Scalar],
        high: Scalar,
        now: tuple[Scalar, ...],
    ) -> _Roots:
        """The earliest root up to ``high`` and its event; 2 for none."""
        clock, bk = self.clock, self.bk
        both, either, where = clock.both, clock.either, clock.where
        theta, winner = clock.real(2.0), clock.count(-1)
        for j, event in enumerate(self.events.given):
            v, x, boolean = scan.state.values[j], now[j], self.events.boolean[j]
            rising, falling = both(v < 0, x >= 0), both(v > 0, x <= 0)
            direction = event.direction or int(boolean)
            on = (either(rising, falling), rising, falling)[direction]
            if boolean:
                on = both(on, high >= 1.0)
                root = where(on, high, 2.0)
            else:
                root = self._root(j, on, step, (scan.lows[j], v), (high, x))
            earlier = root < theta
            theta, winner = where(earlier, root, theta), bk.pick(earlier, j, winner)
        return theta, winner

    def _root(
        self,
        j: int,
        on: Bool,
        step: tuple[Scalar, Scalar, Scalar],
        low: tuple[Scalar, Scalar],
        high: tuple[Scalar, Scalar],
    ) -> Scalar:
        """The root of condition j between (theta, value) and (theta, value), from behind; 2 where
        not ``on``."""
        clock, interpolate = self.clock, self.stepper.interpolate
        both, where = clock.both, clock.where

        def narrow(s: Carry) -> Carry:
            a, fa, b, fb, room = s
            width, half = b - a, 0.5 * (a + b)
            x = (fb * a - fa * b) / (fb - fa)
            shift = 0.8 * width * width
            to = where(half >= x, 1.0, -1.0)
            x = where(shift <= abs(half - x), x + to * shift, half)
            reach = room - 0.5 * width
            x = where(abs(x - half) <= reach, x, half - to * reach)
            f = self.value(j, self._time(step, x), interpolate(x))
            same = clock.either(both(f > 0, fa > 0), both(f < 0, fa < 0))
            a, fa, b, fb = clock.select(same, (x, f, b, fb), (a, fa, x, f))
            return a, fa, b, fb, 0.5 * room

        def wide(s: Carry) -> Bool:
            return both(both(on, s[2] - s[0] > self.tolerance), s[3] != 0)

        start = (*low, *high, high[0] - low[0])
        return where(on, self.bk.while_loop(wide, narrow, start)[2], 2.0)

    def _hits(
        self,
        j: int,
        on: Bool,
        found: tuple[EventState, Index],
        root: tuple[Scalar, Scalar],
        step: tuple[Scalar, Scalar, Scalar],
        n: Index,
    ) -> tuple[EventState, Index]:
        """The state and the kind of what happened, with a hit of event j where ``on``."""
        one = lambda s: self._hit(j, s[0], root, step, n)  # noqa: E731
        return once(self.bk, self.clock, on, one, found)  # type: ignore[no-any-return]

    def _hit(
        self,
        j: int,
        s: EventState,
        root: tuple[Scalar, Scalar],
        step: tuple[Scalar, Scalar, Scalar],
        n: Index,
    ) -> tuple[EventState, Index]:
        """The state with a hit of event j at (theta, value behind it), and the hit's kind."""
        bk, clock, event, (theta, x) = self.bk, self.clock, self.events.given[j], root
        reset, pick = self.resets[j], bk.pick
        t, y = self._time(step, theta), self.stepper.interpolate(theta)
        count = s.counts[j] + 1
        kind, last = clock.count(RECORDED if reset is None else RESET), None
        if event.last is not None:
            last = count == event.last
            kind = pick(last, ENDED, kind)
        row, full, one = s.number, s.full, 1
        if clock.traced:
            full = clock.either(full, count > event.rows)
            row = pick(full, self.events.capacity, row)
            one = pick(full, 0, 1)
        table = bk.table_set(s.table, row, (theta, t, j, n, kind))
        right = s.right
        if self.events.resets:
            to = y
            if reset is not None:
                to = self.loop.layout.pack(reset(t, y))
                to = to if last is None else clock.select(last, y, to)
            right = bk.write(right, row, to)

        def place(xs: tuple[Scalar, ...], x: Scalar) -> tuple[Scalar, ...]:
            return (*xs[:j], x, *xs[j + 1 :])

        s = EventState(
            place(s.values, x), place(s.counts, s.counts[j] + one), s.number + one,
            s.cuts + pick(kind > RECORDED, one, 0), pick(kind == ENDED, j, s.ended), full,
            table, bk.write(s.left, row, y), right, s.starts,
        )  # fmt: skip
        return s, kind

    # --- where a step is cut
    def _cut(
        self, scan: Scan, cut: Bool, t: Scalar, states: tuple[State, State, SolverState]
    ) -> tuple[Buffer, tuple[Scalar, ...], State, State, SolverState]:
        """Starts of steps that were cut, values of the conditions, what is carried at the step's
        end, and what into the next."""
        bk, clock, s, (before, y1, state) = self.bk, self.clock, scan.state, states
        row = bk.pick(s.number > 0, s.number - 1, 0)

        def at_root(z: Carry) -> Carry:
            starts, values, _, y1, state = z
            if self.events.keeps_starts:
                starts = bk.write(starts, row, before)
            ended = self.stepper.start(t, bk.read(s.left, row))
            if not self.events.resets:
                return starts, values, ended, ended, state
            y = bk.read(s.right, row)
            y1 = self.stepper.start(t, y)
            state = self.stepper.init(t, y1)
            return starts, self._values_after(scan, t, y), ended, y1, state

        start = (s.starts, s.values, y1, y1, state)
        return once(bk, clock, cut, at_root, start)  # type: ignore[no-any-return]

    def _values_after(self, scan: Scan, t: Scalar, y: State) -> tuple[Scalar, ...]:
        """Values at the state behind a reset. One that is zero there, but for rounding, has no
        sign, if it was this event's; else it has the one that it had."""
        s = scan.state
        event = self.bk.table_get(s.table, self.bk.pick(s.number > 0, s.number - 1, 0))[EVENT]
        return self._values_at(scan, event, t, y)

    def _values_at(self, scan: Scan, event: Index, t: Scalar, y: State) -> tuple[Scalar, ...]:
        """The same; ``event``: which it was."""
        clock, found = self.clock, []
        for j, v in enumerate(scan.state.values):
            x, own = self.value(j, t, y), event == j
            if self.events.boolean[j]:
                found.append(clock.where(own, x, v))
                continue
            small = abs(x) <= self.nothing * scan.sizes[j]
            found.append(clock.where(small, clock.where(own, 0.0, v), x))
        return tuple(map(clock.real, found))


def once(bk: AbstractBackend, clock: Tree, on: Bool, fn: Function, s: Carry) -> Carry:
    """``fn(s)`` where on, else s: a branch that changes buffers in place in traced code, too."""
    if not clock.traced:
        return fn(s) if on else s
    off = clock.both(on, False)
    return bk.while_loop(lambda z: z[0], lambda z: (off, fn(z[1])), (on, s))[1]
