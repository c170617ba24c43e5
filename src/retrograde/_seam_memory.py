"""What a device says of its memory."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MemoryInfo"]


class MemoryInfo(NamedTuple):
    """Memory that a gradient may take.

    Attributes
    ----------
    free, total : int [bytes]
        What is not taken, and all of it.
    source : str
        Where the numbers come from.

    Examples
    --------
    >>> from retrograde.backend import MemoryInfo
    >>> free, total, source = MemoryInfo(2**30, 2**32, "a device")
    >>> free / total
    0.25
    """

    free: int
    total: int
    source: str
