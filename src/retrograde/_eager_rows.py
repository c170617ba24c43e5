"""Buffers and tables of eager loops: dicts and functions behind an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._types import State

__all__ = ["Lazy", "Rows"]


class Rows(dict[Any, Any]):
    """Rows by index; what is written to the scratch row is not kept alive."""

    def __init__(self, scratch: int | None) -> None:
        super().__init__()
        self.scratch = scratch

    def __reduce__(self) -> Any:
        return _filled, (self.scratch, dict(self))

    def __setitem__(self, i: int, y: State) -> None:
        if i != self.scratch:
            super().__setitem__(i, y)


def _filled(scratch: int | None, rows: dict[Any, Any]) -> Rows:
    """What was pickled or copied."""
    made = Rows(scratch)
    made.update(rows)
    return made


class Lazy:
    """A table whose entries are made when they are asked for."""

    def __init__(self, entry: Callable[[int], int]) -> None:
        self.entry = entry

    def __getitem__(self, i: int) -> int:
        return self.entry(i)
