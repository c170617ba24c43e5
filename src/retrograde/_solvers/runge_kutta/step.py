"""Steps of explicit Runge-Kutta methods: Hairer, Norsett, Wanner, *Solving ODEs I*, II.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._base.types import Bool, Field, Leaves, Scalar, State
from ..base import AbstractStepper, Step, made
from .tableau import Tableau

if TYPE_CHECKING:
    from ..._backend.protocols import Layout, StepStages

__all__ = ["Stepper"]


class Stepper(AbstractStepper):
    """Steps over one set of stages.

    Parameters
    ----------
    tableau : Tableau
    space : Stages
        Their errors are formed where it has tolerances, unless ``judged`` is False.
    layout
    field : callable
        ``(t, y) -> leaves``.
    """

    def __init__(
        self,
        tableau: Tableau,
        space: StepStages,
        layout: Layout,
        field: Field,
        *,
        judged: bool = True,
    ) -> None:
        self.space = space
        self.layout = layout
        self.field = field
        self.fsal = tableau.fsal
        self.stages = tableau.stages
        self.inner = tableau.stages - tableau.fsal
        self.judged = judged = judged and space.scale is not None
        self.late = judged and tableau.late and not layout.bk.clock(layout).traced
        """Whether the last stage waits until the error is known to be small enough."""
        self.tells_calls = self.late
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
        return self.step(t + h, -h, y1, None, error=False).y1

    def init(self, t: Scalar, carried: State, slope: Leaves | None = None) -> Leaves | None:
        """f(t, y) for an FSAL method: the first stage of the step from there."""
        if not self.fsal or slope is not None:
            return slope if self.fsal else None
        return tuple(1.0 * k for k in self.field(self.layout.time(t), carried))  # f may reuse them

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: Leaves | None, *, error: bool
    ) -> Step:
        w, field = self.space, self.field
        if not error:
            w.begin(t, h, carried)
            w.put(0, field(w.time(0), carried))
            if self.inner > 1:
                w.evaluate(field, 1, self.inner)
            return made((w.result(), None, None, None, False, None))
        if self.late:
            return self._late(t, h, carried, state)
        kept = w.begin(t, h, carried, state)
        if kept is None:
            w.put(0, field(w.time(0), carried))
        w.evaluate(field, 1, self.inner)
        y1, k1 = w.result(), None
        if self.fsal:
            k1 = field(w.time(self.inner), y1)
            w.put(self.inner, k1)
        return Step(y1, w.error2(y1) if self.judged else None, k1, kept)

    def _late(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None) -> Step:
        """A step whose last stage is evaluated once the error is known to be small enough.

        Where a controller accepts a step all the same, its k1 is None, and so the next one's k0.
        """
        w, field = self.space, self.field
        kept = w.begin(t, h, y, field(self.layout.time(t), y) if k0 is None else k0)
        w.evaluate(field, 1, self.inner)
        y1 = w.result()
        error2, k1 = w.error2(y1), None
        w.whole = bool(error2 <= 1.0)
        if w.whole:
            k1 = field(w.time(self.inner), y1)
            w.put(self.inner, k1)
        calls = self.inner - 1 + (k0 is None) + w.whole
        return Step(y1, error2, k1, kept, False, calls)

    def extra_stages(self, due: Bool = True) -> None:
        """Evaluate the interpolant's own stages of the last step, where ``due``."""
        if not self.extra:
            return
        w, field, layout, low = self.space, self.field, self.layout, self.stages

        def stages() -> tuple[Leaves, ...]:
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
        """y(t + theta h) of the last step."""
        return self.space.interpolate(self.weights(theta))
