"""From ``memory=`` to bytes: as given, as a fraction, or half of what the device has free."""

from __future__ import annotations

from typing import Any

from .._errors import InputError
from .._units import format_bytes, parse_bytes

__all__ = ["budget_bytes"]

DEFAULT_FRACTION = 0.5


def budget_bytes(memory: Any, bk: Any, like: Any) -> tuple[int, str]:
    """Bytes that a gradient may take, and where the number comes from.

    Parameters
    ----------
    memory : str, int [bytes], float in (0, 1), or None
        None means half of the free memory of the device of ``like``.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(memory, str):
        return parse_bytes(memory), f"`memory` = {memory!r}"
    if isinstance(memory, bool) or not isinstance(memory, (int, float, type(None))):
        raise InputError(
            f"`memory` is {memory!r}; pass bytes as an int or like '64 MiB', a fraction of the "
            "free memory between 0 and 1, or None."
        )
    if memory is not None and memory >= 1 and memory == int(memory):
        return int(memory), f"`memory` = {format_bytes(memory)}"
    fraction = DEFAULT_FRACTION if memory is None else float(memory)
    if not 0 < fraction < 1:
        raise InputError(
            f"`memory` is {memory!r}; pass a positive number of bytes or a fraction between 0 "
            "and 1."
        )
    free = bk.memory(like)
    size = int(free.free * fraction)
    return size, f"{fraction:g} of {format_bytes(free.free)} free ({free.source})"
