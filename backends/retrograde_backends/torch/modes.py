"""PyTorch: the modes that a solve may be called in, and what of it runs in them.

Autocast, as a user sets it, is for what the user writes: f (or a loop's body) runs in it wherever
it is called from, in replays and in ``backward`` too, and its floats are cast to the state's
dtype; sums of stages, norms and cotangents run outside of it. Inference mode is for solves without
a gradient; what records (``solve_vjp``, a plan) leaves it for as long as that takes.

Casts of weights are cached by autocast only where autograd records the integration itself: one that
was made without a history would cut a later use off its weight.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from retrograde._autodiff import VectorField
from retrograde._base.types import Array, DType, Function, Tree

KINDS = tuple(k for k in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(k))
"""Kinds of devices that have an autocast each."""

CAST = (torch.bfloat16, torch.float16, torch.float32)
"""What autocast makes of floats."""


# --- autocast
class Placed:
    """A function of the user's that runs in the autocast of a solve, wherever it is called.

    Parameters
    ----------
    fn : callable
    kind : str
        Of device.
    lower : dtype
        What autocast casts to.
    dtype : dtype or None
        What floats of the result are cast to.
    """

    def __init__(self, fn: Function, kind: str, lower: DType, dtype: DType) -> None:
        self.__wrapped__ = fn
        self.kind, self.lower, self.dtype = kind, lower, dtype

    def __call__(self, *args: Array) -> Tree:
        if torch.compiler.is_compiling():
            with torch.autocast(self.kind, dtype=self.lower):
                result = self.__wrapped__(*args)
        else:
            with _autocast(self.kind, self.lower, torch.is_autocast_cache_enabled()):
                result = self.__wrapped__(*args)
        return result if self.dtype is None else _cast(result, self.dtype)


def placed(fn: Function, dtype: DType = None) -> Function:
    """fn in the autocast that is on now; fn itself where none is."""
    for kind in _enabled():
        lower = torch.get_autocast_dtype(kind)
        if isinstance(fn, VectorField):
            vjp = None if fn.vjp is None else Placed(fn.vjp, kind, lower, None)
            fn = dataclasses.replace(fn, f=Placed(fn.f, kind, lower, dtype), vjp=vjp)
        else:
            fn = Placed(fn, kind, lower, dtype)
    return fn


def unplaced(fn: Function) -> Function:
    """What the user passed."""
    while isinstance(fn, Placed):
        fn = fn.__wrapped__
    return fn


def _enabled() -> list[str]:
    return [kind for kind in KINDS if torch.is_autocast_enabled(kind)]


def _cast(x: Array, dtype: DType) -> Tree:
    """A tree with the floats that autocast made as another dtype; in Python that compiles."""
    if isinstance(x, torch.Tensor):
        return x.to(dtype) if x.dtype != dtype and x.dtype in CAST else x
    if isinstance(x, dict):
        return type(x)((key, _cast(part, dtype)) for key, part in x.items())
    if isinstance(x, (tuple, list)):
        parts = [_cast(part, dtype) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        own = {part.name: _cast(getattr(x, part.name), dtype) for part in dataclasses.fields(x)}
        return dataclasses.replace(x, **own)
    return x


@contextlib.contextmanager
def _autocast(kind: str, lower: DType, cached: bool) -> Iterator[None]:
    """Autocast of one kind, on where ``lower`` is a dtype, whatever devices there are."""
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    cached_before = torch.is_autocast_cache_enabled()
    torch.autocast_increment_nesting()
    try:
        torch.set_autocast_enabled(kind, lower is not None)
        torch.set_autocast_dtype(kind, before[1] if lower is None else lower)
        torch.set_autocast_cache_enabled(cached)
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(kind, before[0])
        torch.set_autocast_dtype(kind, before[1])
        torch.set_autocast_cache_enabled(cached_before)


def outside(
    *, recorded: bool = False, vjp: bool = False
) -> contextlib.AbstractContextManager[object]:
    """A context in which a solve's own arithmetic runs: no autocast.

    ``recorded``: autograd records the integration. ``vjp``: something of it is recorded by itself,
    which inference mode does not allow.
    """
    left = vjp and torch.is_inference_mode_enabled()
    on = _enabled()
    if not (left or on):
        return silent()
    stack = contextlib.ExitStack()
    stack.enter_context(silent())
    if left:
        stack.enter_context(torch.inference_mode(False))
    cached = recorded and torch.is_autocast_cache_enabled()
    for kind in on:
        stack.enter_context(_autocast(kind, None, cached))
    return stack


def silent() -> contextlib.AbstractContextManager[object]:
    """Where NumPy, which forms sums in the memory of small tensors, says nothing of overflow.

    A status tells of it, and PyTorch's own sums are silent, too.
    """
    return np.errstate(all="ignore")


def unrecorded() -> contextlib.AbstractContextManager[object]:
    """The same without a gradient."""
    stack = contextlib.ExitStack()
    stack.enter_context(torch.no_grad())
    stack.enter_context(outside())
    return stack


# --- inference mode
def recording() -> bool:
    """Whether autograd records what is done now."""
    return torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def normal(x: Array) -> Array:
    """x, or a copy that autograd can work with where x was made in inference mode."""
    if not isinstance(x, torch.Tensor) or not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def written(x: Array, before: Any) -> bool:
    """Whether a fresh copy of ``before`` was written into."""
    if x.is_inference():  # these count no versions
        return not torch.equal(x, before)
    return bool(x._version)


# --- torch.compile around a solve
@functools.cache
def uncompiled(fn: Function) -> Function:
    """fn as a break in the graph of ``torch.compile``."""
    found: Function = torch.compiler.disable(fn)  # type: ignore[no-untyped-call]
    return found
