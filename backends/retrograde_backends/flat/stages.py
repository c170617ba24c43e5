"""States as one flat vector, stages as rows of a matrix: the fast form for eager libraries.

One matrix Z has y in row 0 and the stages below; a second one M holds the coefficients, scaled
by h once a step. Then a stage is one product of a row of M with rows of Z, whatever the number
of stages (measured: 11 us a step in NumPy where sums of arrays take 35). Rows major: the other
order is 7 times slower from n = 1,000. y1 itself is formed as y + (h b) K, which has a fifth of
the rounding error of the form with y in the product.

What differs between NumPy, CuPy and PyTorch is in a few methods that adapters override.

The cotangents of a step are rows of a matrix as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from operator import setitem
from typing import TYPE_CHECKING

import numpy as np

from retrograde._backend.stages import (
    ORDINARY,
    combination_rows,
    joint,
    normed2,
    placed,
    rescaled,
)
from retrograde._base.types import Array, DType, Field, Leaves, Namespace, Scale

from .attempt import Estimate, Norm, squared_norm

if TYPE_CHECKING:
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from .adapter import FlatBackend


LARGE = 1 << 12
"""States of as many elements are bound by memory, not by calls."""

SMALL_RTOL = 1e-15
"""Relative tolerances below this (0, say) are no divisors."""


def stamper(dtype: DType, origin: float | None = None) -> Callable[[float], Array]:
    """``t -> 0-d array of NumPy``, of a time of the clock that counts from the origin."""
    stamp = np.asarray if dtype == np.float64 else partial(np.asarray, dtype=dtype)
    return stamp if origin is None else lambda t: stamp(origin + t)


class FlatLayout:
    """States as flat vectors; leaves are views into them."""

    origin: float | None = None

    def __init__(self, bk: FlatBackend, like: Sequence[Array]) -> None:
        self.bk = bk
        self.xp = bk.xp
        self.dtype = like[0].dtype
        self.real_dtype = bk.real_dtype(like[0])
        self.device = bk.device_of(like[0])
        self._arrange(tuple(tuple(int(d) for d in x.shape) for x in like))

    def _arrange(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.shapes = shapes
        sizes = [math.prod(shape) for shape in shapes]
        ends = list(accumulate(sizes))
        self.slices = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.size = ends[-1]
        self.nbytes = self.size * self.bk.itemsize(self.dtype)
        self.plain = len(shapes) == 1 and len(shapes[0]) == 1
        self.alone = len(shapes) == 1

    def pack(self, leaves: Sequence[Array]) -> Array:
        if self.plain:
            return leaves[0]
        if self.alone:
            return leaves[0].reshape(-1)
        return self.bk.concat([x.reshape(-1) for x in leaves])

    def unpack(self, y: Array) -> Leaves:
        if self.plain:
            return (y,)
        if self.alone:
            return (y.reshape(self.shapes[0]),)
        return tuple(
            y[part].reshape(shape) for part, shape in zip(self.slices, self.shapes, strict=True)
        )

    def store(self, row: Array, leaves: Sequence[Array]) -> None:
        """Copy leaves into a row."""
        if self.plain:
            row[...] = leaves[0]
        elif self.alone:
            row[...] = leaves[0].reshape(-1)
        else:
            for part, leaf in zip(self.slices, leaves, strict=True):
                row[part] = leaf.reshape(-1)

    # --- parts
    def repeat(self, count: int) -> FlatLayout:
        twin = copy.copy(self)
        twin._arrange(self.shapes * count)
        return twin

    def split(self, s: Array, count: int) -> Leaves:
        n = s.shape[0] // count
        return tuple([s[i * n : (i + 1) * n] for i in range(count)])

    def join(self, parts: Sequence[Array]) -> Array:
        return parts[0] if len(parts) == 1 else self.bk.concat(parts)

    def own(self, leaves: Sequence[Array]) -> Array:
        return 1.0 * self.pack(leaves) if self.alone else self.pack(leaves)

    def weighted(self, terms: Sequence[tuple[float, Array]]) -> Array:
        w, x = terms[0]
        out = w * x
        for w, x in terms[1:]:
            out += x if w == 1.0 else w * x
        return out

    # --- arithmetic
    def time(self, t: float) -> Array:
        return self.bk.scalar_array(t, self)

    def at(self, origin: float) -> FlatLayout:
        return placed(self, origin)

    def axpy(self, y: Array, h: float, k: Array) -> Array:
        return y + h * k

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def zeros(self) -> Array:
        return self.bk.zeros(self.size, self.dtype, self.device)

    def inner(self, x: Array, y: Array) -> Array:
        """Real pairing of a cotangent state with a tangent (both flat or leaves), as held."""
        return self.bk.held(self.bk.flat_inner(x, y))

    def squares(self, x: Array) -> Array:
        """Sum of ``|x_i|**2`` as a 0-d array."""
        return self.bk.flat_inner(x, x)

    def norm2(self, x: Array, y: Array, scale: Scale) -> float:
        if scale.norm is not None:
            return float(normed2(self, x, (y,), scale))
        ratio = abs(x) / (scale.atol + scale.rtol * abs(y))
        found = self._mean(ratio)
        if ORDINARY[0] <= found <= ORDINARY[1]:
            return found
        mean = self._mean
        return rescaled(float(self.bk.scalar(ratio.max())), lambda most: mean(ratio / most))

    def error2(self, e: Array, y: Array, y1: Array, scale: Scale) -> float:
        if scale.norm is not None:
            return float(normed2(self, e, (y, y1), scale))
        size = self.xp.maximum(abs(y), abs(y1))
        return self._mean(abs(e) / (scale.atol + scale.rtol * size))

    def _mean(self, ratio: Array) -> float:
        """The mean square."""
        return float(self.bk.scalar(self.bk.flat_inner(ratio, ratio))) / self.size

    def finite(self, y: Array) -> bool:
        return bool(self.xp.isfinite(y).all())

    def stack(self, states: Sequence[Array]) -> Leaves:
        rows = self.bk.stack(states)
        k = len(states)
        if self.alone:
            return (rows.reshape((k, *self.shapes[0])),)
        return tuple(
            rows[:, part].reshape((k, *shape))
            for part, shape in zip(self.slices, self.shapes, strict=True)
        )

    def empty(self) -> Leaves:
        return tuple(self.bk.zeros((0, *s), self.dtype, self.device) for s in self.shapes)

    def row(self, leaves: Sequence[Array], i: int) -> Array:
        return self.pack([leaf[i] for leaf in leaves])


class FlatStages:
    """The stages of one explicit Runge-Kutta step as rows of a matrix.

    Parameters
    ----------
    layout : FlatLayout
    tableau : Tableau
    scale : Scale or None
        Tolerances in state form.
    """

    whole = True
    """Whether the last stage of an attempt was evaluated (``Tableau.late``)."""

    def __init__(self, layout: FlatLayout, tableau: Tableau, scale: Scale | None = None) -> None:
        bk = layout.bk
        self.bk, self.layout = bk, layout
        self.s = s = tableau.stages
        total = tableau.inside
        self.c, self.late = tableau.c, tableau.late
        self.stamp = bk.timer(layout)
        self.store, self.scale_into = layout.store, bk.scale_into
        like = (layout.size, layout.dtype, layout.device)
        # One block, with that of the error norm behind the stages. Freed once before it is used:
        # from then on the C library keeps pieces of that size instead of mapping each anew, f's
        # temporaries too (100,000 doubles: first solves took 3 times as long, later ones 5 % more).
        real, large = layout.dtype == layout.real_dtype, layout.size >= LARGE
        count = total + 1 + (scale is not None) * (4 if real else 1)
        block = bk.matrix(count, *like)
        if large:
            del block
            block = bk.matrix(count, *like)
        matrix, rest = block[: total + 1], block[total + 1 :]
        self.rows = [matrix[i] for i in range(total + 1)]
        self.slopes, self.all = matrix[1 : s + 1], matrix[1:]
        self.more = [(row, matrix[1 : s + 1 + j]) for j, row in enumerate(tableau.a[s:])]
        table = [list(row) for row in combination_rows(tableau)]
        self.scale = scale
        if scale is not None:
            self.scale, table[s + 1 :] = scaled_tolerances(layout, scale, table[s + 1 :])
        made = bk.coefficients([[1.0, *row] for row in table], *like[1:])
        self.scaled_all = scaled = 1.0 * made
        self.table, self.scaled = made[:, 1:], scaled[:, 1:]
        # stage i needs y and the i slopes before it
        self.products = [bk.product(scaled[i, : i + 1], matrix[: i + 1]) for i in range(s)]
        self.puts = [self.putter(row) for row in self.rows[1 : s + 1]]
        """Each copies a slope, flat, into its row."""
        steps = zip(self.c, self.products, self.puts, self.rows[1:], strict=False)
        self.plan = list(steps)
        self.start = self.putter(self.rows[0])
        self.again = partial(self.puts[0], self.rows[s])
        """The last slope of a step is the first one of the next."""
        # temporaries that f never sees are formed in place
        self.end = s - tableau.fsal  # the last slope is no part of y1 where the next step has it
        parts = scaled[s, 1 : self.end + 1], self.slopes[: self.end]
        self.large = large
        self.increment = bk.product(*parts, *([] if self.large else bk.matrix(1, *like)))
        self.y: Array = None
        self.h = self.t = 0.0
        if scale is not None:
            self.spare = rest[0]
            self.error, *coarse = (
                bk.product(row, self.slopes, self.spare) for row in scaled[s + 1 :, 1:]
            )
            self.coarse = coarse[0] if coarse else None
            self.buffers = rest[1:] if real else bk.matrix(3, like[0], layout.real_dtype, like[2])
            self.square = self.norm(bk.xp)

    def putter(self, row: Array) -> Callable[[Array], object]:
        """A call that copies a flat array into a row."""
        return partial(setitem, row, ...)

    def norm(self, xp: Namespace) -> Norm:
        """``(y, y1) -> error2``."""
        layout, scale = self.layout, self.scale
        assert scale is not None
        if scale.norm is not None:
            return _own_norm(layout, self.error, self.coarse, scale)
        estimates, tolerances = (self.error, self.coarse), (scale.rtol, scale.atol)
        complex_ = layout.dtype != layout.real_dtype
        return squared_norm(xp, estimates, tolerances, self.buffers, complex_)

    def begin(self, t: float, h: float, y: Array, k0: Leaves | None = None) -> Leaves | None:
        self.t, self.h, self.y = t, h, y
        rows = self.rows
        self.start(y)
        self.scale_into(self.table, h, self.scaled)
        if k0 is None:
            return None
        if k0[0] is not rows[1]:
            self.store(rows[1], k0)
        return (rows[1],)  # a copy: f may reuse the array that it returned

    def evaluate(self, field: Field, low: int, high: int) -> None:
        t, h, stamp = self.t, self.h, self.stamp
        field = getattr(field, "fresh", field)  # what products give is nobody's afterwards
        if self.layout.plain:
            for c, product, put, _ in self.plan[low:high]:
                put(field(stamp(t + c * h), product())[0])
            return
        for c, product, _, row in self.plan[low:high]:
            self.store(row, field(stamp(t + c * h), product()))

    def time(self, i: int) -> Array:
        return self.layout.time(self.t + self.c[i] * self.h)

    def combine(self, i: int) -> Array:
        return self.products[i]()

    def inside(self, i: int) -> Array:
        weights, slopes = self.more[i - self.s]
        return self.y + self.bk.dot(self._row([self.h * w for w in weights]), slopes)

    def put(self, i: int, k: Sequence[Array]) -> None:
        self.store(self.rows[i + 1], k)

    def result(self) -> Array:
        return self.total(self.y)

    def total(self, y: Array) -> Array:
        """y1 of the step from y whose slopes are known."""
        if not self.large:
            return y + self.increment()
        y1 = self.increment()  # a pass over memory less; a small sum in place takes longer
        y1 += y
        return y1

    def error2(self, y1: Array) -> float:
        return self.square(self.y, y1)

    def interpolate(self, weights: Sequence[float]) -> Array:
        return self.y + self.bk.dot(self._row([self.h * w for w in weights]), self.all)

    def slope(self, weights: Sequence[float]) -> Array:
        return self.bk.dot(self._row(weights), self.all)

    def derivative(self, i: int) -> Array:
        return self.rows[i + 1]

    def _row(self, weights: Sequence[float]) -> Array:
        return self.bk.coefficients(weights, self.layout.dtype, self.layout.device)


def scaled_tolerances(
    layout: FlatLayout, scale: Scale, errors: list[list[float]]
) -> tuple[Scale, list[list[float]]]:
    """Tolerances as arrays; a number rtol is put into the errors' coefficients (rtol None).

    e / (atol + rtol y) = (e / rtol) / (atol / rtol + y): one operation less a step. As
    arrays: a float operand costs a ufunc 0.2 us more than a 0-d array.
    """
    if scale.norm is not None:
        return scale, errors
    rtol, atol = scale.rtol, scale.atol
    if isinstance(rtol, float) and rtol >= SMALL_RTOL:
        errors = [[w / rtol for w in error] for error in errors]
        rtol, atol = None, atol / rtol
    parts = (
        x if x is None else layout.bk.coefficients(x, layout.real_dtype, layout.device)
        for x in (rtol, atol)
    )
    return Scale(*parts), errors


def _own_norm(layout: FlatLayout, error: Estimate, coarse: Estimate | None, scale: Scale) -> Norm:
    """``(y, y1) -> error2`` by the user's norm."""
    where = layout.bk.clock(layout).where

    def square(y: Array, y1: Array) -> float:
        found = normed2(layout, error(), (y, y1), scale)
        if coarse is not None:
            found = joint(found, normed2(layout, coarse(), (y, y1), scale), where)
        return float(found)

    return square


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
