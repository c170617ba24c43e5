"""Constant steps of a batch, whose samples differ in their number alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..._base.types import Array, Bool, Carry, Inputs
from ..._solvers.base import AbstractStepper
from ..outputs import Final
from ..solution import Status
from ..try_step import UNSOLVED, AdaptiveState

if TYPE_CHECKING:
    from ..._controllers import ConstantSteps
    from .loop import SampleIntegrator


class GivenSteps:
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
        self.emit = loop.outputs.emitters(loop.problem, loop.layout, inputs.params)
        self.whole = loop.clock.steps(inputs.t0, self.t1, self.dt, slack)

    def begin(self, inside: Carry) -> AdaptiveState:
        """The state before the first step."""
        clock, t0 = self.clock, self.inputs.t0
        y = self.stepper.start(t0, self.inputs.y0)
        state = self.stepper.init(t0, y) if self.dense else None
        h, zero = clock.real(self.dt), clock.count(0)
        return AdaptiveState(t0, h, clock.real(0.0), (), y, state, zero, zero, (), (), (), inside)

    def step(self, s: AdaptiveState, on: Bool = True) -> AdaptiveState:
        """One step of those that are ``on``."""
        clock, last = self.clock, s.n + 1 == self.whole
        t_new = clock.where(last, self.t1, clock.array(s.n + 1) * self.dt)
        found = self.stepper.step(s.t, t_new - s.t, s.y, s.state, error=self.dense)
        y1, _, after, _, failed, _ = found
        sound = self.loop.carried.finite(y1)
        ok, rows = clock.both(on, sound), s.rows
        if rows:
            step = s.t, t_new, t_new - s.t, y1
            ts = self.inputs.clocked[2]
            rows = self.loop.outputs.collect(rows, ok, ts, step, s.n, self.stepper, self.emit)
        new, old = (t_new, y1, after, s.n + 1), (s.t, s.y, s.state, s.n)
        t, y, state, n = clock.select(ok, new, old)
        lost = math.nan if failed is False else clock.where(failed, UNSOLVED, math.nan)
        e2 = clock.select(on, clock.where(sound, s.e2, lost), s.e2)
        tries = clock.select(on, s.tries + 1, s.tries)
        return AdaptiveState(t, s.h, e2, (), y, state, n, tries, (), (), (), rows)

    def running(self, s: AdaptiveState) -> Array:
        """Which samples have a step left."""
        on = (s.n < self.whole) & self.clock.is_finite(s.e2)
        return on if self.limit is None else on & (s.tries < self.limit)

    def final(self, s: AdaptiveState, stored: None) -> Final:
        """Where the steps ended, and why."""
        clock = self.clock
        why = clock.where(s.e2 == UNSOLVED, int(Status.unsolved), int(Status.non_finite))
        why = clock.where(clock.is_finite(s.e2), int(Status.max_steps), why)
        status = clock.where(s.t == self.t1, int(Status.converged), why)
        return Final(s.y, s.t, s.n, s.tries, status, s.rows, None, stored)
