"""JAX on the CPU: a whole pass of a small system as one kernel, and fields as calls of their own.

XLA's CPU backend runs a kernel for each fusion, 50-70 ns apiece, and a reversed step of a small
system is dozens of them. It makes a loop one kernel by itself where an iteration touches less than
1 KiB; a call with the frontend attribute ``xla_cpu_small_call`` is one whatever it touches (XLA
``SmallWhileLoopHoistingPass``; measured on jax 0.10: gradients of Lotka-Volterra 8 to 19 times as
fast). That way around its own checks has a price: what the emitter of such kernels can't do fails
to compile, in the user's program. So a gate stands before it (``eligible``), and a pass that
``vmap`` made larger is left alone, which is seen when it is lowered.

A field that stacks or shifts its state costs more than its operations, whatever its size: fused
into the sums of stages around it, it is computed again for each element of each. A call that is
not inlined ends that (heat equation of 1,024 cells: 8 times as fast a gradient, Burgers of 10,000:
10 times as fast forward). The flag of this folder switches both off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from retrograde._base.types import Array, Function, Tree

from ..types import Axes, Jaxpr, Lowering, Ref, Var
from .eligible import UNCACHED, fits


def one_kernel(fn: Function, small: bool = True) -> Function:
    """``fn`` of arrays, as one kernel on the CPU where that is safe."""
    if not small:
        return fn

    def run(*args: Array) -> Tree:
        if getattr(jax.config, "jax_disable_jit", False):
            return fn(*args)
        leaves, structure = jax.tree_util.tree_flatten(args)
        out: list[Array] = []

        def flat(*leaves: Array) -> list[Array]:
            found, tree = jax.tree_util.tree_flatten(
                fn(*jax.tree_util.tree_unflatten(structure, leaves))
            )
            out[:] = [tree]
            return [jnp.asarray(x) for x in found]

        with within(_tracing):
            closed = jax.make_jaxpr(flat)(*leaves)
        traced = [x for x in closed.consts if isinstance(x, jax.core.Tracer)]
        arrays = [*traced, *map(jnp.asarray, leaves)]
        if not (fits(closed.jaxpr) and all(map(_plain, arrays))):
            return fn(*args)
        results = _called(closed, arrays)
        return jax.tree_util.tree_unflatten(out[0], results)

    return run


def _called(closed: Jaxpr, arrays: Sequence[Array]) -> list[Array]:
    """What a program makes of its traced constants and arguments, by a call that is marked."""
    jaxpr, carries = closed.jaxpr, carried(closed.jaxpr)
    inputs = [v for v, x in zip(jaxpr.constvars, closed.consts, strict=True)
              if isinstance(x, jax.core.Tracer)]  # fmt: skip
    moved = [id(v) in carries for v in (*inputs, *jaxpr.invars)]

    @jax.jit
    def kernel(*arrays: Array) -> Tree:
        touch = _touch(arrays)
        arrays = tuple(_after(touch, x) if m else x for x, m in zip(arrays, moved, strict=True))
        # known constants stay constants: as inputs, tables would take memory
        rest = iter(arrays)
        consts = [next(rest) if isinstance(x, jax.core.Tracer) else x for x in closed.consts]
        return [*jax.core.eval_jaxpr(jaxpr, consts, *rest), touch]

    # a constant would be folded into the call, and leave an input that nothing reads
    barrier: Any = jax.lax.optimization_barrier
    results = kernel(*barrier(arrays))
    shapes = tuple(tuple(tuple(x.shape) for x in part) for part in (arrays, results))
    return _tag.bind(*results, shapes=shapes)[:-1]  # type: ignore[no-any-return]


def in_kernel() -> bool:
    """Whether what is being traced may become a kernel: no sorts, one sum in place of many."""
    return _tracing.get()


def _plain(x: Array) -> bool:
    """Whether x has numbers, and no other elements."""
    return bool(x.size) and bool(jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool)


def _touch(arrays: Sequence[Array]) -> Array:
    """Something that depends on every array: the first or second of their first elements.

    XLA's emitter of such kernels knows the buffers that an operation reads or makes. An input that
    no operation is left to read, after its simplifications, makes it abort the whole process.
    """
    firsts: dict[Any, list[Array]] = {}
    for x in arrays:
        firsts.setdefault(x.dtype, []).append(jnp.ravel(x)[:1])
    # unsigned, or JAX would look for negative ones; beyond the last is the last
    place = (jnp.real(jnp.ravel(arrays[0])[0]) > 0).astype(jnp.uint32)
    found = [jax.lax.dynamic_slice(jnp.concatenate(x), (place,), (1,)) for x in firsts.values()]
    return sum(jnp.real(x[0]).astype(jnp.float32) for x in found)


def carried(jaxpr: Jaxpr) -> set[int]:
    """Inputs that a loop carries on, by id."""
    found: set[int] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            first = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
            found.update(id(v) for v in eqn.invars[first:] if getattr(v.aval, "ndim", 0))
    return found


def _after(touch: Any, x: Array) -> Array:
    """x, by an operation that can't come before ``touch``: so a loop may work in x's memory.

    XLA would copy an array that a loop writes into and that anything else reads, in either order.
    """
    first = x[(0,) * x.ndim]
    never = touch > jnp.inf
    kept = jnp.where(never, jnp.zeros_like(first), first)
    return jax.lax.dynamic_update_slice(x, kept.reshape((1,) * x.ndim), (0,) * x.ndim)


def outlined(fn: Function) -> Function:
    """``fn`` of arrays as a call of its own, which XLA's CPU backend does not fuse into others.

    Fused into the sums of stages around it, a field that stacks or indexes is computed again for
    each of its elements; of a call, nothing is. Calls within calls are merged. What is not read
    (the time, most often) is no argument: it would be computed for each stage.
    """
    calls: dict[Var, Tree] = {}

    def run(*args: Array) -> Tree:
        if _inside.get():
            return fn(*args)
        given, tree = jax.tree_util.tree_flatten(args)
        key = tree, tuple((x.shape, x.dtype, x.weak_type) for x in map(jnp.asarray, given))
        if key not in calls:
            with within(_inside):
                calls[key] = _of_what_it_reads(fn, given, tree)
        call, read, out = calls[key]
        found = _tag.bind(*call(*compress(given, read)), shapes=None)
        return jax.tree_util.tree_unflatten(out, found)

    return run


def _of_what_it_reads(
    fn: Function, given: Sequence[Array], tree: Tree
) -> tuple[Tree, list[bool], Any]:
    """Jitted, ``fn(*args)`` of those arrays that it reads; which these are; its results' tree."""
    flat = lambda *x: fn(*jax.tree_util.tree_unflatten(tree, x))  # noqa: E731
    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*given)
    program, out = closed.jaxpr, jax.tree_util.tree_structure(shapes)
    used = {id(v) for eqn in program.eqns for v in eqn.invars} | set(map(id, program.outvars))
    read = [id(v) in used for v in program.invars]
    program = program.replace(invars=[*compress(program.invars, read)])
    return jax.jit(partial(jax.core.eval_jaxpr, program, closed.consts)), read, out


