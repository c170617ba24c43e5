"""One try of a step, and the steps of an adaptive solve made of tries.

A try is the same whoever takes it: how far to go (``clock.land``), the solver's step and its
error, the controller's verdict and next size. Times, sizes and verdicts are the clock's: floats,
0-d arrays, or those of one sample of a batch, which stands still (``on``) while others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from .._backend.clock import NEARLY
from .._base.types import Bool, Carry, Index, Inputs, Leaves, Scalar, State, Table
from .._checkpointing import Patience, Slots, Stored
from .._solvers.base import AbstractStepper, Calls, SolverState, Step, reports_calls
from .._solvers.switching.rule import switching
from .outputs import Final
from .solution import Status
from .stiffness import TRIES, StiffnessHint

if TYPE_CHECKING:
    from .._backend.protocols import Clock
    from .._controllers.base import Adapt, AdaptiveController
    from .integrator import Integrator
    from .stops import Stops


UNSOLVED = -math.inf
"""In place of the squared error of a try whose equations were not solved."""


class AdaptiveState(NamedTuple):
    """What goes from try to try.

    Attributes
    ----------
    t, h : scalar [time]
        Where the next try begins, and how far it is to go.
    e2 : scalar
        Squared norm of the last try's scaled error, or ``UNSOLVED``.
    memory : tuple of scalar
        The controller's.
    y : state
        What the solver carries, and
    state : SolverState
        its own there.
    n, tries : int or traced scalar
        Accepted steps, and all of them.
    calls : int, traced scalar, Calls or ()
        Evaluations of f in them, where steps tell them; else ().
    times, sizes, rows : Table, Table, Carry
        Record of accepted times, of the sizes of steps where they are no differences of these
        (``Integrator.cut``), and the output rows inside the loop; () for none.
    events : EventState or ()
        What is known of the solve's events.
    stiff : Table or ()
        Behind a 0, which accepted steps were those of the stiff method (1), of a solver that
        switches.
    """

    t: Scalar
    h: Scalar
    e2: Scalar
    memory: tuple[Scalar, ...]
    y: State
    state: SolverState
    n: Index
    tries: Index
    calls: Index | Calls | tuple[()]
    times: Table | tuple[()]
    sizes: Table | tuple[()]
    rows: Carry
    events: Carry = ()
    stiff: Table | tuple[()] = ()


Try: TypeAlias = tuple[
    Bool, Scalar, Scalar, State, Scalar, Scalar, tuple[Scalar, ...], SolverState, SolverState,
    "Index | Calls | None",
]  # fmt: skip
"""(accepted, where it ends, its size, y1, squared error, next h, the controller's memory, the
solver's state if it is accepted, and if it is rejected, evaluations of f that it tells)."""


def try_step(
    clock: Clock, step: Callable[..., Step], adapt: Adapt, t1: Scalar, stops: Stops | None = None
) -> Callable[[Scalar, Scalar, tuple[Scalar, ...], State, SolverState], Try]:
    """One try of a solve to t1, ``(t, h, memory, y, state) -> Try``.

    The only place for it: every loop over tries, and every replay, takes it.
    """
    land, constant, where, traced = clock.land, clock.constant, clock.where, clock.traced

    def attempt(
        t: Scalar, h: Scalar, memory: tuple[Scalar, ...], y: State, state: SolverState,
        t1: Scalar = t1,
    ) -> Try:  # fmt: skip
        t_new, size = land(t, h, t1)
        y1, e2, after, again, failed, calls = step(t, size, y, state, error=True)
        if failed is not False:
            e2 = where(failed, math.inf, e2)  # for the controller
        # (t + h) - t may be above h by rounding: then a forced smallest step is still one (T16)
        if traced:
            e2, h = constant(e2), constant(where(abs(size) < abs(h), size, h))
        elif abs(size) < abs(h):
            h = size
        ok, h, memory = adapt(e2, h, memory)
        if failed is not False:
            e2 = where(failed, UNSOLVED, e2)
        return ok, t_new, size, y1, e2, h, memory, after, again, calls

    def to_stop(
        t: Scalar, h: Scalar, memory: tuple[Scalar, ...], y: State, state: SolverState
    ) -> Try:
        stop = stops.after(t, t1)  # type: ignore[union-attr]
        tried = attempt(t, h, memory, y, state, stop)
        ok, t_new, size, y1, e2, new, now, *rest = tried
        # a step that was cut short tells little: what was meant before goes on behind the stop
        # (one that is shorter than h by the rounding of (t + h) - t alone was not)
        short = clock.both(t_new == stop, abs(size) < NEARLY * abs(h))
        cut = clock.both(ok, short)
        longer = clock.both(cut, abs(new) < abs(h))
        new, now = constant(where(longer, h, new)), clock.select(cut, memory, now)
        return ok, t_new, size, y1, e2, new, now, *rest

    return attempt if stops is None else to_stop


class AdaptiveSteps:
    """The steps of one adaptive solve: where they begin, one try, whether there is another.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
    stepper : callable
        The solver's, or one that does more with each step.
    record : bool
        Note the accepted times.
    """

    def __init__(
        self,
        loop: Integrator,
        inputs: Inputs,
        stepper: Callable[..., AbstractStepper],
        *,
        record: bool,
    ) -> None:
        self.loop, self.inputs, self.record = loop, inputs, record
        self.sized = record and loop.cut
        clock = loop.clock
        self.controller = cast("AdaptiveController", loop.controller)
        self.field, stops = loop.bind(inputs.params), loop.stops
        if stops is not None:
            self.field = stops.sided(self.field)
        self.scale = loop.tolerances(inputs)
        judges = self.controller.judges
        self.stepper = stepper(loop.bk, loop.layout, self.field, self.scale if judges else None)
        self.t1 = clock.real(inputs.clocked[1])
        self.order = cast(int, loop.solver.error_order)
        adapt, step = self.controller.adapter(clock, self.order), self.stepper.step
        if not judges:
            step = _unjudged(clock, step, loop.carried.finite)
        self.attempt = try_step(clock, step, adapt, self.t1, stops)
        self.marked = record and loop.solver.switches
        if loop.solver.switches:
            self.attempt = switching(clock, self.attempt, loop.problem.chosen, loop.solver.reach)
        self.detector = loop.detector(inputs, self.stepper)
        self.emit = loop.outputs.emitters(loop.problem, loop.layout, inputs.params)
        self.patience, self.watch, self.stop = None, loop.watch, 0
        """``stop``: the number of tries at which to look next, where times are floats."""
        if not clock.traced:
            self.patience = Patience(self.t1, lambda t: loop.user_time(inputs, t))
            self.hint = StiffnessHint(loop, self.field)
            self.stop = self.patience.stop if self.watch is None else self.watch.stop

    def begin(self, inside: Carry) -> AdaptiveState:
        """The state before the first try; ``inside`` is the carry of the output rows."""
        loop, clock = self.loop, self.loop.clock
        t0 = clock.real(self.inputs.clocked[0])
        h0, e0, k0 = self._first_step(t0)
        y0, memory = self.stepper.start(t0, self.inputs.y0), loop.memory()
        state = self.stepper.init(t0, y0, k0)
        times = clock.record_new(t0, loop.max_steps) if self.record else ()
        sizes = clock.record_new(clock.real(0.0), loop.max_steps) if self.sized else ()
        stiff = clock.record_new(clock.real(0.0), loop.max_steps) if self.marked else ()
        zero, e0 = clock.count(0), clock.real(e0)
        calls = self.stepper.none(zero)
        events = () if self.detector is None else self.detector.begin(t0, self.inputs.y0)
        return AdaptiveState(
            t0, h0, e0, memory, y0, state, zero, zero, calls, times, sizes, inside, events, stiff
        )

    def _first_step(self, t0: Scalar) -> tuple[Scalar, Scalar, Leaves]:
        """Size of the first step, nan for its error where f or y0 is not finite, and its slope."""
        loop, field, y0 = self.loop, self.field, self.inputs.y0
        clock, layout = loop.clock, loop.layout
        if loop.stops is not None and loop.stops.jumps is not None:
            loop.stops.enter(t0)
        k0: Leaves = tuple(1.0 * k for k in field(layout.time(t0), y0))  # f may reuse them
        sound = layout.finite(layout.pack(k0))
        if clock.traced:
            sound = clock.both(sound, layout.finite(y0))
        # of nan or inf no step is made of a size that the controller would take for one
        h0, e0 = clock.real(0.0), clock.where(sound, 0.0, math.nan)
        if clock.traced or sound:
            first = (t0, self.t1, y0, k0)
            h = self.controller.first_step(clock, layout, field, self.scale, first, self.order)
            h0 = clock.where(sound, h, h0)
        # a constant, as all step sizes of a gradient
        return clock.constant(h0), e0, k0

    def at(self, y: State, t: Scalar, h: Scalar, memory: tuple[Scalar, ...]) -> AdaptiveState:
        """The state to go on from, of what is stored of it (``ClockedStates``)."""
        clock, state = self.loop.clock, self.stepper.init(t, y)
        zero = clock.count(0)
        return AdaptiveState(t, h, clock.real(0.0), memory, y, state, zero, zero, (), (), (), ())

    def step(self, s: AdaptiveState, on: Bool = True) -> AdaptiveState:
        """One try: a step if it is accepted. Where not ``on``, nothing changes."""
        clock = self.loop.clock
        tried = self.attempt(s.t, s.h, s.memory, s.y, s.state)
        ok, t_new, size, y1, e2, h, memory, after, again, calls = tried
        ok = clock.both(on, ok)
        times, sizes, rows, events, end = s.times, s.sizes, s.rows, s.events, y1
        if self.detector is not None:
            states = (s.y, y1, after)
            found = self.detector.step(events, ok, (s.t, t_new, size), s.n, states)
            events, t_new, end, y1, after = found
        if self.record:  # beyond the last accepted time there may be anything
            times = clock.record(times, s.n, t_new, ok)
        if self.sized:
            sizes = clock.record(sizes, s.n, size, ok)
        stiff = clock.record(s.stiff, s.n, s.memory[-2], ok) if self.marked else ()
        if s.rows:
            rows = self._collect(rows, ok, (s.t, t_new, size, end), s.n)
        new, old = (t_new, y1, after, s.n + 1), (s.t, s.y, again, s.n)
        t, y, state, n = clock.select(ok, new, old)
        calls = s.calls + calls if reports_calls(s.calls) else s.calls
        now, before = (h, e2, memory, s.tries + 1, calls), (s.h, s.e2, s.memory, s.tries, s.calls)
        h, e2, memory, tries, calls = clock.select(on, now, before)
        return AdaptiveState(
            t, h, e2, memory, y, state, n, tries, calls, times, sizes, rows, events, stiff
        )

    def _collect(
        self, rows: Carry, ok: Bool, step: tuple[Scalar, Scalar, Scalar, State], n: Index
    ) -> Carry:
        ts = self.inputs.clocked[2]
        return self.loop.outputs.collect(rows, ok, ts, step, n, self.stepper, self.emit)

    def running(self, s: AdaptiveState) -> Bool:
        """Whether to try another step."""
        loop, limit = self.loop, self.loop.max_steps
        if self.patience is not None and s.tries == self.stop:
            self._look(s.t, s.h, s.tries, s.y)
        left = 1 if limit is None else limit - s.tries
        going = loop.clock.running(s.t, self.t1, s.h, self.controller.floor, left)
        if self.detector is None:
            return going
        return loop.clock.both(going, self.detector.running(s.events))

    def _look(self, t: float, h: float, tries: int, y: State) -> int:
        """What is looked at once in many tries; the number of tries to look at next."""
        assert self.patience is not None
        if tries == self.patience.stop:
            if tries >= TRIES and isinstance(t, float):
                self.hint.look(t, h, y, self.patience.user_time(t))
            self.patience.look(t, h, tries)
        self.stop = self.patience.stop
        if self.watch is not None:
            due = tries == self.watch.stop
            self.stop = min(self.stop, self.watch.look(t, tries) if due else self.watch.stop)
        return self.stop

    def on_host(self, s: AdaptiveState, slots: Slots | None) -> tuple[AdaptiveState, Stored | None]:
        """All tries where times are floats, with local variables in place of a state.

        What ``running`` and ``step`` give, bit for bit (a test holds them to each other), for
        less: of cheap steps the calls and states between them took 8 %. ``slots``: None, or
        those that store every state.
        """
        loop, attempt = self.loop, self.attempt
        t, h, e2, memory, y, state, n, tries, calls, times, sizes, rows, _, stiff = s
        t1, floor, least = self.t1, self.controller.floor, 4 * loop.clock.eps
        write, note, limit = loop.bk.write, loop.clock.record, loop.max_steps
        buffer = None if slots is None else slots.new_buffer(loop.bk, loop.carried)
        record, sized, inside, marked = self.record, self.sized, bool(rows), self.marked
        stop = self.stop if limit is None else min(self.stop, limit)
        while True:
            while t != t1 and tries != stop and abs(h) > floor + least * abs(t):
                if buffer is not None:
                    buffer = write(buffer, n, y)
                before = memory
                tried = attempt(t, h, memory, y, state)
                ok, t_new, size, y1, e2, h, memory, after, state, evaluations = tried
                tries += 1
                if evaluations is not None:
                    calls += evaluations
                if not ok:
                    continue
                if record:
                    times = note(times, n, t_new, True)
                if sized:
                    sizes = note(sizes, n, size, True)
                if marked:
                    stiff = note(stiff, n, before[-2], True)
                if inside:
                    rows = self._collect(rows, True, (t, t_new, size, y1), n)
                t, y, state = t_new, y1, after
                n += 1
            if t == t1 or tries == limit or tries != stop:
                break
            stop = self._look(t, h, tries, y)
            stop = stop if limit is None else min(stop, limit)
        stored = None if buffer is None else Stored(buffer, None)
        s = AdaptiveState(
            t, h, e2, memory, y, state, n, tries, calls, times, sizes, rows, (), stiff
        )
        return s, stored

    def final(self, s: AdaptiveState, stored: Stored | None) -> Final:
        """Where the tries ended, and why."""
        if self.patience is not None and s.t != self.t1 and isinstance(s.t, float):
            self.hint.ended(s.t, s.h, s.y, self.patience.user_time(s.t), s.tries)
        final = Final(s.y, s.t, s.n, s.tries, self._why(s), s.rows, s.times, stored)
        calls = s.calls + self.stepper.untold if reports_calls(s.calls) else s.calls
        return final._replace(calls=calls, sizes=s.sizes, events=s.events, stiff=s.stiff)

    def _why(self, s: AdaptiveState) -> Index:
        """The status of a solve from where its tries stopped."""
        clock, limit = self.loop.clock, self.loop.max_steps
        why, sound = int(Status.dt_min), clock.is_finite(s.e2)
        if self.loop.solver.implicit:
            unsolved = s.e2 == UNSOLVED
            why = clock.where(unsolved, int(Status.unsolved), why)
            sound = clock.either(sound, unsolved)
        if limit is not None:
            why = clock.where(s.tries >= limit, int(Status.max_steps), why)
        why = clock.where(sound, why, int(Status.non_finite))
        why = clock.where(s.t == self.t1, int(Status.converged), why)
        if self.detector is None:
            return why
        why = clock.where(s.events.ended >= 0, int(Status.event), why)
        return clock.where(s.events.full, int(Status.too_many_events), why)


def _unjudged(
    clock: Clock, step: Callable[..., Step], finite: Callable[[State], Bool]
) -> Callable[..., Step]:
    """Steps without an estimate of their error, which is 0 where they are finite, else nan."""

    def taken(*place: Scalar, error: bool) -> Step:
        y1, _, after, rejected, failed, calls = step(*place, error=error)
        error2 = clock.real(clock.where(finite(y1), 0.0, math.nan))
        return Step(y1, error2, after, rejected, failed, calls)

    return taken
