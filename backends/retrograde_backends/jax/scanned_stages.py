"""JAX: the stages of a step as one loop, and integrations that keep what the vjp of f needs.

``Tape``: what is kept of one evaluation of f for its vjp, as a row of buffers. ``jax.vjp`` keeps
every array that its pull reads. Of those, a row has what takes long to compute: the state that f
was given, and the results of transcendental operations and products that the rest can be had from
again (of tanh: its value, not one less its value, too). Arrays of the parameters alone are formed
once, outside the loops.

``ScannedStages``: for transcendental fields of small states, whose solve is one kernel
(``xla_cpu.kernel``), f and its vjp stand in a loop over the stages once and not s times, in both
directions: in a kernel a loop costs nothing, and each copy of f is compiled on its own (a gradient
of the 3-body problem in half the time). What the vjp of f needs goes into rows, one for each stage,
and is read from there on the way back. The numbers are those of the sums written out: what the rows
have more are zeros.

``Tapes``: integrations that keep those rows, for ``TapeAdjoint``. Stage j of step i writes row
``i * inner + j``, and the last stage of an FSAL method, at the end of a step, the row of the next
step's first. A rejected try is written over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from retrograde._backend.specialise import Steps
from retrograde._backend.stages import ListLayout, StageCotangents, Stages, combination_rows
from retrograde._solvers import ExplicitRungeKutta
from retrograde._solvers.base import SolverState, Step
from retrograde._solvers.runge_kutta.solver import StepCotangents, Stepper, StepVJP

from .compiled_field import compiled
from .field_vjp import Pullback
from .primitives import for_loop, read_row, write_row
from .xla_cpu.eligible import TRANSCENDENTAL, names
from .xla_cpu.kernel import batched, in_kernel, inlined, outlined

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.protocols import FieldVJP, StoredVJPs
    from retrograde._backend.specialise import StepRequest
    from retrograde._base.types import (
        Array,
        Aux,
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
    from retrograde._integrate.integrator import Integrator
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from .types import Eqn, Jaxpr, Ref, Var

KEPT = TRANSCENDENTAL | {"dot_general", "retrograde_product", "while", "scan", "cond"}
"""What is not computed again from a row."""


class Tape:
    """The linearisation of f in two parts: one forward that gives a row, one back from a row.

    Parameters
    ----------
    layout
    vjp : Pullback
        What is to be linearised, and by what.
    """

    def __init__(self, layout: ListLayout, vjp: Pullback) -> None:
        self.vjp = vjp
        start = layout.time(0.0), *layout.zeros()
        with inlined():
            closed = jax.make_jaxpr(self._flat)(*start)
        whole, self.consts = closed.jaxpr, closed.consts
        slopes, self.leaves = whole.outvars[: len(start) - 1], whole.outvars[len(start) - 1 :]
        moving = _moving(whole)
        needed = _once(v for v in self.leaves if id(v) in moving)
        kept, eqns = _cut(whole, needed, moving)
        if _numbers(kept) >= _numbers(needed):
            kept, eqns = needed, []
        read = [v for eqn in eqns for v in eqn.invars]
        still = _once(v for v in (*read, *self.leaves) if _named(v) and id(v) not in moving)
        self.like = [v.aval for v in kept]
        self.first = whole.replace(outvars=[*slopes, *kept])
        self.again = whole.replace(
            constvars=[], invars=[*kept, *still], eqns=eqns, outvars=[*needed, *still]
        )
        self.known = [id(v) for v in self.again.outvars]
        fixed = [e for e in whole.eqns if not (e.effects or _touches(e, moving))]
        program = whole.replace(eqns=fixed, outvars=still)
        self.still = jax.core.eval_jaxpr(program, self.consts, *start)

    def rows(self, count: int) -> Leaves:
        """Room for so many stages."""
        return tuple(jnp.zeros((count, *x.shape), x.dtype) for x in self.like)

    def linearise(self, t: Scalar, y: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """f, and what goes into a row."""
        found = jax.core.eval_jaxpr(self.first, self.consts, t, *y)
        return found[: len(y)], found[len(y) :]

    def recall(self, row: Sequence[Array]) -> list[Array]:
        """What a pull reads, at the stage of that row."""
        values = jax.core.eval_jaxpr(self.again, (), *row, *self.still)
        found = dict(zip(self.known, values, strict=True))
        return [found[id(v)] if _named(v) else v.val for v in self.leaves]

    def pull(self, read: Sequence[Array], ct: Sequence[Array]) -> Leaves:
        """The vjp at that stage: cotangents of t (where it is wanted), y, parameters."""
        pulled: Leaves = jax.tree_util.tree_unflatten(self.structure, read)(ct)
        return pulled

    def _flat(self, t: Scalar, *y: Array) -> list[Array]:
        k, pull = self.vjp.linearise(t, y)
        leaves, self.structure = jax.tree_util.tree_flatten(pull)
        return [*k, *leaves]


def _moving(program: Jaxpr) -> set[int]:
    """Variables that depend on what is given, by id."""
    found = {id(v) for v in program.invars}
    for eqn in program.eqns:
        if any(id(v) in found for v in eqn.invars):
            found.update(map(id, eqn.outvars))
    return found


def _touches(eqn: Eqn, variables: set[int]) -> bool:
    return any(id(v) in variables for v in (*eqn.invars, *eqn.outvars))


def _cut(
    program: Jaxpr, needed: Sequence[Array], moving: set[int]
) -> tuple[list[Array], list[Array]]:
    """What to keep of a program so that the rest of what is needed is cheap, and that rest."""
    want = {id(v) for v in needed}
    kept, rest = [], []
    for eqn in reversed(program.eqns):
        found = [v for v in eqn.outvars if id(v) in want and id(v) in moving]
        if found and names(eqn) & KEPT:
            kept += found
        elif found:
            rest.append(eqn)
            want.update(id(v) for v in eqn.invars)
    return [*kept, *(v for v in program.invars if id(v) in want)], rest[::-1]


def _named(v: Var) -> bool:
    """Whether v is a variable, no number."""
    return not hasattr(v, "val")


def _once(variables: Iterable[Var]) -> list[Array]:
    return list({id(v): v for v in variables}.values())


def _numbers(variables: Iterable[Var]) -> int:
    return sum(v.aval.size for v in variables)


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
        start = loop.layout.time(loop.clock.real(self.inputs.clocked[0])), self.inputs.y0
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