_inside: ContextVar[bool] = ContextVar("inside", default=False)
"""Whether a call of :func:`outlined` is being traced."""

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)
"""Whether what may become a kernel is being traced."""


_batched: ContextVar[bool] = ContextVar("batched", default=False)
"""Whether what is being traced is known to be under ``vmap``, and so no kernel."""


@contextmanager
def within(where: ContextVar[bool]) -> Iterator[None]:
    """Set a flag for a block."""
    token = where.set(True)
    try:
        yield
    finally:
        where.reset(token)


def inlined() -> Tree:
    """For a block, fields are part of what is around them: one that stands in a loop alone."""
    return within(_inside)


def kernel_or_batched(fn: Function) -> Function:
    """``one_kernel`` of ``fn``; under ``vmap``, whenever that comes, ``fn`` as ``batched`` tells.

    For programs that are worse than others where they are no kernel.
    """
    one = jax.custom_batching.custom_vmap(one_kernel(fn))

    @one.def_vmap
    def rule(size: int, batched: Axes, *arguments: Array) -> Tree:
        def plain(*arguments: Array) -> Tree:
            with as_batched():
                return fn(*arguments)

        axes = jax.tree_util.tree_map(lambda b: 0 if b else None, tuple(batched))
        out = jax.vmap(plain, in_axes=axes, axis_size=size)(*arguments)
        return out, jax.tree_util.tree_map(lambda _: True, out)

    return one


def as_batched() -> Tree:
    """For a block, what is traced is one lane of a ``vmap``."""
    return within(_batched)


def batched() -> bool:
    """Whether a ``vmap`` is known to stand around what is being traced."""
    return _batched.get()


# --- the mark on the call, which is set or not when the program is lowered


_tag: Ref = Primitive("retrograde_kernel")
_tag.multiple_results = True
_tag.def_impl(lambda *xs, **_: list(xs))
_tag.def_abstract_eval(lambda *xs, **_: list(xs))


def _batch(arrays: Sequence[Array], axes: Axes, **keywords: Ref) -> Tree:
    return _tag.bind(*arrays, **keywords), axes


def _mark(ctx: Lowering, *xs: Array, shapes: Ref) -> Ref:
    """Mark the call that made these; as a kernel unless a batch made its arrays larger."""
    calls = [x.owner for x in xs if getattr(x.owner, "name", "") == "func.call"]
    if calls and alone(ctx):
        call = calls[-1]  # a result may be an argument handed on
        attributes = {"inlineable": "false"}
        if shapes is not None:
            found = [[tuple(v.type.shape) for v in part] for part in (call.operands, call.results)]
            if not all(_within(a, b) for a, b in zip(found, shapes, strict=True)):
                return xs
            attributes["xla_cpu_small_call"] = "true"
        values: Lowering = {k: mlir.ir.StringAttr.get(v) for k, v in attributes.items()}
        call.attributes[_ATTRIBUTES] = mlir.ir.DictAttr.get(values)
    return xs


def unmark(values: Sequence[Array]) -> None:
    """Let XLA merge the calls that made these with what is around them, and drop what is not read.

    Of a marked call, every result is computed.
    """
    for x in values:
        if getattr(x.owner, "name", "") == "func.call" and _ATTRIBUTES in x.owner.attributes:
            del x.owner.attributes[_ATTRIBUTES]


_ATTRIBUTES = "mhlo.frontend_attributes"


def alone(ctx: Lowering) -> bool:
    """Whether a program is for one CPU alone: a partitioned one may exchange data anywhere."""
    context = ctx.module_context
    return tuple(context.platforms) == ("cpu",) and _devices(context.axis_context) == 1


def _devices(context: Any) -> int:
    """Of a program; those of a ``shard_map`` have a mesh."""
    return int(context.mesh.size if hasattr(context, "mesh") else context.num_devices)


def _within(found: Any, shapes: Ref) -> bool:
    """Whether these are the shapes given, in order, without those that nobody uses."""
    rest = iter(shapes)
    return all(shape in rest for shape in found)


def _jvp(primals: Sequence[Array], tangents: Sequence[Array], **keywords: Ref) -> Tree:
    return _tag.bind(*primals, **keywords), list(tangents)


batching.primitive_batchers[_tag] = _batch
ad.primitive_jvps[_tag] = _jvp
mlir.register_lowering(_tag, _mark, **UNCACHED)
