"""Going forward while storing states where a schedule says.

The outer loop runs over placements, not over steps: write a row, then step on to the next
placement. So the inner loop has no compare with a schedule, no gather and no conditional
write; a known length (binomial positions) and an unknown one (event table) are the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .._base.types import (
    Body,
    Bool,
    Buffer,
    Carry,
    Condition,
    CountedBody,
    Index,
    State,
    Table,
)

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Clock, Shapes

FAR = 2**30
"""A position beyond every step: the sentinel of tables, the position of an empty row."""


class Slots(NamedTuple):
    """Where states go.

    Attributes
    ----------
    rows : int or None
        Rows of the buffer; None stores every state in a buffer that grows.
    index, row : table of int or None
        Step index and row of the e-th placement, ascending, ``FAR`` behind the last; None: the
        state before step i goes to row i.
    window : int
        States of one leaf of the reversal.
    length : int or None
        Number of steps if the host knows it.
    segments : bool
        Placements are at most ``window`` steps apart, so that the reversal needs no bookkeeping.
    """

    rows: int | None
    index: Table
    row: Table
    window: int
    length: int | None
    segments: bool = False

    @property
    def everything(self) -> bool:
        """Whether every state is stored."""
        return self.index is None

    def new_buffer(self, bk: AbstractBackend, layout: Shapes) -> Buffer:
        """Room for the rows; a scratch row where the reversal moves states."""
        return bk.new_buffer(self.rows, layout, scratch=not (self.everything or self.segments))

    def refilled(self, bk: AbstractBackend, stored: Stored, placed: tuple[int, ...]) -> Stored:
        """``stored`` with the positions of its rows, where the host knows the steps ``placed``."""
        if self.everything:
            return stored
        assert self.rows is not None
        empty = [FAR] * (self.rows + 1 - len(placed))
        return stored._replace(positions=bk.ints((*placed, *empty)))


class Stored(NamedTuple):
    """A buffer of states and the step index of each row (None where row i is step i)."""

    buffer: Buffer
    positions: Table


def while_any(
    bk: AbstractBackend,
    masked: bool,
    cond: Condition,
    body: Callable[[Carry, Bool], Carry],
    s: Carry,
) -> Carry:
    """``while cond(s): s = body(s, True)``; masked, while cond holds for any sample of a batch.

    ``body(s, on)`` is to change nothing of a sample that is not ``on``. So a library that maps the
    loop over samples has one predicate for all, and no buffer of theirs to choose from.
    """
    if not masked:
        return bk.while_loop(cond, lambda s: body(s, True), s)
    return bk.while_loop(lambda s: bk.most(cond(s)), lambda s: body(s, cond(s)), s)


def write_where(
    bk: AbstractBackend, clock: Clock, on: Bool, place: tuple[Buffer, Index], row: State
) -> Buffer:
    """A buffer with its row i, ``place`` the two, written where ``on``."""
    buffer, i = place
    if on is not True:
        row = clock.select(on, row, bk.read(buffer, i))
    return bk.write(buffer, i, row)


def checkpointed_while(
    bk: AbstractBackend,
    s: Carry,
    body: Body,
    running: Condition,
    view: Callable[[Carry], tuple[Index, State]],
    slots: Slots | None,
    layout: Shapes,
) -> tuple[Carry, Stored | None]:
    """``while running(s): s = body(s)``, storing states on the way.

    ``view(s)`` gives (step index, state); a body may leave the index as it was (a rejected
    step), rows are then written again with the same state.
    """
    if slots is None:
        return bk.while_loop(running, body, s), None
    buffer = slots.new_buffer(bk, layout)
    if slots.everything:

        def keep(z: Carry) -> Carry:
            i, y = view(z[0])
            return body(z[0]), bk.write(z[1], i, y)

        s, buffer = bk.while_loop(lambda z: running(z[0]), keep, (s, buffer))
        return s, Stored(buffer, None)

    def placement(z: Carry) -> Carry:
        s, e, buffer, positions = z
        i, y = view(s)
        row = bk.table_get(slots.row, e)
        buffer, positions = bk.write(buffer, row, y), bk.table_set(positions, row, i)
        limit = bk.table_get(slots.index, e + 1)
        s = bk.while_loop(lambda s: bk.both(running(s), view(s)[0] < limit), body, s)
        return s, e + 1, buffer, positions

    assert slots.rows is not None
    start = (s, bk.index(0), buffer, bk.new_positions(slots.rows))
    s, _, buffer, positions = bk.while_loop(lambda z: running(z[0]), placement, start)
    return s, Stored(buffer, positions)


def checkpointed_for(
    bk: AbstractBackend,
    n: Index,
    s: Carry,
    body: CountedBody,
    state: Callable[[Carry], State],
    slots: Slots | None,
    layout: Shapes,
) -> tuple[Carry, Stored | None]:
    """``for i in range(n): s = body(i, s)``, storing ``state(s)`` on the way."""
    if slots is None:
        return bk.for_loop(0, n, body, s), None
    buffer = slots.new_buffer(bk, layout)
    if slots.everything:

        def keep(i: Index, z: Carry) -> Carry:
            buffer = bk.write(z[1], i, state(z[0]))
            return body(i, z[0]), buffer

        s, buffer = bk.for_loop(0, n, keep, (s, buffer))
        return s, Stored(buffer, None)

    def placement(e: Index, z: Carry) -> Carry:
        s, buffer, positions = z
        low, row = bk.table_get(slots.index, e), bk.table_get(slots.row, e)
        buffer = bk.write(buffer, row, state(s))
        if not slots.segments:  # those are reversed by the index alone
            positions = bk.table_set(positions, row, low)
        high = bk.pick(bk.table_get(slots.index, e + 1) < n, bk.table_get(slots.index, e + 1), n)
        return bk.for_loop(low, high, body, s), buffer, positions

    assert slots.rows is not None
    positions = () if slots.segments else bk.new_positions(slots.rows)
    count = len(slots.index) - 1
    s, buffer, positions = bk.for_loop(0, count, placement, (s, buffer, positions))
    return s, Stored(buffer, positions)
