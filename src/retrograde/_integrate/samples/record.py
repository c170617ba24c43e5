"""What the samples of a batch leave behind: where they ended, and their accepted times."""

from __future__ import annotations

import copy
from typing import NamedTuple

from ..._backend.registry import backend_of
from ..._backend.samples import SampleBackend, SortedColumns
from ..._base.types import Array, State, Tree
from .host import moved


def laid_out(xp: Tree, found: SortedColumns, counts: Array, most: int, fill: Array) -> Array:
    """Columns noted by their number and sample as an array (..., most, B); ``fill`` (B,) behind the
    first ``counts`` (B,) of each sample."""
    samples, like = int(fill.shape[0]), found.parts[0]
    lead, fill = tuple(like.shape[:-1]), xp.astype(fill, like.dtype)
    for number in range(min(int(xp.min(counts)), most), most):
        lost = xp.nonzero(counts <= number)[0]
        rest = xp.broadcast_to(xp.take(fill, lost), (*lead, lost.shape[0]))
        found.add(number * samples + lost, rest)
    return xp.reshape(found.whole(), (*lead, most, samples))


class SampleFinal(NamedTuple):
    """Where the samples ended.

    Attributes
    ----------
    y : state
        Of all samples.
    t : array, shape (B,) [time]
        As the clock counts.
    n, tries, status : array, shape (B,)
        Accepted steps, all of them, and how it ended.
    inside : tuple of array
        Rows of each output inside the solve, (number, k, B); () for none.
    reached : tuple of array, shape (B,)
        How many each sample has.
    calls : array, shape (B,)
        Evaluations of f.
    record : SampleRecord or None
    times : array, shape (k, B), or () [time]
        Where accepted steps end, where that was noted; behind them inf, or nan where it failed.
    hits : SampleHits or ()
    """

    y: State
    t: Array
    n: Array
    tries: Array
    status: Array
    inside: tuple[Array, ...]
    reached: tuple[Array, ...]
    calls: Array
    record: SampleRecord | None = None
    times: Array = ()
    hits: Tree = ()

    def kept(self) -> SampleFinal:
        """What a reverse pass needs of it."""
        hits = self.hits and self.hits._replace(left=(), right=())
        return self._replace(inside=(), times=(), hits=hits)


class SampleRecord:
    """The accepted times of all samples, in the order of their number.

    Samples are sorted by how many steps they took, most first, so that those with a step k are the
    first ``counts[k]``.

    Attributes
    ----------
    order : array, shape (B,)
        The samples in that order, and
    rank : array, shape (B,)
        the place of each in it.
    counts : list of int
        How many samples took more than k steps.
    """

    def __init__(self, bk: SampleBackend, n: Array, times: SortedColumns) -> None:
        xp = self.xp = bk.xp
        self.order = xp.argsort(-n)
        self.rank = xp.argsort(self.order)
        most, self.samples = int(xp.max(n)), int(n.shape[0])
        self.counts = [int(xp.count_nonzero(n > k)) for k in range(most)]
        self.starts = [0]
        for count in self.counts:
            self.starts.append(self.starts[-1] + count)
        self.times = times.whole(self.rank, self.samples) if most else ()

    def moved(self, guest: SampleBackend) -> SampleRecord:
        """The same, noted by a host's library, as arrays of another."""
        twin = copy.copy(self)
        twin.xp = guest.xp
        parts = self.order, self.rank, self.times
        twin.order, twin.rank, twin.times = moved(parts, guest.from_host)
        return twin

    def __getstate__(self) -> dict[str, Tree]:
        return {name: value for name, value in vars(self).items() if name != "xp"}

    def __setstate__(self, state: dict[str, Tree]) -> None:
        vars(self).update(state)
        self.xp = backend_of(self.order).xp

    def end(self, k: int) -> Array:
        """Where step k ends, of those that took it."""
        return self.times[self.starts[k] : self.starts[k + 1]]

    def step(self, k: int) -> tuple[Array, Array]:
        """Start and size of step k."""
        end = self.end(k)
        begin = self.end(k - 1)[: self.counts[k]] if k else self.xp.zeros_like(end)
        return begin, end - begin
