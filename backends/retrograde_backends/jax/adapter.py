"""JAX: traced loops, the whole solve with derivatives of its own, all one compiled program.

A solve is one ``jax.jit`` call, kept by what it is made of (f by identity, the settings, shapes
and dtypes), so that a second eager solve does not compile again. What f closes over is hoisted
into the program's inputs; tracers among it get gradients. Only what is differentiated has a
cotangent in the loops (``symbolic_zeros``): XLA does not remove an unused one from a nested loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from retrograde._adjoints import ForwardMode, RecursiveCheckpointAdjoint
from retrograde._api.solve_program import DifferentiableSolve
from retrograde._backend.linear import Linear, linear_algebra
from retrograde._backend.structure import Structure
from retrograde._base.types import (
    Array,
    Aux,
    Bind,
    Bool,
    Device,
    DType,
    Function,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    Residuals,
    Scalar,
    State,
    Table,
    Tree,
    TreeDef,
)
from retrograde.backend import Capability, EagerBackend, MemoryInfo

from .banded import jax_band
from .batched_solves import room_for_lanes, with_gradient
from .cache import KeptAccounts, KeptPrograms
from .compiled_field import compile_field, compile_output, compiled
from .field_vjp import DirectHooks, Pullback
from .linear import JaxLinear, JaxLinearisation, second_of_pull
from .loops import LoopHooks, precision
from .scanned_stages import TapeHooks
from .transforms import TransformHooks, forward_mode, works
from .trees import register
from .user_loops import IterationHooks
from .xla_cpu.eligible import SUMMED, default_device, value
from .xla_cpu.kernel import in_kernel

if TYPE_CHECKING:
    from retrograde._backend.protocols import FieldVJP, Layout, Program, Runnable
    from retrograde._controllers.base import Grid
    from retrograde._integrate.integrator import Integrator
    from retrograde._integrate.problem import Problem
    from retrograde._loops.loop import LeafLayout

ASSUMED = 2**31
"""Bytes that are free, as is assumed, on a device that can't tell."""

SLOTS = 4
"""Of the gradient that is compiled to see what a step takes beside its slots."""


