"""The one abstract class of solvers.

A solver holds settings, never state. It makes two sweep objects: a forward sweep that attempts
and replays steps, and a reverse sweep that pulls a cotangent back through one step by formula,
given only the vjp of f. Loops, checkpoints and controllers are none of its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

__all__ = ["AbstractSolver"]


class AbstractSolver(ABC):
    """A one-step method.

    Attributes
    ----------
    order : int
        Global order of convergence.
    error_order : int or None
        The local error estimate behaves like h**error_order; None where there is no estimate
        (then only constant steps are possible).
    evaluations : int
        Evaluations of f in one accepted step after the first.
    keeps_slope : bool
        Whether the last stage is the next step's first (FSAL).
    implicit : bool
        Whether a step solves equations: a method for stiff problems.
    """

    order: ClassVar[int]
    error_order: ClassVar[int | None]
    evaluations: ClassVar[int]
    keeps_slope: ClassVar[bool]
    stages: ClassVar[int]
    implicit: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class' name in lower case, as ``solve(solver=...)`` takes it."""
        return type(self).__name__.lower()

    @abstractmethod
    def forward_sweep(self, bk: Any, layout: Any, field: Any, scale: Any = None) -> Any:
        """The sweep object for steps forward (see ``explicit_rk.ForwardSweep``)."""

    @abstractmethod
    def reverse_sweep(
        self, bk: Any, layout: Any, vjp: Any, *, outputs: bool, time: bool, field: Any = None
    ) -> Any:
        """The sweep object for steps in reverse (see ``explicit_rk.ReverseSweep``)."""
