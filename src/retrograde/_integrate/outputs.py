"""How the rows of a solve are collected, step by step, and handed out.

An :class:`Output` is a ``SaveAt`` laid out for one solve: rows before the loop (t0), inside it (ts
or steps) and after it (t1). Output inside a step comes from the solver's own interpolant; a row
costs O(1) in both passes. :class:`Outputs` are all of a solve.

The rows of a solve that has ended, states, times and cotangents, stand in the order t0, inside, t1.
A row that the solve did not reach is nan, states and time; the padding of ``SaveAt.steps`` behind
a solve that reached t1 is inf. In eager libraries, whose solves raise, the row for t1 holds the
state and the time where the solve stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import InputError
from .._base.plain_input import cotangent_leaf, matched
from .._base.types import (
    Array,
    Bool,
    Carry,
    Condition,
    Function,
    Index,
    Inputs,
    Leaves,
    ParamSums,
    Scalar,
    State,
    Table,
    Tree,
    TreeDef,
)
from .._checkpointing.forward import while_any, write_where
from .events import reached

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout
    from .._controllers.base import Grid
    from .._solvers.base import AbstractStepper, Calls
    from .integrator import Integrator
    from .problem import Problem
    from .saveat import SaveAt


class Output:
    """The rows of one ``SaveAt`` in one solve: how they are made.

    Parameters
    ----------
    bk : AbstractBackend
    saveat : SaveAt
    layout
        Layout of a row: y's, or that of ``fn``'s result.
    count : int or None
        Rows inside the loop; None for steps on a backend without bounds.
    first : int
        Where its times begin among the saved times of the solve (``Inputs.ts``).
    nodes : tuple of float
        Where in each step its rows stand, as parts of the step; the last is the step's end. Where
        the first is 0 they are all of the interpolant, of the whole of a step that was cut.
    """

    def __init__(
        self,
        bk: AbstractBackend,
        saveat: SaveAt,
        layout: Layout,
        count: int | None,
        first: int = 0,
        nodes: tuple[float, ...] = (1.0,),
    ) -> None:
        self.bk = bk
        self.saveat = saveat
        self.layout = layout
        self.count = count
        self.first = first
        self.nodes = nodes
        self.masked = False
        """Whether a sample of a batch may stand still while others go on (``while_any``)."""
        self.treedef: TreeDef = None
        """Structure of ``fn``'s result."""

    @property
    def inside(self) -> str:
        """'ts', 'steps' or '': what is collected inside the loop."""
        if self.saveat.ts is not None:
            return "ts"
        return "steps" if self.saveat.steps else ""

    @property
    def width(self) -> int:
        """How many leaves of the program are its."""
        return len(self.layout.shapes)

    @property
    def interpolates(self) -> bool:
        """Whether rows stand inside of steps."""
        return self.inside == "ts" or len(self.nodes) > 1

    @property
    def whole(self) -> bool:
        """Whether its rows are those of the interpolant of whole steps, from their beginning on."""
        return self.nodes[0] == 0.0

    @property
    def last(self) -> int:
        """The index of the last of its saved times."""
        return self.first + self.count - 1 if self.count else self.first

    def key(self) -> Hashable:
        """What a compiled form of it depends on."""
        own = self.saveat
        kind = own.t0, own.t1, own.ts is not None, own.steps, own.fn
        return kind, self.count, self.first, self.nodes

    def like(self, layout: Layout) -> Output:
        """The same rows in another layout."""
        twin = copy.copy(self)
        twin.layout = layout
        return twin

    def emitter(
        self, problem: Problem, layout: Layout, params: ParamSums
    ) -> Callable[[Scalar, State], State]:
        """``emit(t, y) -> row``: y itself, or the result of ``fn`` in this layout."""
        if self.saveat.fn is None:
            return lambda t, y: y
        fn = problem.bind_output(self.saveat.fn, params)
        call = self.bk.guard(lambda t, y: self.layout.pack(fn(t, layout.unpack(y))))
        return lambda t, y: call(layout.time(t), y)

    def start(self) -> Carry:
        """The carry of the rows inside the loop: (next row, buffer), or ()."""
        if not self.inside:
            return ()
        scratch = self.inside == "steps"  # where a rejected step's row goes
        buffer = self.bk.new_buffer(self.count, self.layout, scratch=scratch)
        return self.bk.clock(self.layout).count(0), buffer

    def collect(
        self,
        carry: Carry,
        ok: Bool,
        ts: Table,
        step: tuple[Scalar, Scalar, Scalar, State],
        n: Index,
        stepper: AbstractStepper,
        emit: Function,
    ) -> Carry:
        """Add the rows of the step (t, t_new, h, y1) that ends as accepted step n + 1."""
        t, t_new, h, y1 = step
        i, buffer = carry
        bk = self.bk
        if ok is False:
            return carry
        if self.inside == "steps":
            rows = len(self.nodes)
            for k, theta in enumerate(self.nodes):
                row = bk.pick(ok, n * rows + k, self.count)
                end = k + 1 == rows and not self.whole
                y = stepper.state(y1) if end else stepper.interpolate(theta)
                buffer = bk.write(buffer, row, emit(t_new if end else t + theta * h, y))
            return bk.pick(ok, i + rows, i), buffer
        clock = bk.clock(self.layout)

        def body(s: Carry, on: Bool) -> Carry:
            at = bk.table_get(ts, self.first + s[0])
            ends = lambda: stepper.state(y1)  # noqa: E731
            inside = lambda: stepper.interpolate((at - t) / h)  # noqa: E731
            row = emit(at, bk.at_end(at == t_new, ends, inside))
            buffer = write_where(bk, clock, on, (s[1], s[0]), row)
            return bk.pick(on, s[0] + 1, s[0]), buffer

        due = self.due(ok, ts, t, t_new)
        return while_any(bk, self.masked, due, body, (i, buffer))

    def reached(self, carry: Carry, ts: Table, grid: Grid, n: int) -> Carry:
        """The carry of an eager integration that turned out to have failed in step n: rows up to
        it."""
        if self.inside != "ts":
            return (n * len(self.nodes), *carry[1:])
        rows = 0
        while rows < carry[0] and (ts[self.first + rows] - grid.step(n)[0]) * grid.step(n)[1] <= 0:
            rows += 1
        return (rows, *carry[1:])

    def due(self, ok: Bool, ts: Table, t: Scalar, t_new: Scalar) -> Condition:
        """Whether the next saved time lies in the step just accepted."""
        bk, count = self.bk, self.count
        assert count is not None
        clock = bk.clock(self.layout)
        span = t_new - t

        def due(s: Carry) -> Bool:
            i = bk.pick(s[0] < count, self.first + s[0], self.last)
            here = clock.reached(bk.table_get(ts, i), t_new, span)
            return clock.both(clock.both(ok, s[0] < count), here)

        return due


