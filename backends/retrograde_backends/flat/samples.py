"""Stages of batches whose samples have steps of their own, as rows of one matrix.

The slopes of a step, times the size of the step of each sample, are the rows of a matrix, so that a
stage is one product with a row of the tableau and one sum. Rows are a multiple of ``LANES`` numbers
long: then a product rounds a sample's numbers alike wherever in the batch the sample stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from retrograde._backend.stages import combination_rows, joint, known_zero

if TYPE_CHECKING:
    from retrograde._backend.samples import SampleLayout
    from retrograde._base.types import Array, Field, Leaves, Scalar, Scale, State
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from .adapter import FlatBackend

LANES = 64
"""No library of products works on more numbers at once."""


class _Matrix:
    """Rows of states (n, b), each one flat row of a padded matrix."""

    def __init__(self, layout: SampleLayout, bk: FlatBackend, count: int) -> None:
        self.shape = (layout.size, layout.samples)
        self.length = layout.size * layout.samples
        width = -(-self.length // LANES) * LANES
        self.flat = bk.matrix(count, width, layout.dtype, layout.device)
        self.rows = [self.view(self.flat[i]) for i in range(count)]

    def view(self, row: Array) -> Array:
        """A flat row as a state's array."""
        return row[: self.length].reshape(self.shape)


class FlatSampleStages:
    """The stages of one step of every sample."""

    whole = True

    def __init__(self, layout: SampleLayout, tableau: Tableau, scale: Scale | None = None) -> None:
        bk: FlatBackend = layout.bk.bk  # type: ignore[attr-defined]
        self.layout, self.scale, self.bk = layout, scale, bk
        self.slopes = slopes = _Matrix(layout, bk, tableau.inside)
        self.s = tableau.stages
        table = [*combination_rows(tableau), *tableau.a[self.s :]]
        last = len(table) - tableau.inside  # from row s + last on, those of the interpolant's own
        counts = [min(i, max(self.s, i - last)) for i in range(len(table))]
        weights = [bk.coefficients(row, layout.dtype, layout.device) for row in table]
        self.sums = [
            bk.sample_product(row[:count], slopes.flat[:count])
            for row, count in zip(weights, counts, strict=True)
        ]
        """Calls that form the weighted sums of slopes, times the sizes: new arrays."""
        self.coarse = tableau.b_coarse is not None
        self.c = bk.coefficients([[c] for c in tableau.c], layout.clock.dtype, layout.device)
        self.times: Array = None
        self.y: Array = None

    def begin(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None = None) -> Leaves | None:
        """Start a step of size h at (t, y); returns the k0 that is safe to keep."""
        self.y = y[0]
        self.times = self.layout.time(t + self.c * h)
        self.size = self.layout.weight(h)
        if k0 is not None:
            self.put(0, k0)
        return k0

    def time(self, i: int) -> Array:
        """t + c_i h as f is given it."""
        return self.times[i]

    def evaluate(self, field: Field, low: int, high: int) -> None:
        """Stages low, ..., high - 1: combine, call f, put."""
        rows = getattr(field, "rows", None)
        if rows is None:
            for i in range(low, high):
                self.put(i, field(self.time(i), self.combine(i)))
            return
        times, slopes, multiply, size = self.times, self.slopes.rows, self.bk.times_into, self.size
        for i in range(low, high):
            multiply(rows(times[i], self._sum(i)).T, size, slopes[i])

    def combine(self, i: int) -> State:
        """Y_i, a fresh state that f may keep."""
        return (self._sum(i) if i else self.y,)

    def inside(self, i: int) -> State:
        """Y_i of a stage of the interpolant's own."""
        return (self._sum(i - len(self.slopes.rows)),)

    def put(self, i: int, k: Sequence[Array]) -> None:
        """Store stage i's derivative."""
        self.bk.times_into(k[0], self.size, self.slopes.rows[i])

    def result(self) -> State:
        """y1."""
        return (self._sum(self.s),)

    def _sum(self, i: int) -> Array:
        """y and a weighted sum of slopes: a new array."""
        out = self.slopes.view(self.sums[i]())
        out += self.y
        return out

    def error2(self, y1: State) -> Scalar:
        """The squared norm of the scaled error estimate."""
        found = [self._norm2(self.sums[self.s + 1 + i], y1) for i in range(1 + self.coarse)]
        return joint(found[0], found[1], self.layout.clock.where) if self.coarse else found[0]

    def _norm2(self, error: Callable[[], Array], y1: State) -> Array:
        assert self.scale is not None
        e = self.slopes.view(error())
        return self.layout.error2((e,), (self.y,), y1, self.scale)

    def interpolate(self, weights: Sequence[Scalar]) -> State:
        """y + h sum_i w_i k_i."""
        return (self.y + self._weighted(weights),)

    def slope(self, weights: Sequence[Scalar]) -> State:
        """sum_i w_i k_i."""
        return (self._weighted(weights) / self.size,)

    def _weighted(self, weights: Sequence[Scalar]) -> Array:
        """The sum of weights of each sample times the slopes, times the sizes."""
        pairs = zip(weights, self.slopes.rows, strict=False)
        terms = [self.layout.weight(w) * k for w, k in pairs if not known_zero(w)]
        if not terms:
            return 0.0 * self.y
        total = terms[0]
        for term in terms[1:]:
            total += term
        return total

    def derivative(self, i: int) -> State:
        """k_i in state form."""
        return (self.slopes.rows[i] / self.size,)


