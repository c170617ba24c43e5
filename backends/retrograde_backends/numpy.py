"""NumPy: the eager reference. Steps are products of rows of matrices (``flat.stages``).

NumPy 2 is itself an array-API namespace; method calls and 0-d arrays are used where they are
cheaper than the functions of the standard (measured: ``row.dot(rows)`` 0.33 us,
``tensordot`` 6.2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from retrograde._backend.structure import Structure
from retrograde._base.errors import InputError
from retrograde._base.types import (
    Array,
    Device,
    DType,
    Function,
    Leaves,
    Namespace,
    Scalar,
    State,
    Tree,
    TreeDef,
)

from .flat.adapter import FlatBackend
from .flat.stages import FlatLayout, stamper

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.linear import Linear
    from retrograde._backend.protocols import Layout
    from retrograde._integrate.problem import Problem


class _Quiet(np.errstate):
    """No warnings of overflow; a write into what is read-only is explained."""

    def __init__(self, bk: AbstractBackend, **ignored: Any) -> None:
        super().__init__(**ignored)
        self.bk = bk

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is not None:
            self.bk.explain(error, "`f` changed its argument `y`")


def _nothing() -> None:
    """Nothing to look at: what is read-only has not changed."""


class NumpyBackend(FlatBackend):
    """The adapter of NumPy, and by its ``np`` argument of CuPy."""

    name: ClassVar[str] = "numpy"
    locks: ClassVar[bool] = True
    array_overhead: ClassVar[int] = 160  # its header, and its entries in a dict and two lists

    def __init__(self, xp: Namespace) -> None:
        super().__init__(xp)
        # operations on 0-d arrays return scalars in NumPy; both are arrays here
        self._array = (xp.ndarray, np.generic) if xp is np else xp.ndarray
        self.scale_into = xp.multiply  # (table, h, out), once a step

    def is_array(self, x: object) -> bool:
        return isinstance(x, self._array)

    def floating(self, x: Array) -> str:
        return {"f": "real", "c": "complex"}.get(x.dtype.kind, "")

    def real_dtype(self, x: Array) -> DType:
        return np.finfo(x.dtype).dtype

    def itemsize(self, dtype: DType) -> int:
        return int(dtype.itemsize)

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        return self.xp.asarray(t, layout.real_dtype)

    def array(self, values: Sequence[Scalar] | Scalar, dtype: DType, device: Device) -> Array:
        return self.xp.asarray(values, dtype)

    def linear(self, layout: Layout, structure: Structure = None) -> Linear:
        if self.xp is not np:
            return super().linear(layout, structure)
        from .flat.lapack import numpy_linear  # for implicit methods alone

        return numpy_linear(layout, structure)

    def host(self, layout: Layout) -> Namespace | None:
        return np if self.xp is np else None

    def to_host(self, x: Array) -> Array:
        return x

    def from_host(self, x: Array) -> Array:
        return x

    def quiet(self) -> contextlib.AbstractContextManager[object]:
        ignored = dict.fromkeys(("over", "invalid", "divide", "under"), "ignore")
        return _Quiet(self, **ignored)

    # --- what functions of the user's are given is read-only
    def view(self, x: Array) -> Array:
        x = x.view()
        x.setflags(False)
        return x

    def lent(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        return [self.view(x) if isinstance(x, np.ndarray) else x for x in leaves]

    def watch(self, leaves: Sequence[Tree], whose: str) -> Callable[[], None]:
        return _nothing

    def guard(self, field: Function) -> Function:
        def guarded(t: Array, y: State) -> Leaves:
            if type(y) is tuple:
                for x in y:
                    x.setflags(False)
            else:
                y.setflags(False)
            return field(t, y)  # type: ignore[no-any-return]

        return guarded

    def capture(self, problem: Problem, t0: Scalar) -> None:
        y, args = problem.state_tree(problem.y0), problem.arguments(problem.params)
        try:
            problem.check_result(problem.f(problem.layout.time(t0), y, args))
        except ValueError as error:
            self.explain(error, "`f` changed its argument `y`")
            raise

    def example(self, problem: Problem, fn: Function, t0: Scalar) -> tuple[list[Array], TreeDef]:
        try:
            return super().example(problem, fn, t0)
        except ValueError as error:
            self.explain(error, "`saveat.fn` changed its argument `y`")
            raise

    def explain(self, error: BaseException, whose: str) -> None:
        if isinstance(error, ValueError) and "read-only" in str(error):
            raise InputError(
                f"{whose} in place; return a new array instead. All that it is given is read-only: "
                "compiled code that asks for memory to write into may have a copy (`y.copy()`), "
                "and work arrays are closed over, not handed in by `args`."
            ) from error

    def accumulate(self, total: Array, x: Array) -> Array:
        total += x
        return total

    # --- what the flat form is made of
    def stack(self, arrays: Sequence[Array]) -> Array:
        if self.xp is np:  # a fifth of the time; and of 20 arrays np.stack leaves 200 bytes a call
            return np.array(arrays)  # to CPython 3.11, in its list of free tuples
        return self.xp.stack(arrays)

    def coefficients(
        self,
        values: float | Sequence[float] | Sequence[Sequence[float]] | Array,
        dtype: DType,
        device: Device,
    ) -> Tree:
        # by columns: then all but the first column are contiguous, to be scaled in one go
        return self.xp.asarray(values, dtype, order="F")

    def sample_columns(self, parts: Sequence[Array]) -> Tree:
        # by assignment: inner loops then run along the samples, however few numbers each has
        if len(parts) == 1:
            return self.xp.array(parts[0].T, order="C", ndmin=2)
        first, ends = parts[0], np.cumsum([x.shape[1] for x in parts])
        out = self.xp.empty((int(ends[-1]), len(first)), first.dtype)
        for x, end in zip(parts, ends, strict=True):
            out[end - x.shape[1] : end] = x.T
        return out

    def timer(self, layout: FlatLayout) -> Callable[[float], np.ndarray]:
        """The ``time`` of a layout, in the cheapest form."""
        return stamper(layout.real_dtype, layout.origin)


backend = NumpyBackend(np)
