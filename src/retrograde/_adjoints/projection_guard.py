"""The guard of inverted steps: random projections of every state, noted on the way forward.

A state of more than four numbers is projected on four Gaussian vectors; the mean square of what
the projections of an error give is, on average, the square of the error itself. They see less
than a tenth of an error with probability 2e-4 (chi-square of four degrees), one alone with 0.08:
a guard is statistical and of first order, not a proof. States of up to four numbers are noted as
they are: signs or few projections can be blind to them.

The vectors repeat along the state in blocks with random signs, so that they take little memory
beside a large state, and a projection reads the state once. They come from a fixed seed: both
passes make the same ones. Source: Johnson & Lindenstrauss 1984 for the projections; what is
guarded follows the error of reconstructed states, not of continuous adjoints, whose states' error
does not bound the gradient's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from .._base.types import Array, Body, Carry, CountedBody, Index, Scalar, State, Table

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout
    from .._integrate.integrator import Integrator

PROJECTIONS = 4
WHOLE = 256
"""Elements up to which the vectors are as long as the state."""
LONGEST = 4096
"""Longest block of the vectors."""


def guard_width(layout: Layout) -> int:
    """Reals noted for each state."""
    return int(min(PROJECTIONS, _reals(layout)))


def noted_rows(n: int, every: int) -> int:
    """States noted of n steps: every so many, but never the first, which is stored."""
    return max(1, n // every)


def guard_bytes(layout: Layout) -> int:
    """Bytes of the projection vectors."""
    if _reals(layout) <= PROJECTIONS:
        return 0
    numbers = PROJECTIONS * (_block(layout.size) + _blocks(layout)) * _parts(layout)
    return numbers * int(layout.bk.itemsize(layout.real_dtype))


class Guard:
    """Notes states on the way forward, and tells how far others are from them.

    Parameters
    ----------
    loop : Integrator
    every : int or None
        Steps from one noted state to the next; None notes nothing (``apart`` is left).
    """

    def __init__(self, loop: Integrator, every: int | None) -> None:
        self.bk, self.layout, self.clock = loop.bk, loop.carried, loop.clock
        self.every = 0 if every is None else every
        self.width = guard_width(self.layout)
        self.whole = _reals(self.layout) <= PROJECTIONS
        self.vectors = None if self.whole or not every else _Vectors(self.bk, self.layout)

    def table(self, n: int | None) -> Table:
        """Room for what is noted of n steps (None: of any number)."""
        rows = None if n is None else noted_rows(n, self.every)
        return self.bk.real_rows(rows, self.width, self.layout)

    def note(self, table: Table, i: Index, y: State) -> Table:
        """The table with the state before step i noted, if it is one to be noted."""

        def keep(table: Table, y: State) -> Table:
            return self.bk.table_set(table, self._row(i), self._sketch(y))

        if self.every == 1:
            return keep(table, y)
        return self.bk.cond(i % self.every == 0, keep, lambda table, y: table, table, y)

    def _row(self, i: Index) -> Index:
        """The row of the state before step i; a first try that fails writes one it gives up."""
        return self.bk.pick(i < self.every, 0, i // self.every - 1)

    def on_grid(self, step: CountedBody) -> CountedBody:
        """A counted step that notes its end; the table is the carry's last entry.

        Noting its start, which takes a pass over the state, keeps XLA from stepping in place.
        """

        def noted(i: Index, s: Carry) -> Carry:
            after = step(i, s[:-1])
            return *after, self.note(s[-1], i + 1, after[0])

        return noted

    def on_tries(self, step: Body) -> Body:
        """A try that notes where it ends, over pairs of its state and the table."""

        def noted(s: Carry) -> Carry:
            after = step(s[0])
            return after, self.note(s[1], after.n, after.y)

        return noted

    def error(self, table: Table, i: Index, y: State) -> Scalar:
        """Relative distance of y from the noted state before step i; nan where y is."""
        e = self._sketch(y) - self.bk.table_get(table, self._row(i))
        square = self.bk.xp.sum(e * e)
        return self._relative(square if self.whole else square / PROJECTIONS, y)

    def apart(self, x: State, y: State) -> Scalar:
        """Relative distance of the state x from the true one y."""
        e = self.layout.axpy(x, -1.0, y)
        return self._relative(self.layout.squares(e), y)

    def _relative(self, square: Scalar, y: State) -> Scalar:
        size = self.layout.squares(y)
        if not self.clock.traced:  # one number is read, not two
            square, size = self.bk.scalar(square / size), 1.0
        return self.clock.root(square, size)

    def _sketch(self, y: State) -> Array:
        """What is noted of a state, shape (width,)."""
        xp, complex_ = self.bk.xp, _parts(self.layout) == 2
        total: Array = None
        found: list[Array] = []
        at = 0
        for leaf in y if isinstance(y, tuple) else (y,):
            flat = xp.reshape(leaf, (-1,))
            parts = (xp.real(flat), xp.imag(flat)) if complex_ else (flat,)
            if self.vectors is None:
                found += parts
                continue
            for kind, part in enumerate(parts):
                p = self.vectors.project(kind, part, at)
                total = p if total is None else total + p
            at += flat.shape[0]
        if self.vectors is not None:
            return total
        return found[0] if len(found) == 1 else xp.concat(found)


class _Vectors:
    """Four Gaussian vectors in blocks with random signs (twice where states are complex)."""

    def __init__(self, bk: AbstractBackend, layout: Layout) -> None:
        self.bk, self.xp, self.block = bk, bk.xp, _block(layout.size)
        drawn = [_drawn(kind, self.block, _blocks(layout)) for kind in range(_parts(layout))]
        self.rows = [bk.real_array(rows, layout) for rows, _ in drawn]
        self.signs = [bk.real_array(signs, layout) for _, signs in drawn]

    def project(self, kind: int, x: Array, at: int) -> Array:
        """Projections of a flat leaf that begins at element ``at`` of the state."""
        rows, block = self.rows[kind], self.block
        count, first = x.shape[0] // block, at // block
        rest = x.shape[0] - count * block
        total: Array = None
        if count:
            parts = self.xp.reshape(x[: count * block], (count, block))
            blocks = self.bk.matmul(parts, rows.T)
            total = self.xp.sum(self.signs[kind][first : first + count, :] * blocks, axis=0)
        if rest:
            # leaves shorter than a block take different parts of it
            low = at % (block - rest + 1)
            part = self.bk.matmul(rows[:, low : low + rest], x[count * block :])
            total = part if total is None else total + part
        return total


@lru_cache(maxsize=8)
def _drawn(kind: int, block: int, blocks: int) -> tuple[list[list[float]], list[list[float]]]:
    """Gaussian rows of a block, shape (4, block), and signs, shape (blocks, 4)."""
    import random  # a tenth of the time that the package takes to import

    draw = random.Random(kind)
    rows = [[draw.gauss(0.0, 1.0) for _ in range(block)] for _ in range(PROJECTIONS)]
    signs = [[draw.choice((-1.0, 1.0)) for _ in range(PROJECTIONS)] for _ in range(blocks)]
    return rows, signs


def _block(size: int) -> int:
    """Length of the vectors' block for a state of so many elements."""
    return size if size <= WHOLE else min(max(WHOLE, size // 16), LONGEST)


def _blocks(layout: Layout) -> int:
    return max(1, int(layout.size) // _block(layout.size))


def _parts(layout: Layout) -> int:
    """Reals of an element."""
    return 1 if layout.dtype == layout.real_dtype else 2


def _reals(layout: Layout) -> int:
    return int(layout.size) * _parts(layout)
