"""JAX: public loops. Bodies are traced once; what they close over becomes inputs of the program.

A carry leaf that the traced body hands on as it is (a loop invariant) is no part of the state.
The bounded loop is nested scans in chunks that grow by 16, skipped once the loop has ended: its
cost follows the steps taken, and derivatives of any order and mode go through it.

Under ``vmap`` a while loop is one loop over lanes with counters of its own. JAX's own batching of a
loop whose predicate is batched selects every leaf of its carry each trip, the buffer of checkpoints
included, and batches the counters, so that rows are gathered and scattered. Here the loop is
batched as what it is: one count of trips for all lanes, until the last has ended; a lane that has
ended keeps its values (and its body sees the values it began with, so that no derivative is asked
for where the loop would not have gone). What does not depend on batched data stays unbatched, the
predicate above all: then nothing is selected.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

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
from retrograde._loops.loop import LeafLayout, LoopSpec
from retrograde._loops.loop_program import DifferentiableLoop

from .derivatives import Differentiable, Tangent
from .mesh import mesh_note, refuse_typed
from .primitives import read_row, write_row
from .transforms import doubtful, reached, works
from .types import Axes, Jaxpr, Ref, Var
from .xla_cpu.eligible import fits, small, working_on
from .xla_cpu.kernel import one_kernel

if TYPE_CHECKING:
    from retrograde._backend.protocols import FieldVJP

    from .field_vjp import Pullback

__all__ = [
    "IterationHooks",
    "LoopGradient",
]


def touched(jaxpr: Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    """Which results of a jaxpr depend on the marked inputs."""
    sources = (*jaxpr.constvars, *jaxpr.invars)
    marked = {v for v, m in zip(sources, inputs, strict=True) if m}

    def depends(v: Var) -> bool:
        return not isinstance(v, Literal) and v in marked

    for eqn in jaxpr.eqns:
        if any(map(depends, eqn.invars)):
            marked.update(eqn.outvars)
    return [depends(v) for v in jaxpr.outvars]


def _spread(loop: LoopSpec, batched: Sequence[bool]) -> tuple[list[bool], bool]:
    """(which leaves of the carry differ between lanes, whether the predicate does)."""
    body, cond = loop.jaxprs
    leaves = [False] * len(loop.template)
    for i, b in zip(loop.where, batched, strict=False):
        leaves[i] = b
    captured = list(batched[loop.given : loop.first_cond])
    noticed = list(batched[loop.first_cond :])
    while True:
        steered = touched(cond, [*noticed, *leaves])[0]
        out = touched(body, [*captured, *leaves])[: len(leaves)]
        new = [a or b or (steered and i not in loop.still)
               for i, (a, b) in enumerate(zip(leaves, out, strict=True))]  # fmt: skip
        if new == leaves:
            return leaves, steered
        leaves = new


def guarded(loop: LoopSpec, batched: Sequence[bool]) -> LoopSpec:
    """One lane of a batch: steps behind the end of the loop change nothing."""
    if not _spread(loop, batched)[1]:
        return loop
    kind = type(loop)
    if issubclass(kind, _Guarded):
        return loop
    twin = copy.copy(loop)
    twin.__class__ = type(f"Guarded{kind.__name__}", (_Guarded, kind), {})
    return twin


class _Guarded(LoopSpec):
    """A loop whose body changes nothing where cond says that it has ended."""

    def step(self, leaves: Sequence[Array], x: Sequence[Array], params: Sequence[Array]) -> Tree:
        on = self.goes_on(leaves, params)
        start = self.initial(params)
        safe = [jnp.where(on, a, b) for a, b in zip(leaves, start, strict=True)]
        new, ys = super().step(safe, x, params)
        return [jnp.where(on, a, b) for a, b in zip(new, leaves, strict=True)], ys


class Lanes(LoopSpec):
    """A while loop over lanes.

    Parameters
    ----------
    loop : LoopSpec
    size : int
    batched : sequence of bool
        Which parameters have an axis of lanes, their first.
    """

    def __init__(self, loop: LoopSpec, size: int, batched: Sequence[bool]) -> None:
        self.__dict__.update(loop.__dict__)
        self.one, self.size, self.batched = loop, size, tuple(batched)
        self.flags, self.steered = _spread(loop, batched)
        self.small = False
        self.guarded = guarded(loop, batched)
        like = [self._wide(i, loop.template_like[i]) for i in loop.moving]
        self.layout = LeafLayout(loop.bk, like)
        # what a batch of these lanes would see
        self.template_like = [self._wide(i, x) for i, x in enumerate(loop.template_like)]

    def _wide(self, i: int, x: Array) -> Array:
        shape = (self.size, *x.shape) if self.flags[i] else x.shape
        struct: Any = jax.ShapeDtypeStruct
        return struct(shape, x.dtype)

    def _axes(self) -> tuple[list[Array], list[Array]]:
        return [0 if f else None for f in self.flags], [0 if b else None for b in self.batched]

    def _mapped(self, fn: Function, out: Tree) -> Function:
        leaves, params = self._axes()
        return jax.vmap(fn, in_axes=(leaves, params), out_axes=out, axis_size=self.size)

    # --- the loop's interface
    def initial(self, params: Sequence[Array]) -> Leaves:
        leaves = list(self.one.initial(params))
        given = dict(zip(self.one.where, self.batched, strict=False))
        for i, flag in enumerate(self.flags):
            if flag and not given[i]:
                leaves[i] = jnp.broadcast_to(leaves[i], (self.size, *leaves[i].shape))
        return tuple(leaves)

    def step(self, leaves: Sequence[Array], x: Sequence[Array], params: Sequence[Array]) -> Tree:
        def one(leaves: Sequence[Array], params: Sequence[Array]) -> Array:
            return self.guarded.step(leaves, (), params)[0]

        axes = self._axes()[0]
        return self._mapped(one, axes)(list(leaves), list(params)), []

    def goes_on(self, leaves: Sequence[Array], params: Sequence[Array]) -> Bool:
        each = self.each_goes_on(leaves, params)
        return jnp.any(each) if self.steered else each

    def each_goes_on(self, leaves: Sequence[Array], params: Sequence[Array]) -> Bool:
        test = self._mapped(self.one.each_goes_on, 0 if self.steered else None)
        return test(list(leaves), list(params))

    def poison_param(self, ok: Bool, k: int, x: Array) -> Array:
        def one(ok: Bool, x: Array) -> Array:
            return self.one.poison_param(ok, k, x)

        if self.batched[k]:
            return jax.vmap(one, in_axes=(0 if self.steered else None, 0))(ok, x)
        return one(jnp.all(ok, axis=0) if self.steered else ok, x)


def _with(program: DifferentiableLoop, loop: LoopSpec) -> DifferentiableLoop:
    return DifferentiableLoop(loop, program.adjoint, throw=program.throw)


class LoopGradient(Differentiable):
    """A loop with its derivatives, batched over lanes."""

    program: DifferentiableLoop

    def primal(self) -> Function:
        program = self.program
        primal = one_kernel(program.primal, program.loop.small)
        if program.loop.count is not None:  # counted: nothing to steer
            return primal
        run = jax.custom_batching.custom_vmap(primal)

        @run.def_vmap
        def rule(size: int, batched: Axes, inputs: Inputs) -> Tree:
            lanes = Lanes(program.loop, size, batched[0].params)
            out = LoopGradient(_with(program, lanes)).primal()(inputs)
            return out, _result_axes(lanes, out)

        return run

    def batching(self, run: Function, wanted: NeedsGradient) -> Function:
        program = self.program
        run = one_kernel(run, program.loop.small)
        if program.loop.count is not None:
            return run
        fn = jax.custom_batching.custom_vmap(run)

        @fn.def_vmap
        def rule(size: int, batched: Axes, inputs: Inputs) -> Tree:
            lanes = Lanes(program.loop, size, batched[0].params)
            leaves, aux, arrays = LoopGradient(_with(program, lanes)).forward(wanted)(inputs)
            axes = _kept_axes(lanes, arrays)
            arrays = [jnp.moveaxis(x, 1, 0) if a == 1 else x
                      for x, a in zip(arrays, axes, strict=True)]  # fmt: skip
            flags = *_result_axes(lanes, (leaves, aux)), [a is not None for a in axes]
            return (leaves, aux, arrays), flags

        return fn

    def tangent(self, *arguments: Array) -> Tangent:
        return _LoopTangent(*arguments)


def _result_axes(lanes: Lanes, out: Tree) -> Tree:
    """Which parts of a primal's result have lanes."""
    _, (rest, _, _) = out
    floating = set(lanes.floating)
    others = tuple(f for i, f in enumerate(lanes.flags) if i not in floating)
    assert len(others) == len(rest)
    bounded = lanes.max_steps is not None
    return tuple(lanes.flags[i] for i in lanes.floating), (
        others, False, lanes.steered and bounded)  # fmt: skip