class Outputs:
    """All rows of one solve: those of each ``SaveAt`` that was asked for.

    Whatever else a solve tells with a gradient is an :class:`Output` too: it has a carry in the
    loop, leaves of the program (``width`` of them, in the order of ``parts``) and a vjp
    (``_adjoints.output_vjp``).

    Parameters
    ----------
    bk : AbstractBackend
    parts : sequence of Output
    treedef : TreeDef
        How the user's are to be handed back; None where there is one alone.
    dense : bool
        Whether the last part is dense output, and none of the user's.
    """

    def __init__(
        self,
        bk: AbstractBackend,
        parts: Sequence[Output],
        treedef: TreeDef = None,
        *,
        dense: bool = False,
    ) -> None:
        self.bk, self.parts, self.treedef, self.dense = bk, tuple(parts), treedef, dense
        self.inside = any(part.inside for part in parts)
        """Whether anything is collected inside the loop,"""
        self.timed = any(part.inside == "ts" for part in parts)
        """at saved times,"""
        self.stepped = any(part.inside == "steps" for part in parts)
        """in every step,"""
        self.interpolates = any(part.interpolates for part in parts)
        """or inside of steps."""
        self.called = any(part.saveat.fn is not None for part in parts)
        """Whether a function of the user's makes rows."""

    @property
    def width(self) -> int:
        """How many leaves of the program are rows."""
        return sum(part.width for part in self.parts)

    def batched(self) -> Outputs:
        """The same for a sample of a batch."""
        parts = [copy.copy(part) for part in self.parts]
        for part in parts:
            part.masked = True
        return Outputs(self.bk, parts, self.treedef, dense=self.dense)

    def is_dense(self, k: int) -> bool:
        """Whether part k is dense output."""
        return self.dense and k == len(self.parts) - 1

    def emitters(self, problem: Problem, layout: Layout, params: ParamSums) -> list[Function]:
        """``Output.emitter`` of each part."""
        return [part.emitter(problem, layout, params) for part in self.parts]

    def start(self, extra: int = 0) -> Carry:
        """The carries of all parts, () if nothing is collected inside the loop.

        Where the inside of a step takes ``extra`` evaluations of f: and how many steps did.
        """
        if not self.inside:
            return ()
        carry = tuple(part.start() for part in self.parts)
        counts = extra and self.interpolates
        return (*carry, self.bk.clock(self.parts[0].layout).count(0)) if counts else carry

    def collect(
        self,
        carry: Carry,
        ok: Bool,
        ts: Table,
        step: tuple[Scalar, Scalar, Scalar, State],
        n: Index,
        stepper: AbstractStepper,
        emit: Sequence[Function],
    ) -> Carry:
        """``Output.collect`` of all parts."""
        parts, taken = self.parts, carry[len(self.parts) :]
        if taken and stepper.extra:
            here = self._needed(carry, ok, ts, step)
            stepper.extra_stages(here)
            taken = (self.bk.pick(here, taken[0] + 1, taken[0]),)
        rows = [
            part.collect(c, ok, ts, step, n, stepper, e) if part.inside else c
            for part, c, e in zip(parts, carry, emit, strict=False)
        ]
        return (*rows, *taken)

    def _needed(self, carry: Carry, ok: Bool, ts: Table, step: tuple[Scalar, ...]) -> Bool:
        """Whether any row stands inside of the step."""
        clock, found = self.bk.clock(self.parts[0].layout), None
        for part, c in zip(self.parts, carry, strict=False):
            if part.interpolates:
                here = part.due(ok, ts, *step[:2])(c) if part.inside == "ts" else ok
                found = here if found is None else clock.either(found, here)
        return found

    def each(self, carry: Carry) -> Carry:
        """The carry of each part that a carry of all holds."""
        return carry[: len(self.parts)]

    def taken(self, final: Final) -> Index:
        """Steps whose inside was asked for, where that takes evaluations of its own."""
        return final.inside[-1] if len(final.inside) > len(self.parts) else 0

    def steps(self, final: Final) -> Index:
        """Accepted steps, as the rows count them where each has one: up to nan or inf."""
        for k, part in enumerate(self.parts):
            if part.inside == "steps":
                rows, nodes = final.inside[k][0], len(part.nodes)
                return rows if nodes == 1 else rows // nodes
        return final.n

    def counted(self, final: Final) -> Carry:
        """What is kept of the carries for a reverse pass: how many rows each part has."""
        return tuple(c[:1] for c in final.inside[: len(self.parts)])

    def reached(self, carry: Carry, ts: Table, grid: Grid, n: int) -> Carry:
        """``Output.reached`` of all parts."""
        parts = zip(self.parts, carry, strict=False)
        rows = [part.reached(c, ts, grid, n) if part.inside else c for part, c in parts]
        return (*rows, *carry[len(rows) :])

    def rows_inside(self, final: Final) -> tuple[Index, ...]:
        """Number of rows of each part that were collected inside the loop."""
        found: list[Index] = []
        for k, part in enumerate(self.parts):
            rows = final.inside[k][0] if part.inside and part.count is None else part.count
            found.append(rows if part.inside else 0)
        return tuple(found)

    def split(self, leaves: Sequence[Array]) -> list[tuple[Array, ...]]:
        """The program's leaves (or their cotangents) part by part."""
        it = iter(leaves)
        return [tuple(islice(it, part.width)) for part in self.parts]


