"""Names for what flows through the library; no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, SupportsFloat, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Y = TypeVar("Y", default=Any)
else:  # a default of a type variable is for type checkers before Python 3.13
    from typing import TypeVar

    Y = TypeVar("Y")

TINY = 1e-12
"""A remainder smaller than this part of the step is not worth a step of its own."""

EVERYWHERE = float("-inf"), float("inf")
"""The times between which a field that never jumps does not."""

Array: TypeAlias = Any
"""An array of any library."""

Tree: TypeAlias = Any
"""Nested containers of arrays."""

Leaves: TypeAlias = tuple[Array, ...]
"""The arrays of a tree, in its order."""

TreeDef: TypeAlias = Any
"""A library's account of a tree's structure."""

Scalar: TypeAlias = Any
"""A time, step or error: a Python number (host clock) or a 0-d array (traced clock)."""

Index: TypeAlias = Any
"""A count or an index: an int, or a 0-d array of integers where loops are traced."""

Bool: TypeAlias = Any
"""A truth value: a bool, or a 0-d array of them where loops are traced."""

State: TypeAlias = Any
"""What a loop carries for y; opaque to the core (a flat vector, or a tuple of leaves)."""

Carry: TypeAlias = Any
"""What a loop hands from one turn to the next: a tree of states, scalars and tables."""

Buffer: TypeAlias = Any
"""Room for states, as the library has it."""

Table: TypeAlias = Any
"""Numbers in a row, as the library's loops read and change them."""

ParamSums: TypeAlias = Any
"""Sums of cotangents of parameters, in the form of the vjp that adds them up."""

Residuals: TypeAlias = Any
"""What a forward pass keeps for its reverse pass."""

Aux: TypeAlias = Any
"""What a run tells beside its output leaves."""

Namespace: TypeAlias = Any
"""A module of the array API."""

DType: TypeAlias = Any
"""A library's dtype."""

Device: TypeAlias = Any
"""A library's device."""

Function: TypeAlias = Callable[..., Any]
"""A function whose arguments are its caller's affair."""

Condition: TypeAlias = Callable[[Carry], Bool]
"""Whether a loop takes another turn."""

Body: TypeAlias = Callable[[Carry], Carry]
"""A turn of a loop."""

CountedBody: TypeAlias = Callable[[Index, Carry], Carry]
"""A turn of a loop that counts them."""

VectorFieldFn: TypeAlias = Callable[[Array, Tree, Tree], Tree]
"""``f(t, y, args) -> dy/dt``."""

Field: TypeAlias = Callable[[Array, State], Leaves]
"""f with its args and the form of its state: ``field(t, y) -> leaves of dy/dt``."""

Bind: TypeAlias = Callable[[Sequence[Array]], Callable[[Array, Tree], Leaves]]
"""``bind(params)(t, leaves) -> leaves``: a field as a function of what it is differentiated by."""

Numbers: TypeAlias = "complex | Sequence[complex] | Sequence[Sequence[complex]]"
"""Numbers of Python, alone or in lists."""

Plain: TypeAlias = "Numbers | Sequence[Numbers] | Mapping[str, Numbers]"
"""A y0 without arrays: what it becomes has another type."""

Memory: TypeAlias = str | float
"""A budget: text with a unit, bytes, or a fraction below 1."""

Time: TypeAlias = SupportsFloat
"""A time as the user gives it: a number or a 0-d array."""


class Shaped(Protocol):
    """An array of any library, as far as a type checker can tell."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""


Times: TypeAlias = "Sequence[float] | Shaped"
"""Times in a row."""


class Inputs(NamedTuple):
    """Everything a gradient can be asked of, as the engine sees it.

    ``y0`` is in state form; ``params`` are the floating leaves of ``args`` followed by the arrays
    that ``f`` closes over; ``ts`` are the saved times (a sequence or a 1-D array). ``settings`` are
    constants of the gradient that come as arrays (perhaps traced): the size of constant steps, or
    the two tolerances in state form; empty where they are numbers. Where an ``Inputs`` holds
    cotangents, ``stats`` are statistics of the reverse pass. ``relative`` are
    the times as the clock counts them, where they differ (``_integrate.relative_time``). ``jumps``
    are the times of jumps as the user gave them; what steps end on stands in ``settings``.
    """

    y0: State
    params: Leaves
    t0: Scalar
    t1: Scalar
    ts: Table
    settings: tuple[State, ...] = ()
    stats: Tree = None
    relative: tuple[Scalar, Scalar, Table] | tuple[()] = ()
    jumps: Table = ()

    @property
    def clocked(self) -> tuple[Scalar, Scalar, Table]:
        """Start, end and saved times as the clock counts them: from t0, unless that is 0."""
        return self.relative or (self.t0, self.t1, self.ts)


class Chosen:
    """Which method the next step is of, and what the last one told of the problem.

    Attributes
    ----------
    stiff : bool or traced
        Whether it is that for stiff problems.
    rate : scalar
        Estimate of the spectral radius of df/dy.
    """

    def __init__(self) -> None:
        self.stiff: Bool = False
        self.rate: Scalar = 0.0


class Equations(NamedTuple):
    """What is known of a field beside its values: for methods that solve equations of it.

    A bound field (``Problem.bind``) has it as its attribute ``equations``.

    Attributes
    ----------
    jac : callable or None
        The user's Jacobian, ``jac(t, y) -> df/dy`` of a state y, in the form that the user gives
        it, at the field's parameters.
    structure : object
        What the user tells of its zeros; None for nothing.
    mass : object
        The mass matrix; None for the identity.
    parts : tuple of two fields, or None
        The explicit and the implicit part of a split field, where the solver takes them apart.
    chosen : Chosen
        Which method the next step is of, where a solver switches.
    tree : callable or None
        y as the user knows it, of a state.
    """

    jac: Callable[[Array, State], Tree] | None = None
    structure: object = None
    mass: State = None
    parts: tuple[Field, Field] | None = None
    chosen: Chosen = None  # type: ignore[assignment]
    tree: Callable[[State], Tree] | None = None


class RequestedTransforms(NamedTuple):
    """What can be seen, when a solve is called, of the derivatives that will be asked for.

    Attributes
    ----------
    forward : bool
        Nothing but forward mode (jvp).
    again : bool
        More than one plain reverse pass, by an autodiff that must follow every step.
    scalars : int or None
        Real numbers that are differentiated in reverse mode; None where that can't be seen.
    measurable : bool
        Whether f can be run once for the size of its tape.
    """

    forward: bool = False
    again: bool = False
    scalars: int | None = None
    measurable: bool = True


class NeedsGradient(NamedTuple):
    """Which of the :class:`Inputs` a gradient is asked of; reverse passes give y0's anyway."""

    params: tuple[bool, ...]
    t0: bool
    t1: bool
    ts: bool
    y0: bool = True
    jumps: bool = False

    @property
    def time(self) -> bool:
        """Whether any derivative with respect to time is needed."""
        return self.t0 or self.t1 or self.ts or self.jumps


class Scale:
    """Tolerances of the error norm: ``atol + rtol * max(|y|, |y1|)``, scalars or states.

    ``norm``: of the leaves of ratios to it; None for the root of their mean square.
    """

    __slots__ = ("atol", "norm", "rtol")

    def __init__(
        self, rtol: Scalar, atol: Scalar, norm: Callable[[Leaves], Array] | None = None
    ) -> None:
        self.rtol = rtol
        self.atol = atol
        self.norm = norm
