"""One solve of a batch whose samples have steps of their own: eager libraries.

Every sample has its own time, step size, memory of the controller, counts and status. All that
still run try a step together, in the arithmetic of ``_backend.samples``, by the loop's own
``AdaptiveSteps``; those that have ended wait until they are ``CHUNK`` of the batch and are then
dropped from it, so f is called for little more than the samples need. A sample whose f or y0 is nan
at t0 is never tried.

What samples leave behind (final states, saved rows, accepted times) comes in the order in which
they get there, and is sorted once, at the end: the array API writes into no array.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from .._backend.registry import backend_of
from .._backend.samples import (
    SampleBackend,
    SampleClock,
    SampleLayout,
    SampleLeaves,
    SortedColumns,
)
from .._backend.specialise import Steps, generic
from .._base.errors import InputError
from .._base.types import Array, Bool, Carry, Inputs, Leaves, State, Tree, VectorFieldFn
from .._controllers import ConstantSteps
from .._solvers.base import AbstractStepper
from .host_samples import hosted, moved
from .integrator import Integrator
from .outputs import Final, Output
from .problem import Problem
from .progress import Reporter
from .solution import Status
from .try_step import AdaptiveState, AdaptiveSteps

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._base.types import Field

CHUNK = 0.1
"""Part of the samples that have ended when they are dropped: fewer, and the gathers would cost more
than the calls of f that they save."""


class PerSample:
    """Marks a leaf (or a tree) of ``args`` whose first axis is that of the samples.

    In f it is an array whose first axis has the samples that still run, as y's has.

    Parameters
    ----------
    value : array, shape (B, *shape), or tree of such
        What f is given of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> rates = np.array([1.0, 2.0, 3.0])
    >>> f = lambda t, y, k: -k[:, None] * y
    >>> y0 = np.ones((3, 1))
    >>> sol = rg.solve(f, y0, 0.0, 1.0, rg.PerSample(rates), per_sample=True, rtol=1e-6)
    >>> sol.ys.shape, sol.ys[-1, :, 0].round(3).tolist()
    ((1, 3, 1), [0.368, 0.135, 0.05])
    """

    __slots__ = ("value",)

    def __init__(self, value: Tree) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"PerSample({self.value!r})"


class SampleProblem(Problem):
    """A vector field of a batch.

    Parameters
    ----------
    bk : AbstractBackend
    f : callable
        Of a batch of any length.
    y0, args : tree
    marks : sequence of bool
        Which leaves of args belong to samples.
    """

    layout: SampleLeaves

    def __init__(
        self, bk: AbstractBackend, f: VectorFieldFn, y0: Tree, args: Tree, marks: Sequence[bool]
    ) -> None:
        check_batch("y0", bk.flatten(y0)[0], None)
        super().__init__(cast("AbstractBackend", SampleBackend(bk)), f, y0, args)
        self.marked = tuple(marks[i] for i in self.where)
        """Which of ``params`` belong to samples."""
        self.called = [0]
        """Evaluations of f, one for each sample of a call."""
        marked = [x for x, mark in zip(self.params, self.marked, strict=True) if mark]
        check_batch("args", marked, self.layout.samples)

    def of(self, layout: SampleLeaves) -> SampleProblem:
        """The same for the samples of another layout; parameters are bound later."""
        twin = copy.copy(self)
        twin.layout = layout
        return twin

    def some(self, params: Leaves, index: Array) -> Leaves:
        """Parameters of some samples."""
        xp, index = self.bk.xp, self.layout.given(index)
        marked = (*self.marked, *[False] * (len(params) - len(self.marked)))
        return tuple(
            xp.take(x, index, axis=0) if mark else x for x, mark in zip(params, marked, strict=True)
        )

    def bind(self, params: Sequence[Array]) -> Field:
        """``field(t, Y) -> dy/dt`` in the form of states.

        Where y is one array (B, n) there is ``field.rows(t, columns)``, f's result as it is, which
        nobody but f owns.
        """
        if self.single and self.layout.flat:
            return self._bound_rows(params)
        field, layout, called = self.bind_leaves(params), self.layout, self.called
        given = layout.given
        if layout.hosted:  # what is guarded are arrays of f's own library
            field = self.bk.guard(field)

        def bound(t: Array, y: State) -> State:
            called[0] += layout.samples
            return layout.pack(self.checked(field(given(t), layout.unpack(y))))

        found = bound if layout.hosted else self.guarded(bound)
        return self._known(found, params, self.state_tree)

    def _bound_rows(self, params: Sequence[Array]) -> Field:
        """The same in one frame: of small batches, frames take as long as f."""
        args, f, layout, called = self.arguments(params), self.call, self.layout, self.called
        call = self.bk.guard(lambda t, y: f(t, y, args))
        given, turned, host, columns = layout.given, layout.rows, layout.host, layout.columns_of
        samples, shape = layout.samples, layout.shapes[0]

        def rows(t: Array, y: Array) -> Array:
            called[0] += samples
            k = call(given(t), turned(y))
            if k.shape != shape:
                self.checked((k,))
            return host(k)

        bound: Field = lambda t, y: columns([rows(t, y[0])])  # noqa: E731
        bound.rows = rows  # type: ignore[attr-defined]
        return bound

    def checked(self, leaves: Leaves) -> Leaves:
        """f's result, whose samples are those that it was given."""
        for x, shape in zip(leaves, self.layout.shapes, strict=True):
            if tuple(x.shape) != shape:
                raise InputError(
                    f"`f` returned the shape {tuple(x.shape)} for y of shape {shape}, the samples "
                    "that still run; hand arrays with a row for each sample in by "
                    "`args`, marked as rg.PerSample(array), and take the length of a batch from y."
                )
        return leaves


