"""JAX: solves and loops under ``vmap`` whose lanes take steps of their own.

Under ``vmap`` JAX makes the body of a loop whose predicate differs between lanes a choice over all
that it carries: in a gradient, over buffers of ``max_steps`` rows, each try. So a rule puts another
program in place of the single solve's, one that is told that it is a lane (``Integrator.masked``):
its predicate is one for all lanes (``most``), what a lane that has ended keeps is chosen number by
number, and its rows go by the try, a count that all lanes share.

Between forward and reverse a lane keeps nothing: the arrays that the single solve keeps have its
shapes, and the reverse solves again. They are filled with nan here, which nobody reads.

Large batches are taken in parts, one after the other: what the lanes of a part store stays in the
cache of a CPU, and within a budget that was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from retrograde._adjoints import RecursiveCheckpointAdjoint, TapeAdjoint
from retrograde._adjoints.replay_with_controller import ClockedStates
from retrograde._api.solve_program import DifferentiableSolve
from retrograde._base.types import Array, Function, Inputs, Leaves, NeedsGradient, Tree
from retrograde._planner.plan import Plan
from retrograde._planner.shape import RECORD, UNLIMITED

from .derivatives import Batched, Differentiable, Tangent, derived_from
from .types import Axes, Ref
from .xla_cpu.eligible import platforms_of
from .xla_cpu.kernel import as_batched

if TYPE_CHECKING:
    from retrograde._backend.protocols import Program

MOST_ROWS = 64
"""Rows of a lane: twice as many, or half, change the time of 100 to 550 tries by an eighth."""

CACHE = 2**22
"""Bytes of rows and cotangents that a core of a CPU has at hand."""


def with_gradient(program: DifferentiableSolve, room: int) -> Callable[[Inputs], Tree]:
    """The program as a function with derivatives and a batching rule of its own.

    ``room``: bytes for what the lanes of a batch store at one time.
    """
    loop, adjoint = program.loop, program.adjoint
    exact = isinstance(adjoint, RecursiveCheckpointAdjoint | TapeAdjoint)
    # lanes with events are batched by JAX's own rules: their hits are no rows by the try
    steered = loop.count is None and loop.max_steps is not None and loop.events is None
    if exact and steered:
        return BatchedProgram(program, SolveLanes(program, room)).solve
    return Differentiable(program).solve


def room_for_lanes(program: Program) -> int:
    """Bytes for what the lanes of a batch store at one time: the budget, and on a CPU its cache.

    A power of two: programs are kept by it, and free memory differs from call to call. A batch that
    may lie on several devices is split for a budget alone.
    """
    plan = getattr(program, "plan", None)  # a loop has none
    budget = UNLIMITED if plan is None else plan.budget
    room = 1 << max(0, budget.bit_length() - 1)
    one_core = platforms_of(()) == ("cpu",) and jax.device_count() == 1
    return min(room, CACHE) if one_core else room


class BatchedProgram(Differentiable):
    """A solve (or loop) whose number of steps differs between the lanes of a batch."""

    def __init__(self, program: Program, lanes: Lanes) -> None:
        self.lanes = lanes
        super().__init__(program)

    def primal(self) -> Callable[[Inputs], Tree]:
        return self.lanes.under_vmap(super().primal(), self.lanes.primal)

    def batching(self, run: Function, wanted: NeedsGradient) -> Callable[[Inputs], Tree]:
        return self.lanes.under_vmap(super().batching(run, wanted), self.lanes.primal)

    def tangent(self, *arguments: Array) -> Tangent:
        return BatchedTangent(self.lanes, *arguments)


class BatchedTangent(Tangent):
    """Tangents of such a program; in a batch, its reverse pass is one of lanes."""

    def __init__(self, lanes: Lanes, *arguments: Array) -> None:
        self.lanes = lanes
        super().__init__(*arguments)

    def batching(self, pull: Any) -> Function:
        one = super().batching(pull)
        run = self.lanes.under_vmap(lambda *x: (one(*x),), lambda *x: (self.of_lane(*x),))
        return lambda *arguments: run(*arguments)[0]

    def of_lane(self, inputs: Inputs, arrays: Sequence[Array], cotangents: Leaves) -> Leaves:
        """The reverse pass of a lane, which begins with its solve."""
        with as_batched():
            cache = self.lanes.residuals(inputs)
            return self.pulled(self.lanes.program, inputs, cache, cotangents)

    def over_lanes(
        self, size: int, constants: Sequence[Array], tangents: Sequence[Array]
    ) -> Function | None:
        """Cotangents of what all lanes share are summed part by part."""
        flags = [x is not None for x in constants]
        inputs, arrays = jax.tree_util.tree_unflatten(self.structure, flags)
        if not self.lanes.steered(inputs):
            return None
        shared = [axis is None for axis in tangents]

        def whole(constants: Sequence[Array], cotangents: Leaves) -> Leaves:
            given = (*jax.tree_util.tree_unflatten(self.structure, constants), cotangents)
            batched = inputs, arrays, _all(True, cotangents)
            return self.lanes.mapped(self.of_lane, size, batched, given, shared)  # type: ignore[no-any-return]

        return derived_from(Batched(self, size, constants, tangents).lane_by_lane, whole)


class Lanes(ABC):
    """The lanes of a batch of one program.

    Attributes
    ----------
    program : DifferentiableSolve or DifferentiableLoop
        Of a lane.
    at_once : int
        Lanes that there is room for at one time.
    """

    program: Program
    at_once: int

    @abstractmethod
    def steered(self, batched: Inputs) -> bool:
        """Whether lanes that differ in these inputs may differ in their number of steps."""

    @abstractmethod
    def residuals(self, inputs: Inputs) -> Tree:
        """What a lane's reverse pass needs of its forward pass."""

    def marked(self, out: Tree) -> Tree:
        """What a batch gives whose lanes take the same steps, and which arrays of it have lanes."""
        return out, _all(True, out)

    def primal(self, inputs: Inputs) -> Tree:
        """The program of a lane."""
        with as_batched():
            return self.program.primal(inputs)

    def under_vmap(self, one: Function, lane: Function) -> Function:
        """``one``, in whose place ``lane`` is mapped where inputs differ.

        Both give tuples. What ``one`` keeps for a reverse, behind the second entry, is nan of a
        lane.
        """
        kept: list[Array] = []

        def traced(*arguments: Array) -> Tree:
            out = one(*arguments)
            kept[:] = [jax.tree_util.tree_map(jax.typeof, x) for x in out[2:]]  # no tracers
            return out

        run = jax.custom_batching.custom_vmap(traced)

        @run.def_vmap
        def rule(size: int, batched: Axes, *arguments: Array) -> Tree:
            if not self.steered(batched[0]):
                axes = jax.tree_util.tree_map(lambda b: 0 if b else None, tuple(batched))
                mapped = [jax.vmap(fn, in_axes=axes, axis_size=size) for fn in (one, lane)]
                return self.marked(self.under_vmap(*mapped)(*arguments))
            out = self.mapped(lane, size, batched, arguments)
            unread = jax.tree_util.tree_map(_unread, tuple(kept))
            flags = _all(True, out), _all(False, unread)
            return (*out, *unread), (*flags[0], *flags[1])

        return run

    # --- parts of a batch
    def mapped(
        self,
        lane: Function,
        size: int,
        batched: Axes,
        arguments: Any,
        shared: Sequence[bool] = (),
    ) -> Tree:
        """``lane`` of all lanes, of as many at once as there is room for.

        Of the results that are ``shared``, the sum over all lanes.
        """
        leaves, structure = jax.tree_util.tree_flatten(tuple(arguments))
        flags = jax.tree_util.tree_leaves(tuple(batched))
        moving = [x for x, f in zip(leaves, flags, strict=True) if f]

        def some(moving: Sequence[Array], real: Any) -> Tree:
            rest = iter(moving)
            given = [next(rest) if f else x for x, f in zip(leaves, flags, strict=True)]
            axes = [0 if f else None for f in flags]

            def run(*leaves: Array) -> Tree:
                return lane(*jax.tree_util.tree_unflatten(structure, leaves))

            out = jax.vmap(run, in_axes=axes)(*given)
            if not any(shared):
                return out
            return tuple(_total(x, real) if s else x for x, s in zip(out, shared, strict=True))

        parts = -(-size // self.at_once)
        if parts == 1:
            return some(moving, None)
        width = -(-size // parts)
        numbers = jnp.arange(parts * width)
        moving = [_in_parts(x, parts, width) for x in moving]
        real = (numbers < size).reshape(parts, width)
        out = jax.lax.map(lambda x: some(*x), (moving, real))

        def flat(x: Array) -> Array:
            return x.reshape(-1, *x.shape[2:])[:size]

        if not any(shared):
            return jax.tree_util.tree_map(flat, out)
        pairs = zip(out, shared, strict=True)
        return tuple(jnp.sum(x, axis=0) if s else flat(x) for x, s in pairs)


class SolveLanes(Lanes):
    """The lanes of a batch of one solve.

    Parameters
    ----------
    program : DifferentiableSolve
        Of the single solve.
    room : int [bytes]
        For what is stored of all lanes at one time.
    """

    program: DifferentiableSolve

    def __init__(self, program: DifferentiableSolve, room: int) -> None:
        given: Ref = program.adjoint
        rows = min(getattr(given, "checkpoints", None) or MOST_ROWS, MOST_ROWS)
        one_tape = getattr(given, "one_tape", False)
        adjoint = RecursiveCheckpointAdjoint(rows, one_tape=one_tape, record=False)
        self.program = DifferentiableSolve(program.loop.in_batch(saves=True), adjoint)
        self.at_once = max(1, room // self._bytes(program.plan, rows))

    def _bytes(self, plan: Plan | None, rows: int) -> int:
        """What a lane takes: its rows, and what every gradient needs."""
        loop = self.program.loop
        row = int(loop.carried.nbytes)
        if loop.adaptive:
            clock = ClockedStates(loop).shapes[-1][0]
            row += clock * int(loop.bk.itemsize(loop.carried.dtype))
        items = {} if plan is None else plan.items
        return rows * row + sum(size for name, size in items.items() if name != RECORD)

    def steered(self, batched: Inputs) -> bool:
        if not self.program.loop.adaptive:
            batched = Inputs((), (), batched.t0, batched.t1, (), batched.settings)
        return any(jax.tree_util.tree_leaves(batched))

    def residuals(self, inputs: Inputs) -> Tree:
        loop = self.program.loop.in_batch(saves=False).silent().placed(inputs)
        return self.program.adjoint.forward(loop, inputs)[1]


def _all(flag: bool, tree: Tree) -> Tree:
    """The flag in the place of each leaf."""
    return jax.tree_util.tree_map(lambda _: flag, tree)


def _unread(x: Array) -> Array:
    """What stands in the place of what a single solve keeps: wrong wherever it is used."""
    fill = jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0
    return jnp.full(x.shape, fill, x.dtype)


def _total(x: Array, real: Any) -> Array:
    """The sum over lanes, without those that fill a part up."""
    if real is not None:
        x = jnp.where(real.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))
    return jnp.sum(x, axis=0)


def _in_parts(x: Array, parts: int, width: int) -> Array:
    """Lanes in parts of equal width; the first fill the last one up."""
    x = jnp.concatenate([x, x[: parts * width - x.shape[0]]])
    return x.reshape(parts, width, *x.shape[1:])
