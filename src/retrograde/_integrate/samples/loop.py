"""A solve of a batch whose samples have steps of their own: what goes in, and what comes out."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, NamedTuple, cast

from ..._backend.samples import SampleBackend, SampleClock, SampleLayout, SampleLeaves
from ..._backend.specialise import Steps, generic
from ..._base.types import Array, Inputs, Leaves
from ..integrator import Integrator
from ..outputs import Output
from ..solution import Status
from .host import hosted, moved
from .problem import SampleProblem
from .record import SampleFinal
from .run import Run

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend


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
            return Run(self, inputs, record=record).run()
        final, guest = Run(*host, record=record).run(), self.bk
        noted = None if final.record is None else final.record.moved(guest)
        return cast("SampleFinal", moved(final, guest.from_host))._replace(record=noted)
