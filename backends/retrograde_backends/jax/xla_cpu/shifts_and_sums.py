"""JAX on the CPU: periodic shifts (``jnp.roll``, and the same written out) in a form that fuses.

A shift is two slices, joined. Along an axis that is not the first, XLA's CPU backend takes the
join out of the fusion around it: each shift is four passes over memory, two of them with strides
(semi-implicit Euler of waves on a mesh of 256 x 256, a step in 160 us; 70 in the form used here).
Shifted by padding, with a choice between the two halves, it stays inside; and its transpose is the
shift back, not a sum of padded arrays. Values are the same to the bit. Vectors are left as they
are: joined, they are a tenth faster.

``shifted`` rewrites the program of a field before it is run. Other platforms get the join again.

Sums over large products in a vjp are kept out of a slow library call. The cotangent of a number
that multiplies an array is a sum over the array. From 32,768 elements on XLA's CPU backend hands
such a sum to YNNPACK, with all the elementwise operations before it, whose shifted operands are
then written out one by one (five point stencil of 256 x 256: 340 us, 160 with the product formed
first; jax 0.10). A choice between the product and zero, by something that XLA can't know to be
true, is an operation that the call doesn't take.

``unfused_sum`` rewrites the program of a pull. Other platforms get the plain sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from retrograde._base.types import Array, Function, Index, Tree

from ..types import Axes, Eqn, Jaxpr, Ref, Var
from .eligible import equations_of


def shifted(jaxpr: Jaxpr) -> Jaxpr:
    """The program with every join that is a shift replaced, in calls too."""
    made: dict[Var, Tree] = {}
    equations = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "concatenate":
            eqn = _as_shift(eqn, made)
        elif eqn.primitive.name in ("jit", "pjit"):
            eqn = _in_call(eqn)
        made.update((id(v), eqn) for v in eqn.outvars)
        equations.append(eqn)
    same = all(a is b for a, b in zip(equations, jaxpr.eqns, strict=True))
    return jaxpr if same else jaxpr.replace(eqns=equations)


def _in_call(call: Eqn) -> Eqn:
    """A call with the same done inside; ``jnp.roll`` is one that does nothing else."""
    closed = call.params["jaxpr"]
    old, new = closed.jaxpr, shifted(closed.jaxpr)
    if new is old:
        return call
    last = new.eqns[-1]
    if last.primitive is _shift and [*last.invars, *last.outvars] == [*old.invars, *old.outvars]:
        return call.replace(primitive=_shift, params=last.params)
    return call.replace(params={**call.params, "jaxpr": closed.replace(jaxpr=new)})


def _as_shift(join: Any, made: dict[Var, Tree]) -> Eqn:
    """The join as a shift, if it is one of all of an array."""
    axis, parts = join.params["dimension"], [made[id(v)] for v in join.invars if id(v) in made]
    if len(parts) != 2 or len(join.invars) != 2 or {x.primitive.name for x in parts} != {"slice"}:
        return join
    (source,), (other,) = parts[0].invars, parts[1].invars
    shape = source.aval.shape
    by = shape[axis] - parts[0].params["start_indices"][axis]
    ends = [_span(part, axis, shape) for part in parts]
    if (
        source is not other
        or len(shape) < 2
        or ends != [(shape[axis] - by, shape[axis]), (0, shape[axis] - by)]
    ):
        return join
    return join.replace(primitive=_shift, invars=[source], params={"by": by, "axis": axis})


def _span(part: Eqn, axis: int, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """What a slice takes of an axis, if it takes all of the others."""
    low, high = part.params["start_indices"], part.params["limit_indices"]
    strides = part.params["strides"] or ()
    whole = all(
        i == axis or (low[i], high[i]) == (0, size) for i, size in enumerate(shape)
    ) and set(strides) <= {1}
    return (low[axis], high[axis]) if whole else None


_shift: Ref = Primitive("retrograde_shift")


def _joined(x: Array, *, by: int, axis: int) -> Array:
    rest = x.shape[axis] - by
    first, second = (jax.lax.slice_in_dim(x, a, b, 1, axis) for a, b in ((rest, None), (0, rest)))
    return jax.lax.concatenate([first, second], axis)


def _padded(x: Array, *, by: int, axis: int) -> Array:
    rest, zero = x.shape[axis] - by, jnp.zeros((), x.dtype)

    def moved(low: int, high: int) -> Array:
        around = [(low, high, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        return jax.lax.pad(x, zero, around)

    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return jnp.where(place < by, moved(-rest, rest), moved(by, -by))


def _transpose(ct: Array, x: Array, *, by: int, axis: int) -> Tree:
    return [_shift.bind(ct, by=ct.shape[axis] - by, axis=axis)]


def _batch(arrays: Sequence[Array], axes: Axes, *, by: int, axis: int) -> Tree:
    (x,), (at,) = arrays, axes
    return _shift.bind(x, by=by, axis=axis + (at <= axis)), at


_shift.def_impl(_joined)
_shift.def_abstract_eval(lambda x, **_: x.update())
ad.deflinear2(_shift, _transpose)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_shift] = _batch
mlir.register_lowering(_shift, mlir.lower_fun(_joined, multiple_results=False))
mlir.register_lowering(_shift, mlir.lower_fun(_padded, multiple_results=False), platform="cpu")


LARGE = 32_768
"""Elements from which on XLA's CPU backend calls the library."""


