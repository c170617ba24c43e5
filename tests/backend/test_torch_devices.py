"""PyTorch: whose memory is read and who is waited for, by tensors that say they are on a GPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
measure: Any = pytest.importorskip("retrograde_backends.torch.memory")
adapter: Any = pytest.importorskip("retrograde_backends.torch.adapter")


class There(torch.Tensor):
    """A tensor of no elements' memory on the second GPU; the first one is the current device."""

    @staticmethod
    def __new__(cls) -> Any:
        make: Any = torch.Tensor._make_wrapper_subclass
        return make(cls, (2,), dtype=torch.float64, device="cuda:1")

    @classmethod
    def __torch_dispatch__(cls, fn: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(fn)


def test_the_device_is_that_of_the_arrays_not_the_current_one(monkeypatch):
    calls: list[tuple[str, str]] = []

    def noted(name: str, result: Any) -> None:
        def fn(device: Any = "current") -> Any:
            calls.append((name, str(device)))
            return result

        monkeypatch.setattr(torch.cuda, name, fn)

    for name in ("synchronize", "reset_peak_memory_stats"):
        noted(name, None)
    noted("mem_get_info", (2000, 4000))
    noted("memory_allocated", 100)
    noted("memory_reserved", 300)
    noted("max_memory_allocated", 1100)
    x = There()
    backend = adapter.backend
    backend.synchronize((torch.ones(2), {"a": x}))
    assert calls == [("synchronize", "cuda:1")]
    assert tuple(backend.memory(x)) == (2200, 4000, "memory of cuda:1")
    found = measure.peak_gradient_bytes(lambda tree: None, lambda tree: None, {"y": x})
    assert found == (0, "torch.cuda.max_memory_allocated")
    assert {device for _, device in calls} == {"cuda:1"}
    calls.clear()
    backend.synchronize([torch.ones(2)])
    measure.peak_gradient_bytes(lambda x: 2 * x, lambda x: 2 * x, torch.ones(2))
    assert calls == []