class Final(NamedTuple):
    """Where an integration ended.

    Attributes
    ----------
    y : state
        What the solver carries: ``loop.state`` gives the y of it.
    t : scalar [time]
    n, tries : int or traced scalar
        Accepted steps and all of them.
    status : Status value
    inside : carry
        Carry of the outputs collected inside the loop.
    times : table or None
        Record of accepted times, or None.
    stored : Stored or None
    noted : table or None
        What a guard noted of the states.
    trips : int or traced scalar or None
        Turns by which states are stored, where these are not the accepted steps: in a batch, the
        tries of the sample that takes most.
    calls : int, traced scalar, Calls or ()
        Evaluations of f in the tries, where steps tell them; else ().
    sizes : table or ()
        Record of the steps' sizes, behind a 0, where they are no differences of times.
    events : EventState or ()
    stiff : table or ()
        Record of the steps' method, behind a 0, of a solver that switches.
    """

    y: State
    t: Scalar
    n: Index
    tries: Index
    status: Index
    inside: State
    times: Table
    stored: Table
    noted: Table = None
    trips: Index = None
    calls: Index | Calls | tuple[()] = ()
    sizes: Table | tuple[()] = ()
    events: Table = ()
    stiff: Table | tuple[()] = ()


def output_leaves(loop: Integrator, inputs: Inputs, final: Final) -> tuple[Array, ...]:
    """The rows of all parts, as leaves of shape (k, *shape)."""
    out = loop.outputs
    if len(out.parts) == 1 and loop.events is None:
        return _leaves(loop, inputs, final, 0)
    rows = tuple(x for k in range(len(out.parts)) for x in _leaves(loop, inputs, final, k))
    return rows if loop.events is None else (*rows, *loop.events.leaves(loop, inputs, final))


