"""JAX: the stages of a step as one loop, so that f, and its vjp, stand in it once and not s times.

For transcendental fields of small states, whose solve is one kernel (``xla_cpu.kernel``), in both
directions: in a kernel a loop costs nothing, and each copy of f is compiled on its own (a gradient
of the 3-body problem in half the time). What the vjp of f needs goes into rows, one for each stage,
and is read from there on the way back.

The numbers are those of the sums written out: what the rows have more are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp

from retrograde._backend.specialise import Steps
from retrograde._backend.stages import ListLayout, StageCotangents, Stages, combination_rows
from retrograde._base.types import (
    Array,
    Aux,
    Carry,
    Field,
    Function,
    Index,
    Leaves,
    ParamSums,
    Residuals,
    Scalar,
    Scale,
    State,
    Tree,
)
from retrograde._solvers import ExplicitRungeKutta
from retrograde._solvers.base import Step
from retrograde._solvers.runge_kutta.solver import StepCotangents, Stepper, StepVJP

from .compiled_field import compiled
from .field_vjp import Pullback
from .linearized_field import Tape
from .primitives import for_loop, read_row, write_row
from .types import Ref
from .xla_cpu.kernel import batched, in_kernel, inlined

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.protocols import FieldVJP
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver
    from retrograde._solvers.runge_kutta.tableau import Tableau

__all__ = [
    "ScannedStages",
    "ScannedStepVJP",
    "added",
    "as_rows",
    "scanned_steps",
]


class ScannedStages(Stages):
    """Stages whose slopes stand in one buffer for each leaf while a step goes forward."""

    def __init__(self, layout: ListLayout, tableau: Tableau, scale: Scale | None = None) -> None:
        super().__init__(layout, tableau, scale)
        self.last = combination_rows(tableau)[: self.s]
        self.fsal = tableau.fsal

    def evaluate(self, field: Field, low: int, high: int) -> None:
        self.k[:high] = as_rows(self.run(_alone(field), low, high)[0], high)

    def run(
        self, field: Callable[..., tuple[Tree, Tree]], low: int, high: int, kept: Leaves = (),
        first: Index = 0,
    ) -> tuple[Tree, Tree, Tree]:  # fmt: skip
        """Stages low, ..., high - 1 of ``field(t, y) -> (slope, what it keeps)``.

        Returns
        -------
        slopes : tuple of array, shape (s, *shape)
        y : state
            That of the last stage.
        kept
            The buffers given, with what stage i keeps in row ``first + i``.
        """
        layout, real = self.layout, self.layout.real_dtype
        rows, nodes = jnp.asarray(self.last, real), jnp.asarray(self.c[: self.s], real)

        def stage(i: Index, z: Carry) -> Carry:
            slopes, _, kept = z
            y = added(self.y, read_row(rows, i) * self.h, slopes, high - 1)
            with inlined():
                k, tape = field(layout.time(self.t + read_row(nodes, i) * self.h), y)
            kept = tuple(write_row(x, first + i, v) for x, v in zip(kept, tape, strict=True))
            return tuple(write_row(x, i, v) for x, v in zip(slopes, k, strict=True)), y, kept

        shapes = ((self.s, *shape) for shape in layout.shapes)
        slopes = tuple(jnp.zeros(shape, layout.dtype) for shape in shapes)
        for j in range(low):
            pairs = zip(slopes, self.k[j], strict=True)
            slopes = tuple(write_row(x, j, k) for x, k in pairs)
        found: tuple[Tree, Tree, Tree]
        found = for_loop(low, high, stage, (slopes, tuple(self.y), tuple(kept)))
        return found


class ScannedStepper(Stepper):
    """Steps whose last stage stands at their end, over ``ScannedStages``."""

    space: ScannedStages

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: Leaves | None, *, error: bool
    ) -> Step:
        if not (error and self.judged):
            return super().step(t, h, carried, state, error=error)
        w = self.space
        w.begin(t, h, carried, state)
        slopes, y1, _ = w.run(_alone(self.field), 1, w.s)
        w.k = as_rows(slopes, w.s)
        return Step(y1, w.error2(y1), w.k[-1], state)


def added(y: State, weights: Array, rows: Leaves, count: int) -> Leaves:
    """y and the sum of the first rows by their weights."""
    out = []
    for a, x in zip(y, rows, strict=True):
        if in_kernel():  # one operation, whose result is there for all that reads it
            part = weights[:count].reshape((count,) + (1,) * a.ndim) * x[:count]
            out.append(a + jnp.sum(part, axis=0))
            continue
        for j in range(count):
            a = a + weights[j] * x[j]
        out.append(a)
    return tuple(out)


def as_rows(slopes: Leaves, count: int) -> list[Array]:
    """The slopes of each stage."""
    return [tuple(x[j] for x in slopes) for j in range(count)]


def _alone(field: Field) -> Function:
    return lambda t, y: (field(t, y), ())


def scanned_steps(solver: AbstractSolver, problem: Problem) -> Steps | None:
    """Steps, and their vjps, in loops over the stages, where the field asks for them."""
    program = compiled(problem)
    if not (isinstance(solver, ExplicitRungeKutta) and program.scan_stages):
        return None
    tableau = solver.tableau

    def plain(made: Tableau) -> bool:  # stages that an output alone asks for are no part of a loop
        return made.inside > made.stages or batched()

    def stepper(
        bk: AbstractBackend, layout: ListLayout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        if (
            plain(tableau) or bk is not problem.bk
        ):  # of others, sums that autodiff follows are asked
            return solver.stepper(bk, layout, field, scale)
        kind = ScannedStepper if tableau.fsal else Stepper
        return kind(tableau, ScannedStages(layout, tableau, scale), layout, field)

    def step_vjp(
        bk: AbstractBackend,
        layout: ListLayout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
    ) -> StepVJP:
        made = tableau if outputs else tableau.bare
        if plain(made):
            return solver.step_vjp(bk, layout, vjp, outputs=outputs, time=time, field=field)
        parts = made, ScannedStages(layout, made), StageCotangents(layout, made), layout, vjp
        if field is not None or not (program.scan_reverse and isinstance(vjp, Pullback)):
            return StepVJP(*parts, outputs=outputs, time=time, field=field)
        found = ScannedStepVJP(*parts, outputs=outputs, time=time)
        found.tape = Tape(layout, vjp)
        return found

    return Steps(stepper, step_vjp)


class ScannedStepVJP(StepVJP):
    """Exact vjps of steps over ``ScannedStages``."""

    space: ScannedStages
    tape: Tape

    def __init__(self, *arguments: Array, **settings: Ref) -> None:
        super().__init__(*arguments, **settings)
        self.columns = [
            [row[i] if i < len(row) else 0.0 for row in self.tableau.a[: self.count]]
            for i in range(self.count)
        ]

    def linearise(self, t: Scalar, h: Scalar, y: State) -> Residuals:
        w = self.space
        w.begin(t, h, y)
        slopes, _, rows = w.run(self.tape.linearise, 0, self.count, self.tape.rows(self.count))
        w.k[: self.count] = as_rows(slopes, self.count)
        return rows, 0

    def transpose(
        self,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        pulls: Aux,
        inside: Carry = None,
        *,
        size: bool,
    ) -> StepCotangents:
        layout, count, tape, (rows, low) = self.layout, self.count, self.tape, pulls
        real, inner = layout.real_dtype, layout.inner
        q, qy = inside or (None, None)
        weights = jnp.asarray(self.tableau.b[:count], real) * h
        columns = jnp.asarray(self.columns, real) * h
        nodes = jnp.asarray(self.c[:count], real)
        sources = q and tuple(jnp.stack([x[n] for x in q]) for n in range(len(layout.shapes)))
        known = self.space.k[:count] if self.time and size else ()
        slopes = tuple(jnp.stack(x) for x in zip(*known, strict=True))

        def stage(j: Index, z: Carry) -> Carry:
            i, (pulled, acc, ct_t, ct_h) = count - 1 - j, z
            start = tuple(read_row(weights, i) * x for x in g)
            if sources:
                start = tuple(a + read_row(x, i) for a, x in zip(start, sources, strict=True))
            lam = added(start, read_row(columns, i), pulled, count)
            *first, mu, cts = tape.pull(tape.recall([read_row(x, low + i) for x in rows]), lam)
            acc = [a + x for a, x in zip(acc, cts, strict=True)]
            pulled = tuple(write_row(x, i, v) for x, v in zip(pulled, mu, strict=True))
            if self.time:
                ct_t = ct_t + first[0]
            if slopes:
                k = tuple(read_row(x, i) for x in slopes)
                ct_h = ct_h + read_row(nodes, i) * first[0] + inner(lam, k) / h
            return pulled, acc, ct_t, ct_h

        zero = jnp.zeros((), real)
        pulled = tuple(jnp.zeros((count, *x.shape), x.dtype) for x in g)
        pulled, acc, ct_t, ct_h = for_loop(0, count, stage, (pulled, acc, zero, zero))
        g = added(g, jnp.ones(count, real), pulled, count)
        if qy is not None:
            g = layout.add(g, qy)
        return StepCotangents(g, acc, ct_t, ct_h)
