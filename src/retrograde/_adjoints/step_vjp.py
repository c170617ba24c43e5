"""The pull of one accepted step with everything that hangs on it: output rows, parameters, times.

Step sizes are constants of the gradient. Times move with t0 (constant and adaptive steps) or
stand still (given times); t1 enters through the last step's size. With ct_t and ct_h the
cotangents of a step's start and size, a step of constant size adds ct_t to dL/dt0; the last one
adds ct_t - ct_h to dL/dt0 and ct_h to dL/dt1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .._autodiff.field_vjp import TapePullback, UserPullback
from .._autodiff.vector_field import VectorField
from .._backend.protocols import Capability
from .._base.types import (
    Array,
    Bind,
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
    Table,
    VectorFieldFn,
)
from .._checkpointing.forward import while_any

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP, FieldVJP
    from .._integrate.integrator import Integrator
    from .._integrate.problem import Problem
    from .._integrate.saveat import Final
    from .._solvers.base import AbstractStepper
    from .._solvers.runge_kutta.solver import Sources

__all__ = ["PullCarry", "ReverseStep", "field_pullback", "output_pullback"]


class PullCarry(NamedTuple):
    """What the reversal threads from step to step: cotangents, and the next row inside."""

    g: State
    params: ParamSums
    t0: Scalar
    t1: Scalar
    ts: Table
    row: Index


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
        self.loop, self.bk, self.inputs, self.wanted = loop, bk, inputs, wanted
        self.clock, self.layout, self.out = loop.clock, loop.layout, out
        self.cts, self.masked = cotangents, loop.masked
        self.n = final.n
        self.grid = loop.grid(inputs, final)
        self.vjp = field_pullback(problem, inputs.params, wanted)
        fn = out.saveat.fn
        self.fn_vjp = fn and output_pullback(problem, fn, inputs.params, wanted)
        self.inside = bool(out.inside)
        field = problem.bind(inputs.params)
        if step_vjp is None:
            steps = loop.steps(gradient=True, time=wanted.time, one_tape=one_tape, stored=stored)
            step_vjp = steps.step_vjp(
                bk, self.layout, self.vjp, outputs=self.inside, time=wanted.time,
                field=field if one_tape else None,
            )  # fmt: skip
        self.step_vjp = step_vjp
        self.field = field
        self.first_row = 1 if out.saveat.t0 else 0

    # --- the ends of a solve
    def start(self, final: Final, rows: Index) -> PullCarry:
        """Cotangents at t1; ``rows`` is the number of rows inside the loop."""
        real = self.clock.real
        g, params = self.loop.carried.zeros(), self.vjp.zero()
        t1 = real(0.0)
        if self.out.saveat.final:
            row = self.out.layout.row(self.cts, self.first_row + rows)
            y = None if self.fn_vjp is None else self.loop.state(final.y)
            ct, ct_t, params = self._absorb(final.t, y, row, params)
            g, t1 = self.step_vjp.embed(ct), t1 + ct_t
        ts: Table = ()
        if self.wanted.ts and self.out.inside == "ts":
            ts = self.bk.reals(self.out.count, self.layout)
        return PullCarry(g, params, real(0.0), t1, ts, rows)

    def finish(self, carry: PullCarry) -> Inputs:
        """Cotangents of the inputs, after the last pull."""
        t0, y0 = self.clock.real(self.inputs.clocked[0]), self.inputs.y0
        g, ct_t, params = self.step_vjp.finish(t0, y0, carry.g, carry.params)
        carry = carry._replace(g=g, params=params)
        if self.wanted.time:
            carry = self._time_of_no_step(carry._replace(t0=carry.t0 + ct_t))
        if self.out.inside == "ts":
            carry = self._rows_at_start(carry, t0, y0)
        if self.out.saveat.t0:
            row = self.out.layout.row(self.cts, 0)
            g, ct_t, params = self._absorb(t0, y0, row, carry.params)
            g = self.layout.add(carry.g, g)
            carry = carry._replace(g=g, params=params, t0=carry.t0 + ct_t)
        return Inputs(carry.g, self.vjp.finish(carry.params), carry.t0, carry.t1, carry.ts)

    def _time_of_no_step(self, carry: PullCarry) -> PullCarry:
        """Where t0 is t1, no step tells the time derivatives: dy/dt1 = f, dy/dt0 = -f."""
        where, none = self.clock.where, self.n == 0
        t0 = self.layout.time(self.clock.real(self.inputs.clocked[0]))
        if none is False:
            return carry
        k, _ = self.vjp(t0, self.inputs.y0)
        d = self.layout.inner(carry.g, self.layout.pack(k))
        return carry._replace(
            t0=where(none, carry.t0 - d, carry.t0), t1=where(none, carry.t1 + d, carry.t1)
        )

    def _rows_at_start(self, carry: PullCarry, t0: Scalar, y0: State) -> PullCarry:
        """Rows of a solve without steps: their cotangents go to y0."""

        def body(c: PullCarry, on: Bool) -> PullCarry:
            j = c.row - 1
            row = self.out.layout.row(self.cts, self.first_row + j)
            g, ct_t, params = self._absorb(t0, y0, row, c.params)
            new = c._replace(g=self.layout.add(c.g, g), params=params, t0=c.t0 + ct_t, row=j)
            return self.clock.select(on, new, c)  # type: ignore[no-any-return]

        found: PullCarry = while_any(self.bk, self.masked, lambda c: c.row > 0, body, carry)
        return found

    def _absorb(
        self, t: Scalar, y: State, row: State, params: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """Pull a row's cotangent through ``fn`` (if any) to the state it was made of."""
        if self.fn_vjp is None:
            return row, 0.0, params
        _, pull = self.fn_vjp(self.layout.time(t), y)
        mu, ct_t, params = pull(self.out.layout.unpack(row), params)
        return self.layout.pack(mu), 0.0 if ct_t is None else ct_t, params

    # --- one step
    @functools.cached_property
    def replay(self) -> AbstractStepper:
        """Steps forward; made where one is asked for, as where states are stored none is."""
        return self.step_vjp.replay(self.field)

    def advance(self, i: Index, y: State) -> State:
        """Replay step i."""
        t, h = self.grid.step(i)
        y1 = self.replay.step(t, h, y, None, error=False).y1
        return self.clock.select(self._taken(i), y1, y)

    def invert(self, i: Index, y_after: State) -> State:
        """The carried state before step i, from the one after it (see ``reversible``)."""
        t, h = self.grid.step(i)
        return self.replay.invert(t, h, y_after)

    def pull(self, i: Index, y: State, carry: PullCarry) -> PullCarry:
        """Reverse step i from the state before it."""
        return self.pull_step(i, self.grid.step(i), y, carry, self._taken(i))

    def _taken(self, i: Index) -> Index:
        """Whether step i was taken: in a batch, others may have taken more."""
        return i < self.n if self.masked else True

    def pull_step(
        self, i: Index, step: tuple[Scalar, Scalar], y: State, carry: PullCarry, on: Bool = True
    ) -> PullCarry:
        """The same for a step whose start and size are given, where ``on``."""
        t, h = step
        sources = self._sources(i, t, h, carry, on) if self.inside else None
        last = i + 1 == self.n
        begins, moved, _ = self.grid.moves(i, last, t, h)
        # the step's size matters where it depends on t0 or t1; a traced index may be any
        size = self.wanted.time and (self.clock.traced or last or moved)
        out, extra = self.step_vjp.pull(t, h, y, carry.g, carry.params, sources, size)
        row, ts, fn_t1, fn_t0 = extra or (carry.row, carry.ts, 0.0, 0.0)
        t0, t1 = carry.t0, carry.t1
        if self.wanted.time:
            where, zero = self.clock.where, 0.0
            inner = where(begins, out.t, zero)
            t0 = t0 + where(moved, out.t - out.h, inner) + fn_t0
            t1 = t1 + where(last, out.h, zero) + fn_t1
        new, old = (out.y, out.params, t0, t1), (carry.g, carry.params, carry.t0, carry.t1)
        g, params, t0, t1 = self.clock.select(on, new, old)
        return PullCarry(g, params, t0, t1, ts, row)

    def _sources(self, i: Index, t: Scalar, h: Scalar, carry: PullCarry, on: Bool) -> RowSources:
        return (
            self._step_row(i, t, h, carry)
            if self.out.inside == "steps"
            else self._time_rows(i, t, h, carry, on)
        )

    def _step_row(self, i: Index, t: Scalar, h: Scalar, carry: PullCarry) -> RowSources:
        """The row of the step's end."""

        def sources(step_vjp: AbstractStepVJP, g: State, params: ParamSums) -> Sources:
            row = self.out.layout.row(self.cts, self.first_row + i)
            y1 = step_vjp.result() if self.fn_vjp is not None else None
            ct, ct_t, params = self._absorb(t + h, y1, row, params)
            last = i + 1 == self.n
            where = self.clock.where
            moved = where(self.grid.moves(i, last, t, h)[2], ct_t, 0.0)
            extra = (carry.row, carry.ts, where(last, ct_t, 0.0), where(last, 0.0, moved))
            return self.loop.carried.add(g, step_vjp.embed(ct)), params, None, 0.0, 0.0, extra

        return sources

    def _time_rows(
        self, i: Index, t: Scalar, h: Scalar, carry: PullCarry, taken: Bool
    ) -> RowSources:
        """The rows of saved times inside the step, by its interpolant."""
        bk, layout, out, wanted = self.bk, self.layout, self.out, self.wanted
        times, real = self.inputs.clocked[2], self.clock.real

        def mine(s: Carry) -> Bool:
            j = bk.pick(s[0] > 0, s[0] - 1, 0)
            both, either, beyond = self.clock.both, self.clock.either, self.clock.beyond
            # a row at t0 itself belongs to the first step, whose slope is its derivative
            here = both(s[0] > 0, either(i == 0, beyond(bk.table_get(times, j), t, h)))
            return both(taken, here)

        def sources(step_vjp: AbstractStepVJP, g: State, params: ParamSums) -> Sources:
            def body(s: Carry, on: Bool) -> Carry:
                row, ts, params, inside, ct_t, ct_h = s
                j = row - 1
                at = bk.table_get(times, j)
                theta = (at - t) / h
                ct = out.layout.row(self.cts, self.first_row + j)
                here = step_vjp.interpolate(theta) if self.fn_vjp is not None else None
                ct, fn_t, params = self._absorb(at, here, ct, params)
                inside = step_vjp.add_source(inside, theta, h, ct)
                if wanted.time:
                    d = layout.inner(ct, step_vjp.slope(theta))
                    ct_t, ct_h = ct_t - d, ct_h - theta * d
                    if wanted.ts:
                        ct = d + fn_t if on is True else bk.pick(on, d + fn_t, bk.table_get(ts, j))
                        ts = bk.table_set(ts, j, ct)
                new, old = (j, params, inside, ct_t, ct_h), (s[0], *s[2:])
                j, *rest = self.clock.select(on, new, old)
                return j, ts, *rest

            if step_vjp.extra:
                step_vjp.extra_stages(mine((carry.row,)))
            start = (carry.row, carry.ts, params, step_vjp.sources(), real(0.0), real(0.0))
            found = while_any(bk, self.masked, mine, body, start)
            row, ts, params, inside, ct_t, ct_h = found
            return g, params, inside, ct_t, ct_h, (row, ts, 0.0, 0.0)

        return sources


