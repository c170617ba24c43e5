"""JAX: compiled programs, kept so that a second eager solve does not compile again.

A program is kept by what it is made of: f by identity and by its trace (so that a change of what
f closes over is noticed), settings, structures, shapes and dtypes.

So is JAX's account of memory, what the compiler reserves for a program's temporaries: XLA plans all
buffers of a compiled program beforehand; arguments and results are counted apart from temporaries,
which are what a gradient adds to the solve. Nothing is run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from retrograde._base.types import Array, Function, Inputs, NeedsGradient, State, Tree

from .batched_solves import room_for_lanes, with_gradient
from .types import Ref

if TYPE_CHECKING:
    from retrograde._api.solve_program import DifferentiableSolve
    from retrograde._backend.protocols import Program


def peak_gradient_bytes(
    forward: Function, gradient: Function, *arguments: Array
) -> tuple[int, str]:
    """Temporary bytes of ``gradient(*arguments)`` beyond those of ``forward``, and the source."""
    sizes = [temporary_bytes(fn, *arguments) for fn in (forward, gradient)]
    return sizes[1] - sizes[0], "XLA's plan of temporaries"


def temporary_bytes(fn: Function, *arguments: Array) -> int:
    """Bytes of the temporaries of a function's compiled form (compiled here if need be)."""
    compiled: Ref = fn
    if not hasattr(compiled, "memory_analysis"):
        if not hasattr(compiled, "lower"):
            compiled = jax.jit(compiled)
        compiled = compiled.lower(*arguments).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


MOST = 128
"""Programs kept; the one not used for longest goes first."""


class Kept:
    """What was made of programs, least recently used first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()

    def found(self, key: Hashable, make: Callable[[], Any], done: Callable[[], None]) -> Any:
        """What was kept by a key, or is made now; ``done`` is called where it is new and kept."""
        try:
            found = self._kept.pop(key, None)
        except TypeError:  # something unhashable: a traced tolerance, say
            return make()
        if found is None:
            found = make()
            done()
        self._kept[key] = found
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return found


class KeptPrograms(Kept):
    """Jitted functions of programs."""

    def __call__(self, program: Program, kind: Ref, make: Function) -> Function:
        """The jitted function of a program, kept if the program has a key."""
        key = (kind, program.key())
        found: Function = self.found(key, lambda: jax.jit(make()), program.forget)
        return found


class KeptAccounts(Kept):
    """What compiled gradients take beside their slots."""

    def __call__(
        self, program: DifferentiableSolve, inputs: Inputs, wanted: NeedsGradient, rows: int
    ) -> int:
        """Bytes of temporaries beyond those of the solve and those of the rows of slots.

        Compiles both; nothing is run, and inputs may be tracers.
        """
        struct: Any = jax.ShapeDtypeStruct
        shapes: Any = jax.tree_util.tree_map(lambda x: struct(x.shape, x.dtype), inputs)
        key = (program.key(), str(shapes), wanted)
        make = partial(self._measured, program, shapes, wanted, rows)
        found: int = self.found(key, make, lambda: None)
        return found

    def _measured(
        self, program: DifferentiableSolve, shapes: Ref, wanted: NeedsGradient, rows: int
    ) -> int:
        def solve(inputs: Inputs) -> Tree:
            return program.primal(inputs)[0]

        def gradient(inputs: Inputs) -> Tree:
            def loss(y0: State, chosen: Sequence[Array]) -> Array:
                rest = iter(chosen)
                pairs = zip(inputs.params, wanted.params, strict=True)
                params = tuple(next(rest) if w else x for x, w in pairs)
                leaves = call(inputs._replace(y0=y0, params=params))[0]
                return sum(jnp.real(x).sum() for x in leaves)

            call = with_gradient(program, room_for_lanes(program))
            pairs = zip(inputs.params, wanted.params, strict=True)
            return jax.grad(loss, argnums=(0, 1))(inputs.y0, [x for x, w in pairs if w])

        alone, whole = (temporary_bytes(jax.jit(fn), shapes) for fn in (solve, gradient))
        size = max(0, whole - alone - rows * int(program.loop.carried.nbytes))
        return size + size // 32 + 1024  # programs of other slots differ by that
