"""Batches whose samples have scalars of their own: clock, layout and stages of arrays.

A time, a step size, an error or a count is an array of shape (b,), one entry for each sample. A
state is one array of shape (n, b): all numbers of a sample stand in a column, so that what is one
number for each sample broadcasts against states as it is. The formulas of steppers, step vjps and
controllers are then those of single solves, unchanged. Users see their own leaves, (b, *shape).

Times are float64 whatever y's dtype is, as the floats of a host's clock are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._base.types import (
    Array,
    Body,
    Bool,
    Carry,
    Condition,
    DType,
    Index,
    Leaves,
    Scalar,
    Scale,
    State,
    Table,
    Tree,
)
from .clock import NEARLY, ROUNDED, SLACK
from .sample_linear import SampleLinear
from .specialise import generic
from .stages import ListLayout, StageCotangents, Stages, placed

if TYPE_CHECKING:
    from typing import Self

    from .._solvers.runge_kutta.tableau import Tableau
    from .interface import AbstractBackend
    from .protocols import StepAdjoint, StepStages
    from .structure import Structure


class SampleClock:
    """The arithmetic of arrays of shape (b,), one number for each sample.

    To the core its numbers have no value, as those of a traced program have none: what the samples
    have in common is decided by whoever runs the loop.
    """

    traced = True
    holds_squares = True
    yes = True
    eps = 2.0**-52

    def __init__(self, bk: AbstractBackend, samples: int, like: Array) -> None:
        self.xp, self.samples, self.device = bk.xp, samples, bk.device_of(like)
        self.dtype, self.integer = bk.xp.float64, bk.xp.int64
        self.numbers: dict[tuple[float, DType], Array] = {}

    # --- numbers as arrays
    def array(self, x: Scalar) -> Array:
        """Numbers of any dtype as the clock's."""
        if getattr(x, "dtype", None) == self.dtype:
            return x
        if hasattr(x, "shape"):
            return self.xp.astype(x, self.dtype)
        if isinstance(x, (int, float)):
            return self._number(x, self.dtype)
        return self.xp.asarray(x, dtype=self.dtype, device=self.device)

    def real(self, x: Scalar) -> Array:
        """The same, of shape (b,)."""
        x = self.array(x)
        return x if x.shape else self.xp.broadcast_to(x, (self.samples,))

    def constant(self, x: Array) -> Array:
        """x: nothing is recorded here."""
        return x

    def count(self, n: Index) -> Array:
        """A counter of each sample."""
        return self.xp.full((self.samples,), n, dtype=self.integer, device=self.device)

    def indices(self) -> Array:
        """0, 1, ..., b - 1."""
        return self.xp.arange(self.samples, dtype=self.integer, device=self.device)

    def _number(self, x: float, dtype: DType) -> Array:
        """A number as a 0-d array, made once."""
        found = self.numbers.get((x, dtype))
        if found is None:
            found = self.xp.asarray(x, dtype=dtype, device=self.device)
            self.numbers[x, dtype] = found
        return found

    # --- steps
    def land(self, t: Array, h: Array, t1: Array) -> tuple[Array, Array]:
        """One step of h, or onto t1 if that is nearer: (t_new, t_new - t)."""
        t_new = self.xp.where(abs(h) >= abs(t1 - t) * NEARLY, t1, t + h)
        return t_new, t_new - t

    def reached(self, at: Array, t: Array, h: Array) -> Array:
        """Whether a step of the sign of h that ends at t has reached a time."""
        return self.xp.where(h > 0, at <= t, at >= t)

    def beyond(self, at: Array, t: Array, h: Array) -> Array:
        """Whether a time lies behind t in the direction of h."""
        return self.xp.where(h > 0, at > t, at < t)

    def running(self, t: Array, t1: Array, h: Array, floor: float, left: Index) -> Array:
        """Whether to try another step: not at t1, tries left, and h above its floor."""
        on = (t != t1) & (abs(h) > floor + 4 * self.eps * abs(t))
        return on if isinstance(left, int) else on & (left > 0)

    def record_new(self, t0: Array, rows: int | None) -> Table:
        """None: who runs the loop notes the times of samples."""
        raise NotImplementedError

    def record(self, times: Table, n: Array, t_new: Array, ok: Bool) -> Table:
        """The same."""
        raise NotImplementedError

    def steps(self, t0: Array, t1: Array, dt: float, slack: Array | float = 0.0) -> Array:
        """Numbers of steps of size dt from t0 to t1; ``slack``: the rounding of these, in steps."""
        number = (t1 - t0) / dt * (1 - 4e-16) - SLACK - self.minimum(slack, ROUNDED)
        return self.xp.astype(self.xp.ceil(self.maximum(number, 0.0)), self.integer)

    # --- choices
    def select(self, ok: Bool, new: State, old: State) -> State:
        """``new`` where ok, else ``old``: trees of states, scalars and counts."""
        if isinstance(new, tuple):
            return tuple([self.select(ok, a, b) for a, b in zip(new, old, strict=True)])
        if new is None or new is old or ok is True:
            return new
        return self.xp.where(ok, new, old)  # of what is carried all are arrays

    def where(self, ok: Bool, a: Scalar, b: Scalar) -> Array:
        """a where ok, else b."""
        if hasattr(a, "dtype") and hasattr(b, "dtype"):
            return self.xp.where(ok, a, b)
        if isinstance(ok, bool):
            return a if ok else b
        # a number takes the dtype of the array beside it
        if isinstance(a, (int, float)):
            whole = isinstance(a, int) and isinstance(b, int)
            dtype = getattr(b, "dtype", self.integer if whole else self.dtype)
            a, b = self._number(a, dtype), b if hasattr(b, "dtype") else self._number(b, dtype)
        elif isinstance(b, (int, float)):
            b = self._number(b, a.dtype)
        return self.xp.where(ok, a, b)

    def both(self, a: Bool, b: Bool) -> Bool:
        """Logical and."""
        return a & b

    def either(self, a: Bool, b: Bool) -> Bool:
        """Logical or."""
        return a | b

    def is_finite(self, x: Array) -> Array:
        """Whether they are finite."""
        return self.xp.isfinite(x)

    # --- functions of errors
    def power(self, x: Array, p: float) -> Array:
        """x**p for x > 0: by functions that round an entry alike wherever it stands."""
        return self.xp.exp(p * self.xp.log(x))

    def powers(self, x: Array, exponents: Sequence[float]) -> tuple[Array, ...]:
        """x**p of x > 0 for each exponent: by one logarithm, for powers are dear."""
        logarithm = self.xp.log(x)
        return tuple([self.xp.exp(p * logarithm) for p in exponents])

    def root(self, a: Array, b: Array) -> Array:
        """sqrt(a / b) for a, b >= 0; nan where b is 0."""
        return self.xp.sqrt(a / self.where(b > 0, b, math.nan))

    def clip(self, x: Array, low: Scalar, high: Scalar) -> Array:
        """x between low and high; nan gives low."""
        x = self.where(x > low, x, low)  # no nan any more
        return self.xp.minimum(x, high) if hasattr(high, "shape") else self.minimum(x, high)

    def maximum(self, a: Scalar, b: Scalar) -> Array:
        """The larger; a where b is nan."""
        if isinstance(b, float) and hasattr(a, "dtype"):
            return self.xp.maximum(a, self._number(b, a.dtype))
        return self.where(b > a, b, a)

    def minimum(self, a: Scalar, b: Scalar) -> Array:
        """The smaller; a where b is nan."""
        if isinstance(b, float) and hasattr(a, "dtype"):
            return self.xp.minimum(a, self._number(b, a.dtype))
        return self.where(b < a, b, a)


