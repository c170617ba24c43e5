"""Peak bytes of a gradient, measured by each library's own accounting.

What is measured is peak(gradient) - peak(forward alone): what is alive because a gradient is
wanted, beyond inputs, outputs and the working set of the solve itself. NumPy: ``tracemalloc``,
which follows the data of its arrays and every Python object beside them. The other libraries'
accounts stand beside their adapters (``retrograde_backends._torch_measure`` and so on).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ._errors import UnsupportedByBackend

__all__ = ["Measured", "live_bytes", "peak_gradient_bytes", "traced_peak"]

ACCOUNTS = {
    "cupy": "retrograde_backends._cupy_measure",
    "jax": "retrograde_backends._jax_measure",
    "torch": "retrograde_backends._torch_measure",
}


class Measured(NamedTuple):
    """A measured size, and whose account it is.

    Attributes
    ----------
    bytes : int [bytes]
    source : str
    """

    bytes: int
    source: str


def peak_gradient_bytes(
    bk: Any, forward: Callable[..., Any], gradient: Callable[..., Any], *arguments: Any
) -> Measured:
    """Bytes that a gradient takes at its peak beyond those of the forward solve alone.

    Parameters
    ----------
    bk : AbstractBackend
    forward, gradient : callable
        Take ``arguments``. NumPy runs each twice, JAX compiles and does not run it.
    *arguments : array

    Raises
    ------
    UnsupportedByBackend
        For a library without such an account.

    Examples
    --------
    >>> from retrograde._registry import adapter
    >>> numpy = adapter("numpy")
    >>> zeros = numpy.xp.zeros
    >>> size, _ = peak_gradient_bytes(numpy, lambda: zeros(1000), lambda: zeros(3000))
    >>> 16000 <= size < 17000
    True
    """
    if bk.name in ACCOUNTS:
        account = importlib.import_module(ACCOUNTS[bk.name])
        return Measured(*account.peak_gradient_bytes(forward, gradient, *arguments))
    if bk.name != "numpy":
        raise UnsupportedByBackend(
            f"the backend {bk.name!r} keeps no account of its memory that retrograde can read; "
            f"measured are numpy, {', '.join(sorted(ACCOUNTS))}."
        )
    peaks = [traced_peak(fn, *arguments) for fn in (forward, gradient)]
    return Measured(peaks[1] - peaks[0], "tracemalloc, arrays and Python objects")


def traced_peak(fn: Callable[..., Any], *arguments: Any) -> int:
    """Peak bytes of Python's allocations during a call, beyond those before it.

    The least of some calls: the first ones fill caches and the interpreter's lists of free
    objects, which are not alive. All are traced: what a call takes from lists that were filled
    untraced would not be seen.
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


def live_bytes(fn: Callable[[Callable[[], None]], Any]) -> list[int]:
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
