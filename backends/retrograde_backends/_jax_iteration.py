"""JAX: public loops. Bodies are traced once; what they close over becomes inputs of the program.

A carry leaf that the traced body hands on as it is (a loop invariant) is no part of the state.
The bounded loop is nested scans in chunks that grow by 16, skipped once the loop has ended: its
cost follows the steps taken, and derivatives of any order and mode go through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from retrograde._errors import InputError, UnsupportedByBackend
from retrograde._looping.pull import LoopPull, Span
from retrograde._types import Wanted

from ._jax_gate import fits, small, working_on
from ._jax_lanes import LoopGradient
from ._jax_loops import read_row, write_row
from ._jax_mesh import mesh_note, refuse_typed
from ._jax_reach import doubtful, reached, works

__all__ = ["IterationHooks"]

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

    _compiled: Any

    def carry_leaves(self, leaves: Sequence[Any]) -> list[Any]:
        return [jnp.asarray(x) for x in leaves]

    def array_bytes(self, x: Any) -> int:
        return int(math.prod(x.shape)) * int(x.dtype.itemsize)

    def row_like(self, x: Any) -> Any:
        return struct(x.shape[1:], x.dtype)

    def row(self, x: Any, i: Any) -> Any:
        return read_row(x, i)

    def new_stack(self, rows: int, like: Sequence[Any] | None) -> Any:
        return tuple(jnp.zeros((rows, *x.shape), x.dtype) for x in like or ())

    def put(self, stack: Any, i: Any, leaves: Sequence[Any]) -> Any:
        return tuple(write_row(x, i, row) for x, row in zip(stack, leaves, strict=True))

    def stacked(self, stack: Any, like: Sequence[Any]) -> list[Any]:
        return list(stack)

    def predicate(self, x: Any) -> Any:
        if x.dtype != jnp.bool_:
            raise InputError(f"`cond` returned {x.dtype}; return one bool.")
        return x

    def negated(self, ok: Any) -> Any:
        return jnp.logical_not(ok)

    # --- tracing
    def capture_loop(self, loop: Any) -> None:
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

        def call(captured: Any, leaves: Any, x: Any) -> tuple[list[Any], list[Any]]:
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

    def _trace(self, loop: Any) -> Any:
        count = len(loop.template)

        def flat(*arrays: Any) -> Any:
            new, ys = loop.raw(arrays[:count], arrays[count:])
            return [jnp.asarray(x) for x in new], [jnp.asarray(y) for y in ys]

        rows = [self.row_like(x) for x in loop.xs_leaves]
        leaves = [struct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))
                  for x in loop.template]  # fmt: skip
        return jax.make_jaxpr(flat, return_shape=True)(*leaves, *rows)

    def _condition(self, loop: Any) -> tuple[Any, list[Any]]:
        if loop.cond is None:
            return None, []

        def flat(*leaves: Any) -> Any:
            return loop.truth(loop.cond(jax.tree_util.tree_unflatten(loop.treedef, leaves)))

        closed = jax.make_jaxpr(flat)(*loop.template)
        loop.notes, loop.jaxprs = (*loop.notes, str(closed.jaxpr)), (closed.jaxpr,)

        def test(captured: Any, leaves: Any) -> Any:
            return jax.core.eval_jaxpr(closed.jaxpr, captured, *leaves)[0]

        return test, [jnp.asarray(x) for x in closed.consts]

    # --- loops that autodiff follows
    def followed_scan(
        self, step: Callable[..., Any], state: Any, count: int, reverse: bool
    ) -> tuple[Any, list[Any]]:
        def body(state: Any, i: Any) -> Any:
            return step(i, state)

        state, rows = jax.lax.scan(body, state, jnp.arange(count, dtype=jnp.int32))
        return state, [x[::-1] for x in rows] if reverse else list(rows)

    def bounded_loop(
        self, running: Callable[[Any], Any], body: Callable[[Any], Any], s: Any, bound: int | None
    ) -> Any:
        if bound is None:
            raise UnsupportedByBackend(
                "derivatives that follow the steps of a `while_loop` (kind='bounded'; of the other "
                "kinds those of derivatives) need a bound in JAX: pass `max_steps`."
            )

        def going(s: Any) -> Any:
            return jnp.logical_and(s[0] < bound, running(s))

        def times(count: int, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def maybe(s: Any, _: Any) -> Any:
                return jax.lax.cond(going(s), inner, lambda s: s, s), None

            return lambda s: jax.lax.scan(maybe, s, length=count)[0]

        def chunk(size: int) -> Callable[[Any], Any]:
            levels = 2 if size <= SHALLOW else 3
            width = next(w for w in range(1, size + 1) if w**levels >= size)
            inner = body
            for _ in range(levels):
                inner = jax.checkpoint(times(width, inner))
            return inner

        def rest(done: int, size: int) -> Callable[[Any], Any]:
            """The chunks from step ``done`` on, behind one predicate."""
            size = min(size, bound - done)
            inner = chunk(size)

            def run(s: Any) -> Any:
                s = inner(s)
                return s if done + size >= bound else rest(done + size, 16 * size)(s)

            return lambda s: jax.lax.cond(going(s), run, lambda s: s, s)

        return rest(0, FIRST)(s) if bound else s

    def body_tape_bytes(
        self, vjp: Any, span: Any, leaves: Sequence[Any]
    ) -> tuple[int, Sequence[bool]]:
        shapes = jax.eval_shape(lambda *x: vjp.linearise(*x)[1], span, tuple(leaves))
        return sum(self.array_bytes(x) for x in jax.tree_util.tree_leaves(shapes)), ()

    def table_entries(self, loop: Any, vjp: Any, span: Any, leaves: Sequence[Any]) -> int:
        def whole(*arrays: Any) -> Any:
            new, pull = vjp.linearise(*arrays)
            return pull(new)

        if loop.small:
            loop.small = fits(jax.make_jaxpr(whole)(span, tuple(leaves)).jaxpr)
        return WALKED if loop.small else SORTED

    # --- programs
    def differentiate_loop(self, program: Any, inputs: Any, kind: str) -> Any:
        if kind != "checkpointed":
            return self._compiled(program, ("loop", kind), lambda: program.primal)(inputs)
        return self._compiled(program, "gradient", lambda: LoopGradient(program).solve)(inputs)

    def tracked_leaves(self, loop: Any, params: Sequence[Any]) -> Sequence[bool]:
        """Tracers; where something has no derivative, of those that the body has one by."""
        found = [isinstance(x, jax.core.Tracer) and jnp.issubdtype(x.dtype, jnp.inexact)
                 for x in params]  # fmt: skip
        if not doubtful(loop.jaxprs[0]):
            return found

        def one(k: int) -> bool:
            wanted = Wanted(tuple(i == k for i in range(len(params))), False, False, False)
            leaves = loop.initial(params)
            pull = LoopPull(loop, params, wanted, [leaves[i] for i in loop.floating])
            fresh = [leaves[i] for i in pull.active] + [loop.single[j] for j in pull.moved]

            def pulled(span: Any, fresh: Any) -> Any:
                out, part = pull.vjp.linearise(span, fresh)
                return part(out)

            return works(pulled, Span(loop.state(leaves), [loop.single]), tuple(fresh))

        return [f and one(k) for k, f in enumerate(found)]

    def reached(self, loop: Any, wanted: Sequence[bool]) -> tuple[Sequence[bool], Sequence[bool]]:
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
