"""Walking a loop back: replay from stored states, pull one step after the other.

One executor. Leaves of at most ``window`` steps are replayed into a window and pulled from
there; between a stored state and the leaf at the end of its range, states are put into freed
rows at the binomial split (Griewank & Walther 2000, doi:10.1145/347837.347846). A window of one
is the binomial schedule itself; windows that reach from row to row are segments.

Invariant: rows ``order[:top]`` hold states at ascending positions below ``end``. Row data never
moves; integers are permuted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .forward import Slots, Stored

__all__ = ["reverse"]

Advance = Callable[[Any, Any], Any]
Pull = Callable[[Any, Any, Any], Any]


def reverse(
    bk: Any,
    slots: Slots,
    stored: Stored,
    n: Any,
    step: tuple[Advance, Pull],
    carry: Any,
    layout: Any,
) -> Any:
    """Pull steps n-1, ..., 0.

    Parameters
    ----------
    slots, stored
        The schedule and what the forward march stored by it.
    n : int or traced scalar
    step
        ``advance(i, y) -> y`` replays step i; ``pull(i, y, carry) -> carry`` reverses it from
        the state y before it.
    carry
        What the pulls thread.
    layout
        Layout of a state.

    Returns
    -------
    carry

    Notes
    -----
    Executed advances: ``_schedules.binomial.extra_advances(n, slots)`` for a window of one and
    a known n; one sweep for segments; none where everything is stored.
    """
    if slots.everything:
        return _walk_back(bk, stored.buffer, 0, n, 0, step[1], carry)
    if slots.segments:
        return _reverse_segments(bk, slots, stored, n, step, carry, layout)
    return _reverse_ranges(bk, slots, stored, n, step, carry, layout)


def _walk_back(
    bk: Any, buffer: Any, low: Any, high: Any, first: Any, pull: Pull, carry: Any
) -> Any:
    """Pull steps high-1, ..., low; the state before step i stands in row i - first."""

    def body(j: Any, carry: Any) -> Any:
        i = low + (high - 1) - j
        return pull(i, bk.read(buffer, i - first), carry)

    return bk.for_loop(low, high, body, carry)


def _leaf(
    bk: Any, window: Any, low: Any, high: Any, y: Any, step: tuple[Advance, Pull], carry: Any
) -> Any:
    """Replay steps low..high-2 from the state y before low into the window; pull them all."""
    advance, pull = step

    def fill(i: Any, z: Any) -> Any:
        window = bk.write(z[1], i - low, z[0])
        return advance(i, z[0]), window

    y, window = bk.for_loop(low, high - 1, fill, (y, window))
    window = bk.write(window, high - 1 - low, y)
    return _walk_back(bk, window, low, high, low, pull, carry), window


def _reverse_segments(
    bk: Any,
    slots: Slots,
    stored: Stored,
    n: int,
    step: tuple[Advance, Pull],
    carry: Any,
    layout: Any,
) -> Any:
    width = slots.window
    count = -(-n // width)

    def segment(j: Any, z: Any) -> Any:
        e = count - 1 - j
        low = e * width
        high = bk.pick(low + width < n, low + width, n)
        return _leaf(bk, z[1], low, high, bk.read(stored.buffer, e), step, z[0])

    window = bk.new_buffer(width, layout, scratch=False)
    return bk.for_loop(0, count, segment, (carry, window))[0]


def _reverse_ranges(
    bk: Any,
    slots: Slots,
    stored: Stored,
    n: Any,
    step: tuple[Advance, Pull],
    carry: Any,
    layout: Any,
) -> Any:
    assert slots.rows is not None
    rows, width, advance = slots.rows, slots.window, step[0]
    split = bk.split(rows)
    order, top = bk.rank(stored.positions, rows, n)
    window = bk.new_buffer(width, layout, scratch=False) if width > 1 else ()

    def leaf(z: Any) -> Any:
        end, top, positions, buffer, window, carry = z
        row = bk.look(order, top - 1)

        start = (bk.look(positions, row), bk.read(buffer, row), top, positions, buffer)
        find = (rows, split, order, advance)
        at, y, top, positions, buffer = to_leaf(bk, find, end, width, start)
        if width == 1:
            carry = step[1](at, y, carry)
        else:
            carry, window = _leaf(bk, window, at, end, y, step, carry)
        dead = bk.look(positions, bk.look(order, top - 1)) >= at
        return at, bk.pick(dead, top - 1, top), positions, buffer, window, carry

    start = (n, top, stored.positions, stored.buffer, window, carry)
    return bk.while_loop(lambda z: z[0] > 0, leaf, start)[-1]


def to_leaf(
    bk: Any, find: tuple[int, Any, Any, Advance], end: Any, width: int, start: tuple[Any, ...]
) -> tuple[Any, ...]:
    """From a stored state to at most ``width`` steps before ``end``, storing on the way.

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

    def refine(q: Any) -> Any:
        at, y, top, positions, buffer = q
        blocks = (end - at + width - 1) // width
        to = at + width * split(blocks, rows - top + 1)
        y = bk.for_loop(at, to, advance, y)
        room = top < rows
        row = bk.pick(room, bk.look(order, bk.pick(room, top, 0)), rows)
        buffer, positions = bk.write(buffer, row, y), bk.set_int(positions, row, to)
        return to, y, bk.pick(room, top + 1, top), positions, buffer

    return bk.while_loop(lambda q: end - q[0] > width, refine, start)  # type: ignore[no-any-return]
