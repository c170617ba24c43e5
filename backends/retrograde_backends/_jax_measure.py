"""JAX's account of memory: what the compiler reserves for a program's temporaries.

XLA plans all buffers of a compiled program beforehand; arguments and results are counted apart
from temporaries, which are what a gradient adds to the solve. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["peak_gradient_bytes", "temporary_bytes"]


def peak_gradient_bytes(
    forward: Callable[..., Any], gradient: Callable[..., Any], *arguments: Any
) -> tuple[int, str]:
    """Temporary bytes of ``gradient(*arguments)`` beyond those of ``forward``, and the source."""
    sizes = [temporary_bytes(fn, *arguments) for fn in (forward, gradient)]
    return sizes[1] - sizes[0], "XLA's plan of temporaries"


def temporary_bytes(fn: Callable[..., Any], *arguments: Any) -> int:
    """Bytes of the temporaries of a function's compiled form (compiled here if need be)."""
    compiled: Any = fn
    if not hasattr(compiled, "memory_analysis"):
        if not hasattr(compiled, "lower"):
            compiled = jax.jit(compiled)
        compiled = compiled.lower(*arguments).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)