class SampleLayout(ListLayout):
    """States of b samples as one array of shape (n, b), a column for each.

    To the engine this array is the state's one leaf; ``SampleLeaves`` is what f's side sees.

    Parameters
    ----------
    bk : SampleBackend
    like : sequence of array, shape (b, *shape)
        The user's leaves; only their shapes, dtype and device matter.
    """

    def __init__(self, bk: SampleBackend, like: Sequence[Array]) -> None:
        super().__init__(bk, like)  # type: ignore[arg-type]
        self.like = like[0]
        self.each = [shape[1:] for shape in self.shapes]
        sizes = [math.prod(shape) for shape in self.each]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._resize(int(like[0].shape[0]), sum(sizes))

    def _resize(self, samples: int, size: int) -> None:
        self.samples, self.size = samples, size
        self.shapes = ((size, samples),)
        self.exact = self.real_dtype == self.bk.xp.float64
        self.nbytes = samples * size * self.bk.itemsize(self.dtype)
        self.clock = SampleClock(self.bk, samples, self.like)

    def of(self, samples: int, origin: Array | None = None) -> Self:
        """The layout of so many samples, whose times count from ``origin``."""
        twin = copy.copy(self)
        vars(twin).pop("time", None)
        twin.origin = None
        twin._resize(samples, self.size)
        return twin if origin is None else placed(twin, origin)

    def columns(self) -> SampleLayout:
        """The same to the engine."""
        twin = SampleLayout.__new__(SampleLayout)
        vars(twin).update(vars(self))
        vars(twin).pop("time", None)
        twin._resize(self.samples, self.size)
        return twin if self.origin is None else placed(twin, self.origin)

    def time(self, t: Scalar) -> Array:
        """Times as a vector field is given them, shape (b,)."""
        t = self.clock.real(t)
        return t if self.exact else self.xp.astype(t, self.real_dtype)

    def weight(self, h: Scalar) -> Scalar:
        """A number for each sample, in the precision of states."""
        if self.exact or not hasattr(h, "shape"):
            return h
        return self.xp.astype(h, self.real_dtype, copy=False)

    def zeros(self) -> State:
        shape = (self.size, self.samples)
        return (self.xp.zeros(shape, dtype=self.dtype, device=self.device),)

    def axpy(self, y: State, h: Scalar, k: State) -> State:
        return super().axpy(y, self.weight(h), k)

    def weighted(self, terms: Sequence[tuple[Scalar, State]]) -> State:
        return super().weighted([(self.weight(w), x) for w, x in terms])

    # --- sums over a sample's numbers
    def inner(self, x: State, y: State) -> Array:
        return self.clock.array(self.xp.sum(self.bk.pair(x[0], y[0]), axis=0))

    def norm2(self, x: State, y: State, scale: Scale) -> Array:
        xp = self.xp
        ratio = self.clock.array(self._ratio(x, xp.abs(y[0]), scale))
        most = xp.max(ratio, axis=0)
        sound = (most > 0) & xp.isfinite(most)  # squares of the others overflow or vanish
        mean = xp.sum((ratio / self.clock.where(sound, most, 1.0)) ** 2, axis=0) / self.size
        return xp.where(sound, mean * most * most, most * most)

    def error2(self, e: State, y: State, y1: State, scale: Scale) -> Array:
        xp = self.xp
        ratio = self._ratio(e, xp.maximum(xp.abs(y[0]), xp.abs(y1[0])), scale)
        ratio *= ratio
        return self.clock.array(xp.sum(ratio, axis=0)) / self.size

    def _ratio(self, e: State, size: Array, scale: Scale) -> Array:
        """A new array; ``size`` may be written into."""
        rtol, atol = (x[0] if isinstance(x, tuple) else x for x in (scale.rtol, scale.atol))
        size *= rtol
        size += atol
        return self.xp.abs(e[0]) / size

    def finite(self, y: State) -> Array:
        return self.xp.all(self.xp.isfinite(y[0]), axis=0)


