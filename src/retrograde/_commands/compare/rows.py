"""Our methods, and what a method gives to be measured.

A library's module (``retrograde_backends._compare_*``) has a class ``Bench(problem)``:
``ours(keywords)`` makes an :class:`Entrant` of a solve of ours, ``peers()`` lists other packages'
methods as :class:`Peer`. Both defer their work, so that what fails fails in its own row.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ... import _adjoints
from .problem import Problem

__all__ = ["BENCHES", "PACKAGES", "Entrant", "Peer", "Row", "bench", "ours"]

BENCHES = {
    "numpy": "retrograde_backends.commands.peers_arrays",
    "jax": "retrograde_backends.commands.peers_jax",
    "torch": "retrograde_backends.commands.peers_torch",
    "cupy": "retrograde_backends.commands.peers_arrays",
}
"""Modules by library."""

PACKAGES = {"jax": ("diffrax", "equinox"), "torch": ("torchdiffeq", "torchode")}
"""Peers by library, named as they are installed."""


class Entrant(NamedTuple):
    """A method ready to be measured.

    Attributes
    ----------
    forward, gradient : callable
        Of the leaves: the solve alone, and the gradient by all leaves (solve included).
    leaves : tuple of array
    residual_bytes : callable
        Bytes of the arrays that are kept from the solve to its pullback.
    wait : callable
        Returns its argument when it has been computed.
    compile_seconds : float or None
        Tracing and compiling of ``gradient``.
    """

    forward: Callable[..., Any]
    gradient: Callable[..., Any]
    leaves: tuple[Any, ...]
    residual_bytes: Callable[[], int]
    wait: Callable[[Any], Any]
    compile_seconds: float | None = None


class Peer(NamedTuple):
    """Another package's method: whose it is, its name, and how to make it."""

    package: str
    method: str
    make: Callable[[], Entrant]


class Ours(NamedTuple):
    """A method of ours: its name, and keywords of ``solve``."""

    method: str
    keywords: dict[str, Any]


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    library, package, method : str
    chosen : str or None
        What ``adjoint="auto"`` became.
    exact : bool
        A method of ours that promises the exact discrete gradient.
    residual_bytes, peak_bytes : int [bytes] or None
    forward_seconds, gradient_seconds, compile_seconds : float [s] or None
    error, true_error : float or None
        Relative, to the exact gradient of the same steps and to that of the true ODE.
    failed : str or None
        Why there are no figures.
    fault : bool
        It failed by a fault, not because it is not made for this problem or library.
    """

    library: str
    package: str
    method: str
    chosen: str | None = None
    exact: bool = False
    residual_bytes: int | None = None
    peak_bytes: int | None = None
    forward_seconds: float | None = None
    gradient_seconds: float | None = None
    compile_seconds: float | None = None
    error: float | None = None
    true_error: float | None = None
    failed: str | None = None
    fault: bool = False


def bench(library: str, problem: Problem) -> Any:
    """How a library runs a problem; imports the library."""
    return importlib.import_module(BENCHES[library]).Bench(problem, library)


NAMED: tuple[tuple[str, str, dict[str, Any], bool], ...] = (
    ("direct", "DirectAdjoint", {}, False),
    ("backsolve", "BacksolveAdjoint", {}, False),
    ("backsolve", "BacksolveAdjoint", {}, True),
    ("backsolve, continuous", "BacksolveAdjoint", {"mode": "continuous"}, False),
    ("forward", "ForwardMode", {}, False),
)
"""Methods asked for by name: label, class, its arguments, whether within the least budget.

A class that is absent has no row.
"""


def ours(problem: Problem) -> Iterator[Ours]:
    """Our methods of a problem, from the most memory to the least."""
    yield Ours("auto, ample", {})
    for memory in problem.budgets:
        yield Ours(f"auto, {memory}", {"memory": memory})
    for slots in problem.slots:
        adjoint: Any = _adjoints.RecursiveCheckpointAdjoint(slots)
        yield Ours(f"recursive, {slots} slots", {"adjoint": adjoint})
    least = problem.budgets[-1]
    for label, name, arguments, within in NAMED:
        kind = getattr(_adjoints, name, None)
        if kind is not None:
            budget = {"memory": least} if within else {}
            method = f"{label}, {least}" if within else label
            yield Ours(method, {"adjoint": kind(**arguments), **budget})
