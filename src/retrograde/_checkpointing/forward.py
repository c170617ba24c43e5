"""Going forward while storing states where a schedule says.

The outer loop runs over placements, not over steps: write a row, then step on to the next
placement. So the inner loop has no compare with a schedule, no gather and no conditional
write; a known length (binomial positions) and an unknown one (event table) are the same code.

The adaptive integration where times are Python floats: one ``while`` over local variables.

The same tries, decisions and rows as the conditional integration that ``_integrate.integrator``
hands to ``checkpointed_while``, bit for bit (a test holds them to each other); what it saves are
the calls between them. For eager libraries whose steps are cheap, those cost as much as the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .._base.types import (
    TINY,
    Body,
    Bool,
    Buffer,
    Carry,
    Condition,
    CountedBody,
    Function,
    Index,
    State,
    Table,
)
from .patience import Patience

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Clock, Shapes

__all__ = [
    "FAR",
    "Slots",
    "Stored",
    "Tries",
    "checkpointed_for",
    "checkpointed_while",
    "host_while",
    "while_any",
    "write_where",
]


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


Adapt = Callable[[float, float, tuple[float, ...]], tuple[bool, float, tuple[float, ...]]]


class Tries(NamedTuple):
    """What an integration is made of.

    Attributes
    ----------
    attempt : callable
        ``attempt(t, h, y, state, error=True) -> Step``.
    adapt : callable
        ``adapt(error2, h, memory) -> (accepted, next h, memory)``.
    note : callable or None
        ``note(times, n, t_new, True) -> times`` records an accepted time.
    collect : callable or None
        ``collect(rows, (t, t_new, h, y1), n) -> rows`` of an accepted step.
    t1 : float [time]
    floor : float [time]
        Least step.
    least : float
        Least step relative to the time.
    limit : int or None
        Bound of the number of tries.
    patience : Patience
        Looked at now and then.
    """

    attempt: Function
    adapt: Adapt
    note: Callable[[Table, int, float, bool], Table] | None
    collect: Callable[[Carry, tuple[float, float, float, State], int], Carry] | None
    t1: float
    floor: float
    least: float
    limit: int | None
    patience: Patience


def host_while(
    bk: AbstractBackend, start: Carry, tries: Tries, slots: Slots | None, layout: Shapes
) -> tuple[Carry, Stored | None]:
    """Integration from ``start``, the carry of the conditional integration, to its end.

    ``slots``: None, or those that store every state.
    """
    t, h, e2, memory, y, state, n, count, times, rows = start
    attempt, adapt, note, collect, t1, floor, least, limit, patience = tries
    buffer = None if slots is None else slots.new_buffer(bk, layout)
    write, nearly = bk.write, 1.0 - TINY
    stop = patience.stop if limit is None else min(patience.stop, limit)
    while True:
        while t != t1 and count != stop and abs(h) > floor + least * abs(t):
            if buffer is not None:
                buffer = write(buffer, n, y)
            rest = t1 - t
            if abs(h) >= abs(rest) * nearly:
                t_new, step = t1, rest
            else:
                t_new = t + h
                step = t_new - t
            y1, e2, after, again, _, _ = attempt(t, step, y, state, error=True)
            # (t + h) - t may be above h by rounding: then a forced smallest step is still one (T16)
            if abs(step) < abs(h):
                h = step
            ok, h, memory = adapt(e2, h, memory)
            count += 1
            if not ok:
                state = again
                continue
            if note is not None:
                times = note(times, n, t_new, True)
            if collect is not None:
                rows = collect(rows, (t, t_new, step, y1), n)
            t, y, state = t_new, y1, after
            n += 1
        if t == t1 or count == limit or count != stop:
            break
        stop = patience.look(t, h, count)
        stop = stop if limit is None else min(stop, limit)
    stored = None if buffer is None else Stored(buffer, None)
    return (t, h, e2, memory, y, state, n, count, times, rows), stored
