"""Rows of states and tables of integers where loops are Python's: dicts and arrays.

Rows hold references; what the scratch row is given is not kept alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._base.errors import InputError
from .._base.types import State

if TYPE_CHECKING:
    from .._base.types import Array, Device, Function, Namespace


class Stack:
    """Rows of leaves, written into arrays that are made when the first row is known."""

    def __init__(self, xp: Namespace, rows: int) -> None:
        self.xp, self.rows = xp, rows
        self.leaves: list[Array] | None = None

    def put(self, i: int, leaves: Sequence[Array]) -> None:
        """Write row i."""
        if self.leaves is None:
            zeros = self.xp.zeros
            self.leaves = [
                zeros((self.rows, *x.shape), dtype=x.dtype, device=device_of(x)) for x in leaves
            ]
        for block, x in zip(self.leaves, leaves, strict=True):
            same_row(block[0, ...], x)
            block[i, ...] = x


def device_of(x: Array) -> Device:
    """Where an array lives, if its library says."""
    return getattr(x, "device", None)


def same_row(first: Array, x: Array) -> None:
    """Raise InputError unless a y is like the first one."""
    if x.shape != first.shape or x.dtype != first.dtype:
        raise InputError(
            f"`body` returned a y of {x.dtype}, shape {tuple(x.shape)}, after one of "
            f"{first.dtype}, shape {tuple(first.shape)}; return the same shape and dtype always."
        )


class Rows(dict[int, State]):
    """Rows by index; what is written to the scratch row is not kept alive."""

    def __init__(self, scratch: int | None) -> None:
        super().__init__()
        self.scratch = scratch

    def __reduce__(self) -> tuple[Function, tuple[int | None, dict[int, State]]]:
        return _filled, (self.scratch, dict(self))

    def __setitem__(self, i: int, y: State) -> None:
        if i != self.scratch:
            super().__setitem__(i, y)


def _filled(scratch: int | None, rows: dict[int, State]) -> Rows:
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
