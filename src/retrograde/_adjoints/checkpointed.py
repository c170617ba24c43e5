"""RecursiveCheckpointAdjoint: exact gradients in any number of state slots.

Known number of steps: the binomial optimum (Griewank & Walther 2000,
doi:10.1145/347837.347846), or segments where a traced loop gains by them. Unknown: slots placed
online by marginal cost, then the optimal reversal of the slots as they are. A slot holds y
only; accepted times are recorded, so replay has no controller and no rejected step.

A traced forward pass hands to its reverse what the host does not know anyway. A number of steps
that is known, and the positions of the rows that follow from it, are constants of the program: kept
as arrays, they would be a good part of the residuals of a small state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._base.errors import InputError
from .._base.types import (
    Array,
    Bool,
    Carry,
    Function,
    Inputs,
    Leaves,
    NeedsGradient,
    Residuals,
    Scalar,
    Table,
)
from .._checkpointing import FAR, Slots, reverse, schedules
from .._integrate.events import reached
from .base import AbstractAdjoint
from .replay_with_controller import ClockedPull, ClockedStates

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final
    from .step_vjp import PullCarry


def strip(loop: Integrator, slots: Slots, final: Final) -> Final:
    """The end of an integration without what :func:`fill` finds again."""
    if not _known(loop, slots):
        return final
    stored = final.stored if slots.everything else final.stored._replace(positions=())
    t = final.t if loop.outputs.called else ()  # which that alone is told
    return final._replace(t=t, n=(), tries=(), stored=stored)


def fill(loop: Integrator, slots: Slots, final: Final, placed: tuple[int, ...]) -> Final:
    """The end of an integration as it was; ``placed`` are the steps whose states were stored."""
    if not _known(loop, slots):
        return final
    n = slots.length
    return final._replace(n=n, tries=n, stored=slots.refilled(loop.bk, final.stored, placed))


def _known(loop: Integrator, slots: Slots) -> bool:
    return loop.clock.traced and slots.length is not None


@dataclass(frozen=True)
class RecursiveCheckpointAdjoint(AbstractAdjoint):
    """Store some states, recompute the others.

    Parameters
    ----------
    checkpoints : int or None
        State slots, y0's included; None stores every state.
    window : int
        States of a leaf of the reversal, beside the slots. More than 1 pays in traced loops of
        cheap steps only.
    one_tape : bool
        Hold the tape of one stage at a time in place of one step's, for one more evaluation of f
        a stage.
    record : bool
        Record the accepted times of adaptive steps (8 B a step, in traced libraries of
        ``max_steps``). Otherwise a slot tells the clock too, and replays run the controller again.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> keywords = {"adjoint": rg.RecursiveCheckpointAdjoint(checkpoints=4), "dt": 0.01}
    >>> sol, pullback = rg.solve_vjp(lambda t, y, k: -k * y, [1.0], 0.0, 1.0, 0.5, **keywords)
    >>> abs(float(pullback([[1.0]]).args) + math.exp(-0.5)) < 1e-4
    True
    """

    checkpoints: int | None = None
    window: int = 1
    one_tape: bool = False
    record: bool = True
    accuracy: ClassVar[str] = "exact"
    passes_events: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("checkpoints", "window"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"`{name}` is {value!r}; pass a whole number of at least 1.")

    def check_events(self, loop: Integrator) -> None:
        if loop.events is not None and not self.record:
            raise InputError(
                "`adjoint` has record=False, but with events the sizes of steps are known by their "
                "record alone; leave it True."
            )

    def slots(self, loop: Integrator) -> Slots:
        """The schedule for a solve."""
        return self.schedule(loop.bk, loop.count, loop.max_steps)

    def schedule(self, bk: AbstractBackend, n: int | None, bound: int | None) -> Slots:
        """The schedule for a loop of n steps (None: not known), of at most ``bound``."""
        c = self.checkpoints
        if n is not None:
            n = bound = n if bound is None else min(n, bound)
        if c is None or (bound is not None and c >= bound):
            return Slots(bound, None, None, 1, n)
        if n is not None:
            index = self.placed(n)
            rows, segments = tuple(range(len(index) + 1)), self.in_segments(n)
            return Slots(c, bk.ints((*index, FAR)), bk.ints(rows), self.window, n, segments)
        index, rows = bk.placements(c, bound)
        return Slots(c, index, rows, self.window, None)

    def in_segments(self, n: int) -> bool:
        """Whether the windows reach from slot to slot, so that n steps are replayed once."""
        c = self.checkpoints
        return c is not None and self.window > 1 and c * self.window >= n

    def placed(self, n: int) -> tuple[int, ...]:
        """The steps whose states are stored of n that are known; empty where all are."""
        c = self.checkpoints
        if c is None or c >= n:
            return ()
        if self.in_segments(n):
            return schedules.segment_positions(n, c)
        return tuple(i * self.window for i in schedules.positions(-(-n // self.window), c))

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        slots, clocked = self.slots(loop), self._clocked(loop)
        record = loop.adaptive and clocked is None
        final = loop.integrate(inputs, slots, record=record, clocked=clocked)
        needs_end = loop.outputs.called
        kept = final._replace(inside=loop.outputs.counted(final), y=final.y if needs_end else ())
        if loop.events is not None:
            kept = kept._replace(events=final.events.kept())
        return final, [strip(loop, slots, kept)]

    def _clocked(self, loop: Integrator) -> ClockedStates | None:
        """Where slots tell the clock; rows at the steps' ends need the record anyway.

        In a batch samples accept their steps in different tries: there is no record for all.
        """
        needed = self.record or loop.outputs.stepped
        if not loop.adaptive or (needed and not loop.masked):
            return None
        return ClockedStates(loop)

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        from .step_vjp import ReverseStep

        final = residuals[0]
        slots = self.slots(loop)
        if final.stored is None:  # a second pull: the first one used the slots up
            final = self.forward(loop, inputs)[1][0]
        if not slots.everything and loop.bk.slots_by_reference:
            residuals[0] = final._replace(stored=None)
        final = fill(loop, slots, final, self.placed(slots.length or 0))
        step = ReverseStep(
            loop, inputs, final, cotangents, wanted,
            one_tape=self.one_tape, stored=slots.everything,
        )  # fmt: skip
        ok = reached(loop, final)
        carry: Carry = step.start(final)
        if loop.clock.traced:
            carry = begun(loop.bk, ok, carry)
        clocked, trips = self._clocked(loop), final.n if final.trips is None else final.trips
        if clocked is None:
            calls: tuple[Function, Function] = step.advance, step.pull
            carry = reverse(loop.bk, slots, final.stored, trips, calls, carry, loop.carried)
        else:
            again = ClockedPull(step, clocked)
            calls, start = (again.advance, again.pull), again.start(carry, final)
            carry = reverse(loop.bk, slots, final.stored, trips, calls, start, clocked)[0]
        cts = step.finish(carry)
        if loop.clock.traced:
            ts, jumps = (_poisoned(loop.bk, ok, x) for x in (cts.ts, cts.jumps))
            return cts._replace(ts=ts, jumps=jumps)
        return finished(loop.bk, ok, cts)


def begun(bk: AbstractBackend, ok: Bool, carry: PullCarry) -> PullCarry:
    """What a compiled pass starts with, nan unless the solve reached t1: so is all it gives then.

    But for cotangents of saved times, which stand alone. (To look at every cotangent when the pass
    has ended would be as many kernels more to compile.)
    """

    def fix(x: Array) -> Scalar:
        return bk.nan_unless(ok, x)

    g, params = bk.map_state(fix, carry.g), [fix(x) for x in carry.params]
    return carry._replace(g=g, params=params, t0=fix(carry.t0), t1=fix(carry.t1))


def finished(bk: AbstractBackend, ok: Bool, cts: Inputs) -> Inputs:
    """All cotangents, nan unless the solve reached t1: never a number that means nothing."""

    def fix(x: Array) -> Scalar:
        return bk.nan_unless(ok, x)

    params = tuple(None if x is None else fix(x) for x in cts.params)
    ts, jumps = (_poisoned(bk, ok, x) for x in (cts.ts, cts.jumps))
    return Inputs(bk.map_state(fix, cts.y0), params, fix(cts.t0), fix(cts.t1), ts, jumps=jumps)


def _poisoned(bk: AbstractBackend, ok: Bool, ts: Table) -> Table:
    """Cotangents of saved times or of jumps, nan unless ok."""
    if isinstance(ts, list):
        return [bk.nan_unless(ok, t) for t in ts]
    return bk.nan_unless(ok, ts) if bk.is_array(ts) else ts
