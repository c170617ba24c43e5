"""Linear algebra of implicit methods: Jacobians, ``W = c M - J``, its factorisation and solves.

A matrix is over the *reals* of a state: its leaves one behind the other, flat, each complex number
a pair (so f need not be holomorphic). How f is differentiated is the affair of the bound field
(``Linearisation``); here products with few directions are made a matrix: with unit vectors for a
dense one, and, for a batch whose samples do not meet (``structure="batch"``), with unit vectors of
all samples at once, which gives a matrix (b, n, n) for n products.

The generic form is the inverse and products with it: one dear call a step, and accurate enough
(SciML and the measurements of this project see no difference on stiff problems). A singular matrix
has an inverse of nan, which ``ok`` tells; nothing raises.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Array, Bool, Leaves, Scalar, State
from .reals import Reals
from .structure import Banded, Coloured, Products, Structure, bandwidth, narrow, products

if TYPE_CHECKING:
    from .protocols import Layout, LinearField, Linearisation

Matrix: TypeAlias = Leaves
"""A matrix in the storage of its structure."""

Factors: TypeAlias = Leaves
"""What solves take; made of arrays, so that loops can carry it."""


class Linear(ABC):
    """Jacobians of states of a layout, and linear systems in them.

    Parameters
    ----------
    layout : Layout
    """

    conjugated = False
    """Whether the library pairs complex cotangents without conjugation."""

    seeds: Array
    """Directions whose products J d give the Jacobian, (m, n);"""

    row_seeds: Array
    """and cotangents whose products w J give it."""

    n: int
    """Rows of one matrix."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.bk, self.xp = layout, layout.bk, layout.xp
        self.reals = Reals(layout)

    # --- derivatives of f
    def derivatives(
        self, field: LinearField, t: Array, y: State, slope: State | None = None
    ) -> tuple[Matrix, State | None]:
        """The Jacobian and df/dt at (t, y); None for df/dt where f does not see its time.

        ``slope``: f(t, y), where it is known.
        """
        found = field.linearise(self.reals, t, y, timed=True, slope=slope)
        matrix, slope = self.of_products(found), found.by_time()
        return matrix, None if slope is None else self.reals.state(slope)

    def jacobian(self, field: LinearField, t: Array, y: State) -> Matrix:
        """df/dy at (t, y); t as f is given it, y a state, the field as the problem binds it."""
        return self.of_products(field.linearise(self.reals, t, y, timed=False))

    def time_derivative(self, field: LinearField, t: Array, y: State) -> State:
        """df/dt at (t, y) as a state."""
        slope = field.linearise(self.reals, t, y, timed=True).by_time()
        return self.layout.zeros() if slope is None else self.reals.state(slope)

    def of_products(self, found: Linearisation) -> Matrix:
        """The Jacobian of f linearised, in the storage of the structure."""
        if found.matrix is not None:
            return (self.of_matrix(found.matrix),)
        if found.forward:
            return (self._of_columns(found.jvp(self.seeds)),)
        return (self._of_rows(found.vjp(self.row_seeds)),)

    @abstractmethod
    def of_matrix(self, matrix: Array) -> Array:
        """A matrix of the user's in the storage of the structure."""

    @abstractmethod
    def _of_columns(self, products: Array) -> Array:
        """The matrix of its products J d with the seeds."""

    @abstractmethod
    def _of_rows(self, products: Array) -> Array:
        """The matrix of its products w J with the seeds of rows."""

    # --- algebra
    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of a matrix as it is stored."""

    def lacks(self, matrix: Matrix, d: Array, exact: Array, *, transposed: bool = False) -> Bool:
        """Whether a matrix as it is stored is not the one whose product with a row d is ``exact``.

        Each number of the product is held to the sum of the moduli of its terms, so that what is
        rounded away is none of it; nan lacks nothing.
        """
        xp, most = self.xp, self.xp.max(self.xp.abs(exact))

        def times(a: Array, x: Array) -> Array:
            row = self._product(a, self._row(self.reals.state(x)), transposed=transposed)
            return self.reals.of(self._state(row))

        kept, terms = times(matrix[0], d), times(xp.abs(matrix[0]), xp.abs(d))
        near = self.bk.itemsize(self.layout.real_dtype) ** -6.0
        return xp.any(xp.abs(exact - kept) > near * (terms + 1e-6 * near * most))

    def confirmed(
        self, matrix: Matrix, point: tuple[Array, State], w: State, pulled: State
    ) -> State:
        """The pull of a cotangent w by f's vjp, where it is that by the Jacobian that steps use.

        Else the gradient would not be that of the solve: an error where values are known, and nan
        in traced code. ``point``: (t, y), where both are taken.
        """
        bk, rows = self.bk, [self.reals.of(self._paired(x)) for x in (w, pulled)]
        off = self.lacks(matrix, *rows, transposed=True)
        known = bk.concrete(off)
        if known is None:
            return bk.map_state(lambda x: bk.nan_unless(~off, x), pulled)
        if known:
            raise UnsupportedByBackend(
                "the Jacobian that steps use is not that of `f` at t = "
                f"{bk.concrete(point[0])!r}, so there is no exact gradient. A `jac` of yours is "
                "off there (`rg.check_jac` tells which entry); or f has a branch there that is not "
                "analytic (`abs`, `.real`, a cast to real numbers), through which its complex step "
                "loses a part: write it without, or pass `rg.VectorField(f, jac=...)`."
            )
        return pulled

    def drops(self, matrix: Array) -> Bool:
        """Whether the storage of the structure has no place for entries of a dense matrix."""
        n = self.reals.size
        if math.prod(matrix.shape) != n * n:
            return False
        matrix = self.xp.reshape(matrix, (n, n))
        numbers = [math.sin(1.0 + i) for i in range(n)]
        d = self.bk.array(numbers, self.layout.real_dtype, self.layout.device)
        exact = self.bk.matmul(matrix, d[:, None])[:, 0]
        return self.lacks((self.of_matrix(matrix),), d, exact)

    def norm(self, matrix: Matrix) -> Scalar:
        """The largest sum of a column's moduli: no eigenvalue's is larger."""
        sums = self.xp.sum(self.xp.abs(matrix[0]), axis=-2)
        return self.bk.clock(self.layout).real(self.xp.max(sums))

    identity: Array
    """The identity as it is stored."""

    def mass(self, matrix: Array) -> Matrix:
        """A constant M of the user's, shape (n, n), in the storage of the structure."""
        return (self.of_matrix(self.bk.array(matrix, self.layout.real_dtype, self.layout.device)),)

    def shifted(self, matrix: Matrix, c: Scalar, mass: Matrix | None = None) -> Matrix:
        """``c M - J``, with the identity where there is no M."""
        m = self.identity if mass is None else mass[0]
        return (c * m - matrix[0],)

    @abstractmethod
    def factor(self, matrix: Matrix) -> Factors:
        """What solves with the matrix take."""

    def ok(self, factors: Factors) -> Bool:
        """Whether a matrix could be factored; where it holds nan, solves with it give nan."""
        xp, finite = self.xp, True
        for x in factors:
            finite = self.bk.both(finite, xp.all(xp.isfinite(x)))
        return finite

    def solve(self, factors: Factors, b: State) -> State:
        """x of ``W x = b``."""
        return self._state(self._solved(factors, self._row(b), transposed=False))

    def bound(self, factors: Factors) -> Callable[[State], State]:
        """``solve`` with these factors, in the cheapest form: for many right-hand sides."""
        return partial(self.solve, factors)

    def solve_transposed(self, factors: Factors, b: State) -> State:
        """The cotangent x with ``<x, W v> = <b, v>`` for all v, of a cotangent b."""
        row = self._solved(factors, self._row(b, cotangent=True), transposed=True)
        return self._state(row, cotangent=True)

    def product(self, matrix: Matrix, x: State) -> State:
        """``J x``."""
        return self._state(self._product(matrix[0], self._row(x), transposed=False))

    def product_transposed(self, matrix: Matrix, x: State) -> State:
        """The cotangent y with ``<y, v> = <x, J v>`` for all v, of a cotangent x."""
        row = self._product(matrix[0], self._row(x, cotangent=True), transposed=True)
        return self._state(row, cotangent=True)

    def mass_product(self, mass: Matrix, x: State) -> State:
        """``M x``."""
        return self.product(mass, x)

    def mass_product_transposed(self, mass: Matrix, x: State) -> State:
        """The cotangent y with ``<y, v> = <x, M v>`` for all v."""
        return self.product_transposed(mass, x)

    def outer(self, xs: Sequence[State], ys: Sequence[State]) -> Array:
        """``sum_i x_i y_i^T``, shape (n, n): the cotangent of M in ``sum_i <x_i, M y_i>``."""
        xp = self.xp
        left, right = (
            xp.concat([xp.reshape(self._row(x), (-1, self.n)) for x in states])
            for states in (xs, ys)
        )
        return self.bk.matmul(xp.matrix_transpose(left), right)

    @abstractmethod
    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        """The same of rows."""

    @abstractmethod
    def _product(self, a: Array, x: Array, *, transposed: bool) -> Array:
        """The same of rows."""

    def _row(self, x: State, *, cotangent: bool = False) -> Array:
        return self.reals.of(self._paired(x) if cotangent else x)

    def _state(self, row: Array, *, cotangent: bool = False) -> State:
        x = self.reals.state(row)
        return self._paired(x) if cotangent else x

    def _paired(self, x: State) -> State:
        """A cotangent in the library's convention as one of pairs of reals, and back."""
        if not (self.conjugated and self.reals.complex):
            return x
        return self.bk.map_state(self.xp.conj, x)

    # --- what libraries do in ways of their own
    def _eye(self, n: int) -> Array:
        return self.xp.eye(n, dtype=self.layout.real_dtype, device=self.layout.device)

    def _transposed(self, a: Array) -> Array:
        return self.xp.matrix_transpose(a)

    def _times(self, a: Array, x: Array) -> Array:
        """Products of matrices and vectors, (..., n, n) and (..., n)."""
        return self.bk.matmul(a, x[..., None])[..., 0]

    def _inverse(self, a: Array) -> Array:
        """Inverses of (..., n, n); nan where there is none."""
        try:
            return self._linalg().inv(a)
        except (ValueError, RuntimeError, ArithmeticError):  # each library has an error of its own
            if len(a.shape) == 2:
                return self.xp.full_like(a, math.nan)
        return self.xp.stack([self._inverse(a[i, ...]) for i in range(a.shape[0])])

    def _linalg(self) -> Any:
        found = getattr(self.xp, "linalg", None)
        if not hasattr(found, "inv"):
            raise UnsupportedByBackend(
                f"the backend {getattr(self.bk, 'name', 'of y0')!r} has no linear algebra "
                "(`xp.linalg.inv`), which implicit methods need; choose an explicit method, such "
                "as 'tsit5', or NumPy, PyTorch or JAX."
            )
        return found


