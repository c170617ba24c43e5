"""What a solve returns, and how it is collected step by step and pulled back again.

:class:`SaveAt` is the user's wish. :class:`Outputs` is that wish laid out for one solve: rows
before the loop (t0), inside it (ts or steps) and after it (t1). Output inside a step comes from
the solver's own interpolant; a row costs O(1) in both passes.

The rows of a solve that has ended, states, times and cotangents, stand in the order t0, inside, t1.
A row that the solve did not reach is nan, states and time; the padding of ``SaveAt.steps`` behind
a solve that reached t1 is inf. In eager libraries, whose solves raise, the row for t1 holds the
state and the time where the solve stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import InputError
from .._base.plain_input import cotangent_leaf, matched, refuse
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
    Times,
    Tree,
    TreeDef,
    VectorFieldFn,
)
from .._checkpointing.forward import while_any, write_where
from .solution import Status

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout
    from .._controllers.base import Grid
    from .._solvers.base import AbstractStepper
    from .integrator import Integrator
    from .problem import Problem


__all__ = [
    "Final",
    "Outputs",
    "SaveAt",
    "check_times_form",
    "cotangent_leaves",
    "output_leaves",
    "output_times",
]


@dataclass(frozen=True, eq=False)
class SaveAt:
    """Which times of a solve to return.

    Parameters
    ----------
    t0, t1 : bool
        The initial and the final state. With nothing else asked for, t1 is returned.
    ts : sequence of float or array, shape (k,) [time] or None
        Times between t0 and t1, in the order in which the solve meets them. One that rounding has
        carried a few units in the last place beyond an end is that end.
    steps : bool
        Every accepted step's end.
    fn : callable or None
        ``fn(t, y, args) -> tree of floating arrays`` is returned in place of y.

    Notes
    -----
    Rows come in the order t0, ts or steps, t1. Under tracing ``steps`` returns max_steps rows,
    padded with inf. Rows that a failed solve did not reach are nan. A saved time that is a step's
    end, t1 among them, has the numbers of the state there.

    Examples
    --------
    >>> import retrograde as rg
    >>> f = lambda t, y, args: -y
    >>> rg.solve(f, [1.0], 0.0, 1.0, saveat=rg.SaveAt(t0=True, t1=True)).ts.tolist()
    [0.0, 1.0]
    >>> energy = rg.SaveAt(ts=[0.5, 1.0], fn=lambda t, y, args: (y**2).sum())
    >>> rg.solve(f, [1.0, 2.0], 0.0, 1.0, saveat=energy).ys.round(3).tolist()
    [1.839, 0.677]
    """

    t0: bool = False
    t1: bool = False
    ts: Times | None = None
    steps: bool = False
    fn: VectorFieldFn | None = None

    def __post_init__(self) -> None:
        if self.ts is not None and self.steps:
            raise InputError("`saveat` asks for `ts` and `steps` at once; choose one of the two.")
        if self.ts is not None:
            if check_times_form("saveat.ts", self.ts) == 0:
                raise InputError("`saveat.ts` is empty; pass at least one time, or leave it out.")
        if self.fn is not None and not callable(self.fn):
            raise InputError("`saveat.fn` is not callable; pass fn(t, y, args) -> tree.")

    @property
    def final(self) -> bool:
        """Whether the state at t1 gets a row of its own."""
        return (self.t1 and not self.steps) or not (self.t0 or self.steps or self.ts is not None)

    def check_times(self, ts: Sequence[float], t0: float, t1: float) -> None:
        """Raise InputError unless ts run from t0 towards t1 without leaving the interval."""
        sign = 1.0 if t1 >= t0 else -1.0
        before = t0
        for i, t in enumerate(ts):
            if not math.isfinite(t):
                raise InputError(f"`saveat.ts[{i}]` is {t!r}; pass finite times.")
            if (t - t0) * sign < 0 or (t1 - t) * sign < 0:
                raise InputError(
                    f"`saveat.ts[{i}]` is {t!r}, outside of t0 = {t0!r} to t1 = {t1!r}; drop it, "
                    "or extend the solve (`t1=ts[-1]`)."
                )
            if (t - before) * sign < 0:
                raise InputError(
                    f"`saveat.ts[{i}]` is {t!r} after {before!r}; sort `ts` in the direction of "
                    "the solve."
                )
            before = t


def check_times_form(name: str, ts: Table) -> int:
    """How many times there are; InputError unless they have the form of times in a row."""
    refuse(name, ts)
    shape = getattr(ts, "shape", None)
    if shape is None and isinstance(ts, Sequence) and not isinstance(ts, str):
        for kind, t in {type(t): t for t in ts}.items():
            refuse(name, t)
            if issubclass(kind, (list, tuple, str)) or getattr(t, "shape", ()) != ():
                raise InputError(
                    f"`{name}` has an entry of type {kind.__name__} that is no single time; "
                    "pass a flat list of numbers or an array of shape (k,)."
                )
        shape = (len(ts),)
    if shape is None or len(shape) != 1:
        what = f"of shape {tuple(shape)}" if shape is not None else repr(ts)
        raise InputError(f"`{name}` is {what}; pass a list of times or an array, shape (k,).")
    return int(shape[0])


class Outputs:
    """One solve's rows: how they are made and pulled back.

    Parameters
    ----------
    bk : AbstractBackend
    saveat : SaveAt
    layout
        Layout of a row: y's, or that of ``fn``'s result.
    count : int or None
        Length of ts; None for steps on a backend without bounds.
    """

    def __init__(
        self, bk: AbstractBackend, saveat: SaveAt, layout: Layout, count: int | None
    ) -> None:
        self.bk = bk
        self.saveat = saveat
        self.layout = layout
        self.count = count
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

    def emitter(
        self, problem: Problem, layout: Layout, params: ParamSums
    ) -> Callable[[Scalar, State], State]:
        """``emit(t, y) -> row``: y itself, or the result of ``fn`` in this layout."""
        if self.saveat.fn is None:
            return lambda t, y: y
        fn = problem.bind_output(self.saveat.fn, params)
        call = self.bk.guard(lambda t, y: self.layout.pack(fn(t, layout.unpack(y))))
        return lambda t, y: call(layout.time(t), y)

    def start(self, extra: int = 0) -> Carry:
        """The carry of the rows inside the loop: (next row, buffer).

        Where the inside of a step takes ``extra`` evaluations of f: and how many steps did.
        """
        if not self.inside:
            return ()
        scratch = self.inside == "steps"  # where a rejected step's row goes
        buffer = self.bk.new_buffer(self.count, self.layout, scratch=scratch)
        zero = self.bk.clock(self.layout).count(0)
        return (zero, buffer, zero) if extra and self.inside == "ts" else (zero, buffer)

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
        i, buffer = carry[0], carry[1]
        bk = self.bk
        if self.inside == "steps":
            row = bk.pick(ok, n, self.count)
            return bk.pick(ok, i + 1, i), bk.write(buffer, row, emit(t_new, stepper.state(y1)))
        due = self._due(ok, ts, t, t_new)
        taken: Leaves = ()
        if stepper.extra:
            here = due(carry)
            stepper.extra_stages(here)
            taken = (bk.pick(here, carry[2] + 1, carry[2]),)

        clock = bk.clock(self.layout)

        def body(s: Carry, on: Bool) -> Carry:
            at = bk.table_get(ts, s[0])
            ends = lambda: stepper.state(y1)  # noqa: E731
            inside = lambda: stepper.interpolate((at - t) / h)  # noqa: E731
            row = emit(at, bk.at_end(at == t_new, ends, inside))
            buffer = write_where(bk, clock, on, (s[1], s[0]), row)
            return bk.pick(on, s[0] + 1, s[0]), buffer

        rows = while_any(bk, self.masked, due, body, (i, buffer))
        return (*rows, *taken) if taken else rows

    def reached(self, carry: Carry, ts: Table, grid: Grid, n: int) -> Carry:
        """The carry of an eager integration that turned out to have failed in step n: rows up to
        it."""
        if self.inside != "ts":
            return (n, *carry[1:])
        rows = 0
        while rows < carry[0] and (ts[rows] - grid.step(n)[0]) * grid.step(n)[1] <= 0:
            rows += 1
        return (rows, *carry[1:])

    def _due(self, ok: Bool, ts: Table, t: Scalar, t_new: Scalar) -> Condition:
        """Whether the next saved time lies in the step just accepted."""
        bk, count = self.bk, self.count
        assert count is not None
        clock = bk.clock(self.layout)
        span = t_new - t

        def due(s: Carry) -> Bool:
            i = bk.pick(s[0] < count, s[0], count - 1)
            here = clock.reached(bk.table_get(ts, i), t_new, span)
            return clock.both(clock.both(ok, s[0] < count), here)

        return due


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
    calls : int or traced scalar or tuple
        Evaluations of f in the tries, where steps tell them; else ().
    sizes : table or ()
        Record of the steps' sizes, behind a 0, where they are no differences of times.
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
    calls: Index | tuple[()] = ()
    sizes: Table | tuple[()] = ()


def output_leaves(loop: Integrator, inputs: Inputs, final: Final) -> tuple[Array, ...]:
    """All rows, as leaves of shape (k, *shape)."""
    out, bk = loop.outputs, loop.bk
    emit = out.emitter(loop.problem, loop.layout, inputs.params)
    parts = []
    if out.saveat.t0:
        parts.append(out.layout.stack([emit(loop.clock.real(inputs.clocked[0]), inputs.y0)]))
    if out.inside:
        n, fill = loop.rows_inside(final), _fill(loop, final)
        parts.append(bk.rows(out.layout, final.inside[1], n, final.inside[0], fill))
    if out.saveat.final:
        ok = final.status == int(Status.converged)
        row = out.layout.stack([emit(final.t, loop.state(final.y))])
        parts.append(tuple(bk.nan_unless(ok, x) for x in row) if loop.clock.traced else row)
    if len(parts) == 1:
        return parts[0]
    xp = bk.xp
    return tuple(xp.concat(leaves, axis=0) for leaves in zip(*parts, strict=True))


def output_times(loop: Integrator, inputs: Inputs, final: Final) -> Array:
    """Times of the rows, shape (k,)."""
    out, clock, bk = loop.outputs, loop.clock, loop.bk

    def array(times: Table) -> Array:
        return bk.times_array(times, loop.layout)

    arrays = [array([clock.real(inputs.t0)])] if out.saveat.t0 else []
    if out.inside == "ts":
        arrays += bk.blank((array(inputs.ts),), final.inside[0], _fill(loop, final))
    elif out.inside:
        n = loop.rows_inside(final)
        times = final.times if loop.adaptive else bk.grid_times(loop.grid(inputs), n)
        times = bk.accepted_times(times, n, final.inside[0], _fill(loop, final))
        if loop.clock.traced or not inputs.relative:
            times = loop.user_time(inputs, times)
        else:
            times = [loop.user_time(inputs, t) for t in times]
        arrays.append(array(times))
    if out.saveat.final:
        ok = final.status == int(Status.converged)
        t = loop.user_time(inputs, final.t)
        arrays.append(array([clock.where(ok, t, math.nan) if clock.traced else t]))
    return arrays[0] if len(arrays) == 1 else bk.xp.concat(arrays, axis=0)


def _fill(loop: Integrator, final: Final) -> Scalar:
    """What stands in rows that the solve has not filled."""
    ok = final.status == int(Status.converged)
    return loop.clock.where(ok, math.inf, math.nan)


def cotangent_leaves(
    bk: AbstractBackend, leaves: Leaves, ys: Tree, cotangent: Tree
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
            f"the cotangent has leaves of shape {shapes}, but `sol.ys` has "
            f"{[tuple(x.shape) for x in own]}; make them equal."
        )

    def pad(x: Array, full: Array) -> Array:
        missing = full.shape[0] - x.shape[0]
        return xp.concat([x, xp.zeros_like(full[:missing])], axis=0) if missing else x

    return tuple(pad(x, full) for x, full in zip(given, leaves, strict=True))
