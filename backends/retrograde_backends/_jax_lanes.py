"""JAX: a while loop under ``vmap``, as one loop over lanes with counters of its own.

JAX's own batching of a loop whose predicate is batched selects every leaf of its carry each trip,
the buffer of checkpoints included, and batches the counters, so that rows are gathered and
scattered. Here the loop is batched as what it is: one count of trips for all lanes, until the last
has ended; a lane that has ended keeps its values (and its body sees the values it began with, so
that no derivative is asked for where the loop would not have gone). What does not depend on
batched data stays unbatched, the predicate above all: then nothing is selected.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from retrograde._looping.body import Leaves, Loop
from retrograde._looping.program import LoopProgram
from retrograde._types import Inputs, Wanted

from ._jax_gradient import Differentiable, Tangent
from ._jax_kernel import one_kernel

__all__ = ["LoopGradient"]


def touched(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
    """Which results of a jaxpr depend on the marked inputs."""
    sources = (*jaxpr.constvars, *jaxpr.invars)
    marked = {v for v, m in zip(sources, inputs, strict=True) if m}

    def depends(v: Any) -> bool:
        return not isinstance(v, Literal) and v in marked

    for eqn in jaxpr.eqns:
        if any(map(depends, eqn.invars)):
            marked.update(eqn.outvars)
    return [depends(v) for v in jaxpr.outvars]


def _spread(loop: Any, batched: Sequence[bool]) -> tuple[list[bool], bool]:
    """(which leaves of the carry differ between lanes, whether the predicate does)."""
    body, cond = loop.jaxprs
    leaves = [False] * len(loop.template)
    for i, b in zip(loop.where, batched, strict=False):
        leaves[i] = b
    captured = list(batched[loop.given : loop.first_cond])
    noticed = list(batched[loop.first_cond :])
    while True:
        steered = touched(cond, [*noticed, *leaves])[0]
        out = touched(body, [*captured, *leaves])[: len(leaves)]
        new = [a or b or (steered and i not in loop.still)
               for i, (a, b) in enumerate(zip(leaves, out, strict=True))]  # fmt: skip
        if new == leaves:
            return leaves, steered
        leaves = new


def guarded(loop: Loop, batched: Sequence[bool]) -> Loop:
    """One lane of a batch: steps behind the end of the loop change nothing."""
    if not _spread(loop, batched)[1]:
        return loop
    kind = type(loop)
    if issubclass(kind, _Guarded):
        return loop
    twin = copy.copy(loop)
    twin.__class__ = type(f"Guarded{kind.__name__}", (_Guarded, kind), {})
    return twin


class _Guarded(Loop):
    """A loop whose body changes nothing where cond says that it has ended."""

    def step(self, leaves: Sequence[Any], x: Sequence[Any], params: Sequence[Any]) -> Any:
        on = self.goes_on(leaves, params)
        start = self.initial(params)
        safe = [jnp.where(on, a, b) for a, b in zip(leaves, start, strict=True)]
        new, ys = super().step(safe, x, params)
        return [jnp.where(on, a, b) for a, b in zip(new, leaves, strict=True)], ys


class Lanes(Loop):
    """A while loop over lanes.

    Parameters
    ----------
    loop : Loop
    size : int
    batched : sequence of bool
        Which parameters have an axis of lanes, their first.
    """

    def __init__(self, loop: Any, size: int, batched: Sequence[bool]) -> None:
        self.__dict__.update(loop.__dict__)
        self.one, self.size, self.batched = loop, size, tuple(batched)
        self.flags, self.steered = _spread(loop, batched)
        self.small = False
        self.guarded = guarded(loop, batched)
        like = [self._wide(i, loop.template_like[i]) for i in loop.moving]
        self.layout = Leaves(loop.bk, like)
        # what a batch of these lanes would see
        self.template_like = [self._wide(i, x) for i, x in enumerate(loop.template_like)]

    def _wide(self, i: int, x: Any) -> Any:
        shape = (self.size, *x.shape) if self.flags[i] else x.shape
        struct: Any = jax.ShapeDtypeStruct
        return struct(shape, x.dtype)

    def _axes(self) -> tuple[list[Any], list[Any]]:
        return [0 if f else None for f in self.flags], [0 if b else None for b in self.batched]

    def _mapped(self, fn: Callable[..., Any], out: Any) -> Callable[..., Any]:
        leaves, params = self._axes()
        return jax.vmap(fn, in_axes=(leaves, params), out_axes=out, axis_size=self.size)

    # --- the loop's interface
    def initial(self, params: Sequence[Any]) -> tuple[Any, ...]:
        leaves = list(self.one.initial(params))
        given = dict(zip(self.one.where, self.batched, strict=False))
        for i, flag in enumerate(self.flags):
            if flag and not given[i]:
                leaves[i] = jnp.broadcast_to(leaves[i], (self.size, *leaves[i].shape))
        return tuple(leaves)

    def step(self, leaves: Sequence[Any], x: Sequence[Any], params: Sequence[Any]) -> Any:
        def one(leaves: Any, params: Any) -> Any:
            return self.guarded.step(leaves, (), params)[0]

        axes = self._axes()[0]
        return self._mapped(one, axes)(list(leaves), list(params)), []

    def goes_on(self, leaves: Sequence[Any], params: Sequence[Any]) -> Any:
        each = self.each_goes_on(leaves, params)
        return jnp.any(each) if self.steered else each

    def each_goes_on(self, leaves: Sequence[Any], params: Sequence[Any]) -> Any:
        test = self._mapped(self.one.each_goes_on, 0 if self.steered else None)
        return test(list(leaves), list(params))

    def poison_param(self, ok: Any, k: int, x: Any) -> Any:
        def one(ok: Any, x: Any) -> Any:
            return self.one.poison_param(ok, k, x)

        if self.batched[k]:
            return jax.vmap(one, in_axes=(0 if self.steered else None, 0))(ok, x)
        return one(jnp.all(ok, axis=0) if self.steered else ok, x)


def _with(program: LoopProgram, loop: Loop) -> LoopProgram:
    return LoopProgram(loop, program.adjoint, throw=program.throw)


class LoopGradient(Differentiable):
    """A loop with its derivatives, batched over lanes."""

    def primal(self) -> Any:
        program = self.program
        primal = one_kernel(program.primal, program.loop.small)
        if program.loop.count is not None:  # counted: nothing to steer
            return primal
        run = jax.custom_batching.custom_vmap(primal)

        @run.def_vmap
        def rule(size: int, batched: Any, inputs: Inputs) -> Any:
            lanes = Lanes(program.loop, size, batched[0].params)
            out = LoopGradient(_with(program, lanes)).primal()(inputs)
            return out, _result_axes(lanes, out)

        return run

    def batching(self, run: Any, wanted: Wanted) -> Any:
        program = self.program
        run = one_kernel(run, program.loop.small)
        if program.loop.count is not None:
            return run
        fn = jax.custom_batching.custom_vmap(run)

        @fn.def_vmap
        def rule(size: int, batched: Any, inputs: Inputs) -> Any:
            lanes = Lanes(program.loop, size, batched[0].params)
            leaves, aux, arrays = LoopGradient(_with(program, lanes)).forward(wanted)(inputs)
            axes = _kept_axes(lanes, arrays)
            arrays = [jnp.moveaxis(x, 1, 0) if a == 1 else x
                      for x, a in zip(arrays, axes, strict=True)]  # fmt: skip
            flags = *_result_axes(lanes, (leaves, aux)), [a is not None for a in axes]
            return (leaves, aux, arrays), flags

        return fn

    def tangent(self, *arguments: Any) -> Tangent:
        return _LoopTangent(*arguments)


def _result_axes(lanes: Lanes, out: Any) -> Any:
    """Which parts of a primal's result have lanes."""
    _, (rest, _, _) = out
    floating = set(lanes.floating)
    others = tuple(f for i, f in enumerate(lanes.flags) if i not in floating)
    assert len(others) == len(rest)
    bounded = lanes.max_steps is not None
    return tuple(lanes.flags[i] for i in lanes.floating), (
        others, False, lanes.steered and bounded)  # fmt: skip


