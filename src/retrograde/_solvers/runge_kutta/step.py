"""Steps of explicit Runge-Kutta methods: Hairer, Norsett, Wanner, *Solving ODEs I*, II.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._base.types import Scalar, State
from ..base import AbstractStepper
from .tableau import Tableau

__all__ = ["Stepper"]


class Stepper(AbstractStepper):
    """Attempts and replays of steps over one stages."""

    def __init__(self, tableau: Tableau, space: Any, layout: Any, field: Any) -> None:
        self.space = space
        self.layout = layout
        self.field = field
        self.fsal = tableau.fsal
        self.stages = tableau.stages
        self.inner = tableau.stages - tableau.fsal
        self.late = tableau.late
        self.extra = tableau.inside - tableau.stages
        self.weights = tableau.weights

    def start(self, t0: Scalar, y0: State) -> State:
        """What the loop carries at t0: y0."""
        return y0

    def state(self, carried: State) -> State:
        """y, of what the loop carries."""
        return carried

    def invert(self, t: Scalar, h: Scalar, y1: State) -> State:
        """A step of -h from the end of the step (t, h): its inverse but for O(h**(order + 1))."""
        return self.advance(t + h, -h, y1)

    def first(self, t: Scalar, y: State) -> Any:
        """What the first attempt needs beyond y: f(t, y) for an FSAL method, else None."""
        return self.field(self.layout.time(t), y) if self.fsal else None

    def attempt(self, t: Scalar, h: Scalar, y: State, k0: Any) -> tuple[State, Any, Any]:
        """One step with every stage known at its end.

        Returns
        -------
        y1 : state
        k1 : leaves or None
            First stage of the next step if this one is accepted.
        kept : leaves or None
            First stage of the next attempt if this one is rejected.
        """
        w, field = self.space, self.field
        kept = w.begin(t, h, y, k0)
        if k0 is None:
            w.put(0, field(w.time(0), y))
        w.evaluate(field, 1, self.inner)
        y1 = w.result()
        if not self.fsal:
            return y1, None, None
        k1 = field(w.time(self.inner), y1)
        w.put(self.inner, k1)
        return y1, k1, kept

    def advance(self, t: Scalar, h: Scalar, y: State) -> State:
        """One step where neither error nor output inside the step is asked for."""
        w, field = self.space, self.field
        w.begin(t, h, y)
        w.put(0, field(w.time(0), y))
        w.evaluate(field, 1, self.inner)
        return w.result()

    def error2(self, y1: State) -> Scalar:
        """Squared norm of the scaled error of the last attempt."""
        return self.space.error2(y1)

    def judged(self) -> Callable[..., tuple[State, Any, Any, Scalar]]:
        """``attempt`` and ``error2`` as one call, in one frame where the space has such a form."""
        late = self.late and not self.layout.bk.clock(self.layout).traced
        other = self._attempt_late if late else super().judged()
        return (self.fsal and self.space.fused(self.field)) or other

    def _attempt_late(
        self, t: Scalar, h: Scalar, y: State, k0: Any
    ) -> tuple[State, Any, Any, Scalar]:
        """An attempt whose last stage is evaluated once the error is known to be small enough.

        Where a controller accepts a step all the same, its k1 is None, and so the next one's k0.
        """
        w, field = self.space, self.field
        kept = w.begin(t, h, y, field(self.layout.time(t), y) if k0 is None else k0)
        w.evaluate(field, 1, self.inner)
        y1 = w.result()
        error2 = w.error2(y1)
        w.whole = bool(error2 <= 1.0)
        if not w.whole:
            return y1, None, kept, error2
        k1 = field(w.time(self.inner), y1)
        w.put(self.inner, k1)
        return y1, k1, kept, error2

    def extend(self, due: Any = True) -> None:
        """Evaluate the interpolant's own stages of the last attempt, where ``due``."""
        if not self.extra:
            return
        w, field, layout, low = self.space, self.field, self.layout, self.stages

        def stages() -> tuple[Any, ...]:
            if self.late and not w.whole:
                w.put(self.inner, field(w.time(self.inner), w.result()))
            found = []
            for i in range(low, low + self.extra):
                k = field(w.time(i), w.inside(i))
                w.put(i, k)
                found.append(tuple(k))
            return tuple(found)

        if due is True or not layout.bk.clock(layout).traced:
            if due:
                stages()
            return
        # a loop of one trip at most: under JAX's vmap, a branch would always be taken
        start = (due, (layout.zeros(),) * self.extra)
        _, found = layout.bk.while_loop(lambda s: s[0], lambda s: (~s[0], stages()), start)
        for i, k in enumerate(found, low):
            w.put(i, k)

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h) of the last attempt."""
        return self.space.interpolate(self.weights(theta))
