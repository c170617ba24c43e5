"""The comparison on libraries without autodiff: our pullback, and the arrays that it keeps.

No peer is known here that differentiates a solve of NumPy or CuPy.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import types
from collections.abc import Callable, Container

import numpy as np

import retrograde as rg
from retrograde._base.types import Array, Tree
from retrograde._commands.compare import rows
from retrograde._commands.compare.problem import Problem
from retrograde._commands.compare.rows import Entrant
from retrograde.backend import AbstractBackend


class Bench(rows.Bench):
    """A problem on NumPy or CuPy."""

    def __init__(self, problem: Problem, library: str) -> None:
        self.xp = importlib.import_module(library)
        leaves = tuple(self.xp.asarray(x) for x in problem.leaves)
        # NumPy's functions hand arrays of CuPy to CuPy, and record; CuPy's own can't
        super().__init__(problem, problem.field(np), leaves, str(leaves[0].device))

    def forward(self, *leaves: Array) -> Array:
        """The solve alone: every adjoint's."""
        return rg.solve(*self.call(*leaves), **self.problem.settings).ys[-1]

    def ours(self, keywords: dict[str, Tree]) -> Entrant:
        settings = {**self.problem.settings, **keywords}

        def gradient(*leaves: Array) -> tuple[Array, ...]:
            sol, pullback = rg.solve_vjp(*self.call(*leaves), **settings)
            g = pullback(self.xp.ones_like(sol.ys))
            return (g.y0, g.args) if len(leaves) > 1 else (g.y0,)

        def residual_bytes() -> int:
            pullback = rg.solve_vjp(*self.call(*self.leaves), **settings)[1]
            return kept_bytes(pullback, self.xp.ndarray, _owner)

        return Entrant(self.forward, gradient, self.leaves, residual_bytes, self._wait)

    def _wait(self, x: Tree) -> Tree:
        if self.xp is not np:
            self.xp.cuda.Device().synchronize()
        return x


def _owner(x: Array) -> tuple[int, int]:
    """The array that owns the data of one: its id and its bytes."""
    while isinstance(x.base, type(x)):
        x = x.base
    return id(x), x.nbytes


def kept_bytes(
    root: object,
    kind: type,
    owner: Callable[[Array], tuple[int, int]],
    known: Container[object] = (),
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
    known : container of keys
        Memory that is not to be counted.
    """
    sizes: dict[object, int] = {}
    left: list[object] = [root]
    seen: dict[int, object] = {}
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


def _inside(x: object) -> list[object]:
    """What a container, a closure or an object of retrograde holds."""
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, (list, tuple, set, frozenset)):
        return list(x)
    if isinstance(x, types.FunctionType):
        found: list[object] = []
        for cell in x.__closure__ or ():
            with contextlib.suppress(ValueError):  # it is not filled yet
                found.append(cell.cell_contents)
        return found
    if isinstance(x, types.MethodType):
        return [x.__self__, x.__func__]
    if type(x).__module__.startswith("retrograde"):
        slots = [s for c in type(x).__mro__ for s in getattr(c, "__slots__", ())]
        return [*getattr(x, "__dict__", {}).values(), *(getattr(x, s, None) for s in slots)]
    return []
