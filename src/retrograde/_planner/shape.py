"""What the cost of a gradient depends on, and the limits that the planner counts by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

UNLIMITED = 2**62
"""The budget where an adjoint was named and no budget given [bytes]."""

CHEAP_BYTES = 2**20
"""What rows may take together that are there whether a solve uses them or not."""

CHEAP = 1024
"""States of at most this many elements make steps that cost less than a loop's bookkeeping."""

RECORD = "record of times"
"""The item of the accepted times, which a plan can do without."""

TAPES = "tapes of a step"
"""The item of what the vjp of a step needs of its stages."""

PYTHON_OBJECTS = "Python objects"
"""The item of what is no array."""

ARRAYS_ONLY = 64 * 1024
"""Up to here a prediction is a bound: what is counted by arrays is small beside their tables and
headers. Above, it is within 15 % of what is measured."""


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
    stale : int [bytes]
        The stage before, where one tape is held at a time: its tape and two cotangents are alive
        while the next is made.
    kept : int [bytes]
        Tapes of one step as TapeAdjoint stores them; 0 where it can't.
    taping : bool
        Whether that is a gain.
    windows : bool
        Whether a window of states saves time (traced loops of cheap steps).
    passing : dict of str to int [bytes]
        Python objects where the library's account of memory sees them: counted in budgets of
        64 KiB and more.
    second : int [bytes]
        A product with second derivatives, which a pull takes when its tapes are gone.
    hidden : int [bytes]
        What a step of the solve takes and its pull does not: so much of its tapes costs nothing.
    graph : int [bytes]
        One step as the library's autodiff records it with its Jacobian; 0 for explicit methods.
    accuracy : str
        That of the vjp of a step: 'exact', or what differences give.
    again : float [F]
        The stages of a step evaluated once more, in units of one step forward.
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
    starts : int [bytes]
        Starts of steps that events cut, where steps are inverted.
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
    stale: int = 0
    kept: int = 0
    taping: bool = False
    second: int = 0
    hidden: int = 0
    graph: int = 0
    accuracy: str = "exact"
    again: float = 1.0
    vjp: float = 2.0
    calibrated: bool = False
    stiff: bool = False
    source: str = ""
    growing: int = 0
    header: int = 0
    reversible: bool = False
    noted: int = 0
    vectors: int = 0
    starts: int = 0
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

    @property
    def needed(self) -> int:
        """Bytes of the items that every gradient needs."""
        return sum(self.fixed.values())

    @property
    def slot(self) -> int:
        """Bytes of a slot with its entries in tables."""
        return self.state + self.tables

    @property
    def scratch(self) -> int:
        """Bytes of the scratch row of traced loops."""
        return 0 if self.free_slot else self.slot

    def with_tapes(self, *, one: bool) -> Shape:
        """The shape with the tapes of a step, or of one stage, among its items."""
        tapes = self.tape + self.stale if one else self.stages * self.tape
        tapes = max(0, max(tapes, self.second) - self.hidden)
        return self._replace(fixed={**self.fixed, TAPES: tapes})

    def without_record(self) -> Shape:
        """The shape where slots tell the clock and no times are recorded."""
        return self._replace(fixed={**self.fixed, RECORD: 0}, state=self.state + self.clock)

    def of_steps(self, steps: int, source: str) -> Shape:
        """The shape with another prediction."""
        fixed = {**self.fixed, RECORD: self.growing * (steps + 1)}
        return self._replace(steps=steps, source=source, fixed=fixed)

    def charged(self, budget: int) -> Shape:
        """The shape with what is no array among its items, in full from budgets of 64 KiB on.

        Below, arrays alone are counted: allocators pad, and interpreters keep what is free. Charged
        at once, objects and headers would leave a budget of 65 KiB fewer slots than one of 63, so
        the charge grows as far as 64 KiB.
        """
        total = sum(self.passing.values())
        fixed, room = dict(self.fixed), max(0, min(total, budget - max(0, ARRAYS_ONLY - total)))
        for name, size in self.passing.items():
            fixed[name] = min(size, room)
            room -= fixed[name]
        header = self.header * min(budget, ARRAYS_ONLY) // ARRAYS_ONLY
        half = ARRAYS_ONLY // 2
        part = max(0, min(budget, ARRAYS_ONLY) - half)
        tables = self.tables * (part if self.free_slot else half + part) // half
        tables = tables if self.free_slot else tables // 2
        return self._replace(fixed=fixed, state=self.state + header, tables=tables)

    def reserved(self, budget: int) -> Shape:
        """The shape with room for the times of more steps than predicted.

        The number of adaptive steps is a prediction, and a record of times grows with it. There is
        room for as many as states fit at least, or for twice the predicted ones, but not for more
        than half of the room: slots are sized by what is left.
        """
        if not self.growing:
            return self
        room = max(0, budget - self.without_times)
        steps = max(_HEADROOM * self.steps, room // (self.state + self.growing))
        steps = max(self.steps, min(steps, room // (2 * self.growing)))
        steps = steps if self.bound is None else min(steps, self.bound)
        return self._replace(fixed={**self.fixed, RECORD: self.growing * (steps + 1)})

    @property
    def without_times(self) -> int:
        """What is needed beside the record of times [bytes]."""
        return self.needed - self.fixed.get(RECORD, 0)


_HEADROOM = 2
"""Steps that there are times for over the predicted ones, where states take most of the room."""
