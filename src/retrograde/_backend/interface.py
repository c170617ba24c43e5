"""The backend interface: what an array library's adapter supplies beyond the array API standard.

Hooks state semantics (differentiable or not, traced or not, whether a value is read back to the
host); names of libraries stay in the adapters. A hook that a library can't honour is absent
from ``capabilities`` and raises :class:`~retrograde.UnsupportedByBackend`. The types of what they
take and give are in ``protocols``; ``EagerBackend`` has the generic forms.
"""

from __future__ import annotations

import contextlib
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from .._base.errors import UnsupportedByBackend
from .._base.types import (
    Array,
    Aux,
    Bind,
    Body,
    Bool,
    Buffer,
    Carry,
    Condition,
    CountedBody,
    Function,
    Index,
    Inputs,
    Leaves,
    Namespace,
    NeedsGradient,
    RequestedTransforms,
    Residuals,
    Scalar,
    Scale,
    State,
    Table,
    Tree,
)
from .array_hooks import ArrayHooks

if TYPE_CHECKING:
    from .._api.solve_program import DifferentiableSolve
    from .._base.memory import MemoryInfo
    from .._checkpointing.forward import Slots
    from .._controllers.base import Grid
    from .._integrate.integrator import Integrator
    from .._integrate.problem import Problem
    from .._loops.loop import LeafLayout, LoopSpec
    from .._loops.loop_program import DifferentiableLoop
    from .._solvers.base import AbstractSolver
    from .._solvers.runge_kutta.tableau import Tableau
    from .protocols import (
        Clock,
        FieldVJP,
        Layout,
        Program,
        Pull,
        Runnable,
        Shapes,
        StepAdjoint,
        StepStages,
        StoredVJPs,
    )
    from .specialise import StepRequest, Steps

__all__ = [
    "AbstractBackend",
    "ArrayHooks",
    "Capability",
    "GradientHooks",
    "IterationHooks",
    "LoopHooks",
]


