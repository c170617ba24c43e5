"""The one abstract class of gradient methods.

An adjoint receives the forward loop; it never imports it. ``forward`` runs the loop and keeps
what ``reverse`` will need; ``cost`` tells the planner what that takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from .._types import Inputs, Wanted

__all__ = ["AbstractAdjoint", "Shape"]


class Shape(NamedTuple):
    """What the cost of a gradient depends on.

    Attributes
    ----------
    state : int [bytes]
        One state, as it lies in a slot.
    steps : int
        Accepted steps: exact on a grid, else a prediction.
    known : bool
        Whether ``steps`` is exact.
    bound : int or None
        Tries allowed.
    tape : int [bytes]
        Tape of one evaluation of f.
    stages : int
        Stages of one step.
    fixed : dict of str to int [bytes]
        What every gradient needs, by item.
    free_slot : bool
        Whether y0's slot costs nothing.
    recorded : int [bytes]
        One step recorded by the library's autodiff; 0 where that is not to be had.
    windows : bool
        Whether a window of states saves time (traced loops of cheap steps).
    passing : dict of str to int [bytes]
        What comes and goes, and Python objects where the library's account of memory sees them:
        counted in budgets of more than 64 KiB.
    """

    state: int
    steps: int
    known: bool
    bound: int | None
    tape: int
    stages: int
    fixed: dict[str, int]
    free_slot: bool
    windows: bool
    passing: dict[str, int] = {}  # noqa: RUF012
    recorded: int = 0


class AbstractAdjoint(ABC):
    """A way to the gradient of a solve.

    Attributes
    ----------
    accuracy : str
        'exact' (gradient of the discrete solve to round-off), or what it is instead.
    differentiable : bool
        Whether its result can be differentiated again.
    """

    accuracy: ClassVar[str]
    differentiable: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class' name."""
        return type(self).__name__

    @abstractmethod
    def forward(self, loop: Any, inputs: Inputs) -> tuple[Any, Any]:
        """Solve; returns (where the loop ended, what reverse needs)."""

    @abstractmethod
    def reverse(
        self, loop: Any, inputs: Inputs, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Inputs:
        """Cotangents of the inputs from those of the output rows, shape (k, *shape) each."""