class SampleLeaves(SampleLayout):
    """The same layout to f and its vjp: leaves are the user's, (b, *shape)."""

    hosted = False
    """Whether the engine's arrays are of another library than f's."""

    def _resize(self, samples: int, size: int) -> None:
        super()._resize(samples, size)
        self.shapes = tuple((samples, *shape) for shape in self.each)
        self.flat = len(self.each) == 1 and len(self.each[0]) == 1
        """Whether y is one array of shape (b, n)."""

    def pack(self, leaves: Sequence[Array]) -> State:
        if self.flat and len(leaves[0].shape) == 2:
            return self.columns_of(leaves)
        reshape = self.xp.reshape  # rows of fn come of as many samples as still run
        return self.columns_of([reshape(x, (x.shape[0], -1)) for x in leaves])

    def columns_of(self, parts: Sequence[Array]) -> State:
        """Arrays (b, m) of the engine's as a state."""
        return (self.bk.sample_columns(parts),)

    def rows(self, array: Array) -> Array:
        """A state's array as the user's leaf (b, n), where that is the one."""
        return self.bk.sample_rows(array)

    def unpack(self, y: State) -> Leaves:
        xp, (array,) = self.xp, y
        if self.flat:
            return (self.bk.sample_rows(array),)
        return tuple(
            xp.reshape(xp.permute_dims(array[part, :], (1, 0)), shape)
            for part, shape in zip(self.parts, self.shapes, strict=True)
        )

    def given(self, x: Array) -> Array:
        """An array of the engine's as one of f's library."""
        return x

    def host(self, x: Array) -> Array:
        """The other way."""
        return x


class HostLeaves(SampleLeaves):
    """The same where the engine's arrays are those of a host's library, and f's are not.

    Parameters
    ----------
    bk : SampleBackend
        The host's.
    guest : AbstractBackend
        The adapter of f's library.
    like : sequence of array, shape (b, *shape)
        The user's leaves.
    """

    hosted = True

    def __init__(self, bk: SampleBackend, guest: AbstractBackend, like: Sequence[Array]) -> None:
        self.guest = guest
        super().__init__(bk, [guest.to_host(x) for x in like])

    def pack(self, leaves: Sequence[Array]) -> State:
        return super().pack([self.guest.to_host(x) for x in leaves])

    def unpack(self, y: State) -> Leaves:
        return tuple([self.given(x) for x in super().unpack(y)])

    def time(self, t: Scalar) -> Array:
        return self.given(super().time(t))

    def given(self, x: Array) -> Array:
        return self.guest.from_host(x)

    def rows(self, array: Array) -> Array:
        return self.guest.from_host(self.bk.sample_rows(array))

    def host(self, x: Array) -> Array:
        return self.guest.to_host(x)


