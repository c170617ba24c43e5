"""Jacobians of small systems by one call of f, on a block of states side by side.

The complex step takes a call of f for each column of J, and autograd's rows a backward pass; of few
unknowns, these calls are most of a step's time. Most fields compute the same where y is a block of
shape (n, m), a state in each column: those made of reads of y's elements and arithmetic. Others
(``np.sum(y)``, ``y.size``, ``y @ A``) do not, or at other times, so no block is believed. f(t, y)
itself is known, and each block judges itself:

- real parts are those of f(t, y), in every column;
- all columns but one are moved by i e d_j, of d_j near the unit vectors, and give J; one is moved
  along a random d, and must give J d. Say column j's imaginary part is sum_l L_jl d_l: as all
  directions have random parts, J d is met if, and but for a set of measure zero only if, L_jl is
  0 for all l other than j and L_jj one and the same, so J itself;
- f at y (1 + delta), of a random delta of the size of a square root of rounding, rises by J y delta
  but for 1e-4: derivatives that ``abs`` and its like lose in complex arithmetic are seen.

Where one does not hold, or f raises, this step's Jacobian is made as if there were no blocks. That
is the same wherever a step is taken again, as it depends on where it begins alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .._backend.specialise import generic
from .._base.types import Array, Field, Namespace, State

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout, Linearisation
    from .._backend.reals import Reals

MOST = 512
"""Numbers of a block: of more, f's arithmetic takes longer than its calls."""

LOST = 1e-4
"""How much of a rise may be missing."""

SMALL = 2.0**-30
"""How far directions are from unit vectors: so much of rounding is left in J's zeros."""

E = 2.0**-100
"""The complex step."""


class Directions:
    """What states are moved by, column by column: near to unit vectors, along a random direction,
    and last by a difference; and what judges a block.

    Parameters
    ----------
    xp : namespace
        NumPy.
    n : int
        Unknowns.
    """

    def __init__(self, xp: Namespace, n: int) -> None:
        draw, count, eps = random.Random(n), n + 2, 2.0**-52
        delta, near = eps**0.5, eps**0.75
        noise = xp.asarray([[draw.gauss(0.0, 1.0) for _ in range(count)] for _ in range(n)])
        self.signs = delta * xp.asarray([draw.choice((-1.0, 1.0)) for _ in range(n)])
        self.both = xp.zeros((n, 2))
        """The random direction, and that of differences at y."""
        self.both[:, 0] = noise[:, -2]
        unit, off = xp.eye(n), -SMALL * noise[:, :n]
        self.steps = (1j * E) * noise
        self.steps[:, :n] = (1j * E) * (unit - off)
        # the inverse by its series: entries beside the diagonal are right to rounding of theirs
        back, power = unit, unit
        while xp.max(xp.abs(power)) > eps * eps:
            power = power @ off
            back = back + power
        self.back = back
        """From products with the directions near the unit vectors to those with these."""
        self.left = 4 * eps * SMALL
        """Of the sums of |J d|: entries of J that may be rounding alone."""
        # a block's real parts, then its random direction, may be off by so much of |f|, and of the
        # sums of |J d| along both directions
        self.weights = xp.zeros((3, count + 1))
        self.weights[0, :count] = near
        self.weights[2, :count] = near / delta
        self.weights[2, count - 1] += LOST
        self.weights[1, count] = 128 * eps


directions = functools.lru_cache(maxsize=64)(Directions)


