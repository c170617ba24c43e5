"""JAX on the CPU: products of a small matrix and a column, in the form that a kernel runs fastest.

XLA's emitter of products in kernels (``_jax_kernel``) fills vectors of eight along the last axis of
a matrix; what is left over, all of it below eight, it adds up number by number, in memory. Sums of
elementwise products do that in registers. But of a product, operand and result are arrays, while a
sum becomes part of what it is read by, and what it reads part of it, where that is cheap: read
twice, it is formed twice. So sums are for products whose operand is there anyway, and whose result
is read once (jax 0.10: gradients of ``A @ y`` of 3 to 6 unknowns in two thirds of the time; of
``(A @ y) * (B @ y)`` it would be 1.7 times, of layers with residuals 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._jax_gate import CALLS, COSTLY, ELEMENTWISE, SHAPES, names

__all__ = ["is_product", "product", "products_to_sum"]

FILLED = 8
"""Numbers of a last axis from which XLA's emitter of products fills its vectors."""


def is_product(eqn: Any) -> bool:
    """Whether it is the product of a matrix and a vector, all of one inexact dtype."""
    if eqn.primitive.name != "dot_general":
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    avals = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    return (
        sorted(x.ndim for x in avals[:2]) == [1, 2]
        and not any(batch)
        and len(contracted[0]) == 1
        and len({x.dtype for x in avals}) == 1
        and bool(jnp.issubdtype(avals[0].dtype, jnp.inexact))
    )


def product(eqn: Any, matrix: Any, column: Any, *, as_sum: bool) -> Any:
    """What the equation makes of these, as a column."""
    at = [v.aval.ndim for v in eqn.invars].index(2)
    (axis,), precision = eqn.params["dimension_numbers"][0][at], eqn.params["precision"]
    return _product.bind(matrix, column, axis=axis, precision=precision, as_sum=as_sum)


def products_to_sum(jaxpr: Any, states: Iterable[Any]) -> set[int]:
    """The results, by id, of those that may be sums.

    Its operand has to be an array (what a costly operation or a product gives, a parameter, and
    what is cheap of those), or of a state that no other product reads: a sum of slopes, which is
    formed for each of its elements. The result has to be read once, and what is cheap of it.
    """
    sources = _sources(jaxpr, {id(v) for v in states})
    found = [e for e in jaxpr.eqns if is_product(e)]
    read = Counter(s for e in found for s in _union(sources, e.invars))
    lone = _read_once(jaxpr)
    return {
        id(e.outvars[0])
        for e in found
        if id(e.outvars[0]) in lone and all(read[s] == 1 for s in _union(sources, e.invars))
    }


def _cheap(eqn: Any) -> bool:
    """Whether XLA makes an operation part of every other one that reads its result."""
    return not names(eqn) & COSTLY and names(eqn) <= ELEMENTWISE | SHAPES | CALLS


def _sources(jaxpr: Any, states: set[int]) -> dict[int, set[int]]:
    """The states that each variable is a cheap function of."""
    found: dict[int, set[int]] = {s: {s} for s in states}
    for eqn in jaxpr.eqns:
        union = _union(found, eqn.invars) if _cheap(eqn) else set()
        found.update((id(v), union) for v in eqn.outvars)
    return found


def _union(sources: dict[int, set[int]], variables: Iterable[Any]) -> set[int]:
    return {s for v in variables for s in sources.get(id(v), ())}


def _read_once(jaxpr: Any) -> set[int]:
    """Variables that are read once, as is everything cheap that is made of them."""
    reads = Counter(id(v) for eqn in jaxpr.eqns for v in eqn.invars)
    reads.update(map(id, jaxpr.outvars))
    found = {id(v) for v in jaxpr.outvars if reads[id(v)] == 1}
    for eqn in reversed(jaxpr.eqns):
        if not _cheap(eqn) or all(id(v) in found for v in eqn.outvars):
            found.update(id(v) for v in eqn.invars if reads[id(v)] == 1)
    return found


# --- the primitive: ``(matrix, column) -> column``, over an axis of the matrix


_product: Any = Primitive("retrograde_product")


def _plain(matrix: Any, column: Any, *, axis: int, precision: Any, as_sum: bool) -> Any:
    numbers = ((axis,), (0,)), ((), ())
    return jax.lax.dot_general(matrix, column, numbers, precision=precision)


def _formed(matrix: Any, column: Any, *, axis: int, precision: Any, as_sum: bool) -> Any:
    width = matrix.shape[1]
    if not as_sum or width > FILLED or (axis, width) == (0, FILLED):
        return _plain(matrix, column, axis=axis, precision=precision, as_sum=as_sum)
    factor = column.reshape(1, -1) if axis else column
    return jnp.sum(matrix * factor, axis=axis)[:, None]


def _shape(matrix: Any, column: Any, *, axis: int, **_: Any) -> Any:
    return column.update(shape=(matrix.shape[1 - axis], 1))


def _by_matrix(ct: Any, matrix: Any, column: Any, *, axis: int, **_: Any) -> Any:
    return ct * column.reshape(1, -1) if axis else column * ct.reshape(1, -1)


def _by_column(ct: Any, matrix: Any, column: Any, *, axis: int, **rest: Any) -> Any:
    return _product.bind(matrix, ct, axis=1 - axis, **rest)


def _batch(arrays: Any, axes: Any, **settings: Any) -> Any:
    return jax.vmap(partial(_plain, **settings), in_axes=axes)(*arrays), 0


_product.def_impl(_plain)
_product.def_abstract_eval(_shape)
ad.defbilinear(_product, _by_matrix, _by_column)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_product] = _batch
mlir.register_lowering(_product, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_product, mlir.lower_fun(_formed, multiple_results=False), platform="cpu")
