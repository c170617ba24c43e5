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

from .._autodiff.field_vjp import field_pullback
from .._backend.sample_linear import SampleReals
from .._base.types import (
    Array,
    Carry,
    Inputs,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Tree,
)
from .._checkpointing import checkpointed_for, reverse
from .._integrate.solution import Status
from .checkpointed import RecursiveCheckpointAdjoint
from .sample_events_vjp import SampleHitsVJP
from .sample_rows_vjp import Inside, SampleRowsVJP, SampleSpan, ended

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
    """What the reversal threads, of the samples with a step k: cotangents of the states, of the
    time that their steps move with (t0, or that of a reset), and of their end, and how many rows of
    each output are left."""

    g: Array
    start: Array
    end: Array
    rows: tuple[Array, ...]


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

    mass = None

    def __init__(self, vjp: FieldVJP, layout: SampleLeaves, columns: SampleLayout) -> None:
        self.vjp, self.leaves, self.layout = vjp, layout, columns
        self.zero, self.finish = vjp.zero, vjp.finish
        self.derivatives = getattr(vjp, "derivatives", None)
        if self.derivatives is not None and hasattr(vjp, "reals"):
            vjp.reals = SampleReals(layout)

    def __call__(self, t: Array, y: State) -> tuple[State, Pull]:
        """f(t, y), and the pull."""
        k, pull = self.vjp(t, y)
        leaves = self.leaves

        def columns(ct: State, acc: ParamSums) -> tuple[State, Scalar, ParamSums]:
            mu, ct_t, acc = pull(leaves.unpack(ct), acc)
            return leaves.pack(mu), ct_t, acc

        return leaves.pack(k), cast("Pull", columns)

    def second(
        self,
        t: Array,
        y: State,
        ks: Sequence[State],
        lams: Sequence[State],
        acc: ParamSums,
        taus: Sequence[Scalar] | None = None,
    ) -> tuple[State, Scalar, ParamSums]:
        """The pull of ``sum_i <lam_i, J k_i + tau_i f_t>`` of all samples."""
        mu, ct_t, acc = self.vjp.second(t, y, ks, lams, acc, taus)
        return self.leaves.pack(mu), ct_t, acc