class LoopHooks(ABC):
    """Hooks for stages, clock, loops and buffers."""

    @abstractmethod
    def layout(self, leaves: Sequence[Array]) -> Layout:
        """How states of these leaves are carried (``stages.ListLayout``)."""

    @abstractmethod
    def stages(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> StepStages:
        """stages, made once a pass."""

    @abstractmethod
    def adjoint(self, layout: Layout, tableau: Tableau) -> StepAdjoint:
        """stage cotangents, made once a pass."""

    @abstractmethod
    def clock(self, layout: Layout) -> Clock:
        """The arithmetic of times, steps and counts."""

    def apart(self, fn: Function) -> Function:
        """fn as one call to the library's compiler of Python, if it has one (``opaque``)."""
        return fn

    @abstractmethod
    def quiet(self) -> contextlib.AbstractContextManager[object]:
        """A context in which overflow in a trial step, which is rejected, warns nobody."""

    def most(self, x: Index) -> Index:
        """The largest x of all samples of a batch that the library maps this program over."""
        return x

    @abstractmethod
    def while_loop(self, cond: Condition, body: Body, s: Carry) -> Carry:
        """``while cond(s): s = body(s)``."""

    @abstractmethod
    def for_loop(self, low: Index, high: Index, body: CountedBody, s: Carry) -> Carry:
        """``for i in range(low, high): s = body(i, s)``, counted."""

    @abstractmethod
    def cond(self, ok: Bool, yes: Function, no: Function, *operands: Carry) -> Carry:
        """``yes(*operands)`` where ok, else ``no(*operands)``; the other is not run."""

    @abstractmethod
    def real_rows(self, rows: int | None, width: int, layout: Layout) -> Table:
        """A table of rows of reals (:meth:`table_get`, :meth:`table_set`); None: it grows."""

    @abstractmethod
    def new_buffer(self, rows: int | None, layout: Shapes, *, scratch: bool) -> Buffer:
        """Room for ``rows`` states, and if asked for a scratch row of index ``rows``."""

    @abstractmethod
    def write(self, buffer: Buffer, i: Index, y: State) -> Buffer:
        """The buffer with row i replaced."""

    @abstractmethod
    def read(self, buffer: Buffer, i: Index) -> State:
        """Row i."""

    @abstractmethod
    def rows(self, layout: Layout, buffer: Buffer, n: Index, valid: Index, fill: Scalar) -> Leaves:
        """The first n rows as leaves of shape (n, *shape); ``fill`` behind the first ``valid``."""

    @abstractmethod
    def at_end(self, here: Bool, end: Callable[[], State], inside: Callable[[], State]) -> State:
        """The state at a step's end where ``here``, else inside it; with the inside's derivatives,
        where autodiff follows the integration: those by the saved time are its alone."""

    @abstractmethod
    def index(self, i: int) -> Index:
        """An int as the loops carry it."""

    @abstractmethod
    def ints(self, values: Sequence[int]) -> Table:
        """A small table of ints for :meth:`table_get` and :meth:`table_set`."""

    @abstractmethod
    def reals(self, n: Index, layout: Layout) -> Table:
        """A table of n zeros in the clock's reals."""

    @abstractmethod
    def table_get(self, table: Table, i: Index) -> Scalar:
        """Entry i of a table of ints or times."""

    @abstractmethod
    def table_set(self, table: Table, i: Index, value: Scalar) -> Table:
        """The table with entry i replaced."""

    @abstractmethod
    def placements(self, rows: int, bound: int | None) -> tuple[Table, Table]:
        """Tables (step index, row) of the online schedule, up to ``bound`` steps."""

    @abstractmethod
    def pick(self, ok: Bool, a: Array, b: Array) -> Index:
        """The index a where ok, else b."""

    @abstractmethod
    def new_positions(self, rows: int) -> Table:
        """A table for the step index of each row and of the scratch row, all of them ``FAR``."""

    @abstractmethod
    def rank(self, slots: Slots, positions: Table, n: Index) -> tuple[Table, Index]:
        """Rows (without the scratch row) by ascending position, and how many are below n.

        ``slots`` tells by which placements the positions, all below n, came about.
        """

    @abstractmethod
    def split(self, slots: int) -> Callable[[Index, Index], Index]:
        """``split(length, free)``: the binomial split with at most ``slots`` slots."""


class GradientHooks(ABC):
    """Hooks for derivatives, whole programs, DirectAdjoint, and memory."""

    @abstractmethod
    def capture(self, problem: Problem, t0: Scalar) -> None:
        """Call f once to check its result, and note the arrays that it closes over.

        Without autodiff those are constants; an adapter whose library differentiates must find
        them and call ``problem.add_captured``.
        """

    def view(self, x: Array) -> Array:
        """An array of the user's as f may have it: read-only where the library knows that."""
        return x

    def guard(self, field: Function) -> Function:
        """``field(t, y)`` of states that it can't change: writing raises, or reaches a copy."""
        return field

    @abstractmethod
    def needs_gradient(self, inputs: Inputs) -> bool:
        """Whether the library will ask for a gradient of this solve."""

    def likely(self, loop: Integrator, inputs: Inputs) -> tuple[bool, ...]:
        """Which parameters the library's own gradient may be asked for: what a plan counts on.

        No more than f can be differentiated by, where the others are not asked for.
        """
        return tuple(loop.problem.differentiable)

    @abstractmethod
    def requested(self, inputs: Inputs) -> RequestedTransforms:
        """What can be seen of the derivatives that will be asked for."""

    @abstractmethod
    def has_forward_mode(self, problem: Problem) -> bool:
        """Whether f has a jvp, cheaper than its vjp, that the planner may choose by itself."""

    @abstractmethod
    def differentiate(self, program: DifferentiableSolve, inputs: Inputs) -> tuple[Leaves, Aux]:
        """Run a program so that the library's own gradients call its reverse."""

    @abstractmethod
    def run_forward(self, program: Runnable, inputs: Inputs) -> Aux:
        """``program.forward(inputs)``, compiled where the library compiles."""

    @abstractmethod
    def run_reverse(
        self,
        program: Program,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        """``program.reverse(...)``, compiled where the library compiles."""

    @abstractmethod
    def detach(self, problem: Problem, inputs: Inputs) -> Inputs:
        """The inputs for ``solve_vjp``: no part of the library's own graph."""

    @abstractmethod
    def autodiff_vjp(
        self, program: DifferentiableSolve, inputs: Inputs
    ) -> tuple[Leaves, Aux, Callable[[Leaves], Inputs]]:
        """(output leaves, aux, pull) of a program that the library differentiates itself."""

    @abstractmethod
    def pullback(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> FieldVJP:
        """The vjp of ``bind(params)(t, leaves)``, in the form of ``_autodiff.TapePullback``.

        Where it has a true attribute ``scales``, its pulls take a third argument, the weight of
        what they add to the accumulator (sums of states then take theirs where they are formed).
        """

    def specialise(
        self, solver: AbstractSolver, problem: Problem, request: StepRequest
    ) -> Steps | None:
        """Steps and their vjps in a form that serves the library better than the solver's own.

        None where there is none: the solver's, over ``Stages`` and ``StageCotangents``. Both give
        the same results but for rounding. An integration is taken again by the stepper of the vjp
        (``replay``), whose states must be those of the integration to the last bit.

        Raises
        ------
        UnsupportedByBackend
            Where the library can't do what ``request.compile`` asks for.
        """
        if request.compile:
            raise UnsupportedByBackend(
                f"`compile` is True, but {getattr(self, 'name', 'this library')} has no compiler "
                "of steps; leave `compile` out, or pass arrays of PyTorch or JAX."
            )
        return None

    def records_tapes(self, loop: Integrator) -> bool:
        """Whether an integration of this loop can keep what the vjp of f needs
        (``TapeAdjoint``)."""
        return False

    def tapes(self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient) -> StoredVJPs:
        """What keeps it: it has a guard's ``table``, ``on_grid`` and ``on_tries``, the
        integration's ``stepper``, and ``step_vjp(rows)`` that pulls the step ``at``.
        """
        raise UnsupportedByBackend(f"{type(self).__name__} keeps no tapes.")

    def kept_bytes(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient
    ) -> tuple[int, bool]:
        """Bytes of a step's tapes as they are kept, and whether that is a gain."""
        return 0, False

    @abstractmethod
    def nan_unless(self, ok: Bool, x: Array) -> Array:
        """x where ok, else nan, as are its derivatives: what failed has no result, no gradient."""

    @abstractmethod
    def poison_gradient(self, ok: Bool, x: Array) -> Array:
        """x itself, whose derivatives by the library's autodiff are nan unless ok."""

    @abstractmethod
    def stop_gradient(self, x: Array) -> State:
        """x (an array or a state) as a constant."""

    @abstractmethod
    def tape_bytes(
        self, vjp: FieldVJP, t: Array, y: State
    ) -> tuple[int, int, Sequence[Array] | None]:
        """Bytes that one linearisation of f keeps, those where states are leaves of their own
        (as in a recorded integration), and f's leaves there (None: not run)."""

    def pull_bytes(self, vjp: FieldVJP, k: Sequence[Array], pull: Pull) -> int | None:
        """Bytes of the arrays alive at most in one pull of f's linearisation, measured: sums of
        parameters' cotangents, and what is made on the way. None where that can't be seen."""
        return None

    def compiled_bytes(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient, one_tape: bool
    ) -> int:
        """What a compiled gradient takes beside its slots, by the compiler's own account.

        Asked of traced libraries alone.
        """
        raise NotImplementedError

    @abstractmethod
    def direct_layout(self, layout: Layout) -> Layout:
        """A layout of leaves whose times may carry derivatives."""

    @abstractmethod
    def direct_stages(self, layout: Layout, tableau: Tableau, scale: Scale | None) -> StepStages:
        """Stages over such a layout, whose sums autodiff can follow."""

    @abstractmethod
    def scan_states(
        self, n: Index, bound: int | None, advance: Callable[[Index, State], State], y: State
    ) -> tuple[State, Buffer]:
        """(state after n steps, the states before each step)."""

    @abstractmethod
    def map_rows(self, row: Callable[[Index], Sequence[Array]], count: Index) -> Leaves:
        """``row(j)`` for j < count, stacked."""

    @abstractmethod
    def look_state(self, states: Buffer, i: Index, n: Index = None, final: State = None) -> State:
        """The state before step i; ``final`` for step n."""

    @abstractmethod
    def step_of(self, grid: Grid, n: int, t: float) -> int:
        """The step in which time t lies: the last that begins before it."""

    @abstractmethod
    def columns(
        self, run: Callable[[Sequence[Array]], tuple[Leaves, Aux]], arrays: Sequence[Array]
    ) -> tuple[tuple[Leaves, Aux], list[Leaves]]:
        """``run(arrays) -> (leaves, rest)``, and the tangents of its leaves by forward mode.

        For each array a tuple of leaves with a leading axis of its real numbers (of a complex
        array the real parts, then the imaginary ones).
        """

    @abstractmethod
    def blank(self, rows: Leaves, n: Index, fill: Scalar) -> Leaves:
        """Rows with the number ``fill`` behind the first n."""

    @abstractmethod
    def devices(self) -> list[str]:
        """Names of the devices that arrays can be on."""

    @abstractmethod
    def synchronize(self, x: Array) -> None:
        """Wait until the arrays of x are computed, where a device or a runtime works by itself."""

    @abstractmethod
    def memory(self, like: Array | None = None) -> MemoryInfo:
        """Memory of the device that ``like`` lives on."""


class IterationHooks(ABC):
    """Hooks for loops over bodies of the user's."""

    @abstractmethod
    def carry_leaves(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        """Leaves of a carry as the loops take them: arrays, and what else the library's can."""

    @abstractmethod
    def array_bytes(self, x: Array) -> int:
        """Bytes of an array's elements, of any dtype."""

    @abstractmethod
    def row_like(self, x: Array) -> Array:
        """Something of the shape and dtype of a row."""

    @abstractmethod
    def row(self, x: Array, i: Index) -> Array:
        """Row i of an array."""

    @abstractmethod
    def new_stack(self, rows: int, like: Sequence[Array] | None) -> Buffer:
        """Room for rows of leaves, each to be written once; ``like`` may be unknown if eager."""

    @abstractmethod
    def put(self, stack: Buffer, i: Index, leaves: Sequence[Array]) -> Buffer:
        """The stack with row i written, in O(row)."""

    @abstractmethod
    def stacked(self, stack: Buffer, like: Sequence[Array]) -> list[Array]:
        """A stack's arrays, zeros where nothing was written."""

    @abstractmethod
    def predicate(self, x: Array) -> Bool:
        """A 0-d boolean array as ``while_loop`` takes it; InputError if it is none."""

    @abstractmethod
    def negated(self, ok: Bool) -> Bool:
        """Logical not of a predicate."""

    def lent(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        """The same leaves for a body: writing into them raises, or reaches a copy."""
        return leaves

    def explain(self, error: BaseException, whose: str) -> None:
        """Raise InputError where an error of the library's says that such a write was refused."""
        return

    @abstractmethod
    def watch(self, leaves: Sequence[Tree], whose: str) -> Callable[[], None]:
        """A function that raises InputError if arrays were changed in place since.

        ``whose``: by whom, and what of his they are (``"`body` changed its argument"``).
        """

    @abstractmethod
    def capture_loop(self, loop: LoopSpec) -> None:
        """Find what body and cond close over (``loop.hoisted``), as far as it has gradients."""

    @abstractmethod
    def followed_scan(
        self, step: Function, state: Carry, count: int, reverse: bool
    ) -> tuple[Carry, list[Array]]:
        """(state, stacked leaves of y) after ``step(i, state) -> (state, leaves)``, by autodiff's
        own operations; ``reverse``: the rows stand in reverse."""

    @abstractmethod
    def bounded_loop(self, running: Condition, body: Body, s: Carry, bound: int | None) -> Carry:
        """At most ``bound`` steps of ``while running(s): s = body(s)``; ``s[0]`` counts them.
        Differentiable in every mode by the library's autodiff."""

    @abstractmethod
    def body_tape_bytes(
        self, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        """Bytes that one linearisation of a body keeps, and which of the first leaves it hands
        on in the same memory (as far as the slots of this library gain by it)."""

    def table_entries(
        self, loop: LoopSpec, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> int:
        """Bytes of a slot in the tables of a compiled reversal of this loop."""
        return 0

    @abstractmethod
    def differentiate_loop(
        self, program: DifferentiableLoop, inputs: Inputs, kind: str
    ) -> tuple[Leaves, Aux]:
        """Run a loop so that the library's own gradients go through it."""

    @abstractmethod
    def detach_loop(self, loop: LoopSpec, inputs: Inputs) -> Inputs:
        """The inputs for ``loop_vjp``: no part of the library's own graph."""

    @abstractmethod
    def tracked_leaves(self, loop: LoopSpec, params: Sequence[Array]) -> Sequence[bool]:
        """Of which parameters a gradient may be asked for."""

    def reached(
        self, loop: LoopSpec, wanted: Sequence[bool]
    ) -> tuple[Sequence[bool], Sequence[bool]]:
        """Which leaves of the carry, and of y, may depend on the wanted parameters.

        The pull of a step differentiates no others: a body may do with them what has no
        derivative.
        """
        return [True] * len(loop.template), [True] * len(loop.ys_like or ())


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


class AbstractBackend(ArrayHooks, LoopHooks, GradientHooks, IterationHooks):
    """An array library as the core sees it.

    Attributes
    ----------
    name : str
    capabilities : frozenset of Capability
    xp : module
        The library's array-API namespace.
    slots_by_reference : bool
        Whether storing a state keeps a reference (then y0's slot costs nothing).
    array_overhead : int [bytes]
        What an array takes beside its elements.
    python_loops : bool
        Whether an adaptive integration may be a loop of Python's own, over numbers of the host.
    counts_changes : bool
        Whether arrays count what is written into them, so that ``watch`` costs next to nothing.

    Examples
    --------
    >>> from retrograde.backend import AbstractBackend, EagerBackend
    >>> issubclass(EagerBackend, AbstractBackend)
    True
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    xp: Namespace
    slots_by_reference: ClassVar[bool]
    array_overhead: ClassVar[int]
    python_loops: ClassVar[bool]
    counts_changes: ClassVar[bool]
