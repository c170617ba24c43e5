"""What a function is made of, so that a fresh one of the same code is known again.

A lambda in a training loop is a new object each time round. What is remembered of its last solve
(``step_count``) is kept by its code and by what it closes over: arrays by shape and dtype, floats
by being floats, other objects by being the same ones. Nothing is kept alive.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import weakref
from collections.abc import Callable, Hashable
from types import CellType
from typing import TYPE_CHECKING

from .._base.types import Function, Tree

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend

DEEPEST = 5
"""Levels of closures and tuples that are looked into."""

LONGEST = 64
"""Entries of a tuple that are looked at."""

MOST = 256
"""Things that are looked into in all."""


class Likeness:
    """A key by which a function is known again, and what has to be alive for that.

    Attributes
    ----------
    key : hashable
        Equal for functions of the same code over like things.
    alive : list of weakref
        Objects that the key knows by their identity.
    """

    def __init__(self, bk: AbstractBackend, fn: Function) -> None:
        self.bk = bk
        self.alive: list[Callable[[], object]] = []
        self.left = MOST
        self.key = self._of(fn, 0)

    def _of(self, x: Tree, depth: int) -> Hashable:
        if self.bk.is_array(x):
            return "array", tuple(x.shape), str(x.dtype)
        if isinstance(x, float):
            return "float"
        if x is None or isinstance(x, (bool, int, complex, str, bytes)):
            return type(x), x
        self.left -= 1
        parts = self._parts(x) if depth < DEEPEST and self.left > 0 else None
        if parts is None:
            return self._itself(x)
        return (type(x), *(self._of(part, depth + 1) for part in parts))

    def _parts(self, x: Tree) -> list[object] | None:
        """What x is made of; None where it is only itself."""
        if isinstance(x, types.FunctionType):
            cells = [_content(cell) for cell in x.__closure__ or ()]
            return [x.__code__, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values(), *cells]
        if isinstance(x, types.MethodType):
            return [x.__func__, x.__self__]
        if isinstance(x, functools.partial):
            return [x.func, *x.args, *x.keywords, *x.keywords.values()]
        if isinstance(x, tuple):
            return list(x) if len(x) <= LONGEST else None
        if hasattr(type(x), "__wrapped__") or "__wrapped__" in getattr(x, "__dict__", ()):
            return [x.__wrapped__]
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            return [getattr(x, part.name) for part in dataclasses.fields(x)]
        return None

    def _itself(self, x: Tree) -> Hashable:
        if isinstance(x, types.CodeType):
            return x
        try:
            self.alive.append(weakref.ref(x))
        except TypeError:  # a list or a dict, say, whose contents may change: its kind tells
            return (type(x),)
        return type(x), id(x)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None
