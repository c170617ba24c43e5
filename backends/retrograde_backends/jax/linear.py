"""JAX: Jacobians by columns of jvps, and linear systems in the form that XLA runs fastest.

Measured on a CPU, one factorisation and 8 solves: to n = 3 Gauss-Jordan elimination written out, by
selects of pivots, takes 0.2 to 0.6 us where LAPACK's calls take 3; to n = 32 one inverse and
products take half the time of ``lu_solve``, which is two calls a solve; above, LU is ahead. Where a
whole solve may be one kernel, elimination in a loop keeps it one: solves and gradients of Rodas5P
take 0.2 (8 unknowns), 0.5 (12), 0.7 (16) and 0.85 (24) of the time, and compile in half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import lu_factor, lu_solve

from retrograde._backend.linear import DenseLinear, Factors, Matrix
from retrograde._backend.reals import Reals
from retrograde._base.types import (
    Array,
    Bool,
    Field,
    Leaves,
    ParamSums,
    Scalar,
    State,
    Tree,
)

from .field_vjp import reached
from .xla_cpu.eligible import enabled
from .xla_cpu.kernel import batched

if TYPE_CHECKING:
    from retrograde._autodiff.second import Term
    from retrograde._backend.protocols import FieldVJP

UNROLLED = 3
"""Up to so many unknowns elimination is written out."""

LOOPED = 24
"""Up to so many it is a loop, where a whole solve may be one kernel."""

INVERTED = 32
"""Up to so many the inverse is formed."""


class JaxLinearisation:
    """f at one (t, y), by ``jax.linearize`` under ``vmap``."""

    forward = True
    matrix: Array | None = None

    def __init__(self, field: Field, reals: Reals, t: Array, y: State, *, timed: bool) -> None:
        self.reals, self.field, self.t, self.y = reals, field, t, y

    def jvp(self, d: Array) -> Array:
        """J d for each row d."""
        reals = self.reals
        _, along = jax.linearize(partial(self.field, self.t), self.y)
        return jax.vmap(lambda row: reals.of_leaves(along(reals.state(row))))(d)

    def vjp(self, w: Array) -> Array:
        """w J for each row w."""
        reals, y = self.reals, self.reals.of(self.y)
        _, pull = jax.vjp(lambda row: reals.of_leaves(self.field(self.t, reals.state(row))), y)
        return jax.vmap(lambda row: pull(row)[0])(w)

    def by_time(self) -> Array | None:
        """df/dt; None where f's program does not read its time."""
        t = jnp.asarray(self.t)

        def at(t: Array) -> Array:
            return self.reals.of_leaves(self.field(t, self.y))

        if not reached(lambda times: at(times[0]), [t])[0][0]:  # as its program tells
            return None
        return jax.jvp(at, (t,), (jnp.ones_like(t),))[1]


def second_of_pull(
    vjp: FieldVJP,
    reals: Reals,
    point: tuple[Array, State],
    terms: Sequence[Term],
    acc: ParamSums,
) -> tuple[Leaves, Scalar, ParamSums]:
    """The derivative of the user's pulls along terms, by jvp."""
    t, row = jnp.asarray(point[0]), reals.of(point[1])

    def pulled(t: Array, row: Array, lam: Array) -> Tree:
        mu, ct, sums = vjp(t, reals.state(row))[1](reals.leaves(lam), vjp.zero())
        return tuple(mu), ct, sums

    def along(k: Array, tau: Array, lam: Array) -> Tree:
        return jax.jvp(partial(pulled, lam=lam), (t, row), (tau, k))[1]

    k, lam = (jnp.stack([getattr(x, name) for x in terms]) for name in ("k", "lam"))
    tau = jnp.stack([jnp.asarray(x.tau, t.dtype) for x in terms])
    found = jax.tree_util.tree_map(lambda x: jnp.sum(x, 0), jax.vmap(along)(k, tau, lam))
    mu, ct, sums = found
    return mu, ct, jax.tree_util.tree_map(jnp.add, acc, sums)


