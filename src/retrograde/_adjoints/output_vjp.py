"""The vjp of one output's rows: at both ends of a solve, and in each of its steps.

A row inside a step is a source of that step's pull, by the solver's interpolant. Where the row's
time is given (``SaveAt.ts``), the interpolant's slope tells the derivative by it; a row at a fixed
part theta of a step moves with the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .._autodiff.field_vjp import output_pullback
from .._base.types import (
    Bool,
    Carry,
    Condition,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Table,
)
from .._checkpointing.forward import while_any

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final, Output


class StepSpan(NamedTuple):
    """A step on the way back.

    Attributes
    ----------
    i : int or traced scalar
        Which.
    t, h : scalar [time]
        Its start and size.
    last : bool
        Whether it ends at t1.
    moves : bool
        Whether its end moves with t0, where it is not t1 (``Grid.moves``).
    on : bool
        Whether it was taken (in a batch, others may have taken more).
    cut : bool
        Whether an event cut it at ``theta``.
    """

    i: Index
    t: Scalar
    h: Scalar
    last: Bool
    moves: Bool
    on: Bool
    cut: Bool = False
    theta: Scalar = 1.0


class Found(NamedTuple):
    """What the outputs add to the pull of a step.

    Attributes
    ----------
    g : state
        Cotangent of what is carried from the step's end.
    params : sums
        Of cotangents of parameters.
    inside : sources or None
        ``AbstractStepVJP.sources`` with what ``add_source`` put there.
    t, h : scalar
        Cotangents of the step's start and size, beside those that its vjp finds,
    ts : table
        of the saved times,
    t0, t1 : scalar
        and of t0 and t1, where they come not by way of a step.
    left, left_t : state or None, scalar
        Cotangents of the state and the time where an event cut the step.
    """

    g: State
    params: ParamSums
    inside: State
    t: Scalar
    h: Scalar
    ts: Table
    t0: Scalar
    t1: Scalar
    left: State = None
    left_t: Scalar = 0.0


class OutputVJP:
    """Pulls the rows of one output back.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
    wanted : NeedsGradient
    out : Output
    cotangents : tuple of array, shape (k, *shape)
        Of its rows.
    """

    def __init__(
        self,
        loop: Integrator,
        inputs: Inputs,
        wanted: NeedsGradient,
        out: Output,
        cotangents: Leaves,
    ) -> None:
        self.loop, self.bk, self.clock, self.layout = loop, loop.bk, loop.clock, loop.layout
        self.out, self.cts, self.wanted = out, cotangents, wanted
        self.times, self.masked = inputs.clocked[2], loop.masked
        self.first_row = 1 if out.saveat.t0 else 0
        fn = out.saveat.fn
        self.fn_vjp = fn and output_pullback(loop.problem, fn, inputs.params, wanted)

    def row(self, j: Index) -> State:
        """The cotangent of row j inside the loop."""
        return self.out.layout.row(self.cts, self.first_row + j)

    def absorb(
        self, t: Scalar, y: State, row: State, params: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """Pull a row's cotangent through ``fn`` (if any) to the state it was made of."""
        if self.fn_vjp is None:
            return row, 0.0, params
        _, pull = self.fn_vjp(self.layout.time(t), y)
        # PyTorch's pulls write into lists; walks back carry tuples
        carried = isinstance(params, tuple)
        mu, ct_t, params = pull(self.out.layout.unpack(row), list(params) if carried else params)
        params = tuple(params) if carried else params
        return self.layout.pack(mu), 0.0 if ct_t is None else ct_t, params

    # --- the ends of a solve
    def at_end(
        self, final: Final, rows: Index, params: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """The row of t1, behind ``rows`` inside the loop: cotangents of y, t1, parameters."""
        y = None if self.fn_vjp is None else self.loop.state(final.y)
        return self.absorb(final.t, y, self.row(rows), params)

    def at_start(
        self, t0: Scalar, y0: State, row: Index, g: State, params: ParamSums, ct_t0: Scalar
    ) -> tuple[State, ParamSums, Scalar]:
        """The row of t0, and saved times of a solve without steps: all go to y0."""
        out, layout = self.out, self.layout

        def body(c: Carry, on: Bool) -> Carry:
            j, g, params, ct_t0 = c
            ct, ct_t, params = self.absorb(t0, y0, self.row(j - 1), params)
            new = j - 1, layout.add(g, ct), params, ct_t0 + ct_t
            return self.clock.select(on, new, c)

        if out.inside == "ts":
            start = row, g, params, ct_t0
            left = lambda c: c[0] > 0  # noqa: E731
            _, g, params, ct_t0 = while_any(self.bk, self.masked, left, body, start)
        if out.saveat.t0:
            ct, ct_t, params = self.absorb(t0, y0, out.layout.row(self.cts, 0), params)
            g, ct_t0 = layout.add(g, ct), ct_t0 + ct_t
        return g, params, ct_t0

    # --- one step
    def due(self, step: StepSpan) -> Condition:
        """Whether a row inside of the step is next on the way back; of (its number + 1,)."""
        if self.out.inside != "ts":
            return lambda s: step.on
        bk, out = self.bk, self.out

        def mine(s: Carry) -> Bool:
            j = bk.pick(s[0] > 0, s[0] - 1, 0)
            both, either, beyond = self.clock.both, self.clock.either, self.clock.beyond
            at = bk.table_get(self.times, out.first + j)
            # a row at t0 itself belongs to the first step, whose slope is its derivative
            here = both(s[0] > 0, either(step.i == 0, beyond(at, step.t, step.h)))
            return both(step.on, here)

        return mine

    def in_step(
        self, step_vjp: AbstractStepVJP, step: StepSpan, found: Found, row: Index
    ) -> tuple[Found, Index]:
        """The rows of a step that is linearised; ``row``: how many are left."""
        if self.out.inside == "ts":
            return self._time_rows(step_vjp, step, found, row)
        return self._step_rows(step_vjp, step, found), row

    def _step_rows(self, step_vjp: AbstractStepVJP, step: StepSpan, found: Found) -> Found:
        """The rows at fixed parts of the step, the last of them its end."""
        i, t, h, last, moves = step[:5]
        nodes, inside, params = self.out.nodes, found.inside, found.params
        count = len(nodes)
        for k, theta in enumerate(nodes if self.out.whole else nodes[:-1]):
            if inside is None:
                inside = step_vjp.sources()
            inside = step_vjp.add_source(inside, theta, h, self.row(i * count + k))
        if self.out.whole:
            return found._replace(inside=inside)
        row = self.row(i * count + count - 1 if count > 1 else i)
        if step.cut is not False:
            return self._cut_row(step_vjp, step, found._replace(inside=inside), row)
        y1 = step_vjp.result() if self.fn_vjp is not None else None
        ct, ct_t, params = self.absorb(t + h, y1, row, params)
        where = self.clock.where
        g = self.loop.carried.add(found.g, step_vjp.embed(ct))
        t0 = found.t0 + where(last, 0.0, where(moves, ct_t, 0.0))  # given times stand still
        t1 = found.t1 + where(last, ct_t, 0.0)
        rest = found.ts, t0, t1, found.left, found.left_t
        return Found(g, params, inside, found.t, found.h, *rest)

    def _cut_row(
        self, step_vjp: AbstractStepVJP, step: StepSpan, found: Found, row: State
    ) -> Found:
        """The row of a step's end that may be where an event cut it: then it is the event's."""
        layout, clock = self.layout, self.clock
        select, where, cut = clock.select, clock.where, step.cut
        y1 = None
        if self.fn_vjp is not None:
            y1 = select(cut, step_vjp.interpolate(step.theta), step_vjp.result())
        t1 = step.t + where(cut, step.theta, 1.0) * step.h
        ct, ct_t, params = self.absorb(t1, y1, row, found.params)
        own = select(cut, layout.zeros(), ct)
        left = select(cut, ct, layout.zeros())
        left = left if found.left is None else layout.add(found.left, left)
        moved, last = where(cut, 0.0, ct_t), step.last
        return found._replace(
            g=self.loop.carried.add(found.g, step_vjp.embed(own)), params=params,
            t0=found.t0 + where(last, 0.0, moved), t1=found.t1 + where(last, moved, 0.0),
            left=left, left_t=found.left_t + where(cut, ct_t, 0.0),
        )  # fmt: skip

    def _time_rows(
        self, step_vjp: AbstractStepVJP, step: StepSpan, found: Found, row: Index
    ) -> tuple[Found, Index]:
        """The rows of saved times inside the step, by its interpolant."""
        bk, layout, wanted, first = self.bk, self.layout, self.wanted, self.out.first
        t, h, real = step.t, step.h, self.clock.real

        def body(s: Carry, on: Bool) -> Carry:
            row, ts, params, inside, ct_t, ct_h = s
            j = row - 1
            at = bk.table_get(self.times, first + j)
            theta = (at - t) / h
            here = step_vjp.interpolate(theta) if self.fn_vjp is not None else None
            ct, fn_t, params = self.absorb(at, here, self.row(j), params)
            inside = step_vjp.add_source(inside, theta, h, ct)
            if wanted.time:
                d = layout.inner(ct, step_vjp.slope(theta))
                ct_t, ct_h = ct_t - d, ct_h - theta * d
                if wanted.ts:
                    at, k = d + fn_t, first + j
                    at = at if on is True else bk.pick(on, at, bk.table_get(ts, k))
                    ts = bk.table_set(ts, k, at)
            new, old = (j, params, inside, ct_t, ct_h), (s[0], *s[2:])
            j, *rest = self.clock.select(on, new, old)
            return j, ts, *rest

        inside = step_vjp.sources() if found.inside is None else found.inside
        start = (row, found.ts, found.params, inside, real(found.t), real(found.h))
        ended = while_any(bk, self.masked, self.due(step), body, start)
        row, ts, params, inside, ct_t, ct_h = ended
        found = found._replace(params=params, inside=inside, t=ct_t, h=ct_h, ts=ts)
        return found, row
