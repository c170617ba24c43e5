"""JAX: a linear function of tangents, with a transpose and derivatives of its own.

What ``jax.custom_derivatives.linear_call`` lacks is here: a batching rule, and a derivative by
the constants that the function depends on. So the tangent of a solve goes through ``jvp``,
``vjp``, ``vmap``, ``jit``, loops and rematerialisation in any order, and nothing of it is traced
before it is asked for: a plain gradient only ever traces the transpose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._jax_gate import UNCACHED
from ._jax_kernel import unmark

__all__ = ["Derivative", "LinearMap", "linear"]


class LinearMap(ABC):
    """A function linear in some arrays, given others."""

    @abstractmethod
    def apply(self, constants: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Its value."""

    @abstractmethod
    def transpose(self, constants: tuple[Any, ...], cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Cotangents of ``tangents``."""

    @abstractmethod
    def again(self, constants: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Its value by operations that can be differentiated any number of times."""

    def over_lanes(self, size: int, constants: Any, tangents: Any) -> Any:
        """``transpose`` of a batch as one function of batched arrays, axes first; cotangents of
        tangents without an axis added up. None: it is batched by ``vmap``."""
        return None


class Derivative(LinearMap):
    """Tangents of a function's results, of those of its arguments ``moving``.

    As one linear function it is transposed before it is batched. The jvp of a batched branch
    can't be transposed afterwards (jax 0.10: JAX stops gradients of what it selects from).
    """

    def __init__(self, fn: Callable[..., tuple[Any, ...]], moving: Sequence[int]) -> None:
        self.fn, self.moving = fn, tuple(moving)

    def apply(self, constants: Any, tangents: Any) -> tuple[Any, ...]:
        run, chosen = self._of_moving(constants)
        return tuple(jax.jvp(run, chosen, tuple(tangents))[1])

    def again(self, constants: Any, tangents: Any) -> tuple[Any, ...]:
        return self.apply(constants, tangents)

    def transpose(self, constants: Any, cotangents: Any) -> tuple[Any, ...]:
        run, chosen = self._of_moving(constants)
        return jax.vjp(run, *chosen)[1](tuple(cotangents))  # type: ignore[no-any-return]

    def _of_moving(self, constants: Any) -> tuple[Any, tuple[Any, ...]]:
        def run(*chosen: Any) -> tuple[Any, ...]:
            arrays = list(constants)
            for i, x in zip(self.moving, chosen, strict=True):
                arrays[i] = x
            return self.fn(*arrays)

        return run, tuple(constants[i] for i in self.moving)


class _Batched(LinearMap):
    """A map under ``vmap``: batch axes come first; None where an array has none."""

    def __init__(self, one: LinearMap, size: int, constants: Any, tangents: Any) -> None:
        self.one, self.size = one, size
        self.constants, self.tangents = constants, tangents

    def apply(self, constants: Any, tangents: Any) -> tuple[Any, ...]:
        return self._mapped(self.one.apply, self.tangents)(constants, tangents)  # type: ignore[no-any-return]

    def again(self, constants: Any, tangents: Any) -> tuple[Any, ...]:
        return self._mapped(self.one.again, self.tangents)(constants, tangents)  # type: ignore[no-any-return]

    def transpose(self, constants: Any, cotangents: Any) -> tuple[Any, ...]:
        whole = self.one.over_lanes(self.size, self.constants, self.tangents)
        if whole is not None:
            return whole(constants, cotangents)  # type: ignore[no-any-return]
        cts = self._mapped(self.one.transpose, 0)(constants, cotangents)
        # one tangent for the whole batch: its cotangents add up
        return tuple(
            jnp.sum(x, axis=0) if axis is None else x
            for x, axis in zip(cts, self.tangents, strict=True)
        )

    def _mapped(self, fn: Any, axes: Any) -> Any:
        return jax.vmap(fn, in_axes=(self.constants, axes), axis_size=self.size)


def linear(
    one: LinearMap, constants: Sequence[Any], tangents: Sequence[Any], like: Sequence[Any]
) -> list[Any]:
    """``one.apply(constants, tangents)``, arrays of the shapes and dtypes of ``like``."""
    shapes = tuple((tuple(x.shape), x.dtype) for x in like)
    bound: list[Any] = _linear.bind(
        *constants, *tangents, one=one, count=len(constants), shapes=shapes
    )
    return bound


def _apply(*arrays: Any, one: LinearMap, count: int, shapes: Any) -> list[Any]:
    return list(one.apply(arrays[:count], arrays[count:]))


def _shapes(*arrays: Any, one: LinearMap, count: int, shapes: Any) -> list[Any]:
    return [jax.core.ShapedArray(shape, dtype) for shape, dtype in shapes]


def _transpose(cotangents: Any, *arrays: Any, one: LinearMap, count: int, shapes: Any) -> list[Any]:
    cts = tuple(
        jnp.zeros(shape, dtype) if isinstance(ct, ad.Zero) else ct
        for ct, (shape, dtype) in zip(cotangents, shapes, strict=True)
    )
    found = one.transpose(arrays[:count], cts)
    unknown = [isinstance(x, ad.UndefinedPrimal) for x in arrays[count:]]
    return [None] * count + [x if u else None for x, u in zip(found, unknown, strict=True)]


def _jvp(
    primals: Any, tangents: Any, *, one: LinearMap, count: int, shapes: Any
) -> tuple[Any, Any]:
    keywords = {"one": one, "count": count, "shapes": shapes}
    out = _linear.bind(*primals, **keywords)
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]
    if all(i >= count for i in moving):
        instantiate: Any = ad.instantiate_zeros
        rest = [instantiate(t) for t in tangents[count:]]
        return out, _linear.bind(*primals[:count], *rest, **keywords)

    def again(*arrays: Any) -> tuple[Any, ...]:
        return one.again(arrays[:count], arrays[count:])

    return out, linear(Derivative(again, moving), primals, [tangents[i] for i in moving], out)


def _batch(
    arrays: Any, axes: Any, *, one: LinearMap, count: int, shapes: Any
) -> tuple[Any, list[int]]:
    axes = [None if not isinstance(axis, int) else axis for axis in axes]
    pairs = list(zip(arrays, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    arrays = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    first = tuple(None if axis is None else 0 for axis in axes)
    batched = _Batched(one, size, first[:count], first[count:])
    shapes = tuple(((size, *shape), dtype) for shape, dtype in shapes)
    out = _linear.bind(*arrays, one=batched, count=count, shapes=shapes)
    return out, [0] * len(out)


_linear: Any = Primitive("retrograde_linear")
_linear.multiple_results = True
_linear.def_impl(_apply)
_linear.def_abstract_eval(_shapes)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch


def _lowered(ctx: Any, *arrays: Any, **keywords: Any) -> Any:
    # forward, what a solve keeps for its reverse is not read, and is not to be stored
    unmark(arrays[: keywords["count"]])
    lower: Any = mlir.lower_fun(_apply, multiple_results=True)
    return lower(ctx, *arrays, **keywords)


mlir.register_lowering(_linear, _lowered, **UNCACHED)
