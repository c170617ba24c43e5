"""The seam: public loops (``while_loop``, ``scan``) over bodies of the user's.

A part of :class:`~retrograde.backend.AbstractBackend`; ``EagerBackend`` has the generic forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ._types import Array

__all__ = ["IterationHooks"]


class IterationHooks(ABC):
    """Hooks for loops over bodies of the user's."""

    @abstractmethod
    def carry_leaves(self, leaves: Sequence[Any]) -> Sequence[Any]:
        """Leaves of a carry as the loops take them: arrays, and what else the library's can."""

    @abstractmethod
    def array_bytes(self, x: Array) -> int:
        """Bytes of an array's elements, of any dtype."""

    @abstractmethod
    def row_like(self, x: Array) -> Array:
        """Something of the shape and dtype of a row."""

    @abstractmethod
    def row(self, x: Array, i: Any) -> Array:
        """Row i of an array."""

    @abstractmethod
    def new_stack(self, rows: int, like: Sequence[Array] | None) -> Any:
        """Room for rows of leaves, each to be written once; ``like`` may be unknown if eager."""

    @abstractmethod
    def put(self, stack: Any, i: Any, leaves: Sequence[Array]) -> Any:
        """The stack with row i written, in O(row)."""

    @abstractmethod
    def stacked(self, stack: Any, like: Sequence[Array]) -> list[Array]:
        """A stack's arrays, zeros where nothing was written."""

    @abstractmethod
    def predicate(self, x: Array) -> Any:
        """A 0-d boolean array as ``while_loop`` takes it; InputError if it is none."""

    @abstractmethod
    def negated(self, ok: Any) -> Any:
        """Logical not of a predicate."""

    def lent(self, leaves: Sequence[Any]) -> Sequence[Any]:
        """The same leaves for a body: writing into them raises, or reaches a copy."""
        return leaves

    def explain(self, error: BaseException, whose: str) -> None:
        """Raise InputError where an error of the library's says that such a write was refused."""
        return

    @abstractmethod
    def watch(self, leaves: Sequence[Any], whose: str) -> Callable[[], None]:
        """A function that raises InputError if arrays were changed in place since.

        ``whose``: by whom, and what of his they are (``"`body` changed its argument"``).
        """

    @abstractmethod
    def capture_loop(self, loop: Any) -> None:
        """Find what body and cond close over (``loop.hoisted``), as far as it has gradients."""

    @abstractmethod
    def followed_scan(
        self, step: Callable[..., Any], state: Any, count: int, reverse: bool
    ) -> tuple[Any, list[Array]]:
        """(state, stacked leaves of y) after ``step(i, state) -> (state, leaves)``, by autodiff's
        own operations; ``reverse``: the rows stand in reverse."""

    @abstractmethod
    def bounded_loop(
        self, running: Callable[[Any], Any], body: Callable[[Any], Any], s: Any, bound: int | None
    ) -> Any:
        """At most ``bound`` steps of ``while running(s): s = body(s)``; ``s[0]`` counts them.
        Differentiable in every mode by the library's autodiff."""

    @abstractmethod
    def body_tape_bytes(
        self, vjp: Any, span: Any, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        """Bytes that one linearisation of a body keeps, and which of the first leaves it hands
        on in the same memory (as far as the slots of this library gain by it)."""

    def table_entries(self, loop: Any, vjp: Any, span: Any, leaves: Sequence[Array]) -> int:
        """Bytes of a slot in the tables of a compiled reversal of this loop."""
        return 0

    @abstractmethod
    def differentiate_loop(self, program: Any, inputs: Any, kind: str) -> Any:
        """Run a loop so that the library's own gradients go through it."""

    @abstractmethod
    def detach_loop(self, loop: Any, inputs: Any) -> Any:
        """The inputs for ``loop_vjp``: no part of the library's own graph."""

    @abstractmethod
    def tracked_leaves(self, loop: Any, params: Sequence[Array]) -> Sequence[bool]:
        """Of which parameters a gradient may be asked for."""

    def reached(self, loop: Any, wanted: Sequence[bool]) -> tuple[Sequence[bool], Sequence[bool]]:
        """Which leaves of the carry, and of y, may depend on the wanted parameters.

        The pull of a step differentiates no others: a body may do with them what has no
        derivative.
        """
        return [True] * len(loop.template), [True] * len(loop.ys_like or ())
