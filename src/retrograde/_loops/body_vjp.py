"""The pull of a step of a loop: the vjp of its body, with its rows of xs and ys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._autodiff.field_vjp import TapePullback
from .._backend.protocols import Capability
from .._base.types import (
    Array,
    Bool,
    Buffer,
    Function,
    Index,
    Leaves,
    NeedsGradient,
    ParamSums,
    State,
    Tree,
)
from .loop import LeafLayout, LoopSpec

if TYPE_CHECKING:
    from .._backend.protocols import FieldVJP


class PullCarry(NamedTuple):
    """What the reversal threads: cotangents of the state, of parameters, of the rows of xs."""

    g: tuple[Array, ...]
    acc: ParamSums
    rows: Buffer


class Span(NamedTuple):
    """Steps that are pulled at once, with what of their data is not differentiated."""

    state: Sequence[Tree]
    rows: Sequence[Sequence[Array]]


class BodyVJP:
    """Pulls steps of one loop back, for ``_checkpointing.reverse``.

    Parameters
    ----------
    loop : LoopSpec
    params : sequence of array
    wanted : NeedsGradient
    cotangents : sequence of array
        Of the floating leaves of the result: those of the carry, then those of ys.
    """

    def __init__(
        self,
        loop: LoopSpec,
        params: Sequence[Array],
        wanted: NeedsGradient,
        cotangents: Sequence[Array],
    ) -> None:
        self.loop, self.bk, self.params, self.wanted = loop, loop.bk, params, wanted.params
        self.traced = Capability.TRACED in self.bk.capabilities
        count = len(loop.floating)
        self.last = dict(zip(loop.floating, cotangents[:count], strict=True))
        first = len(loop.where)
        self.moved = tuple(k for k in range(loop.given - first) if wanted.params[first + k])
        """Leaves of xs whose cotangents are wanted."""
        leaves, rows = self.bk.reached(loop, wanted.params)
        self.active = tuple(i for i in loop.varying if leaves[i])
        """Leaves of the carry that depend on what is wanted."""
        like = loop.ys_like or ()
        floating = [k for k, y in enumerate(like) if self.bk.floating(y)]
        self.emitted = tuple(k for k in floating if rows[k])
        """Leaves of y that do."""
        self.ys = [ct for k, ct in zip(floating, cotangents[count:], strict=False) if rows[k]]
        self.hoisted = self._constants()
        bind, inner = self._bind, NeedsGradient(self.hoisted, False, False, False)
        layout = LeafLayout(self.bk, ())
        if Capability.AUTODIFF in self.bk.capabilities:
            self.vjp: FieldVJP = self.bk.pullback(layout, bind, params, inner)
        else:
            self.vjp = TapePullback(layout, bind, params, inner)

    def _constants(self) -> tuple[bool, ...]:
        """Parameters that the body sees as constants: invariants, and what it closes over."""
        loop = self.loop
        still = {k for k, i in enumerate(loop.where) if i in loop.still}
        return tuple(
            w and (k in still or loop.given <= k < loop.first_cond)
            for k, w in enumerate(self.wanted)
        )

    # --- the ends
    def start(self) -> PullCarry:
        """Cotangents behind the last step."""
        loop, bk = self.loop, self.bk
        rows = loop.rows(self.params)
        like = [bk.row_like(rows[k]) for k in self.moved]
        stack: Buffer = ()
        if self.moved:
            assert loop.count is not None
            stack = bk.new_stack(loop.count, like)
        return PullCarry(tuple(self.last[i] for i in self.active), self.vjp.zero(), stack)

    def finish(self, carry: PullCarry, ok: Bool) -> tuple[Array | None, ...]:
        """Cotangents of all parameters; None where none is wanted or there is none."""
        loop, bk = self.loop, self.bk
        out = list(self.vjp.finish(carry.acc))
        g = dict(zip(self.active, carry.g, strict=True))
        for k, i in enumerate(loop.where):
            if i in loop.still and i in self.last:
                out[k] = self.last[i] if out[k] is None else self.last[i] + out[k]
            elif i in g:
                out[k] = g[i]
        if self.moved:
            first, rows = len(loop.where), loop.rows(self.params)
            like = [bk.row_like(rows[k]) for k in self.moved]
            for k, x in zip(self.moved, bk.stacked(carry.rows, like), strict=True):
                out[first + k] = x
        for k in range(loop.first_cond, len(out)):  # what steers a loop has no gradient
            if self.wanted[k]:
                out[k] = bk.zeros_like(self.params[k])
        if isinstance(ok, bool):
            return tuple(out)
        return tuple(None if x is None else bk.nan_unless(ok, x) for x in out)

    # --- steps
    def advance(self, i: Index, state: State) -> State:
        """Replay step i."""
        loop, rows = self.loop, self.loop.rows(self.params)
        x = [self.bk.row(x, loop.place(i)) for x in rows] if rows else ()
        leaves = self.bk.lent(loop.carry(state, self.params))
        return loop.state(loop.step(leaves, self.bk.lent(x), self.params)[0])

    def pull(self, i: Index, state: State, carry: PullCarry) -> PullCarry:
        """Reverse step i from the state before it."""
        return self._pull(i, 1, state, carry)

    def pull_range(self, low: int, high: int, state: State, carry: PullCarry) -> PullCarry:
        """Reverse steps low..high-1 at once: the vjp of all of them, recorded as one."""
        return self._pull(low, high - low, state, carry)

    def _pull(self, low: Index, count: int, state: State, carry: PullCarry) -> PullCarry:
        loop, bk = self.loop, self.bk
        active = set(self.active)
        steps = [loop.place(low + k) for k in range(count)]
        data = loop.rows(self.params)
        rows = [[bk.row(x, place) for x in data] for place in steps]
        leaves = [x for i, x in zip(loop.moving, state, strict=True) if i in active]
        leaves += [row[k] for row in rows for k in self.moved]
        _, pull = self.vjp(Span(state, rows), tuple(leaves))
        cts = [*carry.g]
        cts += [bk.row(y, place) for place in steps for y in self.ys]
        mu, _, acc = pull(tuple(cts), carry.acc)
        g, stack, at = tuple(mu[: len(carry.g)]), carry.rows, len(carry.g)
        for place in steps if self.moved else ():
            stack = bk.put(stack, place, mu[at : at + len(self.moved)])
            at += len(self.moved)
        return PullCarry(g, acc, stack)

    def _bind(self, params: Sequence[Array]) -> Function:
        """The steps of a span as a function of what is differentiated."""
        loop, moved, emitted = self.loop, self.moved, self.emitted
        active = set(self.active)

        def field(span: Span, leaves: Sequence[Array]) -> Leaves:
            fresh = iter(leaves)
            state: Sequence[Tree] = tuple(
                next(fresh) if i in active else x
                for i, x in zip(loop.moving, span.state, strict=True)
            )
            out: list[Array] = []
            for row in span.rows:
                x = list(row)
                for k in moved:
                    x[k] = next(fresh)
                new, ys = loop.step(loop.carry(state, params), x, params)
                state = loop.state(new)
                out += [ys[k] for k in emitted]
            return (*(x for i, x in zip(loop.moving, state, strict=True) if i in active), *out)

        return field
