"""JAX: a whole solve with its derivatives: jvp, vjp, and both of them again.

The solve is a ``custom_jvp`` whose tangent is one linear function: applied, it
is the jvp along the steps (ForwardMode); transposed, the adjoint's own reverse pass. So plain
gradients run as with a ``custom_vjp``, and jvp works as well. What the adjoint keeps from
forward to reverse is a cache without derivatives: a derivative of a derivative is that of
DirectAdjoint's at the same inputs, and so on to any order.

The linear function has a transpose and derivatives of its own. What
``jax.custom_derivatives.linear_call`` lacks is here: a batching rule, and a derivative by the
constants that the function depends on. So the tangent of a solve goes through ``jvp``, ``vjp``,
``vmap``, ``jit``, loops and rematerialisation in any order, and nothing of it is traced before it
is asked for: a plain gradient only ever traces the transpose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from retrograde._base.errors import InputError
from retrograde._base.types import Array, Function, Inputs, Leaves, NeedsGradient, Tree

from .compiled_field import compiled
from .transforms import forward_mode
from .types import Axes, Lowering, Ref, Var
from .xla_cpu.eligible import UNCACHED
from .xla_cpu.kernel import kernel_or_batched, one_kernel, unmark

if TYPE_CHECKING:
    from retrograde._backend.protocols import Program
    from retrograde._integrate.integrator import Integrator
    from retrograde._loops.loop import LoopSpec


class LinearMap(ABC):
    """A function linear in some arrays, given others."""

    @abstractmethod
    def apply(self, constants: Leaves, tangents: Leaves) -> Leaves:
        """Its value."""

    @abstractmethod
    def transpose(self, constants: Leaves, cotangents: Leaves) -> Leaves:
        """Cotangents of ``tangents``."""

    @abstractmethod
    def again(self, constants: Leaves, tangents: Leaves) -> Leaves:
        """Its value by operations that can be differentiated any number of times."""

    def over_lanes(
        self, size: int, constants: Sequence[Array], tangents: Sequence[Array]
    ) -> Function | None:
        """``transpose`` of a batch as one function of batched arrays, axes first; cotangents of
        tangents without an axis added up. None: it is batched by ``vmap``."""
        return None


class Derivative(LinearMap):
    """Tangents of a function's results, of those of its arguments ``moving``.

    As one linear function it is transposed before it is batched. The jvp of a batched branch
    can't be transposed afterwards (jax 0.10: JAX stops gradients of what it selects from).
    """

    def __init__(self, fn: Callable[..., Leaves], moving: Sequence[int]) -> None:
        self.fn, self.moving = fn, tuple(moving)

    def apply(self, constants: Sequence[Array], tangents: Sequence[Array]) -> Leaves:
        run, chosen = self._of_moving(constants)
        return tuple(jax.jvp(run, chosen, tuple(tangents))[1])

    def again(self, constants: Sequence[Array], tangents: Sequence[Array]) -> Leaves:
        return self.apply(constants, tangents)

    def transpose(self, constants: Sequence[Array], cotangents: Leaves) -> Leaves:
        run, chosen = self._of_moving(constants)
        return jax.vjp(run, *chosen)[1](tuple(cotangents))  # type: ignore[no-any-return]

    def _of_moving(self, constants: Sequence[Array]) -> tuple[Tree, Leaves]:
        def run(*chosen: Any) -> Leaves:
            arrays = list(constants)
            for i, x in zip(self.moving, chosen, strict=True):
                arrays[i] = x
            return self.fn(*arrays)

        return run, tuple(constants[i] for i in self.moving)


class Batched(LinearMap):
    """A map under ``vmap``: batch axes come first; None where an array has none."""

    def __init__(
        self, one: LinearMap, size: int, constants: Sequence[Array], tangents: Sequence[Array]
    ) -> None:
        self.one, self.size = one, size
        self.constants, self.tangents = constants, tangents

    def apply(self, constants: Sequence[Array], tangents: Sequence[Array]) -> Leaves:
        return self._mapped(self.one.apply, self.tangents)(constants, tangents)  # type: ignore[no-any-return]

    def again(self, constants: Sequence[Array], tangents: Sequence[Array]) -> Leaves:
        return self._mapped(self.one.again, self.tangents)(constants, tangents)  # type: ignore[no-any-return]

    def transpose(self, constants: Sequence[Array], cotangents: Leaves) -> Leaves:
        whole = self.one.over_lanes(self.size, self.constants, self.tangents)
        if whole is not None:
            return whole(constants, cotangents)  # type: ignore[no-any-return]
        return self.lane_by_lane(constants, cotangents)

    def lane_by_lane(self, constants: Sequence[Array], cotangents: Leaves) -> Leaves:
        """``transpose`` by ``vmap`` alone."""
        cts = self._mapped(self.one.transpose, 0)(constants, cotangents)
        # one tangent for the whole batch: its cotangents add up
        return tuple(
            jnp.sum(x, axis=0) if axis is None else x
            for x, axis in zip(cts, self.tangents, strict=True)
        )

    def _mapped(self, fn: Function, axes: Axes) -> Function:
        return jax.vmap(fn, in_axes=(self.constants, axes), axis_size=self.size)


def derived_from(plain: Function, fn: Function) -> Function:
    """``fn``, whose derivatives are those of ``plain``, which gives the same."""
    run = jax.custom_jvp(fn)

    def rule(primals: Sequence[Array], tangents: Sequence[Array]) -> Tree:
        leaves, structure = jax.tree_util.tree_flatten(primals)
        dots = _flat(tangents)
        moving = [i for i, x in enumerate(dots) if not isinstance(x, SymbolicZero)]

        def along(*chosen: Any) -> Tree:
            arrays = list(leaves)
            for i, x in zip(moving, chosen, strict=True):
                arrays[i] = x
            return plain(*jax.tree_util.tree_unflatten(structure, arrays))

        chosen, second = ([x[i] for i in moving] for x in (leaves, dots))
        return run(*primals), jax.jvp(along, tuple(chosen), tuple(second))[1]

    run.defjvp(rule, symbolic_zeros=True)
    return run


def linear(
    one: LinearMap, constants: Sequence[Array], tangents: Sequence[Array], like: Sequence[Array]
) -> list[Array]:
    """``one.apply(constants, tangents)``, arrays of the shapes and dtypes of ``like``."""
    shapes = tuple((tuple(x.shape), x.dtype) for x in like)
    bound: list[Array] = _linear.bind(
        *constants, *tangents, one=one, count=len(constants), shapes=shapes
    )
    return bound


def _apply(*arrays: Array, one: LinearMap, count: int, shapes: Ref) -> list[Array]:
    return list(one.apply(arrays[:count], arrays[count:]))


def _shapes(*arrays: Array, one: LinearMap, count: int, shapes: Ref) -> list[Array]:
    return [jax.core.ShapedArray(shape, dtype) for shape, dtype in shapes]


def _transpose(
    cotangents: Leaves, *arrays: Array, one: LinearMap, count: int, shapes: Ref
) -> list[Array]:
    cts = tuple(
        jnp.zeros(shape, dtype) if isinstance(ct, ad.Zero) else ct
        for ct, (shape, dtype) in zip(cotangents, shapes, strict=True)
    )
    found = one.transpose(arrays[:count], cts)
    unknown = [isinstance(x, ad.UndefinedPrimal) for x in arrays[count:]]
    return [None] * count + [x if u else None for x, u in zip(found, unknown, strict=True)]


def _jvp(
    primals: Sequence[Array], tangents: Sequence[Array], *, one: LinearMap, count: int, shapes: Ref
) -> tuple[Tree, Tree]:
    keywords = {"one": one, "count": count, "shapes": shapes}
    out = _linear.bind(*primals, **keywords)
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]
    if all(i >= count for i in moving):
        instantiate: Any = ad.instantiate_zeros
        rest = [instantiate(t) for t in tangents[count:]]
        return out, _linear.bind(*primals[:count], *rest, **keywords)

    def again(*arrays: Array) -> Leaves:
        return one.again(arrays[:count], arrays[count:])

    return out, linear(Derivative(again, moving), primals, [tangents[i] for i in moving], out)


def _batch(
    arrays: Sequence[Array], axes: Axes, *, one: LinearMap, count: int, shapes: Ref
) -> tuple[Tree, list[int]]:
    axes = [None if not isinstance(axis, int) else axis for axis in axes]
    pairs = list(zip(arrays, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    arrays = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    first = tuple(None if axis is None else 0 for axis in axes)
    batched = Batched(one, size, first[:count], first[count:])
    shapes = tuple(((size, *shape), dtype) for shape, dtype in shapes)
    out = _linear.bind(*arrays, one=batched, count=count, shapes=shapes)
    return out, [0] * len(out)


_linear: Ref = Primitive("retrograde_linear")
_linear.multiple_results = True
_linear.def_impl(_apply)
_linear.def_abstract_eval(_shapes)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch


def _lowered(ctx: Lowering, *arrays: Array, **keywords: Ref) -> Ref:
    # forward, what a solve keeps for its reverse is not read, and is not to be stored
    unmark(arrays[: keywords["count"]])
    lower: Any = mlir.lower_fun(_apply, multiple_results=True)
    return lower(ctx, *arrays, **keywords)


mlir.register_lowering(_linear, _lowered, **UNCACHED)


_SYMBOLIC = jax.__version_info__ >= (0, 8)
"""Whether a rule may return symbolic zeros under ``vmap`` (jax 0.6 and 0.7 fail there)."""


def as_kernel(program: Program, fn: Function) -> Function:
    """A part of a program as one kernel, where that may be."""
    problem = getattr(program.loop, "problem", None)
    if problem is None:
        loop = cast("LoopSpec", program.loop)
        kernel, alone = loop.small, loop.count is None
    else:
        field = compiled(problem)
        kernel, alone = field.kernel, field.scan_stages
    return kernel_or_batched(fn) if kernel and alone else one_kernel(fn, kernel)


class Differentiable:
    """One program's primal, and its forward with what the reverse needs, as ``custom_jvp``."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._forwards: dict[Var, Tree] = {}
        self._rest: dict[Var, Tree] = {}
        """What the forwards keep beside arrays, from when they ran."""
        self.solve = jax.custom_jvp(self.primal())
        self.solve.defjvp(self._solve_rule, symbolic_zeros=True)

    def primal(self) -> Function:
        """The program's own."""
        return as_kernel(self.program, self.program.primal)

    def batching(self, run: Function, wanted: NeedsGradient) -> Function:
        """A forward as it is to behave under ``vmap``: JAX's own way."""
        return as_kernel(self.program, run)

    def tangent(self, *arguments: Array) -> Tangent:
        """The linear function of a program's tangents."""
        return Tangent(*arguments)

    def _solve_rule(self, primals: Sequence[Array], tangents: Sequence[Array]) -> Tree:
        wanted, moving = _moving(tangents[0])
        leaves, aux, arrays = self.forward(wanted)(primals[0])
        dots = self._tangent(primals[0], arrays, wanted, leaves, moving)
        return (leaves, aux), (dots, _still(aux))

    def _key(self, wanted: NeedsGradient) -> Hashable:
        return wanted if self.program.adjoint.forward_depends_on_wanted else None

    def forward(self, wanted: NeedsGradient) -> Function:
        """``program.forward``, whose kept arrays have no derivative of their own."""
        key = self._key(wanted)
        if key not in self._forwards:

            def run(inputs: Inputs) -> Tree:
                leaves, aux, cache = self.program.forward(inputs, wanted)
                arrays, self._rest[key] = _split(cache)
                return leaves, aux, arrays

            def rule(primals: Sequence[Array], tangents: Sequence[Array]) -> Tree:
                now, moving = _moving(tangents[0])
                out = leaves, aux, arrays = fn(primals[0])
                own = arrays if key == self._key(now) else self.forward(now)(primals[0])[2]
                dots = self._tangent(primals[0], own, now, leaves, moving)
                return out, (dots, _still(aux), _still(arrays))

            fn = jax.custom_jvp(self.batching(run, wanted))
            fn.defjvp(rule, symbolic_zeros=True)
            self._forwards[key] = fn
        found: Function = self._forwards[key]
        return found

    def _tangent(
        self,
        inputs: Inputs,
        arrays: Sequence[Array],
        wanted: NeedsGradient,
        leaves: Sequence[Array],
        moving: Any,
    ) -> Leaves:
        where, dots = moving
        constants, structure = jax.tree_util.tree_flatten((inputs, arrays))
        one = self.tangent(self.program, (structure, self._rest[self._key(wanted)]), where, wanted)
        return tuple(linear(one, constants, dots, leaves))


