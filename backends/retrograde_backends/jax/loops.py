"""JAX: time arithmetic, loops, buffers, tables and positions, over ``primitives``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from retrograde._base.types import (
    Array,
    Body,
    Bool,
    Buffer,
    Carry,
    Condition,
    CountedBody,
    DType,
    Function,
    Index,
    Leaves,
    Scalar,
    State,
    Table,
    Tree,
)
from retrograde._checkpointing import FAR, Slots, schedules

from .primitives import for_loop, least, most, read_row, splitter, while_loop, write_row
from .types import Ref
from .xla_cpu.eligible import allowed
from .xla_cpu.kernel import in_kernel
from .xla_cpu.power import fixed_power

if TYPE_CHECKING:
    from retrograde._backend.protocols import Clock, Layout, Shapes
    from retrograde._backend.stages import ListLayout
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver


def precision(dtype: DType) -> Ref:
    """``finfo`` of a dtype, ml_dtypes' included."""
    finfo: Any = jnp.finfo
    return finfo(dtype)


class TracedClock:
    """Times, steps and errors as 0-d arrays of the state's real dtype; counts as int32."""

    traced = True
    yes = True

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.eps = float(precision(dtype).eps)
        self.holds_squares = self.eps < 1e-10  # of ordinary ones, in float64

    def real(self, x: Scalar) -> Scalar:
        return jnp.asarray(x, self.dtype)

    def constant(self, x: Scalar) -> Scalar:
        return lax.stop_gradient(x)

    def count(self, n: int) -> Index:
        return jnp.asarray(n, jnp.int32)

    def steps(self, t0: Scalar, t1: Scalar, dt: Scalar) -> Index:
        part = (t1 - t0) / dt
        return jnp.maximum(0, jnp.ceil(part * (1 - 4 * self.eps) - 1e-9)).astype(jnp.int32)

    def land(self, t: Scalar, h: Scalar, t1: Scalar) -> tuple[Scalar, Scalar]:
        rest = t1 - t
        t_new = jnp.where(jnp.abs(h) >= jnp.abs(rest) * (1 - 4 * self.eps), t1, t + h)
        return t_new, t_new - t

    def reached(self, at: Scalar, t: Scalar, h: Scalar) -> Bool:
        return jnp.where(h > 0, at <= t, at >= t)

    def beyond(self, at: Scalar, t: Scalar, h: Scalar) -> Bool:
        return jnp.where(h > 0, at > t, at < t)

    def running(self, t: Scalar, t1: Scalar, h: Scalar, floor: float, left: Index) -> Bool:
        going = (t != t1) & (jnp.abs(h) > floor + 4 * self.eps * jnp.abs(t))
        return going if isinstance(left, int) else going & (left > 0)

    def select(self, ok: Bool, new: State, old: State) -> State:
        if ok is True:
            return new
        return jax.tree_util.tree_map(lambda a, b: jnp.where(ok, a, b), new, old)

    def where(self, ok: Bool, a: Scalar, b: Scalar) -> Scalar:
        return (a if ok else b) if isinstance(ok, bool) else jnp.where(ok, a, b)

    def both(self, a: Bool, b: Bool) -> Bool:
        return b if a is True else jnp.logical_and(a, b)

    def either(self, a: Bool, b: Bool) -> Bool:
        return jnp.logical_or(a, b)

    def is_finite(self, x: Scalar) -> Bool:
        return jnp.isfinite(x)

    def near(self, t: Scalar, other: Scalar) -> Bool:
        """Whether two times are the same but for rounding."""
        return jnp.abs(t - other) <= 8 * self.eps * jnp.maximum(jnp.abs(t), jnp.abs(other))

    def in_order(self, t0: Scalar, ts: Table, t1: Scalar) -> Bool:
        """Whether finite times run from t0 to t1, but for rounding."""
        times = jnp.concatenate([t0[None], *([ts] if len(ts) else []), t1[None]])
        steps = jnp.diff(times) * jnp.where(t1 < t0, -1.0, 1.0)
        least = -8 * self.eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
        return jnp.all(steps >= least) & jnp.isfinite(t1 - t0)

    def power(self, x: Scalar, p: float) -> Scalar:
        return jnp.exp(p * jnp.log(x))  # cheaper than pow, and 0**p = exp(-inf) = 0

    def powers(self, x: Scalar, exponents: Sequence[float]) -> tuple[Scalar, ...]:
        # a step waits for the first; for the others there is time until its end
        logarithm = jnp.log(x)
        first = fixed_power(x, exponents[0]) if allowed() else jnp.exp(exponents[0] * logarithm)
        return first, *(jnp.exp(p * logarithm) for p in exponents[1:])

    def root(self, a: Scalar, b: Scalar) -> Scalar:
        return jnp.sqrt(a / b)

    def clip(self, x: Scalar, low: Scalar, high: Scalar) -> Scalar:
        return jnp.where(x > low, jnp.minimum(x, high), low)

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        return jnp.where(b > a, b, a)

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        return jnp.where(b < a, b, a)

    def record_new(self, t0: Scalar, rows: int | None) -> Table:
        assert rows is not None
        return jnp.full(rows + 1, jnp.inf, self.dtype).at[0].set(t0)

    def record(self, times: Table, n: Index, t_new: Scalar, ok: Bool) -> Table:
        # written whether accepted or not: the next try writes the same place again
        return write_row(times, n + 1, t_new)


