"""JAX: compiled programs, kept so that a second eager solve does not compile again.

A program is kept by what it is made of: f by identity and by its trace (so that a change of what
f closes over is noticed), settings, structures, shapes and dtypes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["KeptPrograms"]

MOST = 128
"""Programs kept; the one not used for longest goes first."""


class KeptPrograms:
    """Jitted functions of programs, least recently used first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, program: Any, kind: Any, make: Callable[[], Any]) -> Any:
        """The jitted function of a program, kept if the program has a key."""
        key = (kind, program.key())
        try:
            found = self._kept.pop(key, None)
        except TypeError:  # something unhashable: a traced tolerance, say
            return jax.jit(make())
        if found is None:
            found = jax.jit(make())
            program.loop.problem.forget()
        self._kept[key] = found
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return found
