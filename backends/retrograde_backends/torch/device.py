"""PyTorch: what is different where tensors live on a device that works by itself.

Nobody waits for it within a pass but for the one number that a step is judged by: cotangents of
times stay 0-d tensors, a time is an argument of the kernel that writes it, and rows of weights go
up from pinned memory, which PyTorch keeps until the copy is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from retrograde._base.types import Array, Device, DType

__all__ = ["held", "on_host", "shares", "uploaded"]


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
