"""Steps as straight-line programs: registers, sums of registers, evaluations of f.

A step that is explicit and has no branches is a list of three kinds of instruction, whose
weights are ``alpha + beta h``. So its inverse is another such list, and its exact vjp the same
list read backwards with every instruction transposed (reverse accumulation; Griewank & Walther,
*Evaluating Derivatives*, 2nd ed., 2008, doi:10.1137/1.9780898717761, ch. 3). Each is written
once, here, for all solvers of this form; a solver states its lists.

Explicit Runge-Kutta methods have a faster form of their own (``runge_kutta``); one of them may
be an instruction (:class:`BaseStep`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..._base.types import Array, Function, ParamSums, Residuals, Scalar, State

if TYPE_CHECKING:
    from ..._backend.protocols import Layout


class Cotangents:
    """Cotangents of registers while a program is read backwards.

    Attributes
    ----------
    acc
        Accumulator of the parameters' cotangents.
    t, h : scalar
        Cotangents of the step's start and size.
    inside : dict of str to weight
        Cotangents of the inside of a :class:`BaseStep`, by its register.
    """

    def __init__(self, layout: Layout, acc: ParamSums, *, size: bool) -> None:
        self.layout, self.acc, self.size = layout, acc, size
        self.t: Scalar = 0.0
        self.h: Scalar = 0.0
        self.inside: dict[str, State] = {}
        self._terms: dict[str, list[tuple[Scalar, State]]] = {}

    def add(self, name: str, weight: Scalar, ct: State) -> None:
        """Add ``weight * ct`` to a register's cotangent."""
        self._terms.setdefault(name, []).append((weight, ct))

    def pulled(self, names: Sequence[str | None]) -> tuple[Scalar, Sequence[State | None] | None]:
        """A weight, and cotangents that it is still to be put on; None unless there is but one.

        Put on what f's vjp makes of it, in the sum that takes that in, it saves a pass.
        """
        there = [name for name in names if name in self._terms]
        if len(there) != 1 or len(self._terms[there[0]]) != 1:
            return 1.0, None
        ((weight, lam),) = self._terms.pop(there[0])
        return weight, [lam if name == there[0] else None for name in names]

    def take(self, name: str) -> State | None:
        """A register's cotangent, complete and no longer needed here; None for zero."""
        terms = self._terms.pop(name, None)
        if terms is None:
            return None
        weight, ct = terms[0]
        if len(terms) == 1 and isinstance(weight, float) and weight == 1.0:
            return ct
        return self.layout.weighted(terms)


Registers: TypeAlias = dict[str, State]
"""Parts of states by name; each is written once."""

Term: TypeAlias = tuple[str, float, float]
"""A register and its weight alpha + beta h, as (register, alpha, beta)."""


class StraightLine(NamedTuple):
    """Instructions from the registers of one carried state to those of another.

    Attributes
    ----------
    inputs, outputs : tuple of str
        The parts of the carried state before and after, in order.
    body : tuple of Combine, Evaluate or BaseStep
    """

    inputs: tuple[str, ...]
    body: tuple[Instruction, ...]
    outputs: tuple[str, ...]