def _kept_axes(lanes: Lanes, arrays: Sequence[Array]) -> list[Array]:
    """The axis of lanes of what a forward keeps: buffers, positions, count, verdict."""
    axes: list[Array] = [1 if lanes.flags[i] else None for i in lanes.moving]
    axes += [None] * (len(arrays) - len(axes))
    if lanes.max_steps is not None and lanes.steered:
        axes[-1] = 0
    return axes


class _LoopTangent(Tangent):
    """Tangents of a loop's result; the reverse pass of a batch of loops is one of lanes."""

    program: DifferentiableLoop

    def batching(self, pull: Function) -> Function:
        pull = one_kernel(pull, self.program.loop.small)
        if self.program.loop.count is not None:
            return pull
        fn = jax.custom_batching.custom_vmap(pull)

        @fn.def_vmap
        def rule(size: int, batched: Axes, *arguments: Array) -> Tree:
            # each lane by itself, for as many steps as the longest takes
            one = guarded(self.program.loop, batched[0].params)
            again = self._of(_with(self.program, one))
            axes = jax.tree_util.tree_map(lambda b: 0 if b else None, tuple(batched))
            out = jax.vmap(again.plain_pull, in_axes=axes, axis_size=size)(*arguments)
            return out, tuple(True for _ in out)

        return fn

    def _of(self, program: DifferentiableLoop) -> _LoopTangent:
        return _LoopTangent(program, (self.structure, self.rest), self.where, self.wanted)

    def over_lanes(
        self, size: int, constants: Sequence[Array], tangents: Sequence[Array]
    ) -> Function | None:
        """Cotangents of what all lanes share are summed where they arise, not lane by lane."""
        if self.program.loop.count is not None:
            return None
        inputs, _ = jax.tree_util.tree_unflatten(self.structure, [x is not None for x in constants])
        flat = jax.tree_util.tree_leaves(inputs)
        pairs = list(zip(self.where, tangents, strict=True))
        if not any(flat) or any(a is not None and not flat[i] for i, a in pairs):
            return None
        lanes = Lanes(self.program.loop, size, inputs.params)

        def whole(constants: Sequence[Array], cotangents: Leaves) -> Leaves:
            inputs, arrays = jax.tree_util.tree_unflatten(self.structure, constants)
            axes = _kept_axes(lanes, arrays)
            arrays = [jnp.moveaxis(x, 0, 1) if a == 1 else x
                      for x, a in zip(arrays, axes, strict=True)]  # fmt: skip
            flags = [lanes.flags[i] for i in lanes.floating]
            cts = tuple(x if f else jnp.sum(x, axis=0)
                        for x, f in zip(cotangents, flags, strict=True))  # fmt: skip
            found = self._of(_with(self.program, lanes)).pull(inputs, arrays, cts)
            return tuple(jnp.sum(x, axis=0) if a is None and flat[i] else x
                         for x, (i, a) in zip(found, pairs, strict=True))  # fmt: skip

        return whole


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

    def array_bytes(self, x: Array) -> int:
        return int(math.prod(x.shape)) * int(x.dtype.itemsize)

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
        return sum(self.array_bytes(x) for x in jax.tree_util.tree_leaves(shapes)), ()

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
            call = self._compiled(program, "gradient", lambda: LoopGradient(program).solve)
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
