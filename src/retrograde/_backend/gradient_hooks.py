"""The backend interface: derivatives, whole programs, DirectAdjoint, devices and memory.

Each hook with what it promises and its generic form, as in ``array_hooks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from .._base.errors import UnsupportedByBackend
from .._base.memory import MemoryInfo, host_memory
from .._base.types import RequestedTransforms
from .array_hooks import LoopHooks
from .stages import ListLayout, Stages

if TYPE_CHECKING:
    from .._api.solve_program import DifferentiableSolve
    from .._autodiff.second import Term
    from .._base.types import (
        Array,
        Aux,
        Bind,
        Bool,
        Buffer,
        Field,
        Index,
        Inputs,
        Leaves,
        NeedsGradient,
        ParamSums,
        Residuals,
        Scalar,
        Scale,
        State,
    )  # fmt: skip
    from .._controllers.base import Grid
    from .._integrate.integrator import Integrator
    from .._integrate.problem import Problem
    from .._loops.loop import LeafLayout
    from .._solvers.base import AbstractSolver
    from .._solvers.runge_kutta.tableau import Tableau
    from .interface import AbstractBackend
    from .protocols import (
        FieldVJP,
        Layout,
        Linearisation,
        Program,
        Pull,
        Runnable,
        StepStages,
        StoredVJPs,
    )
    from .reals import Reals
    from .specialise import StepRequest, Steps

_R = TypeVar("_R")


class DirectLayout(ListLayout):
    """Times pass as they are where they are arrays already."""

    def time(self, t: Scalar) -> Array:
        return t if self.bk.is_array(t) else super().time(t)


class DirectStages(Stages):
    """Stages whose error estimate is no part of the graph: step sizes are constants."""

    def error2(self, y1: State) -> Scalar:
        with self.layout.bk.quiet():
            return super().error2(y1)


class GradientHooks(LoopHooks):
    """Hooks for derivatives, whole programs, DirectAdjoint, and memory."""

    def capture(self, problem: Problem, t0: Scalar) -> None:
        """Call f once to check its result, and note the arrays that it closes over.

        Without autodiff those are constants; an adapter whose library differentiates must find
        them and call ``problem.add_captured``.
        """
        leaves = self.lent(problem.layout.unpack(problem.y0))
        args = self.watch(problem.params, "`f` changed its argument `args`")
        y = self.watch(leaves, "`f` changed its argument `y`")
        state = problem.state_tree(problem.layout.pack(leaves))
        result = problem.f(problem.layout.time(t0), state, problem.arguments(problem.params))
        problem.check_result(result)
        y()
        args()

    def needs_gradient(self, inputs: Inputs) -> bool:
        """Whether the library will ask for a gradient of this solve."""
        return False

    def likely(self, loop: Integrator, inputs: Inputs) -> tuple[bool, ...]:
        """Which parameters the library's own gradient may be asked for: what a plan counts on.

        No more than f can be differentiated by, where the others are not asked for.
        """
        return tuple(loop.problem.differentiable)

    def requested(self, inputs: Inputs) -> RequestedTransforms:
        """What can be seen of the derivatives that will be asked for."""
        return RequestedTransforms()

    def has_forward_mode(self, problem: Problem) -> bool:
        """Whether f has a jvp, cheaper than its vjp, that the planner may choose by itself."""
        return False

    def differentiate(self, program: DifferentiableSolve, inputs: Inputs) -> tuple[Leaves, Aux]:
        """Run a program so that the library's own gradients call its reverse."""
        return self._unchanged(inputs, program.primal)

    def run_forward(self, program: Runnable, inputs: Inputs) -> Aux:
        """``program.forward(inputs)``, compiled where the library compiles."""
        return self._unchanged(inputs, program.forward)

    def _unchanged(self, inputs: Inputs, run: Callable[[Inputs], _R]) -> _R:
        """``run(inputs)``, whose parameters must be after it what they were."""
        compare = self.watch(inputs.params, "`f` changed its argument `args`")
        with self.quiet():
            result = run(inputs)
        compare()
        return result

    def run_reverse(
        self,
        program: Program,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        """``program.reverse(...)``, compiled where the library compiles."""
        return program.reverse(inputs, residuals, cotangents, wanted)

    def detach(self, problem: Problem, inputs: Inputs) -> Inputs:
        """The inputs for ``solve_vjp``: no part of the library's own graph."""
        return inputs

    def autodiff_vjp(
        self, program: DifferentiableSolve, inputs: Inputs
    ) -> tuple[Leaves, Aux, Callable[[Leaves], Inputs]]:
        """(output leaves, aux, pull) of a program that the library differentiates itself."""
        raise UnsupportedByBackend(
            f"`adjoint` is DirectAdjoint, but {self.name} has no autodiff; use adjoint='auto'."
        )

    def pullback(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> FieldVJP:
        """The vjp of ``bind(params)(t, leaves)``, in the form of ``field_vjp.TapePullback``.

        Where it has a true attribute ``scales``, its pulls take a third argument, the weight of
        what they add to the accumulator (sums of states then take theirs where they are formed).
        """
        raise UnsupportedByBackend(
            f"the backend {self.name!r} has no vjp of a vector field; pass "
            "`rg.VectorField(f, vjp=...)`."
        )

    def linearise(
        self, field: Field, reals: Reals, t: Array, y: State, *, timed: bool
    ) -> Linearisation:
        """f at (t, y) with products with its Jacobian, by the library's own derivatives.

        ``timed``: df/dt is asked for. Asked of libraries that have ``Capability.AUTODIFF``.
        """
        raise NotImplementedError

    def check_by_time(self, field: Field, t: Array, y: State) -> None:
        """Raise where f has no derivative by time that ``linearise`` would find, and hides it.

        Asked once a solve, of a method that needs df/dt.
        """
        return

    def second_of_pull(
        self,
        vjp: FieldVJP,
        reals: Reals,
        point: tuple[Array, State],
        terms: Sequence[Term],
        acc: ParamSums,
    ) -> tuple[Leaves, Scalar, ParamSums]:
        """``FieldVJP.second`` of a vjp of the user's: the derivative of its pulls along terms.

        Asked of traced libraries, which differentiate what they trace.
        """
        raise NotImplementedError

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

    def nan_unless(self, ok: Bool, x: Array) -> Array:
        """x where ok, else nan, as are its derivatives: what failed has no result, no gradient."""
        return x if ok else x * float("nan")

    def poison_gradient(self, ok: Bool, x: Array) -> Array:
        """x itself, whose derivatives by the library's autodiff are nan unless ok."""
        return x

    def stop_gradient(self, x: Array) -> State:
        """x (an array or a state) as a constant."""
        return x

    def tape_bytes(
        self, vjp: FieldVJP, t: Array, y: State
    ) -> tuple[int, int, Sequence[Array] | None]:
        """Bytes that one linearisation of f keeps, those where states are leaves of their own
        (as in a recorded integration), and f's leaves there (None: not run)."""
        k, pull = vjp(t, y)
        tape = getattr(pull, "tape", None)
        if tape is None:  # the user's own vjp keeps a stage's state alone
            return vjp.layout.nbytes, vjp.layout.nbytes, k
        size = tape.nbytes + sum(self.nbytes(x) for x in tape.held(k))
        if tape.held(vjp.layout.unpack(y)):  # then a stage's state lives on
            size += vjp.layout.nbytes
        return size, size, k

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

    def direct_kind(self, layout: Layout) -> Callable[[AbstractBackend, Leaves], Layout]:
        """What makes layouts that autodiff follows."""
        return DirectLayout

    def direct_layout(self, layout: Layout) -> Layout:
        """A layout of leaves whose times may carry derivatives."""
        bk = cast("AbstractBackend", self)
        made = self.direct_kind(layout)(bk, layout.unpack(layout.zeros()))
        return made if layout.origin is None else made.at(layout.origin)

    def direct_stages(self, layout: Layout, tableau: Tableau, scale: Scale | None) -> StepStages:
        """Stages over such a layout, whose sums autodiff can follow."""
        return DirectStages(layout, tableau, scale)

    def scan_states(
        self, n: Index, bound: int | None, advance: Callable[[Index, State], State], y: State
    ) -> tuple[State, Buffer]:
        """(state after n steps, the states before each step)."""
        states = []
        for i in range(n):
            states.append(y)
            y = advance(i, y)
        return y, states

    def map_rows(self, row: Callable[[Index], Sequence[Array]], count: Index) -> Leaves:
        """``row(j)`` for j < count, stacked."""
        rows = [row(j) for j in range(count)]
        return tuple(self.xp.stack(leaves) for leaves in zip(*rows, strict=True))

    def look_state(self, states: Buffer, i: Index, n: Index = None, final: State = None) -> State:
        """The state before step i; ``final`` for step n."""
        return final if n is not None and i == n else states[i]

    def step_of(self, grid: Grid, n: int, t: float) -> int:
        """The step in which time t lies: the last that begins before it."""
        inside = [i for i in range(n) if (t - grid.step(i)[0]) * grid.step(i)[1] > 0]
        return inside[-1] if inside else 0

    def columns(
        self, run: Callable[[Sequence[Array]], tuple[Leaves, Aux]], arrays: Sequence[Array]
    ) -> tuple[tuple[Leaves, Aux], list[Leaves]]:
        """``run(arrays) -> (leaves, rest)``, and the tangents of its leaves by forward mode.

        For each array a tuple of leaves with a leading axis of its real numbers (of a complex
        array the real parts, then the imaginary ones).
        """
        raise UnsupportedByBackend(f"{self.name} has no forward mode; use adjoint='auto'.")

    def blank(self, rows: Leaves, n: Index, fill: Scalar) -> Leaves:
        """Rows with the number ``fill`` behind the first n."""
        if all(n >= x.shape[0] for x in rows):
            return rows
        concat, zeros = self.xp.concat, self.xp.zeros_like
        return tuple(concat([x[:n, ...], zeros(x[n:, ...]) + fill], axis=0) for x in rows)

    def devices(self) -> list[str]:
        """Names of the devices that arrays can be on."""
        inspect = getattr(self.xp, "__array_namespace_info__", None)
        if inspect is None:
            return [str(self.device_of(self.xp.zeros(1)))]
        return [str(device) for device in inspect().devices() if device is not None]

    def synchronize(self, x: Array) -> None:
        """Wait until the arrays of x are computed, where a device or a runtime works by itself."""

    def memory(self, like: Array | None = None) -> MemoryInfo:
        """Memory of the device that ``like`` lives on."""
        return MemoryInfo(*host_memory())
