"""Where to keep states when the number of steps is known: the binomial (revolve) optimum.

Reversing ``n`` steps with ``slots`` stored states means running forward again from stored states.
The number of such advances has a closed-form minimum, reached by splitting ranges at binomial
coefficients. Everything here is exact integer arithmetic; nothing here stores or advances a state.

Two counts are kept apart:

* `total_advances` is the textbook count ``t(l, s)``: the advances that reverse a range of ``l``
  steps whose start is stored, with ``s`` slots in all (the one holding the start included), the
  last step of the range not being advanced over.
* `extra_advances` is what a gradient pays on top of its forward solve. The loss needs the state
  after step ``n``, so it counts as one more step: ``R(n, c) = t(n + 1, c) - n``.

Limits: all slots cost the same to write and to read, and a slot holds a state, not a tape.

References
----------
Griewank (1992), doi:10.1080/10556789208805505; Griewank and Walther (2000),
doi:10.1145/347837.347846, from which the closed form of ``t`` and the interval of optimal splits.
"""

from bisect import bisect_left
from functools import lru_cache
from math import comb, isqrt

_rows: dict[int, tuple[int, ...]] = {}


def capacity(slots: int, repeats: int) -> int:
    """Longest range that `slots` slots reverse with each step advanced at most `repeats` times.

    Parameters
    ----------
    slots, repeats : int
        Both at least 0.

    Returns
    -------
    int [steps]
        ``b(s, r) = C(s + r, r)``.
    """
    return comb(slots + repeats, repeats)


def _row(slots: int, length: int) -> tuple[int, ...]:
    """Return ``b(slots, 0), b(slots, 1), ...``, up to at least the first entry >= `length`."""
    row = _rows.get(slots, (1,))
    if row[-1] < length:
        grown = list(row)
        while grown[-1] < length:
            r = len(grown)
            grown.append(grown[-1] * (slots + r) // r)
        # A fresh tuple replaces the old one in a single assignment: safe between threads.
        row = _rows[slots] = tuple(grown)
    return row


def repeats(n: int, slots: int) -> int:
    """Smallest ``r`` with ``n <= b(slots, r)``: how often the most repeated step is advanced.

    Parameters
    ----------
    n : int [steps]
    slots : int
        At least 1.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `slots` < 1 or `n` < 0.
    """
    if slots < 1 or n < 0:
        raise ValueError(f"a schedule needs `slots` >= 1 and `n` >= 0, got {slots} and {n}")
    if slots == 1 or n <= slots + 1:
        return max(n - 1, 0) if slots == 1 else int(n > 1)
    if 2 * n <= (slots + 1) * (slots + 2):
        return 2
    return bisect_left(_row(slots, n), n)


@lru_cache(maxsize=1 << 15)
def total_advances(n: int, slots: int) -> int:
    """Fewest advances that reverse `n` steps from their stored start.

    Parameters
    ----------
    n : int [steps]
    slots : int
        The slot of the start included; at least 1.

    Returns
    -------
    int [advances]
        ``t(n, s) = r n - C(s + r, r - 1)`` with ``r = repeats(n, s)``; ``n (n - 1) / 2`` for one
        slot. The vjp of each step re-runs that step: those ``n`` are not counted.

    Raises
    ------
    ValueError
        If `slots` < 1 or `n` < 0.
    """
    r = repeats(n, slots)
    return r * n - comb(slots + r, r - 1) if r else 0


def extra_advances(n: int, slots: int) -> int:
    """Fewest advances a gradient over `n` steps executes on top of its forward solve.

    Parameters
    ----------
    n : int [steps]
    slots : int
        The slot of ``y0`` included; at least 1.

    Returns
    -------
    int [advances]
        ``R(n, c) = t(n + 1, c) - n``; 0 for ``c >= n``; at most ``n`` for
        ``n < (c + 1) (c + 2) / 2``. Neither the forward solve's ``n`` steps nor the ``n`` steps
        re-run inside their vjps are counted.

    Raises
    ------
    ValueError
        If `slots` < 1 or `n` < 0.
    """
    return total_advances(n + 1, slots) - n


@lru_cache(maxsize=1 << 15)
def split(length: int, slots: int) -> int:
    """Return how far to advance before storing the next state of a range.

    Parameters
    ----------
    length : int [steps]
        At least 2.
    slots : int
        Slots this range may use, the one holding its start included. With 1 there is no slot to
        store into and the answer is ``length - 1``: straight to the start of the last step.

    Returns
    -------
    int [steps]
        The largest ``m`` that minimises ``m + t(length - m, slots - 1) + t(m, slots)``.

    Raises
    ------
    ValueError
        If `length` < 2 or `slots` < 1.

    Notes
    -----
    ``m = min(b(s, r - 1), l - b(s - 1, r - 1))`` with ``r = repeats(l, s)`` (Griewank and Walther
    2000); ``b(s - 1, r) = b(s, r) - b(s, r - 1)`` saves the second row. About 0.1 us when asked
    again, under 1 us the first time.
    """
    if length < 2 or slots < 1:
        raise ValueError(f"cannot split {length} steps over {slots} slots")
    if length <= slots + 1:
        return 1
    if slots == 1:
        return length - 1
    if 2 * length <= (slots + 1) * (slots + 2):
        return min(slots + 1, length - slots)
    row = _row(slots, length)
    r = bisect_left(row, length)
    return min(row[r - 1], length - row[r - 1] + row[r - 2])


@lru_cache(maxsize=32)
def positions(n: int, slots: int) -> tuple[int, ...]:
    """Return the indices of the states to store during a forward solve of `n` steps.

    Parameters
    ----------
    n : int [steps]
    slots : int
        The slot of ``y0`` included; at least 1.

    Returns
    -------
    tuple of int
        Increasing, the first 0; ``max(1, min(n, slots))`` of them, so no slot is left unused.
        Reversing each segment between them by `split` executes `extra_advances` advances.

    Raises
    ------
    ValueError
        If `slots` < 1 or `n` < 0.
    """
    if slots < 1 or n < 0:
        raise ValueError(f"a schedule needs `slots` >= 1 and `n` >= 0, got {slots} and {n}")
    stored = [0]
    # The loss is step n + 1, hence a range of n + 1 steps; the state after step n is never stored.
    for free in range(slots, 1, -1):
        left = n + 1 - stored[-1]
        if left <= 2:
            break
        stored.append(stored[-1] + split(left, free))
    return tuple(stored)


def replay_limit(slots: int, advances: int) -> int:
    """Return the longest range whose replay takes at most so many advances for each of its steps.

    Parameters
    ----------
    slots : int
        Those the range may use, the one holding its start included; traced integers will do.
    advances : int [advances a step]
        At least 1.

    Returns
    -------
    int [steps]
        ``C(s + k + 1, k)``, from ``t(l, s) = (k + 1) l - C(s + k + 1, k)``: exact for
        ``s >= k``, an upper bound below.
    """
    limit = slots + 2
    for j in range(2, advances + 1):
        limit = limit * (slots + j + 1) // j
    return limit


def twice(n: int) -> int:
    """Return the fewest slots with which no step of `n` is advanced over more than twice.

    Parameters
    ----------
    n : int [steps]
        At least 0.

    Returns
    -------
    int [slots]
        The least ``s`` of at least 1 with ``n <= b(s, 2) = (s + 1) (s + 2) / 2``.

    Examples
    --------
    >>> [twice(n) for n in (3, 4, 6, 7, 500)]
    [1, 2, 2, 3, 31]
    """
    return max(1, (isqrt(8 * n) - 1) // 2)
