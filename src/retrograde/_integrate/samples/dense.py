"""Dense output of a batch whose samples have steps of their own.

It is a ``DenseOutput`` whose arrays have the samples in front. Samples with fewer steps than others
have knots of inf behind their last, as a single solve has in traced code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._base.errors import InputError
from ..._base.types import Array, Bool, Leaves, Tree
from ..dense import DenseOutput, cast, lagrange

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend


class _Places(NamedTuple):
    """Where times lie, all of shape (B, k): step, theta (nan outside) and the step's size."""

    i: Array
    theta: Array
    size: Array


def joined(bk: AbstractBackend, parts: Sequence[DenseOutput | None]) -> DenseOutput:
    """That of a batch, of its samples'; None: of one that has none, nan."""
    xp, first = bk.xp, next(x for x in parts if x is not None)
    most = max(1, *(int(x.sizes.shape[0]) for x in parts if x is not None))
    d, device = len(first.nodes), bk.device_of(first.knots)

    def filled(x: Array, count: int, fill: float) -> Array:
        if count == x.shape[0]:
            return x
        shape = (count - x.shape[0], *x.shape[1:])
        rest = xp.full(shape, fill, dtype=x.dtype, device=bk.device_of(x))
        return xp.concat([x, rest], axis=0)

    rows: list[list[Array]] = [[] for _ in bk.flatten(first.rows)[0]]
    knots, sizes, origins = [], [], []
    for x in parts:
        lost, x = x is None, x or first
        for all_, one in zip(rows, bk.flatten(x.rows)[0], strict=True):
            one = filled(one, 1 + most * d, 0.0)
            all_.append(xp.full_like(one, math.nan) if lost else one)
        knots.append(filled(x.knots, most + 1, math.inf))
        sizes.append(filled(x.sizes, most, 1.0))
        origins.append(bk.array(x.origin, first.knots.dtype, device))
    tree = bk.unflatten(bk.flatten(first.rows)[1], [xp.stack(x) for x in rows])
    arrays = xp.stack(knots), xp.stack(sizes), xp.stack(origins)
    return DenseOutput(tree, *arrays, first.nodes, first.dtypes)


def evaluate(dense: DenseOutput, t: Tree, *, derivative: bool) -> Tree:
    """y (or dy/dt) of all samples: a tree of arrays of shape (B, *shape) or (k, B, *shape)."""
    bk, times, shape = _times(dense, t)
    xp, place = bk.xp, _find(dense, bk, times)
    values, slopes = lagrange(dense.at, place.theta)
    weights = [x / place.size for x in slopes] if derivative else values
    leaves, treedef = bk.flatten(dense.rows)
    found = []
    for rows in leaves:
        total: Any = 0.0
        for j, w in enumerate(weights):
            total = total + _like(xp, w, rows) * _node(dense, bk, rows, place, j)
        total = xp.moveaxis(total, 1, 0)
        found.append(total if shape else total[0, ...])
    if dense.dtypes is not None:
        found = [cast(bk, x, own) for x, own in zip(found, dense.dtypes, strict=True)]
    return bk.unflatten(treedef, found)


def pull(dense: DenseOutput, t: Tree, cotangent: Leaves) -> tuple[list[Array], Array, Array, Array]:
    """Cotangents of the leaves of rows, of knots, sizes and origins, from y's at t."""
    bk, times, shape = _times(dense, t)
    xp, place = bk.xp, _find(dense, bk, times)
    values, slopes = lagrange(dense.at, place.theta)
    samples, steps = dense.sizes.shape
    chosen = xp.astype(
        _numbers(xp, steps, times)[None, :, None] == place.i[:, None, :], times.dtype
    )
    by_theta, found = xp.zeros_like(times), []
    for rows, ct in zip(bk.flatten(dense.rows)[0], cotangent, strict=True):
        ct = xp.astype(ct if shape else ct[None, ...], rows.dtype)
        flat = xp.reshape(xp.moveaxis(ct, 0, 1), (samples, times.shape[1], -1))
        parts = []
        for j in range(len(values)):
            parts.append(
                bk.matmul(xp.astype(chosen, rows.dtype), _like(xp, values[j], flat) * flat)
            )
            row = xp.reshape(_node(dense, bk, rows, place, j), flat.shape)
            by_theta = by_theta + slopes[j] * xp.sum(bk.pair(flat, row), axis=2)
        total = _spread(xp, parts, len(dense.nodes))
        found.append(xp.reshape(total, rows.shape))
    by_t = by_theta / place.size
    starts = -xp.sum(chosen * by_t[:, None, :], axis=2)
    sizes = -xp.sum(chosen * (by_t * place.theta)[:, None, :], axis=2)
    knots = xp.concat([starts, xp.zeros_like(starts[:, :1])], axis=1)
    return found, knots, sizes, -xp.sum(by_t, axis=1)


