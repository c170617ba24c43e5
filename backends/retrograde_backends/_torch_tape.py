"""PyTorch: what autograd saves for the vjp of one evaluation of f, by storages."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["tape_bytes"]


def tape_bytes(vjp: Any, t: Any, y: Any) -> tuple[int, int, Any]:
    """Bytes of one linearisation, those of it in a recorded march, and f's leaves there."""
    weak: Any = StorageWeakRef
    storages: dict[Any, int] = {}
    y = y.clone()
    own, leaves = y.untyped_storage()._cdata, set()

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
    return size + bool(leaves) * vjp.layout.nbytes, size + kept, k0
