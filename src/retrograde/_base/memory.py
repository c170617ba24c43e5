"""Bytes: what the host and a device have of them, and how they are written: ``"64 MiB"``.

Linux reports the host's memory and the limit of the control group under /proc and /sys; elsewhere
the operating system's own total is used. :func:`require` imports what only an extra brings.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from .errors import InputError, RetrogradeError
from .types import Array, Memory

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend


CGROUP = "/sys/fs/cgroup/"


def host_memory() -> tuple[int, int, str]:
    """Free and total bytes of host memory and where they were read.

    Returns
    -------
    free, total : int [bytes]
    source : str
    """
    total, free, source = _meminfo()
    limit, used = _cgroup()
    if limit is not None and limit < total:
        return max(0, min(free, limit - used)), limit, "host memory, capped by the cgroup"
    return free, total, source


def _meminfo() -> tuple[int, int, str]:
    try:
        text = _read("/proc/meminfo")
    except OSError:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total // 2, "half of the host memory"
    # one field at a time: a plan reads three of some sixty lines
    free = "MemAvailable" if "MemAvailable:" in text else "MemFree"
    return _field(text, "MemTotal"), _field(text, free), "host memory available"


def _field(text: str, name: str) -> int:
    """Bytes of a line ``name:  123 kB``."""
    return int(text.partition(name + ":")[2].partition("\n")[0].split()[0]) * 1024


def _read(path: str) -> str:
    """A small file of the kernel's, at once."""
    with open(path, "rb", buffering=0) as file:
        return file.read(1 << 16).decode()


def _cgroup() -> tuple[int | None, int]:
    """Limit and use of the control group, version 2 then 1; (None, 0) where there is none."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return int(_read(CGROUP + limit)), int(_read(CGROUP + used))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return None, 0


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


_FACTORS = {
    "": 1,
    "b": 1,
    **{f"{p}b": 1000**i for i, p in enumerate("kmgt", 1)},
    **{f"{p}ib": 1024**i for i, p in enumerate("kmgt", 1)},
}
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*\Z", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read a number of bytes such as ``"96KiB"``, ``"1.5 GB"`` or ``"2048"``.

    Returns
    -------
    int [bytes]

    Raises
    ------
    InputError
        If the text is no positive number with a unit of bytes.

    Examples
    --------
    >>> parse_bytes("96KiB"), parse_bytes("1.5 kB")
    (98304, 1500)
    """
    match = _PATTERN.match(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    size = float(match.group(1)) * factor if match and factor else 0.0
    if not 1 <= size < math.inf:
        raise InputError(
            f"`memory` is {text!r}, which is no number of bytes; write for example "
            "'512 MiB', '96KiB', '2 GB', or an int."
        )
    return int(size)


def format_bytes(size: float) -> str:
    """Write a number of bytes with three significant digits and a binary unit.

    Examples
    --------
    >>> format_bytes(160), format_bytes(98304), format_bytes(1.5 * 2**30)
    ('160 B', '96.0 KiB', '1.50 GiB')
    """
    if size < 1024:
        return f"{int(size)} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.{max(0, 2 - int(math.log10(size)))}f} {unit}"
    return f"{size / 1024:.2f} TiB"


def budget_bytes(memory: Memory | None, bk: AbstractBackend, like: Array) -> tuple[int, str]:
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
    fraction = 0.5 if memory is None else float(memory)
    if not 0 < fraction < 1:
        raise InputError(
            f"`memory` is {memory!r}; pass a positive number of bytes or a fraction between 0 "
            "and 1."
        )
    free = bk.memory(like)
    size = int(free.free * fraction)
    return size, f"{fraction:g} of {format_bytes(free.free)} free ({free.source})"


class MissingExtra(RetrogradeError):
    """A package is missing that comes with an extra; the message is the command."""


def require(module: str, extra: str) -> ModuleType:
    """Import what only an extra brings.

    Raises
    ------
    MissingExtra
        With the one command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise MissingExtra(f'this needs {name}: pip install "retrograde[{extra}]"') from None
