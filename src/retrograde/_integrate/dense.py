"""Dense output: y at any time between t0 and t1, from rows at fixed nodes of every step.

Inside a step the interpolant is a polynomial in theta = (t - start) / size of a degree d that the
solver knows, so its values at d + 1 nodes say all of it: those at theta = 0 (the end of the step
before) and at d nodes behind it. They are kept as rows like any other (``Output.nodes``), with the
exact gradient that rows have. A time is looked up among the steps' ends, and Lagrange's form of the
polynomial gives y there; at the nodes it is the rows, to the last bit.

Nodes are those of Chebyshev and Lobatto: rounding is amplified by less than 2.5 up to degree 7.
Knots (where steps begin and end) and sizes (that of a step's polynomial) stand apart: a step that
an event cut short keeps the polynomial of the whole one. Since the next one may begin elsewhere,
solves with events keep the row at theta = 0 of each step, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from .._backend.registry import backend_for
from .._base.errors import InputError
from .._base.types import Array, Aux, Bool, DType, Index, Inputs, Leaves, Scalar, Tree
from .event_times import knot_sources, may_move, moved_knots
from .moving_times import Moving, moves, rates, untold_by_jumps, with_jumps, zero_of
from .saveat import SaveAt

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .integrator import Integrator
    from .outputs import Output

DENSE = SaveAt(t0=True, steps=True)
"""Which rows dense output is made of: those at the nodes of each step, behind y0."""


def nodes(degree: int, *, whole: bool = False) -> tuple[float, ...]:
    """The nodes behind theta = 0 of a polynomial of this degree, and 0 itself where ``whole``.

    Examples
    --------
    >>> nodes(1), nodes(2)
    ((1.0,), (0.5, 1.0))
    """
    inner = [(1 - math.cos(math.pi * k / degree)) / 2 for k in range(1, degree)]
    inner = [0.5 if 2 * k == degree else x for k, x in enumerate(inner, 1)]
    return (*[0.0] * whole, *inner, 1.0)


class _Place(NamedTuple):
    """Where times lie: step, theta (nan outside t0 to t1) and the step's size."""

    i: Index
    theta: Array
    size: Array


