"""The errors that users meet. Every one says what came, what is allowed and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._integrate.solution import Solution
    from .types import Tree


class RetrogradeError(Exception):
    """The root of all errors raised by retrograde.

    Examples
    --------
    >>> import retrograde as rg
    >>> try:
    ...     rg.solve(None, [1.0], 0.0, 1.0)
    ... except rg.RetrogradeError as error:
    ...     print(type(error).__name__)
    InputError
    """


class InputError(RetrogradeError, ValueError):
    """An argument is not what the call can use; the message names it and the remedy.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver="nope")
    Traceback (most recent call last):
    ...
    retrograde...InputError: `solver` is 'nope', which is no solver; ...
    """


class UnsupportedByBackend(RetrogradeError, NotImplementedError):
    """The array library at hand can't do what was asked; the message says what can.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.solve_vjp(lambda t, y, args: -y, [1.0], 0.0, 1.0, adjoint="forward")
    Traceback (most recent call last):
    ...
    retrograde...UnsupportedByBackend: ...
    """


class PlanInfeasible(RetrogradeError, ValueError):
    """No gradient method fits into the memory budget; the message lists the bytes by item.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.plan(lambda t, y, args: -y, [1.0] * 1000, 0.0, 1.0, memory="1 KiB")
    Traceback (most recent call last):
    ...
    retrograde...PlanInfeasible: ...
    """


class SolveFailed(RetrogradeError, RuntimeError):
    """A solve ended before ``t1``.

    Attributes
    ----------
    message : str
        When and why; its text.
    solution : Solution or None
        What was computed up to the failure: times, states, statistics and status.

    Examples
    --------
    >>> import retrograde as rg
    >>> try:
    ...     rg.solve(lambda t, y, args: y**2, [1.0], 0.0, 2.0)  # it blows up at t = 1
    ... except rg.SolveFailed as error:
    ...     t = error.solution.t_final
    >>> abs(float(t) - 1.0) < 0.01
    True
    """

    def __init__(self, message: str, solution: Solution[Tree] | None = None) -> None:
        super().__init__(message)
        self.solution = solution
