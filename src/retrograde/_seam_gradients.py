"""The seam: derivatives, whole programs, DirectAdjoint, and memory.

A part of :class:`~retrograde.backend.AbstractBackend`; ``EagerBackend`` has the generic forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ._errors import UnsupportedByBackend
from ._seam_memory import MemoryInfo
from ._types import Array, Asked, State, Wanted

__all__ = ["GradientHooks"]


class GradientHooks(ABC):
    """Hooks for derivatives, whole programs, DirectAdjoint, and memory."""

    @abstractmethod
    def capture(self, problem: Any, t0: Any) -> None:
        """Call f once to check its result, and note the arrays that it closes over.

        Without autodiff those are constants; an adapter whose library differentiates must find
        them and call ``problem.add_captured``.
        """

    def view(self, x: Array) -> Array:
        """An array of the user's as f may have it: read-only where the library knows that."""
        return x

    def guard(self, field: Callable[..., Any]) -> Callable[..., Any]:
        """``field(t, y)`` of states that it can't change: writing raises, or reaches a copy."""
        return field

    @abstractmethod
    def needs_gradient(self, inputs: Any) -> bool:
        """Whether the library will ask for a gradient of this solve."""

    def likely(self, loop: Any, inputs: Any) -> tuple[bool, ...]:
        """Which parameters the library's own gradient may be asked for: what a plan counts on.

        No more than f can be differentiated by, where the others are not asked for.
        """
        return tuple(loop.problem.differentiable)

    @abstractmethod
    def asked(self, inputs: Any) -> Asked:
        """What can be seen of the derivatives that will be asked for."""

    @abstractmethod
    def has_forward_mode(self, problem: Any) -> bool:
        """Whether f has a jvp, cheaper than its vjp, that the planner may choose by itself."""

    @abstractmethod
    def differentiate(self, program: Any, inputs: Any) -> Any:
        """Run a program so that the library's own gradients call its reverse."""

    @abstractmethod
    def run_forward(self, program: Any, inputs: Any) -> Any:
        """``program.forward(inputs)``, compiled where the library compiles."""

    @abstractmethod
    def run_reverse(
        self, program: Any, inputs: Any, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Any:
        """``program.reverse(...)``, compiled where the library compiles."""

    @abstractmethod
    def detach(self, problem: Any, inputs: Any) -> Any:
        """The inputs for ``solve_vjp``: no part of the library's own graph."""

    @abstractmethod
    def autodiff_vjp(self, program: Any, inputs: Any) -> Any:
        """(output leaves, aux, pull) of a program that the library differentiates itself."""

    @abstractmethod
    def pullback(self, layout: Any, bind: Any, params: Any, wanted: Wanted) -> Any:
        """The vjp of ``bind(params)(t, leaves)``, in the form of ``_derivative.TapePullback``.

        Where it has a true attribute ``scales``, its pulls take a third argument, the weight of
        what they add to the accumulator (sums of states then take theirs where they are formed).
        """

    def own_sweep(
        self, solver: Any, layout: Any, vjp: Any, *, outputs: bool, time: bool, stored: bool
    ) -> Any:
        """A reverse sweep that serves the library better than the solver's own, or None.

        ``outputs``, ``time``: the inside of steps, and times, have cotangents. ``stored``: every
        state is, so that no step is replayed.
        """
        return None

    def records_tapes(self, loop: Any) -> bool:
        """Whether a march of this loop can keep what the vjp of f needs (``TapeAdjoint``)."""
        return False

    def tapes(self, loop: Any, inputs: Any, wanted: Wanted) -> Any:
        """What keeps it: it has a guard's ``table``, ``on_grid`` and ``on_tries``, the march's
        ``forward_sweep``, and ``reverse_sweep(rows)`` that pulls the step ``at``.
        """
        raise UnsupportedByBackend(f"{type(self).__name__} keeps no tapes.")

    def kept_bytes(self, loop: Any, inputs: Any, wanted: Wanted) -> tuple[int, bool]:
        """Bytes of a step's tapes as they are kept, and whether that is a gain."""
        return 0, False

    @abstractmethod
    def poison(self, ok: Any, x: Array) -> Array:
        """x where ok, else nan, as are its derivatives: what failed has no result, no gradient."""

    @abstractmethod
    def poison_gradient(self, ok: Any, x: Array) -> Array:
        """x itself, whose derivatives by the library's autodiff are nan unless ok."""

    @abstractmethod
    def stop_gradient(self, x: Any) -> Any:
        """x (an array or a state) as a constant."""

    @abstractmethod
    def tape_bytes(self, vjp: Any, t: Array, y: State) -> tuple[int, int, Any]:
        """Bytes that one linearisation of f keeps, those where states are leaves of their own
        (as in a recorded march), and f's leaves there (None: not run)."""

    def pull_bytes(self, vjp: Any, k: Any, pull: Any) -> int | None:
        """Bytes of the arrays alive at most in one pull of f's linearisation, measured: sums of
        parameters' cotangents, and what is made on the way. None where that can't be seen."""
        return None

    def compiled_bytes(self, loop: Any, inputs: Any, wanted: Wanted, one_tape: bool) -> int:
        """What a compiled gradient takes beside its slots, by the compiler's own account.

        Asked of traced libraries alone.
        """
        raise NotImplementedError

    def compiled(self, problem: Any, solver: Any, *, dense: bool) -> Any:
        """The solver with compiled steps (``compile=True``), or as it is where all is compiled.

        ``dense``: the inside of steps will be asked for.
        """
        raise UnsupportedByBackend(
            f"`compile` is True, but {getattr(self, 'name', 'this library')} has no compiler of "
            "steps; leave `compile` out, or pass arrays of PyTorch or JAX."
        )

    @abstractmethod
    def direct_layout(self, layout: Any) -> Any:
        """A layout of leaves whose times may carry derivatives."""

    @abstractmethod
    def scan_states(
        self, n: Any, bound: int | None, advance: Callable[[Any, State], State], y: State
    ) -> tuple[State, Any]:
        """(state after n steps, the states before each step)."""

    @abstractmethod
    def map_rows(self, row: Callable[[Any], Sequence[Array]], count: int) -> tuple[Array, ...]:
        """``row(j)`` for j < count, stacked."""

    @abstractmethod
    def look_state(self, states: Any, i: Any, n: Any = None, final: Any = None) -> State:
        """The state before step i; ``final`` for step n."""

    @abstractmethod
    def step_of(self, grid: Any, n: int, t: float) -> int:
        """The step in which time t lies: the last that begins before it."""

    @abstractmethod
    def columns(
        self, run: Callable[[Sequence[Array]], tuple[Any, Any]], arrays: Sequence[Array]
    ) -> tuple[Any, Any]:
        """``run(arrays) -> (leaves, rest)``, and the tangents of its leaves by forward mode.

        For each array a tuple of leaves with a leading axis of its real numbers (of a complex
        array the real parts, then the imaginary ones).
        """

    @abstractmethod
    def blank(self, rows: tuple[Array, ...], n: Any, fill: Any) -> tuple[Array, ...]:
        """Rows with the number ``fill`` behind the first n."""

    @abstractmethod
    def devices(self) -> list[str]:
        """Names of the devices that arrays can be on."""

    @abstractmethod
    def synchronize(self, x: Any) -> None:
        """Wait until the arrays of x are computed, where a device or a runtime works by itself."""

    @abstractmethod
    def memory(self, like: Array | None = None) -> MemoryInfo:
        """Memory of the device that ``like`` lives on."""
