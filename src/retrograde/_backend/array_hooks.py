"""The backend interface's first part: arrays, trees and scalars, states and stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._base.types import (
        Array,
        Bool,
        Device,
        DType,
        Function,
        Index,
        Scalar,
        State,
        Table,
        Tree,
        TreeDef,
    )
    from .._controllers.base import Grid
    from .._integrate.problem import Problem
    from .protocols import Layout

__all__ = ["ArrayHooks"]


class ArrayHooks(ABC):
    """Hooks for arrays, trees and scalars."""

    @abstractmethod
    def is_array(self, x: object) -> bool:
        """Whether x is an array of this library."""

    @abstractmethod
    def flatten(self, tree: Tree) -> tuple[list[Tree], TreeDef]:
        """Leaves and structure of a tree; None is no leaf."""

    @abstractmethod
    def unflatten(self, treedef: TreeDef, leaves: Iterable[Tree]) -> Tree:
        """The inverse of :meth:`flatten`."""

    @abstractmethod
    def floating(self, x: Array) -> str:
        """'real', 'complex', or '' for a dtype that has no derivative."""

    @abstractmethod
    def real_dtype(self, x: Array) -> DType:
        """The real floating dtype of the same precision as x's."""

    @abstractmethod
    def itemsize(self, dtype: DType) -> int:
        """Bytes of one element."""

    @abstractmethod
    def nbytes(self, x: Array) -> int:
        """Bytes of an array's elements."""

    @abstractmethod
    def device_of(self, x: Array) -> Device:
        """Where x lives."""

    @abstractmethod
    def concrete(self, x: Array) -> float | None:
        """The value of a scalar, or None where it is only known when the program runs."""

    @abstractmethod
    def tracked(self, x: Array) -> bool:
        """Whether the library will ask for x's gradient, as far as that is known now."""

    @abstractmethod
    def concrete_times(self, ts: Table) -> list[float] | None:
        """Values of saved times, None where they are traced."""

    @abstractmethod
    def number(self, x: Array) -> Scalar:
        """A count or time as a Python number where its value is known."""

    @abstractmethod
    def array(self, values: Sequence[Scalar] | Scalar, dtype: DType, device: Device) -> Array:
        """A number, nested lists of numbers, or an array of this library, in this dtype there."""

    @abstractmethod
    def stack(self, arrays: Sequence[Array]) -> Array:
        """Arrays of one shape along a new first axis."""

    @abstractmethod
    def real_array(self, x: Array, layout: Layout) -> Array:
        """A number or array as an array of y's real dtype and device."""

    @abstractmethod
    def scalar(self, x: Array) -> Scalar:
        """A 0-d array as the clock's scalar: the one host read of a step."""

    def held(self, x: Array) -> Scalar:
        """A 0-d array as passes sum it: a scalar of the clock where that costs no wait, else x."""
        return self.scalar(x)

    @abstractmethod
    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        """A clock's scalar as a 0-d array of y's real dtype and device."""

    @abstractmethod
    def time_sequence(self, ts: Table, layout: Layout) -> Table:
        """Times as the clock indexes them (with :meth:`table_get`)."""

    @abstractmethod
    def times_array(self, ts: Table, layout: Layout) -> Array:
        """Times of the clock as a 1-D array of y's real dtype and device."""

    @abstractmethod
    def accepted_times(self, times: Table, n: int, valid: Index, fill: Scalar) -> Table:
        """Times 1..n of a record; ``fill`` behind the first ``valid``."""

    @abstractmethod
    def grid_times(self, grid: Grid, n: int) -> Table:
        """Times 0..n of a grid, in the form of a record."""

    @abstractmethod
    def both(self, a: Array, b: Array) -> Bool:
        """Logical and of two predicates."""

    @abstractmethod
    def add_scaled(self, a: Array, w: Scalar, x: Array) -> Array:
        """``a + w * x`` for a number or 0-d array w, as one node where autodiff records it."""

    @abstractmethod
    def pair(self, a: Array, b: Array) -> Array:
        """Elementwise real pairing of a cotangent a with a tangent b."""

    @abstractmethod
    def matmul(self, a: Array, b: Array) -> Array:
        """``a @ b`` in the full precision of the dtype, whatever the library's default is."""

    @abstractmethod
    def zeros_like(self, x: Array) -> Array:
        """An array of zeros, to be added into by :meth:`accumulate`."""

    @abstractmethod
    def accumulate(self, total: Array, x: Array) -> Array:
        """``total + x``; adapters may add in place, ``total`` belongs to the pass."""

    @abstractmethod
    def copied(self, tree: Tree) -> Tree:
        """A tree whose arrays and lists share nothing that :meth:`accumulate` may change."""

    @abstractmethod
    def map_state(self, fn: Callable[[Array], Array], y: State) -> State:
        """fn on every array of a state."""

    @abstractmethod
    def example(self, problem: Problem, fn: Function, t0: Scalar) -> tuple[list[Array], TreeDef]:
        """Leaves like those of ``fn(t0, y0, args)``, and their structure."""
