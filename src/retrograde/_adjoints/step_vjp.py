"""The pull of one accepted step with everything that hangs on it: output rows, parameters, times.

Step sizes are constants of the gradient. Times move with t0 (constant and adaptive steps) or
stand still (given times); t1 enters through the last step's size. With ct_t and ct_h the
cotangents of a step's start and size, a step of constant size adds ct_t to dL/dt0; the last one
adds ct_t - ct_h to dL/dt0 and ct_h to dL/dt1. Between two jumps (``_integrate.stops``) it is the
same, with their times in place of t0 and t1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .._autodiff.field_vjp import field_pullback
from .._base.types import (
    Bool,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Table,
)
from .event_vjp import EventVJP
from .output_vjp import Found, OutputVJP, StepSpan

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final
    from .._solvers.base import AbstractStepper
    from .._solvers.runge_kutta.solver import Sources


class PullCarry(NamedTuple):
    """What the reversal threads from step to step: cotangents, the next row of each output, and the
    next hit of an event. Behind one, or behind a stop, t0 is the cotangent of its time."""

    g: State
    params: ParamSums
    t0: Scalar
    t1: Scalar
    ts: Table
    row: tuple[Index, ...]
    hit: Index = ()
    jumps: Table = ()


RowSources: TypeAlias = "Callable[[AbstractStepVJP, State, ParamSums], Sources]"
"""What the rows of a step add to its pull."""


class ReverseStep:
    """Pulls steps of one solve back, for ``_checkpointing.reverse``.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
    final : Final
        Where the forward integration ended.
    cotangents : tuple of array, shape (k, *shape)
        Of the output rows.
    wanted : NeedsGradient
    one_tape : bool
        Hold the tape of one stage at a time, for one more evaluation of f a stage.
    stored : bool
        Every state is stored, so that no step is replayed.
    pass
        The reverse pass, where it is made already.
    """

    def __init__(
        self,
        loop: Integrator,
        inputs: Inputs,
        final: Final,
        cotangents: Leaves,
        wanted: NeedsGradient,
        *,
        one_tape: bool = False,
        stored: bool = False,
        step_vjp: AbstractStepVJP | None = None,
    ) -> None:
        bk, problem, out = loop.bk, loop.problem, loop.outputs
        if loop.events is not None:  # what lies behind an event moves with it
            wanted = wanted._replace(t0=True)
        self.loop, self.bk, self.inputs, self.wanted = loop, bk, inputs, wanted
        self.clock, self.layout, self.out = loop.clock, loop.layout, out
        self.masked = loop.masked
        self.n = final.n
        self.grid = loop.grid(inputs, final)
        self.vjp = field_pullback(problem, inputs.params, wanted)
        parts = zip(out.parts, out.split(cotangents), strict=True)
        self.parts = [OutputVJP(loop, inputs, wanted, *part) for part in parts]
        self.inside = out.inside or loop.looks_inside
        self.events: EventVJP | None = None
        if loop.events is not None:
            rest = cotangents[out.width :]
            self.events = EventVJP(loop, inputs, wanted, final, rest)
            if hasattr(self.vjp, "notice"):
                self.vjp.notice = None
        field = problem.bind(inputs.params)
        if step_vjp is None:
            steps = loop.steps(gradient=True, time=wanted.time, one_tape=one_tape, stored=stored)
            implicit = loop.solver.implicit  # has its Jacobian of f itself
            more = {"one_tape": one_tape} if implicit else {}
            step_vjp = steps.step_vjp(
                bk, self.layout, self.vjp, outputs=self.inside, time=wanted.time,
                field=field if one_tape or implicit else None, **more,
            )  # fmt: skip
        self.step_vjp = step_vjp
        self.field = field
        self.watch = loop.watch_back

    # --- the ends of a solve
    def start(self, final: Final) -> PullCarry:
        """Cotangents at t1."""
        real, rows = self.clock.real, self.out.rows_inside(final)
        g, params, t1 = None, self.vjp.zero(), real(0.0)
        for part, row in zip(self.parts, rows, strict=True):
            if part.out.saveat.final:
                ct, ct_t, params = part.at_end(final, row, params)
                ct, t1 = self.step_vjp.embed(ct), t1 + ct_t
                g = ct if g is None else self.loop.carried.add(g, ct)
        g = self.loop.carried.zeros() if g is None else g
        ts: Table = ()
        if self.wanted.ts and self.out.timed:
            ts = self.bk.reals(len(self.inputs.ts), self.layout)
        jumps: Table = ()
        if self.wanted.jumps:
            jumps = self.bk.reals(len(self.inputs.jumps), self.layout)
        if self.events is None:
            return PullCarry(g, params, real(0.0), t1, ts, rows, jumps=jumps)
        where, ended, t1 = self.clock.where, self.events.ended, real(t1 + self.events.end)
        rows = tuple(
            final.inside[k][0] if part.out.inside == "ts" else row
            for k, (part, row) in enumerate(zip(self.parts, rows, strict=True))
        )
        t0, t1 = where(ended, t1, 0.0 * t1), where(ended, 0.0 * t1, t1)
        return PullCarry(g, params, t0, t1, ts, rows, final.events.number, jumps)

    def finish(self, carry: PullCarry) -> Inputs:
        """Cotangents of the inputs, after the last pull."""
        t0, y0 = self.clock.real(self.inputs.clocked[0]), self.inputs.y0
        g, ct_t, params = self.step_vjp.finish(t0, y0, carry.g, carry.params)
        carry = carry._replace(g=g, params=params)
        if self.wanted.time:
            carry = self._time_of_no_step(carry._replace(t0=carry.t0 + ct_t))
        g, params, ct_t = carry.g, carry.params, carry.t0
        for part, row in zip(self.parts, carry.row, strict=True):
            g, params, ct_t = part.at_start(t0, y0, row, g, params, ct_t)
        return Inputs(g, self.vjp.finish(params), ct_t, carry.t1, carry.ts, jumps=carry.jumps)

    def _time_of_no_step(self, carry: PullCarry) -> PullCarry:
        """Where t0 is t1, no step tells the time derivatives: dy/dt1 = f, dy/dt0 = -f."""
        where, none = self.clock.where, self.n == 0
        t0 = self.layout.time(self.clock.real(self.inputs.clocked[0]))
        if none is False:
            return carry
        k, _ = self.vjp(t0, self.inputs.y0)
        d = self.layout.inner(carry.g, self.layout.pack(k))
        if self.loop.problem.mass is not None:  # M y' = f may have no y' there
            d = d * math.nan
        return carry._replace(
            t0=where(none, carry.t0 - d, carry.t0), t1=where(none, carry.t1 + d, carry.t1)
        )

    # --- one step
    @functools.cached_property
    def replay(self) -> AbstractStepper:
        """Steps forward; made where one is asked for, as where states are stored none is."""
        return self.step_vjp.replay(self.field)

    def advance(self, i: Index, y: State) -> State:
        """Replay step i."""
        t, h = self.loop.step_again(self.grid, i)
        y1 = self.replay.step(t, h, y, None, error=False).y1
        if self.events is not None:
            return self.events.replayed(self.replay, i, (t, h), y, y1)
        return self.clock.select(self._taken(i), y1, y)

    def invert(self, i: Index, y_after: State) -> State:
        """The carried state before step i, from the one after it (see ``reversible``)."""
        t, h = self.loop.step_again(self.grid, i)
        if self.events is not None:
            return self.events.inverted(self.replay, i, (t, h), y_after)
        return self.replay.invert(t, h, y_after)

    def pull(self, i: Index, y: State, carry: PullCarry) -> PullCarry:
        """Reverse step i from the state before it."""
        step = self.loop.step_again(self.grid, i)
        return self.pull_step(i, step, y, carry, self._taken(i))

    def _taken(self, i: Index) -> Index:
        """Whether step i was taken: in a batch, others may have taken more."""
        return i < self.n if self.masked else True

    def pull_step(
        self, i: Index, step: tuple[Scalar, Scalar], y: State, carry: PullCarry, on: Bool = True
    ) -> PullCarry:
        """The same for a step whose start and size are given, where ``on``."""
        (t, h), before, last = step, carry.t0, self._last(i)
        if self.watch is not None and self.n - i >= self.watch.stop:
            self.watch.look(t, self.n - i)
        carry, (begins, moved, ends), jump = self._movement(i, last, step, carry)
        span = StepSpan(i, t, h, last, ends, on)
        sources = self._sources(span, carry) if self.inside else None
        # the step's size matters where it depends on t0 or t1; a traced index may be any
        size = self.wanted.time and (self.clock.traced or last or moved)
        out, extra = self.step_vjp.pull(t, h, y, carry.g, carry.params, sources, size)
        t0, t1, hit, jumps = carry.t0, carry.t1, carry.hit, carry.jumps
        row, ts, fn_t0, fn_t1, *rest = extra or (carry.row, carry.ts, 0.0, 0.0)
        if rest:
            hit, t0 = rest
        if self.wanted.time:
            where, zero = self.clock.where, 0.0
            if jump is not None:
                jumps, fn_t0 = self._jumped(jump, on, carry.jumps, before + out.h, fn_t0)
            inner = where(begins, out.t, zero)
            t0 = t0 + where(moved, out.t - out.h, inner) + fn_t0
            t1 = t1 + where(last, out.h, zero) + fn_t1
        new, old = (out.y, out.params, t0, t1), (carry.g, carry.params, before, carry.t1)
        g, params, t0, t1 = self.clock.select(on, new, old)
        return PullCarry(g, params, t0, t1, ts, row, hit, jumps)

    def _last(self, i: Index) -> Bool:
        """Whether step i ends at t1."""
        last = i + 1 == self.n
        if self.events is None:
            return last
        return self.clock.both(last, self.events.ended == False)  # noqa: E712 - may be traced

    def _movement(
        self, i: Index, last: Bool, step: tuple[Scalar, Scalar], carry: PullCarry
    ) -> tuple[PullCarry, tuple[Bool, Bool, Bool], tuple[Index, Bool] | None]:
        """How a step moves with where the steps begin (``Grid.moves``): at t0, at an event, or at a
        jump; and the jump that it ends on, where derivatives by these are wanted.

        Where it ends on a stop, the steps behind it do not move with it, and what the carry has of
        them is nothing to it.
        """
        (t, h), stops, where = step, self.loop.stops, self.clock.where
        if stops is None:
            return carry, self.grid.moves(i, last, t, h), None
        lands, on_stop = stops.lands(t, h)
        if self.events is not None:
            on_stop = where(self.events.cut(i, carry.hit)[0], False, on_stop)
        carry = carry._replace(t0=where(on_stop, 0.0, carry.t0))
        ends = where(on_stop, False, True)
        if not self.wanted.jumps:
            return carry, (True, lands, ends), None
        k, here = stops.jump_at(stops.after(t, stops.t1))
        here = self.clock.both(on_stop, here)
        return carry, (True, lands, self.clock.either(ends, here)), (k, here)

    def _jumped(
        self, jump: tuple[Index, Bool], on: Bool, jumps: Table, ct: Scalar, row: Scalar
    ) -> tuple[Table, Scalar]:
        """Cotangents of jumps with those of a step that ended on one: of the starts behind it and
        of the step's size, and of the time of its row; what of that is not the jump's."""
        (k, here), where = jump, self.clock.where
        if not self.clock.traced and not here:
            return jumps, row
        more = where(self.clock.both(on, here), ct + row, 0.0)
        jumps = self.bk.table_set(jumps, k, self.bk.table_get(jumps, k) + more)
        return jumps, where(here, 0.0, row)

    def _sources(self, step: StepSpan, carry: PullCarry) -> RowSources:
        """What the rows of a step add to its pull."""
        events = self.events
        if events is not None:
            cut, theta = events.cut(step.i, carry.hit)
            step = step._replace(cut=cut, theta=theta)

        def sources(step_vjp: AbstractStepVJP, g: State, params: ParamSums) -> Sources:
            if step_vjp.extra:
                step_vjp.extra_stages(self._needed(step, carry))
            found = Found(g, params, None, 0.0, 0.0, carry.ts, 0.0, 0.0)
            rows = []
            for part, row in zip(self.parts, carry.row, strict=True):
                if part.out.inside:
                    found, row = part.in_step(step_vjp, step, found, row)
                rows.append(row)
            if events is None:
                return *found[:5], (tuple(rows), *found[5:8])
            found, *rest = events.in_step(step_vjp, step, found, (carry.hit, carry.t0))
            return *found[:5], (tuple(rows), *found[5:8], *rest)

        return sources

    def _needed(self, step: StepSpan, carry: PullCarry) -> Bool:
        """Whether any row stands inside of the step."""
        needed: Bool = False if self.events is None else self.events.here(step.i, carry.hit)
        for part, row in zip(self.parts, carry.row, strict=True):
            if part.out.interpolates:
                here = part.due(step)((row,))
                needed = here if needed is False else self.clock.either(needed, here)
        return needed
