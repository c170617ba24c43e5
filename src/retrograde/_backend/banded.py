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
from typing import TYPE_CHECKING, NamedTuple

from .._base.types import Array
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
        self.height, n = self.lower + self.upper + 1, self.n
        _, self.seeds = colour_seeds(layout, pattern.columns_by)
        _, self.row_seeds = colour_seeds(layout, pattern.rows_by)
        places = [(i, j) for i, row in enumerate(pattern.rows) for j in row]
        by_column, by_row = pattern.columns_by, pattern.rows_by
        self.of_dense = self._stored(places, [i * n + j for i, j in places])
        self.of_column = self._stored(places, [by_column[j] * n + i for i, j in places])
        self.of_row = self._stored(places, [by_row[i] * n + j for i, j in places])
        every = [(d, j, j + d - self.upper) for d in range(self.height) for j in range(n)]
        inside = [0 <= i < n for _, _, i in every]
        self.down = self._pick([max(0, min(i, n - 1)) for _, _, i in every], inside, self.shape)
        """Of the rows i, where J x has what stands at (d, j);"""
        across = [(d, i + self.upper - d) for d in range(self.height) for i in range(n)]
        inside = [0 <= j < n for _, j in across]
        found = [d * n + max(0, min(j, n - 1)) for d, j in across]
        self.across = self._pick(found, inside, self.shape)
        """and of what is stored, of each row i by diagonals."""
        diagonal = [[float(d == self.upper)] * n for d in range(self.height)]
        self.identity = self.bk.array(diagonal, layout.real_dtype, layout.device)

    # --- gathering
    def _pick(self, index: Sequence[int], there: Sequence[bool], shape: Sequence[int]) -> Pick:
        xp, device = self.xp, self.layout.device
        found = self.bk.array(list(index), xp.int64, device)
        mask = self.bk.array(list(there), xp.bool, device)
        return Pick(found, xp.reshape(mask, tuple(shape)))

    def _stored(self, places: Sequence[tuple[int, int]], index: Sequence[int]) -> Pick:
        """What is stored of entries (i, j) that stand in a flat array at some indices."""
        found, there = [0] * (self.height * self.n), [False] * (self.height * self.n)
        for (i, j), at in zip(places, index, strict=True):
            place = (self.upper + i - j) * self.n + j
            found[place], there[place] = at, True
        return self._pick(found, there, self.shape)

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
        w, picks = max(self.lower, self.upper, 1), []
        for beside in (-1, 0, 1):
            index, there = [], []
            for k in range(count):
                for i in range(k * w, (k + 1) * w):
                    for j in range((k + beside) * w, (k + beside + 1) * w):
                        d = self.upper + i - j
                        inside = 0 <= d < self.height and 0 <= j < self.n and i < self.n
                        index.append(d * self.n + j if inside else 0)
                        there.append(inside)
            picks.append(self._pick(index, there, (count, w, w)))
        rest = [[float(k * w + i >= self.n) for i in range(w)] for k in range(count)]
        padding = self.bk.array(rest, self.layout.real_dtype, self.layout.device)
        return Blocks(w, count, picks, self._eye(w)[None, :, :] * padding[:, :, None])

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
