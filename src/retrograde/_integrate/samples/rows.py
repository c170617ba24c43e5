"""Rows of a batch at saved times inside the solve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..._backend.samples import SortedColumns
from ..._base.types import Array, State

if TYPE_CHECKING:
    from .run import Block, Run


class SampleRows:
    """Rows at saved times inside the solve."""

    def __init__(self, run: Run) -> None:
        self.run, self.xp = run, run.xp
        self.out = run.loop.output
        self.count = int(run.loop.times(run.inputs).ts.shape[0])
        self.found = SortedColumns(run.xp)
        self.inside: Array = 0
        """Steps with rows inside, of the samples that run."""

    def at_start(self, block: Block, reached: Array) -> Array:
        """Rows of the saved times that equal t0."""
        begin = block.inputs.t0
        while True:
            at, left = self._next(block, reached)
            due = left & (at == begin)
            if not bool(self.xp.any(due)):
                return reached
            reached = self._put(block, reached, due, block.emit(at, block.inputs.y0))

    def collect(
        self, block: Block, reached: Array, ok: Array, step: tuple[Array, Array, State]
    ) -> Array:
        """Rows of the saved times in the steps (t, t_new, y1) that were accepted."""
        t, t_new, y1 = step
        clock, stepper, ready, h = block.loop.clock, block.tries.stepper, False, t_new - t
        while True:
            at, left = self._next(block, reached)
            due = ok & left & clock.reached(at, t_new, h)
            if not bool(self.xp.any(due)):
                return reached
            if stepper.extra and not ready:
                stepper.extra_stages(True)
                ready, self.inside = True, self.inside + self.xp.astype(due, reached.dtype)
            theta = (at - t) / clock.where(due, h, 1.0)
            y = clock.select(at == t_new, stepper.state(y1), stepper.interpolate(theta))
            reached = self._put(block, reached, due, block.emit(at, y))

    def _next(self, block: Block, reached: Array) -> tuple[Array, Array]:
        """The next saved time of every sample, and whether there is one."""
        left = reached < self.count
        place = block.loop.clock.where(left, reached, self.count - 1)
        flat = self.xp.reshape(block.inputs.ts, (-1,))
        at = self.xp.take(flat, place * block.samples + block.loop.clock.indices())
        return at, left

    def _put(self, block: Block, reached: Array, due: Array, row: State) -> Array:
        here = self.xp.nonzero(due)[0]
        index, number, row = self.run.bk.take((block.index, reached, row[0]), here)
        self.found.add(number * self.run.samples + index, row)
        return reached + self.xp.astype(due, reached.dtype)

    def leaves(self, reached: Array) -> tuple[Array, ...]:
        """All rows, (numbers, k, B); nan where a sample did not get to."""
        xp, layout, samples = self.xp, self.out.layout, self.run.samples
        for number in range(int(xp.min(reached)), self.count):
            lost = xp.nonzero(reached <= number)[0]
            shape = (layout.size, lost.shape[0])
            fill = xp.full(shape, math.nan, dtype=layout.dtype, device=layout.device)
            self.found.add(number * samples + lost, fill)
        whole = self.found.whole()
        return (xp.reshape(whole, (whole.shape[0], self.count, samples)),)
