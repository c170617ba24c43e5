"""The seam: the hooks that an array library's adapter supplies beyond the array API standard.

Hooks state semantics (differentiable or not, traced or not, whether a value is read back to the
host); names of libraries stay in the adapters. A hook that a library can't honour is absent
from ``capabilities`` and raises :class:`~retrograde.UnsupportedByBackend`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

from ._spaces import Scale
from ._types import Array, State, Tree, Wanted

__all__ = ["AbstractBackend", "Capability", "MemoryInfo"]


class Capability(enum.StrEnum):
    """What an adapter can do; planner, tests and documentation read this one set."""

    AUTODIFF = "autodiff"
    """The library differentiates functions of its arrays itself."""
    NATIVE_GRADIENT = "native-gradient"
    """``solve`` takes part in the library's own gradients (``jax.grad``, ``backward``)."""
    HIGHER_ORDER = "higher-order"
    """DirectAdjoint can be differentiated again, in forward and reverse mode."""
    TRACED = "traced"
    """Loops are compiled; no value is read back to the host inside one."""
    DIRECT = "direct"
    """A loop of known length can be differentiated by the library's (or the tape's) autodiff."""


class MemoryInfo(NamedTuple):
    """Memory that a gradient may take.

    Attributes
    ----------
    free, total : int [bytes]
    source : str
        Where the numbers come from.
    """

    free: int
    total: int
    source: str


class AbstractBackend(ABC):
    """The seam. Hooks state semantics; names of libraries stay in the adapters."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    xp: Any
    """The library's array-API namespace."""
    slots_by_reference: ClassVar[bool]
    """Whether storing a state keeps a reference (then y0's slot costs nothing)."""

    # --- arrays and trees -------------------------------------------------------------
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
    def device_of(self, x: Array) -> Any:
        """Where x lives."""

    @abstractmethod
    def concrete(self, x: Any) -> float | None:
        """The value of a scalar, or None where it is only known when the program runs."""

    # --- spaces and clock -------------------------------------------------------------
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

    # --- loops and memory -------------------------------------------------------------
    @abstractmethod
    def while_loop(self, cond: Callable[[Any], Any], body: Callable[[Any], Any], s: Any) -> Any:
        """``while cond(s): s = body(s)``."""

    @abstractmethod
    def for_loop(self, low: Any, high: Any, body: Callable[[Any, Any], Any], s: Any) -> Any:
        """``for i in range(low, high): s = body(i, s)``, counted."""

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
    def rows(self, layout: Any, buffer: Any, n: Any, valid: Any) -> tuple[Array, ...]:
        """The first n rows as leaves of shape (n, *shape); inf behind the first ``valid``."""

    @abstractmethod
    def ints(self, values: Sequence[int]) -> Any:
        """A small table of ints to be read with :meth:`look` and changed with :meth:`set_int`."""

    @abstractmethod
    def look(self, table: Any, i: Any) -> Any:
        """Entry i of a table of ints or times."""

    @abstractmethod
    def set_int(self, table: Any, i: Any, value: Any) -> Any:
        """The table with entry i replaced."""

    @abstractmethod
    def pick(self, ok: Any, a: Any, b: Any) -> Any:
        """The index a where ok, else b."""

    @abstractmethod
    def rank(self, positions: Any, n: Any) -> tuple[Any, Any]:
        """Rows (without the scratch row) by ascending position, and how many are below n."""

    @abstractmethod
    def split(self, slots: int) -> Callable[[Any, Any], Any]:
        """``split(length, free)``: the binomial split with at most ``slots`` slots."""

    # --- derivatives ------------------------------------------------------------------
    @abstractmethod
    def pullback(self, layout: Any, bind: Any, params: Any, wanted: Wanted) -> Any:
        """The vjp of ``bind(params)(t, leaves)``, in the form of ``_derivative.TapePullback``."""

    @abstractmethod
    def differentiate(self, program: Any, inputs: Any) -> Any:
        """Run a program so that the library's own gradients call its reverse."""

    @abstractmethod
    def memory(self, like: Array | None = None) -> MemoryInfo:
        """Memory of the device that ``like`` lives on."""
