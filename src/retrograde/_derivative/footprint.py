"""Bytes of the Python objects that a tape is made of, beside the data of its arrays.

For states of a few KiB these objects are the larger part. Counted is what a
:class:`~.tape.Pullback` alone keeps alive: tuples, closures, cells and array headers. Not
counted are classes, modules and what functions reach through their globals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import CellType, FunctionType
from typing import Any

__all__ = ["object_bytes"]

_CONTAINERS = (tuple, list, set, frozenset)


def object_bytes(pull: Any) -> int:
    """Bytes of the objects that a pullback keeps alive, the data of arrays not counted.

    Examples
    --------
    >>> import numpy as np
    >>> from .tape import vjp
    >>> sizes = [object_bytes(vjp(np.sin, [np.zeros(n)], np)[1]) for n in (10, 100_000)]
    >>> sizes[0] == sizes[1] > 500
    True
    """
    seen: set[int] = set()
    stack, total = [pull], 0
    while stack:
        x = stack.pop()
        if id(x) in seen or isinstance(x, (type, str)):
            continue
        seen.add(id(x))
        size, inner = _parts(x)
        total += size
        stack.extend(inner)
    return total


def _parts(x: Any) -> tuple[int, Iterable[Any]]:
    """Size of one object, and what it refers to; nothing for what is shared with others."""
    if isinstance(x, _CONTAINERS):
        return sys.getsizeof(x), x
    if isinstance(x, CellType):
        return sys.getsizeof(x), (x.cell_contents,)
    if isinstance(x, FunctionType):
        inner = (*(x.__closure__ or ()), *(x.__defaults__ or ()), x.__dict__.get("tape"))
        return (sys.getsizeof(x), inner) if x.__closure__ or x.__defaults__ else (0, ())
    if hasattr(x, "_nodes"):  # a tape's Pullback; its inputs' shapes are one list for all stages
        return sys.getsizeof(x), [getattr(x, name) for name in ("_nodes", "_outputs")]
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        owned = getattr(x, "nbytes", 0) if getattr(x, "base", None) is None else 0
        return max(0, sys.getsizeof(x) - owned), ()
    return 0, ()
