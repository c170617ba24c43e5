"""Functions of time out of data: forcing that was measured, for use inside of f.

    >>> import numpy as np
    >>> import retrograde as rg
    >>> hours, rain = np.asarray([0.0, 1.0, 2.0, 4.0]), np.asarray([0.0, 3.0, 1.0, 0.0])
    >>> forcing = rg.interpolate.linear(hours, rain)
    >>> float(forcing(1.5)), forcing.kinks
    (2.0, (1.0, 2.0))
    >>> def tank(t, y, args):
    ...     k, rain = args
    ...     return rain(t) - k * y
    >>> steps = rg.PIDController(jump_ts=forcing.kinks)
    >>> sol, pullback = rg.solve_vjp(tank, 0.0, 0.0, 4.0, (0.5, forcing), controller=steps)
    >>> pullback([1.0]).args[1].xs.shape  # the gradient by the data
    (4,)

An interpolant is a tree: in ``args`` it gets gradients like any other (of a cubic one by the values
and by the slopes; build it inside of what is differentiated, and they go on to the data). A solver
expects an f that is smooth: hand ``kinks`` to the controller, and no step reaches across one.

Every form is a polynomial between two knots, told by the data and slopes there, in the operations
of the array API: what runs on a library is differentiable on it, by t too, and by the library's own
means or by retrograde's tape. One evaluation costs a search among the knots and about twenty
operations; of a cubic interpolant the slopes are one system of equations, solved once.

References
----------
Fritsch, Butland 1984, "A method for constructing local monotone piecewise cubic interpolants",
doi:10.1137/0905021 (pchip); de Boor 2001, "A practical guide to splines", chapter IV (cubic).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from ._backend.registry import backend_beside, backend_for
from ._base.errors import InputError
from ._base.trees import flatten
from ._base.types import Array, Namespace, Tree

__all__ = ["Interpolant", "cubic", "linear", "pchip"]

Outside: TypeAlias = Literal["nan", "hold", "extrapolate"]
"""What an interpolant gives before its first knot and behind its last."""

OUTSIDE = ("nan", "hold", "extrapolate")
SLACK = 8.0
"""Roundings of the knots by which a time may lie outside."""


@dataclass(frozen=True, eq=False)
class Interpolant:
    """A function of time, made by :func:`linear`, :func:`cubic` or :func:`pchip`.

    Attributes
    ----------
    ts : array, shape (k,) [time]
        Its knots, rising.
    xs : tree of arrays, shape (k, *shape)
        The data.
    slopes : tree of arrays, shape (k, *shape), or None
        Derivatives at the knots; None where it is linear between them.
    outside : str
        What it gives before the first knot and behind the last: ``"nan"``, ``"hold"`` (the first
        or last data) or ``"extrapolate"`` (the first or last polynomial goes on).

    Examples
    --------
    >>> import retrograde as rg
    >>> u = rg.interpolate.cubic([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 8.0, 27.0])
    >>> round(float(u(1.5)), 6), u([0.5, 2.5]).shape, round(float(u.derivative(2.0)), 6)
    (3.375, (2,), 12.0)
    """

    ts: Array
    xs: Tree
    slopes: Tree
    outside: Outside = "nan"

    @property
    def kinks(self) -> tuple[float, ...]:
        """The knots between the ends, where it is not smooth: ``jump_ts`` of a controller.

        The derivative of a linear interpolant jumps there, the second one of ``pchip`` and the
        third of ``cubic``.
        """
        bk = backend_for(self.ts)
        values = None if bk is None else bk.concrete_times(self.ts)
        if values is None:
            raise InputError(
                "`kinks` are numbers, but `ts` has no values yet (it is traced); read them off an "
                "interpolant of plain times."
            )
        return tuple(values[1:-1])

    def __call__(self, t: Tree) -> Tree:
        """The data at t, shape () or (k,): arrays of shape (*t.shape, *shape)."""
        return self._at(t, _values)

    def derivative(self, t: Tree) -> Tree:
        """Its derivative by time, called as the interpolant is."""
        return self._at(t, _slopes)

    def _at(self, t: Tree, form: Callable[..., Array]) -> Tree:
        leaves, treedef = flatten(self.xs)
        slopes = [None] * len(leaves) if self.slopes is None else flatten(self.slopes)[0]
        t = t if hasattr(t, "shape") else _like(t, self.ts)
        xp, shape = _namespace(t, self.ts, *leaves), tuple(t.shape)
        at = xp.astype(xp.reshape(t, (-1,)), self.ts.dtype)
        i, theta, h = self._place(xp, at)
        found = []
        for x, m in zip(leaves, slopes, strict=True):
            rows = [xp.take(y, j, axis=0) for y in (x, m) if y is not None for j in (i, i + 1)]
            wide = (-1, *[1] * (len(x.shape) - 1))
            value = form(xp.reshape(theta, wide), xp.reshape(h, wide), *rows)
            found.append(xp.reshape(value, (*shape, *tuple(x.shape)[1:])))
        return treedef.unflatten(found)

    def _place(self, xp: Namespace, t: Array) -> tuple[Array, Array, Array]:
        """The interval of each time, where it lies there as a part of it, and its size."""
        ts, last = self.ts, int(self.ts.shape[0]) - 2
        i = xp.clip(xp.searchsorted(ts, t, side="right") - 1, 0, last)
        if self.outside == "hold":
            t = xp.minimum(xp.maximum(t, ts[0]), ts[-1])
        start = xp.take(ts, i, axis=0)
        h = xp.take(ts, i + 1, axis=0) - start
        theta = (t - start) / h
        if self.outside == "nan":
            ends = xp.maximum(abs(ts[0]), abs(ts[-1]))
            slack = SLACK * float(xp.finfo(ts.dtype).eps) * ends
            inside = (t >= ts[0] - slack) & (t <= ts[-1] + slack)
            one = xp.ones_like(theta)  # no part of theta's derivative, which nan would spoil
            theta = theta * xp.where(inside, one, one * float("nan"))
        return i, theta, h


def linear(ts: Tree, xs: Tree, *, outside: Outside = "nan") -> Interpolant:
    """Straight lines between data.

    Parameters
    ----------
    ts : array or sequence of float, shape (k,) [time]
        Rising; two at least.
    xs : tree of arrays, shape (k, *shape)
        The data, real or complex.
    outside : str
        Before the first and behind the last time: ``"nan"``, ``"hold"`` or ``"extrapolate"``.

    Returns
    -------
    Interpolant

    Raises
    ------
    InputError
        For times that do not rise, or data that are not as many.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> u = rg.interpolate.linear([0.0, 1.0, 3.0], {"rain": np.asarray([0.0, 2.0, 6.0])})
    >>> float(u(2.0)["rain"])
    4.0
    """
    ts, xs, _ = _data(ts, xs, outside)
    return Interpolant(ts, xs, None, outside)


def pchip(ts: Tree, xs: Tree, *, outside: Outside = "nan") -> Interpolant:
    """Monotone cubics: no value beyond those of the data beside it, no overshoot [1]_.

    Slopes are those of SciPy's ``PchipInterpolator``: weighted harmonic means of the slopes on both
    sides, 0 at extrema.

    Parameters
    ----------
    ts : array or sequence of float, shape (k,) [time]
        Rising; two at least.
    xs : tree of arrays, shape (k, *shape)
        The data, real.
    outside : str
        As in :func:`linear`.

    Returns
    -------
    Interpolant

    References
    ----------
    .. [1] Fritsch, Butland 1984, doi:10.1137/0905021.

    Examples
    --------
    >>> import retrograde as rg
    >>> u = rg.interpolate.pchip([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 1.0])
    >>> float(u(0.5)), float(u(1.5)), float(u(2.5))
    (0.0, 0.5, 1.0)
    """
    ts, xs, xp = _data(ts, xs, outside)
    leaves, treedef = flatten(xs)
    for x in leaves:
        if xp.isdtype(x.dtype, "complex floating"):
            raise InputError("`xs` is complex, which has no order; use `linear` or `cubic`.")
    slopes = [_monotone(xp, ts, x) for x in leaves]
    return Interpolant(ts, xs, treedef.unflatten(slopes), outside)


def cubic(
    ts: Tree,
    xs: Tree,
    *,
    ends: Literal["not-a-knot", "natural"] = "not-a-knot",
    outside: Outside = "nan",
) -> Interpolant:
    """The cubic spline: two continuous derivatives [1]_.

    Parameters
    ----------
    ts : array or sequence of float, shape (k,) [time]
        Rising; two at least.
    xs : tree of arrays, shape (k, *shape)
        The data, real or complex.
    outside : str
        As in :func:`linear`.
    ends : str
        ``"not-a-knot"``: the first two cubics are one, and the last two (SciPy's default);
        ``"natural"``: the second derivative is 0 at both ends.

    Returns
    -------
    Interpolant

    Notes
    -----
    Slopes at the knots come by the inverse of a matrix of k times k numbers, once: k**3 operations,
    so that some thousand knots are no trouble. Each datum has a part in all of it.

    References
    ----------
    .. [1] de Boor, "A practical guide to splines", 2001, chapter IV.

    Examples
    --------
    >>> import retrograde as rg
    >>> u = rg.interpolate.cubic([0.0, 1.0, 2.0], [0.0, 1.0, 0.0], ends="natural")
    >>> float(u(0.5))
    0.6875
    """
    if ends not in ("not-a-knot", "natural"):
        raise InputError(f"`ends` is {ends!r}; pass 'not-a-knot' or 'natural'.")
    ts, xs, xp = _data(ts, xs, outside)
    leaves, treedef = flatten(xs)
    h = ts[1:] - ts[:-1]
    inverse = xp.linalg.inv(_system(xp, h, natural=ends == "natural"))
    slopes = []
    for x in leaves:
        flat = xp.reshape(x, (int(x.shape[0]), -1))
        delta = (flat[1:, ...] - flat[:-1, ...]) / _wide(xp, h, flat)
        right = _right_side(xp, h, delta, natural=ends == "natural")
        slopes.append(xp.reshape(_matmul(xp, xp.astype(inverse, x.dtype), right), x.shape))
    return Interpolant(ts, xs, treedef.unflatten(slopes), outside)


# --- polynomials between two knots
def _values(theta: Array, h: Array, x0: Array, x1: Array, *slopes: Array) -> Array:
    """The polynomial at theta, of data at both ends and slopes there (linear: without)."""
    if not slopes:
        return x0 + theta * (x1 - x0)
    m0, m1 = slopes
    rest = 1.0 - theta
    line = x0 + theta * theta * (3.0 - 2.0 * theta) * (x1 - x0)
    return line + h * theta * rest * (rest * m0 - theta * m1)


def _slopes(theta: Array, h: Array, x0: Array, x1: Array, *slopes: Array) -> Array:
    """Its derivative by time; nan where theta is."""
    if not slopes:
        return (x1 - x0) / h + 0.0 * theta
    m0, m1 = slopes
    rest = 1.0 - theta
    line = 6.0 * theta * rest * (x1 - x0) / h
    return line + rest * (1.0 - 3.0 * theta) * m0 + theta * (3.0 * theta - 2.0) * m1


# --- slopes
def _monotone(xp: Namespace, ts: Array, x: Array) -> Array:
    """Slopes of pchip."""
    h = ts[1:] - ts[:-1]
    wide = xp.reshape(h, (-1, *[1] * (len(x.shape) - 1)))
    delta = (x[1:, ...] - x[:-1, ...]) / wide
    if int(ts.shape[0]) == 2:
        return xp.concat([delta, delta], axis=0)
    d0, d1, h0, h1 = delta[:-1, ...], delta[1:, ...], wide[:-1, ...], wide[1:, ...]
    w0, w1 = 2.0 * h1 + h0, h1 + 2.0 * h0
    same = d0 * d1 > 0
    below = xp.where(same, w0 * d1 + w1 * d0, d0 * 0.0 + 1.0)  # no division by 0 in derivatives
    inner = xp.where(same, (w0 + w1) * d0 * d1 / below, d0 * 0.0)
    first = _end(xp, h0[:1, ...], h1[:1, ...], d0[:1, ...], d1[:1, ...])
    last = _end(xp, h1[-1:, ...], h0[-1:, ...], d1[-1:, ...], d0[-1:, ...])
    return xp.concat([first, inner, last], axis=0)


def _end(xp: Namespace, h0: Array, h1: Array, d0: Array, d1: Array) -> Array:
    """The slope at an end of pchip: three points, kept from overshooting."""
    slope = ((2.0 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    slope = xp.where(slope * d0 > 0, slope, slope * 0.0)
    steep = (d0 * d1 <= 0) & (abs(slope) > 3.0 * abs(d0))
    return xp.where(steep, 3.0 * d0, slope)


def _system(xp: Namespace, h: Array, *, natural: bool) -> Array:
    """The matrix of the slopes of a cubic spline; 1 or 2 intervals are one polynomial."""
    k, one = int(h.shape[0]) + 1, h[:1] * 0.0 + 1.0

    def banded(lower: Array, middle: Array, upper: Array) -> Array:
        parts = ((lower, -1), (middle, 0), (upper, 1))
        eyes = [xp.astype(_eye(xp, h, k, place), h.dtype) for _, place in parts]
        rows = [xp.reshape(band, (k, 1)) for band, _ in parts]
        return rows[0] * eyes[0] + rows[1] * eyes[1] + rows[2] * eyes[2]

    inner = 2.0 * (h[1:] + h[:-1]), h[1:], h[:-1]
    if natural:
        ends = (2.0 * one, one), (2.0 * one, one)
    elif k == 2:
        ends = (one, 0.0 * one), (one, 0.0 * one)
    elif k == 3:
        ends = (one, one), (one, one)
    else:
        ends = (h[1:2], h[:1] + h[1:2]), (h[-2:-1], h[-1:] + h[-2:-1])
    (first, beside), (last, before) = ends
    zero = 0.0 * one
    return banded(
        xp.concat([zero, inner[1], before], axis=0),
        xp.concat([first, inner[0], last], axis=0),
        xp.concat([beside, inner[2], zero], axis=0),
    )


def _eye(xp: Namespace, like: Array, k: int, place: int) -> Array:
    """Where column - row is ``place``, of k rows and columns."""
    index = xp.cumulative_sum(xp.concat([like, like[:1]], axis=0) * 0.0 + 1.0)
    return xp.reshape(index, (1, k)) - xp.reshape(index, (k, 1)) == float(place)


def _right_side(xp: Namespace, h: Array, delta: Array, *, natural: bool) -> Array:
    """Its right side, shape (k, size), of the slopes between the data."""
    wide, k = _wide(xp, h, delta), int(h.shape[0]) + 1
    h0, h1, d0, d1 = wide[:-1, ...], wide[1:, ...], delta[:-1, ...], delta[1:, ...]
    inner = 3.0 * (h1 * d0 + h0 * d1)
    if natural:
        ends = [3.0 * delta[:1, ...], 3.0 * delta[-1:, ...]]
    elif k == 2:
        ends = [delta, delta]
    elif k == 3:
        ends = [2.0 * delta[:1, ...], 2.0 * delta[1:, ...]]
    else:
        ends = [
            _not_a_knot(wide[:1, ...], wide[1:2, ...], delta[:1, ...], delta[1:2, ...]),
            _not_a_knot(wide[-1:, ...], wide[-2:-1, ...], delta[-1:, ...], delta[-2:-1, ...]),
        ]
    return xp.concat([ends[0], inner, ends[1]], axis=0)


def _not_a_knot(h0: Array, h1: Array, d0: Array, d1: Array) -> Array:
    both = h0 + h1
    return ((h0 + 2.0 * both) * h1 * d0 + h0 * h0 * d1) / both


def _wide(xp: Namespace, h: Array, like: Array) -> Array:
    """Sizes of intervals as a column of the data's dtype."""
    return xp.astype(xp.reshape(h, (-1, 1)), like.dtype)


def _matmul(xp: Namespace, a: Array, b: Array) -> Array:
    """At full precision, which the adapter knows how to ask for."""
    bk = None if _taped(b) else backend_for(b)
    return xp.matmul(a, b) if bk is None else bk.matmul(a, b)


# --- data
def _data(ts: Tree, xs: Tree, outside: str) -> tuple[Array, Tree, Namespace]:
    """Times and data as arrays of one library, and its namespace; InputError if they don't fit."""
    if outside not in OUTSIDE:
        raise InputError(f"`outside` is {outside!r}; pass one of {', '.join(map(repr, OUTSIDE))}.")
    leaves, treedef = flatten(xs)
    if not any(hasattr(x, "shape") for x in leaves):  # numbers in a list
        leaves, treedef = [xs], flatten(0)[1]
    taped = any(map(_taped, leaves))
    bk = None if taped else backend_beside(leaves, ts)
    if bk is not None:
        first = next((x for x in leaves if bk.is_array(x)), None)
        first = bk.xp.asarray(leaves[0]) if first is None else first
        leaves = [_floating(bk.xp, x if bk.is_array(x) else bk.xp.asarray(x)) for x in leaves]
        if not hasattr(ts, "shape") or backend_for(ts) is not bk:
            ts = bk.array(_numbers(ts), bk.real_dtype(leaves[0]), bk.device_of(leaves[0]))
        ts = _floating(bk.xp, ts)
        values = bk.concrete_times(ts)
        rising = values is None or all(a < b for a, b in pairwise(values))
        if len(tuple(ts.shape)) != 1 or int(ts.shape[0]) < 2 or not rising:
            raise InputError(
                f"`ts` has the shape {tuple(ts.shape)} or does not rise; pass at least two times, "
                "sorted, none of them twice."
            )
    xp = _namespace(ts, *leaves)
    for x in leaves:
        if not tuple(x.shape) or int(x.shape[0]) != int(ts.shape[0]):
            raise InputError(
                f"`xs` has the shape {tuple(x.shape)}, but there are {int(ts.shape[0])} times; its "
                "first axis is that of time."
            )
    return ts, treedef.unflatten(leaves), xp


def _floating(xp: Namespace, x: Array) -> Array:
    """Integers as floats."""
    return xp.astype(x, xp.float64) if xp.isdtype(x.dtype, "integral") else x


def _numbers(ts: Tree) -> Any:
    return ts.tolist() if hasattr(ts, "tolist") else [float(t) for t in ts]


def _like(t: Tree, ts: Array) -> Array:
    """A time of Python's as an array beside ts."""
    bk = backend_for(ts)
    if bk is None or _taped(ts):
        return _namespace(ts).asarray(t, dtype=ts.dtype)
    return bk.array(t, ts.dtype, bk.device_of(ts))


def _taped(x: Tree) -> bool:
    """Whether it is a variable of retrograde's own tape."""
    return type(x).__module__.startswith("retrograde.")


def _namespace(*arrays: Array) -> Namespace:
    """The namespace of arrays, a tape's where one of them is on it."""
    for x in arrays:
        if _taped(x):
            return x.__array_namespace__()
    found = backend_for(arrays[-1])
    assert found is not None
    return found.xp
