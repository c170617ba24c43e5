"""Bytes that a gradient takes, measured by each library's own account of its memory.

    >>> import numpy as np
    >>> import retrograde as rg
    >>> from retrograde import measure
    >>> def f(t, y, rate):
    ...     return -rate * y
    >>> y0, rate = np.linspace(0.0, 1.0, 2000), np.asarray(0.5)
    >>> keywords = {"solver": "euler", "dt": 0.02, "memory": "384 KiB"}
    >>> def solve(y0, rate):
    ...     return rg.solve(f, y0, 0.0, 1.0, rate, **keywords).ys
    >>> def gradient(y0, rate):
    ...     sol, pullback = rg.solve_vjp(f, y0, 0.0, 1.0, rate, **keywords)
    ...     return pullback(np.ones_like(sol.ys))
    >>> size, source = measure.peak_gradient_bytes(solve, gradient, y0, rate)
    >>> 0.7 * 384 * 1024 < size <= 384 * 1024
    True

**What is counted** is peak(gradient) - peak(forward alone): what is alive because a gradient is
wanted (stored states, tapes, replay buffers, records of times, cotangents), beyond the inputs,
the outputs and the working set of the solve itself. It is what ``memory=`` is a budget of. Who
counts:

========== ====================================================================================
NumPy      ``tracemalloc``: the data of arrays and every Python object beside them
JAX        the compiler's plan of temporaries (``memory_analysis``); nothing is run
PyTorch    storages alive, C++ autograd's included, on the CPU; the allocator's peak on CUDA
CuPy       used bytes of its memory pool
========== ====================================================================================

Limits: below 64 KiB compilers pad and interpreters keep small objects for later, so that budgets up
to there count the bytes of arrays alone, and these measures read too high. Memory that one
operation of PyTorch takes and returns inside itself is not seen on the CPU. Other libraries keep
no account that can be read.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ._backend.interface import AbstractBackend
from ._backend.registry import adapter, backend_of
from ._base.errors import InputError, UnsupportedByBackend
from ._base.types import Function, Tree

__all__ = ["Measured", "live_bytes", "peak_gradient_bytes", "traced_peak"]

ACCOUNTS = {
    "cupy": "retrograde_backends.cupy",
    "jax": "retrograde_backends.jax.cache",
    "torch": "retrograde_backends.torch.memory",
}


class Measured(NamedTuple):
    """A measured size, and whose account it is.

    Attributes
    ----------
    bytes : int [bytes]
        The size.
    source : str
        Who counted.

    Examples
    --------
    >>> from retrograde.measure import Measured
    >>> size, source = Measured(1024, "tracemalloc")
    >>> size
    1024
    """

    bytes: int
    source: str


def peak_gradient_bytes(
    forward: Function,
    gradient: Function,
    *arguments: Tree,
    backend: str | AbstractBackend | None = None,
) -> Measured:
    """Bytes that a gradient takes at its peak beyond those of the forward solve alone.

    Parameters
    ----------
    forward, gradient : callable
        Take ``arguments``; the one solves, the other solves and differentiates. JAX compiles
        them and runs nothing; the others are run a few times.
    *arguments : tree of arrays
    backend : str or AbstractBackend or None
        The library whose account is read; None finds it from the arrays among the arguments.

    Returns
    -------
    Measured
        ``(bytes, source)``.

    Raises
    ------
    InputError
        If there is no array among the arguments and no backend is named.
    UnsupportedByBackend
        For a library without such an account.

    Examples
    --------
    >>> import numpy as np
    >>> size, source = peak_gradient_bytes(np.copy, lambda x: [x + 1, x + 2, x + 3], np.ones(1000))
    >>> 16_000 <= size < 17_000, source
    (True, 'tracemalloc, arrays and Python objects')
    """
    name = _name(arguments, backend)
    if name in ACCOUNTS:
        account = importlib.import_module(ACCOUNTS[name])
        return Measured(*account.peak_gradient_bytes(forward, gradient, *arguments))
    if name != "numpy":
        raise UnsupportedByBackend(
            f"the backend {name!r} keeps no account of its memory that retrograde can read; "
            f"measured are numpy, {', '.join(sorted(ACCOUNTS))}."
        )
    peaks = [traced_peak(fn, *arguments) for fn in (forward, gradient)]
    return Measured(peaks[1] - peaks[0], "tracemalloc, arrays and Python objects")


def _name(arguments: tuple[Tree, ...], backend: str | AbstractBackend | None) -> str:
    if backend is None:
        try:
            return backend_of(arguments).name
        except InputError:
            raise InputError(
                "`arguments` must hold arrays of one library, whose account is read; or pass "
                "`backend`, for example 'numpy'."
            ) from None
    return adapter(backend).name if isinstance(backend, str) else backend.name


def traced_peak(fn: Function, *arguments: Tree) -> int:
    """Peak bytes of Python's allocations during a call, beyond those before it.

    The least of some calls: the first ones fill caches and the interpreter's lists of free
    objects, which are not alive. All are traced: what a call takes from lists that were filled
    untraced would not be seen.

    Parameters
    ----------
    fn : callable
        What is called.
    *arguments
        What it is called with.

    Returns
    -------
    int [bytes]

    Examples
    --------
    >>> 100_000 <= traced_peak(bytes, 100_000) < 101_000
    True
    """
    gc.collect()
    peaks = []
    with _tracing():
        for _ in range(_CALLS):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = fn(*arguments)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            del result
    return int(min(peaks))


_CALLS = 4


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """tracemalloc running."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        yield
    finally:
        if started:
            tracemalloc.stop()


def live_bytes(fn: Callable[[Callable[[], None]], object]) -> list[int]:
    """Peaks of Python's allocations between the marks that a function sets.

    Parameters
    ----------
    fn : callable
        ``fn(mark)`` calls ``mark()`` as often as it likes (counted are the first 65,536). It
        is run twice.

    Returns
    -------
    list of int [bytes]
        For every mark the highest sum since the one before it, beyond that at the start.

    Examples
    --------
    >>> def fn(mark):
    ...     mark()
    ...     block = bytes(100_000)
    ...     mark()
    ...     del block
    >>> [size // 100_000 for size in live_bytes(fn)][:2]
    [0, 1]
    """
    peaks, count = array("q", bytes(8 * _MARKS)), 0  # its room is taken before the start

    def mark() -> None:
        nonlocal count
        if count < _MARKS:
            peaks[count] = tracemalloc.get_traced_memory()[1] - before
            count += 1
        tracemalloc.reset_peak()

    gc.collect()
    with _tracing():
        for _ in range(_CALLS - 1):  # as in traced_peak
            fn(lambda: None)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        fn(mark)
        mark()
    return list(peaks[:count])


_MARKS = 2**16
