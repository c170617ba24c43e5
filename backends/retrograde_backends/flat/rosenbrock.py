"""Rosenbrock steps over flat states: stages as rows of a matrix, and a step in one frame.

As in ``stages``: one matrix has y in row 0 and the stages U_i below, so that an argument of f, and
what couples the stages, are products of a row of coefficients with rows of it. Between small arrays
calls cost as much as the arithmetic, so a step with its error is one frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from retrograde._backend.specialise import Steps
from retrograde._base.types import Array, Field, Scalar, Scale, State
from retrograde._solvers.base import Step
from retrograde._solvers.rosenbrock.solver import Rosenbrock
from retrograde._solvers.rosenbrock.step import Linearised, Stages, Stepper
from retrograde._solvers.rosenbrock.step_vjp import StepVJP
from retrograde._solvers.switching.auto import Auto

from .attempt import squared_norm
from .stages import FlatLayout, scaled_tolerances

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.protocols import AbstractStepVJP, FieldVJP, Layout
    from retrograde._solvers.base import AbstractSolver, AbstractStepper
    from retrograde._solvers.rosenbrock.tableau import RosenbrockTableau


def implicit_steps(solver: AbstractSolver) -> Steps | None:
    """The steps of Rosenbrock methods, and of ``auto``, over flat states; None of other methods."""
    if isinstance(solver, Rosenbrock):
        return _rosenbrock_steps(solver)
    if isinstance(solver, Auto):
        stiff = _rosenbrock_steps(solver.stiff).stepper
        return Steps(partial(solver.stepper, stiff=stiff), solver.step_vjp)
    return None


def _rosenbrock_steps(solver: Rosenbrock) -> Steps:
    """Steps over stages as rows; where autodiff records an integration, the solver's own."""

    def stepper(
        bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> AbstractStepper:
        if not isinstance(layout, FlatLayout):
            return solver.stepper(bk, layout, field, scale)
        return flat_rosenbrock(FlatRosenbrockStages(solver.tableau, layout, field), scale)

    def step_vjp(
        bk: AbstractBackend, layout: Layout, vjp: FieldVJP, *, field: Field, **needs: bool
    ) -> AbstractStepVJP:
        if not isinstance(layout, FlatLayout):
            return solver.step_vjp(bk, layout, vjp, field=field, **needs)
        return StepVJP(FlatRosenbrockStages(solver.tableau, layout, field), vjp, **needs)

    return Steps(stepper, step_vjp)


class FlatRosenbrockStages(Stages):
    """The stages of one step as rows of a matrix."""

    layout: FlatLayout

    def __init__(self, tableau: RosenbrockTableau, layout: FlatLayout, field: Field) -> None:
        super().__init__(tableau, layout, field)
        bk, s, like = layout.bk, tableau.stages, (layout.dtype, layout.device)
        self.bk, self.matrix = bk, bk.matrix(s + 1, layout.size, *like)
        self.u = [self.matrix[i] for i in range(1, s + 1)]
        self.first, self.below = self.matrix[0], self.matrix[1:]
        a = bk.coefficients([_filled((1.0, *row), s + 1) for row in tableau.a], *like)
        self.table = bk.coefficients([_filled(row, s) for row in tableau.coupling], *like)
        self.scaled = 1.0 * self.table
        self.arguments = [bk.product(a[i, : i + 1], self.matrix[: i + 1]) for i in range(s)]
        self.couplings = [bk.product(self.scaled[i, :i], self.below[:i]) for i in range(s)]
        n = tableau.inner  # the others may be those of another step
        self.increment = bk.product(self._row(tableau.b[:n]), self.below[:n])

    def _row(self, values: Sequence[float]) -> Array:
        return self.bk.coefficients(values, self.layout.dtype, self.layout.device)

    def begin(self, h: Scalar) -> None:
        self.first[...] = self.y
        self.bk.scale_into(self.table, 1.0 / h, self.scaled)

    def argument(self, i: int) -> State:
        return self.arguments[i]()

    def add(self, i: int, h: Scalar, slope: State) -> None:
        if i:
            coupled = self.couplings[i]()
            if self.mass is not None:
                coupled = self.linear.mass_product(self.mass, coupled)
            slope = slope + coupled
        d, by_time = self.tableau.d[i], self.start.by_time
        if d and by_time is not None:
            slope = slope + (h * d) * by_time
        self.u[i][...] = self.linear.solve(self.factors, slope)

    def result(self) -> State:
        return self.y + self.increment()

    def combined(self, weights: Sequence[Scalar], *, inside: bool = True) -> State:
        total = self.bk.dot(self._row(weights), self.below)
        return self.y + total if inside else total


def _filled(row: Sequence[float], length: int) -> list[float]:
    return [*row, *[0.0] * (length - len(row))]


def flat_rosenbrock(stages: FlatRosenbrockStages, scale: Scale | None) -> Stepper:
    """Steps over such stages; those with an error are one frame each.

    The numbers are those of a stepper over the same stages, to the last bit.
    """
    stepper, layout, tableau = Stepper(stages, scale), stages.layout, stages.tableau
    found = getattr(stages.field, "call", None)
    alone = layout.alone and stages.mass is None
    if found is None or not alone or scale is None or scale.norm is not None:
        return stepper
    bare = Stepper(stages).step  # of another: none is to hold itself
    (f, args), call, shape = found, found[0], layout.shapes[0]
    if not layout.plain:
        call = lambda t, y, args: f(t, y.reshape(shape), args).reshape(-1)  # noqa: E731
    time, square = layout.bk.timer(layout), _norm(stages, scale)
    parts = zip(tableau.c, tableau.d, stages.arguments, stages.couplings, stages.u, strict=True)
    plan, count, bound = list(parts)[1:], tableau.stages, stages.linear.bound

    def step(t: float, h: float, y: Array, state: Linearised | None, *, error: bool) -> Step:
        if not error:
            return bare(t, h, y, state, error=False)
        known = stages.linearise(t, y) if state is None else state
        if not stages.factor(h, y, known):
            return Step(y * math.nan, math.inf, None, known, True, int(state is None))
        stages.add(0, h, known.slope)
        solve, by_time = bound(stages.factors), known.by_time
        for c, d, argument, coupled, row in plan:
            right = call(time(t + c * h), argument(), args) + coupled()
            if d and by_time is not None:
                right += (h * d) * by_time
            row[...] = solve(right)
        y1 = stages.result()
        calls = count - 1 + (state is None)
        return Step(y1, square(y, y1), None, known, False, calls)

    stepper.step = step  # type: ignore[method-assign, assignment]
    return stepper


def _norm(stages: FlatRosenbrockStages, scale: Scale) -> Callable[[Array, Array], float]:
    """``(y, y1) -> error2``."""
    layout, bk, weights = stages.layout, stages.bk, [list(stages.tableau.b_error)]
    tolerances, weights = scaled_tolerances(layout, scale, weights)
    real = layout.dtype == layout.real_dtype
    spare = bk.matrix(1, layout.size, layout.dtype, layout.device)[0]
    buffers = bk.matrix(3, layout.size, layout.real_dtype, layout.device)
    estimate = bk.product(stages._row(weights[0]), stages.below, spare)
    pair = tolerances.rtol, tolerances.atol
    return squared_norm(bk.xp, (estimate, None), pair, buffers, not real)