def check_batch(name: str, leaves: Sequence[Tree], samples: int | None) -> None:
    """Raise InputError unless leaves have a first axis of samples."""
    for x in leaves:
        shape = tuple(getattr(x, "shape", ()))
        samples = shape[0] if shape and samples is None else samples
        if not shape or shape[0] != samples:
            what = "every leaf of `y0`" if name == "y0" else "what rg.PerSample marks in `args`"
            raise InputError(
                f"`{name}` has a leaf of shape {shape} where `per_sample=True`: {what} needs a "
                f"first axis of the samples{f', {samples}' if samples else ''}."
            )


class SampleFinal(NamedTuple):
    """Where the samples ended.

    Attributes
    ----------
    y : state
        Of all samples.
    t : array, shape (B,) [time]
        As the clock counts.
    n, tries, status : array, shape (B,)
        Accepted steps, all of them, and how it ended.
    inside : tuple of array
        Rows of saved times, (number, k, B); () for none.
    reached : array, shape (B,)
        How many of them were.
    calls : array, shape (B,)
        Evaluations of f.
    record : SampleRecord or None
    """

    y: State
    t: Array
    n: Array
    tries: Array
    status: Array
    inside: tuple[Array, ...]
    reached: Array
    calls: Array
    record: SampleRecord | None = None


class SampleTimes(NamedTuple):
    """When samples begin and end, and their saved times, as the clock counts: from t0.

    Attributes
    ----------
    end : array, shape (B,) [time]
    ts : array, shape (k, B), or () [time]
    origin : array, shape (B,), or None [time]
        t0, where it is not 0 for all.
    """

    end: Array
    ts: Array
    origin: Array | None

    def of(self, bk: SampleBackend, index: Array) -> SampleTimes:
        """Those of some samples."""
        ts = self.ts if isinstance(self.ts, tuple) else bk.take(self.ts, index)
        return SampleTimes(bk.take(self.end, index), ts, bk.take(self.origin, index))