class LoopHooks:
    """Clock, loops and memory of traced programs."""

    blank: Function

    def compiled(self, problem: Problem, solver: AbstractSolver, *, dense: bool) -> AbstractSolver:
        return solver  # a whole solve is one compiled program as it is

    def clock(self, layout: Layout) -> Clock:
        return TracedClock(layout.real_dtype)

    def most(self, x: Index) -> Index:
        return most(x)

    def report_from_program(
        self, report: Callable[[Scalar], None], part: Scalar, after: Scalar | None, always: Bool
    ) -> None:
        part = least(jax.lax.stop_gradient(part))
        if after is None:
            jax.debug.callback(report, part)
            return
        due = jnp.floor(100 * least(jax.lax.stop_gradient(after))) > jnp.floor(100 * part)
        call = partial(jax.debug.callback, report)
        jax.lax.cond(least(always) | due, call, lambda part: None, part)

    def while_loop(self, cond: Condition, body: Body, s: Carry) -> Carry:
        return while_loop(cond, body, s)

    def for_loop(self, low: Index, high: Index, body: CountedBody, s: Carry) -> Carry:
        return for_loop(low, high, body, s)

    def cond(self, ok: Bool, yes: Function, no: Function, *operands: Carry) -> Carry:
        if isinstance(ok, bool):
            return yes(*operands) if ok else no(*operands)
        return jax.lax.cond(ok, yes, no, *operands)

    def copied(self, tree: Tree) -> Tree:
        return tree  # arrays can't change

    def real_rows(self, rows: int | None, width: int, layout: Layout) -> Table:
        assert rows is not None
        return jnp.zeros((rows, width), layout.real_dtype)

    def new_buffer(self, rows: int | None, layout: Shapes, *, scratch: bool) -> Buffer:
        assert rows is not None
        pairs = zip(layout.shapes, cast("ListLayout", layout).dtypes, strict=True)
        return tuple(jnp.zeros((rows + scratch, *s), dtype) for s, dtype in pairs)

    def write(self, buffer: Buffer, i: Index, y: State) -> Buffer:
        return tuple(write_row(x, i, row) for x, row in zip(buffer, y, strict=True))

    def read(self, buffer: Buffer, i: Index) -> State:
        return tuple(read_row(x, i) for x in buffer)

    def rows(self, layout: Layout, buffer: Buffer, n: int, valid: Index, fill: Scalar) -> Leaves:
        leaves: Leaves = self.blank(tuple(x[:n] for x in buffer), valid, fill)
        return leaves

    def at_end(self, here: Bool, end: Callable[[], State], inside: Callable[[], State]) -> State:
        # v - x is exact where the two are so near, and so is the sum
        rest = jax.lax.stop_gradient
        pairs = zip(inside(), end(), strict=True)
        return tuple(x + rest(jnp.where(here, v - x, 0.0)) for x, v in pairs)

    def ints(self, values: Sequence[int]) -> Table:
        return jnp.asarray(values, jnp.int32)

    def reals(self, n: int, layout: Layout) -> Table:
        return jnp.zeros(n, layout.real_dtype)

    def placements(self, rows: int, bound: int | None) -> tuple[Table, Table]:
        assert bound is not None
        index, row = schedules.events(rows).upto(bound)
        return self.ints([*index, FAR]), self.ints([*row, rows])

    def table_get(self, table: Table, i: Index) -> Scalar:
        return read_row(table, i)

    def set_row(self, matrix: Array, i: Index, row: Array) -> Array:
        return write_row(matrix, i, row)

    def table_set(self, table: Table, i: Index, value: Scalar) -> Table:
        return write_row(table, i, value)

    def pick(self, ok: Bool, a: Array, b: Array) -> Index:
        return (a if ok else b) if isinstance(ok, bool) else jnp.where(ok, a, b)

    def index(self, i: int) -> Index:
        return jnp.asarray(i, jnp.int32)

    def new_positions(self, rows: int) -> Table:
        return jnp.full(rows + 1, FAR, jnp.int32)

    def rank(self, slots: Slots, positions: Table, n: Index) -> tuple[Table, Index]:
        assert slots.rows is not None
        if in_kernel():
            return _walked(slots, positions, n)
        taken = positions[: slots.rows]
        return jnp.argsort(taken).astype(jnp.int32), jnp.sum(taken < n, dtype=jnp.int32)

    def split(self, slots: int) -> Callable[[Index, Index], Index]:
        return splitter(slots)


def _walked(slots: Slots, positions: Table, n: Index) -> tuple[Tree, Tree]:
    """The same from the table of placements, which is in order: those not written over are left.

    For kernels: as many cheap turns as there were placements, and no sort.
    """
    rows, keep = slots.rows, jnp.asarray(n, jnp.int32)
    assert rows is not None

    def placed(s: Carry) -> Bool:
        return read_row(slots.index, s[0]) < keep

    def step(s: Carry) -> Carry:
        e, top, most, order = s
        row = read_row(slots.row, e)
        live = (row < rows) & (read_row(positions, row) == read_row(slots.index, e))
        order = write_row(order, jnp.where(live, top, rows), row)
        return e + 1, top + live, jnp.where(live, jnp.maximum(most, row), most), order

    zero = jnp.asarray(0, jnp.int32)
    order = jnp.arange(rows + 1, dtype=jnp.int32)
    _, top, most, order = while_loop(placed, step, (zero, zero, zero - 1, order))

    def free(r: Array, s: Carry) -> Carry:
        last, order = s
        dead = read_row(positions, r) >= keep
        return last + dead, write_row(order, jnp.where(dead, last, rows), r)

    # rows taken one after the other and all still in place: what follows them in the table is free
    high = jnp.where(most < top, 0, rows)
    order = for_loop(0, high, free, (top, order))[1]
    return order, top
