"""PyTorch: what the vjp of one evaluation of f holds from its start to its pull, and in the pull.

What autograd saves is seen by its hooks, what it makes on the way by the dispatcher: a gradient by
``p[i]`` is a tensor of zeros as large as p, and a sum of two of them a third.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from retrograde._derivative import UserPullback

from ._torch_measure import LiveStorages
from ._torch_reverse import without_hooks

__all__ = ["pull_bytes", "tape_bytes"]


def tape_bytes(vjp: Any, t: Any, y: Any) -> tuple[int, int, Any]:
    """Bytes of one linearisation, those of it in a recorded march, and f's leaves there."""
    weak: Any = StorageWeakRef
    storages: dict[Any, int] = {}
    y = y.clone()
    own, leaves = y.untyped_storage()._cdata, set()  # a stage's state, which its pull holds

    def note(x: Any) -> Any:
        storage = x.untyped_storage()
        if storage._cdata == own:
            leaves.add(vjp.layout.leaf_at(x.storage_offset()))
        else:
            storages[weak(storage)] = storage.nbytes()
        return x.detach()  # an output itself would be held by its own graph

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        k, pull = vjp(t, y)
    k0 = [x.clone() for x in k]
    del k, pull
    # what outlives the tape (constants that f closes over) is no part of it
    size = sum(n for ref, n in storages.items() if ref.expired())
    kept = sum(vjp.layout.leaf_bytes(i) for i in leaves)
    return size + vjp.layout.nbytes, size + kept, k0


def pull_bytes(vjp: Any, k: Any, pull: Any) -> int:
    """Bytes alive at most in a pull: sums of parameters' cotangents, and what autograd makes."""
    own = isinstance(vjp, UserPullback)
    with LiveStorages() as storages, without_hooks([] if own else vjp.tracked):
        acc = vjp.zero() if own else [torch.zeros_like(x) for x in vjp.wanted]
        pull([x.detach() for x in k], acc)
    return int(storages.peak)
