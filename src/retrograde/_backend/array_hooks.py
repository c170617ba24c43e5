"""The backend interface: arrays, trees and scalars; states, steps, loops and tables.

Each hook stands here with what it promises and the generic form of it, in plain array API and
Python control flow: correct for any eager library, overridden by adapters piece by piece. Buffers
and tables are dicts and functions behind an index.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, cast

from .._base.errors import InputError, UnsupportedByBackend
from .._base.trees import flatten
from .._checkpointing import schedules
from .clock import HostClock
from .stages import ListLayout, StageCotangents, Stages
from .storage import Lazy, Rows
from .structure import Structure

if TYPE_CHECKING:
    from .._base.types import (
        Array,
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
        Leaves,
        Namespace,
        Scalar,
        Scale,
        State,
        Table,
        Tree,
        TreeDef,
    )  # fmt: skip
    from .._checkpointing.forward import Slots
    from .._controllers.base import Grid
    from .._integrate.problem import Problem
    from .._solvers.runge_kutta.tableau import Tableau
    from .interface import AbstractBackend
    from .linear import Linear
    from .protocols import Clock, Layout, Shapes, StepAdjoint, StepStages
    from .samples import SampleLayout


class ArrayHooks:
    """Hooks for arrays, trees and scalars."""

    name: ClassVar[str]
    xp: Namespace
    """The library's array-API namespace."""

    def is_array(self, x: object) -> bool:
        """Whether x is an array of this library."""
        if type(x).__module__.partition(".")[0] == "numpy":  # it has an adapter of its own
            return False
        return hasattr(x, "__array_namespace__") and hasattr(x, "shape")

    def flatten(self, tree: Tree) -> tuple[list[Tree], TreeDef]:
        """Leaves and structure of a tree; None is no leaf."""
        return flatten(tree)

    def unflatten(self, treedef: TreeDef, leaves: Iterable[Tree]) -> Tree:
        """The inverse of :meth:`flatten`."""
        return treedef.unflatten(leaves)

    def floating(self, x: Array) -> str:
        """'real', 'complex', or '' for a dtype that has no derivative."""
        for kind in ("real floating", "complex floating"):
            if self.xp.isdtype(x.dtype, kind):
                return kind.split()[0]
        return ""

    def real_dtype(self, x: Array) -> DType:
        """The real floating dtype of the same precision as x's."""
        return self.xp.abs(self.xp.zeros((), dtype=x.dtype)).dtype

    def itemsize(self, dtype: DType) -> int:
        """Bytes of one element."""
        bits = self.xp.finfo(dtype).bits
        return int(bits) // 8 * (2 if self.xp.isdtype(dtype, "complex floating") else 1)

    def nbytes(self, x: Array) -> int:
        """Bytes of an array's elements, of any dtype."""
        kinds = ("bool", "integral", "real floating", "complex floating")
        kind = next(k for k in kinds if self.xp.isdtype(x.dtype, k))
        info = self.xp.iinfo if kind == "integral" else self.xp.finfo
        size = 1 if kind == "bool" else info(x.dtype).bits // 8
        pair = 2 if kind == "complex floating" else 1
        return int(math.prod(x.shape)) * int(size) * pair

    def device_of(self, x: Array) -> Device:
        """Where x lives."""
        return getattr(x, "device", None)

    def concrete(self, x: Array) -> float | None:
        """The value of a scalar, or None where it is only known when the program runs."""
        return float(x)

    def tracked(self, x: Array) -> bool:
        """Whether the library will ask for x's gradient, as far as that is known now."""
        return False

    def concrete_times(self, ts: Table) -> list[float] | None:
        """Values of saved times, None where they are traced."""
        return [float(t) for t in ts]

    def number(self, x: Array) -> Scalar:
        """A count or time as a Python number where its value is known."""
        return x

    def call_back(self, fn: Function, *args: Tree) -> None:
        """``fn(*args)`` on the host, from within a program too."""
        fn(*args)

    def on_host(self, x: Array) -> Array:
        """x without its history, as something that ``numpy.asarray`` takes: for pictures and
        files, never for a solve."""
        return x

    def array(self, values: Sequence[Scalar] | Scalar, dtype: DType, device: Device) -> Array:
        """A number, nested lists of numbers, or an array of this library, in this dtype there."""
        return self.xp.asarray(values, dtype=dtype, device=device)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Arrays of one shape along a new first axis."""
        return self.xp.stack(arrays)

    def real_array(self, x: Array, layout: Layout) -> Array:
        """A number or array as an array of y's real dtype and device."""
        return self.xp.asarray(x, dtype=layout.real_dtype, device=layout.device)

    def scalar(self, x: Array) -> Scalar:
        """A 0-d array as the clock's scalar: the one host read of a step."""
        return float(x)

    def held(self, x: Array) -> Scalar:
        """A 0-d array as passes sum it: a scalar of the clock where that costs no wait, else x."""
        return self.scalar(x)

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        """A clock's scalar as a 0-d array of y's real dtype and device."""
        return self.xp.asarray(t, dtype=layout.real_dtype, device=layout.device)

    def time_sequence(self, ts: Table, layout: Layout) -> Table:
        """Times as the clock indexes them (with :meth:`table_get`)."""
        return [float(t) for t in ts]

    def times_array(self, ts: Table, layout: Layout) -> Array:
        """Times of the clock as a 1-D array of y's real dtype and device."""
        if any(self.is_array(t) for t in ts):  # held on the device
            return self.xp.stack([self.scalar_array(t, layout) for t in ts])
        return self.xp.asarray(list(ts), dtype=layout.real_dtype, device=layout.device)

    def accepted_times(self, times: Table, n: int, valid: Index, fill: Scalar) -> Table:
        """Times 1..n of a record; ``fill`` behind the first ``valid``."""
        return times[1 : n + 1]

    def grid_times(self, grid: Grid, n: int) -> Table:
        """Times 0..n of a grid, in the form of a record."""
        return [grid.step(0)[0], *(grid.end(i) for i in range(n))] if n else []

    def both(self, a: Array, b: Array) -> Bool:
        """Logical and of two predicates."""
        return bool(a) and bool(b)

    def add_scaled(self, a: Array, w: Scalar, x: Array) -> Array:
        """``a + w * x`` for a number or 0-d array w, as one node where autodiff records it."""
        return a + w * x

    def pair(self, a: Array, b: Array) -> Array:
        """Elementwise real pairing of a cotangent a with a tangent b."""
        return self.xp.real(self.xp.conj(a) * b) if self.floating(a) == "complex" else a * b

    def matmul(self, a: Array, b: Array) -> Array:
        """``a @ b`` in the full precision of the dtype, whatever the library's default is."""
        return a @ b

    def set_row(self, matrix: Array, i: Index, row: Array) -> Array:
        """The matrix with row i replaced, in place where arrays can be written."""
        matrix[i, ...] = row
        return matrix

    def zeros_like(self, x: Array) -> Array:
        """An array of zeros, to be added into by :meth:`accumulate`."""
        return self.xp.zeros_like(x)

    def accumulate(self, total: Array, x: Array) -> Array:
        """``total + x``; adapters may add in place, ``total`` belongs to the pass."""
        return total + x

    def copied(self, tree: Tree) -> Tree:
        """A tree whose arrays and lists share nothing that :meth:`accumulate` may change."""
        leaves, treedef = self.flatten(tree)
        return self.unflatten(
            treedef, [self.zeros_like(x) + x if self.is_array(x) else x for x in leaves]
        )

    def map_state(self, fn: Callable[[Array], Array], y: State) -> State:
        """fn on every array of a state, or on an array."""
        return tuple(fn(x) for x in y) if isinstance(y, tuple) else fn(y)

    def example(self, problem: Problem, fn: Function, t0: Scalar) -> tuple[list[Array], TreeDef]:
        """Leaves like those of ``fn(t0, y0, args)``, and their structure."""
        args = problem.arguments(problem.params)
        call = self.guard(lambda t, y: fn(t, problem.state_tree(y), args))
        return self.flatten(call(problem.layout.time(t0), problem.y0))

    # --- what functions of the user's are given
    def view(self, x: Array) -> Array:
        """An array of the user's as f may have it: read-only where the library knows that."""
        return x

    def guard(self, field: Function) -> Function:
        """``field(t, y)`` of states that it can't change: writing raises, or reaches a copy."""
        # a copy, as far as the standard goes: then f may do with it what it likes
        copy = partial(self.xp.asarray, copy=True)
        return lambda t, y: field(t, self.map_state(copy, y))

    def lent(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        """The same leaves for a body: writing into them raises, or reaches a copy."""
        return [self.xp.asarray(x, copy=True) if self.is_array(x) else x for x in leaves]

    def explain(self, error: BaseException, whose: str) -> None:
        """Raise InputError where an error of the library's says that such a write was refused."""
        return

    def watch(self, leaves: Sequence[Tree], whose: str) -> Callable[[], None]:
        """A function that raises InputError if arrays were changed in place since.

        ``whose``: by whom, and what of his they are (``"`body` changed its argument"``).
        """
        arrays = [x for x in leaves if self.is_array(x)]
        copies = [self.xp.asarray(x, copy=True) for x in arrays]

        def compare() -> None:
            for x, same in zip(arrays, copies, strict=True):
                if not bool(self.xp.all((x == same) | (x != x))):
                    raise InputError(f"{whose} in place; return a new array instead.")

        return compare


class LoopHooks(ArrayHooks):
    """Hooks for stages, clock, loops and buffers."""

    def layout(self, leaves: Sequence[Array]) -> Layout:
        """How states of these leaves are carried (``stages.ListLayout``)."""
        return ListLayout(cast("AbstractBackend", self), leaves)

    def stages(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> StepStages:
        """stages, made once a pass."""
        return Stages(layout, tableau, scale)

    def adjoint(self, layout: Layout, tableau: Tableau) -> StepAdjoint:
        """stage cotangents, made once a pass."""
        return StageCotangents(layout, tableau)

    def sample_stages(
        self, layout: SampleLayout, tableau: Tableau, scale: Scale | None = None
    ) -> StepStages:
        """Stages where every sample of a batch has a step of its own."""
        from .samples import SampleStages

        return SampleStages(layout, tableau, scale)

    def map_samples(
        self, fn: Function, samples: int, mapped: Sequence[bool], arguments: Sequence[Tree]
    ) -> Tree:
        """``fn`` of each sample of what is ``mapped``, results stacked: traced libraries."""
        raise NotImplementedError

    def recorded_vjp(
        self, fn: Function, arguments: tuple[Tree, ...]
    ) -> tuple[Tree, Function, Tree]:
        """Of ``fn(*arguments) -> (results, more)``: results, pull and more: traced libraries."""
        raise NotImplementedError

    def sample_rows(self, columns: Array) -> Array:
        """An array (n, b) as one of shape (b, n), for f."""
        return columns.T

    def sample_columns(self, parts: Sequence[Array]) -> Array:
        """Arrays (b, m) as the rows of one of shape (n, b), best in memory of its own."""
        flat = [self.xp.permute_dims(x, (1, 0)) for x in parts]
        return flat[0] if len(flat) == 1 else self.xp.concat(flat, axis=0)

    def sample_host(self, like: Array) -> str:
        """The library whose arrays share memory with those like this one, where loops over a batch
        take less time in its arithmetic; '' for none.
        """
        return ""

    def host(self, layout: Layout) -> Namespace | None:
        """NumPy, where states of this layout share memory with its arrays."""
        return None

    def hosts_now(self) -> bool:
        """Whether nothing follows what is done now, so that NumPy may do it."""
        return True

    def to_host(self, x: Array) -> Array:
        """An array's memory as that library's."""
        raise NotImplementedError

    def from_host(self, x: Array) -> Array:
        """The other way."""
        raise NotImplementedError

    def sample_adjoint(self, layout: SampleLayout, tableau: Tableau) -> StepAdjoint:
        """Their cotangents."""
        from .samples import SampleCotangents

        return SampleCotangents(layout, tableau)

    def linear(self, layout: Layout, structure: Structure = None) -> Linear:
        """Jacobians of states of this layout, and linear systems in them (``linear``)."""
        from .banded import BandLinear
        from .linear import DenseLinear, linear_algebra

        return linear_algebra(layout, structure, dense=DenseLinear, band=BandLinear)

    def clock(self, layout: Layout) -> Clock:
        """The arithmetic of times, steps and counts."""
        return HostClock()

    def apart(self, fn: Function) -> Function:
        """fn as one call to the library's compiler of Python, if it has one (``opaque``)."""
        return fn

    def quiet(self) -> contextlib.AbstractContextManager[object]:
        """A context in which overflow in a trial step, which is rejected, warns nobody."""
        return contextlib.nullcontext()

    def most(self, x: Index) -> Index:
        """The largest x of all samples of a batch that the library maps this program over."""
        return x

    def report_from_program(
        self, report: Callable[[Scalar], None], part: Scalar, after: Scalar | None, always: Bool
    ) -> None:
        """Have a program call ``report(part)`` as it runs, where ``always``, or where another per
        cent begins from ``part`` to ``after`` (None: always); of a batch, with the least part.

        Asked of traced libraries alone.
        """
        name = getattr(self, "name", "this library")
        raise UnsupportedByBackend(
            f"`progress` is set, but programs of {name} report nothing on the way; leave it out."
        )

    def while_loop(self, cond: Condition, body: Body, s: Carry) -> Carry:
        """``while cond(s): s = body(s)``."""
        while cond(s):
            s = body(s)
        return s

    def for_loop(self, low: Index, high: Index, body: CountedBody, s: Carry) -> Carry:
        """``for i in range(low, high): s = body(i, s)``, counted."""
        for i in range(low, high):
            s = body(i, s)
        return s

    def cond(self, ok: Bool, yes: Function, no: Function, *operands: Carry) -> Carry:
        """``yes(*operands)`` where ok, else ``no(*operands)``; the other is not run."""
        return yes(*operands) if ok else no(*operands)

    def real_rows(self, rows: int | None, width: int, layout: Layout) -> Table:
        """A table of rows of reals (:meth:`table_get`, :meth:`table_set`); None: it grows."""
        return {}

    def new_buffer(self, rows: int | None, layout: Shapes, *, scratch: bool) -> Buffer:
        """Room for ``rows`` states, and if asked for a scratch row of index ``rows``."""
        return Rows(rows) if scratch else {}

    def write(self, buffer: Buffer, i: Index, y: State) -> Buffer:
        """The buffer with row i replaced."""
        buffer[i] = y
        return buffer

    def read(self, buffer: Buffer, i: Index) -> State:
        """Row i."""
        return buffer[i]

    def rows(self, layout: Layout, buffer: Buffer, n: Index, valid: Index, fill: Scalar) -> Leaves:
        """The first n rows as leaves of shape (n, *shape); ``fill`` behind the first ``valid``."""
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
        """The state at a step's end where ``here``, else inside it; with the inside's derivatives,
        where autodiff follows the integration: those by the saved time are its alone."""
        return end() if here else inside()

    def index(self, i: int) -> Index:
        """An int as the loops carry it."""
        return i

    def ints(self, values: Sequence[int]) -> Table:
        """A small table of ints for :meth:`table_get` and :meth:`table_set`."""
        return list(values)

    def reals(self, n: Index, layout: Layout) -> Table:
        """A table of n zeros in the clock's reals."""
        return [0.0] * n

    def table_get(self, table: Table, i: Index) -> Scalar:
        """Entry i of a table of ints or times."""
        return table[i]

    def table_set(self, table: Table, i: Index, value: Scalar) -> Table:
        """The table with entry i replaced."""
        table[i] = value
        return table

    def placements(self, rows: int, bound: int | None) -> tuple[Table, Table]:
        """Tables (step index, row) of the online schedule, up to ``bound`` steps."""
        events = schedules.events(rows)
        return Lazy(events.index), Lazy(events.slot)

    def pick(self, ok: Bool, a: Array, b: Array) -> Index:
        """The index a where ok, else b."""
        return a if ok else b

    def new_positions(self, rows: int) -> Table:
        """A table for the step index of each row and of the scratch row, all of them ``FAR``."""
        return {}  # sparse: an ample budget buys millions of slots

    def rank(self, slots: Slots, positions: Table, n: Index) -> tuple[Table, Index]:
        """Rows (without the scratch row) by ascending position, and how many are below n.

        ``slots`` tells by which placements the positions, all below n, came about.
        """
        assert slots.rows is not None
        order = sorted((r for r in positions if r < slots.rows), key=positions.__getitem__)
        free = (r for r in range(slots.rows) if r not in positions)
        return order + list(islice(free, n)), len(order)

    def split(self, slots: int) -> Callable[[Index, Index], Index]:
        """``split(length, free)``: the binomial split with at most ``slots`` slots."""
        return schedules.split
