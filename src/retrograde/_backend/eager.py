"""Every hook in plain array API and Python control flow: correct for any eager library.

What an unknown library gets as it is, and what adapters override piece by piece. Buffers and tables
are dicts and functions behind an index.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, TypeVar

from .._base.errors import InputError, UnsupportedByBackend
from .._base.memory import MemoryInfo, host_memory
from .._base.trees import flatten
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
    Device,
    DType,
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
    TreeDef,
)
from .._checkpointing import schedules
from .clock import HostClock
from .interface import AbstractBackend, Capability
from .stages import ListLayout, StageCotangents, Stages
from .storage import Lazy, Rows, Stack, device_of, same_row

if TYPE_CHECKING:
    from .._api.solve_program import DifferentiableSolve
    from .._checkpointing.forward import Slots
    from .._controllers.base import Grid
    from .._integrate.problem import Problem
    from .._loops.loop import LeafLayout, LoopSpec
    from .._loops.loop_program import DifferentiableLoop
    from .._solvers.runge_kutta.tableau import Tableau
    from .protocols import (
        Clock,
        FieldVJP,
        Layout,
        Program,
        Runnable,
        Shapes,
        StepAdjoint,
        StepStages,
    )

__all__ = [
    "DirectLayout",
    "DirectStages",
    "EagerBackend",
]


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


class EagerBackend(AbstractBackend):
    """Every hook in plain array API and Python control flow: correct for any eager library.

    Parameters
    ----------
    xp : module
        The library's array-API namespace.

    Examples
    --------
    >>> import numpy as np
    >>> from retrograde.backend import EagerBackend
    >>> class Mine(EagerBackend):
    ...     name = "mine"
    >>> Mine(np).floating(np.ones(2))
    'real'
    """

    name: ClassVar[str] = "generic"
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    slots_by_reference: ClassVar[bool] = True
    array_overhead: ClassVar[int] = 0
    python_loops: ClassVar[bool] = True
    counts_changes: ClassVar[bool] = False

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp

    # --- arrays and trees
    def is_array(self, x: object) -> bool:
        if type(x).__module__.partition(".")[0] == "numpy":  # it has an adapter of its own
            return False
        return hasattr(x, "__array_namespace__") and hasattr(x, "shape")

    def flatten(self, tree: Tree) -> tuple[list[Tree], TreeDef]:
        return flatten(tree)

    def unflatten(self, treedef: TreeDef, leaves: Iterable[Tree]) -> Tree:
        return treedef.unflatten(leaves)

    def floating(self, x: Array) -> str:
        for kind in ("real floating", "complex floating"):
            if self.xp.isdtype(x.dtype, kind):
                return kind.split()[0]
        return ""

    def real_dtype(self, x: Array) -> DType:
        return self.xp.abs(self.xp.zeros((), dtype=x.dtype)).dtype

    def itemsize(self, dtype: DType) -> int:
        bits = self.xp.finfo(dtype).bits
        return int(bits) // 8 * (2 if self.xp.isdtype(dtype, "complex floating") else 1)

    def device_of(self, x: Array) -> Device:
        return getattr(x, "device", None)

    def concrete(self, x: Array) -> float | None:
        return float(x)

    def scalar(self, x: Array) -> Scalar:
        return float(x)

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        return self.xp.asarray(t, dtype=layout.real_dtype, device=layout.device)

    def time_sequence(self, ts: Table, layout: Layout) -> Table:
        return [float(t) for t in ts]

    def times_array(self, ts: Table, layout: Layout) -> Array:
        if any(self.is_array(t) for t in ts):  # held on the device
            return self.xp.stack([self.scalar_array(t, layout) for t in ts])
        return self.xp.asarray(list(ts), dtype=layout.real_dtype, device=layout.device)

    def accepted_times(self, times: Table, n: int, valid: Index, fill: Scalar) -> Table:
        return times[1 : n + 1]

    def grid_times(self, grid: Grid, n: int) -> Table:
        return [grid.step(0)[0], *(grid.end(i) for i in range(n))] if n else []

    def both(self, a: Array, b: Array) -> Bool:
        return bool(a) and bool(b)

    def add_scaled(self, a: Array, w: Scalar, x: Array) -> Array:
        return a + w * x

    def pair(self, a: Array, b: Array) -> Array:
        return self.xp.real(self.xp.conj(a) * b) if self.floating(a) == "complex" else a * b

    def array(self, values: Sequence[Scalar] | Scalar, dtype: DType, device: Device) -> Array:
        return self.xp.asarray(values, dtype=dtype, device=device)

    def stack(self, arrays: Sequence[Array]) -> Array:
        return self.xp.stack(arrays)

    def real_array(self, x: Array, layout: Layout) -> Array:
        return self.xp.asarray(x, dtype=layout.real_dtype, device=layout.device)

    def number(self, x: Array) -> Scalar:
        return x

    def tracked(self, x: Array) -> bool:
        return False

    def concrete_times(self, ts: Table) -> list[float] | None:
        return [float(t) for t in ts]

    def nbytes(self, x: Array) -> int:
        return int(math.prod(x.shape)) * self.itemsize(x.dtype)

    def example(self, problem: Problem, fn: Function, t0: Scalar) -> tuple[list[Array], TreeDef]:
        args = problem.arguments(problem.params)
        call = self.guard(lambda t, y: fn(t, problem.state_tree(y), args))
        return self.flatten(call(problem.layout.time(t0), problem.y0))

    # --- stages and clock
    def layout(self, leaves: Sequence[Array]) -> Layout:
        return ListLayout(self, leaves)

    def stages(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> StepStages:
        return Stages(layout, tableau, scale)

    def adjoint(self, layout: Layout, tableau: Tableau) -> StepAdjoint:
        return StageCotangents(layout, tableau)

    def clock(self, layout: Layout) -> Clock:
        return HostClock()

    def quiet(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    # --- loops and memory
    def while_loop(self, cond: Condition, body: Body, s: Carry) -> Carry:
        while cond(s):
            s = body(s)
        return s

    def for_loop(self, low: Index, high: Index, body: CountedBody, s: Carry) -> Carry:
        for i in range(low, high):
            s = body(i, s)
        return s

    def cond(self, ok: Bool, yes: Function, no: Function, *operands: Carry) -> Carry:
        return yes(*operands) if ok else no(*operands)

    def real_rows(self, rows: int | None, width: int, layout: Layout) -> Table:
        return {}

    def new_buffer(self, rows: int | None, layout: Shapes, *, scratch: bool) -> Buffer:
        return Rows(rows) if scratch else {}

    def write(self, buffer: Buffer, i: int, y: State) -> Buffer:
        buffer[i] = y
        return buffer

    def read(self, buffer: Buffer, i: int) -> State:
        return buffer[i]

    def rows(self, layout: Layout, buffer: Buffer, n: int, valid: int, fill: Scalar) -> Leaves:
        states = [buffer[i] for i in range(min(n, valid))]
        leaves: Leaves = layout.stack(states) if states else layout.empty()
        missing = n - len(states)
        if not missing:
            return leaves
        xp = self.xp  # a solve that failed before its last saved time

        def lost(x: Array) -> Array:
            shape = (missing, *x.shape[1:])
            return xp.ones(shape, dtype=x.dtype, device=self.device_of(x)) * fill

        return tuple(xp.concat([x, lost(x)], axis=0) for x in leaves)

    def at_end(self, here: Bool, end: Callable[[], State], inside: Callable[[], State]) -> State:
        return end() if here else inside()

    def ints(self, values: Sequence[int]) -> Table:
        return list(values)

    def placements(self, rows: int, bound: int | None) -> tuple[Table, Table]:
        events = schedules.events(rows)
        return Lazy(events.index), Lazy(events.slot)

    def table_get(self, table: Table, i: Index) -> Scalar:
        return table[i]

    def table_set(self, table: Table, i: Index, value: Scalar) -> Table:
        table[i] = value
        return table

    def pick(self, ok: Bool, a: Array, b: Array) -> Index:
        return a if ok else b

    def copied(self, tree: Tree) -> Tree:
        leaves, treedef = self.flatten(tree)
        return self.unflatten(
            treedef, [self.zeros_like(x) + x if self.is_array(x) else x for x in leaves]
        )

    def map_state(self, fn: Callable[[Array], Array], y: State) -> State:
        return tuple(fn(x) for x in y)

    def index(self, i: int) -> Index:
        return i

    def reals(self, n: Index, layout: Layout) -> Table:
        return [0.0] * n

    def new_positions(self, rows: int) -> Table:
        return {}  # sparse: an ample budget buys millions of slots

    def rank(self, slots: Slots, positions: Table, n: int) -> tuple[Table, Index]:
        assert slots.rows is not None
        order = sorted((r for r in positions if r < slots.rows), key=positions.__getitem__)
        free = (r for r in range(slots.rows) if r not in positions)
        return order + list(islice(free, n)), len(order)

    def split(self, slots: int) -> Callable[[Index, Index], Index]:
        return schedules.split

    # --- derivatives
    def capture(self, problem: Problem, t0: Scalar) -> None:
        leaves = self.lent(problem.layout.unpack(problem.y0))
        args = self.watch(problem.params, "`f` changed its argument `args`")
        y = self.watch(leaves, "`f` changed its argument `y`")
        state = problem.state_tree(problem.layout.pack(leaves))
        result = problem.f(problem.layout.time(t0), state, problem.arguments(problem.params))
        problem.check_result(result)
        y()
        args()

    def guard(self, field: Function) -> Function:
        # a copy, as far as the standard goes: then f may do with it what it likes
        copy = partial(self.xp.asarray, copy=True)
        return lambda t, y: field(t, self.map_state(copy, y))

    def nan_unless(self, ok: Bool, x: Array) -> Array:
        return x if ok else x * float("nan")

    def poison_gradient(self, ok: Bool, x: Array) -> Array:
        return x

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def zeros_like(self, x: Array) -> Array:
        return self.xp.zeros_like(x)

    def accumulate(self, total: Array, x: Array) -> Array:
        return total + x

    def pullback(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> FieldVJP:
        raise UnsupportedByBackend(
            f"the backend {self.name!r} has no vjp of a vector field; pass "
            "`rg.VectorField(f, vjp=...)`."
        )

    def differentiate(self, program: DifferentiableSolve, inputs: Inputs) -> tuple[Leaves, Aux]:
        return self._unchanged(inputs, program.primal)

    def run_forward(self, program: Runnable, inputs: Inputs) -> Aux:
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
        return program.reverse(inputs, residuals, cotangents, wanted)

    def autodiff_vjp(
        self, program: DifferentiableSolve, inputs: Inputs
    ) -> tuple[Leaves, Aux, Callable[[Leaves], Inputs]]:
        raise UnsupportedByBackend(
            f"`adjoint` is DirectAdjoint, but {self.name} has no autodiff; use adjoint='auto'."
        )

    def needs_gradient(self, inputs: Inputs) -> bool:
        return False

    def requested(self, inputs: Inputs) -> RequestedTransforms:
        return RequestedTransforms()

    def has_forward_mode(self, problem: Problem) -> bool:
        return False

    def columns(
        self, run: Function, arrays: Sequence[Array]
    ) -> tuple[tuple[Leaves, Aux], list[Leaves]]:
        raise UnsupportedByBackend(f"{self.name} has no forward mode; use adjoint='auto'.")

    def detach(self, problem: Problem, inputs: Inputs) -> Inputs:
        return inputs

    def tape_bytes(
        self, vjp: FieldVJP, t: Array, y: State
    ) -> tuple[int, int, Sequence[Array] | None]:
        k, pull = vjp(t, y)
        tape = getattr(pull, "tape", None)
        if tape is None:  # the user's own vjp keeps a stage's state alone
            return vjp.layout.nbytes, vjp.layout.nbytes, k
        size = tape.nbytes + sum(self.nbytes(x) for x in tape.held(k))
        if tape.held(vjp.layout.unpack(y)):  # then a stage's state lives on
            size += vjp.layout.nbytes
        return size, size, k

    def stop_gradient(self, x: Array) -> State:
        return x

    def devices(self) -> list[str]:
        inspect = getattr(self.xp, "__array_namespace_info__", None)
        if inspect is None:
            return [str(self.device_of(self.xp.zeros(1)))]
        return [str(device) for device in inspect().devices() if device is not None]

    def synchronize(self, x: Array) -> None:
        pass

    def memory(self, like: Array | None = None) -> MemoryInfo:
        return MemoryInfo(*host_memory())

    # --- DirectAdjoint: loops, rows and look-ups as plain Python
    def direct_kind(self, layout: Layout) -> Callable[[EagerBackend, Leaves], Layout]:
        """What makes layouts that autodiff follows."""
        return DirectLayout

    def direct_layout(self, layout: Layout) -> Layout:
        made = self.direct_kind(layout)(self, layout.unpack(layout.zeros()))
        return made if layout.origin is None else made.at(layout.origin)

    def direct_stages(self, layout: Layout, tableau: Tableau, scale: Scale | None) -> StepStages:
        return DirectStages(layout, tableau, scale)

    def scan_states(
        self, n: Index, bound: int | None, advance: Callable[[Index, State], State], y: State
    ) -> tuple[State, Buffer]:
        states = []
        for i in range(n):
            states.append(y)
            y = advance(i, y)
        return y, states

    def map_rows(self, row: Callable[[Index], Sequence[Array]], count: Index) -> Leaves:
        rows = [row(j) for j in range(count)]
        return tuple(self.xp.stack(leaves) for leaves in zip(*rows, strict=True))

    def look_state(self, states: Buffer, i: Index, n: Index = None, final: State = None) -> State:
        return final if n is not None and i == n else states[i]

    def step_of(self, grid: Grid, n: int, t: float) -> int:
        inside = [i for i in range(n) if (t - grid.step(i)[0]) * grid.step(i)[1] > 0]
        return inside[-1] if inside else 0

    def blank(self, rows: Leaves, n: Index, fill: Scalar) -> Leaves:
        if all(n >= x.shape[0] for x in rows):
            return rows
        concat, zeros = self.xp.concat, self.xp.zeros_like
        return tuple(concat([x[:n, ...], zeros(x[n:, ...]) + fill], axis=0) for x in rows)

    # --- public loops
    def carry_leaves(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        return leaves

    def array_bytes(self, x: Array) -> int:
        kinds = ("bool", "integral", "real floating", "complex floating")
        kind = next(k for k in kinds if self.xp.isdtype(x.dtype, k))
        info = self.xp.iinfo if kind == "integral" else self.xp.finfo
        size = 1 if kind == "bool" else info(x.dtype).bits // 8
        pair = 2 if kind == "complex floating" else 1
        return int(math.prod(x.shape)) * int(size) * pair

    def row_like(self, x: Array) -> Array:
        return self.xp.zeros(x.shape[1:], dtype=x.dtype, device=device_of(x))

    def row(self, x: Array, i: Index) -> Array:
        return x[i, ...]

    def new_stack(self, rows: int, like: Sequence[Array] | None) -> Buffer:
        return Stack(self.xp, rows)

    def put(self, stack: Buffer, i: Index, leaves: Sequence[Array]) -> Buffer:
        stack.put(i, leaves)
        return stack

    def stacked(self, stack: Buffer, like: Sequence[Array]) -> list[Array]:
        if stack.leaves is not None:
            return list(stack.leaves)
        zeros, rows = self.xp.zeros, stack.rows
        return [zeros((rows, *x.shape), dtype=x.dtype, device=device_of(x)) for x in like]

    def predicate(self, x: Array) -> Bool:
        return bool(x)

    def negated(self, ok: Bool) -> Bool:
        return not ok

    def lent(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        return [self.xp.asarray(x, copy=True) if self.is_array(x) else x for x in leaves]

    def watch(self, leaves: Sequence[Tree], whose: str) -> Callable[[], None]:
        arrays = [x for x in leaves if self.is_array(x)]
        copies = [self.xp.asarray(x, copy=True) for x in arrays]

        def compare() -> None:
            for x, same in zip(arrays, copies, strict=True):
                if not bool(self.xp.all((x == same) | (x != x))):
                    raise InputError(f"{whose} in place; return a new array instead.")

        return compare

    def capture_loop(self, loop: LoopSpec) -> None:
        pass

    def followed_scan(
        self, step: Function, state: Carry, count: int, reverse: bool
    ) -> tuple[Carry, list[Array]]:
        rows: list[Sequence[Array]] = []
        for i in range(count):
            state, ys = step(i, state)
            for x, first in zip(ys, rows[0] if rows else ys, strict=True):
                same_row(first, x)
            rows.append(ys)
        if reverse:
            rows.reverse()
        return state, [self.xp.stack(leaf) for leaf in zip(*rows, strict=True)]

    def bounded_loop(self, running: Condition, body: Body, s: Carry, bound: int | None) -> Carry:
        while (bound is None or s[0] < bound) and running(s):
            s = body(s)
        return s

    def body_tape_bytes(
        self, vjp: FieldVJP, span: Carry, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        out, pull = vjp(span, tuple(leaves))
        tape = getattr(pull, "tape", None)
        same = [new is old for new, old in zip(out, leaves, strict=False)]
        return 0 if tape is None else int(tape.nbytes), same

    def differentiate_loop(
        self, program: DifferentiableLoop, inputs: Inputs, kind: str
    ) -> tuple[Leaves, Aux]:
        return program.primal(inputs)

    def detach_loop(self, loop: LoopSpec, inputs: Inputs) -> Inputs:
        return inputs

    def tracked_leaves(self, loop: LoopSpec, params: Sequence[Array]) -> Sequence[bool]:
        return [False] * len(params)