def field_pullback(
    problem: Problem, params: Sequence[Array], wanted: NeedsGradient, *, prepared: bool = True
) -> FieldVJP:
    """The vjp of the vector field: the user's, the library's, or the tape's.

    ``prepared``: sums of cotangents may have the form in which the adapter binds parameters.

    It is a callable ``vjp(t, Y) -> (leaves, pull)`` with ``pull(ct, acc) -> (mu, ct_t, acc)``
    (mu: leaves; ct_t: a scalar of the clock, or None if no time derivative is wanted),
    ``zero() -> acc`` and ``finish(acc) -> cotangents of params``.
    """
    f, program = problem.f, problem.program
    if program is not None and not (isinstance(f, VectorField) and f.vjp is not None):
        return program.vjp(params, wanted, prepared=prepared)
    return _pullback(problem, f, problem.bind_leaves, params, wanted)


def _pullback(
    problem: Problem, f: VectorFieldFn, bind: Bind, params: Sequence[Array], wanted: NeedsGradient
) -> FieldVJP:
    bk = problem.bk
    if isinstance(f, VectorField) and f.vjp is not None:
        return UserPullback(problem, f, params, wanted)
    vjp: FieldVJP
    if Capability.AUTODIFF in bk.capabilities:
        vjp = bk.pullback(problem.layout, bind, params, wanted)
    else:
        vjp = TapePullback(problem.layout, bind, params, wanted)
    if hasattr(vjp, "notice"):
        vjp.notice = problem.notice
    return vjp


def output_pullback(
    problem: Problem, fn: Function, params: Sequence[Array], wanted: NeedsGradient
) -> FieldVJP:
    """The vjp of ``SaveAt.fn``, in the form of :func:`field_pullback`."""
    return _pullback(problem, fn, lambda p: problem.bind_output(fn, p), params, wanted)
