"""The plan of a gradient: what was chosen, why, and what else there was. ``rules`` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._adjoints import AbstractAdjoint, Shape
from . import report

__all__ = ["UNLIMITED", "Candidate", "Plan"]

UNLIMITED = 2**62
"""The budget where an adjoint was named and no budget given [bytes]."""


@dataclass(frozen=True)
class Candidate:
    """A row of the plan's table.

    Attributes
    ----------
    method : str
    bytes : int [bytes]
    time : float [F per accepted step]
        F is one step forward; a solve without gradient takes 1.
    accuracy : str
    verdict : str
        'chosen', 'fits', 'too large' or 'not available'.
    reason : str
        Why it was chosen, or why not.
    """

    method: str
    bytes: int
    time: float
    accuracy: str
    verdict: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """How a gradient will be computed, and why.

    Plans are equal where they are followed alike: predictions and readings of memory, which differ
    from call to call, do not count. So functions that are compiled for one are kept for the other.

    Attributes
    ----------
    adjoint : AbstractAdjoint
        What ``solve`` uses; pass the plan as ``adjoint=`` to follow it.
    memory : int [bytes]
        Predicted bytes of the gradient.
    budget : int [bytes]
        What it may take.
    source : str
        Where the budget comes from.
    steps : int
        Accepted steps, exact or predicted.
    known : bool
        Whether ``steps`` is exact.
    items : dict of str to int [bytes]
        What every method needs.
    candidates : tuple of Candidate
        The rows of its table.
    reason : str
        Why the adjoint was chosen.
    fallback : AbstractAdjoint or None
        What takes over where recorded steps turn out to be more than there is room for.
    limit : int or None
        Steps whose states and times fit; a solve that takes more is begun again by a new plan,
        so that a wrong prediction costs time and never bytes. None: as many as may come.
    shape : Shape
        What the costs were computed from.
    named : AbstractAdjoint or None
        The adjoint that the user named.

    Examples
    --------
    >>> import retrograde as rg
    >>> f = lambda t, y, k: -k * y
    >>> plan = rg.plan(f, [1.0] * 100, 0.0, 1.0, 0.5, dt=0.01, memory="32 KiB")
    >>> plan.memory <= plan.budget == 32768, plan.steps, plan.known
    (True, 100, True)
    >>> sol, pullback = rg.solve_vjp(f, [1.0] * 100, 0.0, 1.0, 0.5, dt=0.01, adjoint=plan)
    >>> sol.plan is plan
    True
    """

    adjoint: AbstractAdjoint
    memory: int
    budget: int
    source: str
    steps: int
    known: bool
    items: dict[str, int] = field(repr=False)
    candidates: tuple[Candidate, ...] = field(repr=False)
    reason: str
    fallback: AbstractAdjoint | None = field(repr=False)
    limit: int | None = field(repr=False)
    shape: Shape = field(repr=False)
    named: AbstractAdjoint | None = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return self._followed == other._followed if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._followed)

    @property
    def _followed(self) -> tuple[Any, ...]:
        return self.adjoint, self.fallback, self.limit

    @property
    def unlimited(self) -> bool:
        """Whether no budget was given."""
        return self.budget >= UNLIMITED

    @property
    def steps_source(self) -> str:
        """Where the number of steps comes from."""
        return self.shape.source

    @property
    def vjp(self) -> float:
        """Cost of the vjp of a step, in units of one step forward [F]."""
        return self.shape.vjp

    @property
    def calibrated(self) -> bool:
        """Whether ``vjp`` was measured (``rg.plan(..., calibrate=True)``) or is assumed."""
        return self.shape.calibrated

    @property
    def outputs(self) -> dict[str, int]:
        """Bytes of what the user asked for, which do not count against the budget, by item."""
        return self.shape.outputs

    def __str__(self) -> str:
        return report.as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for ``json.dumps`` and tables.

        Returns
        -------
        dict
            Of str, int, float, bool, None, lists and dicts. An absent budget is None.

        Examples
        --------
        >>> import json
        >>> import numpy as np
        >>> import retrograde as rg
        >>> plan = rg.plan(lambda t, y, args: -y, np.ones(4), 0.0, 1.0, dt=0.01, memory="2 KiB")
        >>> data = json.loads(json.dumps(plan.to_dict()))
        >>> data["adjoint"]["name"], data["budget"], data["steps"]
        ('BacksolveAdjoint', 2048, 100)
        """
        return report.as_data(self)

    def plot(self, path: Any = None, ax: Any = None) -> Any:
        """Draw bytes against time of all candidates, the budget and the choice.

        Parameters
        ----------
        path : str, path or None
            Where to write the picture; the ending names the format.
        ax : matplotlib.axes.Axes or None
            Where to draw; None makes a figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        RetrogradeError
            Without matplotlib (``pip install "retrograde[plot]"``).
        """
        return report.draw(self, path, ax)