class Block:
    """The first samples in order, with what pulls their steps."""

    def __init__(self, gradient: SampleGradient, samples: int) -> None:
        self.samples = samples
        loop, inputs = gradient.loop, gradient.inputs
        index = gradient.order[:samples]
        self.inputs = loop.inputs_of(inputs, index)
        self.loop = loop = loop.of(samples, loop.times(self.inputs).origin)
        problem, params, wanted = loop.problem, self.inputs.params, gradient.wanted
        self.vjp = field_pullback(problem, params, wanted)
        field = loop.bind(params)
        columns = cast("FieldVJP", _Columns(self.vjp, problem.layout, loop.layout))
        own: dict[str, Tree] = {"field": field if gradient.one_tape else None}
        if loop.solver.implicit:
            own = {"field": field, "one_tape": gradient.one_tape}
        self.step_vjp: AbstractStepVJP = loop.solver.step_vjp(
            cast("AbstractBackend", loop.bk), loop.layout, columns, outputs=gradient.inside,
            time=wanted.time, **own,
        )  # fmt: skip
        self.acc = self.vjp.zero()

    def ready(self, step_vjp: AbstractStepVJP) -> None:
        """Have the interpolant's own stages of the step linearised last, once."""
        if step_vjp.extra and self.waits:
            step_vjp.extra_stages(True)
        self.waits = False

    waits = True
    """Whether these are not yet known."""


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
        if loop.events is not None:  # whose times are found by what the steps behind them tell
            wanted = wanted._replace(t0=True, t1=True)
        self.loop, self.inputs, self.wanted, self.adjoint = loop, inputs, wanted, adjoint
        self.one_tape = adjoint.one_tape
        self.bk: SampleBackend = loop.bk
        self.xp, self.record = loop.bk.xp, final.record
        self.order, self.counts = self.record.order, self.record.counts
        self.samples, self.hits = loop.layout.samples, final.hits
        ends = final.y, final.t, final.n, final.status, final.reached
        self.final = SampleFinalSorted(*loop.bk.take(ends, self.order))
        self.inside = bool(loop.outputs.inside) or loop.events is not None
        self._parted(cotangents)
        self.block: Block | None = None
        self.stepper: tuple[int, AbstractStepper] | None = None
        self.replay: tuple[SampleIntegrator, ParamSums] | None = None
        self.sums: list[Array | None] = [None] * len(inputs.params)

    def _parted(self, cotangents: Leaves) -> None:
        """The cotangents by what they are of: rows, the times of ends, events, ends of steps."""
        loop, xp, order = self.loop, self.xp, self.order
        out, width = loop.outputs, len(loop.problem.layout.shapes)
        self.parts = [SampleRowsVJP(self, j, ct) for j, ct in enumerate(out.split(cotangents))]
        rest = list(cotangents[out.width :])
        self.of_end: Array | None = None
        self.events: SampleHitsVJP | None = None
        if loop.events is not None:
            self.of_end, hits = xp.take(loop.clock.array(rest.pop(0)), order), []
            for event in loop.events.given:
                t, count = rest.pop(0), width if event.reset is None else 2 * width
                own, rest = rest[:count], rest[count:]
                hits.append((t, tuple(own[:width]), tuple(own[width:])))
            self.events = SampleHitsVJP(self, hits)
        self.of_knots = xp.take(loop.clock.array(rest[0]), order, axis=1) if rest else None

    def sorted(self, leaves: Leaves, layout: SampleLeaves) -> Array:
        """Leaves (k, B, *shape) as one array (numbers, k, B), of samples in order."""
        xp, count = self.xp, leaves[0].shape[0]
        parts = []
        for x, part in zip(leaves, layout.parts, strict=True):
            flat = xp.reshape(x, (count, self.samples, part.stop - part.start))
            parts.append(xp.permute_dims(flat, (2, 0, 1)))
        whole = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
        return xp.take(whole, self.order, axis=2)

    def cut_theta(self, k: int, samples: int) -> Array:
        """Where in step k events cut it; 1 elsewhere."""
        assert self.events is not None
        return self.events.cut_theta(k, samples)

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
    def _block(self, samples: int) -> Block:
        """That of the first samples, for pulls; one at a time is there."""
        if self.block is not None and self.block.samples != samples:
            self._drop(self.block)  # before there is another
        if self.block is None:
            self.block = Block(self, samples)
        return self.block

    def _again(self, samples: int) -> AbstractStepper:
        """What takes the steps of the first samples again; one at a time is there."""
        if self.stepper is None or self.stepper[0] != samples:
            self.stepper = None
            inputs = self.loop.inputs_of(self.inputs, self.order[:samples])
            loop = self.loop.of(samples, self.loop.times(inputs).origin)
            bk = cast("AbstractBackend", loop.bk)
            made = loop.solver.stepper(bk, loop.layout, loop.bind(inputs.params))
            self.stepper, self.replay = (samples, made), (loop, inputs.params)
        return self.stepper[1]

    def _drop(self, block: Block) -> None:
        """Let go of a block, when its sums are added to those of all."""
        self._add(block)
        self.block = None
        for part in (*self.parts, self.events):
            if part is not None:
                part.vjps = None

    def _add(self, block: Block) -> None:
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
    def _ends(self, whole: Block) -> tuple[Array, Array]:
        """Cotangents of the last states, and of when samples ended, by the rows there."""
        loop, final, xp = self.loop, self.final, self.xp
        g, end = loop.carried.zeros()[0], loop.clock.real(0.0)
        failed = (final.status != int(Status.converged)) & (final.status != int(Status.event))
        if self.of_end is not None:
            end = end + self.of_end
        for part in self.parts:
            if part.out.saveat.final:
                row, y = (part.cts[:, -1, :],), loop.state(final.y)
                row, by_end = part.absorbed(whole, final.t, y, row)
                g, end = g + whole.step_vjp.embed(row)[0], end + by_end
        if bool(xp.any(failed)):  # of a failed sample nothing is known but for no weight
            used = failed & self._used()
            g = xp.where(used, xp.full_like(g, float("nan")), g)
        return g, end

    def _used(self) -> Array:
        """Of which samples anything has a cotangent."""
        used = self.parts[0].used()
        for part in self.parts[1:]:
            used = used | part.used()
        return used if self.events is None else used | self.events.used()

    def _joined(self, carry: Pulled | None, k: int) -> Pulled:
        """The carry with the samples that took k steps and no more."""
        xp, low = self.xp, 0 if carry is None else carry.g.shape[1]
        high = self.counts[k - 1] if k else self.samples
        (g, end), zero = self.ends, self.loop.clock.real(0.0)
        rows = tuple([x[low:high] for x in self.final.reached])
        new = Pulled(g[:, low:high], zero[low:high], end[low:high], rows)
        if carry is None or low == high:
            return new if carry is None else carry
        g, start, end = (xp.concat(x, axis=-1) for x in zip(carry[:3], new[:3], strict=True))
        rows = tuple(map(xp.concat, zip(carry.rows, new.rows, strict=True)))
        return Pulled(g, start, end, rows)

    # --- steps
    def _step(self, k: int) -> SampleSpan:
        """Step k of all samples that took it."""
        t, h = self.record.step(k)
        if self.events is not None:
            return self.events.step(k, t, h)
        rest = self.counts[k + 1] if k + 1 < len(self.counts) else 0
        return SampleSpan(k, t, h, self.loop.clock.indices()[: t.shape[0]] >= rest, False)

    def _advance(self, k: int, y: State) -> State:
        """Step k of all samples that took it, then those that took another."""
        stepper, step = self._again(self.counts[k]), self._step(k)
        y1 = stepper.step(step.t, step.h, y, None, error=False).y1
        if step.cut is not False:
            assert self.events is not None
            assert self.replay is not None
            y1 = self.events.replayed(*self.replay, stepper, step, y, y1)
        stepper.release()
        rest = self.counts[k + 1] if k + 1 < len(self.counts) else 0
        return (y1[0][:, :rest],)

    def _pull(self, k: int, y: State, carry: Pulled) -> Pulled:
        """Reverse step k."""
        last = self.counts[k + 1] if k + 1 < len(self.counts) else 0
        if last:
            carry = self._joined(carry, k + 1)
        xp, block, step = self.xp, self._block(self.counts[k]), self._step(k)
        real = block.loop.clock.real
        sources = self._sources(block, step, carry) if self.inside else None
        pulled, inside = block.step_vjp.pull(
            step.t, step.h, y, (carry.g,), block.acc, sources, self.wanted.time
        )
        block.acc = pulled.params
        rows, start, end = carry.rows, carry.start, carry.end
        if inside is not None:
            rows, start, end = inside.rows, inside.start, inside.end
        if self.wanted.time:
            by_size = real(pulled.h)  # of last steps alone, which end on t1
            by_size = xp.concat([xp.zeros_like(by_size[:last]), by_size[last:]])
            if step.cut is not False:
                by_size = block.loop.clock.where(step.cut, 0.0, by_size)
            start, end = start + real(pulled.t) - by_size, end + by_size
        return Pulled(pulled.y[0], start, end, rows)

    def _sources(self, block: Block, step: SampleSpan, carry: Pulled) -> Callable[..., Sources]:
        """The rows and events inside of a step, by its interpolant."""

        def sources(step_vjp: AbstractStepVJP, g: State, params: ParamSums) -> Sources:
            zero, block.acc, block.waits = block.loop.clock.real(0.0), params, True
            none = self.xp.zeros_like(g[0]) if step.cut is not False else g[0]
            found = Inside(
                g[0], carry.start, carry.end, zero, zero, none, zero, step_vjp.sources(),
                carry.rows,
            )  # fmt: skip
            if self.of_knots is not None:
                ct = self.of_knots[step.k, : block.samples]
                found = ended(block.loop.clock, step, found, (0.0 * g[0], 0.0 * g[0]), ct)
            for part in self.parts:
                found = part.in_step(block, step_vjp, step, found)
            if self.events is not None:
                found = self.events.in_step(block, step_vjp, step, found)
            return (found.g,), block.acc, found.sources, found.t, found.h, found

        return sources

    # --- the end
    def _finished(self, carry: Pulled) -> Inputs:
        xp, bk, loop = self.xp, self.bk, self.loop
        whole = self._block(self.samples)
        zero, y0 = loop.clock.real(0.0), self.bk.take(self.inputs.y0, self.order)
        carry = self._of_no_step(whole, carry, y0)
        g, by_t0, whole.acc = whole.step_vjp.finish(zero, y0, (carry.g,), whole.acc)
        t0 = carry.start + loop.clock.real(by_t0)
        for part in self.parts:
            if part.out.saveat.t0:
                row, by_t0 = part.absorbed(whole, zero, y0, (part.cts[:, 0, :],))
                g, t0 = loop.layout.add(g, row), t0 + by_t0
        self._drop(whole)
        rank, marked = self.record.rank, loop.problem.marked
        params = tuple(
            xp.take(x, rank, axis=0) if x is not None and i < len(marked) and marked[i] else x
            for i, x in enumerate(self.sums)
        )
        found: Inputs = self.inputs._replace(settings=(), relative=())
        t1 = carry.end
        if self.events is not None:  # where an event ended a sample its time has had it
            t1 = loop.clock.where(self.final.status == int(Status.event), 0.0, t1)
        y0, t0, t1 = bk.take((g, t0, t1), rank)
        ts = self._times(rank)
        self.parts, self.events = [], None  # which know this: no array waits for a collection
        return found._replace(y0=y0, params=params, t0=t0, t1=t1, ts=ts)

    def _of_no_step(self, whole: Block, carry: Pulled, y0: State) -> Pulled:
        """Samples whose t0 is t1: rows there go to y0, and dy/dt1 = f, dy/dt0 = -f."""
        xp, loop, few = self.xp, self.loop, self.final.n == 0
        g, t0, t1 = carry.g, carry.start, carry.end
        if not bool(xp.any(few)):
            return carry
        clock = loop.clock
        for part, rows in zip(self.parts, carry.rows, strict=False):
            for j in range(int(part.out.count or 0) if part.out.inside == "ts" else 0):
                here = few & (rows > j)
                row: State = (clock.where(here, part.cts[:, part.first + j, :], 0.0),)
                row, by_t = part.absorbed(whole, clock.real(0.0), y0, row)
                g, t0 = g + row[0], t0 + by_t
                if self.wanted.time:
                    part.note(here, clock.count(j + 1), clock.real(0.0), clock.indices())
        if self.wanted.time:
            k, _ = whole.vjp(loop.layout.time(clock.real(0.0)), y0)
            d = loop.layout.inner((g,), loop.problem.layout.pack(k))
            d = clock.where(few, d, 0.0)
            t0, t1 = t0 - d, t1 + d
        return Pulled(g, t0, t1, carry.rows)

    def _times(self, rank: Array) -> Array:
        """Cotangents of the saved times of all outputs, (k, B); 0 where a sample did not get to."""
        if not (self.wanted.time and self.loop.outputs.timed):
            return ()
        pairs = zip(self.parts, self.final.reached, strict=True)
        rows = [part.times(reached) for part, reached in pairs if part.out.inside == "ts"]
        whole = rows[0] if len(rows) == 1 else self.xp.concat(rows, axis=0)
        return self.xp.take(whole, rank, axis=1)


class SampleFinalSorted(NamedTuple):
    """The ends of samples, in order."""

    y: State
    t: Array
    n: Array
    status: Array
    reached: tuple[Array, ...]