class SampleIntegrator(Integrator):
    """A solve of a batch, ready to run from any inputs."""

    bk: SampleBackend  # type: ignore[assignment]
    problem: SampleProblem
    layout: SampleLayout
    clock: SampleClock
    rounding = 2.0**-52
    """That of the given times, relative."""
    times_by_sample = False
    """Whether saved times were given for each sample, (B, k)."""

    @property
    def output(self) -> Output:
        """The one wish for rows."""
        return self.outputs.parts[0]

    def times(self, inputs: Inputs) -> SampleTimes:
        """The times of the inputs."""
        return cast("SampleTimes", inputs.relative)

    def steps(self, *, gradient: bool = False, **needs: bool) -> Steps:
        return Steps(self.solver.stepper, self.solver.step_vjp)

    def placed(self, inputs: Inputs) -> SampleIntegrator:
        return self.of(self.layout.samples, self.times(inputs).origin)

    def of(self, samples: int, origin: Array | None) -> SampleIntegrator:
        """The same loop for so many samples."""
        twin, leaves = copy.copy(self), self.problem.layout.of(samples, origin)
        twin.problem, twin.layout = self.problem.of(leaves), leaves.columns()
        twin.bind, twin.clock = twin.problem.bind, leaves.clock
        twin.carried = self.solver.carried(cast("AbstractBackend", self.bk), twin.layout)
        return twin

    def inputs_of(self, inputs: Inputs, index: Array) -> Inputs:
        """The inputs of some samples, as ``AdaptiveSteps`` reads them."""
        bk, times = self.bk, self.times(inputs).of(self.bk, index)
        params = self.problem.some(inputs.params, index)
        settings = bk.take(inputs.settings, index)
        begin = bk.xp.zeros_like(times.end)
        return Inputs(
            bk.take(inputs.y0, index), params, begin, times.end, times.ts, settings,
            relative=times,
        )  # fmt: skip

    def row_leaves(self, inputs: Inputs, final: SampleFinal) -> Leaves:
        """All rows, as leaves of shape (k, B, *shape); nan where a sample did not get to."""
        xp, out = self.bk.xp, self.output
        emit = out.emitter(self.problem, self.problem.layout, inputs.params)
        rows: list[Array] = []
        if out.saveat.t0:
            rows.append(emit(self.clock.real(0.0), inputs.y0)[0][:, None, :])
        rows += final.inside
        if out.saveat.final:
            ok = final.status == int(Status.converged)
            row = emit(final.t, self.state(final.y))[0]
            rows.append(xp.where(ok, row, xp.full_like(row, math.nan))[:, None, :])
        whole = rows[0] if len(rows) == 1 else xp.concat(rows, axis=1)
        count, layout = whole.shape[1], cast("SampleLeaves", out.layout)
        return tuple(
            xp.reshape(xp.permute_dims(whole[part, :, :], (1, 2, 0)), (count, *shape))
            for part, shape in zip(layout.parts, layout.shapes, strict=True)
        )

    def row_times(self, inputs: Inputs, final: SampleFinal) -> Array:
        """Times of the rows, (k, B); nan where a sample did not get to."""
        xp, out, clock, times = self.bk.xp, self.output, self.clock, self.times(inputs)
        rows = [clock.real(0.0)[None, :]] if out.saveat.t0 else []
        if out.inside:
            number = xp.arange(times.ts.shape[0], dtype=clock.integer, device=clock.device)
            rows.append(clock.where(number[:, None] < final.reached, times.ts, math.nan))
        if out.saveat.final:
            ok = final.status == int(Status.converged)
            rows.append(clock.where(ok, final.t, math.nan)[None, :])
        whole = self.user_times(inputs, rows[0] if len(rows) == 1 else xp.concat(rows, axis=0))
        return xp.astype(whole, self.layout.real_dtype, copy=False)

    def like_saved(self, ts: Array) -> Array:
        """Cotangents of saved times, (k, B), as the times were given: (k,), or (B, k)."""
        if isinstance(ts, tuple):
            return ts
        xp = self.bk.xp
        return xp.permute_dims(ts, (1, 0)) if self.times_by_sample else xp.sum(ts, axis=1)

    def user_times(self, inputs: Inputs, t: Array) -> Array:
        """Times of the clock as the user counts them."""
        times = self.times(inputs)
        if times.origin is None:
            return t
        t1 = self.clock.real(self.bk.stop_gradient(inputs.t1))
        return self.clock.where(t == times.end, t1, times.origin + t)

    def integrate_samples(self, inputs: Inputs, *, record: bool = False) -> SampleFinal:
        """Solve from every t0 to every t1; ``record``: note all accepted times."""
        host = None if generic() else hosted(self, inputs)
        if host is None:
            return _Run(self, inputs, record=record).run()
        final, guest = _Run(*host, record=record).run(), self.bk
        noted = None if final.record is None else final.record.moved(guest)
        return cast("SampleFinal", moved(final, guest.from_host))._replace(record=noted)


