"""The one abstract class of step-size controllers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from .._base.types import Array, Bool, Field, Index, Scalar, Scale, State, Tree

if TYPE_CHECKING:
    from .._backend.protocols import Clock, Layout


class AbstractController(ABC):
    """Decides where steps end: on a grid known beforehand, or from error estimates.

    Attributes
    ----------
    adaptive : bool
        Whether steps can be rejected, by an ``AdaptiveController``.

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


Adapt: TypeAlias = Callable[
    [Scalar, Scalar, tuple[Scalar, ...]], tuple[Bool, Scalar, tuple[Scalar, ...]]
]
"""``adapt(squared error, h, memory) -> (accepted, next h, memory)``."""


class AdaptiveController(AbstractController):
    """Decides from error estimates.

    Attributes
    ----------
    judges : bool
        Whether it looks at error estimates; else it accepts whatever is finite.
    rtol, atol : float or tree
    dt0 : float [time] or None
        The first step; None to choose it.
    floor : float [time]
        Least step.
    """

    adaptive: ClassVar[bool] = True
    judges: ClassVar[bool] = True
    rtol: Tree
    atol: Tree
    dt0: Scalar | None

    @property
    @abstractmethod
    def floor(self) -> float:
        """Least step."""

    @abstractmethod
    def init(self, clock: Clock) -> tuple[Scalar, ...]:
        """What it remembers before the first step."""

    @abstractmethod
    def adapter(self, clock: Clock, order: int) -> Adapt:
        """Its verdict on a try, for errors of this order."""

    @abstractmethod
    def first_step(
        self,
        clock: Clock,
        layout: Layout,
        field: Field,
        scale: Scale,
        start: tuple[Scalar, Scalar, State, Sequence[Array]],
        order: int,
    ) -> Scalar:
        """Size of the first step from (t0, t1, y0, f(t0, y0))."""


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

    count: Index
    whole: Index
    shifts: bool

    def moves(self, i: Index, last: Bool, t: Scalar, h: Scalar) -> tuple[Bool, Bool, Bool]:
        """Whether the start of step i moves with t0, its size shrinks as t0 grows, and its end
        (but t1) moves with t0; ``last``: whether it is the last step."""
        return (True, last, True) if self.shifts else (i == 0, i == 0, False)

    def stiff(self, i: Index) -> Bool:
        """Whether step i is one of the stiff method, of a solver that switches."""
        return False

    @abstractmethod
    def step(self, i: Index) -> tuple[Scalar, Scalar]:
        """Start and size of step i."""

    @abstractmethod
    def end(self, i: Index) -> Scalar:
        """Where step i ends: the next one's start, or t1; start + size may round elsewhere."""