def _leaves(loop: Integrator, inputs: Inputs, final: Final, k: int) -> tuple[Array, ...]:
    """Those of part k."""
    out, bk = loop.outputs.parts[k], loop.bk
    emit = out.emitter(loop.problem, loop.layout, inputs.params)
    parts = []
    if out.saveat.t0:
        parts.append(out.layout.stack([emit(loop.clock.real(inputs.clocked[0]), inputs.y0)]))
    if out.inside:
        n, rows = loop.outputs.rows_inside(final)[k], final.inside[k]
        # a solve without steps looks into the padding of dense output
        fill = 0.0 if loop.outputs.is_dense(k) else _fill(loop, final)
        parts.append(bk.rows(out.layout, rows[1], n, rows[0], fill))
    if out.saveat.final:
        ok = reached(loop, final)
        row = out.layout.stack([emit(final.t, loop.state(final.y))])
        parts.append(tuple(bk.nan_unless(ok, x) for x in row) if loop.clock.traced else row)
    if len(parts) == 1:
        return parts[0]
    xp = bk.xp
    return tuple(xp.concat(leaves, axis=0) for leaves in zip(*parts, strict=True))


def output_times(loop: Integrator, inputs: Inputs, final: Final) -> tuple[Array, ...]:
    """Times of the rows of each part, shape (k,); for dense output where steps begin and end, as
    the clock counts, and behind it the sizes of their polynomials, where these are recorded."""
    return tuple(_times(loop, inputs, final, k) for k in range(len(loop.outputs.parts)))


def _times(loop: Integrator, inputs: Inputs, final: Final, k: int) -> Array:
    """Those of part k."""
    out, clock, bk = loop.outputs.parts[k], loop.clock, loop.bk
    dense = loop.outputs.is_dense(k)

    def array(times: Table) -> Array:
        return bk.times_array(times, loop.layout)

    arrays = []
    if out.saveat.t0:
        arrays.append(array([clock.real(inputs.clocked[0] if dense else inputs.t0)]))
    if out.inside == "ts":
        own = inputs.ts if len(loop.outputs.parts) == 1 else inputs.ts[out.first : out.last + 1]
        arrays += bk.blank((array(own),), final.inside[k][0], _fill(loop, final))
    elif out.inside:
        n, valid, rows = loop.outputs.rows_inside(final)[k], final.inside[k][0], len(out.nodes)
        if rows > 1:
            n, valid = n // rows, valid // rows
        times = final.times if loop.adaptive else bk.grid_times(loop.grid(inputs), n)
        times = bk.accepted_times(times, n, valid, _fill(loop, final))
        if not dense and (loop.clock.traced or not inputs.relative):
            times = loop.user_time(inputs, times)
        elif not dense:
            times = [loop.user_time(inputs, t) for t in times]
        arrays.append(array(times))
        if dense and not isinstance(final.sizes, tuple):
            arrays.append(array(bk.accepted_times(final.sizes, n, valid, 1.0)))
    if out.saveat.final:
        ok = reached(loop, final)
        t = loop.user_time(inputs, final.t)
        arrays.append(array([clock.where(ok, t, math.nan) if clock.traced else t]))
    return arrays[0] if len(arrays) == 1 else bk.xp.concat(arrays, axis=0)


def _fill(loop: Integrator, final: Final) -> Scalar:
    """What stands in rows that the solve has not filled."""
    ok = reached(loop, final)
    return loop.clock.where(ok, math.inf, math.nan)


def cotangent_leaves(
    bk: AbstractBackend, leaves: Leaves, ys: Tree, cotangent: Tree, name: str = "sol.ys"
) -> tuple[Array, ...]:
    """Leaves of a cotangent, checked against ``ys`` and as long as the program's rows."""
    xp = bk.xp
    own, treedef = bk.flatten(ys)
    parts = matched(bk, bk.unflatten(treedef, range(len(own))), cotangent)
    given = bk.flatten(cotangent)[0]
    if parts is not None:
        given = [cotangent_leaf(bk, parts[i], x) for i, x in enumerate(own)]
    shapes = [tuple(getattr(x, "shape", ())) for x in given]
    if shapes != [tuple(x.shape) for x in own]:
        raise InputError(
            f"the cotangent has leaves of shape {shapes}, but `{name}` has "
            f"{[tuple(x.shape) for x in own]}; make them equal."
        )

    def pad(x: Array, full: Array) -> Array:
        missing = full.shape[0] - x.shape[0]
        return xp.concat([x, xp.zeros_like(full[:missing])], axis=0) if missing else x

    return tuple(pad(x, full) for x, full in zip(given, leaves, strict=True))