class _Block:
    """The samples that still run, with the loop and the tries of their number."""

    def __init__(self, run: _Run, index: Array) -> None:
        loop, inputs = run.loop, run.loop.inputs_of(run.inputs, index)
        self.index, self.samples = index, int(index.shape[0])
        self.inputs = inputs
        self.loop = loop.of(self.samples, loop.times(inputs).origin)
        clocked = inputs._replace(relative=())
        make = self.loop.steps().stepper
        own = None if generic() else loop.bk.sample_tries()
        kind = own or AdaptiveSteps if loop.adaptive else _GivenSteps
        self.tries = kind(self.loop, clocked, make, record=False)
        loop = self.loop
        self.emit = loop.output.emitter(loop.problem, loop.problem.layout, inputs.params)


class _Run:
    """One pass of the loop."""

    def __init__(self, loop: SampleIntegrator, inputs: Inputs, *, record: bool) -> None:
        self.loop, self.inputs, self.bk, self.xp = loop, inputs, loop.bk, loop.bk.xp
        self.samples = loop.layout.samples
        self.rows = _Rows(self) if loop.outputs.inside else None
        self.record = SortedColumns(self.xp) if record else None
        self.told = _Told(loop, self.samples) if loop.on_step or loop.progress else None
        self.ended: list[tuple[Array, ...]] = []
        """Index, y, t, n, tries, status, rows reached, and evaluations of f."""

    def run(self) -> SampleFinal:
        """The same, reported where somebody is to be told."""
        try:
            return self.final()
        finally:
            if self.told is not None:
                self.told.close()

    def final(self) -> SampleFinal:
        """Run, and sort what the samples left."""
        index = self.loop.clock.indices()
        index = self._sound(index)
        if index.shape[0]:
            self._tries(index)
        xp = self.xp
        index, y, *rest = (xp.concat(parts, axis=-1) for parts in zip(*self.ended, strict=True))
        order = xp.argsort(index)
        y, t, n, tries, status, reached, calls = self.bk.take((y, *rest), order)
        inside = () if self.rows is None else self.rows.leaves(reached)
        final = SampleFinal((y,), t, n, tries, status, inside, reached, calls)
        if self.record is None:
            return final
        return final._replace(record=SampleRecord(self.bk, n, self.record))

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
        y = loop.carried.zeros()[0] + self._start(self.inputs.y0)
        status = zero + int(Status.non_finite)
        y, t = self.bk.take((y, clock.real(0.0)), lost)
        self.ended.append((lost, y, t, zero, zero, status, zero, zero + 1))
        return xp.nonzero(sound)[0]

    def _start(self, y0: State) -> Array:
        """What is carried of samples that never begin: y0, as often as the solver has copies."""
        return self.loop.carried.join((y0,) * self.loop.solver.copies)[0]

    def _tries(self, index: Array) -> None:
        rows, tell, limit = self.rows, self.told, 1.0 - CHUNK
        block = _Block(self, index)
        tries = block.tries
        s = tries.begin(())
        reached = block.loop.clock.count(0)
        if rows is not None:
            reached = rows.at_start(block, reached)
        while True:
            on, alive = self._on(tries, s)
            if alive <= limit * block.samples:
                block, s, reached = self._dropped(block, s, reached, on)
                if not alive:
                    return
                tries, on = block.tries, True
            new = tries.step(s, on)
            if tell is not None:
                tell.step(block, s, new, on)
            if rows is not None or self.record is not None:
                ok = new.n > s.n
                if self.record is not None:
                    self._note(block, s.n, new.t, ok)
                if rows is not None:
                    reached = rows.collect(block, reached, ok, (s.t, new.t, new.y))
            s = new

    def _on(self, tries: AdaptiveSteps | _GivenSteps, s: AdaptiveState) -> tuple[Array | bool, int]:
        """Which samples try another step, and how many."""
        on = tries.running(s)
        alive = int(self.xp.count_nonzero(on))
        return (True if alive == on.shape[0] else on), alive

    def _dropped(
        self, block: _Block, s: AdaptiveState, reached: Array, on: Array
    ) -> tuple[_Block, AdaptiveState, Array]:
        """A block of the samples that are ``on``; what the others got to is kept."""
        bk, xp, loop, tries = self.bk, self.xp, block.loop, block.tries
        inside = 0 if self.rows is None else self.rows.inside
        calls = loop.evaluations(s.tries, inside)
        parts = (
            block.index,
            s.y[0],
            s.t,
            s.n,
            s.tries,
            tries.final(s, None).status,
            reached,
            calls,
        )
        if on is True:
            raise AssertionError("all samples run, and none is to be dropped")
        self.ended.append(bk.take(parts, xp.nonzero(~on)[0]))
        keep = xp.nonzero(on)[0]
        if not keep.shape[0]:
            return block, s, reached
        s = AdaptiveState(*bk.take(tuple(s), keep))
        index, reached = bk.take((block.index, reached), keep)
        if self.rows is not None:
            self.rows.inside = bk.take(self.rows.inside, keep)
        return _Block(self, index), s, reached

    def _note(self, block: _Block, n: Array, t: Array, ok: Array) -> None:
        """Accepted times, by their number and sample."""
        assert self.record is not None
        here = self.xp.nonzero(ok)[0]
        index, n, t = self.bk.take((block.index, n, t), here)
        self.record.add(n * self.samples + index, t)


