"""What the demo needs of a library beyond the array API: double precision, jit, and NumPy."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np

from retrograde._base.types import Array, Function, Namespace


def functions(name: str, xp: Namespace) -> Namespace:
    """The functions that a vector field is written in.

    CuPy's own can't record a derivative. NumPy's can, and hand arrays of CuPy to CuPy.
    """
    return np if name == "cupy" else xp


def double_precision(name: str) -> contextlib.AbstractContextManager[object]:
    """A context in which the library computes with float64 (JAX does so only when asked)."""
    if name != "jax":
        return contextlib.nullcontext()
    jax: Any = importlib.import_module("jax")
    if not hasattr(jax, "enable_x64"):  # its place in jax 0.6
        jax = importlib.import_module("jax.experimental")
    return jax.enable_x64(True)  # type: ignore[no-any-return]


def compiled(name: str, fn: Function, like: Array) -> Function:
    """fn of an array like ``like``, compiled where the library compiles."""
    if name != "jax":
        return fn
    jax: Any = importlib.import_module("jax")
    return jax.jit(fn).lower(like).compile()  # type: ignore[no-any-return]


def to_numpy(x: Array) -> Array:
    """An array of any library as one of NumPy, on the host."""
    if hasattr(x, "get"):  # CuPy
        return x.get()
    if hasattr(x, "detach"):  # PyTorch
        x = x.detach().cpu()
    return np.asarray(x)
