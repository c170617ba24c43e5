"""The one abstract class of gradient methods.

An adjoint receives the forward loop; it never imports it. Either ``forward`` runs the loop and
keeps what ``reverse`` will need, or (``differentiable``) ``primal`` solves by operations that the
library's own autodiff follows.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from .._base.errors import UnsupportedByBackend
from .._base.types import Array, Inputs, NeedsGradient
from .._integrate.outputs import output_leaves

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
    joint : int [bytes]
        Cotangents of args more, where many calls of f are one graph of that autodiff.
    kept : int [bytes]
        Tapes of one step as TapeAdjoint stores them; 0 where it can't.
    taping : bool
        Whether that is a gain.
    windows : bool
        Whether a window of states saves time (traced loops of cheap steps).
    passing : dict of str to int [bytes]
        Python objects where the library's account of memory sees them: counted in budgets of
        64 KiB and more.
    vjp : float [F]
        The vjp of a step, given its tapes, in units of one step forward.
    calibrated : bool
        Whether ``vjp`` was measured here; it is assumed else.
    stiff : bool
        Whether the solver is one for stiff problems, whose steps are not to be inverted.
    source : str
        Where ``steps`` comes from.
    growing : int [bytes]
        Each entry of a record of accepted times that grows with the solve; 0 where none does.
    header : int [bytes]
        What an array takes beside its elements, where the library's account of memory sees it.
    reversible : bool
        Whether the solver's steps have an exact inverse.
    noted : int [bytes]
        What a guard notes of a state.
    vectors : int [bytes]
        The projections that it notes.
    returning : int [bytes]
        Cotangents kept where pulls wait for a guard's verdict.
    outputs : dict of str to int [bytes]
        What the user asked for, by item; beside the budget.
    beside : dict of str to int [bytes]
        About what a solve and the cotangents of its rows take, by item; beside the budget too.
    numbers : int or None
        Real numbers that are differentiated, where that can be seen.
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
    joint: int = 0
    kept: int = 0
    taping: bool = False
    vjp: float = 2.0
    calibrated: bool = False
    stiff: bool = False
    source: str = ""
    growing: int = 0
    header: int = 0
    reversible: bool = False
    noted: int = 0
    vectors: int = 0
    returning: int = 0
    outputs: dict[str, int] = {}  # noqa: RUF012
    beside: dict[str, int] = {}  # noqa: RUF012
    numbers: int | None = None
    compiled: Callable[[bool], int] | None = None
    clock: int = 0
    tables: int = 0

    @property
    def rows(self) -> int:
        """Bytes of the saved states."""
        return self.outputs.get("saved states", 0)


class AbstractAdjoint(ABC):
    """A way to the gradient of a solve.

    Attributes
    ----------
    accuracy : str
        'exact' (gradient of the discrete solve to round-off), or what it is instead.
    differentiable : bool
        Whether its result can be differentiated again.
    forward_depends_on_wanted : bool
        Whether what it keeps depends on what is differentiated (``forward_for``).
    follows_solve : bool
        Whether its primal can be followed by the library's own forward mode.

    Examples
    --------
    >>> import retrograde as rg
    >>> plan = rg.plan(lambda t, y, args: -y, [1.0], 0.0, 1.0, dt=0.01, memory="1 KiB")
    >>> isinstance(plan.adjoint, rg.AbstractAdjoint)
    True
    """

    accuracy: ClassVar[str]
    differentiable: ClassVar[bool] = False
    forward_depends_on_wanted: ClassVar[bool] = False
    follows_solve: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class' name."""
        return type(self).__name__

    @property
    def kind(self) -> str:
        """``accuracy``, as it is with these settings."""
        return self.accuracy

    def check(self, loop: Any) -> None:
        """Raise InputError or UnsupportedByBackend where this method can't serve a loop."""
        return

    def primal(self, loop: Any, inputs: Inputs) -> tuple[tuple[Array, ...], Any]:
        """(output leaves, where the integration ended): a plain solve unless a method differs."""
        final = loop.integrate(inputs)
        return output_leaves(loop, inputs, final), final

    def forward(self, loop: Any, inputs: Inputs) -> tuple[Any, Any]:
        """Solve; returns (where the loop ended, what reverse needs)."""
        raise UnsupportedByBackend(self._no_reverse(loop))

    def forward_for(
        self, loop: Any, inputs: Inputs, wanted: NeedsGradient | None
    ) -> tuple[tuple[Array, ...], Any, Any]:
        """Output leaves and what ``forward`` gives; ``wanted``: what is asked for, if known."""
        final, residuals = self.forward(loop, inputs)
        return output_leaves(loop, inputs, final), final, residuals

    def reverse(
        self, loop: Any, inputs: Inputs, residuals: Any, cotangents: Any, wanted: NeedsGradient
    ) -> Inputs:
        """Cotangents of the inputs from those of the output rows, shape (k, *shape) each."""
        raise UnsupportedByBackend(self._no_reverse(loop))

    def push(self, loop: Any, residuals: Any, tangents: Inputs) -> tuple[Array, ...] | None:
        """Tangents of the rows from what ``forward_for`` kept; None where it does not tell."""
        return None

    def _no_reverse(self, loop: Any) -> str:
        return (
            f"`adjoint` {self.name} has no reverse pass of its own on {loop.bk.name}; use "
            "adjoint='auto'."
        )
