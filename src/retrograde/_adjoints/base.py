"""The one abstract class of gradient methods.

An adjoint receives the forward loop; it never imports it. Either ``forward`` runs the loop and
keeps what ``reverse`` will need, or (``differentiable``) ``primal`` solves by operations that the
library's own autodiff follows.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from .._errors import UnsupportedByBackend
from .._rows import output_leaves
from .._types import Array, Inputs, Wanted

__all__ = ["AbstractAdjoint", "Shape"]


class Shape(NamedTuple):
    """What the cost of a gradient depends on.

    Attributes
    ----------
    state : int [bytes]
        One state, as it lies in a slot.
    steps : int
        Accepted steps: exact on a grid, else a prediction.
    known : bool
        Whether ``steps`` is exact.
    bound : int or None
        Tries allowed.
    tape : int [bytes]
        Tape of one evaluation of f.
    stages : int
        Stages of one step.
    fixed : dict of str to int [bytes]
        What every gradient needs, by item.
    free_slot : bool
        Whether y0's slot costs nothing.
    recorded : int [bytes]
        One step recorded by the library's autodiff; 0 where that is not to be had.
    windows : bool
        Whether a window of states saves time (traced loops of cheap steps).
    passing : dict of str to int [bytes]
        Python objects where the library's account of memory sees them: counted in budgets of
        64 KiB and more.
    compiled : callable or None
        ``compiled(one_tape) -> int [bytes]``: what a gradient takes beside its slots, by the
        compiler's own account; it compiles one. None where nothing is compiled.
    clock : int [bytes]
        What a slot takes more where times are not recorded; 0 where that gains nothing.
    tables : int [bytes]
        A slot's entries in the tables of a reversal, in budgets of 64 KiB and more; half of them
        in traced libraries below (position, order and their copy, without what sorting takes).
    """

    state: int
    steps: int
    known: bool
    bound: int | None
    tape: int
    stages: int
    fixed: dict[str, int]
    free_slot: bool
    windows: bool
    passing: dict[str, int] = {}  # noqa: RUF012
    recorded: int = 0
    compiled: Callable[[bool], int] | None = None
    clock: int = 0
    tables: int = 0


class AbstractAdjoint(ABC):
    """A way to the gradient of a solve.

    Attributes
    ----------
    accuracy : str
        'exact' (gradient of the discrete solve to round-off), or what it is instead.
    differentiable : bool
        Whether its result can be differentiated again.
    """

    accuracy: ClassVar[str]
    differentiable: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class' name."""
        return type(self).__name__

    def primal(self, loop: Any, inputs: Inputs) -> tuple[tuple[Array, ...], Any]:
        """(output leaves, where the march ended): a plain solve unless a method differs."""
        final = loop.march(inputs)
        return output_leaves(loop, inputs, final), final

    def forward(self, loop: Any, inputs: Inputs) -> tuple[Any, Any]:
        """Solve; returns (where the loop ended, what reverse needs)."""
        raise UnsupportedByBackend(self._no_reverse(loop))

    def reverse(
        self, loop: Any, inputs: Inputs, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Inputs:
        """Cotangents of the inputs from those of the output rows, shape (k, *shape) each."""
        raise UnsupportedByBackend(self._no_reverse(loop))

    def _no_reverse(self, loop: Any) -> str:
        return (
            f"`adjoint` {self.name} has no reverse sweep of its own on {loop.bk.name}; use "
            "adjoint='auto'."
        )