class JaxLinear(DenseLinear):
    """Linear systems in JAX, of one matrix or of one a sample."""

    conjugated = True

    @property
    def looped(self) -> bool:
        """Whether elimination is a loop: the same for all passes of a solve."""
        return self.n <= LOOPED and not self.batch and enabled() and not batched()

    def factor(self, matrix: Matrix) -> Factors:
        if self.n <= INVERTED:
            return super().factor(matrix)
        lu, pivots = (jax.vmap(lu_factor) if self.batch else lu_factor)(matrix[0])
        return lu, pivots

    def ok(self, factors: Factors) -> Bool:
        finite = jnp.all(jnp.isfinite(factors[0]))
        if self.n <= INVERTED:
            return finite
        pivots = jnp.diagonal(factors[0], axis1=-2, axis2=-1)
        return finite & jnp.all(pivots != 0)

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        if self.n <= INVERTED:
            return super()._solved(factors, b, transposed=transposed)
        solve = partial(lu_solve, trans=int(transposed))
        return (jax.vmap(solve) if self.batch else solve)(tuple(factors), b)

    def _inverse(self, a: Array) -> Array:
        if self.n <= UNROLLED:
            return inverse(eliminated, a)
        return inverse(eliminated_in_turns, a) if self.looped else jnp.linalg.inv(a)

    def _times(self, a: Array, x: Array) -> Array:
        if self.n <= UNROLLED or self.looped:  # a sum of products is fused with what is around it
            return jnp.sum(a * x[..., None, :], axis=-1)
        return super()._times(a, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def inverse(of: Callable[[Array], Array], a: Array) -> Array:
    """The inverse in a form ``of`` it, with two products for a derivative in place of the form's
    own, which is a program several times as long."""
    return of(a)


@inverse.defjvp
def _inverse_jvp(
    of: Callable[[Array], Array], primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    found, times = inverse(of, *primals), partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return found, -times(times(found, tangents[0]), found)


def eliminated_in_turns(a: Array) -> Array:
    """The same of (n, n), a turn of a loop for each column: what is in a kernel stays in it."""
    n = a.shape[-1]
    rows = jnp.arange(n)

    def turn(k: Array, m: Array) -> Array:
        column = lax.dynamic_index_in_dim(m, k, 1, keepdims=False)
        best = jnp.argmax(jnp.where(rows < k, -1.0, jnp.abs(column))).astype(k.dtype)
        chosen = lax.dynamic_index_in_dim(m, best, 0, keepdims=False)
        here = lax.dynamic_index_in_dim(m, k, 0, keepdims=False)
        m = lax.dynamic_update_index_in_dim(m, here, best, 0)
        pivot = chosen / lax.dynamic_index_in_dim(chosen, k, 0, keepdims=False)
        column = lax.dynamic_index_in_dim(m, k, 1, keepdims=False)
        m = m - column[:, None] * pivot
        return lax.dynamic_update_index_in_dim(m, pivot, k, 0)

    both = jnp.concatenate([a, jnp.eye(n, dtype=a.dtype)], axis=1)
    return lax.fori_loop(0, n, turn, both)[:, n:]


def eliminated(a: Array) -> Array:
    """The inverse of (..., n, n) by Gauss-Jordan elimination with pivots, written out.

    A pivot of 0 leaves what is not finite.
    """
    n = a.shape[-1]
    one, zero = jnp.ones(a.shape[:-2], a.dtype), jnp.zeros(a.shape[:-2], a.dtype)
    rows = [
        [a[..., i, j] for j in range(n)] + [one if i == j else zero for j in range(n)]
        for i in range(n)
    ]
    for k in range(n):
        for i in range(k + 1, n):  # the largest of column k comes to row k
            swap = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            pairs = list(zip(rows[k], rows[i], strict=True))
            rows[k] = [jnp.where(swap, y, x) for x, y in pairs]
            rows[i] = [jnp.where(swap, x, y) for x, y in pairs]
        pivot = 1.0 / rows[k][k]
        rows[k] = [x * pivot for x in rows[k]]
        for i in range(n):
            if i != k:
                w = rows[i][k]
                rows[i] = [x - w * y for x, y in zip(rows[i], rows[k], strict=True)]
    return jnp.stack([jnp.stack(row[n:], axis=-1) for row in rows], axis=-2)
