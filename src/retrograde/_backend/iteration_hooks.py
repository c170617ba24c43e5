"""The backend interface: loops over bodies of the user's (``while_loop``, ``scan``).

Each hook with what it promises and its generic form, as in ``array_hooks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .array_hooks import ArrayHooks
from .storage import Stack, device_of, same_row

if TYPE_CHECKING:
    from .._base.types import (
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
        Tree,
    )  # fmt: skip
    from .._loops.loop import LoopSpec
    from .._loops.loop_program import DifferentiableLoop
    from .protocols import FieldVJP


class IterationHooks(ArrayHooks):
    """Hooks for loops over bodies of the user's."""

    def carry_leaves(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        """Leaves of a carry as the loops take them: arrays, and what else the library's can."""
        return leaves

    def row_like(self, x: Array) -> Array:
        """Something of the shape and dtype of a row."""
        return self.xp.zeros(x.shape[1:], dtype=x.dtype, device=device_of(x))

    def row(self, x: Array, i: Index) -> Array:
        """Row i of an array."""
        return x[i, ...]

    def new_stack(self, rows: int, like: Sequence[Array] | None) -> Buffer:
        """Room for rows of leaves, each to be written once; ``like`` may be unknown if eager."""
        return Stack(self.xp, rows)

    def put(self, stack: Buffer, i: Index, leaves: Sequence[Array]) -> Buffer:
        """The stack with row i written, in O(row)."""
        stack.put(i, leaves)
        return stack

    def stacked(self, stack: Buffer, like: Sequence[Array]) -> list[Array]:
        """A stack's arrays, zeros where nothing was written."""
        if stack.leaves is not None:
            return list(stack.leaves)
        zeros, rows = self.xp.zeros, stack.rows
        return [zeros((rows, *x.shape), dtype=x.dtype, device=device_of(x)) for x in like]

    def predicate(self, x: Array) -> Bool:
        """A 0-d boolean array as ``while_loop`` takes it; InputError if it is none."""
        return bool(x)

    def negated(self, ok: Bool) -> Bool:
        """Logical not of a predicate."""
        return not ok

    def capture_loop(self, loop: LoopSpec) -> None:
        """Find what body and cond close over (``loop.hoisted``), as far as it has gradients."""

    def followed_scan(
        self, step: Function, state: Carry, count: int, reverse: bool
    ) -> tuple[Carry, list[Array]]:
        """(state, stacked leaves of y) after ``step(i, state) -> (state, leaves)``, by autodiff's
        own operations; ``reverse``: the rows stand in reverse."""
        rows: list[Sequence[Array]] = []
        for i in range(count):
            state, ys = step(i, state)
            for x, first in zip(ys, rows[0] if rows else ys, strict=True):
                same_row(first, x)
            rows.append(ys)
        if reverse:
            rows.reverse()
        return state, [self.xp.stack(leaf) for leaf in zip(*rows, strict=True)]

    def bounded_loop(self, running: Condition, body: Body, s: Carry, bound: int | None) -> Carry:
        """At most ``bound`` steps of ``while running(s): s = body(s)``; ``s[0]`` counts them.
        Differentiable in every mode by the library's autodiff."""
        while (bound is None or s[0] < bound) and running(s):
            s = body(s)
        return s

    def body_tape_bytes(
        self, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        """Bytes that one linearisation of a body keeps, and which of the first leaves it hands
        on in the same memory (as far as the slots of this library gain by it)."""
        out, pull = vjp(span, tuple(leaves))
        tape = getattr(pull, "tape", None)
        same = [new is old for new, old in zip(out, leaves, strict=False)]
        return 0 if tape is None else int(tape.nbytes), same

    def table_entries(
        self, loop: LoopSpec, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> int:
        """Bytes of a slot in the tables of a compiled reversal of this loop."""
        return 0

    def differentiate_loop(
        self, program: DifferentiableLoop, inputs: Inputs, kind: str
    ) -> tuple[Leaves, Aux]:
        """Run a loop so that the library's own gradients go through it."""
        return program.primal(inputs)

    def detach_loop(self, loop: LoopSpec, inputs: Inputs) -> Inputs:
        """The inputs for ``loop_vjp``: no part of the library's own graph."""
        return inputs

    def tracked_leaves(self, loop: LoopSpec, params: Sequence[Array]) -> Sequence[bool]:
        """Of which parameters a gradient may be asked for."""
        return [False] * len(params)

    def reached(
        self, loop: LoopSpec, wanted: Sequence[bool]
    ) -> tuple[Sequence[bool], Sequence[bool]]:
        """Which leaves of the carry, and of y, may depend on the wanted parameters.

        The pull of a step differentiates no others: a body may do with them what has no
        derivative.
        """
        return [True] * len(loop.template), [True] * len(loop.ys_like or ())