class JaxBackend(TransformHooks, DirectHooks, TapeHooks, LoopHooks, IterationHooks, EagerBackend):
    """The adapter of JAX."""

    name: ClassVar[str] = "jax"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.AUTODIFF,
            Capability.NATIVE_GRADIENT,
            Capability.HIGHER_ORDER,
            Capability.TRACED,
            Capability.DIRECT,
        }
    )
    python_loops: ClassVar[bool] = False
    slots_by_reference: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(jnp)
        self._compiled = KeptPrograms()
        self._accounts = KeptAccounts()

    def map_samples(
        self, fn: Function, samples: int, mapped: Sequence[bool], arguments: Sequence[Tree]
    ) -> Tree:
        def of_sample(moving: Sequence[Tree]) -> Tree:
            rest = iter(moving)
            pairs = zip(mapped, arguments, strict=True)
            return fn(*[next(rest) if moves else x for moves, x in pairs])

        moving = [x for x, moves in zip(arguments, mapped, strict=True) if moves]
        return jax.vmap(of_sample, axis_size=samples)(moving)

    def recorded_vjp(
        self, fn: Function, arguments: tuple[Tree, ...]
    ) -> tuple[Tree, Function, Tree]:
        results, pull, more = jax.vjp(fn, *arguments, has_aux=True)
        return results, pull, more

    # --- arrays and trees
    def is_array(self, x: object) -> bool:
        return isinstance(x, jax.Array)

    def flatten(self, tree: Tree) -> tuple[list[Tree], TreeDef]:
        return jax.tree_util.tree_flatten(tree)

    def unflatten(self, treedef: TreeDef, leaves: Iterable[Tree]) -> Tree:
        return jax.tree_util.tree_unflatten(treedef, leaves)

    def floating(self, x: Array) -> str:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return "real"
        return "complex" if jnp.issubdtype(x.dtype, jnp.complexfloating) else ""

    def real_dtype(self, x: Array) -> DType:
        return precision(x.dtype).dtype

    def itemsize(self, dtype: DType) -> int:
        return int(np.dtype(dtype).itemsize)

    def device_of(self, x: Array) -> Device:
        return None  # JAX itself refuses to mix devices, and a tracer has none

    def concrete(self, x: Array) -> float | None:
        if not isinstance(x, jax.core.Tracer):
            return float(x)
        try:
            return float(jax.lax.stop_gradient(x))
        except jax.errors.ConcretizationTypeError:
            return None

    def concrete_times(self, ts: Table) -> list[float] | None:
        if self.is_array(ts):  # not one by one: under jit, iteration makes tracers of them
            try:
                known = jax.lax.stop_gradient(ts) if isinstance(ts, jax.core.Tracer) else ts
                return [float(t) for t in np.asarray(known)]
            except jax.errors.TracerArrayConversionError:
                return None
        values = [self.concrete(t) for t in ts]
        return None if any(v is None for v in values) else values  # type: ignore[return-value]

    def scalar(self, x: Array) -> Scalar:
        return x

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        return jnp.asarray(t, layout.real_dtype)

    def array(self, values: Sequence[Scalar] | Scalar, dtype: DType, device: Device) -> Array:
        return jnp.asarray(values, dtype)

    def real_array(self, x: Array, layout: Layout) -> Array:
        return jnp.asarray(x, layout.real_dtype)

    def time_sequence(self, ts: Table, layout: Layout) -> Table:
        return jnp.asarray(ts, layout.real_dtype)

    def times_array(self, ts: Table, layout: Layout) -> Array:
        return jnp.asarray(ts, layout.real_dtype)

    def accepted_times(self, times: Table, n: int, valid: Index, fill: Scalar) -> Table:
        return jnp.where(jnp.arange(n) < valid, times[1 : n + 1], fill)

    def grid_times(self, grid: Grid, n: int) -> Table:
        return jnp.concatenate([grid.step(0)[0][None], jax.vmap(grid.end)(jnp.arange(n))])

    def number(self, x: Array) -> Scalar:
        if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
            return x
        return x.item()

    def call_back(self, fn: Function, *args: Tree) -> None:
        jax.debug.callback(fn, *args)

    def both(self, a: Array, b: Array) -> Bool:
        return b if a is True else jnp.logical_and(a, b)

    def pair(self, a: Array, b: Array) -> Array:
        return jnp.real(a * b)  # JAX pairs cotangents without conjugation

    def matmul(self, a: Array, b: Array) -> Array:
        if in_kernel() and a.ndim == b.ndim == 2 and a.size * b.shape[1] <= SUMMED:
            return jnp.sum(a[:, :, None] * b, axis=1)  # products with vectors alone can be there
        # the default precision of float32 is that of 10 bits on recent GPUs
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def nbytes(self, x: Array) -> int:
        return int(x.size * x.dtype.itemsize)

    def example(self, problem: Problem, fn: Function, t0: Scalar) -> tuple[list[Array], TreeDef]:
        shapes = compile_output(problem, fn, t0)
        leaves, treedef = jax.tree_util.tree_flatten(shapes)
        return [jnp.zeros(x.shape, x.dtype) for x in leaves], treedef

    # --- derivatives; nothing can be written into, so what f is given needs no guard
    def guard(self, field: Function) -> Function:
        return field

    def lent(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        return leaves

    def watch(self, leaves: Sequence[Tree], whose: str) -> Callable[[], None]:
        return lambda: None

    def capture(self, problem: Problem, t0: Scalar) -> None:
        """Trace f once; what it closes over becomes inputs of the program."""
        problem.program = compile_field(problem, t0)

    def needs_gradient(self, inputs: Inputs) -> bool:
        leaves = jax.tree_util.tree_leaves(inputs)
        return any(isinstance(x, jax.core.Tracer) for x in leaves)

    def likely(self, loop: Integrator, inputs: Inputs) -> tuple[bool, ...]:
        problem, parts = loop.problem, loop.outputs.parts
        if not compiled(problem).doubtful:
            return tuple(problem.differentiable)
        params, t0 = inputs.params, loop.layout.time(loop.clock.real(inputs.t0))

        def one(k: int) -> bool:
            wanted = NeedsGradient(tuple(i == k for i in range(len(params))), False, False, False)
            binds = [problem.bind_leaves]
            fns = [part.saveat.fn for part in parts]
            binds += [partial(problem.bind_output, fn) for fn in fns if fn is not None]
            vjps = [Pullback(loop.layout, bind, params, wanted) for bind in binds]

            def pulled(t: Scalar, y: State) -> Tree:
                found = [vjp.linearise(t, y) for vjp in vjps]
                return [part(k) for k, part in found]

            return works(pulled, t0, inputs.y0)

        return tuple(d and one(k) for k, d in enumerate(problem.differentiable))

    def pullback(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> FieldVJP:
        return Pullback(layout, bind, params, wanted)

    def linear(self, layout: Layout, structure: Structure = None) -> Linear:
        return linear_algebra(layout, structure, dense=JaxLinear, band=jax_band)

    linearise = staticmethod(JaxLinearisation)
    second_of_pull = staticmethod(second_of_pull)

    def stop_gradient(self, x: Array) -> State:
        return jax.lax.stop_gradient(x)

    def tape_bytes(
        self, vjp: FieldVJP, t: Array, y: State
    ) -> tuple[int, int, Sequence[Array] | None]:
        if not isinstance(vjp, Pullback):  # the user's own keeps y
            size = sum(self.nbytes(x) for x in y)
            return size, size, None
        shapes = jax.eval_shape(lambda *x: vjp.linearise(*x)[1], t, y)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree_util.tree_leaves(shapes))
        return size, size, None

    def compiled_bytes(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient, one_tape: bool
    ) -> int:
        adjoint = RecursiveCheckpointAdjoint(SLOTS, one_tape=one_tape)
        program = DifferentiableSolve(loop, adjoint)
        return self._accounts(program, _arrays(program, inputs), wanted, SLOTS + 1)

    # --- programs
    def differentiate(self, program: DifferentiableSolve, inputs: Inputs) -> tuple[Leaves, Aux]:
        inputs = _arrays(program, inputs)
        followed = program.adjoint.differentiable
        if isinstance(program.adjoint, ForwardMode):
            followed = self.requested(inputs).forward  # one jvp follows the integration itself
        if followed:
            with forward_mode():
                call = self._compiled(program, "primal", lambda: program.primal)
                found: tuple[Leaves, Aux] = call(inputs)
                return found
        room = room_for_lanes(program)
        make = partial(with_gradient, program, room)
        found = self._compiled(program, ("gradient", room), make)(inputs)
        return found

    def run_forward(self, program: Runnable, inputs: Inputs) -> Aux:
        inputs = _arrays(cast(DifferentiableSolve, program), inputs)
        return self._compiled(program, "forward", lambda: program.forward)(inputs)

    def run_reverse(
        self,
        program: Program,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        inputs = _arrays(cast(DifferentiableSolve, program), inputs)

        def make() -> Function:
            return lambda i, r, c: program.reverse(i, r, c, wanted)

        call = self._compiled(program, ("reverse", wanted), make)
        found: Inputs = call(inputs, residuals, tuple(cotangents))
        return found

    def autodiff_vjp(
        self, program: DifferentiableSolve, inputs: Inputs
    ) -> tuple[Leaves, Aux, Callable[[Leaves], Inputs]]:
        call = self._compiled(program, "primal", lambda: program.primal)
        leaves, pull, aux = jax.vjp(call, _arrays(program, inputs), has_aux=True)

        def pullback(cotangents: Leaves) -> Inputs:
            cts: Inputs = pull(tuple(cotangents))[0]
            wanted = program.loop.problem.differentiable
            params = tuple(x if w else None for x, w in zip(cts.params, wanted, strict=True))
            return cts._replace(params=params)

        return leaves, aux, pullback

    def synchronize(self, x: Array) -> None:
        jax.block_until_ready(x)  # type: ignore[no-untyped-call]

    def memory(self, like: Array | None = None) -> MemoryInfo:
        """Of the device of ``like`` that has least; of the one that JAX would take where it hides.

        For a device that keeps no account, and is no CPU, some room is assumed, and named as such.
        """
        x = value(like)
        devices = sorted(x.devices(), key=lambda d: d.id) if x is not None else [default_device()]
        found = [self._free(d) for d in devices if d.platform != "cpu"]
        return min(found, key=lambda x: x.free, default=super().memory(like))

    def _free(self, device: Device) -> MemoryInfo:
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            limit = stats["bytes_limit"]
            return MemoryInfo(limit - stats["bytes_in_use"], limit, f"memory of {device}")
        free = min(ASSUMED, super().memory().free)
        return MemoryInfo(free, free, f"assumed: {device} keeps no account of its memory")


def _arrays(program: DifferentiableSolve, inputs: Inputs) -> Inputs:
    """Times as arrays: inputs of a compiled program."""
    if inputs.t0 is None:  # a loop has none
        return inputs
    time, relative = program.loop.layout.time, inputs.relative
    if relative:  # constants of the gradient
        relative = jax.lax.stop_gradient((*map(time, relative[:2]), relative[2]))
    return inputs._replace(t0=time(inputs.t0), t1=time(inputs.t1), relative=relative)


backend = JaxBackend()
register()
