"""Where to keep states when the number of steps is not known: the event table.

Reversing states ``p_0 = 0 < p_1 < ...`` with gaps ``L_k`` costs ``sum_k t(L_k, c - k)`` advances:
each segment is reversed optimally with the slots then free (`total_advances`), the last first.
Once all slots are taken, two rules in turn decide which states are worth one:

* while no step need be advanced more than twice, segments of the longest optimal length are
  closed from the front; whenever the solve stops, the cost is the binomial optimum;
* from then on, by marginal cost: standing at a state, compare the cost after one more step with
  and without storing it. If overwriting some stored state is cheaper than passing by, overwrite
  the one that leaves the least cost.

The rules look at no data, so their decisions form one table for each number of slots: event ``e``
says "write state `index(e)` into slot `slot(e)`", and a solver needs one comparison a step.
Advances of the whole gradient, forward solve included, are optimal for
``n + 1 <= (c + 1) (c + 2) / 2`` as far as every state is considered, within 1.05 of the optimum
from five slots on (1.15 for two, 1.07 for three and four), and within 1.02 on average.

Limits: beyond 8,192 steps (more for over 2,048 slots) only every second, fourth, ... state is
considered, so that the table grows with the logarithm of the step count: a million steps take at
most 34,000 events up to 2,048 slots, and more in proportion to the slots from there.

References
----------
The costs: Griewank and Walther (2000), doi:10.1145/347837.347846. The range in which an online
rule can be exactly optimal: Stumm and Walther (2010), doi:10.1137/080742439.
"""

import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from threading import Lock

from .binomial import total_advances

NEVER = sys.maxsize
"""Index of an event that does not come: one slot holds ``y0`` and nothing else."""

_FINE = 4096
_Held = list[tuple[int, int]]


class EventTable:
    """The states to store, in the order in which a solve of unknown length meets them.

    Use `events`, which shares one table among all callers.

    Parameters
    ----------
    slots : int
        The slot of ``y0`` included; at least 1.

    Raises
    ------
    ValueError
        If `slots` < 1.

    Notes
    -----
    The first `slots` events are ``(0, 0), (1, 1), ...`` and cost nothing; later ones are generated
    when first asked for (about 10 us each up to 64 slots) and kept. Safe between threads.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"an event table needs `slots` >= 1, got {slots}")
        self.slots = slots
        self._index: list[int] = []
        self._slot: list[int] = []
        self._source = _overwrites(slots)
        self._lock = Lock()

    def index(self, e: int) -> int:
        """Return the state that event `e` stores (number of steps before it), or `NEVER`."""
        if e < self.slots:
            return e
        late = e - self.slots
        while len(self._index) <= late:
            self._generate()
        return self._index[late]

    def slot(self, e: int) -> int:
        """Return the slot that event `e` writes, in ``range(slots)``."""
        if e < self.slots:
            return e
        self.index(e)
        return self._slot[e - self.slots]

    def upto(self, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the indices and the slots of all events with an index below `n`."""
        if n <= self.slots:
            return tuple(range(n)), tuple(range(n))
        while not self._index or self._index[-1] < n:
            self._generate()
        count = bisect_left(self._index, n)
        first = range(self.slots)
        return (*first, *self._index[:count]), (*first, *self._slot[:count])

    def positions(self, n: int) -> tuple[int, ...]:
        """Return the states held after `n` steps, increasing; the first is 0."""
        indices, slots = self.upto(n)
        last_write = dict(zip(slots, indices, strict=True))
        return tuple(sorted(last_write.values())) or (0,)

    def extra_advances(self, n: int) -> int:
        """Return the advances that reverse `n` steps from what is then held.

        Parameters
        ----------
        n : int [steps]

        Returns
        -------
        int [advances]
            ``sum_k t(L_k, c - k)``, counted as `binomial.extra_advances`: neither the forward
            solve's `n` steps nor the `n` steps re-run inside their vjps.
        """
        held = self.positions(n)
        ends = (*held[1:], n)
        return sum(
            total_advances(end - start, self.slots - rank)
            for rank, (start, end) in enumerate(zip(held, ends, strict=True))
        )

    def _generate(self) -> None:
        # Slot first: a reader that sees the index finds its slot.
        with self._lock:
            index, slot = next(self._source, (NEVER, 0))
            self._slot.append(slot)
            self._index.append(index)


@lru_cache(maxsize=16)
def events(slots: int) -> EventTable:
    """Return the shared `EventTable` for `slots` slots.

    Parameters
    ----------
    slots : int
        The slot of ``y0`` included; at least 1.

    Returns
    -------
    EventTable

    Raises
    ------
    ValueError
        If `slots` < 1.
    """
    return EventTable(slots)