@dataclass(frozen=True, eq=False)
class DenseOutput:
    """y between t0 and t1.

    Of a batch whose samples have steps of their own, arrays have the samples in front.

    Attributes
    ----------
    rows : tree of arrays, shape (1 + n k, *shape)
        y0, then y at the k nodes of each of n steps.
    knots : array, shape (n + 1,) [time]
        Where steps begin and end, counted from ``origin``; behind the last one inf, in traced code.
    sizes : array, shape (n,) [time]
        Of each step's polynomial.
    origin : float or array, shape () [time]
        t0, or 0 where times are not counted from it.
    nodes : tuple of k floats
        Where in a step its rows stand; where 0 is none of them, the row before is the one there.
    dtypes : tuple of dtypes or None
        Those of y, where rows are carried in another one.
    """

    rows: Tree
    knots: Array
    sizes: Array
    origin: Scalar
    nodes: tuple[float, ...]
    dtypes: tuple[DType | None, ...] | None = None

    @property
    def at(self) -> tuple[float, ...]:
        """All nodes, 0 among them."""
        return self.nodes if self.nodes[0] == 0.0 else (0.0, *self.nodes)

    def row(self, i: Index, j: int) -> Index:
        """Which row is that of node j (of all) of step i."""
        return i * len(self.nodes) + j + int(self.nodes[0] == 0.0)

    @property
    def bk(self) -> AbstractBackend:
        """The adapter of its arrays."""
        found = backend_for(self.knots)
        assert found is not None
        return found

    def evaluate(self, t: Tree, *, derivative: bool = False) -> Tree:
        """y (or dy/dt) at t, shape () or (k,): a tree of arrays of shape (*t.shape, *shape)."""
        if len(self.knots.shape) == 2:
            from .samples.dense import evaluate  # for batches alone

            return evaluate(self, t, derivative=derivative)
        bk, times, shape = self._times(t)
        place = self._find(bk, times)
        weights = self._weights(bk, place, derivative)
        leaves, treedef = bk.flatten(self.rows)
        if derivative and not self.sizes.shape[0]:  # a solve without steps has no slope
            weights = weights * math.nan
        found = [self._sum(bk, x, place, weights) for x in leaves]
        found = [bk.xp.reshape(x, (*shape, *x.shape[1:])) for x in found]
        if self.dtypes is not None:
            found = [cast(bk, x, own) for x, own in zip(found, self.dtypes, strict=True)]
        return bk.unflatten(treedef, found)

    def _times(self, t: Tree) -> tuple[AbstractBackend, Array, tuple[int, ...]]:
        """Times as the knots count them, shape (k,), and the shape that they came in."""
        bk, origin, knots = self.bk, self.origin, self.knots
        if isinstance(t, (int, float)) and isinstance(origin, (int, float)):
            t, origin = t - origin, 0.0  # exact as numbers are
        device = bk.device_of(knots)
        if bk.is_array(t):
            t = bk.xp.astype(t, knots.dtype)
        else:
            t = bk.array(getattr(t, "tolist", lambda: t)(), knots.dtype, device)
        shape = tuple(t.shape)
        if len(shape) > 1:
            raise InputError(f"`t` has the shape {shape}; pass one time or times of shape (k,).")
        return bk, bk.xp.reshape(t - origin, (-1,)), shape

    def _find(self, bk: AbstractBackend, t: Array) -> _Place:
        """The steps that times lie in; one that ends there where two meet."""
        xp, knots, count = bk.xp, self.knots, int(self.sizes.shape[0])
        rest = bk.stop_gradient(knots)
        start, ends, at = rest[0], rest[1:], bk.stop_gradient(t)
        if count == 0:
            inside = at == start
            self._check(bk, t, inside, start, start)
            zero = xp.zeros_like(t)
            theta = zero * _spoiling(xp, inside, zero)
            return _Place(xp.astype(zero, xp.int32), theta, zero + 1.0)
        sign = xp.where(ends[0] < start, -1.0 * xp.ones_like(start), xp.ones_like(start))
        reach = xp.abs(ends - start)  # rises, backward in time too, and ends with inf
        last = xp.max(xp.where(xp.isfinite(reach), reach, xp.zeros_like(reach)))
        far = (at - start) * sign
        slack = 8 * xp.finfo(knots.dtype).eps * (last + abs(bk.stop_gradient(self.origin)))
        inside = (far >= -slack) & (far <= last + slack)
        self._check(bk, t, inside, start, start + sign * last)
        bounded = xp.where(inside, xp.minimum(xp.maximum(far, 0 * far), last), 0 * far)
        i = xp.searchsorted(reach, bounded)
        first, size = xp.take(knots, i, axis=0), xp.take(self.sizes, i, axis=0)
        theta = (t - first) / size
        return _Place(i, theta * _spoiling(xp, inside, theta), size)

    def _check(self, bk: AbstractBackend, t: Array, inside: Bool, t0: Array, t1: Array) -> None:
        """InputError for a time outside, where its value is known; else it gives nan."""
        if bk.concrete(bk.xp.all(inside)) in (None, 1.0):
            return
        xp = bk.xp
        wrong = bk.number(t[int(bk.number(xp.argmin(xp.astype(inside, xp.int32))))])
        origin = float(bk.number(self.origin))
        t0, t1 = (float(bk.number(x)) + origin for x in (t0, t1))
        raise InputError(
            f"`t` is {float(wrong) + origin!r}, outside of t0 = {t0!r} to t1 = {t1!r}, which the "
            "solve covered; solve further, or pass times between them."
        )

    def _weights(self, bk: AbstractBackend, place: _Place, derivative: bool) -> Array:
        """Those of the rows at all nodes of each time's step, shape (k, number of nodes)."""
        values, slopes = lagrange(self.at, place.theta)
        return bk.xp.stack([x / place.size for x in slopes] if derivative else values, axis=1)

    def _sum(self, bk: AbstractBackend, rows: Array, place: _Place, weights: Array) -> Array:
        """The weighted rows of each time's step."""
        xp, shape = bk.xp, tuple(rows.shape[1:])
        if self.sizes.shape[0] == 0:
            return xp.take(rows, place.i, axis=0) * _like(xp, weights[:, 0], rows, shape)
        total: Array = 0.0
        for j in range(len(self.at)):
            part = xp.take(rows, self.row(place.i, j), axis=0)
            total = total + _like(xp, weights[:, j], rows, shape) * part
        return total

    # --- the gradient, where the library has none of its own
    def pull(self, t: Tree, cotangent: Sequence[Array]) -> tuple[list[Array], Array, Array, Scalar]:
        """Cotangents of the leaves of rows, of knots, sizes and origin, from y's at t."""
        bk, times, _ = self._times(t)
        place, xp = self._find(bk, times), bk.xp
        values, slopes = lagrange(self.at, place.theta)
        count, dtype = int(self.sizes.shape[0]), self.knots.dtype
        steps = xp.arange(max(count, 1), device=bk.device_of(self.knots))
        chosen = place.i[None, :] == steps[:, None]  # (n, k)
        by_theta, found = xp.zeros_like(place.theta), []
        for rows, ct in zip(bk.flatten(self.rows)[0], cotangent, strict=True):
            flat = xp.astype(xp.reshape(ct, (times.shape[0], -1)), rows.dtype)
            one = xp.astype(chosen, rows.dtype)
            total = xp.zeros_like(xp.reshape(rows, (rows.shape[0], -1)))
            parts = []
            for j in range(len(self.at)):
                part = bk.matmul(one, _like(xp, values[j], rows, (1,)) * flat)
                parts.append(part)
                if count:
                    row = xp.reshape(xp.take(rows, self.row(place.i, j), axis=0), flat.shape)
                    by_theta = by_theta + slopes[j] * xp.sum(bk.pair(flat, row), axis=1)
            shared = len(self.at) > len(self.nodes)
            found.append(xp.reshape(_spread(xp, parts, total, count, shared), rows.shape))
        by_t = by_theta / place.size
        one = xp.astype(chosen, dtype)
        starts = -bk.matmul(one, by_t[:, None])[:, 0]
        sizes = -bk.matmul(one, (by_t * place.theta)[:, None])[:, 0]
        end = xp.zeros_like(self.knots[:1])
        knots = xp.concat([starts, end], axis=0) if count else end
        return found, knots, sizes if count else self.sizes, -xp.sum(by_t)

    def spoiled(self, ok: Bool) -> DenseOutput:
        """The same, nan unless ok: of a solve that did not reach t1."""
        bk = self.bk
        leaves, treedef = bk.flatten(self.rows)
        return replace(self, rows=bk.unflatten(treedef, [bk.nan_unless(ok, x) for x in leaves]))


