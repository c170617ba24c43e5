"""The gradient of a batch whose samples took steps of their own.

The forward pass keeps the accepted times of every sample and nothing else. Going back, samples are
sorted by how many steps they took, most first: those with a step k are then the first m_k of them,
a slice of every array. So the same steps are taken again, step k of all samples that have one at
once, with states stored by a schedule of ``_checkpointing``, and pulled in reverse: at step k the
cotangents of the samples that ended there join in. Nothing is evaluated for a sample that has no
step there, and no rejected try is looked at.

As in a single solve, step sizes are constants; times move with t0, and t1 enters by the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from .._autodiff.field_vjp import field_pullback, output_pullback
from .._backend.samples import SortedColumns
from .._base.types import Array, Carry, Inputs, Leaves, NeedsGradient, ParamSums, Scalar, State
from .._checkpointing import checkpointed_for, reverse
from .._integrate.solution import Status
from .checkpointed import RecursiveCheckpointAdjoint

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import AbstractStepVJP, FieldVJP, Pull
    from .._backend.samples import SampleBackend, SampleLayout, SampleLeaves
    from .._integrate.integrator import Integrator
    from .._integrate.samples.loop import SampleIntegrator
    from .._integrate.samples.record import SampleFinal
    from .._solvers.base import AbstractStepper
    from .._solvers.runge_kutta.solver import Sources


class Pulled(NamedTuple):
    """What the reversal threads: cotangents of the states, and of t0 and t1, of the samples with a
    step k, and how many of their rows are left."""

    g: Array
    t0: Array
    t1: Array
    row: Array


class _Counted:
    """Number of steps, as a schedule asks a loop for it."""

    max_steps = None

    def __init__(self, bk: AbstractBackend, count: int) -> None:
        self.bk, self.count = bk, count


def slot_sizes(counts: Sequence[int], column: int) -> list[int]:
    """Bytes of the state before each step, with the columns that a slice of it holds alive."""
    return [m * column for m in [*counts[:1], *counts][: len(counts)]]


class _Columns:
    """The vjp of f where states are columns; of fewer samples than there are."""

    def __init__(self, vjp: FieldVJP, layout: SampleLeaves, columns: SampleLayout) -> None:
        self.vjp, self.leaves, self.layout = vjp, layout, columns
        self.zero, self.finish = vjp.zero, vjp.finish

    def __call__(self, t: Array, y: State) -> tuple[State, Pull]:
        """f(t, y), and the pull."""
        k, pull = self.vjp(t, y)
        leaves = self.leaves

        def columns(ct: State, acc: ParamSums) -> tuple[State, Scalar, ParamSums]:
            mu, ct_t, acc = pull(leaves.unpack(ct), acc)
            return leaves.pack(mu), ct_t, acc

        return leaves.pack(k), cast("Pull", columns)


class _Block:
    """The first samples in order, with what pulls their steps."""

    def __init__(self, gradient: SampleGradient, samples: int) -> None:
        self.samples = samples
        loop, inputs = gradient.loop, gradient.inputs
        index = gradient.order[:samples]
        self.inputs = loop.inputs_of(inputs, index)
        self.loop = loop = loop.of(samples, loop.times(self.inputs).origin)
        problem, params, wanted = loop.problem, self.inputs.params, gradient.wanted
        self.vjp = field_pullback(problem, params, wanted)
        out = loop.output
        rows = cast("SampleLeaves", out.layout)
        self.rows = rows.of(samples)
        fn = out.saveat.fn
        self.fn_vjp = None if fn is None else output_pullback(problem, fn, params, wanted)
        field = loop.bind(params)
        columns = cast("FieldVJP", _Columns(self.vjp, problem.layout, loop.layout))
        self.step_vjp: AbstractStepVJP = loop.solver.step_vjp(
            cast("AbstractBackend", loop.bk), loop.layout, columns, outputs=bool(out.inside),
            time=wanted.time, field=field if gradient.one_tape else None,
        )  # fmt: skip
        self.acc = self.vjp.zero()


class SampleGradient:
    """One reverse pass.

    Parameters
    ----------
    loop : SampleIntegrator
        Of all samples.
    inputs : Inputs
    final : SampleFinal
        With its record.
    cotangents : tuple of array, shape (k, B, *shape)
    wanted : NeedsGradient
    adjoint : RecursiveCheckpointAdjoint
        How many states are stored.
    """

    def __init__(
        self,
        loop: SampleIntegrator,
        inputs: Inputs,
        final: SampleFinal,
        cotangents: Leaves,
        wanted: NeedsGradient,
        adjoint: RecursiveCheckpointAdjoint,
    ) -> None:
        assert final.record is not None
        self.loop, self.inputs, self.wanted, self.adjoint = loop, inputs, wanted, adjoint
        self.one_tape = adjoint.one_tape
        self.bk: SampleBackend = loop.bk
        self.xp, self.record = loop.bk.xp, final.record
        self.order, self.counts = self.record.order, self.record.counts
        self.samples = loop.layout.samples
        ends = final.y, final.t, final.n, final.tries, final.status, final.reached
        self.final = SampleFinalSorted(*loop.bk.take(ends, self.order))
        self.out = loop.output
        self.cts = self._sorted(cotangents)
        self.first = int(self.out.saveat.t0)
        self.ts = SortedColumns(self.xp)
        self.block: _Block | None = None
        self.stepper: tuple[int, AbstractStepper] | None = None
        self.sums: list[Array | None] = [None] * len(inputs.params)

    def _sorted(self, cotangents: Leaves) -> Array:
        """Cotangents of the rows, (numbers, k, B), of samples in order."""
        xp, layout = self.xp, cast("SampleLeaves", self.out.layout)
        count = cotangents[0].shape[0]
        parts = []
        for x, part in zip(cotangents, layout.parts, strict=True):
            flat = xp.reshape(x, (count, self.samples, part.stop - part.start))
            parts.append(xp.permute_dims(flat, (2, 0, 1)))
        whole = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
        return xp.take(whole, self.order, axis=2)

    def run(self) -> Inputs:
        """Cotangents of the inputs."""
        steps, bk = len(self.counts), cast("AbstractBackend", self.bk)
        start = self.bk.take(self.inputs.y0, self.order)
        whole = self._block(self.samples)
        self.ends = self._ends(whole)
        y0 = self._again(self.samples).start(self.loop.clock.real(0.0), start)
        carry = self._joined(None, steps)
        if steps:
            slots = self.adjoint.slots(cast("Integrator", _Counted(bk, steps)))
            layout = self.loop.carried
            first = y0[0][:, : self.counts[0]]
            body: Callable[..., Carry] = lambda k, s: (self._advance(k, s[0]),)  # noqa: E731
            _, stored = checkpointed_for(
                bk, steps, ((first,),), body, lambda s: s[0], slots, layout
            )
            assert stored is not None
            del whole, start, y0
            if slots.everything:
                self.stepper = None
            calls = self._advance, self._pull
            carry = reverse(bk, slots, stored, steps, calls, carry, layout)
            carry = self._joined(carry, 0)
        return self._finished(carry)

    # --- blocks
    def _block(self, samples: int) -> _Block:
        """That of the first samples, for pulls; one at a time is there."""
        if self.block is not None and self.block.samples != samples:
            self._add(self.block)
            self.block = None  # before there is another
        if self.block is None:
            self.block = _Block(self, samples)
        return self.block

    def _again(self, samples: int) -> AbstractStepper:
        """What takes the steps of the first samples again; one at a time is there."""
        if self.stepper is None or self.stepper[0] != samples:
            self.stepper = None
            inputs = self.loop.inputs_of(self.inputs, self.order[:samples])
            loop = self.loop.of(samples, self.loop.times(inputs).origin)
            bk = cast("AbstractBackend", loop.bk)
            made = loop.solver.stepper(bk, loop.layout, loop.bind(inputs.params))
            self.stepper = samples, made
        return self.stepper[1]

    def _add(self, block: _Block) -> None:
        """Add the sums of a block's pulls to those of all."""
        xp, marked = self.xp, self.loop.problem.marked
        for i, x in enumerate(block.vjp.finish(block.acc)):
            if x is None:
                continue
            if i < len(marked) and marked[i] and block.samples < self.samples:
                rest = xp.zeros_like(self.inputs.params[i][block.samples :, ...])
                x = xp.concat([x, rest], axis=0)
            before = self.sums[i]
            self.sums[i] = x if before is None else before + x

    # --- ends of samples
    def _ends(self, whole: _Block) -> tuple[Array, Array]:
        """Cotangents of the last states, and of t1, by the rows there."""
        loop, final, xp = self.loop, self.final, self.xp
        zero = loop.clock.real(0.0)
        g, by_t1 = loop.carried.zeros()[0], zero
        failed = final.status != int(Status.converged)
        if self.out.saveat.final:
            row, y = (self.cts[:, -1, :],), loop.state(final.y)
            row, by_t1 = self._absorbed(whole, final.t, y, row)
            g = whole.step_vjp.embed(row)[0]
        if bool(xp.any(failed)):  # of a failed sample nothing is known but for no weight
            used = failed & xp.any(xp.any(self.cts != 0, axis=0), axis=0)
            g = xp.where(used, xp.full_like(g, float("nan")), g)
        return g, by_t1

    def _absorbed(self, block: _Block, t: Array, y: State, row: State) -> tuple[State, Array]:
        """A row's cotangent pulled through ``fn``, if any: of its state and its time."""
        zero = block.loop.clock.real(0.0)
        if block.fn_vjp is None:
            return row, zero
        _, pull = block.fn_vjp(block.loop.layout.time(t), y)
        mu, ct_t, block.acc = pull(block.rows.unpack(row), block.acc)
        ct_t = zero if ct_t is None else block.loop.clock.real(ct_t)
        return block.loop.problem.layout.pack(mu), ct_t

    def _joined(self, carry: Pulled | None, k: int) -> Pulled:
        """The carry with the samples that took k steps and no more."""
        xp, low = self.xp, 0 if carry is None else carry.g.shape[1]
        high = self.counts[k - 1] if k else self.samples
        (g, by_t1), zero = self.ends, self.loop.clock.real(0.0)
        new = Pulled(g[:, low:high], zero[low:high], by_t1[low:high], self.final.reached[low:high])
        if carry is None or low == high:
            return new if carry is None else carry
        return Pulled(*(xp.concat(pair, axis=-1) for pair in zip(carry, new, strict=True)))

    # --- steps
    def _advance(self, k: int, y: State) -> State:
        """Step k of all samples that took it, then those that took another."""
        stepper = self._again(self.counts[k])
        y1 = stepper.step(*self.record.step(k), y, None, error=False).y1
        rest = self.counts[k + 1] if k + 1 < len(self.counts) else 0
        return (y1[0][:, :rest],)

    def _pull(self, k: int, y: State, carry: Pulled) -> Pulled:
        """Reverse step k."""
        last = self.counts[k + 1] if k + 1 < len(self.counts) else 0
        if last:
            carry = self._joined(carry, k + 1)
        xp, block = self.xp, self._block(self.counts[k])
        (t, h), real = self.record.step(k), block.loop.clock.real
        sources = self._sources(k, block, t, h, carry.row) if self.out.inside else None
        pulled, extra = block.step_vjp.pull(
            t, h, y, (carry.g,), block.acc, sources, self.wanted.time
        )
        block.acc = pulled.params
        row, t0, t1 = carry.row if extra is None else extra, carry.t0, carry.t1
        if self.wanted.time:
            by_size = real(pulled.h)
            by_size = xp.concat([xp.zeros_like(by_size[:last]), by_size[last:]])  # of last steps
            t0, t1 = t0 + real(pulled.t) - by_size, t1 + by_size
        return Pulled(pulled.y[0], t0, t1, row)

    def _sources(
        self, k: int, block: _Block, t: Array, h: Array, row: Array
    ) -> Callable[..., Sources]:
        """The rows of saved times inside step k, by its interpolant."""
        xp, clock, ts = self.xp, block.loop.clock, block.inputs.ts
        places = clock.indices()
        table = xp.reshape(ts, (-1,))
        cts = self.cts[:, self.first : self.first + ts.shape[0], : block.samples]
        cts = xp.reshape(cts, (cts.shape[0], -1))

        def sources(step_vjp: AbstractStepVJP, g: State, params: ParamSums) -> Sources:
            left, inside, block.acc = row, step_vjp.sources(), params
            ct_t = ct_h = clock.real(0.0)
            ready = False
            while True:
                flat = clock.where(left > 0, left - 1, 0) * block.samples + places
                at = xp.take(table, flat)
                here = left > 0 if k == 0 else (left > 0) & clock.beyond(at, t, h)
                if not bool(xp.any(here)):
                    return g, block.acc, inside, ct_t, ct_h, left
                if step_vjp.extra and not ready:
                    step_vjp.extra_stages(True)
                    ready = True
                theta = clock.where(here, (at - t) / h, 0.0)
                ct: State = (clock.where(here, xp.take(cts, flat, axis=1), 0.0),)
                y = step_vjp.interpolate(theta) if block.fn_vjp is not None else None
                ct, fn_t = self._absorbed(block, at, y, ct)
                inside = step_vjp.add_source(inside, theta, h, ct)
                if self.wanted.time:
                    d = block.loop.layout.inner(ct, step_vjp.slope(theta))
                    ct_t, ct_h = ct_t - d, ct_h - theta * d
                    self._note(here, left, d + fn_t, places)
                left = left - xp.astype(here, left.dtype)

        return sources

    def _note(self, here: Array, left: Array, value: Array, places: Array) -> None:
        """The cotangent of a saved time of each sample that is ``here``."""
        index = self.xp.nonzero(here)[0]
        left, value, places = self.bk.take((left, value, places), index)
        self.ts.add((left - 1) * self.samples + places, value)

    # --- the end
    def _finished(self, carry: Pulled) -> Inputs:
        xp, bk, loop, out = self.xp, self.bk, self.loop, self.out
        whole = self._block(self.samples)
        zero, y0 = loop.clock.real(0.0), self.bk.take(self.inputs.y0, self.order)
        carry = self._of_no_step(whole, carry, y0)
        g, by_t0, whole.acc = whole.step_vjp.finish(zero, y0, (carry.g,), whole.acc)
        t0 = carry.t0 + loop.clock.real(by_t0)
        if out.saveat.t0:
            row, by_t0 = self._absorbed(whole, zero, y0, (self.cts[:, 0, :],))
            g, t0 = loop.layout.add(g, row), t0 + by_t0
        self._add(whole)
        self.block = None
        rank, marked = self.record.rank, loop.problem.marked
        params = tuple(
            xp.take(x, rank, axis=0) if x is not None and i < len(marked) and marked[i] else x
            for i, x in enumerate(self.sums)
        )
        found: Inputs = self.inputs._replace(settings=(), relative=())
        y0, t0, t1 = bk.take((g, t0, carry.t1), rank)
        return found._replace(y0=y0, params=params, t0=t0, t1=t1, ts=self._times(rank))

    def _of_no_step(self, whole: _Block, carry: Pulled, y0: State) -> Pulled:
        """Samples whose t0 is t1: rows there go to y0, and dy/dt1 = f, dy/dt0 = -f."""
        xp, loop, out, few = self.xp, self.loop, self.out, self.final.n == 0
        g, t0, t1 = carry.g, carry.t0, carry.t1
        if not bool(xp.any(few)):
            return carry
        clock = loop.clock
        for j in range(int(whole.inputs.ts.shape[0]) if out.inside else 0):
            here = few & (carry.row > j)
            row: State = (clock.where(here, self.cts[:, self.first + j, :], 0.0),)
            row, by_t = self._absorbed(whole, clock.real(0.0), y0, row)
            g, t0 = g + row[0], t0 + by_t
            if self.wanted.time:
                self._note(here, clock.count(j + 1), clock.real(0.0), clock.indices())
        if self.wanted.time:
            k, _ = whole.vjp(loop.layout.time(clock.real(0.0)), y0)
            d = loop.layout.inner((g,), loop.problem.layout.pack(k))
            d = clock.where(few, d, 0.0)
            t0, t1 = t0 - d, t1 + d
        return Pulled(g, t0, t1, carry.row)

    def _times(self, rank: Array) -> Array:
        """Cotangents of the saved times, (k, B); 0 where a sample did not get to."""
        if not (self.wanted.time and self.out.inside):
            return ()
        xp, samples = self.xp, self.samples
        count = int(self.loop.times(self.inputs).ts.shape[0])
        for j in range(int(xp.min(self.final.reached)), count):
            lost = xp.nonzero(self.final.reached <= j)[0]
            self.ts.add(
                j * samples + lost, xp.zeros_like(self.loop.clock.real(0.0)[: lost.shape[0]])
            )
        return xp.take(xp.reshape(self.ts.whole(), (count, samples)), rank, axis=1)


class SampleFinalSorted(NamedTuple):
    """The ends of samples, in order."""

    y: State
    t: Array
    n: Array
    tries: Array
    status: Array
    reached: Array
