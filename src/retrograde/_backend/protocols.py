"""What flows between core and adapters, as types: layouts, clocks, stages, the vjp of a field.

No code: forms that every library has are in ``stages`` and ``clock``, faster ones in the adapters.
What an adapter can do (:class:`~retrograde.backend.Capability`) stands here too.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .._base.types import (
    Array,
    Aux,
    Body,
    Bool,
    CountedBody,
    Device,
    DType,
    Field,
    Index,
    Inputs,
    Leaves,
    Namespace,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Table,
    VectorFieldFn,
)

if TYPE_CHECKING:
    from .._api.solve_program import DifferentiableSolve
    from .._autodiff.linearise import FieldDerivatives
    from .._base.types import Scale
    from .._loops.loop import LeafLayout
    from .._loops.loop_program import DifferentiableLoop
    from .._solvers.base import AbstractStepper
    from .._solvers.runge_kutta.solver import Sources, StepCotangents
    from .interface import AbstractBackend
    from .reals import Reals


class Capability(enum.StrEnum):
    """What an adapter can do; planner, tests and documentation read this one set.

    Examples
    --------
    >>> from retrograde.backend import Capability, EagerBackend
    >>> Capability.TRACED in EagerBackend.capabilities
    False
    """

    AUTODIFF = "autodiff"
    """The library differentiates functions of its arrays itself."""
    NATIVE_GRADIENT = "native-gradient"
    """``solve`` takes part in the library's own gradients (``jax.grad``, ``backward``)."""
    HIGHER_ORDER = "higher-order"
    """DirectAdjoint can be differentiated again, in forward and reverse mode."""
    TRACED = "traced"
    """Loops are compiled; no value is read back to the host inside one."""
    DIRECT = "direct"
    """A loop of known length can be differentiated by the library's (or the tape's) autodiff."""


class Shapes(Protocol):
    """What room for states is made after: a layout, or less."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of its leaves."""


class Layout(Protocol):
    """How the leaves of a tree are carried as one state, and given back."""

    @property
    def bk(self) -> AbstractBackend:
        """The adapter."""

    xp: Namespace
    shapes: tuple[tuple[int, ...], ...]
    dtype: DType
    real_dtype: DType
    device: Device
    size: int
    nbytes: int
    origin: Scalar
    """The time that the clock counts from, where it is not 0."""

    @property
    def plain(self) -> bool:
        """Whether a state is the user's one array itself."""

    def pack(self, leaves: Sequence[Array]) -> State:
        """Leaves in the user's shapes as a state."""

    def unpack(self, y: State) -> Leaves:
        """A state as leaves in the user's shapes."""

    def time(self, t: Scalar) -> Array:
        """A time as the 0-d array that a vector field is given."""

    def at(self, origin: Scalar) -> Layout:
        """The same layout, where times of the clock count from ``origin``."""

    def axpy(self, y: State, h: Scalar, k: State) -> State:
        """``y + h * k``."""

    def add(self, x: State, y: State) -> State:
        """``x + y``, a new state."""

    def zeros(self) -> State:
        """A state of zeros."""

    def inner(self, x: State, y: State) -> Scalar:
        """The pairing of a cotangent x with a tangent y."""

    def squares(self, x: State) -> Array:
        """Sum of ``|x_i|**2``, as a 0-d array."""

    def norm2(self, x: State, y: State, scale: Scale) -> Scalar:
        """Mean of ``(|x| / (atol + rtol |y|))**2``."""

    def error2(self, e: State, y: State, y1: State, scale: Scale) -> Scalar:
        """Mean of ``(|e| / (atol + rtol max(|y|, |y1|)))**2``."""

    def finite(self, y: State) -> Bool:
        """Whether every element is finite."""

    def stack(self, states: Sequence[State]) -> Leaves:
        """k states as leaves of shape (k, *shape)."""

    def empty(self) -> Leaves:
        """Leaves of no states, shape (0, *shape)."""

    def row(self, leaves: Sequence[Array], i: Index) -> State:
        """The state at index i of leaves of shape (k, *shape)."""

    def repeat(self, count: int) -> Layout:
        """The layout of ``count`` states in a row."""

    def split(self, s: State, count: int) -> tuple[State, ...]:
        """``count`` equal parts of a state; they may share its memory."""

    def join(self, parts: Sequence[State]) -> State:
        """The inverse of :meth:`split`."""

    def own(self, leaves: Sequence[Array]) -> State:
        """What f or its vjp returned, as a state that stays when they are called again."""

    def weighted(self, terms: Sequence[tuple[Scalar, State]]) -> State:
        """``sum w x`` over the (w, x) of at least one term: a new state or part."""