class FlatSampleCotangents:
    """The cotangents of one step's stages, of every sample."""

    def __init__(self, layout: SampleLayout, tableau: Tableau) -> None:
        bk: FlatBackend = layout.bk.bk  # type: ignore[attr-defined]
        self.layout, self.bk = layout, bk
        self.count = tableau.inside
        self.low = self.count
        b = (*tableau.b, *[0.0] * (tableau.inside - tableau.stages))
        a = tableau.a
        columns = [(b[i], *(row[i] if i < len(row) else 0.0 for row in a)) for i in range(len(b))]
        self.rows = rows = _Matrix(layout, bk, self.count + 1)
        weights = [bk.coefficients(row, layout.dtype, layout.device) for row in columns]
        self.sums = [bk.sample_product(row, rows.flat) for row in weights]
        self.g: Array = None
        self.q: tuple[State, ...] | None = None

    def begin(self, h: Scalar, g: State, q: tuple[State, ...] | None = None) -> None:
        """Start with the cotangent g of y1 and, per stage, q_i on k_i (or None)."""
        self.size, self.q, self.g = self.layout.weight(h), q, g[0]
        self.rows.flat[...] = 0.0
        self.rows.rows[0][...] = g[0]

    def forget(self, low: int) -> None:
        """Stages from ``low`` on are not pulled from now on: ``begin`` forgets them."""

    def sources(self) -> tuple[State, ...]:
        """The q_i of a step, zero."""
        return (self.layout.zeros(),) * self.count

    def add_source(
        self, q: tuple[State, ...], weights: Sequence[Scalar], ct: State
    ) -> tuple[State, ...]:
        """q_i + w_i ct for every stage."""
        axpy = self.layout.axpy
        pairs = zip(q, weights, strict=True)
        return tuple(qi if known_zero(w) else axpy(qi, w, ct) for qi, w in pairs)

    def lam(self, i: int) -> State:
        """u_i = h (b_i g + sum_j>i a_ji mu_j) + q_i."""
        out = self.rows.view(self.sums[i]())
        out *= self.size
        if self.q is not None:
            out += self.q[i][0]
        return (out,)

    def push(self, i: int, mu: Sequence[Array]) -> None:
        """Store the cotangent of Y_i."""
        self.rows.rows[i + 1][...] = mu[0]

    def total(self) -> State:
        """g + sum_i mu_i, the cotangent of y."""
        return (self.rows.flat.sum(0)[: self.rows.length].reshape(self.rows.shape),)
