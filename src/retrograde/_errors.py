"""The errors that users meet. Every one says what came, what is allowed and what to do next."""

from __future__ import annotations

from typing import Any

__all__ = [
    "InputError",
    "PlanInfeasible",
    "RetrogradeError",
    "SolveFailed",
    "UnsupportedByBackend",
]


class RetrogradeError(Exception):
    """The root of all errors raised by retrograde."""


class InputError(RetrogradeError, ValueError):
    """An argument is not what the call can use; the message names it and the remedy."""


class UnsupportedByBackend(RetrogradeError, NotImplementedError):
    """The array library at hand can't do what was asked; the message says what can."""


class PlanInfeasible(RetrogradeError, ValueError):
    """No gradient method fits into the memory budget; the message lists the bytes by item."""


class SolveFailed(RetrogradeError, RuntimeError):
    """A solve ended before ``t1``.

    Attributes
    ----------
    solution : Solution or None
        What was computed up to the failure: times, states, statistics and status.
    """

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution
