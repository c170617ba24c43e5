"""PyTorch's account of live memory: storages seen by a dispatch mode, or CUDA's own peak.

On the CPU PyTorch keeps no statistics. A :class:`LiveStorages` sees the result of every
operation, C++ autograd's included, and follows each new storage by a weak reference until it
dies. Memory that one operation takes and returns inside itself is not seen.

Where tensors live on a device that works by itself, nobody waits for it within a pass but for the
one number that a step is judged by: cotangents of times stay 0-d tensors, a time is an argument of
the kernel that writes it, and rows of weights go up from pinned memory, which PyTorch keeps until
the copy is done.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrograde._base.types import Array, Device, DType, Function, Leaves, Tree


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages made while it is active.

    Attributes
    ----------
    live, peak : int [bytes]
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self, func: Function, types: object, args: Tree = (), kwargs: dict[str, Any] | None = None
    ) -> Tree:
        # what is lifted is NumPy's memory that has just become a tensor
        operands = () if func is torch.ops.aten.lift_fresh.default else (args, kwargs)
        given = {
            x.untyped_storage()._cdata for x in tree_leaves(operands) if isinstance(x, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self._follow(x.untyped_storage(), given)
        return out

    def _follow(self, storage: Any, given: set[int]) -> None:
        """Count a storage that is new here: neither known nor an operand made elsewhere."""
        key = storage._cdata
        if key in self._known or key in given:
            return

        def died(_: Any) -> None:
            self.live -= self._known.pop(key)[1]

        size = storage.nbytes()
        self._known[key] = (weakref.ref(storage, died), size)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_gradient_bytes(
    forward: Function, gradient: Function, *arguments: Array
) -> tuple[int, str]:
    """Peak bytes of ``gradient(*arguments)`` beyond those of ``forward``, and the source."""
    tensors = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
    device = next((x.device for x in tensors if x.device.type == "cuda"), None)
    measure = _cpu_peak if device is None else partial(_cuda_peak, device=device)
    peaks = [measure(fn, arguments) for fn in (forward, gradient)]
    source = "live storages of PyTorch" if device is None else "torch.cuda.max_memory_allocated"
    return peaks[1] - peaks[0], source


def _cpu_peak(fn: Function, arguments: Leaves) -> int:
    gc.collect()
    with LiveStorages() as storages:
        result = fn(*arguments)
    del result
    return int(storages.peak)


def _cuda_peak(fn: Function, arguments: Leaves, device: Device) -> int:
    """On the device of the arguments, which need not be the current one."""
    fn(*arguments)
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = fn(*arguments)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    del result
    return int(peak - before)


def on_host(device: Device) -> bool:
    """Whether numbers of its tensors can be read without waiting for anything."""
    return device.type == "cpu"  # type: ignore[no-any-return]


def shares(device: Device) -> bool:
    """Whether NumPy can work in the memory of its tensors; those of ``torch.func`` have none."""
    return on_host(device) and not torch._C._are_functorch_transforms_active()


def copies(device: Device) -> bool:
    """Whether it copies from pinned memory of the host by itself."""
    return device.type == "cuda"  # type: ignore[no-any-return]


def held(x: Array) -> Array:
    """A 0-d tensor's number where it lies in the host's memory; else x, for nobody waits for it."""
    return x.item() if on_host(x.device) else x


def uploaded(
    values: float | Sequence[float] | Sequence[Sequence[float]] | Array,
    dtype: DType,
    device: Device,
) -> Array:
    """Numbers of the host as a tensor; nobody waits until they are there."""
    if on_host(device) or not copies(device):
        return torch.as_tensor(values, dtype=dtype, device=device)
    return pinned(values, dtype).to(device, non_blocking=True)


def pinned(
    values: float | Sequence[float] | Sequence[Sequence[float]] | Array, dtype: DType
) -> Array:
    """Numbers in memory that a device can copy from by itself."""
    return torch.tensor(values, dtype=dtype, pin_memory=True)
