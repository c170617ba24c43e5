"""One loop as an adapter sees it: a function, with a forward and a reverse for its gradient.

What ``_api.solve_program`` is for a solver's step, for a body: the same loops and the same reversal
(``_checkpointing``), with the vjp of the body from the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.retaken import TooManySteps
from .._backend.protocols import Capability
from .._base.types import (
    Array,
    Aux,
    Body,
    Bool,
    Buffer,
    Carry,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    Residuals,
    Scalar,
    State,
    Tree,
)
from .._checkpointing import Slots, Stored, checkpointed_for, checkpointed_while, reverse
from .body_vjp import BodyVJP
from .loop import LoopSpec

if TYPE_CHECKING:
    from .checkpoints import Adjoint

TABLES = 2**20
"""Steps that the tables of slots reach to where no bound is given; further on none is placed."""


LoopStep: TypeAlias = Callable[[Index, State], tuple[State, list[Array]]]
"""``step(i, state) -> (state, leaves of y)``."""


class DifferentiableLoop:
    """A loop as the adapters see it.

    Attributes
    ----------
    loop : LoopSpec
    adjoint : AbstractAdjoint
        RecursiveCheckpointAdjoint; DirectAdjoint where the library's autodiff follows the steps.
    fallback : AbstractAdjoint
        What takes over where a recorded integration finds no room (``TooManySteps``).
    throw : bool
        Whether a loop that ``max_steps`` ended has no gradient.
    """

    def __init__(
        self,
        loop: LoopSpec,
        adjoint: Adjoint,
        fallback: Adjoint | None = None,
        *,
        throw: bool = True,
    ) -> None:
        self.loop, self.adjoint, self.throw = loop, adjoint, throw
        self.fallback = fallback or adjoint
        self.stats: dict[str, Scalar] = {}

    @property
    def given(self) -> int:
        """How many parameters are arguments of the user's, not found in closures."""
        return self.loop.given

    def key(self) -> Hashable:
        """What a compiled form of this program depends on."""
        return "loop", self.loop.key(), self.adjoint, self.throw

    def forget(self) -> None:
        """Drop the arrays, once they are inputs of a program that outlives this call."""
        self.loop.forget()

    def failed(self, aux: Aux) -> bool:
        """Never: where the bound is a failure, an eager loop raises."""
        return False

    def tell(self, cotangents: Inputs) -> None:
        """A reverse pass of a loop has nothing to tell."""

    # --- what adapters call
    def primal(self, inputs: Inputs) -> tuple[Leaves, Aux]:
        """(floating leaves of the result, the other leaves with the count and the verdict)."""
        if self.adjoint.differentiable:
            return self._result(inputs, *self._followed(inputs))
        state, ys, n, _ = self._iterate(inputs, None)
        return self._result(inputs, state, ys, n)

    def forward(
        self, inputs: Inputs, wanted: NeedsGradient | None = None
    ) -> tuple[Leaves, Aux, Residuals]:
        """The same, and what the reverse needs."""
        slots = self.slots()
        state, ys, n, stored = self._iterate(inputs, slots)
        assert stored is not None
        if self._constant(slots):
            stored, kept = stored._replace(positions=()), ()
        else:
            kept = n
        leaves, aux = self._result(inputs, state, ys, n)
        return leaves, aux, [stored, kept, aux[-1]]

    def reverse(
        self, inputs: Inputs, residuals: Residuals, cotangents: Leaves, wanted: NeedsGradient
    ) -> Inputs:
        """Cotangents of the parameters."""
        bk, slots = self.loop.bk, self.slots()
        stored, n, ok = residuals
        if stored is None:  # a second pull: the first one used the slots up
            stored, n, ok = self.forward(inputs)[2]
        if not slots.everything and bk.slots_by_reference:
            residuals[0] = None
        if self._constant(slots):
            assert isinstance(self.adjoint, RecursiveCheckpointAdjoint)
            n = self.loop.count or 0
            stored = slots.refilled(bk, stored, self.adjoint.placed(n))
        pull = BodyVJP(self.loop, inputs.params, wanted, cotangents)
        leaf = None if pull.traced else pull.pull_range
        step = pull.advance, pull.pull
        end = reverse(bk, slots, stored, n, step, pull.start(), self.loop.layout, leaf=leaf)
        return Inputs((), pull.finish(end, ok if self.throw else True), None, None, ())

    def jvp_path(self, forward: bool) -> Callable[[Inputs], Leaves]:
        """Floating leaves of the result by operations that autodiff follows.

        ``forward``: forward mode alone, which follows the integration as it is.
        """
        if forward:
            return lambda inputs: self._result(inputs, *self._iterate(inputs, None)[:3])[0]
        return lambda inputs: self._result(inputs, *self._followed(inputs))[0]

    # --- integrations
    def slots(self) -> Slots:
        """Where states are stored."""
        loop, adjoint, bound = self.loop, self.adjoint, self.loop.max_steps
        assert isinstance(adjoint, RecursiveCheckpointAdjoint)
        if bound is None and loop.count is None and Capability.TRACED in loop.bk.capabilities:
            bound = TABLES  # no bound of the loop: rows for every step would not hold them all
            adjoint = replace(adjoint, checkpoints=min(adjoint.checkpoints or bound, bound - 1))
        return adjoint.schedule(loop.bk, loop.count, bound)

    def _constant(self, slots: Slots) -> bool:
        """Whether the positions of the rows are known to the host, and no part of the residuals."""
        return slots.length is not None and Capability.TRACED in self.loop.bk.capabilities

    def _stepper(self, inputs: Inputs) -> LoopStep:
        """``step(i, state) -> (state, leaves of y)``."""
        loop, params, bk = self.loop, inputs.params, self.loop.bk
        rows, traced = loop.rows(params), Capability.TRACED in bk.capabilities

        def step(i: Index, state: State) -> tuple[State, list[Array]]:
            leaves = loop.carry(state, params)
            x = [bk.row(x, loop.place(i)) for x in rows] if rows else ()
            if traced:
                new, ys = loop.step(leaves, x, params)
            else:
                new, ys = self._checked(leaves, x)
            return loop.state(new), ys

        return step

    def _checked(
        self, leaves: Sequence[Tree], x: Sequence[Array]
    ) -> tuple[list[Tree], list[Array]]:
        """One step of an eager body, which must not change what it is given."""
        loop, bk = self.loop, self.loop.bk
        lent, x = bk.lent(leaves), bk.lent(x)
        first = not loop.checked
        seen = first or bk.counts_changes
        watch = bk.watch((*lent, *x), "`body` changed its argument") if seen else None
        new, ys = loop.raw(lent, x)
        loop.check(leaves, new)
        pairs = zip(new, leaves, lent, strict=True)
        new = [old if got is given else got for got, old, given in pairs]
        if first:
            loop.checked, loop.ys_like = True, ys
        if watch is not None:
            watch()
        return new, ys

    def _start(self, inputs: Inputs) -> State:
        return self.loop.state(self.loop.initial(inputs.params))

    def _iterate(
        self, inputs: Inputs, slots: Slots | None
    ) -> tuple[State, list[Array], Index, Stored | None]:
        """(state, leaves of ys, number of steps, what was stored)."""
        loop, bk, step = self.loop, self.loop.bk, self._stepper(inputs)
        start = self._start(inputs)
        if loop.count is not None:
            stack = bk.new_stack(loop.count, loop.ys_like)

            def body(i: Index, s: Carry) -> Carry:
                state, ys = step(i, s[0])
                return state, bk.put(s[1], loop.place(i), ys)

            first: Body = lambda s: s[0]  # noqa: E731
            (state, stack), stored = checkpointed_for(
                bk, loop.count, (start, stack), body, first, slots, loop.layout
            )
            return state, self._rows(inputs, stack), loop.count, stored
        params, limit = inputs.params, loop.max_steps

        def running(s: Carry) -> Bool:
            on = loop.goes_on(loop.carry(s[1], params), params)
            return on if limit is None else bk.both(s[0] < limit, on)

        def once(s: Carry) -> Carry:
            return s[0] + 1, step(s[0], s[1])[0]

        begin = (bk.index(0), start)
        (n, state), stored = checkpointed_while(
            bk, begin, once, running, lambda s: s, slots, loop.layout
        )
        return state, [], n, stored

    def _followed(self, inputs: Inputs) -> tuple[State, list[Array], Index]:
        """(state, leaves of ys, number of steps), by operations that autodiff follows."""
        loop, bk, step = self.loop, self.loop.bk, self._limited(self._stepper(inputs))
        start, params = self._start(inputs), inputs.params
        if loop.count is not None:
            state, rows = bk.followed_scan(step, start, loop.count, loop.reverse)
            return state, rows if loop.count else self._rows(inputs, None), loop.count

        def running(s: Carry) -> Bool:
            return loop.goes_on(loop.carry(s[1], params), params)

        def once(s: Carry) -> Carry:
            return s[0] + 1, step(s[0], s[1])[0]

        n, state = bk.bounded_loop(running, once, (bk.index(0), start), loop.max_steps)
        return state, [], n

    def _limited(self, step: LoopStep) -> LoopStep:
        """The same, which gives up after the steps that there is room to record."""
        limit = getattr(self.adjoint, "limit", None)
        if limit is None:
            return step

        def limited(i: Index, state: State) -> tuple[State, list[Array]]:
            if i >= limit:
                raise TooManySteps
            return step(i, state)

        return limited

    # --- results
    def _rows(self, inputs: Inputs, stack: Buffer) -> list[Array]:
        loop, bk = self.loop, self.loop.bk
        if not loop.scans:
            return []
        if loop.ys_like is None:  # a scan of no steps: what y would be
            leaves = loop.bk.lent(loop.initial(inputs.params))
            loop.ys_like = loop.step(leaves, loop.single, inputs.params)[1]
            stack = bk.new_stack(0, loop.ys_like)
        return bk.stacked(stack, loop.ys_like)

    def _result(
        self, inputs: Inputs, state: State, ys: Sequence[Array], n: Index
    ) -> tuple[Leaves, Aux]:
        """Floating leaves of carry and ys; the others, the number of steps, whether it ended."""
        loop, params = self.loop, inputs.params
        leaves = loop.carry(state, params)
        ok = self._finished(leaves, inputs, n)
        floats = [leaves[i] for i in loop.floating]
        floats += [y for y in ys if loop.bk.floating(y)]
        inexact = set(loop.floating)
        rest = [x for i, x in enumerate(leaves) if i not in inexact]
        rest += [y for y in ys if not loop.bk.floating(y)]
        return tuple(floats), (tuple(rest), n, ok)

    def _finished(self, leaves: Sequence[Tree], inputs: Inputs, n: Index) -> Bool:
        """Whether cond ended the loop; True where nothing else can."""
        loop = self.loop
        if loop.count is not None or loop.max_steps is None:
            return True
        return loop.bk.negated(loop.test(leaves, inputs.params))

    def joined(self, floats: Sequence[Array], rest: Sequence[Array]) -> tuple[Tree, Tree]:
        """The trees (carry, ys) of a result's leaves."""
        loop, bk = self.loop, self.loop.bk
        floating = set(loop.floating)
        a, b = iter(floats), iter(rest)
        leaves = [next(a) if i in floating else next(b) for i in range(len(loop.template))]
        carry = bk.unflatten(loop.treedef, leaves)
        if not loop.scans:
            return carry, None
        like = loop.ys_like or []
        ys = [next(a) if bk.floating(y) else next(b) for y in like]
        return carry, bk.unflatten(loop.ys_treedef, ys)
