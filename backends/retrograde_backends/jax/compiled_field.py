"""JAX: a vector field as its program, and what that is judged to be: once, for all that reads it.

The field is traced once, with what it closes over made an input (closure conversion). Its program
is what every step runs, and its operations tell which forms serve it best on the device at hand.
They come from ``xla_cpu``, and none is taken where the flag of that folder is off:

=================  ============================================================================
``kernel``         a whole solve may be one kernel
``outlined``       f and its vjp are calls of their own, not merged with what is around them; of
                   a solver that drops parts of f's results, the vjp alone
``matvec``         products of a small matrix and a vector in the form that kernels run fastest
``scan_stages``    the stages of a step stand in a loop: f is transcendental, and is compiled long
``scan_reverse``   and so do those of a step that is taken back
=================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from retrograde._base.types import (
    Array,
    Function,
    Leaves,
    NeedsGradient,
    Scalar,
    Tree,
    VectorFieldFn,
)

from .field_vjp import Pullback
from .mesh import mesh_note, refuse_typed
from .transforms import doubtful, has_batch
from .xla_cpu.eligible import MOST, allowed, long, separate, small, transcendental, working_on
from .xla_cpu.kernel import outlined
from .xla_cpu.matvec import Matvec, multiplies
from .xla_cpu.shifts_and_sums import shifted

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout
    from retrograde._integrate.problem import Problem


@dataclass(frozen=True)
class Traced:
    """A function's program, the arrays that it closes over, the shapes of its results."""

    jaxpr: Jaxpr
    consts: tuple[Array, ...]
    shapes: Tree
    given: tuple[Array, ...]
    """Leaves of y, and arrays of ``args``."""

    @classmethod
    def of(cls, problem: Problem, fn: VectorFieldFn, t0: Scalar, take: Function) -> Traced:
        """``take(fn(t0, y0, args))``."""
        leaves = problem.layout.unpack(problem.y0)
        count, params = len(leaves), problem.params[: len(problem.where)]

        def flat(t: Array, *arrays: Array) -> Tree:
            return take(fn(t, problem.tree(arrays[:count]), problem.arguments(arrays[count:])))

        given = (*leaves, *params)
        refuse_typed(given)
        time = problem.layout.time(t0)
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(time, *given)
        consts = tuple(jnp.asarray(x) for x in closed.consts)
        refuse_typed(consts)
        return cls(closed.jaxpr, consts, shapes, given)

    def join(self, problem: Problem) -> slice:
        """Note what it closes over among the problem's parameters: where."""
        floating = problem.bk.floating
        traced = [isinstance(x, jax.core.Tracer) and bool(floating(x)) for x in self.consts]
        return problem.add_captured(self.consts, traced)

    def key(self) -> Hashable:
        """What it is: a kept program must not outlive a change of what f closes over."""
        return str(self.jaxpr), mesh_note()  # numbers stand in there


class CompiledField:
    """A field's program (``FieldProgram``); it holds no arrays."""

    kernel = outlined = scan_stages = scan_reverse = False

    def __init__(self, problem: Problem, traced: Traced) -> None:
        jaxpr, self.layout = traced.jaxpr, problem.layout
        self.given, self.captured = len(problem.where), traced.join(problem)
        self.doubtful = doubtful(jaxpr)
        """Whether f or ``SaveAt.fn`` may hold what has no derivative."""
        self.lone = not has_batch((*traced.given, *traced.consts))
        self.keys: tuple[Hashable, ...] = (traced.key(),)
        self.matvec: Matvec | None = None
        self.run: Callable[..., Sequence[Array]] = partial(jax.core.eval_jaxpr, jaxpr)
        with working_on((*traced.given, *traced.consts)):
            self._judge(jaxpr, problem)
        self._outputs: dict[int, tuple[Jaxpr, slice]] = {}

    def _judge(self, jaxpr: Jaxpr, problem: Problem) -> None:
        size = self.layout.size
        self.kernel = small(jaxpr, size)
        self.outlined = separate(jaxpr, size)
        self.scan_stages = self.kernel and self.lone and transcendental(jaxpr)
        self.scan_reverse = self.scan_stages and long(jaxpr)
        if self.kernel and getattr(problem.f, "vjp", None) is None and multiplies(jaxpr):
            self.matvec = Matvec(jaxpr, before=1 + len(self.layout.shapes))
            self.run = self.matvec.run
        elif size > MOST and allowed():
            self.run = partial(jax.core.eval_jaxpr, shifted(jaxpr))
        # of a call every result is computed, whether it is used or not
        if self.outlined and not problem.parted:
            self.run = outlined(self.run)

    def key(self) -> Hashable:
        return allowed(), self.lone, self.kernel, self.outlined, self.keys

    def prepared(self, params: Sequence[Array]) -> Sequence[Array]:
        """Parameters in the form that the program is bound to; made once, outside of loops."""
        return params if self.matvec is None else self.matvec.prepared(params)

    def bind(self, params: Sequence[Array]) -> Callable[[Array, Leaves], Leaves]:
        params = self.prepared(params)
        given, captured, run = params[: self.given], tuple(params[self.captured]), self.run
        return lambda t, leaves: tuple(run(captured, t, *leaves, *given))

    def bind_output(
        self, fn: VectorFieldFn, params: Sequence[Array]
    ) -> Callable[[Array, Leaves], Leaves]:
        jaxpr, where = self._outputs[id(fn)]
        given, captured = params[: self.given], tuple(params[where])
        return lambda t, leaves: tuple(jax.core.eval_jaxpr(jaxpr, captured, t, *leaves, *given))

    def vjp(
        self, params: Sequence[Array], wanted: NeedsGradient, *, prepared: bool = True
    ) -> Pullback:
        vjp = Pullback(self.layout, self.bind, params, wanted)
        vjp = vjp.with_parameters(self.prepared) if prepared else vjp
        return vjp.outlined() if self.outlined else vjp

    def stored_vjp(
        self, layout: Layout, params: Sequence[Array], wanted: NeedsGradient
    ) -> Pullback:
        """The vjp that an integration stores: a part forward, one back, and never one call."""
        return Pullback(layout, self.bind, params, wanted).with_parameters(self.prepared)

    def add_output(self, problem: Problem, fn: VectorFieldFn, traced: Traced) -> None:
        """Take a ``SaveAt.fn`` in, which has a part in what a solve can be."""
        size, jaxpr = self.layout.size, traced.jaxpr
        self.doubtful |= doubtful(jaxpr)
        with working_on((*traced.given, *traced.consts)):
            self.kernel = self.kernel and small(jaxpr, size)
        self.keys = (*self.keys, traced.key())
        program = shifted(jaxpr) if size > MOST and allowed() else jaxpr
        self._outputs[id(fn)] = program, traced.join(problem)


def compile_field(problem: Problem, t0: Scalar) -> CompiledField:
    """Trace f once: the problem's program."""
    traced = Traced.of(problem, problem.f, t0, problem.taken)
    problem.check_result(traced.shapes, lambda x: hasattr(x, "dtype"))
    return CompiledField(problem, traced)


def compile_output(problem: Problem, fn: VectorFieldFn, t0: Scalar) -> Tree:
    """Trace ``SaveAt.fn`` once: shapes of its results."""
    traced = Traced.of(problem, fn, t0, lambda x: x)
    compiled(problem).add_output(problem, fn, traced)
    return traced.shapes


def compiled(problem: Problem) -> CompiledField:
    """The program that :func:`compile_field` made for it."""
    program = problem.program
    assert isinstance(program, CompiledField)
    return program