class Machine:
    """What the instructions of one pass compute with.

    Parameters
    ----------
    layout
        y's layout.
    parts : int
        Registers that make one y.
    field : callable or None
        Gives slopes; None in a reverse pass that linearises f at once.
    vjp : callable or None
    bases : dict of str to pass
        The pass of each :class:`BaseStep` by its register.
    time : bool
        Whether cotangents of t and h are asked for.
    """

    def __init__(
        self,
        layout: Layout,
        parts: int,
        field: Function | None,
        vjp: Function | None,
        bases: dict[str, State],
        *,
        time: bool,
    ) -> None:
        self.parts = parts
        self.layout, self.bases, self.time = layout, bases, time
        self.field: Any = field
        self.vjp: Any = vjp

    def run(
        self, program: StraightLine, t: Scalar, h: Scalar, s: State, *, full: bool = False
    ) -> Registers:
        """All registers of a program run on the carried state s."""
        r: Registers = dict(
            zip(program.inputs, self.layout.split(s, len(program.inputs)), strict=True)
        )
        self.more(program.body, t, h, r, full=full)
        return r

    def more(
        self,
        body: tuple[Instruction, ...],
        t: Scalar,
        h: Scalar,
        r: Registers,
        *,
        full: bool = False,
    ) -> None:
        """Run further instructions on known registers."""
        for instruction in body:
            instruction.run(self, t, h, r, full)

    def linearise(
        self, program: StraightLine, t: Scalar, h: Scalar, s: State
    ) -> tuple[Registers, list[Residuals]]:
        """The same, and a tape of each instruction."""
        r: Registers = dict(
            zip(program.inputs, self.layout.split(s, len(program.inputs)), strict=True)
        )
        return r, [instruction.linearise(self, t, h, r) for instruction in program.body]

    def transpose(
        self,
        program: StraightLine,
        t: Scalar,
        h: Scalar,
        r: Registers,
        tapes: list[Residuals],
        ct: Cotangents,
    ) -> State:
        """The cotangent of the carried state that a linearised program was run on."""
        for instruction in reversed(program.body):
            instruction.transpose(self, t, h, r, tapes.pop(), ct)
        parts = [ct.take(name) for name in program.inputs]
        if any(part is None for part in parts):
            nothing = self.zeros()
            parts = [nothing if part is None else part for part in parts]
        return self.layout.join(parts)

    def zeros(self) -> State:
        """A register of zeros."""
        return self.layout.split(self.layout.zeros(), self.parts)[0]

    def outputs(self, program: StraightLine, r: Registers) -> State:
        """The carried state after a program."""
        return self.layout.join([r[name] for name in program.outputs])


@dataclass(frozen=True)
class LinearCombination:
    """``out = sum (alpha + beta h) register``, added in order: first what nearly cancels."""

    out: str
    terms: tuple[Term, ...]

    def calls(self, full: bool) -> int:
        """Evaluations of f."""
        return 0

    def run(self, m: Machine, t: Scalar, h: Scalar, r: Registers, full: bool) -> None:
        """Write the register."""
        r[self.out] = m.layout.weighted([(a + b * h if b else a, r[x]) for x, a, b in self.terms])

    def linearise(self, m: Machine, t: Scalar, h: Scalar, r: Registers) -> None:
        """The same; the registers are the tape."""
        self.run(m, t, h, r, False)

    def transpose(
        self, m: Machine, t: Scalar, h: Scalar, r: Registers, tape: None, ct: Cotangents
    ) -> None:
        """Hand the register's cotangent on to its terms, and to h."""
        lam = ct.take(self.out)
        if lam is None:
            return
        for x, a, b in self.terms:
            ct.add(x, a + b * h if b else a, lam)
            if b and ct.size:
                ct.h = ct.h + b * m.layout.inner(lam, r[x])


