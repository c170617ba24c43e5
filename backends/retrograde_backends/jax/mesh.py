"""JAX: arrays whose types say how they lie in a mesh of devices, as far as solves know of it.

Loops of retrograde run over any mesh whose axes are Auto, and in a ``jax.shard_map`` that does not
check what varies. They don't yet give their own arrays such types: what has one is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import jax

from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import Array, Function, Leaves, Tree

from .types import Ref, Var


def layers(x: Array) -> Iterator[Var]:
    """An array or tracer, and those that it stands for in turn: of a batch, of a derivative."""
    while isinstance(x, jax.Array):
        yield x
        if not isinstance(x, jax.core.Tracer):
            return
        x = getattr(x, "primal", getattr(x, "val", None))


def refuse_typed(arrays: Iterable[Var]) -> None:
    """Raise UnsupportedByBackend for arrays that vary over a mesh, or are sharded, by type."""
    for layer in chain.from_iterable(map(layers, arrays)):
        kind: Any = jax.typeof(layer)
        varying = getattr(getattr(kind, "manual_axis_type", None), "varying", None)
        varying = getattr(kind, "vma", ()) if varying is None else varying
        if varying:
            raise UnsupportedByBackend(
                f"an array varies over the mesh axes {sorted(varying)} of a jax.shard_map that "
                "checks this, which loops of retrograde can't do; pass check_vma=False to "
                "jax.shard_map (gradients taken inside of it by replicated arrays then are those "
                "of one device's part: add them up by jax.lax.psum)."
            )
        sharding = getattr(kind, "sharding", None)
        axes = [name for part in getattr(sharding, "spec", ()) for name in _names(part)]
        if axes:
            raise UnsupportedByBackend(
                f"an array is sharded over the explicit mesh axes {axes}, of which loops of "
                "retrograde know nothing; make the axes Auto (jax.make_mesh(..., axis_types="
                "(jax.sharding.AxisType.Auto,))), or solve in jax.sharding.auto_axes(fn, "
                "out_sharding=...)."
            )


def _names(part: Function) -> Leaves:
    """Axes of one dimension's part of a specification."""
    return part if isinstance(part, tuple) else (part,) if isinstance(part, str) else ()


def mesh_note() -> Tree:
    """What a traced program depends on beside its arrays: the mesh around it."""
    found: Ref = getattr(jax.sharding, "get_abstract_mesh", None)
    mesh = None if found is None else found()
    return None if mesh is None or mesh.empty else mesh