class Clock(Protocol):
    """The arithmetic of times, step sizes, errors and counts."""

    @property
    def traced(self) -> bool:
        """Whether its scalars are arrays of a program, without a value yet."""

    @property
    def holds_squares(self) -> bool:
        """Whether squares of y's numbers neither overflow nor vanish in its scalars."""

    @property
    def yes(self) -> bool:
        """A predicate that is known to hold."""

    @property
    def eps(self) -> float:
        """The rounding of its scalars."""

    def real(self, x: Scalar) -> Scalar:
        """A time, step or error as this clock keeps it."""

    def constant(self, x: Scalar) -> Scalar:
        """A step size or error that derivatives see as a constant."""

    def count(self, n: Index) -> Index:
        """A counter as this clock keeps it."""

    def steps(self, t0: Scalar, t1: Scalar, dt: Scalar) -> Index:
        """Number of steps of size dt from t0 to t1, the last one shortened."""

    def land(self, t: Scalar, h: Scalar, t1: Scalar) -> tuple[Scalar, Scalar]:
        """One step of h, or onto t1 if that is nearer: (t_new, t_new - t)."""

    def reached(self, at: Scalar, t: Scalar, h: Scalar) -> Bool:
        """Whether a step of the sign of h that ends at t has reached a time."""

    def beyond(self, at: Scalar, t: Scalar, h: Scalar) -> Bool:
        """Whether a time lies behind t in the direction of h."""

    def running(self, t: Scalar, t1: Scalar, h: Scalar, floor: float, left: Index) -> Bool:
        """Whether to try another step: not at t1, tries left, and h above its floor."""

    def select(self, ok: Bool, new: State, old: State) -> State:
        """``new`` where ok, else ``old``: trees of states, scalars and counts."""

    def where(self, ok: Bool, a: Scalar, b: Scalar) -> Scalar:
        """The scalar a where ok, else b."""

    def both(self, a: Bool, b: Bool) -> Bool:
        """Logical and."""

    def either(self, a: Bool, b: Bool) -> Bool:
        """Logical or."""

    def is_finite(self, x: Scalar) -> Bool:
        """Whether a scalar is finite."""

    def power(self, x: Scalar, p: float) -> Scalar:
        """x**p for x > 0."""

    def powers(self, x: Scalar, exponents: Sequence[float]) -> tuple[Scalar, ...]:
        """x**p of x > 0 for each exponent; |p| is at most some 1/2."""

    def root(self, a: Scalar, b: Scalar) -> Scalar:
        """sqrt(a / b) for a, b >= 0; nan where b is 0."""

    def clip(self, x: Scalar, low: Scalar, high: Scalar) -> Scalar:
        """x between low and high; nan gives low."""

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        """The larger; a where b is nan."""

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        """The smaller; a where b is nan."""

    def record_new(self, t0: Scalar, rows: int | None) -> Table:
        """A record of accepted times that begins with t0."""

    def record(self, times: Table, n: Index, t_new: Scalar, ok: Bool) -> Table:
        """Note t_new as time n + 1 if the step was accepted."""


class StepStages(Protocol):
    """The stages of one explicit Runge-Kutta step: the only place of their linear combinations."""

    scale: Scale | None
    """Tolerances of the error; None where it is not asked for."""

    whole: bool
    """Whether the last stage of a step was evaluated (``Tableau.late``)."""

    def begin(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None = None) -> Leaves | None:
        """Start a step of size h at (t, y); returns the k0 that is safe to keep."""

    def time(self, i: int) -> Array:
        """t + c_i h as f is given it."""

    def evaluate(self, field: Field, low: int, high: int) -> None:
        """Stages low, ..., high - 1: combine, call f, put."""

    def combine(self, i: int) -> State:
        """Y_i, a fresh state that f may keep."""

    def inside(self, i: int) -> State:
        """Y_i of a stage of the interpolant's own."""

    def put(self, i: int, k: Sequence[Array]) -> None:
        """Store stage i's derivative (the leaves that f returned)."""

    def result(self) -> State:
        """y1."""

    def error2(self, y1: State) -> Scalar:
        """The squared norm of the scaled error estimate."""

    def interpolate(self, weights: Sequence[Scalar]) -> State:
        """y + h sum_i w_i k_i."""

    def slope(self, weights: Sequence[Scalar]) -> State:
        """sum_i w_i k_i."""

    def derivative(self, i: int) -> State:
        """k_i in state form."""


class StepAdjoint(Protocol):
    """The cotangents of one step's stages: u_i = h (b_i g + sum_j>i a_ji mu_j) + q_i."""

    def begin(self, h: Scalar, g: State, q: State = None) -> None:
        """Start with the cotangent g of y1 and, per stage, q_i on k_i (or None)."""

    def forget(self, low: int) -> None:
        """Stages from ``low`` on are not pulled from now on."""

    def sources(self) -> State:
        """The q_i of a step, zero."""

    def add_source(self, q: State, weights: Sequence[Scalar], ct: State) -> State:
        """q_i + w_i ct for every stage."""

    def lam(self, i: int) -> State:
        """u_i."""

    def push(self, i: int, mu: Sequence[Array]) -> None:
        """Store the cotangent mu_i of Y_i (leaves from f's vjp)."""

    def total(self) -> State:
        """g + sum_i mu_i, the cotangent of y."""


Pull: TypeAlias = Callable[[Sequence[Array], ParamSums], tuple[Leaves, Scalar, ParamSums]]
"""``pull(ct, sums) -> (cotangents of y, of t (None if not wanted), sums)``."""


class FieldVJP(Protocol):
    """A vector field that can be linearised anywhere, and sums up cotangents of its parameters."""

    def __call__(self, t: Array, y: State) -> tuple[Sequence[Array], Pull]:
        """Leaves of f(t, y), and the pull."""

    def second(
        self,
        t: Array,
        y: State,
        ks: Sequence[State],
        lams: Sequence[State],
        acc: ParamSums,
        taus: Sequence[Scalar] | None = None,
    ) -> tuple[Leaves, Scalar, ParamSums]:
        """The pull of ``sum_i <lam_i, J(t, y) k_i + tau_i f_t(t, y)>``, as a pull gives it.

        Asked of problems that are prepared for Jacobians.
        """

    derivatives: FieldDerivatives | None
    """How the field is linearised, where a solver needs Jacobians."""

    mass: FieldVJP | None
    """The vjp of the mass matrix, where that has a gradient."""

    sides: tuple[Scalar, Scalar]
    """The times beside which f may jump: between them differences in time are taken."""

    @property
    def layout(self) -> Layout | LeafLayout:
        """That of the states at which it is linearised."""

    def zero(self) -> ParamSums:
        """Sums of nothing."""

    def finish(self, acc: ParamSums) -> tuple[Array | None, ...]:
        """Cotangents of all parameters; None where not wanted."""


class Linearisation(Protocol):
    """f at one (t, y), ready for products with its Jacobian.

    Directions and cotangents are rows of the reals of states (``Reals``), shape (m, n).
    """

    forward: bool
    """Whether a matrix is best made of products with columns (``jvp``), else of rows (``vjp``)."""

    matrix: Array | None
    """The Jacobian itself where the user gave it."""

    def jvp(self, d: Array) -> Array:
        """J d for each row d."""

    def vjp(self, w: Array) -> Array:
        """w J for each row w."""

    def by_time(self) -> Array | None:
        """df/dt, shape (n,); None where f does not see its time."""


