"""The one abstract class of step-size controllers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from .._base.types import Scalar

__all__ = ["AbstractController", "Grid"]


class AbstractController(ABC):
    """Decides where steps end: on a grid known beforehand, or from error estimates.

    Attributes
    ----------
    adaptive : bool
        Whether steps can be rejected. An adaptive controller has ``init`` and ``adapt``; the
        others have ``grid``.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.PIDController().adaptive, rg.ConstantSteps(0.1).adaptive
    (True, False)
    """

    adaptive: ClassVar[bool]

    @abstractmethod
    def check(self, t0: float | None, t1: float | None) -> None:
        """Raise InputError for settings that can't work between t0 and t1 (None: unknown)."""


class Grid(ABC):
    """The times of a solve whose steps are known before it starts.

    Attributes
    ----------
    count : int or traced scalar
        Number of steps to take.
    whole : int or traced scalar
        Number of steps to t1; more than ``count`` where max_steps cuts a solve short.
    shifts : bool
        Whether inner times move with t0 (constant steps) or stand still (given times).
    """

    count: Any
    whole: Any
    shifts: bool

    @abstractmethod
    def step(self, i: Any) -> tuple[Scalar, Scalar]:
        """Start and size of step i."""

    @abstractmethod
    def end(self, i: Any) -> Scalar:
        """Where step i ends: the next one's start, or t1; start + size may round elsewhere."""
