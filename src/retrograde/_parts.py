"""States made of parts: cut into equal ones, joined, added up with weights (list form).

A solver may carry more than y from step to step (a second copy of y, a slope), and a solver of
separable systems moves the halves of a pair in turn. Both see a state as equal parts: as many
leaves each, and as many elements. What a part is, only its solver knows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ._types import Array, Scalar, State

__all__ = ["ListParts"]


class ListParts:
    """Parts of states that are tuples of leaves."""

    bk: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    size: int
    nbytes: int

    def repeat(self, count: int) -> Any:
        """The layout of ``count`` states in a row."""
        twin = copy.copy(self)
        twin.shapes, twin.dtypes = self.shapes * count, self.dtypes * count
        twin.size, twin.nbytes = self.size * count, self.nbytes * count
        return twin

    def split(self, s: State, count: int) -> tuple[State, ...]:
        """``count`` equal parts of a state; they may share its memory."""
        n = len(s) // count
        return tuple([s[i * n : (i + 1) * n] for i in range(count)])

    def join(self, parts: Sequence[State]) -> State:
        """The inverse of :meth:`split`; a new state unless there is but one part."""
        return tuple([x for part in parts for x in part])

    def own(self, leaves: Sequence[Array]) -> State:
        """What f or its vjp returned, as a state that stays when they are called again."""
        return tuple(leaves)

    def weighted(self, terms: Sequence[tuple[Scalar, State]]) -> State:
        """``sum w x`` over the (w, x) of at least one term: a new state or part."""
        add, out = self.bk.add_scaled, []
        for i in range(len(terms[0][1])):
            total: Any = None
            for w, x in terms:
                plain = isinstance(w, float) and w == 1.0
                if total is None:
                    total = x[i] if plain else w * x[i]
                else:
                    total = total + x[i] if plain else add(total, w, x[i])
            out.append(total)
        return tuple(out)