def _spread(xp: Tree, parts: list[Array], width: int) -> Array:
    """Sums of rows, (B, 1 + n width, m), from those of each step's nodes, (B, n, m) each; where
    there is one node more than rows, a step begins in the row that the one before it ends with."""
    samples, steps, size = parts[0].shape
    none = xp.zeros_like(parts[0][:, :1, :])
    own = xp.reshape(xp.stack(parts[-width:], axis=2), (samples, steps * width, size))
    own = xp.concat([none, own], axis=1)
    if len(parts) == width:
        return own
    rest = [xp.zeros_like(parts[0])] * (width - 1)
    starts = xp.reshape(xp.stack([parts[0], *rest], axis=2), (samples, steps * width, size))
    return own + xp.concat([starts, none], axis=1)


def _times(dense: DenseOutput, t: Tree) -> tuple[AbstractBackend, Array, tuple[int, ...]]:
    """Times as the knots count them, shape (B, k), and the shape that they came in."""
    bk, knots = dense.bk, dense.knots
    xp = bk.xp
    if bk.is_array(t):
        t = xp.astype(t, knots.dtype)
    else:
        t = bk.array(getattr(t, "tolist", lambda: t)(), knots.dtype, bk.device_of(knots))
    shape, samples = tuple(t.shape), knots.shape[0]
    if len(shape) > 2 or (len(shape) == 2 and shape[0] != samples):
        raise InputError(
            f"`t` has the shape {shape}; pass one time, times of shape (k,) for all samples, or a "
            f"row for each, shape ({samples}, k)."
        )
    if len(shape) < 2:
        t = xp.broadcast_to(xp.reshape(t, (1, -1)), (samples, math.prod(shape)))
    return bk, t - xp.reshape(dense.origin, (-1, 1)), shape


def _find(dense: DenseOutput, bk: AbstractBackend, t: Array) -> _Places:
    """The steps that times lie in; one that ends there where two meet."""
    xp, knots = bk.xp, bk.stop_gradient(dense.knots)
    start, ends, at = knots[:, :1], knots[:, 1:], bk.stop_gradient(t)
    sign = xp.where(ends[:, :1] < start, -xp.ones_like(start), xp.ones_like(start))
    reach = xp.abs(ends - start)
    known = xp.where(xp.isfinite(reach), reach, xp.zeros_like(reach))
    last = xp.max(known, axis=1)[:, None]
    far = (at - start) * sign
    origin = bk.stop_gradient(xp.reshape(dense.origin, (-1, 1)))
    slack = 8 * xp.finfo(knots.dtype).eps * (last + xp.abs(origin))
    inside = (far >= -slack) & (far <= last + slack)
    _check(bk, at + origin, inside)
    bounded = xp.where(inside, xp.minimum(xp.maximum(far, 0 * far), last), 0 * far)
    i = xp.sum(xp.astype(reach[:, None, :] < bounded[:, :, None], xp.int64), axis=2)
    first, size = (_taken(xp, x, i) for x in (dense.knots, dense.sizes))
    theta = (t - first) / size
    spoiled = xp.where(inside, xp.ones_like(theta), xp.full_like(theta, math.nan))
    return _Places(i, theta * spoiled, size)


def _check(bk: AbstractBackend, t: Array, inside: Bool) -> None:
    """InputError for a time outside, where its value is known; else it gives nan."""
    xp = bk.xp
    if bk.concrete(xp.all(inside)) in (None, 1.0):
        return
    worst = int(bk.number(xp.argmin(xp.astype(xp.reshape(inside, (-1,)), xp.int64))))
    row, wrong = worst // t.shape[1], float(bk.number(xp.reshape(t, (-1,))[worst]))
    raise InputError(
        f"`t` is {wrong!r} for sample {row}, outside of what its solve covered; pass times between "
        "its t0 and its end, `sol.t_final`."
    )


def _node(dense: DenseOutput, bk: AbstractBackend, rows: Array, place: _Places, j: int) -> Array:
    """The rows at node j of each time's step, shape (B, k, *shape)."""
    return _taken(bk.xp, rows, dense.row(place.i, j))


def _taken(xp: Tree, x: Array, i: Array) -> Array:
    """Entries i, shape (B, k), of each sample's own, along axis 1."""
    samples, count = x.shape[:2]
    flat = xp.reshape(x, (samples * count, *x.shape[2:]))
    places = xp.reshape(_numbers(xp, samples, i)[:, None] * count + i, (-1,))
    return xp.reshape(xp.take(flat, places, axis=0), (*i.shape, *x.shape[2:]))


def _numbers(xp: Tree, count: int, like: Array) -> Array:
    return xp.arange(count, dtype=xp.int64, device=getattr(like, "device", None))


def _like(xp: Tree, weights: Array, rows: Array) -> Array:
    """Weights of shape (B, k) to multiply rows of shape (B, k, *shape) with."""
    return xp.astype(
        xp.reshape(weights, (*weights.shape, *[1] * (len(rows.shape) - 2))), rows.dtype
    )
