"""PyTorch: public loops. Where everything fits, autograd records the steps as they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from retrograde._base.types import Array, Aux, Carry, Function, Inputs, Leaves, Tree

from .captured import captured_tensors
from .distributed import gathered_modules
from .forward_mode import refuse_duals, transformed
from .function import constant, refuse_loop_captured
from .modes import normal, outside, placed, recording

if TYPE_CHECKING:
    from retrograde._backend.protocols import FieldVJP
    from retrograde._loops.loop import LoopSpec
    from retrograde._loops.loop_program import DifferentiableLoop


class IterationHooks:
    """What ``while_loop`` and ``scan`` need."""

    differentiate: Function

    def capture_loop(self, loop: LoopSpec) -> None:
        """Find the tensors that require a gradient and that the body closes over."""
        body, loop.gathered = loop.body, []
        loop.body, loop.cond = placed(loop.body), loop.cond and placed(loop.cond)
        loop.template = [normal(x) for x in loop.template]
        loop.xs_leaves = [normal(x) for x in loop.xs_leaves]
        loop.describe()
        if transformed() or not recording() or loop.count == 0:
            return  # torch.func follows what a body closes over
        leaves = [x.detach() if isinstance(x, torch.Tensor) else x for x in loop.template]
        rows = [x[0, ...].detach() for x in loop.xs_leaves]

        def run() -> list[Array]:
            new, ys = loop.raw(leaves, rows)
            found = [x for x in (*new, *ys) if isinstance(x, torch.Tensor)]
            refuse_duals(found)
            return found

        with outside(), gathered_modules(loop.gathered):
            found = captured_tensors(body, run)
        loop.hoisted(None, found, None, [])

    def body_tape_bytes(
        self, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        """Bytes that autograd saves of one step, beside what lives on without it."""
        weak: Tree = StorageWeakRef
        storages: dict[Any, int] = {}

        def note(x: Array) -> Array:
            storage = x.untyped_storage()
            storages[weak(storage)] = storage.nbytes()
            return x.detach()

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            k, pull = vjp(span, tuple(leaves))
        pairs = zip(k, leaves, strict=False)
        same = [a.untyped_storage()._cdata == b.untyped_storage()._cdata for a, b in pairs]
        out = sum(x.numel() * x.element_size() for x in k)
        del k, pull, pairs
        return out + sum(n for ref, n in storages.items() if ref.expired()), same

    def differentiate_loop(
        self, program: DifferentiableLoop, inputs: Inputs, kind: str
    ) -> tuple[Leaves, Aux]:
        found: tuple[Leaves, Aux] = self.differentiate(program, inputs)
        return found

    def detach_loop(self, loop: LoopSpec, inputs: Inputs) -> Inputs:
        refuse_loop_captured(loop)
        found: Inputs = constant(inputs)
        return found

    def reached(
        self, loop: LoopSpec, wanted: Sequence[bool]
    ) -> tuple[Sequence[bool], Sequence[bool]]:
        """By calls of the body on the first carry, where some of its leaves are not wanted."""
        leaves = [False] * len(loop.template)
        for i, w in zip(loop.where, wanted, strict=False):
            leaves[i] = w
        everything = all(leaves[i] for i in loop.varying)
        if everything or transformed() or loop.count == 0:
            return [True] * len(leaves), [True] * len(loop.ys_like or ())
        requested = wanted[len(loop.where) : loop.given]
        rows = [_fresh(x[0, ...], w) for x, w in zip(loop.xs_leaves, requested, strict=True)]
        while True:
            given = [_fresh(x, w) for x, w in zip(loop.template, leaves, strict=True)]
            with torch.enable_grad():
                new, ys = loop.raw(given, rows)
            found = [a or _moves(x) for a, x in zip(leaves, new, strict=True)]
            if found == leaves:
                return leaves, [*map(_moves, ys)]
            leaves = found

    def tracked_leaves(self, loop: LoopSpec, params: Sequence[Array]) -> Sequence[bool]:
        return [bool(x.requires_grad) for x in params]


def _fresh(x: Array, wanted: bool) -> Array:
    """A tensor of its own, which requires a gradient where it is wanted."""
    return x.detach().requires_grad_(wanted) if isinstance(x, torch.Tensor) else x


def _moves(x: Array) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad
