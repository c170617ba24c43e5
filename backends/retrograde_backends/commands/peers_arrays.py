"""The comparison on libraries without autodiff: our pullback, and the arrays that it keeps.

No peer is known here that differentiates a solve of NumPy or CuPy.
"""

from __future__ import annotations

import array
import importlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

import retrograde as rg
from retrograde._commands.compare.rows import Entrant, Peer
from retrograde.backend import AbstractBackend

__all__ = ["Bench", "kept_bytes"]


class Bench:
    """A problem on NumPy or CuPy.

    Parameters
    ----------
    problem : Problem
    library : str

    Attributes
    ----------
    device : str
    """

    def __init__(self, problem: Any, library: str) -> None:
        self.xp: Any = importlib.import_module(library)
        self.problem = problem
        self.leaves = tuple(self.xp.asarray(x) for x in problem.leaves)
        # NumPy's functions hand arrays of CuPy to CuPy, and record; CuPy's own can't
        self.f = problem.field(np)
        self.device = str(self.leaves[0].device)

    def call(self, y0: Any, *args: Any) -> tuple[Any, ...]:
        """Arguments of ``solve``."""
        return self.f, y0, 0.0, self.problem.t1, *args

    def forward(self, *leaves: Any) -> Any:
        """The solve alone: every adjoint's."""
        return rg.solve(*self.call(*leaves), **self.problem.settings).ys[-1]

    def ours(self, keywords: dict[str, Any]) -> Entrant:
        """Our method with these keywords of ``solve``."""
        settings = {**self.problem.settings, **keywords}

        def gradient(*leaves: Any) -> tuple[Any, ...]:
            sol, pullback = rg.solve_vjp(*self.call(*leaves), **settings)
            g = pullback(self.xp.ones_like(sol.ys))
            return (g.y0, g.args) if len(leaves) > 1 else (g.y0,)

        def residual_bytes() -> int:
            pullback = rg.solve_vjp(*self.call(*self.leaves), **settings)[1]
            return kept_bytes(pullback, self.xp.ndarray, _owner)

        return Entrant(self.forward, gradient, self.leaves, residual_bytes, self._wait)

    def peers(self) -> list[Peer]:
        """None."""
        return []

    def _wait(self, x: Any) -> Any:
        if self.xp is not np:
            self.xp.cuda.Device().synchronize()
        return x


def _owner(x: Any) -> tuple[int, int]:
    """The array that owns the data of one: its id and its bytes."""
    while isinstance(x.base, type(x)):
        x = x.base
    return id(x), x.nbytes


def kept_bytes(
    root: Any, kind: type, owner: Callable[[Any], tuple[int, int]], known: Any = ()
) -> int:
    """Bytes of the distinct arrays that an object keeps alive.

    Parameters
    ----------
    root : object
        Followed through containers, closures, and objects of retrograde; adapters are left out.
    kind : type
        Of arrays.
    owner : callable
        ``owner(array) -> (key, bytes)`` of the memory that an array lies in.
    known : iterable of keys
        Memory that is not to be counted.
    """
    sizes: dict[Any, int] = {}
    left, seen = [root], {}
    while left:
        x = left.pop()
        if id(x) in seen or isinstance(x, (AbstractBackend, type, types.ModuleType)):
            continue
        seen[id(x)] = x  # kept, so that its id stays its own
        if isinstance(x, kind):
            key, size = owner(x)
            sizes[key] = size
        elif isinstance(x, array.array):  # accepted times
            sizes[id(x)] = x.itemsize * len(x)
        else:
            left += _inside(x)
    return sum(size for key, size in sizes.items() if key not in known)


def _inside(x: Any) -> list[Any]:
    """What a container, a closure or an object of retrograde holds."""
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, (list, tuple, set, frozenset)):
        return list(x)
    if isinstance(x, types.FunctionType):
        return [cell.cell_contents for cell in x.__closure__ or () if _filled(cell)]
    if isinstance(x, types.MethodType):
        return [x.__self__, x.__func__]
    if type(x).__module__.startswith("retrograde"):
        slots = [s for c in type(x).__mro__ for s in getattr(c, "__slots__", ())]
        return [*getattr(x, "__dict__", {}).values(), *(getattr(x, s, None) for s in slots)]
    return []


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