def _kept_axes(lanes: Lanes, arrays: Sequence[Any]) -> list[Any]:
    """The axis of lanes of what a forward keeps: buffers, positions, count, verdict."""
    axes: list[Any] = [1 if lanes.flags[i] else None for i in lanes.moving]
    axes += [None] * (len(arrays) - len(axes))
    if lanes.max_steps is not None and lanes.steered:
        axes[-1] = 0
    return axes


class _LoopTangent(Tangent):
    """Tangents of a loop's result; the reverse sweep of a batch of loops is one of lanes."""

    def batching(self, pull: Any) -> Any:
        pull = one_kernel(pull, self.program.loop.small)
        if self.program.loop.count is not None:
            return pull
        fn = jax.custom_batching.custom_vmap(pull)

        @fn.def_vmap
        def rule(size: int, batched: Any, *arguments: Any) -> Any:
            # each lane by itself, for as many steps as the longest takes
            one = guarded(self.program.loop, batched[0].params)
            again = self._of(_with(self.program, one))
            axes = jax.tree_util.tree_map(lambda b: 0 if b else None, tuple(batched))
            out = jax.vmap(again.plain_pull, in_axes=axes, axis_size=size)(*arguments)
            return out, tuple(True for _ in out)

        return fn

    def _of(self, program: LoopProgram) -> _LoopTangent:
        return _LoopTangent(program, (self.structure, self.rest), self.where, self.wanted)

    def over_lanes(self, size: int, constants: Any, tangents: Any) -> Any:
        """Cotangents of what all lanes share are summed where they arise, not lane by lane."""
        if self.program.loop.count is not None:
            return None
        inputs, _ = jax.tree_util.tree_unflatten(self.structure, [x is not None for x in constants])
        flat = jax.tree_util.tree_leaves(inputs)
        pairs = list(zip(self.where, tangents, strict=True))
        if not any(flat) or any(a is not None and not flat[i] for i, a in pairs):
            return None
        lanes = Lanes(self.program.loop, size, inputs.params)

        def whole(constants: Any, cotangents: Any) -> tuple[Any, ...]:
            inputs, arrays = jax.tree_util.tree_unflatten(self.structure, constants)
            axes = _kept_axes(lanes, arrays)
            arrays = [jnp.moveaxis(x, 0, 1) if a == 1 else x
                      for x, a in zip(arrays, axes, strict=True)]  # fmt: skip
            flags = [lanes.flags[i] for i in lanes.floating]
            cts = tuple(x if f else jnp.sum(x, axis=0)
                        for x, f in zip(cotangents, flags, strict=True))  # fmt: skip
            found = self._of(_with(self.program, lanes)).pull(inputs, arrays, cts)
            return tuple(jnp.sum(x, axis=0) if a is None and flat[i] else x
                         for x, (i, a) in zip(found, pairs, strict=True))  # fmt: skip

        return whole
