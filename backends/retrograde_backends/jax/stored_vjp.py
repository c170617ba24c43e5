"""JAX: integrations that keep what the vjp of f needs, for ``TapeAdjoint``.

A row is that of one stage: stage j of step i writes row ``i * inner + j``, and the last stage of an
FSAL method, at the end of a step, the row of the next step's first. A rejected try is written over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jax

from retrograde._backend.specialise import Steps
from retrograde._backend.stages import ListLayout, StageCotangents
from retrograde._base.types import (
    Array,
    Body,
    Carry,
    CountedBody,
    Field,
    Function,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    ParamSums,
    Residuals,
    Scalar,
    Scale,
    State,
    Table,
    Tree,
)
from retrograde._solvers import ExplicitRungeKutta
from retrograde._solvers.base import SolverState, Step
from retrograde._solvers.runge_kutta.solver import Stepper, StepVJP

from .compiled_field import compiled
from .linearized_field import Tape
from .primitives import read_row, write_row
from .scanned_stages import ScannedStages, ScannedStepVJP, as_rows, scanned_steps
from .xla_cpu.kernel import batched, outlined

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.protocols import StoredVJPs
    from retrograde._backend.specialise import StepRequest
    from retrograde._integrate.integrator import Integrator
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver

__all__ = ["TapeHooks"]


class TapeHooks:
    """The hooks behind loops of stages on the way back, and behind tapes that are kept."""

    def specialise(
        self, solver: AbstractSolver, problem: Problem, request: StepRequest
    ) -> Steps | None:
        return scanned_steps(solver, problem)

    def records_tapes(self, loop: Integrator) -> bool:
        explicit = isinstance(loop.solver, ExplicitRungeKutta)
        bounded = loop.count is not None or loop.max_steps is not None
        if not (explicit and bounded) or getattr(loop.problem.f, "vjp", None) is not None:
            return False
        return not (loop.jumps or (loop.outputs.inside and loop.solver.extra))

    def tapes(self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient) -> StoredVJPs:
        return cast("StoredVJPs", Tapes(loop, inputs, wanted))

    def kept_bytes(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient
    ) -> tuple[int, bool]:
        if not self.records_tapes(loop):
            return 0, False
        found: list[int] = []

        def sized() -> Tree:
            tape = Tapes(loop, inputs, wanted).tape
            found.append(sum(x.size * x.dtype.itemsize for x in tape.like))
            return 0

        jax.eval_shape(sized)  # nothing of it is computed
        # no less than the states that stand in where times are differentiated
        size = max(loop.carried.nbytes, loop.solver.evaluations * found[0])
        return size, compiled(loop.problem).scan_stages and not loop.outputs.called


class Tapes:
    """The tapes of one solve; an integration takes it as it takes a guard."""

    def __init__(self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient) -> None:
        problem, self.loop, self.inputs = loop.problem, loop, inputs
        field = compiled(problem)
        layout = cast("ListLayout", loop.layout)
        self.tape = Tape(layout, field.stored_vjp(loop.layout, inputs.params, wanted))
        self.tableau = cast("ExplicitRungeKutta", loop.solver).tableau
        self.inner = loop.solver.evaluations
        # calls of their own in lanes, where f is: fused, every element would compute all again
        self.separate = outlined if field.outlined else _plain

    def stepper(
        self, bk: AbstractBackend, layout: ListLayout, field: Field, scale: Scale | None = None
    ) -> Tree:
        """The integration's."""
        space = ScannedStages(layout, self.tableau, scale)
        self.recording = RecordingStepper(self.tableau, space, layout, field)
        self.recording.tape, self.recording.inner = self.tape, self.inner
        self.recording.separate = self.separate
        return self.recording

    def table(self, n: int) -> Table:
        """Room for the rows of so many steps; the first stage of all is there."""
        loop = self.loop
        start = layout_time(loop, self.inputs.clocked[0]), self.inputs.y0
        first = self.tape.linearise(*start)[1]
        rows = self.tape.rows(n * self.inner + 1)
        return tuple(write_row(x, 0, v) for x, v in zip(rows, first, strict=True))

    def on_grid(self, step: CountedBody) -> CountedBody:
        """A counted step that keeps its tapes; the rows are the carry's last entry."""

        def kept(i: Index, s: Carry) -> Carry:
            return self._kept(i, s[-1], lambda: step(i, s[:-1]))

        return kept

    def on_tries(self, step: Body) -> Body:
        """A try that keeps its tapes, over pairs of its state and the rows."""

        def kept(s: Carry) -> Carry:
            return self._kept(s[0].n, s[1], lambda: (step(s[0]),))

        return kept

    def _kept(self, i: Index, rows: Leaves, step: Function) -> Carry:
        stepper = self.recording
        stepper.at, stepper.rows = i * self.inner, rows
        after = step()
        return (*after, stepper.rows)

    def step_vjp(self, rows: Leaves) -> Tree:
        """Pulls of steps, from their tapes; its ``at`` tells which."""
        loop, inside = self.loop, self.loop.outputs.inside
        layout = cast("ListLayout", loop.layout)
        tableau = self.tableau if inside else self.tableau.bare
        parts = tableau, ScannedStages(layout, tableau), StageCotangents(layout, tableau), layout
        scans = compiled(loop.problem).scan_reverse and not batched()
        kind = RecalledLoop if scans else RecalledStepVJP
        stepper = kind(*parts, self.tape.vjp, outputs=inside, time=False)
        stepper.tape, stepper.rows, stepper.inner = self.tape, rows, self.inner
        stepper.separate = self.separate
        return stepper


