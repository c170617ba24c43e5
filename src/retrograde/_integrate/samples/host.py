"""The loop of a batch in the arithmetic of a host's library, where f's is another.

Calls between small arrays are what a loop over a batch costs, and PyTorch's take three times as
long as NumPy's in the same memory. So where its adapter names a host (``sample_host``), everything
but f, and what makes rows, is the host's: states, times and counts are its arrays from the first
try to the last, and ``HostLeaves`` stands between them and f.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..._backend.registry import adapter
from ..._backend.samples import HostLeaves, SampleBackend
from ..._base.types import Array, Inputs, Tree
from ..outputs import Outputs

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import Layout
    from .loop import SampleIntegrator


def hosted(loop: SampleIntegrator, inputs: Inputs) -> tuple[SampleIntegrator, Inputs] | None:
    """The same loop and its inputs in the host's arithmetic; None where there is no host."""
    layout = loop.problem.layout
    leaves = layout.unpack(inputs.y0)
    host = "" if loop.solver.implicit else loop.bk.sample_host(leaves[0])
    if not host:
        return None
    bk, guest, twin = SampleBackend(adapter(host)), loop.bk.bk, copy.copy(loop)
    columns = HostLeaves(bk, guest, leaves)
    twin.bk, twin.problem = bk, loop.problem.of(columns)
    engine, wishes = cast("AbstractBackend", bk), loop.outputs
    parts = [copy.copy(part) for part in wishes.parts]
    for out in parts:
        rows = columns
        if out.saveat.fn is not None:
            rows = HostLeaves(bk, guest, out.layout.unpack(out.layout.zeros()))
        out.bk, out.layout = engine, cast("Layout", rows)
    twin.outputs = Outputs(engine, parts, wishes.treedef, dense=wishes.dense)
    times, y0, settings = moved((loop.times(inputs), inputs.y0, inputs.settings), guest.to_host)
    inputs = inputs._replace(y0=y0, settings=settings, relative=times)
    return twin.of(layout.samples, times.origin), inputs


def moved(tree: Tree, move: Callable[[Array], Array]) -> Tree:
    """A tree of tuples with every array moved to another library."""
    if isinstance(tree, tuple):
        parts = [moved(x, move) for x in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return move(tree) if hasattr(tree, "shape") else tree
