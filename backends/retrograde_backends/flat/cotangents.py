"""The cotangents of one step as rows of a matrix, as its stages are (``stages``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrograde._base.types import Array, Leaves

from .stages import FlatLayout

if TYPE_CHECKING:
    from retrograde._solvers.runge_kutta.tableau import Tableau

__all__ = ["FlatCotangents"]


class FlatCotangents:
    """The cotangents of one step as rows: g, then mu_s, ..., mu_1, so that u_i needs a prefix.

    A pass pushes the same stages in every step, or tells which it pushes no more (``forget``);
    rows of stages that it does not pull are zero.
    """

    def __init__(self, layout: FlatLayout, tableau: Tableau) -> None:
        bk = layout.bk
        self.bk, self.layout, self.s = bk, layout, tableau.inside
        s, a = self.s, tableau.a
        b = (*tableau.b, *[0.0] * (s - tableau.stages))
        matrix = bk.matrix(s + 1, layout.size, layout.dtype, layout.device)
        self.matrix = matrix
        self.rows = [matrix[i] for i in range(s + 1)]
        table = [[b[i]] + [a[j][i] for j in reversed(range(i + 1, s))] for i in range(s)]
        table = [row + [0.0] * (s - len(row)) for row in table]
        self.table = bk.coefficients(table, layout.dtype, layout.device)
        self.scaled = bk.coefficients(table, layout.dtype, layout.device)
        self.products = [bk.product(self.scaled[i, : s - i], matrix[: s - i]) for i in range(s)]
        ones = bk.coefficients([1.0] * (s + 1), layout.dtype, layout.device)
        self.sum = bk.product(ones, matrix)
        self.q: Array = None

    def begin(self, h: float, g: Array, q: Array = None) -> None:
        self.bk.scale_into(self.table, h, self.scaled)
        self.rows[0][...] = g
        self.q = q

    def forget(self, low: int) -> None:
        self.matrix[1 : self.s - low + 1][...] = 0.0

    def sources(self) -> Array:
        return None  # made when there is something to add

    def add_source(self, q: Array, weights: Sequence[float], ct: Array) -> Array:
        layout = self.layout
        if q is None:
            q = layout.bk.zeros((self.s, layout.size), layout.dtype, layout.device)
        for i, w in enumerate(weights):
            if w:
                q[i] += w * ct  # row by row: the outer product would be as large as q
        return q

    def lam(self, i: int) -> Leaves:
        u = self.products[i]()
        u = u if self.q is None else u + self.q[i]
        return self.layout.unpack(u)

    def push(self, i: int, mu: Sequence[Array]) -> None:
        self.layout.store(self.rows[self.s - i], mu)

    def total(self) -> Array:
        self.q = None
        return self.sum()
