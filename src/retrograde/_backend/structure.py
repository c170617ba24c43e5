"""What is known of a Jacobian's zeros, and how few products give all of its entries.

Columns that share no row come out of one product with the sum of their unit vectors (Curtis, Powell
& Reid 1974; greedy colouring in the order of columns, Coleman & More 1983). Libraries that
differentiate in reverse take rows: the same of the transposed pattern. A band needs
``lower + upper + 1`` products, a pattern about as many as its fullest row has entries.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from .._base.errors import InputError

Entry: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Banded:
    """A Jacobian with entries near its diagonal alone, where ``-upper <= i - j <= lower``.

    Parameters
    ----------
    lower, upper : int
        Diagonals below and above the main one, over the numbers of y, its leaves one behind the
        other. Unknowns of one place in space should stand side by side.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.Banded(1, 1)  # diffusion in one dimension
    Banded(lower=1, upper=1)
    """

    lower: int
    upper: int

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InputError(f"`{name}` is {value!r}; pass a number of diagonals, 0 or more.")

    def rows(self, n: int) -> list[range]:
        """Columns of the entries of each row."""
        return [range(max(0, i - self.lower), min(n, i + self.upper + 1)) for i in range(n)]


@dataclass(frozen=True)
class Coloured:
    """A Jacobian whose entries may stand where a pattern has some.

    Parameters
    ----------
    pattern : array, shape (n, n), or pair of sequences of int
        True (or not 0) where J may have an entry: an array of any library, lists, or a sparse
        matrix; or the rows and the columns of all entries.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> ring = np.eye(6) + np.roll(np.eye(6), 1, axis=1) + np.roll(np.eye(6), -1, axis=1)
    >>> rg.Coloured(ring)
    Coloured(6 unknowns, 18 entries)
    """

    pattern: Any = field(hash=False, compare=False)
    entries: tuple[Entry, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        entries = tuple(sorted({(int(i), int(j)) for i, j in _entries(self.pattern)}))
        if not entries or min(map(min, entries)) < 0:
            raise InputError("`pattern` has no entries, or negative indices; pass a square matrix.")
        object.__setattr__(self, "entries", entries)
        object.__setattr__(self, "pattern", None)

    def __repr__(self) -> str:
        return f"Coloured({1 + max(map(max, self.entries))} unknowns, {len(self.entries)} entries)"

    def rows(self, n: int) -> list[list[int]]:
        """Columns of the entries of each row."""
        if max(map(max, self.entries)) >= n:
            raise InputError(f"`pattern` is that of {self!r}, but `y0` has {n} numbers.")
        found: list[list[int]] = [[] for _ in range(n)]
        for i, j in self.entries:
            found[i].append(j)
        return found


Structure: TypeAlias = "str | Banded | Coloured | None"
"""What a user says of a Jacobian's zeros."""


def _entries(pattern: Any) -> Iterable[Entry]:
    if isinstance(pattern, tuple) and len(pattern) == 2 and not hasattr(pattern[0][0], "__len__"):
        return zip(*(_listed(x) for x in pattern), strict=True)
    if hasattr(pattern, "nonzero") and not hasattr(pattern, "__array_namespace__"):
        return zip(*(_listed(x) for x in pattern.nonzero()), strict=True)  # a sparse matrix
    return _of_lists(_listed(pattern))


def _listed(x: Any) -> Any:
    """Numbers in lists, of an array of any library."""
    if hasattr(x, "tolist"):
        return x.tolist()
    if isinstance(x, (list, tuple, range)):
        return [_listed(v) for v in x]
    if getattr(x, "shape", ()):
        return [_listed(x[i, ...]) for i in range(x.shape[0])]
    return x


def _of_lists(rows: Sequence[Sequence[Any]]) -> Iterator[Entry]:
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if value:
                yield i, j


def paired(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The pattern of complex unknowns over pairs of reals."""
    twice = [[k for j in row for k in (2 * j, 2 * j + 1)] for row in rows]
    return [row for row in twice for _ in range(2)]


def bandwidth(rows: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(lower, upper) of the narrowest band that holds a pattern."""
    lower = max((i - min(row) for i, row in enumerate(rows) if row), default=0)
    upper = max((max(row) - i for i, row in enumerate(rows) if row), default=0)
    return max(lower, 0), max(upper, 0)


def transposed(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of the entries of each column."""
    found: list[list[int]] = [[] for _ in rows]
    for i, row in enumerate(rows):
        for j in row:
            found[j].append(i)
    return found


def colours(rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> list[int]:
    """A colour for each column; columns of one colour share no row."""
    found = [-1] * len(columns)
    for j, own in enumerate(columns):
        taken = {found[k] for i in own for k in rows[i]}
        found[j] = next(c for c in range(len(columns) + 1) if c not in taken)
    return found


class Products(NamedTuple):
    """How few products give all entries.

    Attributes
    ----------
    rows : list
        Columns of the entries of each row.
    columns_by, rows_by : list of int
        Colours of columns, and of rows.
    """

    rows: Sequence[Sequence[int]]
    columns_by: list[int]
    rows_by: list[int]


@functools.lru_cache(maxsize=16)
def products(structure: Banded | Coloured, n: int, *, pairs: bool) -> Products:
    """Those of a structure over n numbers; ``pairs``: n complex ones, as pairs of reals."""
    if isinstance(structure, Banded):
        wide = structure
        if pairs:
            wide, n = Banded(2 * structure.lower + 1, 2 * structure.upper + 1), 2 * n
        by = [j % (wide.lower + wide.upper + 1) for j in range(n)]
        return Products(wide.rows(n), by, by)
    rows = structure.rows(n)
    rows = paired(rows) if pairs else rows
    columns = transposed(rows)
    return Products(rows, colours(rows, columns), colours(columns, rows))


def narrow(rows: Sequence[Sequence[int]]) -> bool:
    """Whether a pattern is worth the solves of a band: they cost n w**2 in place of n**3."""
    lower, upper = bandwidth(rows)
    return len(rows) > 32 and 4 * (lower + upper + 1) <= len(rows)