def _split(cache: Any) -> tuple[list[Array], Any]:
    """The arrays of a tree, and the rest of it: numbers that the host knows stay known."""
    leaves, structure = jax.tree_util.tree_flatten(cache)
    known = [None if isinstance(x, jax.Array) else (x,) for x in leaves]
    return [x for x in leaves if isinstance(x, jax.Array)], (structure, known)


def _joined(arrays: Sequence[Array], rest: Any) -> Tree:
    """The inverse of :func:`_split`."""
    it, (structure, known) = iter(arrays), rest
    leaves = [next(it) if x is None else x[0] for x in known]
    return jax.tree_util.tree_unflatten(structure, leaves)


def _moving(tangents: Inputs) -> tuple[NeedsGradient, tuple[tuple[int, ...], list[Array]]]:
    """What is differentiated, and the tangents with their places among the flat inputs."""

    def moves(x: Array) -> bool:
        return not isinstance(x, SymbolicZero)

    leaves = jax.tree_util.tree_leaves
    if any(map(moves, leaves(tangents.settings))):
        raise InputError(
            "`dt`, `rtol`, `atol` or `step_ts` is differentiated, but step sizes are constants of "
            "the gradient; use jax.lax.stop_gradient. (The derivative by the time of a jump comes "
            "by `jump_ts`.)"
        )
    wanted = NeedsGradient(
        tuple(map(moves, tangents.params)),
        any(map(moves, leaves(tangents.t0))),
        any(map(moves, leaves(tangents.t1))),
        any(map(moves, leaves(tangents.ts))),
        any(map(moves, leaves(tangents.y0))),
        any(map(moves, leaves(tangents.jumps))),
    )
    where = tuple(i for i, x in enumerate(leaves(tangents)) if moves(x))
    return wanted, (where, [leaves(tangents)[i] for i in where])


