"""Optimal splits without branches: for loops that are traced and can't call `binomial.split`.

A compiled loop finds the split of a range by comparing its length with one row of a small table of
binomial coefficients. For more slots than the table has rows, where ranges rarely need more than
three repeats, a closed form takes over. All numbers fit int32.

Limits: rows end after 64 repeats, which two slots exceed from 2,081 steps on (three from 45,761).
The splits beyond are evenly spaced: legal, but quadratic in the length, as plain thinning is.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import comb

_CAP = 2**30
_COLUMNS = 64


@lru_cache(maxsize=32)
def split_table(slots: int, max_rows: int = 64) -> tuple[tuple[int, ...], ...]:
    """Return rows of ``b(s, r)`` for code that cannot call `split` (traced loops).

    Parameters
    ----------
    slots : int
        At least 1.
    max_rows : int
        Largest ``s`` given a row.

    Returns
    -------
    tuple of tuple of int, shape (min(slots, max_rows) + 1, 64)
        Row ``s`` holds ``b(s, 0) .. b(s, 63)``, entries above ``2**30`` replaced by it.

    Notes
    -----
    Traced ``split(l, s)``, in int32, for ``2 <= l < 2**30``::

        row  = table[min(s, max_rows)]
        a    = max(where(row < l, row, 0))              # b(s, r - 1)
        b    = max(where(row < a, row, 0))              # b(s, r - 2), 0 for r = 1
        lean = l - (a - b)                              # a - b = b(s - 1, r - 1)
        m    = where(row[-1] < l, lean, min(a, lean))   # split_from_row(row, l)
        m    = where(s > max_rows, split_wide(l, s), m) # leave out if slots <= max_rows
    """
    return tuple(
        tuple(min(_CAP, comb(s + r, r)) for r in range(_COLUMNS))
        for s in range(min(slots, max_rows) + 1)
    )


def split_from_row(row: Sequence[int], length: int) -> int:
    """Return a split of `length` steps read off one row of `split_table` by comparisons.

    Parameters
    ----------
    row : sequence of int
        ``b(s, 0), b(s, 1), ...``; ``s`` >= 1.
    length : int [steps]
        ``2 <= length < 2**30``.

    Returns
    -------
    int [steps]
        `split` exactly as long as ``length <= row[-1]`` (2,080 steps for two slots, 45,760 for
        three, 766,480 for four, ...). Beyond the row: legal, and no worse than evenly spaced.

    See Also
    --------
    split_table : the same recipe for arrays.
    """
    a = max(entry for entry in row if entry < length)
    b = max((entry for entry in row if entry < a), default=0)
    lean = length - (a - b)
    return min(a, lean) if length <= row[-1] else lean


def split_wide(length: int, slots: int) -> int:
    """Return a split for many slots, without a table and with no branch but ``min`` and ``max``.

    Parameters
    ----------
    length : int [steps]
        ``2 <= length < 10**9``.
    slots : int
        At least 2; meant for more than the rows of a `split_table`.

    Returns
    -------
    int [steps]
        An optimal split for ``length <= b(s, 2) + b(s - 1, 4)`` (816,596 steps at 65 slots);
        beyond, a legal one.

    Notes
    -----
    ``min(s + 1, l - s)`` clipped below at 1 serves one and two repeats, ``l - b(s - 1, 2)``
    clipped above at ``b(s, 2)`` serves three, and is optimal for most of four (the interval of
    optimal splits begins at ``b(s, r - 2)``). With ``s`` clipped the products fit int32. Traced
    code repeats these four lines with its own minimum and maximum.
    """
    s = min(slots, 46339)
    inner = s * (s + 1) // 2
    two = max(1, min(slots + 1, length - slots))
    return max(two, min(inner + s + 1, length - inner))
