"""Events of a batch: the core's walk through each step, of all samples at once.

Conditions are looked at in the quarters of every sample's step. Where no sample's has another sign,
which is in most tries, that is all; else those that have walk through their step (``Detector``),
and the others stand still. Hits are noted in the order in which they are found, and sorted once,
at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..._backend.samples import SortedColumns
from ..._base.errors import InputError
from ..._base.types import (
    Array,
    Bool,
    Buffer,
    Function,
    Index,
    Inputs,
    ParamSums,
    Scalar,
    State,
    Tree,
    VectorFieldFn,
)
from ..event_detection import QUARTERS, Detector, Scan
from ..events import ENDED, RECORDED, RESET, EventState
from .record import laid_out

if TYPE_CHECKING:
    from ..._backend.samples import SampleBackend
    from ..._solvers.base import AbstractStepper, SolverState
    from ..integrator import Integrator
    from .loop import SampleIntegrator


class SampleHits(NamedTuple):
    """All hits of a solve, in the order in which they were found.

    Attributes
    ----------
    ended : array, shape (B,)
        The event that ended each sample, -1: none.
    counts : array, shape (events, B)
        Hits of each.
    sample, event, number, step, order, kind : array of int, shape (m,)
        Of which sample and event, how many of its there were before, in which step of its and how
        many of any event before in that step, and ``events.KIND``.
    theta, t, size : array, shape (m,) [time]
        Where in the step, when, as the clock counts, and the size of the step.
    left, right : array, shape (n, m)
        States before and after it; right () where nothing resets.
    """

    ended: Array
    counts: Array
    sample: Array
    event: Array
    number: Array
    step: Array
    order: Array
    kind: Array
    theta: Array
    t: Array
    size: Array
    left: Array
    right: Array

    def some(self, bk: SampleBackend, index: Array) -> SampleHits:
        """Those of some places."""
        return SampleHits(self.ended, self.counts, *bk.take(tuple(self[2:]), index))


class HitLog:
    """Hits as they are found; ``resets``: whether states after them are kept."""

    def __init__(self, loop: SampleIntegrator) -> None:
        self.bk, self.layout, self.clock = loop.bk, loop.layout, loop.clock
        assert loop.events is not None
        self.resets = loop.events.resets
        self.parts: list[tuple[Array, ...]] = []

    def whole(self, ended: Array, counts: Array) -> SampleHits:
        """All of them."""
        xp, clock = self.bk.xp, self.clock
        whole, real, y = clock.count(0)[:0], clock.real(0.0)[:0], self.layout.zeros()[0][:, :0]
        nothing = (whole,) * 6, (real,) * 3, (y, y)
        parts = self.parts or [tuple(x for group in nothing for x in group)]
        columns = [xp.concat(list(x), axis=-1) for x in zip(*parts, strict=True)]
        found: Function = SampleHits
        return found(ended, counts, *columns[:-1], columns[-1] if self.resets else ())  # type: ignore[no-any-return]


class SampleDetector(Detector):
    """Finds the events of the steps of the samples that run.

    Parameters
    ----------
    loop : SampleIntegrator
    inputs : Inputs
    stepper : AbstractStepper
    log : HitLog
    index : array of int, shape (b,)
        Which samples run.
    """

    def __init__(
        self,
        loop: SampleIntegrator,
        inputs: Inputs,
        stepper: AbstractStepper,
        log: HitLog,
        index: Array,
    ) -> None:
        super().__init__(loop, inputs, stepper)
        self.log, self.index, self.xp = log, index, loop.bk.xp
        self.engine, self.integer = loop.bk, loop.clock.integer
        self.going: Bool = True
        self.size = self.order = self.last = self.left = self.right = None

    def bound(self, fn: VectorFieldFn, *, scalar: bool = False) -> Function:
        return event_call(self.loop, fn, self.inputs.params, scalar=scalar)

    def begin(self, t0: Scalar, y0: State) -> EventState:
        clock, zero = self.clock, self.clock.count(0)
        values = tuple(self.value(j, t0, y0) for j in range(len(self.events.given)))
        counts, none = (zero,) * len(values), clock.count(-1)
        return EventState(values, counts, zero, zero, none, zero > 0, (), (), ())

    # --- one step
    def step(
        self,
        s: EventState,
        ok: Bool,
        step: tuple[Scalar, Scalar, Scalar],
        n: Index,
        states: tuple[State, State, SolverState],
    ) -> tuple[EventState, Scalar, State, State, SolverState]:
        clock, xp = self.clock, self.xp
        _, y1, state = states
        if not bool(xp.any(ok)):
            return s, step[1], y1, y1, state
        self.stepper.extra_stages(True)
        quiet, now, (low, values, sizes) = self._unchanged(s.values, step)
        on = ok & ~quiet
        kept = clock.select(ok & quiet, now, s.values)
        if not bool(xp.any(on)):
            return s._replace(values=kept), step[1], y1, y1, state
        one, m = clock.real(1.0), len(now)
        self.size, self.order, self.last = step[2], clock.count(0), clock.count(-1)
        self.left = self.right = y1
        s = s._replace(values=values)  # of those that stand still, to be taken from ``kept``
        scan = Scan(low, (low,) * m, sizes, one, clock.count(RECORDED), on, s)
        part = lambda scan: self._part(scan, step, n)  # noqa: E731
        scan = self.bk.while_loop(lambda scan: scan.going, part, scan)
        t_new = self._time(step, scan.theta)
        _, values, ended, y1, state = self._cut(scan, scan.kind > RECORDED, t_new, states)
        values = clock.select(on, values, kept)
        return scan.state._replace(values=values), t_new, ended, y1, state

    def _unchanged(
        self, values: tuple[Array, ...], step: tuple[Scalar, Scalar, Scalar]
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, tuple[Array, ...], tuple[Array, ...]]]:
        """Which samples have conditions that all keep their sign in a step, and these at its end;
        up to which quarter they do, the conditions there, and the largest of their sizes."""
        (t, t_new, size), now, clock = step, values, self.clock
        low, there, sizes = clock.real(0.0), values, tuple(abs(v) for v in values)
        signs = [(v > 0, v < 0) for v in values]
        quiet: Bool = True
        for theta in QUARTERS:
            y, last = self.stepper.interpolate(theta), theta == 1.0
            at = t_new if last else t + theta * size
            now = tuple(
                self.value(j, at, y) if last or not boolean else values[j]
                for j, boolean in enumerate(self.events.boolean)
            )
            for x, (above, below) in zip(now, signs, strict=True):
                quiet = quiet & (((x > 0) & above) | ((x < 0) & below))
            if not last:
                most = tuple(clock.maximum(a, abs(x)) for a, x in zip(sizes, now, strict=True))
                new, old = (clock.real(theta), now, most), (low, there, sizes)
                low, there, sizes = clock.select(quiet, new, old)
        return quiet, now, (low, there, sizes)

    def _part(self, scan: Scan, step: tuple[Scalar, Scalar, Scalar], n: Index) -> Scan:
        self.going = scan.going
        return super()._part(scan, step, n)

    def _root(
        self,
        j: int,
        on: Bool,
        step: tuple[Scalar, Scalar, Scalar],
        low: tuple[Scalar, Scalar],
        high: tuple[Scalar, Scalar],
    ) -> Scalar:
        on, where = on & self.going, self.clock.where
        if not bool(self.xp.any(on)):
            return self.clock.real(2.0)
        low, high = (low[0], where(on, low[1], -1.0)), (high[0], where(on, high[1], 1.0))
        return super()._root(j, on, step, low, high)

    def _hits(
        self,
        j: int,
        on: Bool,
        found: tuple[EventState, Index],
        root: tuple[Scalar, Scalar],
        step: tuple[Scalar, Scalar, Scalar],
        n: Index,
    ) -> tuple[EventState, Index]:
        on, clock, (s, kind) = on & self.going, self.clock, found
        if not bool(self.xp.any(on)):
            return found
        (theta, x), event, reset = root, self.events.given[j], self.resets[j]
        t, y = self._time(step, theta), self.stepper.interpolate(theta)
        count, one = s.counts[j] + 1, self.xp.astype(on, self.integer)
        mine, to = clock.count(RECORDED if reset is None else RESET), y
        if reset is not None:
            to = reset(t, y)
        if event.last is not None:
            last = count == event.last
            mine, to = clock.where(last, ENDED, mine), clock.select(last, y, to)
        here = self.xp.nonzero(on)[0]
        whole = self.index, clock.count(j), s.counts[j], n, self.order, mine
        columns = *whole, theta, t, self.size, y[0], to[0]
        self.log.parts.append(self.engine.take(columns, here))
        self.order = self.order + one
        ends, places = clock.where(on, j, self.last), (y, to)
        self.last = ends
        self.left, self.right = clock.select(on, places, (self.left, self.right))
        cuts = s.cuts + self.xp.astype(on & (mine > RECORDED), self.integer)
        ended = clock.where(on & (mine == ENDED), j, s.ended)

        def place(xs: tuple[Array, ...], x: Array) -> tuple[Array, ...]:
            return (*xs[:j], x, *xs[j + 1 :])

        s = s._replace(
            values=place(s.values, clock.where(on, x, s.values[j])),
            counts=place(s.counts, s.counts[j] + one), number=s.number + one, cuts=cuts,
            ended=ended,
        )  # fmt: skip
        return s, clock.where(on, mine, kind)

    def _cut(
        self, scan: Scan, cut: Bool, t: Scalar, states: tuple[State, State, SolverState]
    ) -> tuple[Buffer, tuple[Scalar, ...], State, State, SolverState]:
        clock, stepper, values = self.clock, self.stepper, scan.state.values
        _, y1, state = states
        if not bool(self.xp.any(cut)):
            return (), values, y1, y1, state
        ended = clock.select(cut, stepper.start(t, self.left), y1)
        if not self.events.resets:
            return (), values, ended, ended, state
        y1 = clock.select(cut, stepper.start(t, self.right), y1)
        state = clock.select(cut, stepper.init(t, y1), state)
        behind = self._values_at(scan, self.last, t, self.right)
        return (), clock.select(cut, behind, values), ended, y1, state


def event_call(
    loop: Integrator, fn: VectorFieldFn, params: ParamSums, *, scalar: bool = False
) -> Function:
    """A condition (``scalar``) or reset as ``call(t, y)``, of times of the clock and a state: to a
    number of each sample, or a state."""
    problem: Tree = loop.problem
    layout, call = problem.layout, problem.bind_output(fn, params)
    samples, host = layout.samples, layout.host

    def found(t: Scalar, y: State) -> Tree:
        leaves = call(layout.time(t), layout.unpack(y))
        for x in leaves:
            if tuple(x.shape)[:1] != (samples,) or (scalar and len(x.shape) > 1):
                raise InputError(
                    f"a function of an event returned the shape {tuple(x.shape)} for "
                    f"{samples} samples that still run; take the length of a batch from y, and "
                    "hand arrays with a row for each sample in by `args`, marked as "
                    "rg.PerSample(array)."
                )
        return host(leaves[0]) if scalar else layout.pack(leaves)

    return loop.bk.guard(found)


# --- what a solve hands out
def rows_of_hits(bk: SampleBackend, hits: SampleHits, j: int, values: Array, fill: Array) -> Array:
    """``values`` (n, m) of all hits as rows of event j, (n, k, B): ``fill`` where a sample has
    none."""
    xp, samples = bk.xp, int(fill.shape[0])
    mine = xp.nonzero(hits.event == j)[0]
    number, sample, values = bk.take((hits.number, hits.sample, values), mine)
    found = SortedColumns(xp)
    found.add(number * samples + sample, values)
    counts = hits.counts[j, :]
    return laid_out(xp, found, counts, int(xp.max(counts)), fill)


def cut_sizes(bk: SampleBackend, hits: SampleHits, sizes: Array) -> Array:
    """Sizes of steps, (n, B), those that were cut at their whole."""
    xp, (count, samples) = bk.xp, sizes.shape
    cut = xp.nonzero(hits.kind > RECORDED)[0]
    if not cut.shape[0]:
        return sizes
    step, sample, size = bk.take((hits.step, hits.sample, hits.size), cut)
    places = step * samples + sample
    order = xp.argsort(places)
    places, size = bk.take((places, size), order)
    every = xp.arange(count * samples, dtype=places.dtype, device=bk.device_of(places))
    at = xp.searchsorted(places, every)
    at = bk.pick(at < places.shape[0], at, 0)
    own = xp.take(places, at) == every
    flat = xp.where(own, xp.take(size, at), xp.reshape(sizes, (-1,)))
    return xp.reshape(flat, (count, samples))
