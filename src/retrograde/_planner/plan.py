"""The plan of a gradient: what was chosen, why, and what else there was. ``rules`` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .._adjoints.base import AbstractAdjoint
from .._base.errors import InputError
from .._base.types import DType, Inputs, Tree
from .shape import UNLIMITED, Shape

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator


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
        'chosen', 'fits', 'too large' or 'by name only'.
    reason : str
        Why it was chosen, or why not.
    """

    method: str
    bytes: int
    time: float
    accuracy: str
    verdict: str
    reason: str


class MadeFor(NamedTuple):
    """What the bytes of a gradient depend on, in words.

    Attributes
    ----------
    library : str
        Its name.
    y0, args : str
        Shapes and dtypes of the arrays.
    solver : str
        With its settings.
    steps : str
        'constant', 'adaptive' or 'given'.
    saveat : str
        Where rows are saved inside the solve.
    """

    library: str
    y0: str
    args: str
    solver: str
    steps: str
    saveat: str

    @classmethod
    def of(cls, loop: Integrator, inputs: Inputs) -> MadeFor:
        """That of a loop."""
        problem, layout = loop.problem, loop.layout
        known = "given" if loop.count is None else "constant"
        return cls(
            loop.bk.name,
            _described([(shape, layout.dtype) for shape in layout.shapes]),
            _described([(x.shape, x.dtype) for x in inputs.params[: len(problem.where)]]),
            f"{loop.solver!r}{', compiled' * bool(loop.compiled)}",
            ("adaptive" if loop.adaptive else known) + ", with events" * (loop.events is not None),
            _rows([part.inside for part in loop.outputs.parts if part.inside]),
        )


def _rows(kinds: list[str]) -> str:
    return f"rows at {', '.join(kinds)}" if kinds else "no rows inside"


def _described(arrays: list[tuple[tuple[int, ...], DType]]) -> str:
    names = [f"{tuple(int(n) for n in shape)} {dtype}" for shape, dtype in arrays]
    return ", ".join(names) or "none"


@dataclass(frozen=True, eq=False)
class Plan:
    """How a gradient will be computed, and why.

    A solve may follow it (``adjoint=plan``) whose bytes are those it was made for: values, t0 and
    t1, tolerances and the number of saved rows may differ, and so may the steps as long as they
    are no more than ``steps`` where that is exact; for adaptive steps that outgrow ``limit`` it is
    made anew. The library, shapes and dtypes of ``y0`` and ``args``, the solver and whether its
    steps are adaptive have to be the same.

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
    made_for : MadeFor or None
        What a solve that follows it must be like; None where no size can be seen.

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
    made_for: MadeFor | None = field(default=None, repr=False)

    def check(self, loop: Integrator, inputs: Inputs) -> None:
        """Raise InputError where a loop is not what this plan was made for."""
        if self.made_for is None:
            return
        pairs = zip(MadeFor._fields, self.made_for, MadeFor.of(loop, inputs), strict=True)
        # a number of steps that is not known here, of a traced t1, is told by no plan
        differing = [f"{name}: {a}, not {b}" for name, a, b in pairs if a != b and b != "given"]
        if self.known and loop.count is not None and loop.count > self.steps:
            differing.append(f"number of steps: {self.steps}, not {loop.count}")
        if differing:
            raise InputError(
                f"`adjoint` is a plan made for another problem ({'; '.join(differing)}), whose "
                "bytes and checkpoints are not those of this one; make a plan with rg.plan and the "
                "arguments of this solve, or pass `memory`."
            )

    def __eq__(self, other: object) -> bool:
        return self._followed == other._followed if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._followed)

    @property
    def _followed(self) -> tuple[object, ...]:
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

    @property
    def beside(self) -> dict[str, int]:
        """About what the solve itself and the cotangents of its rows take, by item [bytes].

        They do not count against the budget either. A process takes ``memory``, ``outputs``,
        these, what you hold yourself, and what the library's allocator keeps.
        """
        return self.shape.beside

    @property
    def summary(self) -> str:
        """The choice, and its bytes of the budget, in one line."""
        from . import report  # what is never shown needs no words

        return report.summary(self)

    def __str__(self) -> str:
        from . import report

        return report.as_text(self)

    def _repr_html_(self) -> str:
        from . import report

        return report.as_html(self)

    def to_dict(self) -> dict[str, Tree]:
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
        from . import report  # what is never shown needs no words

        return report.as_data(self)

    def plot(self, path: str | None = None, ax: Any = None) -> Any:
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
        from . import report  # what is never shown needs no words

        return report.draw(self, path, ax)
