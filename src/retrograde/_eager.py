"""Every hook in plain array API and Python control flow: correct for any eager library.

What an unknown library gets as it is, and what adapters override piece by piece.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar

from . import _schedules
from ._clocks import HostClock
from ._eager_direct import DirectHooks
from ._eager_iteration import IterationHooks
from ._eager_rows import Lazy, Rows
from ._errors import UnsupportedByBackend
from ._hardware import host_memory
from ._seam import AbstractBackend, Capability
from ._seam_memory import MemoryInfo
from ._spaces import ListAdjoint, ListLayout, ListStages, Scale
from ._trees import flatten
from ._types import Array, Asked, State, Tree, Wanted

__all__ = ["EagerBackend"]


class EagerBackend(DirectHooks, IterationHooks, AbstractBackend):
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

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    # --- arrays and trees
    def is_array(self, x: object) -> bool:
        if type(x).__module__.partition(".")[0] == "numpy":  # it has an adapter of its own
            return False
        return hasattr(x, "__array_namespace__") and hasattr(x, "shape")

    def flatten(self, tree: Tree) -> tuple[list[Any], Any]:
        return flatten(tree)

    def unflatten(self, treedef: Any, leaves: Iterable[Any]) -> Tree:
        return treedef.unflatten(leaves)

    def floating(self, x: Array) -> str:
        for kind in ("real floating", "complex floating"):
            if self.xp.isdtype(x.dtype, kind):
                return kind.split()[0]
        return ""

    def real_dtype(self, x: Array) -> Any:
        return self.xp.abs(self.xp.zeros((), dtype=x.dtype)).dtype

    def itemsize(self, dtype: Any) -> int:
        bits = self.xp.finfo(dtype).bits
        return int(bits) // 8 * (2 if self.xp.isdtype(dtype, "complex floating") else 1)

    def device_of(self, x: Array) -> Any:
        return getattr(x, "device", None)

    def concrete(self, x: Any) -> float | None:
        return float(x)

    def scalar(self, x: Array) -> Any:
        return float(x)

    def scalar_array(self, t: Any, layout: Any) -> Array:
        return self.xp.asarray(t, dtype=layout.real_dtype, device=layout.device)

    def time_sequence(self, ts: Any, layout: Any) -> Any:
        return [float(t) for t in ts]

    def times_array(self, ts: Any, layout: Any) -> Array:
        if any(self.is_array(t) for t in ts):  # held on the device
            return self.xp.stack([self.scalar_array(t, layout) for t in ts])
        return self.xp.asarray(list(ts), dtype=layout.real_dtype, device=layout.device)

    def accepted_times(self, times: Any, n: int, valid: Any, fill: Any) -> Any:
        return times[1 : n + 1]

    def grid_times(self, grid: Any, n: int) -> Any:
        return [grid.step(0)[0], *(grid.end(i) for i in range(n))] if n else []

    def both(self, a: Any, b: Any) -> Any:
        return bool(a) and bool(b)

    def add_scaled(self, a: Array, w: Any, x: Array) -> Array:
        return a + w * x

    def pair(self, a: Array, b: Array) -> Array:
        return self.xp.real(self.xp.conj(a) * b) if self.floating(a) == "complex" else a * b

    def array(self, values: Any, dtype: Any, device: Any) -> Array:
        return self.xp.asarray(values, dtype=dtype, device=device)

    def stack(self, arrays: Sequence[Array]) -> Array:
        return self.xp.stack(arrays)

    def real_array(self, x: Any, layout: Any) -> Array:
        return self.xp.asarray(x, dtype=layout.real_dtype, device=layout.device)

    def number(self, x: Any) -> Any:
        return x

    def tracked(self, x: Array) -> bool:
        return False

    def concrete_times(self, ts: Any) -> list[float] | None:
        return [float(t) for t in ts]

    def any_array(self, y: State) -> Array:
        return y[0] if isinstance(y, tuple) else y

    def nbytes(self, x: Array) -> int:
        return int(math.prod(x.shape)) * self.itemsize(x.dtype)

    def example(self, problem: Any, fn: Callable[..., Tree], t0: Any) -> tuple[list[Array], Any]:
        args = problem.arguments(problem.params)
        call = self.guard(lambda t, y: fn(t, problem.state_tree(y), args))
        return self.flatten(call(problem.layout.time(t0), problem.y0))

    # --- spaces and clock
    def layout(self, leaves: Sequence[Array]) -> Any:
        return ListLayout(self, leaves)

    def stages(self, layout: Any, tableau: Any, scale: Scale | None = None) -> Any:
        return ListStages(layout, tableau, scale)

    def adjoint(self, layout: Any, tableau: Any) -> Any:
        return ListAdjoint(layout, tableau)

    def clock(self, layout: Any) -> Any:
        return HostClock()

    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    # --- loops and memory
    def while_loop(self, cond: Callable[[Any], Any], body: Callable[[Any], Any], s: Any) -> Any:
        while cond(s):
            s = body(s)
        return s

    def for_loop(self, low: Any, high: Any, body: Callable[[Any, Any], Any], s: Any) -> Any:
        for i in range(low, high):
            s = body(i, s)
        return s

    def cond(self, ok: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
        return yes(*operands) if ok else no(*operands)

    def real_rows(self, rows: int | None, width: int, layout: Any) -> Any:
        return {}

    def new_buffer(self, rows: int | None, layout: Any, *, scratch: bool) -> Any:
        return Rows(rows) if scratch else {}

    def write(self, buffer: Any, i: int, y: State) -> Any:
        buffer[i] = y
        return buffer

    def read(self, buffer: Any, i: int) -> State:
        return buffer[i]

    def rows(self, layout: Any, buffer: Any, n: int, valid: int, fill: Any) -> tuple[Array, ...]:
        states = [buffer[i] for i in range(min(n, valid))]
        leaves: tuple[Array, ...] = layout.stack(states) if states else layout.empty()
        missing = n - len(states)
        if not missing:
            return leaves
        xp = self.xp  # a solve that failed before its last saved time

        def lost(x: Array) -> Array:
            shape = (missing, *x.shape[1:])
            return xp.ones(shape, dtype=x.dtype, device=self.device_of(x)) * fill

        return tuple(xp.concat([x, lost(x)], axis=0) for x in leaves)

    def at_end(self, here: Any, end: Callable[[], State], inside: Callable[[], State]) -> State:
        return end() if here else inside()

    def ints(self, values: Sequence[int]) -> Any:
        return list(values)

    def placements(self, rows: int, bound: int | None) -> tuple[Any, Any]:
        events = _schedules.events(rows)
        return Lazy(events.index), Lazy(events.slot)

    def look(self, table: Any, i: Any) -> Any:
        return table[i]

    def set_int(self, table: Any, i: Any, value: Any) -> Any:
        table[i] = value
        return table

    def pick(self, ok: Any, a: Any, b: Any) -> Any:
        return a if ok else b

    def copied(self, tree: Tree) -> Tree:
        leaves, treedef = self.flatten(tree)
        return self.unflatten(
            treedef, [self.zeros_like(x) + x if self.is_array(x) else x for x in leaves]
        )

    def map_state(self, fn: Callable[[Array], Array], y: State) -> State:
        return tuple(fn(x) for x in y)

    def index(self, i: int) -> Any:
        return i

    def reals(self, n: int, layout: Any) -> Any:
        return [0.0] * n

    def new_positions(self, rows: int) -> Any:
        return {}  # sparse: an ample budget buys millions of slots

    def rank(self, slots: Any, positions: Any, n: int) -> tuple[Any, Any]:
        order = sorted((r for r in positions if r < slots.rows), key=positions.__getitem__)
        free = (r for r in range(slots.rows) if r not in positions)
        return order + list(islice(free, n)), len(order)

    def split(self, slots: int) -> Callable[[Any, Any], Any]:
        return _schedules.split

    # --- derivatives
    def capture(self, problem: Any, t0: Any) -> None:
        leaves = self.lent(problem.layout.unpack(problem.y0))
        args = self.watch(problem.params, "`f` changed its argument `args`")
        y = self.watch(leaves, "`f` changed its argument `y`")
        state = problem.state_tree(problem.layout.pack(leaves))
        result = problem.f(problem.layout.time(t0), state, problem.arguments(problem.params))
        problem.check_result(result)
        y()
        args()

    def guard(self, field: Callable[..., Any]) -> Callable[..., Any]:
        # a copy, as far as the standard goes: then f may do with it what it likes
        copy = partial(self.xp.asarray, copy=True)
        return lambda t, y: field(t, self.map_state(copy, y))

    def poison(self, ok: Any, x: Array) -> Array:
        return x if ok else x * float("nan")

    def poison_gradient(self, ok: Any, x: Array) -> Array:
        return x

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def zeros_like(self, x: Array) -> Array:
        return self.xp.zeros_like(x)

    def accumulate(self, total: Array, x: Array) -> Array:
        return total + x

    def pullback(self, layout: Any, bind: Any, params: Any, wanted: Wanted) -> Any:
        raise UnsupportedByBackend(
            f"the backend {self.name!r} has no vjp of a vector field; pass "
            "`rg.VectorField(f, vjp=...)`."
        )

    def differentiate(self, program: Any, inputs: Any) -> Any:
        return self._unchanged(inputs, program.primal)

    def run_forward(self, program: Any, inputs: Any) -> Any:
        return self._unchanged(inputs, program.forward)

    def _unchanged(self, inputs: Any, run: Callable[[Any], Any]) -> Any:
        """``run(inputs)``, whose parameters must be after it what they were."""
        look = self.watch(inputs.params, "`f` changed its argument `args`")
        with self.quiet():
            result = run(inputs)
        look()
        return result

    def run_reverse(
        self, program: Any, inputs: Any, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Any:
        return program.reverse(inputs, residuals, cotangents, wanted)

    def autodiff_vjp(self, program: Any, inputs: Any) -> Any:
        raise UnsupportedByBackend(
            f"`adjoint` is DirectAdjoint, but {self.name} has no autodiff; use adjoint='auto'."
        )

    def needs_gradient(self, inputs: Any) -> bool:
        return False

    def asked(self, inputs: Any) -> Asked:
        return Asked()

    def has_forward_mode(self, problem: Any) -> bool:
        return False

    def columns(self, run: Any, arrays: Sequence[Array]) -> tuple[Any, Any]:
        raise UnsupportedByBackend(f"{self.name} has no forward mode; use adjoint='auto'.")

    def detach(self, problem: Any, inputs: Any) -> Any:
        return inputs

    def tape_bytes(self, vjp: Any, t: Array, y: State) -> tuple[int, int, Any]:
        k, pull = vjp(t, y)
        tape = getattr(pull, "tape", None)
        if tape is None:  # the user's own vjp keeps a stage's state alone
            return vjp.layout.nbytes, vjp.layout.nbytes, k
        size = tape.nbytes + sum(self.nbytes(x) for x in tape.held(k))
        if tape.held(vjp.layout.unpack(y)):  # then a stage's state lives on
            size += vjp.layout.nbytes
        return size, size, k

    def stop_gradient(self, x: Any) -> Any:
        return x

    def devices(self) -> list[str]:
        inspect = getattr(self.xp, "__array_namespace_info__", None)
        if inspect is None:
            return [str(self.device_of(self.xp.zeros(1)))]
        return [str(device) for device in inspect().devices() if device is not None]

    def synchronize(self, x: Any) -> None:
        pass

    def memory(self, like: Array | None = None) -> MemoryInfo:
        return MemoryInfo(*host_memory())
