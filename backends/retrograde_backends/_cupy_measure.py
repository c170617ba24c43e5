"""CuPy's account of memory: the used bytes of its pool, looked at after every allocation."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import cupy

__all__ = ["peak_gradient_bytes"]


class _Peak(cupy.cuda.MemoryHook):  # type: ignore[misc]
    """Highest number of bytes that the default pool had given out."""

    name = "retrograde peak"

    def __init__(self) -> None:
        self.pool = cupy.get_default_memory_pool()
        self.before = self.peak = self.pool.used_bytes()

    def malloc_postprocess(self, **_: Any) -> None:
        self.peak = max(self.peak, self.pool.used_bytes())


def peak_gradient_bytes(
    forward: Callable[..., Any], gradient: Callable[..., Any], *arguments: Any
) -> tuple[int, str]:
    """Peak bytes of ``gradient(*arguments)`` beyond those of ``forward``, and the source."""
    peaks = [_peak(fn, arguments) for fn in (forward, gradient)]
    return peaks[1] - peaks[0], "used bytes of CuPy's pool"


def _peak(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    fn(*arguments)
    gc.collect()
    with _Peak() as hook:
        result = fn(*arguments)
    del result
    return int(hook.peak - hook.before)
