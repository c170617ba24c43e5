"""A try of every sample of a batch in one frame, for NumPy's arrays.

The numbers are those of ``AdaptiveSteps.step`` to the last bit (a test holds them to each other).
Calls alone are saved: between arrays of a thousand numbers they take as long as f. Whatever is not
the plain controller over an explicit Runge-Kutta method is tried as the core does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retrograde._backend.clock import NEARLY
from retrograde._base.types import Array, Bool, Function, State
from retrograde._controllers import PIDController
from retrograde._controllers.pid import SMALLEST_ERROR2
from retrograde._integrate.try_step import AdaptiveState, AdaptiveSteps
from retrograde._solvers.runge_kutta.solver import Stepper


class SampleTries(AdaptiveSteps):
    """``AdaptiveSteps`` of a batch; its arguments are those of that."""

    def __init__(self, *given: Any, **keywords: Any) -> None:
        super().__init__(*given, **keywords)
        self.pid: PIDController | None = None
        self.exponents: tuple[float, float] | None = None
        seen = self.detector is not None or self.loop.stops is not None or self.record
        if type(self.controller) is PIDController and type(self.stepper) is Stepper and not seen:
            self.pid, self.exponents = self.controller, self.controller.plain_exponents(self.order)

    def step(self, s: AdaptiveState, on: Bool = True) -> AdaptiveState:
        pid = self.pid
        if pid is None or self.exponents is None:
            return super().step(s, on)
        where: Function = np.where
        t1: Array = self.t1
        t, h, error2, (memory,), y, state, n, tries, calls, times, sizes, rows, *rest = s
        room = abs(h)
        t_new = where(room >= abs(t1 - t) * NEARLY, t1, t + h)
        size = t_new - t
        tried: tuple[Array, ...] = self.stepper.step(t, size, y, state, error=True)
        y1, e2, after, again, *_ = tried
        h = where(abs(size) < room, size, h)
        ok, logarithm = e2 <= 1.0, np.log(np.maximum(e2, SMALLEST_ERROR2))
        now, later = (np.exp(p * logarithm) for p in self.exponents)
        now *= pid.safety
        now *= memory
        np.fmax(now, pid.factormin, out=now)  # that, of nan
        np.minimum(now, where(ok, pid.factormax, pid.safety), out=now)
        now *= h
        if on is not True:
            ok &= on
            now, e2 = where(on, now, s.h), where(on, e2, error2)
        if rows:
            rows = self._collect(rows, ok, (t, t_new, size, y1), n)
        t, memory = where(ok, t_new, t), where(ok, later, memory)
        y, state = _chosen(ok, y1, y), _chosen(ok, after, again)
        n, tries = n + ok, tries + on
        return AdaptiveState(
            t, now, e2, (memory,), y, state, n, tries, calls, times, sizes, rows, *rest
        )


def _chosen(ok: Array, new: State, old: State) -> State:
    """``new`` where ok, else ``old``: tuples of an array, or None."""
    return new if new is None else (np.where(ok, new[0], old[0]),)
