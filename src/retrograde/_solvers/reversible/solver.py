"""Solvers whose step is a straight-line program, and their passes: forward, inverse, vjp.

The programs themselves are the solvers' (one page each); what runs, inverts and transposes them
is ``straight_line``. Here they are made into the passes that loops and adjoints know.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from ..._base.types import (
    Bool,
    Carry,
    Field,
    Index,
    ParamSums,
    Residuals,
    Scalar,
    Scale,
    State,
)
from ..base import AbstractSolver, AbstractStepper, Step
from ..runge_kutta.solver import Sources, StepCotangents
from ..runge_kutta.solver import Stepper as BaseStepper
from .straight_line import (
    BaseStep,
    Cotangents,
    Instruction,
    Machine,
    Registers,
    StraightLine,
    Term,
)

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import FieldVJP, Layout


Polynomial: TypeAlias = tuple[str, tuple[float, ...]]
"""A register and its weight in theta, as (register, coefficients from the constant one on)."""


class Programs(NamedTuple):
    """All that a solver states.

    Attributes
    ----------
    step, inverse : Program
        Both of the start t and the size h of the step forward.
    dense : tuple of tuple of Polynomial
        y(t + theta h), part by part, as sums of registers of ``step`` and ``inside`` with weights
        that are polynomials in theta (beside what a ``BaseStep`` with an ``inside`` adds).
    start : Program or None
        From y0 to what is carried, run with h = 0; None where that is y0 itself.
    error : tuple of Term or None
        The error estimate; None where there is none or where a ``BaseStep`` has it.
    inside : tuple of instruction
        What ``dense`` needs beyond the step; its evaluations are the solver's ``extra``.
    """

    step: StraightLine
    inverse: StraightLine
    dense: tuple[tuple[Polynomial, ...], ...]
    start: StraightLine | None = None
    error: tuple[Term, ...] | None = None
    inside: tuple[Instruction, ...] = ()


def line(before: str, after: str) -> tuple[Polynomial, ...]:
    """The straight line from one register to another, as a sum for ``Programs.dense``."""
    return ((before, (1.0, -1.0)), (after, (0.0, 1.0)))


def cubic(before: str, after: str, rise: str, rise1: str) -> tuple[Polynomial, ...]:
    """The cubic between two registers, with h times its slope at both ends (Hermite's)."""
    return (
        (before, (1.0, 0.0, -3.0, 2.0)),
        (after, (0.0, 0.0, 3.0, -2.0)),
        (rise, (0.0, 1.0, -2.0, 1.0)),
        (rise1, (0.0, 0.0, -1.0, 1.0)),
    )


class ProgramSolver(AbstractSolver):
    """A solver whose step, inverse and start are straight-line programs."""

    error_order: ClassVar[int | None] = None
    reversible: ClassVar[bool] = True

    @abstractmethod
    def programs(self) -> Programs:
        """What the solver is."""

    @property
    def degree(self) -> int:  # type: ignore[override]
        """Of the interpolant: its own, or that of the step within."""
        programs = self.programs()
        own = [len(powers) - 1 for part in programs.dense for _, powers in part]
        return max(own + [int(x.base.degree) for x in _steps(programs) if x.inside])

    def calls(self, steps: Index, *, full: bool) -> Index:
        programs = self.programs()
        start = programs.start.body if programs.start else ()
        each = sum(instruction.calls(full) for instruction in programs.step.body)
        first = sum(instruction.calls(full) for instruction in start)
        return first + steps * each

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        programs = self.programs()
        bases = {
            step.out: BaseStepper(
                step.base.tableau,
                bk.stages(layout, step.base.tableau, scale if step.inside else None),
                layout,
                field,
                judged=False,
            )
            for step in _steps(programs)
        }
        machine = Machine(layout, len(programs.dense), field, None, bases, time=False)
        return Stepper(self, programs, machine, scale)

    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
    ) -> StepVJP:
        programs = self.programs()
        bases = {
            step.out: step.base.step_vjp(
                bk, layout, vjp, outputs=outputs and step.inside, time=time, field=field
            )
            for step in _steps(programs)
        }
        machine = Machine(layout, len(programs.dense), field, vjp, bases, time=time)
        return StepVJP(self, programs, machine)


def _steps(programs: Programs) -> list[BaseStep]:
    return [x for x in programs.step.body if isinstance(x, BaseStep)]


