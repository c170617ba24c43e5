"""The seam: arrays, trees and scalars.

A part of :class:`~retrograde.backend.AbstractBackend`; ``EagerBackend`` has the generic forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ._types import Array, State, Tree

__all__ = ["ArrayHooks"]


class ArrayHooks(ABC):
    """Hooks for arrays, trees and scalars."""

    @abstractmethod
    def is_array(self, x: object) -> bool:
        """Whether x is an array of this library."""

    @abstractmethod
    def flatten(self, tree: Tree) -> tuple[list[Any], Any]:
        """Leaves and structure of a tree; None is no leaf."""

    @abstractmethod
    def unflatten(self, treedef: Any, leaves: Iterable[Any]) -> Tree:
        """The inverse of :meth:`flatten`."""

    @abstractmethod
    def floating(self, x: Array) -> str:
        """'real', 'complex', or '' for a dtype that has no derivative."""

    @abstractmethod
    def real_dtype(self, x: Array) -> Any:
        """The real floating dtype of the same precision as x's."""

    @abstractmethod
    def itemsize(self, dtype: Any) -> int:
        """Bytes of one element."""

    @abstractmethod
    def nbytes(self, x: Array) -> int:
        """Bytes of an array's elements."""

    @abstractmethod
    def device_of(self, x: Array) -> Any:
        """Where x lives."""

    @abstractmethod
    def concrete(self, x: Any) -> float | None:
        """The value of a scalar, or None where it is only known when the program runs."""

    @abstractmethod
    def tracked(self, x: Array) -> bool:
        """Whether the library will ask for x's gradient, as far as that is known now."""

    @abstractmethod
    def concrete_times(self, ts: Any) -> list[float] | None:
        """Values of saved times, None where they are traced."""

    @abstractmethod
    def number(self, x: Any) -> Any:
        """A count or time as a Python number where its value is known."""

    @abstractmethod
    def any_array(self, y: State) -> Array:
        """Some array of a state."""

    @abstractmethod
    def array(self, values: Any, dtype: Any, device: Any) -> Array:
        """A number, nested lists of numbers, or an array of this library, in this dtype there."""

    @abstractmethod
    def stack(self, arrays: Sequence[Array]) -> Array:
        """Arrays of one shape along a new first axis."""

    @abstractmethod
    def real_array(self, x: Any, layout: Any) -> Array:
        """A number or array as an array of y's real dtype and device."""

    @abstractmethod
    def scalar(self, x: Array) -> Any:
        """A 0-d array as the clock's scalar: the one host read of a step."""

    def held(self, x: Array) -> Any:
        """A 0-d array as sweeps sum it: a scalar of the clock where that costs no wait, else x."""
        return self.scalar(x)

    @abstractmethod
    def scalar_array(self, t: Any, layout: Any) -> Array:
        """A clock's scalar as a 0-d array of y's real dtype and device."""

    @abstractmethod
    def time_sequence(self, ts: Any, layout: Any) -> Any:
        """Times as the clock indexes them (with :meth:`look`)."""

    @abstractmethod
    def times_array(self, ts: Any, layout: Any) -> Array:
        """Times of the clock as a 1-D array of y's real dtype and device."""

    @abstractmethod
    def accepted_times(self, times: Any, n: int, valid: Any, fill: Any) -> Any:
        """Times 1..n of a record; ``fill`` behind the first ``valid``."""

    @abstractmethod
    def grid_times(self, grid: Any, n: int) -> Any:
        """Times 0..n of a grid, in the form of a record."""

    @abstractmethod
    def both(self, a: Any, b: Any) -> Any:
        """Logical and of two predicates."""

    @abstractmethod
    def add_scaled(self, a: Array, w: Any, x: Array) -> Array:
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
        """``total + x``; adapters may add in place, ``total`` belongs to the sweep."""

    @abstractmethod
    def copied(self, tree: Tree) -> Tree:
        """A tree whose arrays and lists share nothing that :meth:`accumulate` may change."""

    @abstractmethod
    def map_state(self, fn: Callable[[Array], Array], y: State) -> State:
        """fn on every array of a state."""

    @abstractmethod
    def example(self, problem: Any, fn: Callable[..., Tree], t0: Any) -> tuple[list[Array], Any]:
        """Leaves like those of ``fn(t0, y0, args)``, and their structure."""