def _plain(fn: Function) -> Function:
    return fn


def layout_time(loop: Integrator, t: Scalar) -> Array:
    return loop.layout.time(loop.clock.real(t))


class RecordingStepper(Stepper):
    """Steps whose stages are linearised, and leave their tapes in ``rows`` from ``at`` on."""

    space: ScannedStages
    tape: Tape
    inner: int
    at: Index
    rows: Leaves
    separate: Function

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        w = self.space
        kept = w.begin(t, h, carried, state if error else None)
        last = self._stages(0 if kept is None else 1, self.stages if error else self.inner)
        if not error:
            return Step(w.result(), None, None, None)
        y1, k1 = (last, w.k[-1]) if self.fsal else (w.result(), None)
        return Step(y1, w.error2(y1) if self.judged else None, k1, kept)

    def _stages(self, low: int, high: int) -> State:
        w, linearise = self.space, self.tape.linearise
        if batched():
            return self._one_by_one(low, high, self.separate(linearise))
        slopes, last, self.rows = w.run(linearise, low, high, self.rows, self.at)
        w.k[:high] = as_rows(slopes, high)
        return last

    def _one_by_one(self, low: int, high: int, linearise: Any) -> Tree:
        w = self.space
        for i in range(low, high):
            last = w.combine(i)
            k, row = linearise(w.time(i), last)
            w.put(i, tuple(k))
            pairs = zip(self.rows, row, strict=True)
            self.rows = tuple(write_row(x, self.at + i, v) for x, v in pairs)
        return last


class RecalledStepVJP(StepVJP):
    """Pulls of steps whose tapes stand in ``rows``; ``at`` is the step."""

    tape: Tape
    rows: Tree
    inner: int
    at: Index
    separate: Function

    def linearise(self, t: Scalar, h: Scalar, y: State) -> Residuals:
        parts: Tree = self.tape.recall, self.tape.pull
        if batched():
            parts = tuple(map(self.separate, parts))
        return [self._pull(parts, self.at * self.inner + i) for i in range(self.count)]

    def _pull(self, parts: Any, row: Sequence[Array]) -> Function:
        recall, whole = parts
        read = recall([read_row(x, row) for x in self.rows])

        def pull(ct: Sequence[Array], acc: ParamSums) -> tuple[Tree, Tree, Tree]:
            mu, cts = whole(read, tuple(ct))
            return mu, None, [a + x for a, x in zip(acc, cts, strict=True)]

        return pull


class RecalledLoop(ScannedStepVJP):
    """The same as a loop over the stages."""

    rows: Tree
    inner: int
    at: Index
    separate: Function

    def linearise(self, t: Scalar, h: Scalar, y: State) -> Residuals:
        return self.rows, self.at * self.inner