@dataclass(frozen=True)
class Evaluate:
    """``out = f(t + c h, arg)``; out and arg are the parts of a state.

    A part of out that is None is thrown away. A slope is read before the next evaluation or not
    at all in a run forward: f may reuse the array that it returned.
    """

    out: tuple[str | None, ...]
    c: float
    arg: tuple[str, ...]

    def calls(self, full: bool) -> int:
        """Evaluations of f."""
        return 1

    def run(self, m: Machine, t: Scalar, h: Scalar, r: Registers, full: bool) -> None:
        """Write the registers."""
        k = m.field(m.layout.time(t + self.c * h), m.layout.join([r[x] for x in self.arg]))
        self._write(m, r, m.layout.pack(k))

    def linearise(self, m: Machine, t: Scalar, h: Scalar, r: Registers) -> Residuals:
        """The same; the tape is f's pull, or None where f is linearised when its turn comes."""
        time, y = m.layout.time(t + self.c * h), m.layout.join([r[x] for x in self.arg])
        k, pull = m.vjp(time, y) if m.field is None else (m.field(time, y), None)
        self._write(m, r, m.layout.own(k))
        return pull

    def transpose(
        self, m: Machine, t: Scalar, h: Scalar, r: Registers, tape: Residuals, ct: Cotangents
    ) -> None:
        """f's vjp of the slopes' cotangents."""
        layout = m.layout
        weight, found = ct.pulled(self.out) if getattr(m.vjp, "scales", False) else (1.0, None)
        if found is None:
            found = [None if name is None else ct.take(name) for name in self.out]
        if all(x is None for x in found):
            return
        if tape is None:
            time = layout.time(t + self.c * h)
            _, tape = m.vjp(time, layout.join([r[x] for x in self.arg]))
        leaves, plain = self._leaves(m, found), isinstance(weight, float) and weight == 1.0
        mu, ct_t, ct.acc = tape(leaves, ct.acc) if plain else tape(leaves, ct.acc, weight)
        if m.time:
            ct_t = ct_t if plain else weight * ct_t
            ct.t = ct.t + ct_t
            ct.h = ct.h + self.c * ct_t
        for name, part in zip(self.arg, self._parts(m, mu), strict=True):
            if part is not None:
                ct.add(name, weight, part)

    def _leaves(self, m: Machine, parts: Sequence[State | None]) -> Sequence[Array]:
        """Leaves of the slopes' cotangent; None, which costs nothing to pull, in absent parts."""
        layout = m.layout
        nothing = m.zeros() if any(x is None for x in parts) else None
        leaves = layout.unpack(layout.join([nothing if x is None else x for x in parts]))
        each = len(leaves) // len(parts)
        return [None if parts[i // each] is None else x for i, x in enumerate(leaves)]

    def _parts(self, m: Machine, mu: Sequence[Array]) -> Sequence[State | None]:
        """f's cotangent of y by parts; None for a part on which nothing depends."""
        layout, count = m.layout, len(self.arg)
        each = len(mu) // count
        none = [all(x is None for x in mu[i * each :][:each]) for i in range(count)]
        if any(x is None for x in mu):
            pairs = zip(mu, layout.unpack(layout.zeros()), strict=True)
            mu = [z if x is None else x for x, z in pairs]
        parts = _parts(layout, layout.own(mu), count)
        return [None if no else part for part, no in zip(parts, none, strict=True)]

    def _write(self, m: Machine, r: Registers, k: State) -> None:
        for name, part in zip(self.out, _parts(m.layout, k, len(self.out)), strict=True):
            if name is not None:
                r[name] = part


@dataclass(frozen=True)
class BaseStep:
    """``out`` = the end of another solver's step of ``sign * h`` from (t + start h, arg).

    ``inside``: whether the error and the interpolant of the whole are those of this step.
    """

    out: str
    start: float
    sign: float
    arg: str
    base: State
    inside: bool = False

    def calls(self, full: bool) -> int:
        """Evaluations of f."""
        return int(self.base.stages if full and self.inside else self.base.evaluations)

    def run(self, m: Machine, t: Scalar, h: Scalar, r: Registers, full: bool) -> None:
        """Write the register."""
        stepper, t, h = m.bases[self.out], t + self.start * h, self.sign * h
        r[self.out] = stepper.step(t, h, r[self.arg], None, error=full and self.inside).y1

    def linearise(self, m: Machine, t: Scalar, h: Scalar, r: Registers) -> Residuals:
        """The same; the tape is that of its stages."""
        step_vjp = m.bases[self.out]
        tape = step_vjp.linearise(t + self.start * h, self.sign * h, r[self.arg])
        r[self.out] = step_vjp.result()
        return tape

    def transpose(
        self, m: Machine, t: Scalar, h: Scalar, r: Registers, tape: Residuals, ct: Cotangents
    ) -> None:
        """The vjp of the step."""
        lam, inside = ct.take(self.out), ct.inside.get(self.out)
        assert lam is not None
        y, h = r[self.arg], self.sign * h
        step = m.bases[self.out].transpose(h, y, lam, ct.acc, tape, inside, size=ct.size)
        ct.acc = step.params
        ct.add(self.arg, 1.0, step.y)
        if m.time:
            ct.t = ct.t + step.t
            ct.h = ct.h + self.start * step.t + self.sign * step.h


Instruction: TypeAlias = LinearCombination | Evaluate | BaseStep


def _parts(layout: Layout, s: State, count: int) -> Sequence[State]:
    return (s,) if count == 1 else layout.split(s, count)
