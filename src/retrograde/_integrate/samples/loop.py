"""A solve of a batch whose samples have steps of their own: what goes in, and what comes out."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from ..._backend.samples import SampleBackend, SampleClock, SampleLayout, SampleLeaves
from ..._backend.specialise import Steps, generic
from ..._base.types import Array, Inputs, Leaves, Tree
from ..integrator import Integrator
from ..solution import Status
from .events import HitLog, SampleDetector, cut_sizes, rows_of_hits
from .host import hosted, moved
from .problem import SampleProblem
from .record import SampleFinal
from .run import Run

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._solvers.base import AbstractStepper
    from ..event_detection import Detector


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
    forms: Sequence[bool] = (False,)
    """Whether the saved times of each output were given for each sample, (B, k)."""

    index: Array = None
    """Which samples of the batch these are, and
    """
    log: HitLog | None = None
    """where their hits are noted, inside a pass."""

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

    def detector(self, inputs: Inputs, stepper: AbstractStepper) -> Detector | None:
        if self.events is None or self.log is None:
            return None
        return SampleDetector(self, inputs, stepper, self.log, self.index)

    # --- what a solve hands out
    def ended_well(self, final: SampleFinal) -> Array:
        """Which samples got to t1, or to an event that ended them."""
        return (final.status == int(Status.converged)) | (final.status == int(Status.event))

    def row_leaves(self, inputs: Inputs, final: SampleFinal) -> Leaves:
        """The rows of all outputs, as leaves of shape (k, B, *shape): behind what a sample got to
        inf where it ended as it should, else nan."""
        parts = range(len(self.outputs.parts))
        return tuple(x for k in parts for x in self._rows(k, inputs, final))

    def _rows(self, k: int, inputs: Inputs, final: SampleFinal) -> Leaves:
        """Those of output k."""
        xp, out = self.bk.xp, self.outputs.parts[k]
        emit = out.emitter(self.problem, self.problem.layout, inputs.params)
        rows: list[Array] = []
        if out.saveat.t0:
            rows.append(emit(self.clock.real(0.0), inputs.y0)[0][:, None, :])
        if out.inside:
            rows.append(final.inside[k])
        if out.saveat.final:
            ok = self.ended_well(final)
            row = emit(final.t, self.state(final.y))[0]
            rows.append(xp.where(ok, row, xp.full_like(row, math.nan))[:, None, :])
        whole = rows[0] if len(rows) == 1 else xp.concat(rows, axis=1)
        return leaves_of(xp, whole, cast("SampleLeaves", out.layout))

    def row_times(self, inputs: Inputs, final: SampleFinal) -> tuple[Array, ...]:
        """Times of the rows of the user's outputs, (k, B) each."""
        parts = len(self.outputs.parts) - self.outputs.dense
        return tuple(self._times(k, inputs, final) for k in range(parts))

    def _times(self, k: int, inputs: Inputs, final: SampleFinal) -> Array:
        xp, out, clock, times = self.bk.xp, self.outputs.parts[k], self.clock, self.times(inputs)
        ok = self.ended_well(final)
        rows = [clock.real(0.0)[None, :]] if out.saveat.t0 else []
        if out.inside == "ts":
            ts = times.ts[out.first : out.last + 1, :]
            number = xp.arange(ts.shape[0], dtype=clock.integer, device=clock.device)
            fill = clock.where(ok, math.inf, math.nan)
            rows.append(clock.where(number[:, None] < final.reached[k], ts, fill))
        elif out.inside:
            rows.append(final.times)
        if out.saveat.final:
            rows.append(clock.where(ok, final.t, math.nan)[None, :])
        whole = self.user_times(inputs, rows[0] if len(rows) == 1 else xp.concat(rows, axis=0))
        return xp.astype(whole, self.layout.real_dtype, copy=False)

    def hit_leaves(
        self, inputs: Inputs, final: SampleFinal
    ) -> tuple[tuple[Array, Leaves, Leaves], ...]:
        """Of each event the times, (k, B), and the leaves of states before and after, those of
        shape (k, B, *shape), () without a reset; inf behind a sample's last, nan where it
        failed."""
        assert self.events is not None
        xp, clock, hits = self.bk.xp, self.clock, final.hits
        fill, layout = clock.where(self.ended_well(final), math.inf, math.nan), self.problem.layout
        found = []
        for j, event in enumerate(self.events.given):
            rows = [rows_of_hits(self.bk, hits, j, hits.t[None, :], fill)[0, :, :]]
            sides = [hits.left] if event.reset is None else [hits.left, hits.right]
            rows += [rows_of_hits(self.bk, hits, j, x, fill) for x in sides]
            t = xp.astype(self.user_times(inputs, rows[0]), self.layout.real_dtype, copy=False)
            leaves = [leaves_of(xp, x, layout) for x in rows[1:]]
            found.append((t, leaves[0], () if event.reset is None else leaves[1]))
        return tuple(found)

    def knots(self, final: SampleFinal) -> tuple[Array, Array]:
        """Where steps begin and end, (B, n + 1), and the sizes of their polynomials, (B, n)."""
        xp, clock, times = self.bk.xp, self.clock, final.times
        start, good = clock.real(0.0)[None, :], xp.isfinite(times)
        known = clock.where(good, times, 0.0)
        knots = xp.concat([start, clock.where(good, times, math.inf)], axis=0)
        sizes = known - xp.concat([start, known[:-1, :]], axis=0)
        sizes = clock.where(good, sizes, 1.0)
        if self.events is not None and times.shape[0]:
            sizes = cut_sizes(self.bk, final.hits, sizes)
        real = self.layout.real_dtype
        knots, sizes = (xp.astype(xp.permute_dims(x, (1, 0)), real) for x in (knots, sizes))
        return knots, sizes

    def like_saved(self, ts: Array) -> Array:
        """Cotangents of saved times, (k, B), as the times were given: (k,), or (B, k), as those of
        several outputs are."""
        if isinstance(ts, tuple):
            return ts
        xp, timed = self.bk.xp, [part.inside == "ts" for part in self.outputs.parts]
        one = sum(timed) == 1 and not self.forms[timed.index(True)]
        return xp.sum(ts, axis=1) if one else xp.permute_dims(ts, (1, 0))

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
            return Run(self, inputs, record=record).run()
        final, guest = Run(*host, record=record).run(), self.bk
        noted = None if final.record is None else final.record.moved(guest)
        return cast("SampleFinal", moved(final, guest.from_host))._replace(record=noted)


def leaves_of(xp: Tree, rows: Array, layout: SampleLeaves) -> Leaves:
    """Rows (n, k, B) as the user's leaves, (k, B, *shape)."""
    count = rows.shape[1]
    return tuple(
        xp.reshape(xp.permute_dims(rows[part, :, :], (1, 2, 0)), (count, *shape))
        for part, shape in zip(layout.parts, layout.shapes, strict=True)
    )
