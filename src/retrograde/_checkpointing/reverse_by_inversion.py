"""Walking a loop back by inverting its steps, under guard.

Where a step can be taken back, a state need not be stored to be known again. Whatever is taken
back is compared with what the forward integration noted of the true state before anything is pulled
from it; a range that fails is replayed from the stored state below it, by the schedule of
``reversal``. The result is guarded or exact, and what inversion can't do costs what checkpoints do.

The state before a step is known, by the first way that applies, from

* replay, where the range is under a failed guard, or no dearer to replay than to invert;
* inversion, if the guard accepts it (after corrections, where a replay would cost more);
* replay from here down to the stored state below.

Limits: a guard every g > 1 steps lets g pulls wait for its verdict; what they gave is kept apart
(one set of cotangents) and dropped if it is bad. Then nothing more is inverted: a problem that
fails once, at the price of its pulls, is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .._base.types import Bool, Buffer, Carry, Index, Scalar, State, Table
from .forward import Slots, Stored
from .reverse import to_leaf
from .schedules import replay_limit

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Clock

CORRECTIONS = 2
"""Most corrections of an inverted step; each takes one step."""


class Invertible(NamedTuple):
    """What the walk needs to know of a step, and of the guard.

    Attributes
    ----------
    advance, pull : callable
        As for ``reversal.reverse``.
    invert : callable
        ``invert(i, y_after) -> y``: step i taken back.
    correct : callable
        ``correct(y, after, x) -> y``: y improved, from the step taken from it and the true end.
    error : callable
        ``error(i, y) -> scalar``: how far y is from what was noted of the state before step i.
    apart : callable
        ``apart(x, y) -> scalar``: how far the state x is from the true one y.
    every : int or None
        Something was noted every so many steps; None: of the stored states alone.
    tolerance : float
        Errors up to this pass.
    corrected : bool
        Whether an inverted step can be improved by iteration (an inverse that is exact can't).
    """

    advance: Callable[[Index, State], State]
    pull: Callable[[Index, State, Carry], Carry]
    invert: Callable[[Index, State], State]
    correct: Callable[[State, State, State], State]
    error: Callable[[Index, State], Scalar]
    apart: Callable[[State, State], Scalar]
    every: int | None
    tolerance: float
    corrected: bool


class Report(NamedTuple):
    """How the states of a walk were found.

    Attributes
    ----------
    inverted : int or traced scalar
        Steps pulled from a state that was inverted; all others were replayed.
    error : scalar
        Largest error that passed.
    """

    inverted: Index
    error: Scalar


class _Walk(NamedTuple):
    """Where the walk stands: steps ``end`` and above are pulled; x is the state before them."""

    end: Index
    top: Index
    positions: Table
    buffer: Buffer
    x: State
    carry: Carry
    floor: Index  # ranges above it are replayed
    verified: Index  # steps from here on are pulled for good
    kept: Carry  # the carry at ``verified``, where pulls wait for a verdict
    report: Report


def reverse_inverting(
    bk: AbstractBackend,
    slots: Slots,
    stored: Stored,
    ends: tuple[Index, State],
    step: Invertible,
    carry: Carry,
    clock: Clock,
) -> tuple[Carry, Report]:
    """Pull steps n-1, ..., 0.

    Parameters
    ----------
    slots, stored
        The schedule and what the forward integration stored by it.
    ends : tuple
        The number of steps n and the state after the last one.
    step : Invertible
    carry
        What the pulls thread.
    clock
        The clock of the guard's errors.

    Returns
    -------
    carry and Report

    Notes
    -----
    Executed beside the pulls: one inverse for each inverted step, its corrections, and the
    replays of what was not inverted, at the binomial optimum of each range.
    """
    n, last = ends
    walker = _Walker(bk, slots, stored, n, step, clock)
    zero = bk.index(0)
    n = n + zero  # a traced counter even where n is known
    kept = () if walker.at_once else bk.copied(carry)
    start = _Walk(
        n, walker.top, stored.positions, stored.buffer, last, carry, n, n, kept,
        Report(zero, clock.real(0.0)),
    )  # fmt: skip
    end = bk.while_loop(lambda z: z.end > 0, walker.turn, start)
    return end.carry, end.report


class _Walker:
    """One turn of the walk: find the state before the next step, and pull the step."""

    def __init__(
        self,
        bk: AbstractBackend,
        slots: Slots,
        stored: Stored,
        n: Index,
        step: Invertible,
        clock: Clock,
    ) -> None:
        assert slots.rows is not None
        self.bk, self.step, self.clock, self.rows = bk, step, clock, slots.rows
        self.split = bk.split(slots.rows)
        self.order, self.top = bk.rank(slots, stored.positions, n)
        self.at_once = step.every == 1

    def turn(self, z: _Walk) -> _Walk:
        bk, i = self.bk, z.end - 1
        row = bk.table_get(self.order, z.top - 1)
        low = bk.table_get(z.positions, row)
        length, room = z.end - low, self.rows - z.top + 1
        room = bk.pick(room < _WIDE, room, _WIDE)
        replayed = self.clock.either(z.end > z.floor, length <= replay_limit(room, 1))
        z = self._keep(z, replayed)

        def invert(s: Carry) -> Carry:
            return s[0] - 1, *self._invert(i, s[1], length, room)

        # loops of one trip at most: they work in the memory of x, a branch's results are copied
        start = (bk.pick(replayed, 0, 1), z.x, self.clock.real(0.0), False)
        _, y, error, ok = bk.while_loop(lambda s: s[0] > 0, invert, start)
        # what the guard refuses is replayed, and all of the range below it
        z = z._replace(floor=bk.pick(self.clock.either(replayed, ok), z.floor, low))
        y, z = self._replay(z, (row, low, i), y, ok)
        return (self._pulled if self.at_once else self._judged)(z, i, y, error, ok)

    def _keep(self, z: _Walk, replayed: Index) -> _Walk:
        """The carry kept for a way back, where the first step is pulled without a verdict."""
        if self.at_once:
            return z
        bk = self.bk
        first = self.clock.both(z.verified == z.end, bk.pick(replayed, 0, 1) > 0)
        kept = bk.cond(first, lambda a, b: bk.copied(a), lambda a, b: b, z.carry, z.kept)
        return z._replace(kept=kept)

    # --- the state before step i
    def _invert(self, i: Index, x: State, length: Index, room: Index) -> tuple[State, Scalar, Bool]:
        """Step i taken back from x: the state, its error, and whether it passes."""
        bk, step, clock = self.bk, self.step, self.clock
        y, bound = step.invert(i, x), step.tolerance
        if step.every is None:
            return y, clock.real(0.0), True
        if step.every > 1:
            noted = i % step.every == 0
            error = bk.cond(noted, lambda y: step.error(i, y), lambda y: clock.real(0.0), y)
            return y, error, error <= bound
        error = step.error(i, y)
        if step.corrected:
            y, error = self._corrected(i, y, x, error, (length, room))
        return y, error, error <= bound

    def _corrected(
        self, i: Index, y: State, x: State, error: Scalar, extent: tuple[Index, Index]
    ) -> tuple[State, Scalar]:
        """y improved by y - (step(y) - x), as often as that is cheaper than a replay."""
        bk, step = self.bk, self.step
        length, room = extent
        tries = sum(
            bk.pick(length > replay_limit(room, k), 1, 0) for k in range(2, CORRECTIONS + 2)
        )

        def left(error: Scalar, tries: Index) -> Index:
            return bk.pick(error <= step.tolerance, 0, tries)

        def improve(s: Carry) -> Carry:
            y, _, tries = s
            y = step.correct(y, step.advance(i, y), x)
            error = step.error(i, y)
            return y, error, left(error, tries - 1)

        start = (y, error, left(error, tries))
        y, error, _ = bk.while_loop(lambda s: s[2] > 0, improve, start)
        return y, error

    def _replay(
        self, z: _Walk, where: tuple[Index, Index, Index], y: State, ok: Bool
    ) -> tuple[State, _Walk]:
        """y itself where ok, else the state before step i from the stored one below."""
        bk = self.bk
        row, low, i = where
        at = bk.pick(ok, i, low)

        def read(s: Carry) -> Carry:  # the row as a variable: XLA takes out what does not change
            return s[0] - 1, bk.read(z.buffer, row + 1 - s[0])

        _, y = bk.while_loop(lambda s: s[0] > 0, read, (bk.pick(ok, 0, 1), y))
        start = (at, y, z.top, z.positions, z.buffer)
        find = (self.rows, self.split, self.order, self.step.advance)
        _, y, top, positions, buffer = to_leaf(bk, find, z.end, 1, start)
        return y, z._replace(top=top, positions=positions, buffer=buffer)

    # --- the pull of step i
    def _pulled(self, z: _Walk, i: Index, y: State, error: Scalar, ok: Bool) -> _Walk:
        report, pick = z.report, self.bk.pick
        return z._replace(
            end=i,
            top=self._popped(z, i),
            x=y,
            carry=self.step.pull(i, y, z.carry),
            report=Report(
                report.inverted + pick(ok, 1, 0),
                pick(ok, self.clock.maximum(report.error, error), report.error),
            ),
        )

    def _popped(self, z: _Walk, i: Index) -> Index:
        """The number of stored states below step i."""
        bk = self.bk
        dead = bk.table_get(z.positions, bk.table_get(self.order, z.top - 1)) >= i
        return bk.pick(dead, z.top - 1, z.top)

    def _judged(self, z: _Walk, i: Index, y: State, error: Scalar, ok: Bool) -> _Walk:
        """The pull where others may wait for a verdict: a replayed state gives theirs.

        Where it is bad, the walk goes back to the last good step, and replays all that is left.
        """
        bk, step, clock = self.bk, self.step, self.clock
        waiting = clock.both(z.verified > z.end, bk.pick(ok, 0, 1) > 0)
        apart = bk.cond(
            waiting,
            lambda y, x: step.apart(x, step.advance(i, y)),
            lambda y, x: clock.real(0.0),
            y,
            z.x,
        )
        good = apart <= step.tolerance
        carry = bk.cond(
            good, lambda c, kept: step.pull(i, y, c), lambda c, kept: kept, z.carry, z.kept
        )
        report, lost = z.report, z.end - z.verified
        passed = bk.pick(ok, error, apart)
        known = clock.both(good, self._known(i, ok))
        return z._replace(
            end=bk.pick(good, i, z.verified),
            top=bk.pick(good, self._popped(z, i), z.top),
            x=y,
            carry=carry,
            floor=bk.pick(good, z.floor, 0),
            verified=bk.pick(known, i, z.verified),
            report=Report(
                report.inverted + bk.pick(good, bk.pick(ok, 1, 0), lost),
                bk.pick(good, clock.maximum(report.error, passed), report.error),
            ),
        )

    def _known(self, i: Index, ok: Bool) -> Bool:
        """Whether the state before step i is known to be good: replayed, or noted and passed."""
        every, pick = self.step.every, self.bk.pick
        noted = 0 if every is None else pick(i % every == 0, 1, 0)
        return pick(ok, noted, 1) > 0


_WIDE = 1000
"""Slots of a range beyond which its limits are not told apart: their cube stays below 2**30."""
