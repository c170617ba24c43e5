"""The one abstract class of solvers.

A solver holds settings, never state. It makes two pass objects: a forward pass that attempts
and replays steps, and a reverse pass that pulls a cotangent back through one step by formula,
given only the vjp of f. Loops, checkpoints and controllers are none of its business.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from .._base.types import Scalar, State

__all__ = ["AbstractSolver", "AbstractStepper"]


class AbstractStepper(ABC):
    """Attempts and replays of steps: what ``AbstractSolver.stepper`` makes."""

    extra: int = 0
    """The solver's."""

    @abstractmethod
    def attempt(self, t: Scalar, h: Scalar, y: State, k0: Any) -> tuple[State, Any, Any]:
        """One step (see ``explicit_rk.Stepper``): (y1, k1, kept)."""

    @abstractmethod
    def error2(self, y1: State) -> Scalar:
        """Squared norm of the scaled error of the last attempt."""

    def extend(self, due: Any = True) -> None:
        """Evaluate what the inside of the last attempt needs beyond the step, where ``due``."""
        return

    def judged(self) -> Callable[..., tuple[State, Any, Any, Scalar]]:
        """``attempt`` and ``error2`` as one call: ``(t, h, y, k0) -> (y1, k1, kept, error2)``."""
        attempt, error2 = self.attempt, self.error2

        def both(t: Scalar, h: Scalar, y: State, k0: Any) -> tuple[State, Any, Any, Scalar]:
            y1, k1, kept = attempt(t, h, y, k0)
            return y1, k1, kept, error2(y1)

        return both


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
    stages : int
        Evaluations of f that the pull of a step linearises.
    extra : int
        Evaluations of f beyond a step's where its inside is asked for.
    copies : int
        How many states of y's layout go from step to step, y the first of them.
    reversible : bool
        Whether a forward pass's ``invert`` undoes a step up to rounding.
    implicit : bool
        Whether a step solves equations: a method for stiff problems.
    parted : bool
        Whether lines of the method use a part of f's result and drop the rest.
    compiled : bool
        Whether a step and its vjp are compiled programs: no autodiff that records an integration
        gains on them.

    Notes
    -----
    What goes from step to step is *carried*: y itself, or more (a slope, a second copy). A
    forward pass has ``start(t0, y0) -> carried``, ``state(carried) -> y``, ``advance`` and
    ``attempt`` from carried to carried, ``invert(t, h, carried after) -> carried before`` with
    the start and size of the forward step, and ``interpolate``, before which ``extend`` is called
    where ``extra`` is not 0. A reverse pass has ``pull``,
    ``embed(cotangent of y) -> of carried``, ``finish(t0, y0, cotangent of carried, acc) ->
    (cotangent of y0, of t0, acc)``, the vjp of ``start``; and, while a pull asks for outputs of
    the step, ``result`` (y at its end), ``extend``, ``interpolate``, ``slope``, ``sources``
    and ``add_source``.

    Examples
    --------
    >>> import retrograde as rg
    >>> isinstance(rg.Tsit5(), rg.AbstractSolver), rg.Tsit5().order, rg.ReversibleHeun().name
    (True, 5, 'reversible_heun')
    """

    order: ClassVar[int]
    error_order: ClassVar[int | None]
    evaluations: ClassVar[int]
    keeps_slope: ClassVar[bool]
    stages: ClassVar[int]
    extra: ClassVar[int] = 0
    copies: ClassVar[int] = 1
    reversible: ClassVar[bool] = False
    implicit: ClassVar[bool] = False
    parted: ClassVar[bool] = False
    compiled: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class' name in lower case, words joined by _, as ``solve(solver=...)`` takes it."""
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    def check(self, problem: Any) -> None:
        """Raise InputError for a y0 (a ``Problem``) that this solver can't step."""
        return

    def calls(self, steps: Any, *, full: bool, rejected: Any = 0, inside: Any = 0) -> Any:
        """Evaluations of f in so many steps.

        ``full``: steps whose error or inside is asked for, not their end alone. ``rejected`` of
        them were so before they were complete; of others the ``inside`` was asked for.
        """
        return steps * self.evaluations

    def carried(self, bk: Any, layout: Any) -> Any:
        """Layout of what goes from step to step where y has this layout."""
        return layout if self.copies == 1 else layout.repeat(self.copies)

    def state(self, layout: Any, carried: Any) -> Any:
        """y, of what goes from step to step; memory of its own where that is more than y."""
        if self.copies == 1:
            return carried
        return layout.weighted(((1.0, layout.split(carried, self.copies)[0]),))

    @abstractmethod
    def stepper(self, bk: Any, layout: Any, field: Any, scale: Any = None) -> Any:
        """The pass object for steps forward (see ``explicit_rk.Stepper``)."""

    @abstractmethod
    def step_vjp(
        self, bk: Any, layout: Any, vjp: Any, *, outputs: bool, time: bool, field: Any = None
    ) -> Any:
        """The pass object for steps in reverse (see ``explicit_rk.StepVJP``)."""
