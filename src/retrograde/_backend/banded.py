"""Linear systems of banded matrices, by blocks that are reduced pairwise.

A band is stored by diagonals, as LAPACK and ``scipy.linalg.solve_banded`` do:
``ab[upper + i - j, j] = W[i, j]``. It is cut into blocks as wide as the band, so that the matrix is
block tridiagonal, and every other block is eliminated until one is left (block cyclic reduction;
Heller 1976, doi:10.1137/0713042): log2 of so many turns of a few batched products, which suits
libraries whose calls are dear, and devices. Nothing is pivoted across blocks; a block that has no
inverse gives nan, and ``ok`` tells.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._base.types import Array, DType, Namespace
from .linear import Factors, Linear, Matrix, colour_seeds
from .structure import Products, bandwidth

if TYPE_CHECKING:
    from .protocols import Layout


class Pick(NamedTuple):
    """Entries to gather from a flat array, 0 where there is none.

    Attributes
    ----------
    index, there : array
        Of one shape.
    """

    index: Array
    there: Array


class Blocks(NamedTuple):
    """How a band is cut into blocks.

    Attributes
    ----------
    width, number : int
    picks : list of Pick, shape (number, width, width) each
        Blocks before, on and behind the diagonal.
    padding : array, shape (number, width, width)
        Ones on the diagonal behind the last unknown.
    """

    width: int
    number: int
    picks: list[Pick]
    padding: Array


class BandLinear(Linear):
    """Matrices by diagonals, shape (lower + upper + 1, n).

    Parameters
    ----------
    layout : Layout
    pattern : Products
        Where there are entries.
    """

    def __init__(self, layout: Layout, pattern: Products) -> None:
        super().__init__(layout)
        self.pattern, self.n = pattern, self.reals.size
        self.lower, self.upper = bandwidth(pattern.rows)
        self.height = self.lower + self.upper + 1
        _, self.seeds = colour_seeds(layout, pattern.columns_by)
        _, self.row_seeds = colour_seeds(layout, pattern.rows_by)
        diagonal = self._count(self.height)[:, None] == self.upper
        ones = self.xp.broadcast_to(diagonal, self.shape)
        self.identity = self.xp.astype(ones, layout.real_dtype)

    # --- gathering: each table is made where it is first needed
    @property
    def tables(self) -> Namespace:
        """The namespace of tables;"""
        return self.xp

    def _table(self, values: Sequence[Any], dtype: DType) -> Array:
        """and one of them."""
        return self.bk.array(values, dtype, self.layout.device)

    def _count(self, n: int) -> Array:
        """0, 1, ..."""
        return self._table(list(range(n)), self.tables.int64)

    def _pick(self, index: Array, there: Array) -> Pick:
        return Pick(self.tables.reshape(self._inside(index, there), (-1,)), there)

    def _inside(self, index: Array, there: Array) -> Array:
        """The index, 0 where there is nothing."""
        return self.tables.where(there, index, self.tables.zeros_like(index))

    @functools.cached_property
    def places(self) -> tuple[Array, Array, Array]:
        """Rows i and columns j of what is stored, and whether there is an entry."""
        n, rows = self.n, self.pattern.rows
        j = self._count(n)[None, :]
        i = j + self._count(self.height)[:, None] - self.upper
        there = (i >= 0) & (i < n)
        if not isinstance(rows[0], range):  # a pattern within a band
            known = [[False] * n for _ in range(self.height)]
            for row, columns in enumerate(rows):
                for column in columns:
                    known[self.upper + row - column][column] = True
            there = self._table(known, self.tables.bool)
        return i, j + 0 * i, there

    @functools.cached_property
    def of_dense(self) -> Pick:
        """What is stored, of a dense matrix;"""
        i, j, there = self.places
        return self._pick(i * self.n + j, there)

    @functools.cached_property
    def of_column(self) -> Pick:
        """of products with the seeds;"""
        i, _, there = self.places
        by = self._table(self.pattern.columns_by, self.tables.int64)
        return self._pick(by[None, :] * self.n + i, there)

    @functools.cached_property
    def of_row(self) -> Pick:
        """and of those with the seeds of rows."""
        i, j, there = self.places
        by = self._table(self.pattern.rows_by, self.tables.int64)
        by = self.tables.take(by, self.tables.reshape(self._inside(i, there), (-1,)))
        return self._pick(self.tables.reshape(by, self.shape) * self.n + j, there)

    @functools.cached_property
    def down(self) -> Pick:
        """Of a row x: x_i for what stands at (i, j);"""
        i = self.places[0]
        return self._pick(i, (i >= 0) & (i < self.n))

    @functools.cached_property
    def across(self) -> Pick:
        """and of what is stored, row i by diagonals."""
        d, i = self._count(self.height)[:, None], self._count(self.n)[None, :]
        j = i + self.upper - d
        return self._pick(d * self.n + j, (j >= 0) & (j < self.n))

    def _picked(self, x: Array, pick: Pick) -> Array:
        xp = self.xp
        found = xp.reshape(xp.take(xp.reshape(x, (-1,)), pick.index), pick.there.shape)
        return xp.where(pick.there, found, xp.zeros_like(found))

    # --- the matrix
    @property
    def shape(self) -> tuple[int, ...]:
        return self.height, self.n

    def of_matrix(self, matrix: Array) -> Array:
        if tuple(matrix.shape) == self.shape and self.height != self.n:
            return matrix
        return self._picked(matrix, self.of_dense)

    def _of_columns(self, products: Array) -> Array:
        return self._picked(products, self.of_column)

    def _of_rows(self, products: Array) -> Array:
        return self._picked(products, self.of_row)

    def _product(self, a: Array, x: Array, *, transposed: bool) -> Array:
        xp = self.xp
        if transposed:
            return xp.sum(a * self._picked(x, self.down), axis=0)
        return xp.sum(self._picked(a * x[None, :], self.across), axis=0)

    # --- blocks
    def _block_picks(self) -> Blocks:
        """As many as are halved again and again."""
        count = 1
        while count * max(self.lower, self.upper, 1) < self.n:
            count *= 2
        return self._pick_blocks(count)

    def _pick_blocks(self, count: int) -> Blocks:
        """How a matrix is cut into so many."""
        w, n = max(self.lower, self.upper, 1), self.n
        every = self._count(count * w)
        i = self.tables.reshape(every, (count, w, 1))
        on, picks = self.tables.reshape(every, (count, 1, w)), []
        for beside in (-w, 0, w):
            j = on + beside
            d = self.upper + i - j
            there = (d >= 0) & (d < self.height) & (j >= 0) & (j < n) & (i < n)
            picks.append(self._pick(d * n + j, there))
        rest = (i == on) & (i >= n)
        return Blocks(w, count, picks, self.tables.astype(rest, self.layout.real_dtype))

    @functools.cached_property
    def blocks(self) -> Blocks:
        """How a matrix is cut into blocks."""
        return self._block_picks()

    def _cut(self, b: Array) -> Array:
        """A row as blocks (count, w), zeros behind."""
        w, count, _, _ = self.blocks
        b = self.xp.concat([b, self.xp.zeros_like(b)[: count * w - self.n]])
        return self.xp.reshape(b, (count, w))

    # --- cyclic reduction
    def factor(self, matrix: Matrix) -> Factors:
        _, count, picks, padding = self.blocks
        low, on, high = (self._picked(matrix[0], pick) for pick in picks)
        on, mul, factors = on + padding, self.bk.matmul, []
        while count > 1:
            count //= 2
            odd_low, odd_high = low[1::2, ...], high[1::2, ...]
            inverse = self._inverse(on[1::2, ...])
            left = mul(low[0::2, ...], self._later(inverse))
            right = mul(high[0::2, ...], inverse)
            factors += [left, right, odd_low, inverse, odd_high]
            on = on[0::2, ...] - mul(left, self._later(odd_high)) - mul(right, odd_low)
            low, high = -mul(left, self._later(odd_low)), -mul(right, odd_high)
        return (*factors, self._inverse(on))

    def _later(self, x: Array) -> Array:
        """Each where the next one was, a zero first."""
        return self.xp.concat([self.xp.zeros_like(x[:1, ...]), x[:-1, ...]])

    def _sooner(self, x: Array) -> Array:
        """Each where the one before was, a zero last."""
        return self.xp.concat([x[1:, ...], self.xp.zeros_like(x[:1, ...])])

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        x = self._cut(b)
        solve = self._reduced_transposed if transposed else self._reduced
        return self.xp.reshape(solve(factors, x), (-1,))[: self.n]

    def _reduced(self, factors: Factors, b: Array) -> Array:
        times = self._times
        if len(factors) == 1:
            return times(factors[0], b)
        left, right, low, inverse, high = factors[:5]
        even, odd = b[0::2, ...], b[1::2, ...]
        even = even - times(left, self._later(odd)) - times(right, odd)
        even = self._reduced(factors[5:], even)
        odd = times(inverse, odd - times(low, even) - times(high, self._sooner(even)))
        return self._woven(even, odd)

    def _reduced_transposed(self, factors: Factors, b: Array) -> Array:

        def times(a: Array, x: Array) -> Array:
            return self._times(self._transposed(a), x)

        if len(factors) == 1:
            return times(factors[0], b)
        left, right, low, inverse, high = factors[:5]
        even, odd = b[0::2, ...], b[1::2, ...]
        odd = times(inverse, odd)
        even = even - times(low, odd) - self._later(times(high, odd))
        even = self._reduced_transposed(factors[5:], even)
        odd = odd - self._sooner(times(left, even)) - times(right, even)
        return self._woven(even, odd)

    def _woven(self, even: Array, odd: Array) -> Array:
        """Blocks of both in turn."""
        stacked = self.xp.stack([even, odd], axis=1)
        return self.xp.reshape(stacked, (-1, *even.shape[1:]))
