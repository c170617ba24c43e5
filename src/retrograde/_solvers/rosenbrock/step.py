"""Steps of Rosenbrock methods: the stages, and the stepper over them.

Steps are those of Hairer & Wanner, *Solving ODEs II*, 2nd ed., IV.7: linear equations with one
matrix W = M / (h gamma) - J a step. The Jacobian J is one of (t, y, args) at the step's start
alone, so that a step is a function of where it starts: replays are the solve, and its gradient is
that of the solve. Within the tries of one step it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..._base.types import Bool, Equations, Field, Scalar, Scale, State
from ..base import AbstractStepper, Step

if TYPE_CHECKING:
    from ..._backend.protocols import FieldVJP, Layout, LinearField
    from ..._backend.structure import Structure
    from .tableau import RosenbrockTableau


class Linearised(NamedTuple):
    """What a step knows of f where it starts.

    Attributes
    ----------
    slope : state
        f(t, y).
    jacobian
        df/dy, as the library's linear algebra has it.
    by_time : state or None
        df/dt; None where f does not depend on t.
    """

    slope: State
    jacobian: Any
    by_time: State | None


class Stages:
    """The stages U_i of one step, and the one place where they are made.

    Parameters
    ----------
    tableau : RosenbrockTableau
    layout : Layout
    field : callable
        ``(t, y) -> leaves``, with its ``equations``.
    """

    def __init__(self, tableau: RosenbrockTableau, layout: Layout, field: Field) -> None:
        known = getattr(field, "equations", None) or Equations()
        self.tableau, self.layout, self.mass = tableau, layout, known.mass
        self.given = known.jac is not None
        """Whether the Jacobian is the user's."""
        self.field = cast("LinearField", field)
        self.linear = layout.bk.linear(layout, cast("Structure", known.structure))
        self.u: list[State] = []
        self.start = Linearised(None, None, None)
        self.factors: Any = None
        self.y: State = None

    def doubtful(self, vjp: FieldVJP) -> bool:
        """Whether the Jacobian may be another than that of f's vjp."""
        by = getattr(vjp, "derivatives", None)
        return self.given or (by is not None and by.kind == "complex step")

    def linearise(self, t: Scalar, y: State, slope: State | None = None) -> Linearised:
        """What is known of f at (t, y); ``slope`` is f's value, where it was evaluated."""
        layout, linear, time = self.layout, self.linear, self.layout.time(t)
        slope = layout.own(self.field(time, y)) if slope is None else slope
        jacobian, by_time = linear.derivatives(self.field, time, y, slope)
        return Linearised(slope, jacobian, by_time)

    def factor(self, h: Scalar, y: State, start: Linearised) -> Bool:
        """Begin a step of size h; whether W is regular."""
        linear, self.y, self.start = self.linear, y, start
        self.begin(h)
        shift = 1.0 / (h * self.tableau.gamma)
        self.factors = linear.factor(linear.shifted(start.jacobian, shift, self.mass))
        return linear.ok(self.factors)

    def release(self) -> None:
        """Let go of the matrices of a step that is done."""
        self.start, self.factors = Linearised(None, None, None), None

    def begin(self, h: Scalar) -> None:
        """Forget the stages of the last step."""
        self.u = []

    def argument(self, i: int) -> State:
        """Y_i, a fresh state."""
        terms = [(1.0, self.y), *_nonzero(self.tableau.a[i], self.u)]
        return self.layout.weighted(terms) if len(terms) > 1 else self.y

    def add(self, i: int, h: Scalar, slope: State) -> None:
        """U_i, of f's value at Y_i; those before it are known."""
        layout, by_time, d = self.layout, self.start.by_time, self.tableau.d[i]
        coupled = [(c / h, u) for c, u in _nonzero(self.tableau.coupling[i], self.u)]
        terms = [(1.0, slope)]
        if coupled and self.mass is not None:
            coupled = [(1.0, self.linear.mass_product(self.mass, layout.weighted(coupled)))]
        terms += coupled
        if d and by_time is not None:
            terms.append((h * d, by_time))
        right = layout.weighted(terms) if len(terms) > 1 else slope
        self.u.append(self.linear.solve(self.factors, right))

    def result(self) -> State:
        """y1."""
        return self.combined(self.tableau.b)

    def error2(self, y1: State, scale: Scale) -> Scalar:
        """The squared norm of the scaled error."""
        e = self.combined(self.tableau.b_error, inside=False)
        return self.layout.error2(e, self.y, y1, scale)

    def combined(self, weights: Sequence[Scalar], *, inside: bool = True) -> State:
        """``y + sum_i w_i U_i``; without the y where not ``inside``."""
        terms = [(1.0, self.y)] if inside else []
        return self.layout.weighted([*terms, *_nonzero(weights, self.u)])


def _nonzero(weights: Sequence[Scalar], states: Sequence[State]) -> list[tuple[Scalar, State]]:
    """Pairs of the two as far as both go, but for weights that are known to be 0."""
    pairs = zip(weights, states, strict=False)
    return [(w, x) for w, x in pairs if not (isinstance(w, float) and w == 0.0)]


class Stepper(AbstractStepper):
    """Steps over one set of stages.

    Parameters
    ----------
    stages : Stages
    scale : Scale or None
        Tolerances of errors; None where they are not asked for.
    """

    def __init__(self, stages: Stages, scale: Scale | None = None) -> None:
        self.stages, self.scale, self.layout = stages, scale, stages.layout
        tableau = stages.tableau
        self.count, self.inner = tableau.stages, tableau.inner
        self.keeps = not self.layout.bk.clock(self.layout).traced
        """Whether what a rejected step knows of its start is kept for the next try."""
        self.tells_calls = self.keeps and scale is not None

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: Linearised | None, *, error: bool
    ) -> Step:
        stages, layout, field = self.stages, self.layout, self.stages.field
        tableau, known = stages.tableau, state
        if known is None:
            known = stages.linearise(t, carried)
        ok = stages.factor(h, carried, known)
        count = self.count if error else self.inner
        calls = count - 1 + (state is None)
        kept = known if self.keeps else None
        if ok is False:  # known here and now
            return Step(
                self._nothing(carried, False), math.inf, None, kept, True, calls - count + 1
            )
        stages.add(0, h, known.slope)
        for i in range(1, count):
            slope = field(layout.time(t + tableau.c[i] * h), stages.argument(i))
            stages.add(i, h, layout.own(slope))
        y1 = stages.result()
        failed: Bool = False
        if ok is not True:  # known when the program runs
            y1, failed = self._nothing(y1, ok), ~ok
        scale = self.scale if error else None
        error2 = None if scale is None else stages.error2(y1, scale)
        return Step(y1, error2, None, kept, failed, calls)

    def _nothing(self, y: State, ok: Bool) -> State:
        """y where ok, else nan: a step without a result."""
        bk = self.layout.bk
        return bk.map_state(lambda x: bk.nan_unless(ok, x), y)

    def release(self) -> None:
        self.stages.release()

    def interpolate(self, theta: Scalar) -> State:
        return self.stages.combined(self.stages.tableau.weights(theta))
