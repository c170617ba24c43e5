"""The vjp of the rows of a batch: of one output, at saved times and at the nodes of steps.

All samples with a step k are pulled at once; what one of them has no row for is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from .._autodiff.field_vjp import output_pullback
from .._backend.samples import SortedColumns
from .._base.types import Array, Bool, Leaves, State

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP, FieldVJP
    from .._backend.samples import SampleLeaves
    from .._integrate.outputs import Output
    from .per_sample_vjp import Block, SampleGradient


class SampleSpan(NamedTuple):
    """A step of the samples that took it.

    Attributes
    ----------
    k : int
    t, h : array, shape (m,) [time]
        Where it begins, and its size.
    last, cut : array, shape (m,)
        Whether it is a sample's last, and whether an event cut it.
    """

    k: int
    t: Array
    h: Array
    last: Array
    cut: Bool


class Inside(NamedTuple):
    """What rows and events of a step add to its pull, of the samples that took it.

    Attributes
    ----------
    g : array, shape (n, m)
        Cotangent of what is carried from its end.
    start, end : array, shape (m,)
        Of the time that the steps behind it move with, and of the time of the solve's end.
    t, h : array, shape (m,)
        Of the step's start and size, beside those that its vjp finds.
    left, left_t : array, shape (n, m), (m,)
        Of the state and the time where an event cut it.
    sources : tree
        ``AbstractStepVJP.sources`` with what ``add_source`` put there.
    rows : tuple of array, shape (m,)
        How many rows are left, of each output.
    """

    g: Array
    start: Array
    end: Array
    t: Array
    h: Array
    left: Array
    left_t: Array
    sources: State
    rows: tuple[Array, ...]


class SampleRowsVJP:
    """Pulls the rows of output number j back.

    Parameters
    ----------
    gradient : SampleGradient
    j : int
    cotangents : tuple of array, shape (k, B, *shape)
    """

    def __init__(self, gradient: SampleGradient, j: int, cotangents: Leaves) -> None:
        self.gradient, self.j = gradient, j
        self.out: Output = gradient.loop.outputs.parts[j]
        self.layout = cast("SampleLeaves", self.out.layout)
        self.xp, self.first = gradient.xp, int(self.out.saveat.t0)
        self.cts = gradient.sorted(cotangents, self.layout)
        self.ts = SortedColumns(self.xp)
        self.vjps: tuple[Block, FieldVJP | None] | None = None

    def used(self) -> Array:
        """Of which samples a row has a cotangent."""
        return self.xp.any(self.xp.any(self.cts != 0, axis=0), axis=0)

    def absorbed(self, block: Block, t: Array, y: State, row: State) -> tuple[State, Array]:
        """A row's cotangent pulled through ``fn``, if any: of its state and its time."""
        zero = block.loop.clock.real(0.0)
        fn = self.out.saveat.fn
        if fn is None:
            return row, zero
        if self.vjps is None or self.vjps[0] is not block:
            args = block.loop.problem, fn, block.inputs.params, self.gradient.wanted
            self.vjps = block, output_pullback(*args)
        _, pull = self.vjps[1](block.loop.layout.time(t), y)  # type: ignore[misc]
        mu, ct_t, block.acc = pull(self.layout.of(block.samples).unpack(row), block.acc)
        ct_t = zero if ct_t is None else block.loop.clock.real(ct_t)
        return block.loop.problem.layout.pack(mu), ct_t

    def column(self, row: int, samples: int) -> State:
        """The cotangent of one row of the first samples."""
        return (self.cts[:, row, :samples],)

    # --- one step
    def in_step(
        self, block: Block, step_vjp: AbstractStepVJP, step: SampleSpan, found: Inside
    ) -> Inside:
        """The rows of a step that is linearised."""
        if self.out.inside == "ts":
            return self._at_times(block, step_vjp, step, found)
        return self._at_nodes(block, step_vjp, step, found) if self.out.inside else found

    def _at_times(
        self, block: Block, step_vjp: AbstractStepVJP, step: SampleSpan, found: Inside
    ) -> Inside:
        xp, clock, (k, t, h, *_) = self.xp, block.loop.clock, step
        first, count = self.out.first, cast(int, self.out.count)
        table = xp.reshape(block.inputs.ts[first : first + count, :], (-1,))
        places, timed = clock.indices(), self.gradient.wanted.time
        cts = xp.reshape(self.cts, (self.cts.shape[0], -1))  # of all samples: no copy
        left, sources, ct_t, ct_h = found.rows[self.j], found.sources, found.t, found.h
        while True:
            row = clock.where(left > 0, left - 1, 0)
            at = xp.take(table, row * block.samples + places)
            here = left > 0 if k == 0 else (left > 0) & clock.beyond(at, t, h)
            if not bool(xp.any(here)):
                break
            block.ready(step_vjp)
            theta = clock.where(here, (at - t) / h, 0.0)
            given = xp.take(cts, (row + self.first) * self.gradient.samples + places, axis=1)
            ct: State = (clock.where(here, given, 0.0),)
            y = step_vjp.interpolate(theta) if self.out.saveat.fn is not None else None
            ct, fn_t = self.absorbed(block, at, y, ct)
            sources = step_vjp.add_source(sources, theta, h, ct)
            if timed:
                d = block.loop.layout.inner(ct, step_vjp.slope(theta))
                ct_t, ct_h = ct_t - d, ct_h - theta * d
                self.note(here, left, d + fn_t, places)
            left = left - xp.astype(here, left.dtype)
        rows = (*found.rows[: self.j], left, *found.rows[self.j + 1 :])
        return found._replace(sources=sources, t=ct_t, h=ct_h, rows=rows)

    def note(self, here: Array, left: Array, value: Array, places: Array) -> None:
        """The cotangent of a saved time of each sample that is ``here``."""
        index = self.xp.nonzero(here)[0]
        left, value, places = self.gradient.bk.take((left, value, places), index)
        self.ts.add((left - 1) * self.gradient.samples + places, value)

    def _at_nodes(
        self, block: Block, step_vjp: AbstractStepVJP, step: SampleSpan, found: Inside
    ) -> Inside:
        nodes, whole, sources = self.out.nodes, self.out.whole, found.sources
        row, samples = self.first + step.k * len(nodes), block.samples
        for i, theta in enumerate(nodes if whole else nodes[:-1]):
            block.ready(step_vjp)
            sources = step_vjp.add_source(sources, theta, step.h, self.column(row + i, samples))
        found = found._replace(sources=sources)
        if whole:
            return found
        clock, y1, t1 = block.loop.clock, None, step.t + step.h
        if self.out.saveat.fn is not None:
            y1 = step_vjp.result()
            if step.cut is not False:
                block.ready(step_vjp)
                theta = self.gradient.cut_theta(step.k, block.samples)
                y1 = clock.select(step.cut, step_vjp.interpolate(theta), y1)
                t1 = step.t + theta * step.h
        ct, ct_t = self.absorbed(block, t1, y1, self.column(row + len(nodes) - 1, samples))
        return ended(clock, step, found, (step_vjp.embed(ct)[0], ct[0]), ct_t)

    # --- the ends
    def times(self, reached: Array) -> Array:
        """Cotangents of the saved times, (k, B), of samples in order; 0 where one did not get
        to."""
        xp, samples, zero = self.xp, self.gradient.samples, self.gradient.loop.clock.real(0.0)
        count = cast(int, self.out.count)
        for j in range(int(xp.min(reached)), count):
            lost = xp.nonzero(reached <= j)[0]
            self.ts.add(j * samples + lost, xp.zeros_like(zero[: lost.shape[0]]))
        return xp.reshape(self.ts.whole(), (count, samples))


def ended(
    clock: object, step: SampleSpan, found: Inside, ct: tuple[Array, Array], ct_t: Array
) -> Inside:
    """Cotangents of what is carried from a step's end, as the carried and as y, and of its time,
    added: where an event cut the step they are the event's."""
    where: Callable[..., Array] = clock.where  # type: ignore[attr-defined]
    carried, y = ct
    start, end = where(step.last, 0.0, ct_t), where(step.last, ct_t, 0.0)
    if step.cut is False:
        return found._replace(g=found.g + carried, start=found.start + start, end=found.end + end)
    own = [where(step.cut, 0.0, x) for x in (carried, start, end)]
    return found._replace(
        g=found.g + own[0], start=found.start + own[1], end=found.end + own[2],
        left=found.left + where(step.cut, y, 0.0),
        left_t=found.left_t + where(step.cut, ct_t, 0.0),
    )  # fmt: skip
