"""The real numbers of a state, in a row: what Jacobians and linear systems are over.

Leaves stand one behind the other, flat; a complex number is a pair of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._base.types import Array, Leaves, State

if TYPE_CHECKING:
    from .protocols import Layout


class Reals:
    """The real numbers of states: rows of shape (n,), or (m, n) for m states at once."""

    whole = True
    """Whether they are of one system, so that unit vectors are directions in it."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.xp = layout, layout.xp
        self.complex = layout.dtype != layout.real_dtype
        pair = 2 if self.complex else 1
        self.sizes = [math.prod(shape) * pair for shape in layout.shapes]
        self.size = sum(self.sizes)
        self.flat = not isinstance(layout.zeros(), tuple)
        """Whether a state is one flat array."""

    def of_leaves(self, leaves: Sequence[Array]) -> Array:
        """Leaves in the user's shapes as a row."""
        xp = self.xp
        parts = [self._real(xp.reshape(x, (-1,))) for x in leaves]
        return parts[0] if len(parts) == 1 else xp.concat(parts)

    def of(self, y: State) -> Array:
        """A state as a row."""
        return self._real(y) if self.flat else self.of_leaves(y)

    def state(self, row: Array) -> State:
        """A row as a state."""
        return self._complex(row) if self.flat else self.layout.pack(self.leaves(row))

    def leaves(self, row: Array) -> Leaves:
        """A row as leaves in the user's shapes."""
        row, at, out = self._complex(row), 0, []
        for shape in self.layout.shapes:
            size = math.prod(shape)
            out.append(self.xp.reshape(row[at : at + size], shape))
            at += size
        return tuple(out)

    def _real(self, x: Array) -> Array:
        """Complex numbers as pairs."""
        if not self.complex:
            return x
        xp = self.xp
        return xp.reshape(xp.stack([xp.real(x), xp.imag(x)], axis=-1), (-1,))

    def _complex(self, row: Array) -> Array:
        """Pairs as complex numbers."""
        if not self.complex:
            return row
        xp, dtype = self.xp, self.layout.dtype
        return xp.astype(row[0::2], dtype) + 1j * xp.astype(row[1::2], dtype)
