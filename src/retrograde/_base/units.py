"""Bytes in and out of words: ``"64 MiB"`` <-> 67108864.

Packages that only an extra brings, imported where they are needed.
"""

from __future__ import annotations

import importlib
import math
import re
from types import ModuleType

from .errors import InputError, RetrogradeError

__all__ = [
    "MissingExtra",
    "format_bytes",
    "parse_bytes",
    "require",
]


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