class LinearField(Protocol):
    """A field that can be linearised: what a problem binds where a solver needs Jacobians."""

    def __call__(self, t: Array, y: State) -> Leaves:
        """Leaves of f(t, y)."""

    def linearise(
        self, reals: Reals, t: Array, y: State, *, timed: bool, slope: State | None = None
    ) -> Linearisation:
        """f at (t, y), a state whose numbers ``reals`` tells; ``timed``: df/dt is asked for.

        ``slope``: f(t, y), where it is known.
        """


Program: TypeAlias = "DifferentiableSolve | DifferentiableLoop"
"""What has a primal, and a forward and a reverse pass for its gradient."""


class Runnable(Protocol):
    """What is run, and kept compiled, as a program is."""

    def key(self) -> Hashable:
        """What a compiled form of it depends on."""

    def forget(self) -> None:
        """Drop the arrays, once they are inputs of a program that outlives this call."""

    def forward(self, inputs: Inputs) -> Aux:
        """What it gives."""


class FieldProgram(Protocol):
    """f as a program that an adapter traced once, what f closes over among its inputs."""

    def key(self) -> Hashable:
        """What it is made of, to keep compiled programs by."""

    def bind(self, params: Sequence[Array]) -> Callable[[Array, Leaves], Leaves]:
        """``field(t, leaves) -> leaves`` at all parameters of the problem."""

    def bind_output(
        self, fn: VectorFieldFn, params: Sequence[Array]
    ) -> Callable[[Array, Leaves], Leaves]:
        """The same of a ``SaveAt.fn``."""

    def vjp(
        self, params: Sequence[Array], wanted: NeedsGradient, *, prepared: bool = True
    ) -> FieldVJP:
        """Its vjp; ``prepared``: sums of cotangents may have a form of the adapter's."""


class AbstractStepVJP(Protocol):
    """Pulls cotangents back through steps, one at a time (``AbstractSolver.step_vjp``)."""

    @property
    def extra(self) -> int:
        """Stages beyond a step's that its inside needs."""

    def embed(self, ct: State) -> State:
        """A cotangent of y as one of what the loop carries."""

    def finish(
        self, t0: Scalar, y0: State, ct: State, acc: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """The vjp of the stepper's ``start``: cotangents of y0 and t0, and the sums."""

    def replay(self, field: Field) -> AbstractStepper:
        """Steps forward, with the numbers that the pulls are of."""

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of the step's end back to its begin; ``size``: and to h."""

    def result(self) -> State:
        """y at the end of the step that is pulled."""

    def extra_stages(self, due: Bool) -> None:
        """Linearise what its inside needs beyond the step, where ``due``."""

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h)."""

    def slope(self, theta: Scalar) -> State:
        """The interpolant's derivative with respect to time."""

    def sources(self) -> State:
        """Cotangents of the inside of a step, zero."""

    def add_source(self, inside: State, theta: Scalar, h: Scalar, ct: State) -> State:
        """The same with the cotangent ct of y(t + theta h) added."""


class Observer(Protocol):
    """Notes something of every step of an integration in a table that its loop carries."""

    def table(self, n: Index) -> Table:
        """Room for n steps."""

    def on_grid(self, step: CountedBody) -> CountedBody:
        """A counted step, of a carry whose last part is the table."""

    def on_tries(self, step: Body) -> Body:
        """A try, of (carry, table)."""


class StoredVJPs(Observer, Protocol):
    """Keeps what the vjp of f needs at every stage."""

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> AbstractStepper:
        """The solver's stepper, whose steps keep it."""

    def step_vjp(self, rows: Table) -> AbstractStepVJP:
        """Pulls of the steps that are kept in rows."""