class Columns:
    """Jacobians of a bound field at (t, y) where f(t, y) is known.

    Parameters
    ----------
    bk : AbstractBackend
    layout : Layout
        Of states that are one flat array, as y is.
    field : callable
    unseen : object or None
        The time that f is given where it does not look at it; None where it does.
    """

    def __init__(
        self, bk: AbstractBackend, layout: Layout, field: Field, unseen: object | None
    ) -> None:
        self.bk, self.field, self.unseen = bk, field, unseen
        self.xp: Namespace = bk.host(layout)
        self.n = layout.size
        self.along = directions(self.xp, self.n)

    def at(self, t: Array, y: State, slope: State) -> Array | None:
        """J at (t, y), a state with f's value there, shape (n, n); None where it may be wrong."""
        bk, along = self.bk, self.along
        if type(y) is tuple or not bk.hosts_now():
            return None
        y, time = bk.to_host(y), t if self.unseen is None else self.unseen
        moved = along.signs * y
        block = along.steps + y[:, None]
        block[:, -1] += moved
        try:
            (out,) = self.field(time, bk.from_host(block))
            out = bk.to_host(out)
        except Exception:  # whatever the library says of what it has no rule for
            return None
        if out.dtype != block.dtype or out.shape != block.shape:
            return None
        found = out.imag * (1.0 / E)
        matrix = found[:, : self.n].dot(along.back)
        right = self._right(bk.to_host(slope), moved, out.real, matrix, found[:, -2])
        return bk.from_host(matrix) if right else None

    def _right(self, slope: Array, moved: Array, real: Array, matrix: Array, judge: Array) -> bool:
        """Whether all columns are what they are to be; J's zeros are made zeros."""
        along, absolute, subtract = self.along, self.xp.absolute, self.xp.subtract
        both = along.both.copy()
        both[:, 1] = moved
        moduli, sizes = absolute(matrix), self.xp.empty((self.n, 3))
        absolute(slope, out=sizes[:, 0])
        sizes[:, 1:] = moduli.dot(absolute(both))
        matrix *= moduli > along.left * sizes[:, 1, None]
        total = matrix.dot(both)
        bound = sizes.dot(along.weights)
        bound += E**1.5  # second derivatives bring e**2 to real parts
        error = self.xp.empty_like(bound)
        subtract(real, slope[:, None], out=error[:, :-1])
        error[:, -2] -= total[:, 1]
        subtract(judge, total[:, 0], out=error[:, -1])
        good = absolute(error, out=error) <= bound
        return bool(self.xp.count_nonzero(good) == good.size)


class Known:
    """f at one (t, y), of which J is known (``Linearisation``).

    Parameters
    ----------
    matrix : array, shape (n, n)
    by_time : callable
        df/dt; None where f did not look at its time.
    """

    forward = False

    def __init__(self, matrix: Array, by_time: Callable[[], Array | None]) -> None:
        self.matrix, self.by_time = matrix, by_time

    def jvp(self, d: Array) -> Array:
        """J d for each row d."""
        return d @ self.matrix.T

    def vjp(self, w: Array) -> Array:
        """w J for each row w."""
        return w @ self.matrix


def first_of(
    columns: Columns | None, other: Callable[..., Linearisation]
) -> Callable[..., Linearisation]:
    """``linearise``: by a block where f's value is known, and where it is right; else the other."""

    if columns is None:
        return lambda reals, t, y, *, timed, slope=None: other(reals, t, y, timed=timed)
    blind = columns.unseen is not None

    def linearise(
        reals: Reals, t: Array, y: State, *, timed: bool, slope: State | None = None
    ) -> Linearisation:
        make = partial(other, reals, t, y, timed=timed)
        found = None if slope is None else columns.at(t, y, slope)
        if found is None:
            return make()
        return Known(found, lambda: None if blind else make().by_time())

    return linearise


def eligible(bk: AbstractBackend, layout: Layout, reals: Reals, structure: object) -> bool:
    """Whether blocks may serve: one flat array of few double-precision numbers, on the host."""
    if (
        bk.host(layout) is None or bk.itemsize(layout.real_dtype) < 8
    ):  # of float32, zeros are no zeros
        return False
    few = layout.size * (layout.size + 3) <= MOST and not reals.complex
    plain = reals.flat and layout.shapes == ((layout.size,),)
    return few and plain and structure in (None, "dense") and not generic()
