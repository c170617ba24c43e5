"""JAX: public loops. Bodies are traced once; what they close over becomes inputs of the program.

A carry leaf that the traced body hands on as it is (a loop invariant) is no part of the state.
The bounded loop is nested scans in chunks that grow by 16, skipped once the loop has ended: its
cost follows the steps taken, and derivatives of any order and mode go through it.

Under ``vmap`` a while loop whose lanes may end apart has a program for lanes, as a solve has
(``batched_solves``): one count of trips for all of them, until the last has ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import (
    Array,
    Aux,
    Body,
    Bool,
    Buffer,
    Carry,
    Condition,
    Function,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    State,
    Tree,
)
from retrograde._loops.body_vjp import BodyVJP, Span
from retrograde._loops.loop import LoopSpec
from retrograde._loops.loop_program import DifferentiableLoop

from .batched_solves import BatchedProgram, Lanes, room_for_lanes
from .derivatives import Differentiable
from .mesh import mesh_note, refuse_typed
from .primitives import most, read_row, write_row
from .transforms import doubtful, reached, works
from .types import Ref
from .xla_cpu.eligible import fits, small, working_on

if TYPE_CHECKING:
    from retrograde._backend.protocols import FieldVJP

    from .field_vjp import Pullback


def steered(loop: LoopSpec, batched: Sequence[bool]) -> bool:
    """Whether the predicate differs between lanes, of parameters that are ``batched`` or not."""
    body, cond = loop.jaxprs
    leaves = [False] * len(loop.template)
    for i, b in zip(loop.where, batched, strict=False):
        leaves[i] = b
    captured, noticed = batched[loop.given : loop.first_cond], batched[loop.first_cond :]
    while not reached(cond, [*noticed, *leaves], tangents=False)[0]:
        out = reached(body, [*captured, *leaves], tangents=False)[: len(leaves)]
        new = [a or b for a, b in zip(leaves, out, strict=True)]
        if new == leaves:
            return False
        leaves = new
    return True


class Lane(LoopSpec):
    """One lane of a batch of a while loop: as many steps as the longest takes.

    Steps behind its end change nothing, and its body sees the values that it began with, so that no
    derivative is asked for where the loop would not have gone.
    """

    def __init__(self, loop: LoopSpec) -> None:
        self.__dict__.update(loop.__dict__)

    def step(self, leaves: Sequence[Array], x: Sequence[Array], params: Sequence[Array]) -> Tree:
        on = self.test(leaves, params)
        start = self.initial(params)
        safe = [jnp.where(on, a, b) for a, b in zip(leaves, start, strict=True)]
        new, ys = super().step(safe, x, params)
        return [jnp.where(on, a, b) for a, b in zip(new, leaves, strict=True)], ys

    def goes_on(self, leaves: Sequence[Array], params: Sequence[Array]) -> Bool:
        return most(self.test(leaves, params))


class LoopLanes(Lanes):
    """The lanes of a batch of one loop."""

    program: DifferentiableLoop

    def __init__(self, program: DifferentiableLoop, room: int) -> None:
        self.program = DifferentiableLoop(Lane(program.loop), program.adjoint, throw=program.throw)
        rows = program.slots().rows or program.loop.max_steps or 1
        self.at_once = max(1, room // max(1, rows * program.loop.layout.nbytes))

    def steered(self, batched: Inputs) -> bool:
        return steered(self.program.loop, batched.params)

    def residuals(self, inputs: Inputs) -> Tree:
        return self.program.forward(inputs)[2]

    def marked(self, out: Tree) -> Tree:
        flags = [jax.tree_util.tree_map(lambda _: True, x) for x in out]
        if len(out) == 3:  # behind the rows that a forward keeps: where they stand, how many
            count, kept = len(self.program.loop.moving), out[2]
            out = (*out[:2], [*kept[:count], *(x[0] for x in kept[count:])])
            flags[2] = [i < count for i in range(len(kept))]
        return tuple(out), tuple(flags)


def loop_gradient(program: DifferentiableLoop, room: int) -> Function:
    """A loop with its derivatives; batched, one that is not counted has a program for lanes."""
    if program.loop.count is not None:
        return Differentiable(program).solve
    return BatchedProgram(program, LoopLanes(program, room)).solve


struct: Any = jax.ShapeDtypeStruct

SORTED, WALKED = 24, 12
"""Bytes of a slot in the tables of a reversal: position and order, and what sorts them, or, in a
kernel, the order found as it was taken."""

FIRST = 64
"""Steps of the first chunk of a bounded loop."""

SHALLOW = 1024
"""Longest chunk of scans two deep; longer ones are three deep, in fewer bytes."""


class IterationHooks:
    """What ``while_loop`` and ``scan`` need."""

    _compiled: Tree

    def carry_leaves(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        return [jnp.asarray(x) for x in leaves]

    def row_like(self, x: Array) -> Array:
        return struct(x.shape[1:], x.dtype)

    def row(self, x: Array, i: Index) -> Array:
        return read_row(x, i)

    def new_stack(self, rows: int, like: Sequence[Array] | None) -> Buffer:
        return tuple(jnp.zeros((rows, *x.shape), x.dtype) for x in like or ())

    def put(self, stack: Buffer, i: Index, leaves: Sequence[Array]) -> Buffer:
        return tuple(write_row(x, i, row) for x, row in zip(stack, leaves, strict=True))

    def stacked(self, stack: Buffer, like: Sequence[Array]) -> list[Array]:
        return list(stack)

    def predicate(self, x: Array) -> Bool:
        if x.dtype != jnp.bool_:
            raise InputError(f"`cond` returned {x.dtype}; return one bool.")
        return x

    def negated(self, ok: Bool) -> Bool:
        return jnp.logical_not(ok)

    # --- tracing
    def capture_loop(self, loop: LoopSpec) -> None:
        """Trace body and cond once, or twice where a plain number must become another dtype."""
        refuse_typed(loop.params)
        closed, shapes = self._trace(loop)
        promoted = False
        for i, (a, b) in enumerate(zip(loop.template, shapes[0], strict=True)):
            if a.dtype != b.dtype and getattr(a, "weak_type", False):
                loop.template[i], promoted = jnp.asarray(a, b.dtype), True
        if promoted:
            loop.describe()
            closed, shapes = self._trace(loop)
        loop.check(loop.template, shapes[0])
        loop.ys_like = shapes[1]
        jaxpr, count = closed.jaxpr, len(loop.template)
        pairs = zip(jaxpr.invars[:count], jaxpr.outvars[:count], strict=True)
        loop.still = frozenset(i for i, (a, b) in enumerate(pairs) if a is b)

        def call(
            captured: Sequence[Array], leaves: Sequence[Array], x: Array
        ) -> tuple[list[Array], list[Array]]:
            out = jax.core.eval_jaxpr(jaxpr, captured, *leaves, *x)
            return out[:count], out[count:]

        test, noticed = self._condition(loop)
        consts = [jnp.asarray(x) for x in closed.consts]
        refuse_typed((*consts, *noticed))
        loop.hoisted(call, consts, test, noticed)
        loop.notes = (*loop.notes, str(jaxpr), mesh_note())
        loop.jaxprs = (jaxpr, *loop.jaxprs)
        loop.template_like = [struct(x.shape, x.dtype) for x in loop.template]
        size = sum(math.prod(x.shape) for x in loop.template_like)
        with working_on(loop.params):
            loop.small = all(small(x, size) for x in loop.jaxprs)
        loop.notes = (*loop.notes, loop.small)

    def _trace(self, loop: LoopSpec) -> Tree:
        count = len(loop.template)

        def flat(*arrays: Array) -> Tree:
            new, ys = loop.raw(arrays[:count], arrays[count:])
            return [jnp.asarray(x) for x in new], [jnp.asarray(y) for y in ys]

        rows = [self.row_like(x) for x in loop.xs_leaves]
        leaves = [struct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))
                  for x in loop.template]  # fmt: skip
        return jax.make_jaxpr(flat, return_shape=True)(*leaves, *rows)

    def _condition(self, loop: LoopSpec) -> tuple[Tree, list[Array]]:
        cond = loop.cond
        if cond is None:
            return None, []

        def flat(*leaves: Array) -> Tree:
            return loop.truth(cond(jax.tree_util.tree_unflatten(loop.treedef, leaves)))

        closed = jax.make_jaxpr(flat)(*loop.template)
        loop.notes, loop.jaxprs = (*loop.notes, str(closed.jaxpr)), (closed.jaxpr,)

        def test(captured: Sequence[Array], leaves: Sequence[Array]) -> Bool:
            return jax.core.eval_jaxpr(closed.jaxpr, captured, *leaves)[0]

        return test, [jnp.asarray(x) for x in closed.consts]

    # --- loops that autodiff follows
    def followed_scan(
        self, step: Function, state: Carry, count: int, reverse: bool
    ) -> tuple[Carry, list[Array]]:
        def body(state: State, i: Index) -> Carry:
            return step(i, state)

        state, rows = jax.lax.scan(body, state, jnp.arange(count, dtype=jnp.int32))
        return state, [x[::-1] for x in rows] if reverse else list(rows)

    def bounded_loop(self, running: Condition, body: Body, s: Carry, bound: int | None) -> Carry:
        if bound is None:
            raise UnsupportedByBackend(
                "derivatives that follow the steps of a `while_loop` (kind='bounded'; of the other "
                "kinds those of derivatives) need a bound in JAX: pass `max_steps`."
            )

        def going(s: Carry) -> Bool:
            return jnp.logical_and(s[0] < bound, running(s))

        def times(count: int, inner: Function) -> Function:
            def maybe(s: Carry, _: Ref) -> Carry:
                return jax.lax.cond(going(s), inner, lambda s: s, s), None

            return lambda s: jax.lax.scan(maybe, s, length=count)[0]

        def chunk(size: int) -> Function:
            levels = 2 if size <= SHALLOW else 3
            width = next(w for w in range(1, size + 1) if w**levels >= size)
            inner = body
            for _ in range(levels):
                inner = jax.checkpoint(times(width, inner))
            return inner

        def rest(done: int, size: int) -> Function:
            """The chunks from step ``done`` on, behind one predicate."""
            size = min(size, bound - done)
            inner = chunk(size)

            def run(s: Carry) -> Carry:
                s = inner(s)
                return s if done + size >= bound else rest(done + size, 16 * size)(s)

            return lambda s: jax.lax.cond(going(s), run, lambda s: s, s)

        return rest(0, FIRST)(s) if bound else s

    def body_tape_bytes(
        self, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        shapes = jax.eval_shape(
            lambda *x: cast("Pullback", vjp).linearise(*x)[1], span, tuple(leaves)
        )
        return sum(x.size * x.dtype.itemsize for x in jax.tree_util.tree_leaves(shapes)), ()

    def table_entries(
        self, loop: LoopSpec, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> int:
        def whole(*arrays: Array) -> Tree:
            new, pull = cast("Pullback", vjp).linearise(*arrays)
            return pull(new)

        if loop.small:
            loop.small = fits(jax.make_jaxpr(whole)(span, tuple(leaves)).jaxpr)
        return WALKED if loop.small else SORTED

    # --- programs
    def differentiate_loop(
        self, program: DifferentiableLoop, inputs: Inputs, kind: str
    ) -> tuple[Leaves, Aux]:
        if kind != "checkpointed":
            call = self._compiled(program, ("loop", kind), lambda: program.primal)
        else:
            room = room_for_lanes(program)
            call = self._compiled(program, ("gradient", room), lambda: loop_gradient(program, room))
        found: tuple[Leaves, Aux] = call(inputs)
        return found

    def tracked_leaves(self, loop: LoopSpec, params: Sequence[Array]) -> Sequence[bool]:
        """Tracers; where something has no derivative, of those that the body has one by."""
        found = [isinstance(x, jax.core.Tracer) and jnp.issubdtype(x.dtype, jnp.inexact)
                 for x in params]  # fmt: skip
        if not doubtful(loop.jaxprs[0]):
            return found

        def one(k: int) -> bool:
            wanted = NeedsGradient(tuple(i == k for i in range(len(params))), False, False, False)
            leaves = loop.initial(params)
            pull = BodyVJP(loop, params, wanted, [leaves[i] for i in loop.floating])
            fresh = [leaves[i] for i in pull.active] + [loop.single[j] for j in pull.moved]

            def pulled(span: Carry, fresh: Leaves) -> Tree:
                vjp: Pullback = cast("Pullback", pull.vjp)
                out, part = vjp.linearise(span, fresh)
                return part(out)

            return works(pulled, Span(loop.state(leaves), [loop.single]), tuple(fresh))

        return [f and one(k) for k, f in enumerate(found)]

    def reached(
        self, loop: LoopSpec, wanted: Sequence[bool]
    ) -> tuple[Sequence[bool], Sequence[bool]]:
        jaxpr, count = loop.jaxprs[0], len(loop.template)
        leaves, rows = [False] * count, list(wanted[len(loop.where) : loop.given])
        for i, w in zip(loop.where, wanted, strict=False):
            leaves[i] = w
        while True:
            found = reached(jaxpr, [*wanted[loop.given : loop.first_cond], *leaves, *rows])
            new = [a or b for a, b in zip(leaves, found, strict=False)]
            if new == leaves:
                return leaves, found[count:]
            leaves = new
