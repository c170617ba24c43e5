"""Memory of the host: what is available, capped by the control group's limit.

Linux reports both under /proc and /sys; elsewhere the operating system's own total is used.

What a device says of its memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "MemoryInfo",
    "host_memory",
]


def host_memory(root: Path = Path("/")) -> tuple[int, int, str]:
    """Free and total bytes of host memory and where they were read.

    Returns
    -------
    free, total : int [bytes]
    source : str
    """
    total, free, source = _meminfo(root)
    limit, used = _cgroup(root)
    if limit is not None and limit < total:
        return max(0, min(free, limit - used)), limit, "host memory, capped by the cgroup"
    return free, total, source


def _meminfo(root: Path) -> tuple[int, int, str]:
    try:
        text = _read(root / "proc/meminfo")
    except OSError:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total // 2, "half of the host memory"
    # one field at a time: a plan reads three of some sixty lines
    free = "MemAvailable" if "MemAvailable:" in text else "MemFree"
    return _field(text, "MemTotal"), _field(text, free), "host memory available"


def _field(text: str, name: str) -> int:
    """Bytes of a line ``name:  123 kB``."""
    return int(text.partition(name + ":")[2].partition("\n")[0].split()[0]) * 1024


def _read(path: Path) -> str:
    """A small file of the kernel's, at once."""
    with open(path, "rb", buffering=0) as file:
        return file.read(1 << 16).decode()


def _cgroup(root: Path) -> tuple[int | None, int]:
    """Limit and use of the control group, version 2 then 1; (None, 0) where there is none."""
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            return int(_read(root / limit)), int(_read(root / used))
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
