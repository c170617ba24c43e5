"""One pass over a batch whose samples have steps of their own.

Every sample has its own time, step size, memory of the controller, counts and status. All that
still run try a step together, in the arithmetic of ``_backend.samples``, by the loop's own
``AdaptiveSteps``; those that have ended wait until they are ``CHUNK`` of the batch and are then
dropped from it, so f is called for little more than the samples need. A sample whose f or y0 is nan
at t0 is never tried.

What samples leave behind (final states, saved rows, accepted times) comes in the order in which
they get there, and is sorted once, at the end: the array API writes into no array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..._backend.samples import SortedColumns
from ..._base.types import Array, Inputs
from ..progress import Reporter
from ..solution import Status
from ..try_step import AdaptiveState, AdaptiveSteps
from .constant_steps import GivenSteps
from .events import HitLog
from .record import SampleFinal, SampleRecord, laid_out
from .rows import SampleRows

if TYPE_CHECKING:
    from .loop import SampleIntegrator

CHUNK = 0.1
"""Part of the samples that have ended when they are dropped: fewer, and the gathers would cost more
than the calls of f that they save."""


class Block:
    """The samples that still run, with the loop and the tries of their number."""

    def __init__(self, run: Run, index: Array) -> None:
        loop, inputs = run.loop, run.loop.inputs_of(run.inputs, index)
        self.index, self.samples = index, int(index.shape[0])
        self.inputs = inputs
        self.loop = loop.of(self.samples, loop.times(inputs).origin)
        self.loop.index, self.loop.log = index, run.log
        if run.rows is not None:
            self.loop.outputs = run.rows.of(self.loop.clock, index)
        clocked = inputs._replace(relative=())
        make = self.loop.steps().stepper
        kind = AdaptiveSteps if loop.adaptive else GivenSteps
        self.tries = kind(self.loop, clocked, make, record=False)

    def begin(self) -> AdaptiveState:
        """The state before the first try."""
        rows, tries = self.loop.outputs, self.tries
        inside = rows.begin(tries.inputs, tries.emit) if isinstance(rows, SampleRows) else ()
        return tries.begin(inside)


class Run:
    """One pass of the loop."""

    def __init__(self, loop: SampleIntegrator, inputs: Inputs, *, record: bool) -> None:
        self.loop, self.inputs, self.bk, self.xp = loop, inputs, loop.bk, loop.bk.xp
        self.samples, self.events = loop.layout.samples, loop.events
        self.rows = SampleRows(loop) if loop.outputs.inside else None
        self.log = None if loop.events is None else HitLog(loop)
        self.record = SortedColumns(self.xp) if record or loop.outputs.stepped else None
        self.keep = record
        self.reports = _Reports(loop, self.samples) if loop.on_step or loop.progress else None
        self.ended: list[tuple[Array, ...]] = []
        """Index, y, t, n, tries, status, evaluations of f, which event ended it, how many there
        were of each, and rows of each output."""

    def run(self) -> SampleFinal:
        """The same, reported where somebody is to be told."""
        try:
            return self.final()
        finally:
            if self.reports is not None:
                self.reports.close()

    def final(self) -> SampleFinal:
        """Run, and sort what the samples left."""
        index = self._sound(self.loop.clock.indices())
        if index.shape[0]:
            self._tries(index)
        xp, bk = self.xp, self.bk
        index, *left = (xp.concat(parts, axis=-1) for parts in zip(*self.ended, strict=True))
        y, t, n, tries, status, calls, ended, *rest = bk.take(tuple(left), xp.argsort(index))
        events = 0 if self.events is None else len(self.events.given)
        counts, reached = rest[:events], tuple(rest[events:])
        good = (status == int(Status.converged)) | (status == int(Status.event))
        inside = () if self.rows is None else self.rows.leaves(reached, good)
        final = SampleFinal((y,), t, n, tries, status, inside, reached, calls)
        if self.record is not None:
            if self.keep:
                final = final._replace(record=SampleRecord(bk, n, self.record))
            if self.loop.outputs.stepped:  # a row for every step of the sample with most
                fill = self.loop.clock.where(good, math.inf, math.nan)
                self.record.add(index[:0], fill[:0])
                times = laid_out(xp, self.record, n, int(xp.max(n)), fill)
                final = final._replace(times=times)
        if self.log is not None:
            final = final._replace(hits=self.log.whole(ended, xp.stack(counts)))
        return final

    def _sound(self, index: Array) -> Array:
        """Samples without nan or inf at the start, by the first call of f; the others end there."""
        loop, xp, clock = self.loop, self.xp, self.loop.clock
        problem, layout = loop.problem, loop.layout
        sound = layout.finite(self.inputs.y0)
        if problem.first:
            sound = sound & layout.finite(problem.layout.pack(problem.first))
        if bool(xp.all(sound)):
            return index
        lost = xp.nonzero(~sound)[0]
        zero = self.bk.take(clock.count(0), lost)
        status = zero + int(Status.non_finite)
        y, t = self.bk.take((self.inputs.y0[0], clock.real(0.0)), lost)
        counts = 0 if self.events is None else len(self.events.given)
        outputs = 0 if self.rows is None else len(self.rows.parts)
        none = (zero,) * (counts + outputs)
        self.ended.append((lost, y, t, zero, zero, status, zero + 1, zero - 1, *none))
        return xp.nonzero(sound)[0]

    def _tries(self, index: Array) -> None:
        tell, limit = self.reports, 1.0 - CHUNK
        block = Block(self, index)
        tries, s = block.tries, block.begin()
        while True:
            on, alive = self._on(tries, s)
            if alive <= limit * block.samples:
                block, s = self._dropped(block, s, on)
                if not alive:
                    return
                tries, on = block.tries, True
            new = tries.step(s, on)
            if tell is not None:
                tell.step(block, s, new, on)
            if self.record is not None:
                self._note(block, s.n, new.t, new.n > s.n)
            s = new

    def _on(self, tries: AdaptiveSteps | GivenSteps, s: AdaptiveState) -> tuple[Array | bool, int]:
        """Which samples try another step, and how many."""
        on = tries.running(s)
        alive = int(self.xp.count_nonzero(on))
        return (True if alive == on.shape[0] else on), alive

    def _dropped(
        self, block: Block, s: AdaptiveState, on: Array | bool
    ) -> tuple[Block, AdaptiveState]:
        """A block of the samples that are ``on``; what the others got to is kept."""
        bk, xp, loop, tries = self.bk, self.xp, block.loop, block.tries
        if on is True:
            raise AssertionError("all samples run, and none is to be dropped")
        *reached, inside = s.rows or (0,)
        ended, counts, cuts = loop.clock.count(-1), (), 0
        if loop.events is not None:
            inside, ended, counts, cuts = s.n, s.events.ended, s.events.counts, s.events.cuts
        calls = loop.evaluations(s.tries, inside, cuts=cuts)
        status = tries.final(s, None).status
        parts = block.index, s.y[0], s.t, s.n, s.tries, status, calls, ended, *counts, *reached
        self.ended.append(bk.take(parts, xp.nonzero(~on)[0]))
        keep = xp.nonzero(on)[0]
        if not keep.shape[0]:
            return block, s
        return Block(self, bk.take(block.index, keep)), bk.take(s, keep)

    def _note(self, block: Block, n: Array, t: Array, ok: Array) -> None:
        """Accepted times, by their number and sample."""
        assert self.record is not None
        here = self.xp.nonzero(ok)[0]
        index, n, t = self.bk.take((block.index, n, t), here)
        self.record.add(n * self.samples + index, t)


class _Reports:
    """Who is told of tries and of progress, of all samples that run."""

    def __init__(self, loop: SampleIntegrator, samples: int) -> None:
        self.on_step, self.samples = loop.on_step, samples
        self.reporter = Reporter(loop.progress) if loop.progress else None

    def step(self, block: Block, s: AdaptiveState, new: AdaptiveState, on: Array | bool) -> None:
        """Samples that were ``on`` went from s to new."""
        loop, xp, bk = block.loop, block.loop.bk.xp, block.loop.bk
        if self.on_step is not None:
            t, y = loop.user_times(block.inputs, s.t), loop.state(s.y)
            _, h = loop.clock.land(s.t, s.h, block.tries.t1)
            parts = (t, y[0], h, new.n > s.n, block.index)
            if on is not True:
                parts = bk.take(parts, xp.nonzero(on)[0])
            t, y, h, accepted, index = parts
            layout = loop.problem.layout.of(int(index.shape[0]))
            tree = loop.problem.tree(bk.stop_gradient(layout.unpack((y,))))
            t, h, accepted, index = map(layout.given, (t, h, accepted, index))
            self.on_step(t, tree, h, accepted, index)
        if self.reporter is not None:
            ends, clock = block.loop.times(block.inputs).end, loop.clock
            part = clock.where(ends != 0, new.t / clock.where(ends != 0, ends, 1.0), 1.0)
            done = self.samples - block.samples + float(xp.sum(part))
            self.reporter.report(done / self.samples)

    def close(self) -> None:
        """The solve has ended."""
        if self.reporter is not None:
            self.reporter.close()
