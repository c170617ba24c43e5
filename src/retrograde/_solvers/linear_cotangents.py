"""Cotangents of the registers of a straight-line program (``linear_program``), read backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._types import Scalar, State

__all__ = ["Cotangents"]


class Cotangents:
    """Cotangents of registers while a program is read backwards.

    Attributes
    ----------
    acc
        Accumulator of the parameters' cotangents.
    t, h : scalar
        Cotangents of the step's start and size.
    inside : dict of str to Any
        Cotangents of the inside of a :class:`Step`, by its register.
    """

    def __init__(self, layout: Any, acc: Any, *, size: bool) -> None:
        self.layout, self.acc, self.size = layout, acc, size
        self.t: Scalar = 0.0
        self.h: Scalar = 0.0
        self.inside: dict[str, Any] = {}
        self._terms: dict[str, list[tuple[Scalar, State]]] = {}

    def add(self, name: str, weight: Scalar, ct: State) -> None:
        """Add ``weight * ct`` to a register's cotangent."""
        self._terms.setdefault(name, []).append((weight, ct))

    def pulled(self, names: Sequence[str | None]) -> tuple[Scalar, Sequence[State | None] | None]:
        """A weight, and cotangents that it is still to be put on; None unless there is but one.

        Put on what f's vjp makes of it, in the sum that takes that in, it saves a pass.
        """
        there = [name for name in names if name in self._terms]
        if len(there) != 1 or len(self._terms[there[0]]) != 1:
            return 1.0, None
        ((weight, lam),) = self._terms.pop(there[0])
        return weight, [lam if name == there[0] else None for name in names]

    def take(self, name: str) -> State | None:
        """A register's cotangent, complete and no longer needed here; None for zero."""
        terms = self._terms.pop(name, None)
        if terms is None:
            return None
        weight, ct = terms[0]
        if len(terms) == 1 and isinstance(weight, float) and weight == 1.0:
            return ct
        return self.layout.weighted(terms)
