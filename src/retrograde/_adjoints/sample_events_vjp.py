"""The vjp of the events of a batch: the formulas of ``event_vjp``, of all samples at once.

Hits are sorted by step, the last of a step first, by event and by sample. So those of a step come
in groups, of one event each, in which a sample is found at most once; a group is pulled together,
and samples that are not in it stand still.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .._autodiff.field_vjp import output_pullback
from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.types import Array, Bool, Leaves, State, Tree
from .._integrate.events import ENDED, RECORDED, RESET
from .._integrate.samples.events import event_call
from .event_vjp import GRAZING, grazed
from .sample_rows_vjp import Inside, SampleSpan

if TYPE_CHECKING:
    from .._backend.protocols import AbstractStepVJP, FieldVJP
    from .._base.types import VectorFieldFn
    from .._integrate.samples.events import SampleHits
    from .._integrate.samples.loop import SampleIntegrator
    from .._solvers.base import AbstractStepper
    from .per_sample_vjp import Block, SampleGradient


class Group(NamedTuple):
    """Hits of one event in one step; ``rank`` of their samples, rising."""

    event: int
    rank: Array
    hits: SampleHits


class _Spread(NamedTuple):
    """A group among the samples of a block: whether each is in it, and its place there."""

    here: Array
    at: Array


class SampleHitsVJP:
    """Pulls the hits of a batch back.

    Parameters
    ----------
    gradient : SampleGradient
    cotangents : list of (array, leaves, leaves)
        Of each event's times, and states before and after its hits.
    """

    def __init__(
        self, gradient: SampleGradient, cotangents: Sequence[tuple[Array, Leaves, Leaves]]
    ) -> None:
        self.gradient, self.bk, self.xp = gradient, gradient.bk, gradient.xp
        assert gradient.loop.events is not None
        self.events, self.samples = gradient.loop.events, gradient.samples
        layout, order = gradient.loop.problem.layout, gradient.order
        self.cts = [
            (
                self.xp.take(gradient.loop.clock.array(t), order, axis=1)[None, :, :],
                gradient.sorted(left, layout),
                gradient.sorted(right, layout) if right else None,
            )
            for t, left, right in cotangents
        ]
        self.groups = self._grouped(gradient.hits)
        self.vjps: tuple[Block, list[_EventVJP]] | None = None

    def _grouped(self, hits: SampleHits) -> dict[int, list[Group]]:
        xp, bk = self.xp, self.bk
        found: dict[int, list[Group]] = {}
        if not hits.step.shape[0]:
            return found
        rank = xp.take(self.gradient.record.rank, hits.sample)
        orders, events = int(xp.max(hits.order)) + 1, len(self.events.given)
        group = (hits.step * orders + (orders - 1 - hits.order)) * events + hits.event
        place = xp.argsort(group * self.samples + rank)
        rank, group = bk.take((rank, group), place)
        hits = hits.some(bk, place)
        change = xp.nonzero(group[1:] != group[:-1])[0]
        starts = [0, *[int(x) + 1 for x in change], int(group.shape[0])]
        for low, high in pairwise(starts):
            own = slice(low, high)
            parts = [x if isinstance(x, tuple) else x[..., own] for x in hits[2:]]
            one = Group(int(hits.event[low]), rank[own], hits._replace(**dict(
                zip(hits._fields[2:], parts, strict=True)
            )))  # fmt: skip
            found.setdefault(int(hits.step[low]), []).append(one)
        return found

    def used(self) -> Array:
        """Of which samples a hit has a cotangent."""
        xp, found = self.xp, self.xp.zeros_like(self.gradient.order) > 0
        for cts in self.cts:
            for x in cts:
                if x is not None and x.shape[1]:
                    found = found | xp.any(xp.any(x != 0, axis=0), axis=0)
        return found

    # --- steps as they were
    def cuts(self, k: int) -> list[Group]:
        """The groups of step k that cut it, one sample in one of them at most."""
        found = []
        for group in self.groups.get(k, ()):
            cut = self.xp.nonzero(group.hits.kind > RECORDED)[0]
            if cut.shape[0]:
                hits = group.hits.some(self.bk, cut)
                found.append(Group(group.event, self.xp.take(group.rank, cut), hits))
        return found

    def spread(self, group: Group, samples: int) -> _Spread:
        """The group among the first samples."""
        xp, rank = self.xp, group.rank
        every = xp.arange(samples, dtype=rank.dtype, device=self.bk.device_of(rank))
        at = xp.searchsorted(rank, every)
        at = self.bk.pick(at < rank.shape[0], at, 0)
        return _Spread(xp.take(rank, at) == every, at)

    def step(self, k: int, t: Array, h: Array) -> SampleSpan:
        """Step k from t, whose size would be h: that of a step that was cut is its whole."""
        xp, samples, counts = self.xp, int(t.shape[0]), self.gradient.counts
        rest = counts[k + 1] if k + 1 < len(counts) else 0
        last = xp.arange(samples, device=self.bk.device_of(t)) >= rest
        cut: Bool = False
        for group in self.cuts(k):
            here, at = self.spread(group, samples)
            h = xp.where(here, xp.take(group.hits.size, at), h)
            cut = here if cut is False else cut | here
        return SampleSpan(k, t, h, last, cut)

    def cut_theta(self, k: int, samples: int) -> Array:
        """Where in step k events cut it; 1 elsewhere."""
        theta = self.gradient.loop.clock.real(0.0)[:samples] + 1.0
        for group in self.cuts(k):
            here, at = self.spread(group, samples)
            theta = self.xp.where(here, self.xp.take(group.hits.theta, at), theta)
        return theta

    def replayed(
        self, loop: SampleIntegrator, params: Tree, stepper: AbstractStepper, step: SampleSpan,
        y: State, y1: State,
    ) -> State:  # fmt: skip
        """What is carried from a step whose end would be y1: from its reset, if there was one."""
        xp, clock, samples = self.xp, loop.clock, int(step.t.shape[0])
        resets = [
            (group, mine)
            for group in self.cuts(step.k)
            if (mine := group.hits.kind == RESET) is not None and bool(xp.any(mine))
        ]
        if not resets:
            return y1
        stepper.step(step.t, step.h, y, stepper.init(step.t, y), error=True)
        stepper.extra_stages(True)
        for group, mine in resets:
            here, at = self.spread(group, samples)
            here = here & xp.take(mine, at)
            theta = clock.where(here, xp.take(group.hits.theta, at), 0.5)
            t = clock.where(here, xp.take(group.hits.t, at), step.t)
            reset = self.events.given[group.event].reset
            assert reset is not None
            to = event_call(loop, reset, params)(t, stepper.interpolate(theta))
            y1 = clock.select(here, stepper.start(t, to), y1)
        return y1

    # --- one step back
    def in_step(
        self, block: Block, step_vjp: AbstractStepVJP, step: SampleSpan, found: Inside
    ) -> Inside:
        """The hits of a step that is linearised, the last one first."""
        groups = self.groups.get(step.k, ())
        if not groups:
            return found
        if self.vjps is None or self.vjps[0] is not block:
            self.vjps = block, [_EventVJP(self, block, j) for j in range(len(self.events.given))]
        block.ready(step_vjp)
        for group in groups:
            found = self.vjps[1][group.event].pull(group, step_vjp, step, found)
        return found


class _EventVJP:
    """Pulls hits of one event in steps of one block."""

    def __init__(self, hits: SampleHitsVJP, block: Block, j: int) -> None:
        self.all, self.block, self.j, self.xp = hits, block, j, hits.xp
        self.event, self.boolean = hits.events.given[j], hits.events.boolean[j]
        self.loop, wanted = block.loop, hits.gradient.wanted
        self.layout, self.clock = block.loop.problem.layout, block.loop.clock
        bare = wanted
        if Capability.AUTODIFF in hits.bk.capabilities:  # a tape needs all that g is called with
            bare = wanted._replace(params=(False,) * len(wanted.params))

        def pullback(fn: VectorFieldFn, bare: Tree) -> FieldVJP:
            vjp = output_pullback(block.loop.problem, fn, block.inputs.params, bare)
            if hasattr(vjp, "notice"):
                vjp.notice = None  # a time that g does not tell the derivative by is an error
            return vjp

        self.slopes = pullback(self.event.condition, bare)
        self.condition = pullback(self.event.condition, wanted)
        reset = self.event.reset
        self.reset = None if reset is None else pullback(reset, wanted)

    def pull(
        self, group: Group, step_vjp: AbstractStepVJP, step: SampleSpan, found: Inside
    ) -> Inside:
        clock, take, hits = self.clock, self.xp.take, group.hits
        here, at = self.all.spread(group, self.block.samples)
        theta = clock.where(here, take(hits.theta, at), 0.5)
        t = clock.where(here, take(hits.t, at), step.t + 0.5 * step.h)
        kind = clock.where(here, take(hits.kind, at), RECORDED)
        y, flat = step_vjp.interpolate(theta), take(hits.number, at) * self.all.samples
        flat, (ct_t, ct, ct_after) = flat + take(group.rank, at), self.all.cts[self.j]

        def own(x: Array) -> Array:
            x = self.xp.reshape(x, (x.shape[0], -1))
            return clock.where(here, take(x, flat, axis=1), 0.0)

        cut = here & (kind > RECORDED)
        mine, time = own(ct), own(ct_t)[0, :]
        mine = mine + clock.where(cut, found.left, 0.0)
        time = time + clock.where(cut, found.left_t, 0.0)
        after = 0.0 if ct_after is None else own(ct_after)
        ended, reset = here & (kind == ENDED), here & (kind == RESET)
        g = found.g + after
        mine = mine + clock.where(ended, g, 0.0)
        time = time + clock.where(ended, found.end, 0.0)
        if self.reset is not None and bool(self.xp.any(reset)):
            more, more_t = self._through_reset(t, y, clock.where(reset, g, 0.0))
            mine = mine + clock.where(reset, more, 0.0)
            time = time + clock.where(reset, found.start + more_t, 0.0)
        if not self.boolean:
            mine, time = self._through_root(here, step_vjp, step, (t, y), (mine, time))
        sources = step_vjp.add_source(found.sources, theta, step.h, (mine,))
        return found._replace(
            g=clock.where(cut, 0.0, found.g), start=clock.where(cut, 0.0, found.start),
            end=clock.where(ended, 0.0, found.end), t=found.t + time, h=found.h + theta * time,
            left=clock.where(cut, 0.0, found.left), left_t=clock.where(cut, 0.0, found.left_t),
            sources=sources,
        )  # fmt: skip

    def _through_reset(self, t: Array, y: State, g: Array) -> tuple[Array, Array]:
        """Cotangents of the state before, and of the time, from those of the state behind."""
        block, layout = self.block, self.layout
        assert self.reset is not None
        _, pull = self.reset(self.loop.layout.time(t), y)
        mu, ct_t, block.acc = pull(layout.unpack((g,)), block.acc)
        return layout.pack(mu)[0], self._time(ct_t)

    def _time(self, ct_t: Array | None) -> Array:
        return self.clock.real(0.0 if ct_t is None else ct_t)

    def _through_root(
        self,
        here: Array,
        step_vjp: AbstractStepVJP,
        step: SampleSpan,
        place: tuple[Array, State],
        cts: tuple[Array, Array],
    ) -> tuple[Array, Array]:
        """The time of the hit, at which the condition is zero."""
        (t, y), (ct, ct_t), loop, block = place, cts, self.loop, self.block
        clock, layout, inner = self.clock, self.layout, loop.layout.inner
        u = step_vjp.slope((t - step.t) / step.h)
        d = clock.where(here, ct_t + inner((ct,), u), 0.0)
        if not bool(self.xp.any(d != 0)):
            return cts
        time = loop.layout.time(t)
        (x,), pull = self.slopes(time, y)
        g_y, g_t, _ = pull((self.xp.ones_like(x),), self.slopes.zero())
        slope = self._time(g_t) + inner(layout.pack(g_y), u)
        nu = clock.where(d != 0, self._quotient(here, step_vjp, step, t, (d, slope)), 0.0)
        (x,), pull = self.condition(time, y)
        mu, more, block.acc = pull((self.xp.astype(nu, x.dtype),), block.acc)
        more_y = clock.where(here, layout.pack(mu)[0], 0.0)
        return ct + more_y, ct_t + clock.where(here, self._time(more), 0.0)

    def _quotient(
        self,
        here: Array,
        step_vjp: AbstractStepVJP,
        step: SampleSpan,
        at: Array,
        parts: tuple[Array, Array],
    ) -> Array:
        """-d / slope; an error where g only touches zero: the slope is nothing beside its
        change."""
        xp, clock, (d, slope) = self.xp, self.clock, parts
        g = event_call(self.loop, self.event.condition, self.block.inputs.params, scalar=True)
        ends = [abs(clock.real(g(step.t + theta * step.h, step_vjp.interpolate(theta))))
                for theta in (0.0, 1.0)]  # fmt: skip
        size = xp.maximum(*ends)
        grazes = abs(slope * step.h) <= GRAZING * math.sqrt(clock.eps) * size
        bad = here & (d != 0) & (grazes | (slope == 0))
        if bool(xp.any(bad)):
            first = int(xp.nonzero(bad)[0][0])
            t = float(self.loop.user_times(self.block.inputs, at)[first])
            raise InputError(grazed(self.j, t, float(slope[first])))
        return -d / clock.where(slope == 0, 1.0, slope)
