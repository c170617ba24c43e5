"""Walking a loop back: replay from stored states, pull one step after the other.

One executor. Leaves of at most ``window`` steps are replayed into a window and pulled from
there; between a stored state and the leaf at the end of its range, states are put into freed
rows at the binomial split (Griewank & Walther 2000, doi:10.1145/347837.347846). A window of one
is the binomial schedule itself, whose leaf is a range that fits into the free rows: counted loops
write it there and read it back. Windows that reach from row to row are segments.

Invariant: rows ``order[:top]`` hold states at ascending positions below ``end``. Row data never
moves; integers are permuted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._base.types import Bool, Buffer, Carry, Index, State, Table
from .forward import Slots, Stored

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Shapes

Advance = Callable[[Index, State], State]
Pull = Callable[[Index, State, Carry], Carry]
PullRange = Callable[[Index, Index, State, Carry], Carry]
Split = Callable[[Index, Index], Index]
Walk = tuple[Index, State, Index, Table, Buffer]
Step = tuple[Advance, Pull, PullRange | None]


def reverse(
    bk: AbstractBackend,
    slots: Slots,
    stored: Stored,
    n: Index,
    step: tuple[Advance, Pull],
    carry: Carry,
    layout: Shapes,
    leaf: PullRange | None = None,
) -> Carry:
    """Pull steps n-1, ..., 0.

    Parameters
    ----------
    slots, stored
        The schedule and what the forward integration stored by it.
    n : int or traced scalar
    step
        ``advance(i, y) -> y`` replays step i; ``pull(i, y, carry) -> carry`` reverses it from
        the state y before it.
    carry
        What the pulls thread.
    layout
        Layout of a state.
    leaf
        ``leaf(low, high, y, carry) -> carry`` pulls all steps of a window at once, from the state
        y before the first: no replay, no window of states. Eager libraries.

    Returns
    -------
    carry

    Notes
    -----
    Executed advances: ``schedules.binomial.extra_advances(n, slots)`` for a window of one and
    a known n; one pass for segments; none where everything is stored.
    """
    if slots.everything:
        return _walk_back(bk, stored.buffer, 0, n, 0, step[1], carry)
    if slots.segments:
        return _reverse_segments(bk, slots, stored, n, (*step, leaf), carry, layout)
    return _reverse_ranges(bk, slots, stored, n, (*step, leaf), carry, layout)


def _walk_back(
    bk: AbstractBackend,
    buffer: Buffer,
    low: Index,
    high: Index,
    first: Index,
    pull: Pull,
    carry: Carry,
) -> Carry:
    """Pull steps high-1, ..., low; the state before step i stands in row i - first."""

    def body(j: Index, carry: Carry) -> Carry:
        i = low + (high - 1) - j
        return pull(i, bk.read(buffer, i - first), carry)

    return bk.for_loop(low, high, body, carry)


def _leaf(
    bk: AbstractBackend, window: Buffer, low: Index, high: Index, y: State, step: Step, carry: Carry
) -> tuple[Carry, Buffer]:
    """Replay steps low..high-2 from the state y before low into the window; pull them all."""
    advance, pull, whole = step
    if whole is not None:
        return whole(low, high, y, carry), window

    def fill(i: Index, z: Carry) -> Carry:
        window = bk.write(z[1], i - low, z[0])
        return advance(i, z[0]), window

    y, window = bk.for_loop(low, high - 1, fill, (y, window))
    window = bk.write(window, high - 1 - low, y)
    return _walk_back(bk, window, low, high, low, pull, carry), window


def _reverse_segments(
    bk: AbstractBackend,
    slots: Slots,
    stored: Stored,
    n: int,
    step: Step,
    carry: Carry,
    layout: Shapes,
) -> Carry:
    count = len(slots.index) - 1

    def segment(j: Index, z: Carry) -> Carry:
        e = count - 1 - j
        low, end = bk.table_get(slots.index, e), bk.table_get(slots.index, e + 1)
        high = bk.pick(end < n, end, n)
        return _leaf(bk, z[1], low, high, bk.read(stored.buffer, e), step, z[0])

    window = bk.new_buffer(slots.window, layout, scratch=False)
    return bk.for_loop(0, count, segment, (carry, window))[0]


def _reverse_ranges(
    bk: AbstractBackend,
    slots: Slots,
    stored: Stored,
    n: Index,
    step: Step,
    carry: Carry,
    layout: Shapes,
) -> Carry:
    assert slots.rows is not None
    rows, width, advance = slots.rows, slots.window, step[0]
    split = bk.split(rows)
    order, top = bk.rank(slots, stored.positions, n)
    recorded = step[2] is not None
    window = bk.new_buffer(width, layout, scratch=False) if width > 1 and not recorded else ()

    def leaf(z: Carry) -> Carry:
        end, top, positions, buffer, window, carry = z
        row = bk.table_get(order, top - 1)

        start = (bk.table_get(positions, row), bk.read(buffer, row), top, positions, buffer)
        find = (rows, split, order, advance)
        # by reference, a leaf of many steps would hold the cotangents behind it alive
        filled = width == 1 and not bk.slots_by_reference
        at, y, top, positions, buffer = to_leaf(bk, find, end, width, start, filled=filled)
        if filled:
            free = rows, order, top
            carry, buffer = _filled_leaf(bk, free, buffer, (at, end), y, step, carry)
        elif width == 1 and not recorded:
            carry = step[1](at, y, carry)
        else:
            carry, window = _leaf(bk, window, at, end, y, step, carry)
        dead = bk.table_get(positions, bk.table_get(order, top - 1)) >= at
        return at, bk.pick(dead, top - 1, top), positions, buffer, window, carry

    start = (n, top, stored.positions, stored.buffer, window, carry)
    return bk.while_loop(lambda z: z[0] > 0, leaf, start)[-1]


def _filled_leaf(
    bk: AbstractBackend,
    rows: tuple[int, Table, Index],
    buffer: Buffer,
    span: tuple[Index, Index],
    y: State,
    step: Step,
    carry: Carry,
) -> tuple[Carry, Buffer]:
    """Pull steps low..high-1, whose states all have room in free rows.

    The binomial schedule stores each of them too, one by one; here counted loops write them and
    read them back. The state before the last step stays in hand.
    """
    advance, pull, _ = step
    (scratch, order, top), (low, high) = rows, span
    shift = top - 1 - low

    def fill(i: Index, z: Carry) -> Carry:
        y, inside = advance(i, z[0]), i + 2 < high
        row = bk.table_get(order, bk.pick(inside, i + 1 + shift, 0))
        return y, bk.write(z[1], bk.pick(inside, row, scratch), y)

    def back(j: Index, z: Carry) -> Carry:
        i = low + (high - 1) - j
        carry = pull(i, z[0], z[1])
        return bk.read(buffer, bk.table_get(order, bk.pick(i > low, i - 1, low) + shift)), carry

    y, buffer = bk.for_loop(low, high - 1, fill, (y, buffer))
    return bk.for_loop(low, high, back, (y, carry))[1], buffer


def to_leaf(
    bk: AbstractBackend,
    find: tuple[int, Split, Table, Advance],
    end: Index,
    width: int,
    start: Walk,
    *,
    filled: bool = False,
) -> Walk:
    """From a stored state to at most ``width`` steps before ``end``, storing on the way.

    ``filled``: to where all states up to ``end`` have room in free rows, the last one in hand.

    Parameters
    ----------
    find : tuple
        Rows of the buffer, the split, the order of the rows, ``advance``.
    start : tuple
        (index, state, top, positions, buffer) at the stored state.

    Returns
    -------
    tuple
        The same at the leaf.
    """
    rows, split, order, advance = find

    def refine(q: Carry) -> Carry:
        at, y, top, positions, buffer = q
        blocks = (end - at + width - 1) // width
        to = at + width * split(blocks, rows - top + 1)
        room = top < rows
        row = bk.pick(room, bk.table_get(order, bk.pick(room, top, 0)), rows)
        positions = bk.table_set(positions, row, to)
        y = bk.for_loop(at, to, advance, y)
        return to, y, bk.pick(room, top + 1, top), positions, bk.write(buffer, row, y)

    def far(q: Carry) -> Bool:
        return end - q[0] > (rows - q[2] + 2 if filled else width)

    return bk.while_loop(far, refine, start)  # type: ignore[no-any-return]
