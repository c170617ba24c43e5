"""The seam: spaces, clock, loops and buffers.

A part of :class:`~retrograde.backend.AbstractBackend`; ``EagerBackend`` has the generic forms.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ._spaces import Scale
from ._types import Array, State

__all__ = ["LoopHooks"]


class LoopHooks(ABC):
    """Hooks for spaces, clock, loops and buffers."""

    @abstractmethod
    def layout(self, leaves: Sequence[Array]) -> Any:
        """How states of these leaves are carried (:class:`~retrograde._spaces.ListLayout`)."""

    @abstractmethod
    def stages(self, layout: Any, tableau: Any, scale: Scale | None = None) -> Any:
        """A stage space, made once a sweep."""

    @abstractmethod
    def adjoint(self, layout: Any, tableau: Any) -> Any:
        """An adjoint space, made once a sweep."""

    @abstractmethod
    def clock(self, layout: Any) -> Any:
        """The arithmetic of times, steps and counts."""

    def as_one(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """fn of arrays, scalars and counts as one piece of a compiled program; fn itself else."""
        return fn

    def apart(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """fn as one call to the library's compiler of Python, if it has one (``_boundary``)."""
        return fn

    @abstractmethod
    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which overflow in a trial step, which is rejected, warns nobody."""

    @abstractmethod
    def while_loop(self, cond: Callable[[Any], Any], body: Callable[[Any], Any], s: Any) -> Any:
        """``while cond(s): s = body(s)``."""

    @abstractmethod
    def for_loop(self, low: Any, high: Any, body: Callable[[Any, Any], Any], s: Any) -> Any:
        """``for i in range(low, high): s = body(i, s)``, counted."""

    @abstractmethod
    def cond(self, ok: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
        """``yes(*operands)`` where ok, else ``no(*operands)``; the other is not run."""

    @abstractmethod
    def real_rows(self, rows: int | None, width: int, layout: Any) -> Any:
        """A table of rows of reals (:meth:`look`, :meth:`set_int`); None: it grows."""

    @abstractmethod
    def new_buffer(self, rows: Any, layout: Any, *, scratch: bool) -> Any:
        """Room for ``rows`` states, and if asked for a scratch row of index ``rows``."""

    @abstractmethod
    def write(self, buffer: Any, i: Any, y: State) -> Any:
        """The buffer with row i replaced."""

    @abstractmethod
    def read(self, buffer: Any, i: Any) -> State:
        """Row i."""

    @abstractmethod
    def rows(self, layout: Any, buffer: Any, n: Any, valid: Any, fill: Any) -> tuple[Array, ...]:
        """The first n rows as leaves of shape (n, *shape); ``fill`` behind the first ``valid``."""

    @abstractmethod
    def at_end(self, here: Any, end: Callable[[], State], inside: Callable[[], State]) -> State:
        """The state at a step's end where ``here``, else inside it; with the inside's derivatives,
        where autodiff follows the march: those by the saved time are its alone."""

    @abstractmethod
    def index(self, i: int) -> Any:
        """An int as the loops carry it."""

    @abstractmethod
    def ints(self, values: Sequence[int]) -> Any:
        """A small table of ints to be read with :meth:`look` and changed with :meth:`set_int`."""

    @abstractmethod
    def reals(self, n: int, layout: Any) -> Any:
        """A table of n zeros in the clock's reals."""

    @abstractmethod
    def look(self, table: Any, i: Any) -> Any:
        """Entry i of a table of ints or times."""

    @abstractmethod
    def set_int(self, table: Any, i: Any, value: Any) -> Any:
        """The table with entry i replaced."""

    @abstractmethod
    def placements(self, rows: int, bound: int | None) -> tuple[Any, Any]:
        """Tables (step index, row) of the online schedule, up to ``bound`` steps."""

    @abstractmethod
    def pick(self, ok: Any, a: Any, b: Any) -> Any:
        """The index a where ok, else b."""

    @abstractmethod
    def new_positions(self, rows: int) -> Any:
        """A table for the step index of each row and of the scratch row, all of them ``FAR``."""

    @abstractmethod
    def rank(self, slots: Any, positions: Any, n: Any) -> tuple[Any, Any]:
        """Rows (without the scratch row) by ascending position, and how many are below n.

        ``slots`` tells by which placements the positions, all below n, came about.
        """

    @abstractmethod
    def split(self, slots: int) -> Callable[[Any, Any], Any]:
        """``split(length, free)``: the binomial split with at most ``slots`` slots."""
