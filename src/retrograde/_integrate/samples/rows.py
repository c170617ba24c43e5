"""Rows of a batch inside the solve, at saved times and at the nodes of steps.

They are collected by the core's loops, which hand every step to ``Outputs.collect``. What goes from
try to try is how many rows of each output a sample has; the rows themselves are noted in the order
in which samples get there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ..._backend.samples import SampleClock, SortedColumns
from ..._base.types import (
    Array,
    Bool,
    Carry,
    Function,
    Index,
    Inputs,
    ParamSums,
    Scalar,
    State,
    Table,
)
from ..outputs import Output, Outputs
from .record import laid_out

if TYPE_CHECKING:
    from ..._backend.protocols import Layout
    from ..._backend.samples import SampleBackend
    from ..._solvers.base import AbstractStepper
    from ..problem import Problem
    from .loop import SampleIntegrator


class SampleRows(Outputs):
    """The rows of one pass.

    Parameters
    ----------
    loop : SampleIntegrator
        Of all samples.
    """

    def __init__(self, loop: SampleIntegrator) -> None:
        out = loop.outputs
        super().__init__(out.bk, out.parts, out.treedef, dense=out.dense)
        self.samples, self.clock = loop.layout.samples, loop.clock
        self.engine: SampleBackend = loop.bk
        self.xp = loop.bk.xp
        self.index: Array = None
        none = loop.clock.indices()[:0]
        self.found = [SortedColumns(self.xp) for _ in self.parts]
        for part, found in zip(self.parts, self.found, strict=True):
            layout = part.layout
            shape = (layout.size, 0)
            found.add(none, self.xp.zeros(shape, dtype=layout.dtype, device=layout.device))

    def of(self, clock: SampleClock, index: Array) -> SampleRows:
        """The same for the samples that run, ``index``."""
        twin = copy.copy(self)
        twin.clock, twin.index = clock, index
        return twin

    def emitters(self, problem: Problem, layout: Layout, params: ParamSums) -> list[Function]:
        return super().emitters(problem, problem.layout, params)

    def begin(self, inputs: Inputs, emit: Sequence[Function]) -> Carry:
        """How many rows each sample has at t0, of every output, and in how many steps there were
        rows inside: those of saved times that equal t0."""
        counts = []
        ts, t0 = inputs.clocked[2], inputs.clocked[0]
        for k, (part, call) in enumerate(zip(self.parts, emit, strict=True)):
            reached = self.clock.count(0)
            while part.inside == "ts":
                at, left = self._next(part, ts, reached)
                due = left & (at == t0)
                if not bool(self.xp.any(due)):
                    break
                reached = self._put(k, reached, due, call(at, inputs.y0))
            counts.append(reached)
        return (*counts, self.clock.count(0))

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
        *counts, taken = carry
        xp, inner = self.xp, self._needed(carry, ok, ts, step) if self.interpolates else None
        if inner is not None and stepper.extra and bool(xp.any(inner)):
            stepper.extra_stages(True)
            taken = taken + xp.astype(inner, taken.dtype)
        for k, (part, call) in enumerate(zip(self.parts, emit, strict=True)):
            if part.inside == "ts":
                counts[k] = self._at_times(k, counts[k], ok, (ts, step), stepper, call)
            elif part.inside and bool(xp.any(ok)):
                counts[k] = self._at_nodes(k, counts[k], ok, step, stepper, call)
        return (*counts, taken)

    def _needed(self, carry: Carry, ok: Bool, ts: Table, step: tuple[Scalar, ...]) -> Bool:
        found: Bool = ok & False
        for part, reached in zip(self.parts, carry, strict=False):
            if part.inside == "ts":
                found = found | (ok & self._due(part, ts, reached, step)[1])
            elif part.interpolates:
                found = found | ok
        return found

    def _at_times(
        self,
        k: int,
        reached: Array,
        ok: Bool,
        step: tuple[Table, tuple[Scalar, Scalar, Scalar, State]],
        stepper: AbstractStepper,
        emit: Function,
    ) -> Array:
        """Rows of saved times; how many there are then."""
        ts, (t, t_new, h, y1) = step
        clock = self.clock
        while True:
            at, due = self._due(self.parts[k], ts, reached, step[1])
            due = ok & due
            if not bool(self.xp.any(due)):
                return reached
            theta = (at - t) / clock.where(due, h, 1.0)
            y = clock.select(at == t_new, stepper.state(y1), stepper.interpolate(theta))
            reached = self._put(k, reached, due, emit(at, y))

    def _at_nodes(
        self,
        k: int,
        reached: Array,
        ok: Bool,
        step: tuple[Scalar, Scalar, Scalar, State],
        stepper: AbstractStepper,
        emit: Function,
    ) -> Array:
        """Rows at the nodes of a step; how many there are then."""
        part, (t, t_new, h, y1) = self.parts[k], step
        last = len(part.nodes) - 1
        for j, theta in enumerate(part.nodes):
            end = j == last and not part.whole
            y = stepper.state(y1) if end else stepper.interpolate(theta)
            reached = self._put(k, reached, ok, emit(t_new if end else t + theta * h, y))
        return reached

    def _due(
        self, part: Output, ts: Table, reached: Array, step: tuple[Scalar, ...]
    ) -> tuple[Array, Array]:
        """The next saved time of every sample, and whether it lies in the step."""
        at, left = self._next(part, ts, reached)
        return at, left & self.clock.reached(at, step[1], step[1] - step[0])

    def _next(self, part: Output, ts: Array, reached: Array) -> tuple[Array, Array]:
        """The next saved time of every sample, and whether there is one."""
        clock, count = self.clock, cast(int, part.count)
        left = reached < count
        place = part.first + clock.where(left, reached, count - 1)
        flat = self.xp.reshape(ts, (-1,))
        return self.xp.take(flat, place * clock.samples + clock.indices()), left

    def _put(self, k: int, reached: Array, due: Array, row: State) -> Array:
        here = self.xp.nonzero(due)[0]
        index, number, row = self.engine.take((self.index, reached, row[0]), here)
        self.found[k].add(number * self.samples + index, row)
        return reached + self.xp.astype(due, reached.dtype)

    # --- at the end
    def leaves(self, reached: Sequence[Array], ended: Array) -> tuple[Array, ...]:
        """The rows of every output, (numbers, k, B), or () for none: behind those that a sample has
        inf where it has ``ended`` as it should, else nan."""
        fill = self.clock.where(ended, math.inf, math.nan)
        rows = []
        for k, (part, count, found) in enumerate(zip(self.parts, reached, self.found, strict=True)):
            fill = (
                self.xp.zeros_like(fill) if self.is_dense(k) else fill
            )  # a solve without steps looks there
            most = int(self.xp.max(count))
            if part.inside == "ts":
                most = cast(int, part.count)
            own = laid_out(self.xp, found, count, most, fill) if part.inside else ()
            rows.append(own)
        return tuple(rows)