class DenseLinear(Linear):
    """Matrices (n, n), or (b, n, n) of a batch whose samples do not meet.

    Parameters
    ----------
    layout : Layout
    batch : bool
        ``structure="batch"``: axis 0 of every leaf counts samples.
    pattern : Products or None
        Where there are entries.
    """

    def __init__(
        self, layout: Layout, *, batch: bool = False, pattern: Products | None = None
    ) -> None:
        super().__init__(layout)
        self.batch, self.pattern = batch, pattern
        counts = {shape[0] if shape else 0 for shape in layout.shapes} if batch else {1}
        if len(counts) > 1 or 0 in counts:
            raise InputError(
                f'`structure` is "batch", but the leaves of `y0` have shapes {layout.shapes}: '
                "axis 0 of each must count the samples. Leave `structure` out, or say what the "
                "Jacobian is."
            )
        self.samples = counts.pop()
        self.n = self.reals.size // self.samples
        self.widths = [size // self.samples for size in self.reals.sizes]
        self.identity = self._eye(self.n)
        self.seeds = self.row_seeds = self._flat(self._seeds()) if batch else self.identity
        if pattern is not None:
            self.columns_by, self.seeds = colour_seeds(layout, pattern.columns_by)
            self.rows_by, self.row_seeds = colour_seeds(layout, pattern.rows_by)
            self.mask = self._mask(pattern.rows)

    def _mask(self, rows: Sequence[Sequence[int]]) -> Array:
        there = [[False] * self.n for _ in rows]
        for line, row in zip(there, rows, strict=True):
            for j in row:
                line[j] = True
        return self.bk.array(there, self.xp.bool, self.layout.device)

    # --- rows, one a sample
    def _seeds(self) -> Array:
        """Unit vectors of all samples at once, shape (n, b, n)."""
        n, b, xp = self.n, self.samples, self.xp
        return xp.broadcast_to(xp.reshape(self.identity, (n, 1, n)), (n, b, n))

    def _blocks(self, row: Array) -> Array:
        """A row (or rows) as one a sample, shape (..., b, n)."""
        if not self.batch:
            return row
        return self._cut(row, self.reals.sizes, (*row.shape[:-1], self.samples, -1))

    def _flat(self, blocks: Array) -> Array:
        """The inverse."""
        if not self.batch:
            return blocks
        return self._cut(blocks, self.widths, (*blocks.shape[:-2], -1))

    def _cut(self, x: Array, sizes: Sequence[int], shape: tuple[int, ...]) -> Array:
        """Parts of the last axis, each in a shape, one behind the other again."""
        xp, at, parts = self.xp, 0, []
        if len(sizes) == 1:
            return xp.reshape(x, shape)
        for size in sizes:
            parts.append(xp.reshape(x[..., at : at + size], shape))
            at += size
        return xp.concat(parts, axis=-1)

    def _row(self, x: State, *, cotangent: bool = False) -> Array:
        return self._blocks(super()._row(x, cotangent=cotangent))

    def _state(self, row: Array, *, cotangent: bool = False) -> State:
        return super()._state(self._flat(row), cotangent=cotangent)

    # --- the matrix
    @property
    def shape(self) -> tuple[int, ...]:
        return (self.samples, self.n, self.n) if self.batch else (self.n, self.n)

    def of_matrix(self, matrix: Array) -> Array:
        if self.batch and math.prod(matrix.shape) == self.n**2:
            return self.xp.broadcast_to(matrix, self.shape)
        return self.xp.reshape(matrix, self.shape)

    def _of_columns(self, products: Array) -> Array:
        xp = self.xp
        if self.pattern is not None:
            whole = xp.matrix_transpose(xp.take(products, self.columns_by, axis=0))
            return xp.where(self.mask, whole, xp.zeros_like(whole))
        axes = (1, 2, 0) if self.batch else (1, 0)
        return xp.permute_dims(self._blocks(products), axes)

    def _of_rows(self, products: Array) -> Array:
        xp = self.xp
        if self.pattern is not None:
            whole = xp.take(products, self.rows_by, axis=0)
            return xp.where(self.mask, whole, xp.zeros_like(whole))
        blocks = self._blocks(products)
        return xp.permute_dims(blocks, (1, 0, 2)) if self.batch else blocks

    # --- algebra
    def factor(self, matrix: Matrix) -> Factors:
        return (self._inverse(matrix[0]),)

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        return self._product(factors[0], b, transposed=transposed)

    def _product(self, a: Array, x: Array, *, transposed: bool) -> Array:
        return self._times(self._transposed(a) if transposed else a, x)


class Storage(NamedTuple):
    """How a structure stores a matrix.

    Attributes
    ----------
    shape : tuple of int
        Of a matrix as it is stored.
    products : int
        How many products give a Jacobian.
    pattern : Products or None
        Where there are entries.
    band : bool
        Whether it is stored by diagonals.
    """

    shape: tuple[int, ...]
    products: int
    pattern: Products | None = None
    band: bool = False


def storage(layout: Layout, structure: Structure) -> Storage:
    """That of a structure over states of a layout; nothing of a matrix' size is made."""
    n = Reals(layout).size
    if isinstance(structure, (Banded, Coloured)):
        pairs = layout.dtype != layout.real_dtype
        pattern = products(structure, layout.size, pairs=pairs)
        count, band = 1 + max(pattern.columns_by), isinstance(structure, Banded)
        if band or narrow(pattern.rows):
            return Storage((1 + sum(bandwidth(pattern.rows)), n), count, pattern, band=True)
        return Storage((n, n), count, pattern)
    if structure == "batch" and layout.shapes[0]:
        samples = int(layout.shapes[0][0])
        n //= samples
        return Storage((samples, n, n), n)
    return Storage((n, n), n)


def colour_seeds(layout: Layout, by: Sequence[int]) -> tuple[Array, Array]:
    """Colours as an array, and the sum of the unit vectors of each."""
    xp, bk, device = layout.xp, layout.bk, layout.device
    found = bk.array(list(by), xp.int64, device)
    every = bk.array(list(range(max(by) + 1)), xp.int64, device)
    return found, xp.astype(found[None, :] == every[:, None], layout.real_dtype)


def linear_algebra(
    layout: Layout,
    structure: Structure,
    *,
    dense: Callable[..., Linear] = DenseLinear,
    band: Callable[[Layout, Products], Linear],
) -> Linear:
    """The linear algebra of a structure, from a library's forms of it."""
    if isinstance(structure, (Banded, Coloured)):
        found = storage(layout, structure)
        assert found.pattern is not None
        return band(layout, found.pattern) if found.band else dense(layout, pattern=found.pattern)
    if structure not in (None, "dense", "batch"):
        raise InputError(
            f'`structure` is {structure!r}; choose "dense", "batch", rg.Banded(lower, upper) or '
            "rg.Coloured(pattern)."
        )
    return dense(layout, batch=structure == "batch")
