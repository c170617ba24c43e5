"""The one abstract class of solvers.

A solver holds settings, never state. It makes two objects: a stepper takes steps forward, and hands
a state of the solver's own from one to the next; a step vjp pulls a cotangent back through one step
by formula, given only the vjp of f. Loops, checkpoints and controllers are none of its business.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, TypeGuard

from .._base.types import Bool, Field, Index, Leaves, ParamSums, Scalar, Scale, State

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import AbstractStepVJP, FieldVJP, Layout
    from .._integrate.problem import Problem

SolverState: TypeAlias = Any
"""What a solver hands from step to step beside what is carried; its own affair."""


class Calls(NamedTuple):
    """What steps that solve equations took; sums by ``+``, of a number as evaluations of f.

    Attributes
    ----------
    f : int or traced
        Evaluations of f, without those of Jacobians.
    jacobians, factorizations : int or traced
    """

    f: Index
    jacobians: Index
    factorizations: Index

    def __add__(self, other: Calls | Index) -> Calls:
        f, jacobians, factorizations = self
        if not isinstance(other, Calls):
            return Calls(f + other, jacobians, factorizations)
        return Calls(
            f + other.f, jacobians + other.jacobians, factorizations + other.factorizations
        )

    def __radd__(self, other: Index) -> Calls:
        return self.__add__(other)


def reports_calls(calls: Index | Calls | tuple[()]) -> TypeGuard[Index | Calls]:
    """Whether steps told their calls: ``()`` stands for those that did not."""
    return not isinstance(calls, tuple) or len(calls) > 0


class Step(NamedTuple):
    """One step, and how the next one begins.

    Attributes
    ----------
    y1 : state
        What is carried from its end.
    error2 : scalar or None
        Squared norm of the scaled error; None where it is not asked for.
    state, rejected : SolverState
        The solver's own state for the next step from there; and from where this one began, if it is
        rejected.
    failed : bool or traced
        Whether no y1 was found where f is finite (a method that solves equations). Such a step is
        rejected.
    calls : int, Calls or None
        Evaluations of f, of a stepper that ``tells_calls``; a ``Calls`` where it ``tells_algebra``;
        else None.

    Notes
    -----
    Loops unpack what a step with its error gives: a plain tuple of the six will do there.
    """

    y1: State
    error2: Scalar | None
    state: SolverState
    rejected: SolverState
    failed: Bool = False
    calls: Index | Calls | None = None


made: Callable[[tuple[object, ...]], Step] = partial(tuple.__new__, Step)
"""A :class:`Step` of its six fields, in half the time that its class takes."""


class AbstractStepper(ABC):
    """Steps forward: what ``AbstractSolver.stepper`` makes.

    Two things go from step to step. What is *carried* is y, or y and more, all of it part of the
    solution: it is stored in checkpoints and differentiated. The *state* of the solver, beside it,
    saves work (the slope at the end of the last step): ``init`` makes it anew wherever a replay
    begins, and no y1 depends on which of the two it was but by rounding.
    """

    extra: int = 0
    """The solver's."""
    tells_calls: bool = False
    """Whether steps whose error is asked for tell their evaluations of f, which are no constant of
    the method (``AbstractSolver.calls``)."""
    tells_algebra: bool = False
    """Whether all steps tell them, and their Jacobians and factorisations (``Calls``)."""
    untold: int = 0
    """Evaluations of f that such steps did not tell: the inside of a step may need a stage that the
    step left out."""

    def none(self, zero: Index) -> Index | Calls | tuple[()]:
        """What no steps tell, of a counter's 0; () where steps tell nothing."""
        if self.tells_algebra:
            return Calls(zero, zero, zero)
        return zero if self.tells_calls else ()

    def start(self, t0: Scalar, y0: State) -> State:
        """What is carried at t0."""
        return y0

    def state(self, carried: State) -> State:
        """y, of what is carried."""
        return carried

    def init(self, t: Scalar, carried: State, slope: Leaves | None = None) -> SolverState:
        """The solver's own state where a step begins; ``slope`` is f(t, y), where it is known.

        None for a solver that has none.
        """
        return None

    @abstractmethod
    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        """One step of size h.

        ``error``: its error is asked for (where the stepper was made with tolerances), or its
        inside. Else y1 is all, the same to the last bit, by as few evaluations as it takes, and the
        state may be None.
        """

    def extra_stages(self, due: Bool = True) -> None:
        """Evaluate what the inside of the last step needs beyond it, where ``due``."""
        return

    def invert(self, t: Scalar, h: Scalar, carried: State) -> State:
        """What is carried before the step (t, h), from what is after it."""
        raise NotImplementedError

    @abstractmethod
    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h) of the last step."""

    def release(self) -> None:
        """Let go of the matrices of the last step, which nothing asks any more."""
        return


class YCarried:
    """Of the vjps of steps that carry y alone: those of a stepper's ``start``."""

    def embed(self, ct: State) -> State:
        """A cotangent of y as one of what is carried."""
        return ct

    def finish(
        self, t0: Scalar, y0: State, ct: State, acc: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """The vjp of ``start``: cotangents of y0 and t0, and the accumulator."""
        return ct, 0.0, acc


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
    init_evaluations : int
        Evaluations of f by a stepper's ``init`` that is given no slope.
    stages : int
        Evaluations of f that the pull of a step linearises.
    extra : int
        Evaluations of f beyond a step's where its inside is asked for.
    degree : int
        Of the interpolant inside of a step, a polynomial in theta; 0 for a solver that does not
        tell it, which has no dense output.
    copies : int
        How many states of y's layout go from step to step, y the first of them.
    reversible : bool
        Whether a stepper's ``invert`` undoes a step up to rounding.
    implicit : bool
        Whether a step solves equations: a method for stiff problems. Its stepper finds what is
        known of them in ``field.equations`` (``Equations``); its ``step_vjp`` is given the field
        always, and ``one_tape`` by its name.
    time_derivative : bool
        Of an implicit method: whether it needs df/dt.
    second_derivatives : bool
        Whether its vjp takes a product with second derivatives (``FieldVJP.second``).
    additive : bool
        Whether it takes the parts of a split field apart (``field.equations.parts``).
    parted : bool
        Whether lines of the method use a part of f's result and drop the rest.
    takes_mass : bool
        Whether ``M y' = f`` is solved too.
    switches : bool
        Whether steps are of one of two methods, which is recorded (``switching``).
    reach : float
        Of a solver that switches: how far h lambda of its explicit method may go along the
        negative real axis.

    Notes
    -----
    A stepper is an ``AbstractStepper``, with ``invert(t, h, carried after) -> carried before``
    beside its methods, where t and h are those of the step forward; ``extra_stages`` is called
    before ``interpolate`` where ``extra`` is not 0. A step vjp has ``pull``,
    ``embed(cotangent of y) -> of carried``, ``finish(t0, y0, cotangent of carried, acc) ->
    (cotangent of y0, of t0, acc)``, the vjp of ``start``; and, while a pull asks for outputs of
    the step, ``result`` (y at its end), ``extra_stages``, ``interpolate``, ``slope``, ``sources``
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
    stages: ClassVar[int]
    init_evaluations: ClassVar[int] = 0
    extra: ClassVar[int] = 0
    degree: int = 0
    copies: ClassVar[int] = 1
    reversible: ClassVar[bool] = False
    implicit: ClassVar[bool] = False
    time_derivative: ClassVar[bool] = True
    second_derivatives: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    parted: ClassVar[bool] = False
    switches: ClassVar[bool] = False
    takes_mass: ClassVar[bool] = False
    reach: float = 0.0

    @property
    def name(self) -> str:
        """The class' name in lower case, words joined by _, as ``solve(solver=...)`` takes it."""
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    def check(self, problem: Problem) -> None:
        """Raise InputError for a y0 (a ``Problem``) that this solver can't step."""
        return

    def calls(self, steps: Index, *, full: bool) -> Index:
        """Evaluations of f in so many steps.

        ``full``: steps whose error or inside is asked for, not their end alone.
        """
        return steps * self.evaluations

    @property
    def linearised(self) -> int:
        """Linearisations of f that the pull of a step holds at once."""
        return self.stages

    def pull_cost(self, products: int, terms: int) -> tuple[float, float]:
        """(The vjp of a step, given its tapes; taking them one at a time) over a step forward [F].

        By calls of f, where a vjp takes two and a product with a second derivative three.

        Parameters
        ----------
        products : int
            Products that give a Jacobian, of one call each.
        terms : int
            Products with second derivatives.
        """
        return 2.0, 1.0

    def linear_algebra(self, tries: Index, steps: Index, *, traced: bool) -> dict[str, Index]:
        """Statistics of the equations solved in so many tries, ``steps`` of them accepted."""
        return {}

    def carried(self, bk: AbstractBackend, layout: Layout) -> Layout:
        """Layout of what goes from step to step where y has this layout."""
        return layout if self.copies == 1 else layout.repeat(self.copies)

    def state(self, layout: Layout, carried: State) -> State:
        """y, of what goes from step to step; memory of its own where that is more than y."""
        if self.copies == 1:
            return carried
        return layout.weighted(((1.0, layout.split(carried, self.copies)[0]),))

    @abstractmethod
    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> AbstractStepper:
        """Steps forward, an ``AbstractStepper``; ``scale`` are tolerances of errors."""

    @abstractmethod
    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
    ) -> AbstractStepVJP:
        """Vjps of steps (see ``runge_kutta.step_vjp.StepVJP``)."""