def dense_output(
    loop: Integrator,
    inputs: Inputs,
    out: Output,
    times: Array,
    rows: Leaves,
    n: Index,
    events: tuple[Leaves, Aux],
) -> DenseOutput:
    """That of a solve, from its rows and times (``output_times``), n of the steps taken, and from
    the events' leaves and what else they told."""
    bk, d = loop.bk, len(out.nodes)
    count = (int(rows[0].shape[0]) - 1) // d
    knots, sizes = times[: count + 1], times[count + 1 :]
    if isinstance(n, int) and n < count:  # drop a traced buffer's unused rows
        rows = tuple(x[: n * d + 1, ...] for x in rows)
        knots, sizes = knots[: n + 1], sizes[:n]
    origin: Scalar = inputs.t0 if loop.shifted else 0.0
    if loop.events is not None and may_move(loop, inputs, events[0]):
        knots, sizes = (bk.stop_gradient(x) for x in (knots, sizes))
        user = knots + bk.stop_gradient(origin)
        place, starts, ends = knot_sources(loop, inputs, (user, sizes), n, *events)
        moved = moved_knots(loop, inputs, events[0], place)
        sizes = sizes + ends * moved[1:] - starts * moved[:-1]
        start = zero_of(bk, bk.scalar_array(origin, loop.layout))
        knots = untold_by_jumps(loop, inputs, knots + moved - start)
    elif loop.events is None and any(moves(bk, t) for t in (*inputs[2:4], inputs.jumps)):
        knots = bk.stop_gradient(knots)
        by = knot_rates(loop, inputs, out, knots, n)
        t0, t1 = (zero_of(bk, bk.scalar_array(t, loop.layout)) for t in inputs[2:4])
        knots = knots + by.t0 * t0 + by.t1 * t1 + with_jumps(bk, inputs, by, loop.layout)
    sizes = sizes if sizes.shape[0] else knots[1:] - knots[:-1]
    casts = loop.problem.casts
    dtypes = None if casts is None else casts.y.own
    return DenseOutput(loop.problem.tree(rows), knots, sizes, origin, out.nodes, dtypes)


