"""What a solve returns, and how it is collected step by step and pulled back again.

:class:`SaveAt` is the user's wish. :class:`Outputs` is that wish laid out for one solve: rows
before the loop (t0), inside it (ts or steps) and after it (t1). Output inside a step comes from
the solver's own interpolant; a row costs O(1) in both passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._base.errors import InputError
from .._base.foreign import refuse
from .._base.types import (
    Bool,
    Carry,
    Condition,
    Function,
    Index,
    Leaves,
    ParamSums,
    Scalar,
    State,
    Table,
    Times,
    TreeDef,
    VectorFieldFn,
)
from .._checkpointing.forward import while_any, write_where

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout
    from .._controllers.base import Grid
    from .._solvers.base import AbstractStepper
    from .problem import Problem

__all__ = ["Outputs", "SaveAt"]


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
            _check_form(self.ts)
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


def _check_form(ts: Table) -> None:
    """Raise InputError unless ts has the form of at least one time in a row."""
    refuse("saveat.ts", ts)
    shape = getattr(ts, "shape", None)
    if shape is None and isinstance(ts, Sequence) and not isinstance(ts, str):
        for kind, t in {type(t): t for t in ts}.items():
            refuse("saveat.ts", t)
            if issubclass(kind, (list, tuple, str)) or getattr(t, "shape", ()) != ():
                raise InputError(
                    f"`saveat.ts` has an entry of type {kind.__name__} that is no single time; "
                    "pass a flat list of numbers or an array of shape (k,)."
                )
        shape = (len(ts),)
    if shape is None or len(shape) != 1:
        what = f"of shape {tuple(shape)}" if shape is not None else repr(ts)
        raise InputError(f"`saveat.ts` is {what}; pass a list of times or an array, shape (k,).")
    if shape[0] == 0:
        raise InputError("`saveat.ts` is empty; pass at least one time, or leave it out.")


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
