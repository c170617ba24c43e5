"""PyTorch: public loops. Where everything fits, autograd records the steps as they are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ._torch_capture import captured_tensors
from ._torch_distributed import gathered_modules
from ._torch_forward import refuse_duals, transformed
from ._torch_function import constant, refuse_loop_captured
from ._torch_modes import normal, outside, placed, recording

__all__ = ["IterationHooks"]


class IterationHooks:
    """What ``while_loop`` and ``scan`` need."""

    differentiate: Callable[..., Any]

    def array_bytes(self, x: Any) -> int:
        return int(x.numel() * x.element_size())

    def capture_loop(self, loop: Any) -> None:
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

        def run() -> list[Any]:
            new, ys = loop.raw(leaves, rows)
            found = [x for x in (*new, *ys) if isinstance(x, torch.Tensor)]
            refuse_duals(found)
            return found

        with outside(), gathered_modules(loop.gathered):
            found = captured_tensors(body, run)
        loop.hoisted(None, found, None, [])

    def body_tape_bytes(
        self, vjp: Any, span: Any, leaves: Sequence[Any]
    ) -> tuple[int, Sequence[bool]]:
        """Bytes that autograd saves of one step, beside what lives on without it."""
        weak: Any = StorageWeakRef
        storages: dict[Any, int] = {}

        def note(x: Any) -> Any:
            storage = x.untyped_storage()
            storages[weak(storage)] = storage.nbytes()
            return x.detach()

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            k, pull = vjp(span, tuple(leaves))
        pairs = zip(k, leaves, strict=False)
        same = [a.untyped_storage()._cdata == b.untyped_storage()._cdata for a, b in pairs]
        out = sum(self.array_bytes(x) for x in k)
        del k, pull, pairs
        return out + sum(n for ref, n in storages.items() if ref.expired()), same

    def differentiate_loop(self, program: Any, inputs: Any, kind: str) -> Any:
        return self.differentiate(program, inputs)

    def detach_loop(self, loop: Any, inputs: Any) -> Any:
        refuse_loop_captured(loop)
        return constant(inputs)

    def tracked_leaf(self, x: Any) -> bool:
        return bool(x.requires_grad)
