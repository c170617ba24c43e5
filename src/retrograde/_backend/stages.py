"""Stages and their cotangents in plain array-API form: the only place of linear combinations.

A *layout* turns the leaves of a tree into the state that a loop carries and back. ``Stages``
hold those of one step, ``StageCotangents`` their cotangents. The forms here carry a
tuple of leaves and use nothing beyond the array API standard: what an unknown library gets,
what a tracing library wants, and the oracle that faster adapter forms are tested against.

Notation: Y_i = y + h sum_j a_ij k_j, y1 = y + h sum_i b_i k_i (Hairer, Norsett, Wanner, Solving
ODEs I, eq. II.1.8). Their cotangents: u_i = h (b_i g + sum_j>i a_ji mu_j) + q_i (Hager 2000,
doi:10.1007/s002110000178; Sanz-Serna 2016, doi:10.1137/151002769), over all stages that there are,
those of an interpolant alone included.

States are cut into equal parts and joined again: a solver may carry more than y from step to step
(a second copy of y, a slope), and a solver of separable systems moves the halves of a pair in turn.
Both see a state as equal parts: as many leaves each, and as many elements. What a part is, only its
solver knows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from .._base.types import Array, Bool, Field, Function, Leaves, Scalar, Scale, State

if TYPE_CHECKING:
    from .._solvers.runge_kutta.tableau import Tableau
    from .interface import AbstractBackend
    from .protocols import Layout

_L = TypeVar("_L", bound="Layout")


class StageCotangents:
    """The cotangents of one explicit Runge-Kutta step over a ``ListLayout``."""

    def __init__(self, layout: Layout, tableau: Tableau) -> None:
        self.layout = layout
        self.a = tableau.a
        self.s = tableau.inside
        self.b = (*tableau.b, *[0.0] * (self.s - tableau.stages))
        self.mu: list[Sequence[Array] | None] = [None] * self.s
        self.h: Scalar = None
        self.g: State = None
        self.q: State = None

    def begin(self, h: Scalar, g: State, q: State = None) -> None:
        """Start with the cotangent g of y1 and, per stage, q_i on k_i (or None)."""
        self.h, self.g, self.q = h, g, q
        self.mu = [None] * self.s

    def forget(self, low: int) -> None:
        """Stages from ``low`` on are not pulled from now on: ``begin`` forgets them as it is."""

    def sources(self) -> State:
        """The q_i of a step, zero."""
        return (self.layout.zeros(),) * self.s

    def add_source(self, q: State, weights: Sequence[Scalar], ct: State) -> State:
        """q_i + w_i ct for every stage."""
        return tuple(
            qi if known_zero(w) else self.layout.axpy(qi, w, ct)
            for qi, w in zip(q, weights, strict=True)
        )

    def lam(self, i: int) -> State:
        """u_i = h (b_i g + sum_j>i a_ji mu_j) + q_i."""
        h, out = self.h, None if self.q is None else self.q[i]
        terms = [(self.b[i], self.g)]
        terms += [(self.a[j][i], self.mu[j]) for j in range(i + 1, self.s)]
        for w, x in terms:
            if w and x is not None:
                w = h * w
                out = (
                    tuple(w * v for v in x)
                    if out is None
                    else tuple(o + w * v for o, v in zip(out, x, strict=True))
                )
        return self.layout.zeros() if out is None else out

    def push(self, i: int, mu: Sequence[Array]) -> None:
        """Store the cotangent of Y_i (leaves from f's vjp)."""
        self.mu[i] = mu

    def total(self) -> State:
        """g + sum_i mu_i, the cotangent of y."""
        out = list(self.g)
        for mu in self.mu:
            if mu is not None:
                out = [o + v for o, v in zip(out, mu, strict=True)]
        return tuple(out)


def known_zero(w: Scalar) -> bool:
    """Whether a weight is a number of the host's, and 0."""
    return isinstance(w, (int, float)) and w == 0


def combination_rows(tableau: Tableau) -> tuple[tuple[float, ...], ...]:
    """All weight rows of one step, zero-padded to s: stages, b, the error's and the coarse one's.

    The last is there where the tableau has it.
    """
    s = tableau.stages
    rows = [tuple(row) + (0.0,) * (s - len(row)) for row in tableau.a[:s]]
    rows.append(tuple(tableau.b))
    rows.append(tuple(tableau.b_error or (0.0,) * s))
    if tableau.b_coarse is not None:
        rows.append(tuple(tableau.b_coarse))
    return tuple(rows)


def joint(fine: Scalar, coarse: Scalar, where: Function) -> Scalar:
    """The squared norm of an error from those of two estimates of it (``Tableau.b_coarse``).

    Formed of norms, not element by element: so it is one division more a step, whatever the size
    of a state, and what Hairer's DOP853 does.
    """
    total = fine + 0.01 * coarse
    return fine * (fine / where(total > 0, total, 1.0))  # both may vanish


ORDINARY = (1e-30, 1e36)
"""Mean squares in between come of squares that are all there in float32."""


def smallest(size: int) -> float:
    """The smallest normal real of so many bytes: what an absolute tolerance is at least.

    So 0 over 0 is 0 in a norm without one, and a bound that would vanish does not.
    """
    return 2.0**-1022 if size >= 8 else 2.0**-126


def rescaled(most: float, mean: Callable[[float], float]) -> float:
    """The mean square of numbers up to ``most``, of ``mean(most)``, that of them over it."""
    if not 0.0 < most < math.inf:
        return most * most  # 0, inf or nan
    return mean(most) * most * most


def placed(layout: _L, origin: Scalar) -> _L:
    """A layout whose ``time`` adds the origin; where there is none, nothing is added."""
    twin, time = copy.copy(layout), layout.time
    vars(twin).update(origin=origin, time=lambda t: time(origin + t))
    return twin


def normed(layout: Layout, x: State, sizes: Sequence[State], scale: Scale) -> Scalar:
    """The user's norm (``Scale.norm``) of ``|x| / (atol + rtol max(sizes))``, by the clock."""
    bk, unpack = layout.bk, layout.unpack
    assert scale.norm is not None

    def each(value: Scalar) -> Sequence[Scalar]:
        number = isinstance(value, float) or getattr(value, "shape", None) == ()
        return (value,) * len(layout.shapes) if number else unpack(value)

    largest = [bk.xp.abs(a) for a in unpack(sizes[0])]
    for size in sizes[1:]:
        pairs = zip(largest, unpack(size), strict=True)
        largest = [bk.xp.maximum(a, bk.xp.abs(b)) for a, b in pairs]
    parts = zip(unpack(x), largest, each(scale.rtol), each(scale.atol), strict=True)
    ratios = tuple(bk.xp.abs(a) / (atol + rtol * size) for a, size, rtol, atol in parts)
    return bk.clock(layout).real(scale.norm(ratios))


def normed2(layout: Layout, x: State, sizes: Sequence[State], scale: Scale) -> Scalar:
    """Its square."""
    found = normed(layout, x, sizes, scale)
    return found * found


class ListLayout:
    """States as tuples of leaves, each in its user's shape.

    Parameters
    ----------
    bk : AbstractBackend
    like : sequence of array
        The leaves to lay out; only their shapes, dtype and device matter.
    """

    plain = False
    """Whether a state is the user's one array itself."""

    origin: Scalar = None
    """The time that the clock counts from, where it is not 0."""

    def __init__(self, bk: AbstractBackend, like: Sequence[Array]) -> None:
        self.bk = bk
        self.xp = bk.xp
        self.shapes = tuple(tuple(int(d) for d in x.shape) for x in like)
        self.dtype = like[0].dtype
        self.dtypes = (self.dtype,) * len(self.shapes)
        self.real_dtype = bk.real_dtype(like[0])
        self.device = bk.device_of(like[0])
        self.size = sum(math.prod(shape) for shape in self.shapes)
        self.nbytes = self.size * bk.itemsize(self.dtype)

    def pack(self, leaves: Sequence[Array]) -> State:
        """Leaves in the user's shapes to a state; a new tuple, the arrays not copied."""
        return tuple(leaves)

    def unpack(self, y: State) -> tuple[Array, ...]:
        """A state to leaves in the user's shapes."""
        return tuple(y)

    def time(self, t: Scalar) -> Array:
        """A time as the 0-d array that a vector field is given."""
        return self.bk.scalar_array(t, self)

    def at(self, origin: Scalar) -> ListLayout:
        """The same layout, where times of the clock count from ``origin``."""
        return placed(self, origin)

    def repeat(self, count: int) -> ListLayout:
        """The layout of ``count`` states in a row."""
        twin = copy.copy(self)
        twin.shapes, twin.dtypes = self.shapes * count, self.dtypes * count
        twin.size, twin.nbytes = self.size * count, self.nbytes * count
        return twin

    def split(self, s: State, count: int) -> tuple[State, ...]:
        """``count`` equal parts of a state; they may share its memory."""
        n = len(s) // count
        return tuple([s[i * n : (i + 1) * n] for i in range(count)])

    def join(self, parts: Sequence[State]) -> State:
        """The inverse of :meth:`split`; a new state unless there is but one part."""
        return tuple([x for part in parts for x in part])

    def own(self, leaves: Sequence[Array]) -> State:
        """What f or its vjp returned, as a state that stays when they are called again."""
        return tuple(leaves)

    def weighted(self, terms: Sequence[tuple[Scalar, State]]) -> State:
        """``sum w x`` over the (w, x) of at least one term: a new state or part."""
        add, out = self.bk.add_scaled, []
        for i in range(len(terms[0][1])):
            total: Array = None
            for w, x in terms:
                plain = isinstance(w, float) and w == 1.0
                if total is None:
                    total = x[i] if plain else w * x[i]
                else:
                    total = total + x[i] if plain else add(total, w, x[i])
            out.append(total)
        return tuple(out)

    def axpy(self, y: State, h: Scalar, k: State) -> State:
        """``y + h * k``."""
        return tuple(a + h * b for a, b in zip(y, k, strict=True))

    def add(self, x: State, y: State) -> State:
        """``x + y``, a new state."""
        return tuple(a + b for a, b in zip(x, y, strict=True))

    def zeros(self) -> State:
        """A state of zeros."""
        xp = self.xp
        return tuple(xp.zeros(s, dtype=self.dtype, device=self.device) for s in self.shapes)

    def inner(self, x: State, y: State) -> Scalar:
        """Sum of x_i y_i over all leaves, the pairing of a cotangent with a tangent.

        For complex leaves it is Re(sum conj(x) y) or Re(sum x y), after the library's own
        convention of cotangents.
        """
        total: Array = None
        for a, b in zip(x, y, strict=True):
            part = self.xp.sum(self.bk.pair(a, b))
            total = part if total is None else total + part
        return self.bk.held(total)

    def squares(self, x: State) -> Array:
        """Sum of ``|x_i|**2`` over all leaves, as a 0-d array."""
        total: Array = None
        for a in x:
            a = self.xp.abs(a)
            part = self.xp.sum(a * a)
            total = part if total is None else total + part
        return total

    def norm2(self, x: State, y: State, scale: Scale) -> Scalar:
        """Mean of ``(|x| / (atol + rtol |y|))**2``, as the clock's scalar."""
        if scale.norm is not None:
            return normed2(self, x, (y,), scale)
        xp, bk, size = self.xp, self.bk, [self.xp.abs(a) for a in y]
        if not bk.clock(self).traced:
            ratios = list(self._ratios(x, size, scale))
            most = max(bk.scalar(bk.stop_gradient(xp.max(r))) for r in ratios)
            if not ORDINARY[0] <= most * most <= ORDINARY[1]:

                def mean(m: float) -> float:
                    parts = (bk.scalar(xp.sum((r / m) ** 2)) for r in ratios)
                    return float(sum(parts)) / self.size

                return rescaled(most, mean)
        return self._mean_square(x, size, scale)

    def norm(self, x: State, y: State, scale: Scale) -> Scalar:
        """The root of that, by squares of numbers up to 1: none overflows or vanishes."""
        if scale.norm is not None:
            return normed(self, x, (y,), scale)
        xp, total, most = self.xp, 0.0, 0.0
        ratios = list(self._ratios(x, [xp.abs(a) for a in y], scale))
        for r in ratios:
            most = self.bk.clock(self).maximum(most, xp.max(r))
        most = xp.where(most > 0, xp.minimum(most, 1e38), 1.0)
        for r in ratios:
            r = r / most
            total = total + xp.sum(r * r)
        return most * xp.sqrt(total / self.size)

    def error2(self, e: State, y: State, y1: State, scale: Scale) -> Scalar:
        """Mean of ``(|e| / (atol + rtol max(|y|, |y1|)))**2``, as the clock's scalar."""
        if scale.norm is not None:
            return normed2(self, e, (y, y1), scale)
        xp = self.xp
        size = [xp.maximum(xp.abs(a), xp.abs(b)) for a, b in zip(y, y1, strict=True)]
        return self._mean_square(e, size, scale)

    def _mean_square(self, e: State, size: Sequence[Array], scale: Scale) -> Scalar:
        total: Array = None
        for ratio in self._ratios(e, size, scale, signed=True):
            part = self.xp.sum(ratio * ratio)
            total = part if total is None else total + part
        return self.bk.scalar(total) / self.size

    def _ratios(
        self, e: State, size: Sequence[Array], scale: Scale, *, signed: bool = False
    ) -> Iterator[Array]:
        """``e / (atol + rtol size)`` leaf by leaf, flat: less code than of many axes."""
        xp = self.xp
        for i, (x, y) in enumerate(zip(e, size, strict=True)):
            rtol = scale.rtol[i] if isinstance(scale.rtol, tuple) else scale.rtol
            atol = scale.atol[i] if isinstance(scale.atol, tuple) else scale.atol
            x = x if signed and self.dtype == self.real_dtype else xp.abs(x)
            yield xp.reshape(x / (atol + rtol * y), (-1,))

    def finite(self, y: State) -> Bool:
        """Whether every element is finite (a bool, or a traced 0-d array)."""
        result: Bool = True
        for leaf in y:
            result = self.bk.both(result, self.xp.all(self.xp.isfinite(leaf)))
        return result

    def stack(self, states: Sequence[State]) -> tuple[Array, ...]:
        """k states to leaves of shape (k, *shape)."""
        return tuple(self.xp.stack([state[i] for state in states]) for i in range(len(self.shapes)))

    def empty(self) -> tuple[Array, ...]:
        """Leaves of no states, shape (0, *shape)."""
        xp = self.xp
        return tuple(xp.zeros((0, *s), dtype=self.dtype, device=self.device) for s in self.shapes)

    def row(self, leaves: Sequence[Array], i: Scalar) -> State:
        """The state at index i of leaves of shape (k, *shape)."""
        return tuple(leaf[i, ...] for leaf in leaves)


class Stages:
    """The stages of one explicit Runge-Kutta step over a :class:`ListLayout`."""

    whole = True
    """Whether the last stage of an attempt was evaluated (``Tableau.late``)."""

    def __init__(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> None:
        self.layout = layout
        self.scale = scale
        self.add = layout.bk.add_scaled
        self.rows = [_nonzero(row) for row in combination_rows(tableau)]
        self.c = tableau.c
        self.s = tableau.stages
        self.more = [_nonzero(row) for row in tableau.a[self.s :]]
        self.total = tableau.inside
        self.k: list[State] = [None] * self.total
        self.t: Scalar = None
        self.h: Scalar = None
        self.y: State = None

    def begin(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None = None) -> Leaves | None:
        """Start a step of size h at (t, y); returns the k0 that is safe to keep."""
        self.t, self.h, self.y = t, h, y
        self.k = [k0] + [None] * (self.total - 1)
        return k0

    def time(self, i: int) -> Array:
        """t + c_i h as f is given it."""
        return self.layout.time(self.t + self.c[i] * self.h)

    def evaluate(self, field: Field, low: int, high: int) -> None:
        """Stages low, ..., high - 1: combine, call f, put."""
        for i in range(low, high):
            self.put(i, field(self.time(i), self.combine(i)))

    def combine(self, i: int) -> State:
        """Y_i, a fresh state that f may keep."""
        return self._sum(self.y, self.h, self.rows[i])

    def inside(self, i: int) -> State:
        """Y_i of a stage of the interpolant's own."""
        return self._sum(self.y, self.h, self.more[i - self.s])

    def put(self, i: int, k: Sequence[Array]) -> None:
        """Store stage i's derivative (the leaves that f returned)."""
        self.k[i] = k

    def result(self) -> State:
        """y1."""
        return self._sum(self.y, self.h, self.rows[self.s])

    def error2(self, y1: State) -> Scalar:
        """The squared norm of the scaled error estimate."""
        error2, *coarse = (self._norm2(row, y1) for row in self.rows[self.s + 1 :])
        if not coarse:
            return error2
        return joint(error2, coarse[0], self.layout.bk.clock(self.layout).where)

    def _norm2(self, row: Sequence[tuple[int, Scalar]], y1: State) -> Scalar:
        assert self.scale is not None
        e = self._sum(self._nothing, self.h, row)
        return self.layout.error2(e, self.y, y1, self.scale)

    def interpolate(self, weights: Sequence[Scalar]) -> State:
        """y + h sum_i w_i k_i."""
        return self._sum(self.y, self.h, _nonzero(weights))

    def slope(self, weights: Sequence[Scalar]) -> State:
        """sum_i w_i k_i."""
        return self._sum(self._nothing, 1.0, _nonzero(weights))

    def derivative(self, i: int) -> State:
        """k_i in state form."""
        return tuple(self.k[i])

    @property
    def _nothing(self) -> tuple[None, ...]:
        return (None,) * len(self.layout.shapes)

    def _sum(self, start: State, h: Scalar, row: Sequence[tuple[int, Scalar]]) -> State:
        """start + h sum_j w_j k_j over the (j, w_j) of a row."""
        add, terms, out = self.add, [(h * w, self.k[j]) for j, w in row], []
        for i, x in enumerate(start):
            for w, k in terms:
                x = w * k[i] if x is None else add(x, w, k[i])
            out.append(x)
        return tuple(out)


def _nonzero(weights: Sequence[Scalar]) -> list[tuple[int, Scalar]]:
    """The weights that are not known to be zero, with their indices."""
    return [(j, w) for j, w in enumerate(weights) if not known_zero(w)]
