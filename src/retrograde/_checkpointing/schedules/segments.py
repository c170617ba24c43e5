"""Leaves of several steps: trading a replay window for bookkeeping, when `n` is known.

An executor that reverses one step at a time does integer bookkeeping for every step. One that
reverses a *leaf* of up to ``window`` steps replays the leaf into ``window`` states and walks back
over them: the schedule is then that of `binomial` in units of blocks of ``window`` steps, the last
block possibly shorter. With ``slots * window >= n`` no block is advanced twice and the bookkeeping
vanishes altogether: equal segments, one extra pass.

In states, a plan costs ``slots + window``. Both counts include one for ``y0``: slot 0 holds it, and
and the window's first row repeats the state its leaf starts from.
"""

from typing import NamedTuple

from .binomial import extra_advances, positions


class Segments(NamedTuple):
    """Equal segments: `slots` stored states, at most `window` steps apart, and a window as long.

    Attributes
    ----------
    slots : int
        States stored during the forward solve, ``y0`` included.
    window : int [steps]
        Steps a segment, and states in the replay window.
    """

    slots: int
    window: int


def choose_segments(n: int, states: int) -> Segments | None:
    """Return the segments that reverse `n` steps in less than one extra pass.

    Parameters
    ----------
    n : int [steps]
        At least 1.
    states : int
        States available for slots and window together; ``y0`` counts as one of them.

    Returns
    -------
    Segments or None
        The most slots with ``slots * window >= n`` and ``slots + window <= states``: each one
        more is one step less to replay. None below ``slots + window = ceil(2 sqrt(n))``.

    Raises
    ------
    ValueError
        If `n` < 1.
    """
    if n < 1:
        raise ValueError(f"segments need `n` >= 1, got {n}")
    for window in range(1, states // 2 + 1):
        slots = min(n, states - window)
        if slots * window >= n:
            return Segments(slots, -(-n // slots))
    return None


def segment_positions(n: int, slots: int) -> tuple[int, ...]:
    """Return the first steps of `slots` segments of `n` steps, of lengths that differ by one.

    Parameters
    ----------
    n : int [steps]
    slots : int
        At least 1.

    Returns
    -------
    tuple of int
        Increasing, the first 0; replaying all segments takes ``n - len(positions)`` advances.
    """
    slots = min(n, slots)
    return tuple(e * n // slots for e in range(slots))


def block_positions(n: int, slots: int, window: int) -> tuple[int, ...]:
    """Return the indices of the states to store during a forward solve of `n` steps.

    Parameters
    ----------
    n : int [steps]
    slots, window : int
        Each at least 1.

    Returns
    -------
    tuple of int
        Increasing multiples of `window`, the first 0; at most `slots`.

    Raises
    ------
    ValueError
        If `slots` < 1 or `n` < 0.
    """
    return tuple(window * block for block in positions(-(-n // window), slots))


def block_advances(n: int, slots: int, window: int) -> int:
    """Return the advances that reversing `n` steps in leaves of up to `window` steps executes.

    Parameters
    ----------
    n : int [steps]
    slots, window : int
        Each at least 1; `slots` includes the slot of ``y0``.

    Returns
    -------
    int [advances]
        ``W R(ceil(n / W), c) + n - ceil(n / W)``: the blocks advanced over, and all but the last
        step of each leaf replayed. Counted as `binomial.extra_advances`, which it equals for
        ``W = 1``: neither the forward solve nor the steps re-run inside their vjps are in it.

    Raises
    ------
    ValueError
        If `slots` < 1 or `n` < 0.

    Notes
    -----
    Where the slots were filled by an `EventTable` in units of blocks, put its `extra_advances` of
    the number of blocks in place of ``R``.
    """
    blocks = -(-n // window)
    return window * extra_advances(blocks, slots) + n - blocks