class _Inside:
    """y inside the step whose registers are known."""

    programs: Programs
    machine: Machine
    registers: Registers
    base: str | None
    extra: int

    def _sum(
        self, theta: Scalar, weigh: Callable[[tuple[float, ...]], tuple[float, ...]]
    ) -> list[list[tuple[Scalar, State]]]:
        """The terms of the interpolant, part by part, each with its weight; not the known zeros."""
        r, dense = self.registers, self.programs.dense
        parts = ([(_horner(weigh(powers), theta), r[x]) for x, powers in part] for part in dense)
        return [[(w, x) for w, x in part if not _zero(w)] for part in parts]

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h)."""
        parts = self._sum(theta, lambda powers: powers)
        if self.base is not None:
            parts[0].append((1.0, self.machine.bases[self.base].interpolate(theta)))
        layout = self.machine.layout
        return layout.join([layout.weighted(part) for part in parts])


class Stepper(_Inside, AbstractStepper):
    """Steps forward, and their inverses."""

    def __init__(
        self,
        solver: ProgramSolver,
        programs: Programs,
        machine: Machine,
        scale: Scale | None = None,
    ) -> None:
        self.solver, self.programs, self.machine, self.scale = solver, programs, machine, scale
        self.base = next((step.out for step in _steps(programs) if step.inside), None)
        self.extra = solver.extra
        self.registers: Registers = {}
        self.t: Scalar = 0.0
        self.h: Scalar = 0.0

    def start(self, t0: Scalar, y0: State) -> State:
        """What the loop carries at t0."""
        program, machine = self.programs.start, self.machine
        if program is None:
            return y0
        return machine.outputs(program, machine.run(program, t0, 0.0, y0))

    def state(self, carried: State) -> State:
        """y, of what the loop carries."""
        return self.solver.state(self.machine.layout, carried)

    def step(self, t: Scalar, h: Scalar, carried: State, state: None, *, error: bool) -> Step:
        program, machine = self.programs.step, self.machine
        registers, found = machine.run(program, t, h, carried, full=error), None
        if error:
            self.registers, self.t, self.h = registers, t, h
            found = None if self.scale is None else self._error2()
        return Step(machine.outputs(program, registers), found, None, None)

    def extra_stages(self, due: Bool = True) -> None:
        """Evaluate what the inside of the last step needs beyond it, where ``due``."""
        machine, r, inside = self.machine, self.registers, self.programs.inside
        if self.base is not None:
            machine.bases[self.base].extra_stages(due)
        if not inside:
            return
        bk, layout = machine.layout.bk, machine.layout
        if due is True or not bk.clock(layout).traced:
            if due:
                machine.more(inside, self.t, self.h, r)
            return

        def once(s: Carry) -> Carry:
            machine.more(inside, self.t, self.h, r)
            return ~s[0], tuple(r[name] for name in names)

        # a loop of one trip at most: under JAX's vmap, a branch would always be taken
        names = tuple(dict.fromkeys(x for part in self.programs.dense for x, _ in part))
        names = tuple(x for x in names if x not in r)
        _, found = bk.while_loop(lambda s: s[0], once, (due, (machine.zeros(),) * len(names)))
        r.update(zip(names, found, strict=True))

    def invert(self, t: Scalar, h: Scalar, carried: State) -> State:
        """The carried state before the step (t, h), from the one after it."""
        program, machine = self.programs.inverse, self.machine
        return machine.outputs(program, machine.run(program, t, h, carried))

    def _error2(self) -> Scalar:
        """Squared norm of the scaled error of the step whose registers are known."""
        layout, r, step = self.machine.layout, self.registers, self.programs.step
        y, y1 = r[step.inputs[0]], r[step.outputs[0]]
        if self.programs.error is None:
            assert self.base is not None
            return self.machine.bases[self.base].space.error2(y1)
        e = layout.weighted([(a + b * self.h, r[x]) for x, a, b in self.programs.error])
        assert self.scale is not None
        return layout.error2(e, y, y1, self.scale)


class StepVJP(_Inside):
    """Exact vjps of steps.

    Notes
    -----
    Costs the evaluations of one step and as many vjps of f; holds the tapes of one step, or (where
    the machine has a field) of one evaluation, for one more evaluation each.
    """

    def __init__(self, solver: ProgramSolver, programs: Programs, machine: Machine) -> None:
        self.solver, self.programs, self.machine = solver, programs, machine
        self.base = next((step.out for step in _steps(programs) if step.inside), None)
        self.extra = solver.extra
        self.registers: Registers = {}
        self.body: tuple[Instruction, ...] = ()
        self.tapes: list[Residuals] = []
        self.t: Scalar = 0.0
        self.h: Scalar = 0.0

    def replay(self, field: Field) -> Stepper:
        """Steps forward; a pull and a replay never interleave."""
        m = self.machine
        bases = {name: stepper.replay(field) for name, stepper in m.bases.items()}
        machine = Machine(m.layout, m.parts, field, None, bases, time=False)
        return Stepper(self.solver, self.programs, machine)

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of the carried state after a step back to y, the one before it.

        ``outputs`` and ``size`` are those of ``runge_kutta.solver.StepVJP.pull``.
        """
        machine, program, self.t, self.h = self.machine, self.programs.step, t, h
        self.registers, self.tapes = machine.linearise(program, t, h, y)
        self.body = program.body
        inside, ct_t, ct_h, extra = None, 0.0, 0.0, None
        if outputs is not None:
            g, acc, inside, ct_t, ct_h, extra = outputs(self, g, acc)
        ct = self._cotangents(program, g, acc, size=machine.time and size)
        if inside is not None:
            self._add_inside(ct, inside)
        whole = program._replace(body=self.body)
        ct_y = machine.transpose(whole, t, h, self.registers, self.tapes, ct)
        self.registers, self.tapes = {}, []
        return StepCotangents(ct_y, ct.acc, ct.t + ct_t, ct.h + ct_h), extra

    def _cotangents(
        self, program: StraightLine, g: State, acc: ParamSums, *, size: bool
    ) -> Cotangents:
        layout = self.machine.layout
        ct = Cotangents(layout, acc, size=size)
        for name, part in zip(program.outputs, layout.split(g, len(program.outputs)), strict=True):
            ct.add(name, 1.0, part)
        return ct

    # --- the ends of a solve
    def embed(self, ct: State) -> State:
        """A cotangent of y as one of what the loop carries."""
        more = self.solver.copies - 1
        layout = self.machine.layout
        return layout.join([ct, *(layout.zeros() for _ in range(more))]) if more else ct

    def finish(
        self, t0: Scalar, y0: State, ct: State, acc: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """The vjp of ``start``: cotangents of y0 and t0, and the accumulator."""
        program, machine = self.programs.start, self.machine
        if program is None:
            return ct, 0.0, acc
        r, tapes = machine.linearise(program, t0, 0.0, y0)
        cts = self._cotangents(program, ct, acc, size=False)
        return machine.transpose(program, t0, 0.0, r, tapes, cts), cts.t, cts.acc

    # --- outputs of the step linearised last
    def extra_stages(self, due: Bool = True) -> None:
        """Linearise what the inside of the step needs beyond it, where ``due``.

        A traced pass does so whether it is due or not: tapes can't leave a branch.
        """
        machine, inside = self.machine, self.programs.inside
        if self.base is not None:
            machine.bases[self.base].extra_stages(due)
        if inside and (machine.layout.bk.clock(machine.layout).traced or due):
            r = self.registers
            self.tapes += [x.linearise(machine, self.t, self.h, r) for x in inside]
            self.body += inside

    def result(self) -> State:
        """y at its end."""
        names = self.programs.step.outputs[: self.machine.parts]
        return self.machine.layout.join([self.registers[name] for name in names])

    def slope(self, theta: Scalar) -> State:
        """The interpolant's derivative with respect to time."""
        parts = self._sum(theta, lambda p: tuple(i * a for i, a in enumerate(p))[1:])
        parts = [[(w / self.h, x) for w, x in part] for part in parts]
        if self.base is not None:
            parts[0].append((1.0, self.machine.bases[self.base].slope(theta)))
        layout = self.machine.layout
        return layout.join([layout.weighted(part) for part in parts])

    def sources(self) -> State:
        """Cotangents of the inside of a step, zero: of the interpolant's terms and its base."""
        dense, nothing = self.programs.dense, self.machine.zeros()
        base = () if self.base is None else self.machine.bases[self.base].sources()
        return tuple((nothing,) * len(part) for part in dense), base

    def add_source(self, inside: State, theta: Scalar, h: Scalar, ct: State) -> State:
        """The same with the cotangent ct of y(t + theta h) added."""
        (linear, base), layout, dense = inside, self.machine.layout, self.programs.dense
        parts = layout.split(ct, len(dense))
        linear = tuple(
            tuple(
                layout.axpy(q, _horner(powers, theta), part)
                for q, (_, powers) in zip(have, terms, strict=True)
            )
            for have, terms, part in zip(linear, dense, parts, strict=True)
        )
        if self.base is not None:
            base = self.machine.bases[self.base].add_source(base, theta, h, ct)
        return linear, base

    def _add_inside(self, ct: Cotangents, inside: State) -> None:
        linear, base = inside
        for have, terms in zip(linear, self.programs.dense, strict=True):
            for q, (name, _) in zip(have, terms, strict=True):
                ct.add(name, 1.0, q)
        if self.base is not None:
            ct.inside[self.base] = base


def _horner(powers: tuple[float, ...], theta: Scalar) -> Scalar:
    """The polynomial's value."""
    value: Scalar = powers[-1]
    for a in powers[-2::-1]:
        value = a + value * theta
    return value


def _zero(w: Scalar) -> bool:
    return isinstance(w, (int, float)) and w == 0
