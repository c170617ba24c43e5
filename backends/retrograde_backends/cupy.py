"""CuPy: the flat form of NumPy's adapter on a CUDA device, with one host read a step.

Steps are the same products of rows (``flat.stages``), here by cuBLAS; coefficients and times are
made on the device; the error norm of a step is the only value that comes back. Fields are
differentiated by retrograde's tape, as CuPy has no autodiff.

Work happens on CuPy's current device and stream: for arrays of another device, call ``solve``
inside ``with cupy.cuda.Device(i)``. Known limits: a step is some twenty kernel launches, so small
states are bound by launch latency; CuPy's pool rounds every array up to 512 bytes, which plans
for states smaller than that do not count. Nothing here has been timed.

Its account of memory is the used bytes of its pool, looked at after every allocation.
"""

from __future__ import annotations

import contextlib
import gc
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import array_api_compat.cupy
import cupy

from retrograde._base.types import Array, Device, DType, Function, Leaves, Scalar
from retrograde.backend import EagerBackend, MemoryInfo

from .numpy import NumpyBackend

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout


class CupyBackend(NumpyBackend):
    """The adapter of CuPy."""

    name: ClassVar[str] = "cupy"
    locks: ClassVar[bool] = False
    array_overhead: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__(array_api_compat.cupy)
        self._array = cupy.ndarray

    def nbytes(self, x: Array) -> int:
        return int(x.nbytes)

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        if self.is_array(t):
            return t.astype(layout.real_dtype, copy=False)
        # a kernel argument: cheaper than a copy from the host, and the stream need not wait
        return cupy.full((), t, dtype=layout.real_dtype)

    def on_host(self, x: Array) -> Array:
        return x.get()

    def held(self, x: Array) -> Scalar:
        return x  # nobody waits for it

    def timer(self, layout: Layout) -> Function:
        if layout.origin is not None:
            return layout.time
        return partial(cupy.full, (), dtype=layout.real_dtype)

    def quiet(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # devices raise no floating-point warnings

    # CuPy's arrays can't be made read-only: copies, as for any library
    view, lent, watch = EagerBackend.view, EagerBackend.lent, EagerBackend.watch
    guard, capture, example = EagerBackend.guard, EagerBackend.capture, EagerBackend.example

    def coefficients(self, values: Array, dtype: DType, device: Device) -> Array:
        return cupy.asarray(values, dtype=dtype)

    def synchronize(self, x: Array) -> None:
        cupy.cuda.get_current_stream().synchronize()

    def memory(self, like: Array | None = None) -> MemoryInfo:
        device = contextlib.nullcontext() if like is None else like.device
        with device:
            free, total = cupy.cuda.runtime.memGetInfo()
            pool = cupy.get_default_memory_pool()
            free += pool.free_bytes()  # taken from the driver, but not in use
            limit = pool.get_limit()
            if limit:
                free, total = min(free, limit - pool.used_bytes()), min(total, limit)
        return MemoryInfo(int(free), int(total), "CUDA and CuPy's memory pool")


backend = CupyBackend()


class _Peak(cupy.cuda.MemoryHook):  # type: ignore[misc]
    """Highest number of bytes that the default pool had given out."""

    name = "retrograde peak"

    def __init__(self) -> None:
        self.pool = cupy.get_default_memory_pool()
        self.before = self.peak = self.pool.used_bytes()

    def malloc_postprocess(self, **_: object) -> None:
        self.peak = max(self.peak, self.pool.used_bytes())


def peak_gradient_bytes(
    forward: Function, gradient: Function, *arguments: Array
) -> tuple[int, str]:
    """Peak bytes of ``gradient(*arguments)`` beyond those of ``forward``, and the source."""
    peaks = [_peak(fn, arguments) for fn in (forward, gradient)]
    return peaks[1] - peaks[0], "used bytes of CuPy's pool"


def _peak(fn: Function, arguments: Leaves) -> int:
    fn(*arguments)
    gc.collect()
    with _Peak() as hook:
        result = fn(*arguments)
    del result
    return int(hook.peak - hook.before)