def _still(tree: Tree) -> Tree:
    """Tangents of what has none."""
    zeros: Any = zero_from_primal
    return zeros(tree, symbolic_zeros=_SYMBOLIC)


class Tangent(LinearMap):
    """Tangents of the output rows, of those of some inputs at ``where`` in their flat order."""

    def __init__(
        self, program: Program, structure: Any, where: tuple[int, ...], wanted: NeedsGradient
    ) -> None:
        self.program, self.where, self.wanted = program, where, wanted
        self.structure, self.rest = structure
        self.pull = jax.custom_jvp(self.batching(self.plain_pull))
        self.pull.defjvp(self._pull_rule, symbolic_zeros=True)

    def apply(self, constants: Sequence[Array], tangents: Sequence[Array]) -> Leaves:
        inputs, arrays = jax.tree_util.tree_unflatten(self.structure, constants)
        adjoint = self.program.adjoint
        if adjoint.forward_depends_on_wanted:
            cache = _joined(arrays, self.rest)
            loop = cast("Integrator", self.program.loop)
            known = adjoint.push(loop, cache, self._spread(inputs, tangents))
            if known is not None:
                return known
        run = self._jvp_path(True, inputs)
        return tuple(jax.jvp(run, self._chosen(inputs), tuple(tangents))[1])

    def again(self, constants: Sequence[Array], tangents: Sequence[Array]) -> Leaves:
        inputs, _ = jax.tree_util.tree_unflatten(self.structure, constants)
        run = self._jvp_path(False, inputs)
        return tuple(jax.jvp(run, self._chosen(inputs), tuple(tangents))[1])

    def transpose(self, constants: Sequence[Array], cotangents: Leaves) -> Leaves:
        inputs, arrays = jax.tree_util.tree_unflatten(self.structure, constants)
        return self.pull(inputs, arrays, cotangents)  # type: ignore[no-any-return]

    # --- the reverse pass, and its derivative
    def batching(self, pull: Any) -> Function:
        """A reverse pass as it is to behave under ``vmap``: JAX's own way."""
        return as_kernel(self.program, pull)

    def plain_pull(self, inputs: Inputs, arrays: Sequence[Array], cotangents: Leaves) -> Leaves:
        cache = _joined(arrays, self.rest)
        return self.pulled(self.program, inputs, cache, cotangents)

    def pulled(self, program: Program, inputs: Inputs, cache: Any, cotangents: Leaves) -> Leaves:
        """Cotangents of the chosen inputs by a program's reverse pass."""
        g = program.reverse(inputs, cache, cotangents, self.wanted)
        # what is not wanted has no cotangent, or one of no meaning
        params = (x if x is not None else 0.0 for x in g.params)
        ts = g.ts if self.wanted.ts else inputs.ts
        jumps = g.jumps if self.wanted.jumps else inputs.jumps
        g = g._replace(params=tuple(params), ts=ts, jumps=jumps, stats=inputs.stats)
        return self._chosen(g._replace(settings=inputs.settings, relative=inputs.relative))

    def _pull_rule(self, primals: Sequence[Array], tangents: Sequence[Array]) -> Tree:
        inputs, _, cotangents = primals
        dots = _flat(tangents[0], tangents[2])
        moving = [i for i, x in enumerate(dots) if not isinstance(x, SymbolicZero)]
        arrays, structure = jax.tree_util.tree_flatten((inputs, cotangents))

        def again(*arrays: Array) -> Leaves:
            inputs, cts = jax.tree_util.tree_unflatten(structure, arrays)
            run = self._jvp_path(False, inputs)
            return tuple(jax.vjp(run, *self._chosen(inputs))[1](cts))

        found = self.pull(*primals)
        second = [dots[i] for i in moving]
        return found, tuple(linear(Derivative(again, moving), arrays, second, found))

    # --- choosing inputs
    def _jvp_path(self, forward: bool, inputs: Inputs) -> Function:
        """Output leaves of the chosen inputs, by operations that autodiff follows."""
        primal = self.program.jvp_path(forward)

        def run(*chosen: Any) -> Leaves:
            with forward_mode():
                return primal(self._replaced(inputs, chosen))

        return run

    def _chosen(self, inputs: Inputs) -> Leaves:
        leaves = jax.tree_util.tree_leaves(inputs)
        return tuple(leaves[i] for i in self.where)

    def _replaced(self, inputs: Inputs, chosen: Sequence[Array]) -> Inputs:
        leaves, structure = jax.tree_util.tree_flatten(inputs)
        for i, x in zip(self.where, chosen, strict=True):
            leaves[i] = x
        return jax.tree_util.tree_unflatten(structure, leaves)  # type: ignore[no-any-return]

    def _spread(self, inputs: Inputs, tangents: Sequence[Array]) -> Inputs:
        """Tangents in the form of the inputs, None where there is none."""
        leaves, structure = jax.tree_util.tree_flatten(inputs)
        places = dict(zip(self.where, tangents, strict=True))
        new = [places.get(i) for i in range(len(leaves))]
        return jax.tree_util.tree_unflatten(structure, new)  # type: ignore[no-any-return]


def _flat(*trees: Any) -> list[Array]:
    return jax.tree_util.tree_leaves(trees, is_leaf=lambda x: isinstance(x, SymbolicZero))