class _Told:
    """Who is told of tries and of progress, of all samples that run."""

    def __init__(self, loop: SampleIntegrator, samples: int) -> None:
        self.on_step, self.samples = loop.on_step, samples
        self.reporter = Reporter(loop.progress) if loop.progress else None

    def step(self, block: _Block, s: AdaptiveState, new: AdaptiveState, on: Array | bool) -> None:
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


class _Rows:
    """Rows at saved times inside the solve."""

    def __init__(self, run: _Run) -> None:
        self.run, self.xp = run, run.xp
        self.out = run.loop.output
        self.count = int(run.loop.times(run.inputs).ts.shape[0])
        self.found = SortedColumns(run.xp)
        self.inside: Array = 0
        """Steps with rows inside, of the samples that run."""

    def at_start(self, block: _Block, reached: Array) -> Array:
        """Rows of the saved times that equal t0."""
        begin = block.inputs.t0
        while True:
            at, left = self._next(block, reached)
            due = left & (at == begin)
            if not bool(self.xp.any(due)):
                return reached
            reached = self._put(block, reached, due, block.emit(at, block.inputs.y0))

    def collect(
        self, block: _Block, reached: Array, ok: Array, step: tuple[Array, Array, State]
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

    def _next(self, block: _Block, reached: Array) -> tuple[Array, Array]:
        """The next saved time of every sample, and whether there is one."""
        left = reached < self.count
        place = block.loop.clock.where(left, reached, self.count - 1)
        flat = self.xp.reshape(block.inputs.ts, (-1,))
        at = self.xp.take(flat, place * block.samples + block.loop.clock.indices())
        return at, left

    def _put(self, block: _Block, reached: Array, due: Array, row: State) -> Array:
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


class SampleRecord:
    """The accepted times of all samples, in the order of their number.

    Samples are sorted by how many steps they took, most first, so that those with a step k are the
    first ``counts[k]``.

    Attributes
    ----------
    order : array, shape (B,)
        The samples in that order, and
    rank : array, shape (B,)
        the place of each in it.
    counts : list of int
        How many samples took more than k steps.
    """

    def __init__(self, bk: SampleBackend, n: Array, times: SortedColumns) -> None:
        xp = self.xp = bk.xp
        self.order = xp.argsort(-n)
        self.rank = xp.argsort(self.order)
        most, self.samples = int(xp.max(n)), int(n.shape[0])
        self.counts = [int(xp.count_nonzero(n > k)) for k in range(most)]
        self.starts = [0]
        for count in self.counts:
            self.starts.append(self.starts[-1] + count)
        self.times = times.whole(self.rank, self.samples) if most else ()

    def moved(self, guest: SampleBackend) -> SampleRecord:
        """The same, noted by a host's library, as arrays of another."""
        twin = copy.copy(self)
        twin.xp = guest.xp
        parts = self.order, self.rank, self.times
        twin.order, twin.rank, twin.times = moved(parts, guest.from_host)
        return twin

    def __getstate__(self) -> dict[str, Tree]:
        return {name: value for name, value in vars(self).items() if name != "xp"}

    def __setstate__(self, state: dict[str, Tree]) -> None:
        vars(self).update(state)
        self.xp = backend_of(self.order).xp

    def end(self, k: int) -> Array:
        """Where step k ends, of those that took it."""
        return self.times[self.starts[k] : self.starts[k + 1]]

    def step(self, k: int) -> tuple[Array, Array]:
        """Start and size of step k."""
        end = self.end(k)
        begin = self.end(k - 1)[: self.counts[k]] if k else self.xp.zeros_like(end)
        return begin, end - begin


class _GivenSteps:
    """Constant steps, as ``AdaptiveSteps`` are taken: samples differ in their number alone.

    Every try is accepted unless its end is not finite, which ends its sample.
    """

    def __init__(
        self,
        loop: SampleIntegrator,
        inputs: Inputs,
        stepper: Callable[..., AbstractStepper],
        *,
        record: bool,
    ) -> None:
        self.loop, self.inputs, self.clock = loop, inputs, loop.clock
        self.dense = bool(loop.outputs.inside)
        self.stepper = stepper(loop.bk, loop.layout, loop.bind(inputs.params))
        controller = cast("ConstantSteps", loop.controller)
        self.dt, self.t1, self.limit = float(controller.dt), inputs.t1, loop.max_steps
        origin = loop.layout.origin
        far = 0.0 if origin is None else loop.bk.xp.maximum(abs(origin), abs(origin + self.t1))
        slack = loop.clock.array(far * (loop.rounding / abs(self.dt)))
        self.whole = loop.clock.steps(inputs.t0, self.t1, self.dt, slack)

    def begin(self, inside: Carry) -> AdaptiveState:
        """The state before the first step."""
        clock, t0 = self.clock, self.inputs.t0
        y = self.stepper.start(t0, self.inputs.y0)
        state = self.stepper.init(t0, y) if self.dense else None
        h, zero = clock.real(self.dt), clock.count(0)
        return AdaptiveState(t0, h, clock.real(0.0), (), y, state, zero, zero, (), (), (), ())

    def step(self, s: AdaptiveState, on: Bool = True) -> AdaptiveState:
        """One step of those that are ``on``."""
        clock, last = self.clock, s.n + 1 == self.whole
        t_new = clock.where(last, self.t1, clock.array(s.n + 1) * self.dt)
        y1, _, after, *_ = self.stepper.step(s.t, t_new - s.t, s.y, s.state, error=self.dense)
        sound = self.loop.carried.finite(y1)
        ok = clock.both(on, sound)
        new, old = (t_new, y1, after, s.n + 1), (s.t, s.y, s.state, s.n)
        t, y, state, n = clock.select(ok, new, old)
        e2 = clock.select(on, clock.where(sound, s.e2, math.nan), s.e2)
        tries = clock.select(on, s.tries + 1, s.tries)
        return AdaptiveState(t, s.h, e2, (), y, state, n, tries, (), (), (), ())

    def running(self, s: AdaptiveState) -> Array:
        """Which samples have a step left."""
        on = (s.n < self.whole) & self.clock.is_finite(s.e2)
        return on if self.limit is None else on & (s.tries < self.limit)

    def final(self, s: AdaptiveState, stored: None) -> Final:
        """Where the steps ended, and why."""
        clock = self.clock
        why = clock.where(clock.is_finite(s.e2), int(Status.max_steps), int(Status.non_finite))
        status = clock.where(s.t == self.t1, int(Status.converged), why)
        return Final(s.y, s.t, s.n, s.tries, status, (), None, stored)
