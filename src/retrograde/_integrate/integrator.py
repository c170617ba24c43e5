"""The one forward loop: propose, step, judge, save, count.

Two integrations serve every solver and backend: a counted one over a grid known beforehand, and a
conditional one under an adaptive controller. Both can store states on the way
(``_checkpointing.checkpointed_while``) and record the accepted times; adjoints receive a
:class:`Integrator` and never import this module.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from .._backend.specialise import StepRequest, Steps, generic
from .._backend.stages import smallest
from .._base.types import (
    Body,
    Bool,
    Carry,
    Condition,
    CountedBody,
    Function,
    Index,
    Inputs,
    Scalar,
    Scale,
    State,
    Table,
)
from .._checkpointing import Slots, checkpointed_for, checkpointed_while, while_any, write_where
from .._controllers import (
    AbstractController,
    ConstantGrid,
    ConstantSteps,
    GivenGrid,
    Grid,
    StepTo,
)
from .._controllers.norms import LeafNorm
from .._solvers import AbstractSolver
from .._solvers.base import Calls, reports_calls
from .._solvers.switching.rule import memory
from .on_step import teller, told_steps, told_try
from .outputs import Final, Output, Outputs
from .problem import Problem
from .progress import Reporter, Watch
from .solution import Status
from .stops import Stops
from .try_step import AdaptiveState, AdaptiveSteps

if TYPE_CHECKING:
    from .._adjoints.replay_with_controller import ClockedStates
    from .._backend.protocols import Observer
    from .._controllers.base import AdaptiveController
    from .._solvers.base import AbstractStepper
    from .event_detection import Detector
    from .events import Events


class Integrator:
    """A solve, ready to run from any inputs.

    Parameters
    ----------
    problem : Problem
    solver : AbstractSolver
    controller : AbstractController
    outputs : Outputs
    max_steps : int or None
        Bound of the number of tries.
    count : int or None
        Number of steps where the host knows it.
    """

    def __init__(
        self,
        problem: Problem,
        solver: AbstractSolver,
        controller: AbstractController,
        outputs: Outputs,
        max_steps: int | None,
        count: int | None,
    ) -> None:
        self.bk = problem.bk
        self.problem = problem
        self.solver = solver
        self.controller = controller
        self.outputs = outputs
        self.max_steps = max_steps
        self.count = count
        self.layout = problem.layout
        self.carried = solver.carried(self.bk, problem.layout)
        self.bind = problem.bind
        self.clock = self.bk.clock(problem.layout)
        self.shifted = False
        """Whether the clock counts from a t0 that is not known to be 0."""
        self.rows_in_steps = False
        """Whether rows at t0 belong to the first step, so that they move with their times."""
        self.times_checked = True
        """Whether the times were known, and so checked, before the solve."""
        self.masked = False
        """Whether this is one sample of a batch, that stands still when it has ended."""
        self.cut = False
        """Whether a step's size may differ from what lies between two accepted times: then sizes
        are recorded, too."""
        self.events: Events | None = None
        self.saves = True
        """Whether rows inside the solve are saved; not where it is solved for its states alone."""
        self.norm: LeafNorm | None = None
        """Norm of a try's error in units of its tolerance; None: the root of the mean square."""
        self.on_step: Callable[..., object] | None = None
        """The user's, told of every try."""
        self.stops: Stops | None = None
        """Times that steps end on, of a loop that is ``placed``."""
        self.compiled: Steps | None = None
        """Steps as compiled programs, where the user asked for them and they are a form apart."""
        self.progress: bool | Callable[[float], object] = False
        self.watch: Watch | None = None
        self.watch_back: Watch | None = None
        """What tells of the steps that a reverse pass pulls."""

    @property
    def looks_inside(self) -> bool:
        """Whether the inside of every step is looked at, for events."""
        return self.events is not None

    @property
    def adaptive(self) -> bool:
        """Whether steps can be rejected."""
        return self.controller.adaptive

    @property
    def jumps(self) -> bool:
        """Whether f is told on which side of a jump it is asked: the solver's own steps alone do
        so (``stops``)."""
        return getattr(self.controller, "jump_ts", None) is not None

    def placed(self, inputs: Inputs) -> Integrator:
        """The same loop, where f and ``SaveAt.fn`` are given t0 + t of a time t of the clock."""
        if not self.shifted and not inputs.settings[2:]:
            return self
        twin = copy.copy(self)
        if inputs.settings[2:]:
            twin.stops = Stops(twin, inputs)
        if not self.shifted:
            return twin
        origin = self.clock.real(self.bk.stop_gradient(inputs.t0))
        twin.layout = self.problem.layout.at(origin)
        twin.carried = self.solver.carried(self.bk, twin.layout)
        return twin

    def in_batch(self, *, saves: bool) -> Integrator:
        """The same loop for a sample of a batch: as many tries as the longest takes."""
        twin = copy.copy(self)
        twin.saves = saves
        twin.outputs, twin.masked = self.outputs.batched(), True
        return twin

    def silent(self) -> Integrator:
        """The same loop that tells nobody of its progress and its steps: for what is solved
        again."""
        if not self.progress and self.on_step is None:
            return self
        twin = copy.copy(self)
        twin.progress, twin.watch, twin.on_step = False, None, None
        return twin

    def user_time(self, inputs: Inputs, t: Scalar) -> Scalar:
        """A time (or times, where they are traced) of the clock as the user counts it."""
        if not inputs.relative:
            return t
        clock, end = self.clock, self.clock.real(inputs.clocked[1])
        own = clock.real(inputs.t0) + t if self.shifted else t
        return clock.where(t == end, clock.real(inputs.t1), own)

    def state(self, carried: State) -> State:
        """y, of what the solver carries from step to step (``carried`` is its layout)."""
        return self.solver.state(self.layout, carried)

    def compile(self) -> None:
        """Have steps compiled, or raise where the library can't."""
        request = StepRequest(compile=True, dense=self.looks_inside or self.outputs.interpolates)
        found = self.bk.specialise(self.solver, self.problem, request)
        self.compiled = None if generic() else found

    def steps(self, *, gradient: bool = False, **needs: bool) -> Steps:
        """How steps are made, and their vjps: in the adapter's form of them where it has one.

        ``needs``: of a :class:`StepRequest`.
        """
        out = self.outputs
        request = StepRequest(
            error=self.adaptive, outputs=self.looks_inside or out.inside,
            dense=self.looks_inside or out.interpolates, gradient=gradient, **needs,
        )  # fmt: skip
        found = self.compiled
        if found is None and not (generic() or self.jumps):
            found = self.bk.specialise(self.solver, self.problem, request)
        found = found or Steps(self.solver.stepper, self.solver.step_vjp)
        return found if self.stops is None else self.stops.steps(found)

    def detector(self, inputs: Inputs, stepper: AbstractStepper) -> Detector | None:
        """What finds the events of an integration's steps; None where there are none."""
        if self.events is None:
            return None
        from .event_detection import Detector

        return Detector(self, inputs, stepper)

    # --- integrations
    def integrate(
        self,
        inputs: Inputs,
        slots: Slots | None = None,
        *,
        record: bool = False,
        guard: Observer | None = None,
        clocked: ClockedStates | None = None,
    ) -> Final:
        """Solve from t0 to t1; store states by ``slots``, record accepted times if asked.

        ``guard.note(table, i, y)`` is called with the state before step i, for i = 1, 2, ...;
        one with a ``stepper`` makes the integration's steps (``TapeAdjoint``).
        ``clocked.pack(y, t, h, memory)`` is what an adaptive integration stores in place of y.
        """
        if self.progress and self.watch is None:
            return self._with_progress(inputs, slots, record=record, guard=guard, clocked=clocked)
        inside = self._rows_at_start(inputs) if self.saves else ()
        record = record or (self.saves and self.outputs.stepped)
        if self.adaptive:
            final = self._integrate_adaptive(inputs, inside, slots, record, guard, clocked)
        else:
            final = self._integrate_grid(inputs, inside, slots, guard)
        return final if self.times_checked else self._judged(inputs, final)

    def _judged(self, inputs: Inputs, final: Final) -> Final:
        """The end of an integration, or that of one that was not begun where its times are bad."""
        clock: Any = self.clock  # a traced one
        controller, out = self.controller, self.outputs
        t0, t1 = (clock.real(t) for t in inputs.clocked[:2])
        ts, rows, good = inputs.clocked[2], final.inside, clock.in_order(t0, (), t1)
        timed = [k for k, part in enumerate(out.parts) if part.inside == "ts"]
        for part in (out.parts[k] for k in timed):
            good = clock.both(good, clock.in_order(t0, ts[part.first : part.last + 1], t1))
        if isinstance(controller, ConstantSteps):
            dt = clock.real(inputs.settings[0] if inputs.settings else controller.dt)
            good = clock.both(good, clock.either((t1 - t0) * dt > 0, t0 == t1))
        elif isinstance(controller, StepTo):
            for t, given in ((inputs.t0, controller.times[0]), (inputs.t1, controller.times[-1])):
                good = clock.both(good, clock.near(clock.real(t), clock.real(given)))
        elif (dt0 := getattr(controller, "dt0", None)) is not None:
            good = clock.both(good, (t1 - t0) * clock.real(dt0) >= 0)
        if self.stops is not None:
            good = clock.both(good, self.bk.xp.all(self.bk.xp.isfinite(self.stops.stops)))
        for k in timed if self.saves else ():  # a solve to t1 has met all of them
            met = rows[k][0] == out.parts[k].count
            good = clock.both(good, clock.either(met, final.status != int(Status.converged)))
        if rows:
            parts = [(self.bk.pick(good, c[0], 0), *c[1:]) if c else c for c in out.each(rows)]
            rows = (*parts, *rows[len(parts) :])
        status = clock.where(good, final.status, int(Status.bad_times))
        return final._replace(status=status, t=clock.where(good, final.t, t0), inside=rows)

    def _with_progress(self, inputs: Inputs, slots: Slots | None, **settings: Any) -> Final:
        """The same integration, reported; replays are not (``silent``)."""
        reporter = Reporter(self.progress)
        self.watch = Watch(self.bk, self.clock, reporter, inputs.clocked[:2])
        try:
            final = self.integrate(inputs, slots, **settings)
            self.watch.ended(final.t)
        finally:
            self.watch = None
            if not self.clock.traced:  # else it is a program that will run
                reporter.close()
        return final

    @contextlib.contextmanager
    def bar_back(self, inputs: Inputs, wish: bool | Callable[[float], object]) -> Iterator[None]:
        """For a reverse pass of an eager library, the bar that was wished for; a callable, which
        could not tell it from the solve, is not told."""
        if wish is not True:
            yield
            return
        reporter, (t0, t1, _) = Reporter(True, "reverse: "), inputs.clocked
        self.watch_back = Watch(self.bk, self.clock, reporter, (t1, t0))
        try:
            yield
            self.watch_back.ended(self.clock.real(t0))
        finally:
            self.watch_back = None
            reporter.close()

    def memory(self) -> tuple[Scalar, ...]:
        """What goes from try to try beside times and states: the controller's, and behind it what
        a solver that switches remembers."""
        own = cast("AdaptiveController", self.controller).init(self.clock)
        return (*own, *memory(self.clock)) if self.solver.switches else own

    def step_again(self, grid: Grid, i: Index) -> tuple[Scalar, Scalar]:
        """Start and size of step i; which method it is of, where the solver switches, is noted."""
        if self.solver.switches:
            self.problem.chosen.stiff = grid.stiff(i)
        return grid.step(i)

    def grid(self, inputs: Inputs, final: Final | None = None) -> Grid:
        """Start and size of every accepted step."""
        clock = self.clock
        if isinstance(self.controller, ConstantSteps):
            t0, t1 = (clock.real(t) for t in inputs.clocked[:2])
            dt = clock.real(inputs.settings[0] if inputs.settings else self.controller.dt)
            whole = clock.steps(t0, t1, dt) if self.count is None else self.count
            return ConstantGrid(clock, (t0, t1), dt, whole, self._bounded(whole))
        if isinstance(self.controller, StepTo):
            times: Table = self.controller.times
            whole = len(times) - 1
            if self.shifted:
                times = tuple(t - times[0] for t in times)
            times = self.bk.time_sequence(times, self.layout)
            return GivenGrid(self.bk, times, whole, self._bounded(whole), shifts=False)
        assert final is not None
        fixed = None if self.stops is None else self.stops.first
        return GivenGrid(self.bk, final.times, final.n, shifts=True, sizes=final.sizes, fixed=fixed,
            stiff=final.stiff,
        )  # fmt: skip

    def tolerances(self, inputs: Inputs) -> Scale:
        """Tolerances of the error norm, numbers or states."""
        if inputs.settings:
            rtol, atol = inputs.settings[:2]
            return Scale(rtol, atol, self.norm)
        controller: Any = self.controller
        least = smallest(self.bk.itemsize(self.problem.layout.real_dtype))
        return Scale(float(controller.rtol), max(float(controller.atol), least), self.norm)

    def _bounded(self, count: Index) -> Index:
        if self.max_steps is None:
            return count
        known = isinstance(count, int)
        return (min if known else self.clock.minimum)(count, self.max_steps)

    def _rows_at_start(self, inputs: Inputs) -> Carry:
        """Rows for the saved times that equal t0."""
        out = self.outputs
        carry = out.start(0 if self.looks_inside else self.solver.extra)
        if not out.timed:
            return carry
        rows = [
            self._rows_at(inputs, part, c) if part.inside == "ts" else c
            for part, c in zip(out.parts, carry, strict=False)
        ]
        return (*rows, *carry[len(rows) :])

    def _rows_at(self, inputs: Inputs, out: Output, carry: Carry) -> Carry:
        """Those of one output."""
        bk = self.bk
        t0, t1 = (self.clock.real(t) for t in inputs.clocked[:2])
        ts = inputs.clocked[2]
        row = out.emitter(self.problem, self.layout, inputs.params)(t0, inputs.y0)

        def at_start(s: Carry) -> Bool:
            i = bk.pick(s[0] < out.count, out.first + s[0], out.last)
            here = self.clock.both(s[0] < out.count, bk.table_get(ts, i) == t0)
            return self.clock.both(here, t0 == t1) if self.rows_in_steps else here

        def written(s: Carry, on: Bool) -> Carry:
            buffer = write_where(bk, self.clock, on, (s[1], s[0]), row)
            return bk.pick(on, s[0] + 1, s[0]), buffer

        return while_any(bk, self.masked, at_start, written, carry)

    def _integrate_grid(
        self, inputs: Inputs, inside: Carry, slots: Slots | None, guard: Observer | None
    ) -> Final:
        bk, out, clock = self.bk, self.outputs, self.clock
        grid = self.grid(inputs)
        field = self.bind(inputs.params)
        make = getattr(guard, "stepper", None) or self.steps().stepper
        stepper = make(bk, self.layout, field)
        emit, ts = out.emitters(self.problem, self.layout, inputs.params), inputs.clocked[2]

        n = grid.count
        trips = bk.most(n) if self.masked else n

        counts = (stepper.none(clock.count(0)),) if stepper.tells_algebra else ()

        def plain(i: Index, s: Carry) -> Carry:
            t, h = grid.step(i)
            y1, _, _, _, _, calls = stepper.step(t, h, s[0], None, error=False)
            new = (y1, s[1] + calls) if counts else (y1,)
            return clock.select(i < n, new, s) if self.masked else new

        def saving(i: Index, s: Carry) -> Carry:
            y, state, rows, reached, *more = s
            t, h = grid.step(i)
            y1, _, after, _, _, calls = stepper.step(t, h, y, state, error=True)
            # an eager integration that fails is looked at once more; nan and inf last
            ok = self.carried.finite(y1) if clock.traced else clock.yes
            on = i < n if self.masked else True
            ok = clock.both(on, ok)
            rows = out.collect(rows, ok, ts, (t, grid.end(i), h, y1), i, stepper, emit)
            more = [clock.select(on, x + calls, x) for x in more]
            y1, state = clock.select(on, (y1, after), (y, state))
            return y1, state, rows, bk.pick(ok, i + 1, reached), *more

        step: CountedBody = saving if inside else plain
        if (tell := teller(self, inputs)) is not None:
            step = told_steps(step, grid, tell, clock, n if self.masked else None)
        t0 = clock.real(inputs.clocked[0])
        y0 = stepper.start(t0, inputs.y0)
        start: Carry = (y0, *counts)
        if inside:
            start = (y0, stepper.init(t0, y0), inside, clock.count(0), *counts)
        taken = self._watched_steps(step, grid, self.watch) if self.watch else step
        if guard is not None:
            start = (*start, guard.table(grid.count if self.count is not None else self.max_steps))
            taken = guard.on_grid(taken)
        first = lambda s: s[0]  # noqa: E731
        s, stored = checkpointed_for(bk, trips, start, taken, first, slots, self.carried)
        *s, noted = s if guard is not None else (*s, None)
        calls = s[-1] if counts else ()
        inside = s[2] if inside else inside
        reached = s[3] if inside else None
        final = self._end_of_grid(inputs, grid, stepper, (y0, s[0]), inside, reached, calls)
        turns = trips if self.masked else None
        return final._replace(stored=stored, noted=noted, trips=turns)

    def _end_of_grid(
        self,
        inputs: Inputs,
        grid: Grid,
        stepper: AbstractStepper,
        ends: tuple[State, State],
        inside: Carry,
        reached: Index | None,
        calls: Index | Calls | tuple[()],
    ) -> Final:
        """Where an integration over a grid ended; ``ends``: what was carried first and last."""
        bk, clock, (y0, y), n = self.bk, self.clock, ends, grid.count
        t, finite, last = clock.real(inputs.clocked[1]), self.carried.finite(y), n
        status = clock.where(n == grid.whole, int(Status.converged), int(Status.max_steps))
        status = clock.where(finite, status, int(Status.non_finite))
        if clock.traced:
            last = bk.pick(finite, n, reached) if inside else n
        elif not finite:
            y, n, again, unsolved = self._last_finite(y0, grid, stepper)
            status = int(Status.unsolved) if unsolved else status
            if not reports_calls(calls):
                beyond = self.solver.calls(grid.count - n, full=bool(inside))
                again = beyond + self.solver.calls(n + 1, full=False)
            self.problem.trials += again
            ts = inputs.clocked[2]
            last, inside = n, self.outputs.reached(inside, ts, grid, n)
        t = clock.where(last == grid.whole, t, grid.end(last - 1))
        if clock.traced and not inside:  # no step was looked at: it is not known
            t = clock.where(finite, t, math.nan)
        return Final(y, t, n, n, status, inside, None, None, calls=calls)

    def _last_finite(
        self, y: State, grid: Grid, stepper: AbstractStepper
    ) -> tuple[State, int, int, bool]:
        """State and index before the first step that gives nan or inf, found by replay; the
        evaluations of f that this told; and whether that step's equations were not solved.

        Only a solve that failed pays for it; nan lasts, so one look at the end tells of it.
        """
        again = Calls(0, 0, 0)
        for i in range(grid.count):
            t, h = grid.step(i)
            y1, _, _, _, failed, calls = stepper.step(t, h, y, None, error=False)
            again += calls or 0
            if not self.carried.finite(y1):
                return y, i, again.f, bool(failed)
            y = y1
        raise AssertionError("the replay of a failed integration did not fail")

    def _integrate_adaptive(
        self, inputs: Inputs, inside: Carry, slots: Slots | None, record: bool,
        guard: Observer | None, clocked: ClockedStates | None,
    ) -> Final:  # fmt: skip
        bk = self.bk
        make = getattr(guard, "stepper", None) or self.steps().stepper
        tries = AdaptiveSteps(self, inputs, make, record=record)
        tell = teller(self, inputs)
        if tell is not None:
            tries.attempt = told_try(tries.attempt, tell)
        start: Carry = tries.begin(inside)
        plain = guard is None and clocked is None and self.events is None
        if bk.python_loops and plain and (slots is None or slots.everything):
            return tries.final(*tries.on_host(start, slots))
        one: Function = tries.step
        if self.watch and self.clock.traced:
            one = self._watched(tries, self.watch)
        extra: Table = None
        step: Body = lambda s: (one(s[0]), None)  # noqa: E731
        running: Condition = lambda s: tries.running(s[0])  # noqa: E731
        if guard is not None:
            extra, step = guard.table(self.max_steps), guard.on_tries(one)
        elif self.masked:
            extra = self.clock.count(0)
            step = lambda s: (one(s[0], tries.running(s[0])), s[1] + 1)  # noqa: E731
            running = lambda s: bk.most(tries.running(s[0]))  # noqa: E731

        def view(s: Carry) -> Carry:
            s, trips = s
            y = s.y if clocked is None else clocked.pack(s.y, s.t, s.h, s.memory)
            return trips if self.masked else s.n, y

        carry = (start, extra)
        (s, extra), stored = checkpointed_while(
            bk, carry, step, running, view, slots, clocked or self.carried
        )
        final = tries.final(s, stored)
        return final._replace(trips=extra) if self.masked else final._replace(noted=extra)

    def _watched(self, tries: AdaptiveSteps, watch: Watch) -> Function:
        """Tries of a step that are reported."""

        def one(s: AdaptiveState, on: Bool = True) -> AdaptiveState:
            after = tries.step(s, on)
            watch.step(s.t, after.t, s.tries == 0)
            return after

        return one

    def _watched_steps(self, step: CountedBody, grid: Grid, watch: Watch) -> CountedBody:
        """Steps of a grid that are reported."""

        def watched(i: Index, s: Carry) -> Carry:
            if self.clock.traced:
                watch.step(grid.step(i)[0], grid.end(i), i == 0)
            elif i == watch.stop:
                watch.look(grid.step(i)[0], i)
            return step(i, s)

        return watched

    def tries(self, inputs: Inputs) -> AdaptiveSteps:
        """Tries that record nothing and save no rows, to go on from states that were stored."""
        return AdaptiveSteps(self, inputs, self.steps().stepper, record=False)

    def statistics(
        self, tries: Index, steps: Index, inside: Index, calls: Any, cuts: Index
    ) -> dict[str, Index]:
        """What a solve tells of its calls of f, and of its linear algebra."""
        algebra = self.solver.linear_algebra(tries, steps, traced=self.clock.traced)
        if isinstance(calls, Calls):
            names = ("num_jac_evals", "num_factorizations")
            algebra = dict(zip(names, map(self.bk.number, calls[1:]), strict=True))
        return {"num_f_evals": self.evaluations(tries, inside, calls, cuts), **algebra}

    def evaluations(self, tries: Index, inside: Index, counted: Any = (), cuts: Index = 0) -> Index:
        """Calls of f by an integration of so many tries, and steps with rows inside.

        ``counted``: those in the tries, where steps tell them; ``cuts``: steps that events cut.
        """
        out, solver = self.outputs, self.solver
        first = solver.init_evaluations if out.inside else 0
        if self.adaptive:
            controller: Any = self.controller
            first = 1 if controller.dt0 is not None else 2
        full = self.adaptive or out.inside
        counted = counted.f if isinstance(counted, Calls) else counted
        calls = (
            self.bk.number(counted) if reports_calls(counted) else solver.calls(tries, full=full)
        )
        again = cuts * solver.init_evaluations if self.events and self.events.resets else 0
        return first + calls + inside * solver.extra + again

    def called(self, final: Final) -> int:
        """The same of an integration that has ended; 0 in a traced library, which runs no f
        itself."""
        if self.clock.traced:
            return 0
        number, inside, cuts = self.bk.number, self.taken(final), 0
        if self.events is not None:
            cuts = final.events.cuts
        return int(self.evaluations(number(final.tries), number(inside), final.calls, cuts))

    def taken(self, final: Final) -> Index:
        """Steps whose inside was asked for."""
        return final.n if self.looks_inside else self.outputs.taken(final)