def knot_rates(loop: Integrator, inputs: Inputs, out: Output, knots: Array, n: Index) -> Moving:
    """How knots, as the clock counts them, move with t0, t1 and jumps."""
    if not loop.shifted:
        return rates(loop, inputs, out, knots, n)
    by = rates(loop, inputs, out, knots + loop.bk.stop_gradient(inputs.t0), n)
    return Moving(by.t0 - 1.0, by.t1, by.jumps)


def lagrange(at: Sequence[float], x: Array) -> tuple[list[Array], list[Array]]:
    """Lagrange's polynomials of the nodes at x, and their derivatives; exact at the nodes."""
    n = len(at)
    scale = [1.0 / math.prod(a - b for b in at if b != a) for a in at]
    one = 0.0 * x + 1.0
    before, after = [(one, 0.0 * x)], [(one, 0.0 * x)]
    for k in range(n - 1):
        for side, node in ((before, at[k]), (after, at[n - 1 - k])):
            p, dp = side[-1]
            side.append((p * (x - node), dp * (x - node) + p))
    pairs = list(zip(before, reversed(after), scale, strict=True))
    values = [p * q * c for (p, _), (q, _), c in pairs]
    slopes = [(dp * q + p * dq) * c for (p, dp), (q, dq), c in pairs]
    return values, slopes


def cast(bk: AbstractBackend, x: Array, dtype: DType | None) -> Array:
    """An array in the dtype of y's leaf; one that is carried as a complex one may be real."""
    if dtype is None or x.dtype == dtype:
        return x
    xp = bk.xp
    real = bk.floating(x) == "complex" and not xp.isdtype(dtype, "complex floating")
    return xp.astype(xp.real(x) if real else x, dtype)


def _spoiling(xp: Tree, inside: Bool, like: Array) -> Array:
    """1 where inside, else nan: a factor of values and gradients."""
    return xp.where(inside, xp.ones_like(like), xp.zeros_like(like) + math.nan)


def _like(xp: Tree, weights: Array, rows: Array, shape: tuple[int, ...]) -> Array:
    """Weights of shape (k,) to multiply rows of shape (k, *shape) with."""
    return xp.astype(xp.reshape(weights, (-1, *[1] * len(shape))), rows.dtype)


def _spread(xp: Tree, parts: list[Array], total: Array, count: int, shared: bool) -> Array:
    """Sums of rows from those of each step's nodes; ``shared``: a step's end is where the next one
    begins."""
    if not count:
        return parts[0]
    if not shared:
        own = xp.reshape(xp.stack(parts, axis=1), (count * len(parts), -1))
        return xp.concat([xp.zeros_like(total[:1]), own], axis=0)
    d = len(parts) - 1
    own = xp.reshape(xp.stack(parts[1:], axis=1), (count * d, -1))  # nodes 1, ..., d of each step
    starts = xp.zeros_like(xp.stack(parts[1:], axis=1))
    starts = xp.concat([parts[0][:, None, :], starts[:, 1:, :]], axis=1)  # at 0, d, 2 d, ...
    none = xp.zeros_like(total[:1])
    starts = xp.concat([xp.reshape(starts, (count * d, -1)), none], axis=0)
    return xp.concat([none, own], axis=0) + starts