def _overwrites(slots: int) -> Iterator[tuple[int, int]]:
    """Yield (state, slot) for every state stored once all slots are taken."""
    if slots == 1:
        return
    # Considering every 2^k-th state only once n > fine 2^k bounds the table by `fine` events an
    # octave. `fine` is a power of two, so that octaves begin at multiples of their own grain.
    fine = max(_FINE, 1 << (2 * slots - 1).bit_length())
    held = [(i, i) for i in range(slots)]
    yield from _front_first(slots, fine, held)
    yield from _cheapest(slots, fine, held)


def _candidate(state: int, fine: int) -> int:
    """Return the first state from `state` on that the table considers."""
    grain = 1 << max(0, (state // fine).bit_length() - 1)
    return -(-state // grain) * grain


def _front_first(slots: int, fine: int, held: _Held) -> Iterator[tuple[int, int]]:
    """Yield the overwrites while no step need be repeated twice; leave the rest in `held`.

    With at most two advances a step, states are optimal as long as the segment of rank ``k`` is
    no longer than ``slots - k + 1``. Segments of just that length are closed from the front: the
    states that end them are kept for good; behind them every second state is held until its slot,
    the oldest first, is needed again. Optimal on the fine grid, and O(1) an event, where
    `_cheapest` takes O(slots).
    """
    kept = [held[0]]
    loose = deque(held[1:])
    last = slots - 1
    room = slots + 1
    while loose:
        limit = kept[-1][0] + room
        state = _candidate(last + 1, fine)
        if state == last + 1 and (later := _candidate(last + 2, fine)) <= limit:
            state = later
        slot = loose.popleft()[1]
        yield state, slot
        if _candidate(state + 1, fine) > limit:
            kept.append((state, slot))
            room -= 1
        else:
            loose.append((state, slot))
        last = state
    held[:] = kept


def _cheapest(slots: int, fine: int, held: _Held) -> Iterator[tuple[int, int]]:
    """Yield the overwrites of the marginal-cost rule, starting from the states in `held`.

    Rank ``k`` is the ``k``-th held state, with ``slots - k`` slots when its segment is reversed:
    `cost` is ``t(L_k, slots - k)``, `relief` what that falls by when one slot more is free, and
    `merge` what joining segments ``k`` and ``k + 1`` adds. Dropping rank ``j`` thus changes the
    total by ``merge[j - 1]`` less the relief of all ranks behind it. The segment behind the last
    held state is open, and not in these lists.
    """
    t = total_advances
    length = [b[0] - a[0] for a, b in pairwise(held)]
    cost, relief, merge = [0] * (slots - 1), [0] * (slots - 1), [0] * (slots - 2)
    changed = 0
    while True:
        for k in range(changed, slots - 1):
            cost[k] = t(length[k], slots - k)
            relief[k] = cost[k] - t(length[k], slots - k + 1)
        for k in range(max(0, changed - 1), slots - 2):
            merge[k] = t(length[k] + length[k + 1], slots - k) - cost[k] - cost[k + 1]
        rank, least, saved = 0, NEVER, 0
        for j in range(slots - 2, 0, -1):
            if merge[j - 1] - saved <= least:
                rank, least = j, merge[j - 1] - saved
            saved += relief[j]

        last = held[-1][0]
        state = _candidate(last + _patience(least, length[-1], cost[-1]), fine)
        span = state - last
        if least + t(span, 2) > t(length[-1] + span, 2) - cost[-1]:
            rank = slots - 1
        slot = held.pop(rank)[1]
        held.append((state, slot))
        yield state, slot
        # The dropped state's segment joins the one before; the open one closes at `state`.
        length.append(span)
        length[rank - 1] += length.pop(rank)
        changed = rank - 1


def _patience(least: int, before: int, cost: int) -> int:
    """Return the open segment's first length at which storing its end is the cheaper choice.

    Passing by costs ``l (l + 1) / 2``, storing either ``least + t(l, 2)`` (an inner state goes)
    or ``t(before + l, 2) - cost`` (the last one goes). Both differences, once positive, stay so:
    the first grows with ``l``, the second is convex and starts at 0.
    """

    def stores(span: int) -> bool:
        store = min(least + total_advances(span, 2), total_advances(before + span, 2) - cost)
        return span * (span + 1) // 2 > store

    high = 1
    while not stores(high):
        high *= 2
    low = high // 2 + 1
    return low + bisect_left(range(low, high), True, key=stores)