class SampleStages(Stages):
    """The stages of one step of every sample, each of a size of its own."""

    layout: SampleLayout

    def _sum(self, start: State, h: Scalar, row: Sequence[tuple[int, Scalar]]) -> State:
        weight = self.layout.weight
        return super()._sum(start, weight(h), [(j, weight(w)) for j, w in row])


class SampleCotangents(StageCotangents):
    """Their cotangents."""

    layout: SampleLayout

    def begin(self, h: Scalar, g: State, q: State = None) -> None:
        super().begin(self.layout.weight(h), g, q)


class SampleBackend:
    """An array library as the core sees it where scalars are arrays of one number a sample.

    What is about arrays and derivatives of f is the library's.
    """

    python_loops = False

    def __init__(self, bk: AbstractBackend) -> None:
        self.bk = bk

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bk, name)

    def layout(self, leaves: Sequence[Array]) -> SampleLeaves:
        """How states are carried, as f sees them."""
        return SampleLeaves(self, leaves)

    def clock(self, layout: SampleLayout) -> SampleClock:
        """The arithmetic of its scalars."""
        return layout.clock

    def stages(
        self, layout: SampleLayout, tableau: Tableau, scale: Scale | None = None
    ) -> StepStages:
        """The library's own form of stages, where it has one."""
        make = SampleStages if generic() else self.bk.sample_stages
        return make(layout, tableau, scale)

    def adjoint(self, layout: SampleLayout, tableau: Tableau) -> StepAdjoint:
        """The same of their cotangents."""
        make = SampleCotangents if generic() else self.bk.sample_adjoint
        return make(layout, tableau)

    def scalar(self, x: Array) -> Array:
        """Numbers as the clock's."""
        return self.bk.xp.astype(x, self.bk.xp.float64, copy=False)

    held = scalar

    def take(self, tree: Tree, index: Array, axis: int = -1) -> Tree:
        """The same of some samples: of every array of a tuple its entries along an axis."""
        if isinstance(tree, tuple):
            return _like(tree, [self.take(part, index, axis) for part in tree])
        return self.bk.xp.take(tree, index, axis=axis) if hasattr(tree, "shape") else tree

    def linear(self, layout: SampleLayout, structure: Structure) -> SampleLinear:
        """Jacobians of all samples, and linear systems in them."""
        return SampleLinear(layout)

    def nan_unless(self, ok: Bool, x: Array) -> Array:
        """x of those samples that are ok, else nan."""
        return self.bk.xp.where(ok, x, self.bk.xp.full_like(x, math.nan))

    def pick(self, ok: Bool, a: Index, b: Index) -> Array:
        """The index a where ok, else b."""
        if isinstance(ok, bool):
            return a if ok else b
        xp, like = self.bk.xp, a if hasattr(a, "dtype") else b
        a, b = (x if hasattr(x, "dtype") else xp.full_like(like, x) for x in (a, b))
        return xp.where(ok, a, b)

    def while_loop(self, cond: Condition, body: Body, s: Carry) -> Carry:
        """``s = body(s)`` of those samples for which cond holds, while it does for any."""
        xp = self.bk.xp
        while True:
            on = cond(s)
            if not (on if isinstance(on, bool) else bool(xp.any(on))):
                return s
            s = body(s) if on is True else _chosen(xp, on, body(s), s)


def _chosen(xp: Tree, on: Array, new: Carry, old: Carry) -> Carry:
    """What is new of samples that go on."""
    if isinstance(new, tuple):
        return _like(new, [_chosen(xp, on, *pair) for pair in zip(new, old, strict=True)])
    return old if new is old else xp.where(on, new, old)


def _like(x: Tree, parts: list[Tree]) -> Tree:
    """A tuple of x's type."""
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


class SortedColumns:
    """Columns that come in any order, each with an integer that tells its place."""

    def __init__(self, xp: Tree) -> None:
        self.xp = xp
        self.places: list[Array] = []
        self.parts: list[Array] = []

    def add(self, places: Array, columns: Array) -> None:
        """Columns (along the last axis) and where they belong."""
        self.places.append(places)
        self.parts.append(columns)

    def whole(self, rank: Array | None = None, samples: int = 1) -> Array:
        """All of them in order; ``rank`` puts the samples into another one."""
        xp = self.xp
        self.places = [places := xp.concat(self.places)]  # the many are gone by then
        self.parts = [columns := xp.concat(self.parts, axis=-1)]
        if rank is not None:
            sample = places % samples
            sample = xp.take(rank, sample) - sample
            places = places + sample
            del sample
        return xp.take(columns, xp.argsort(places), axis=-1)