def unfused_sum(pull: Function, state: Sequence[Array]) -> Function:
    """The same linear function with its large sums so formed, if a state has as many numbers."""
    if sum(x.size for x in state) < LARGE:
        return pull

    def run(ct: Array) -> Tree:
        closed, shapes = jax.make_jaxpr(pull, return_shape=True)(ct)
        if not any(eqn.primitive.name == "retrograde_shift" for eqn in equations_of(closed.jaxpr)):
            return pull(ct)  # with nothing shifted the library is faster (by a third)
        equations = [_settle(eqn) for eqn in closed.jaxpr.eqns]
        program = closed.jaxpr.replace(eqns=equations)
        found = jax.core.eval_jaxpr(program, closed.consts, *jax.tree_util.tree_leaves(ct))
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), found)

    return run


def _settle(eqn: Eqn) -> Eqn:
    if eqn.primitive.name != "reduce_sum":
        return eqn
    x = eqn.invars[0].aval
    if x.size < LARGE or not jnp.issubdtype(x.dtype, jnp.floating):
        return eqn
    return eqn.replace(primitive=_sum, params={"axes": tuple(eqn.params["axes"])})


_sum: Ref = Primitive("retrograde_sum")


def _plain(x: Array, *, axes: tuple[int, ...]) -> Array:
    return jnp.sum(x, axis=axes)


def _chosen(x: Array, *, axes: tuple[int, ...]) -> Array:
    barrier: Any = jax.lax.optimization_barrier
    return jnp.sum(jnp.where(barrier(jnp.array(True)), x, 0), axis=axes)


def _transpose_sum(ct: Array, x: Array, *, axes: tuple[int, ...]) -> Tree:
    return [jnp.broadcast_to(jnp.expand_dims(ct, axes), x.aval.shape)]


def _batch_sum(arrays: Sequence[Array], at: Index, *, axes: tuple[int, ...]) -> Tree:
    x = jnp.moveaxis(arrays[0], at[0], 0)
    return _sum.bind(x, axes=tuple(axis + 1 for axis in axes)), 0


_sum.def_impl(_plain)
_sum.def_abstract_eval(
    lambda x, axes: x.update(shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))
)
ad.deflinear2(_sum, _transpose_sum)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_sum] = _batch_sum
mlir.register_lowering(_sum, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_sum, mlir.lower_fun(_chosen, multiple_results=False), platform="cpu")
