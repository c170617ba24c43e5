"""Our methods, and what a method gives to be measured.

How each library runs a problem and which peers it has stands with the adapters
(``retrograde_backends.commands``): a subclass of :class:`Bench` each. ``ours`` makes an
:class:`Entrant` of a solve of ours, ``peers`` lists other packages' methods; both defer their work,
so that what fails fails in its own row.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ... import _adjoints
from ..._base.types import Array, Tree, VectorFieldFn
from .problem import Problem

BENCHES = {
    "numpy": "retrograde_backends.commands.peers_arrays",
    "jax": "retrograde_backends.commands.peers_jax",
    "torch": "retrograde_backends.commands.peers_torch",
    "cupy": "retrograde_backends.commands.peers_arrays",
}
"""Modules by library."""

PACKAGES = {"jax": ("diffrax", "equinox"), "torch": ("torchdiffeq", "torchode")}
"""Peers by library, named as they are installed."""

Solution = Callable[..., Array]
"""``solution(*leaves) -> y(t1)``."""


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

    forward: Solution
    gradient: Callable[..., tuple[Array, ...]]
    leaves: tuple[Array, ...]
    residual_bytes: Callable[[], int]
    wait: Callable[[Tree], Tree] = lambda x: x
    compile_seconds: float | None = None


class Peer(NamedTuple):
    """Another package's method: whose it is, its name, and how to make it."""

    package: str
    method: str
    make: Callable[[], Entrant]


class Bench:
    """A problem on a library.

    Attributes
    ----------
    problem : Problem
    f : callable
        The vector field.
    leaves : tuple of array
    device : str
    """

    def __init__(
        self, problem: Problem, f: VectorFieldFn, leaves: tuple[Array, ...], device: str
    ) -> None:
        self.problem, self.f, self.leaves, self.device = problem, f, leaves, device

    def call(self, y0: Array, *args: Array) -> tuple[Tree, ...]:
        """Arguments of ``solve``."""
        return self.f, y0, 0.0, self.problem.t1, self.problem.pack(args)

    def ours(self, keywords: dict[str, Tree]) -> Entrant:
        """Our method with these keywords of ``solve``."""
        from ..._api.solve import solve  # when needed, as each library's module is

        settings = {**self.problem.settings, **keywords}
        return self.entrant("retrograde", lambda *x: solve(*self.call(*x), **settings).ys[-1])

    def entrant(self, program: str, solution: Solution) -> Entrant:
        """A solution with its gradient; those of one program are one where no gradient is taken."""
        raise NotImplementedError

    def peers(self) -> list[Peer]:
        """Other packages' methods."""
        return []


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

    def judged(self, problem: Problem) -> float | None:
        """The error by which its gradient is called wrong."""
        return self.error if problem.steps is not None else self.true_error


def bench(library: str, problem: Problem) -> Bench:
    """How a library runs a problem; imports the library."""
    made: Bench = importlib.import_module(BENCHES[library]).Bench(problem, library)
    return made


def ours(problem: Problem) -> Iterator[tuple[str, dict[str, Tree]]]:
    """Our methods of a problem, from the most memory to the least, with keywords of ``solve``."""
    yield "auto, ample", {}
    for memory in problem.budgets:
        yield f"auto, {memory}", {"memory": memory}
    for slots in problem.slots:
        adjoint = _adjoints.RecursiveCheckpointAdjoint(slots)
        yield f"recursive, {slots} checkpoints", {"adjoint": adjoint}
    least = problem.budgets[-1]
    backsolve = _adjoints.BacksolveAdjoint
    yield "direct", {"adjoint": _adjoints.DirectAdjoint()}
    yield "backsolve", {"adjoint": backsolve()}
    yield f"backsolve, {least}", {"adjoint": backsolve(), "memory": least}
    yield "backsolve, continuous", {"adjoint": backsolve(mode="continuous")}
    yield "forward", {"adjoint": _adjoints.ForwardMode()}
