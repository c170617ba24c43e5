"""JAX on the CPU: sums over large products in a vjp, kept out of a slow library call.

The cotangent of a number that multiplies an array is a sum over the array. From 32,768 elements on
XLA's CPU backend hands such a sum to YNNPACK, with all the elementwise operations before it, whose
shifted operands are then written out one by one (five point stencil of 256 x 256: 340 us, 160 with
the product formed first; jax 0.10). A choice between the product and zero, by something that XLA
can't know to be true, is an operation that the call doesn't take.

``settled`` rewrites the program of a pull. Other platforms get the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._jax_gate import equations_of

__all__ = ["settled"]

LARGE = 32_768
"""Elements from which on XLA's CPU backend calls the library."""


def settled(pull: Callable[..., Any], state: Sequence[Any]) -> Callable[..., Any]:
    """The same linear function with its large sums so formed, if a state has as many numbers."""
    if sum(x.size for x in state) < LARGE:
        return pull

    def run(ct: Any) -> Any:
        closed, shapes = jax.make_jaxpr(pull, return_shape=True)(ct)
        if not any(eqn.primitive.name == "retrograde_shift" for eqn in equations_of(closed.jaxpr)):
            return pull(ct)  # with nothing shifted the library is faster (by a third)
        equations = [_settle(eqn) for eqn in closed.jaxpr.eqns]
        program = closed.jaxpr.replace(eqns=equations)
        found = jax.core.eval_jaxpr(program, closed.consts, *jax.tree_util.tree_leaves(ct))
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), found)

    return run


def _settle(eqn: Any) -> Any:
    if eqn.primitive.name != "reduce_sum":
        return eqn
    x = eqn.invars[0].aval
    if x.size < LARGE or not jnp.issubdtype(x.dtype, jnp.floating):
        return eqn
    return eqn.replace(primitive=_sum, params={"axes": tuple(eqn.params["axes"])})


_sum: Any = Primitive("retrograde_sum")


def _plain(x: Any, *, axes: tuple[int, ...]) -> Any:
    return jnp.sum(x, axis=axes)


def _chosen(x: Any, *, axes: tuple[int, ...]) -> Any:
    barrier: Any = jax.lax.optimization_barrier
    return jnp.sum(jnp.where(barrier(jnp.array(True)), x, 0), axis=axes)


def _transpose(ct: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    return [jnp.broadcast_to(jnp.expand_dims(ct, axes), x.aval.shape)]


def _batch(arrays: Any, at: Any, *, axes: tuple[int, ...]) -> Any:
    x = jnp.moveaxis(arrays[0], at[0], 0)
    return _sum.bind(x, axes=tuple(axis + 1 for axis in axes)), 0


_sum.def_impl(_plain)
_sum.def_abstract_eval(
    lambda x, axes: x.update(shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))
)
ad.deflinear2(_sum, _transpose)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_sum] = _batch
mlir.register_lowering(_sum, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_sum, mlir.lower_fun(_chosen, multiple_results=False), platform="cpu")
