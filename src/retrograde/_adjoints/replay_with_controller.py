"""Replay without a record of accepted times: a slot holds the state and where the clock stood.

A traced record is as long as ``max_steps``, whatever the solve takes. Where it does not fit, a
slot carries (y, t, h, memory of the controller), and a replay runs the controller again over its
range: rejected tries and error estimates included, from the same numbers, so that it takes the
same steps. Going back, a step's size is the difference of two starts. Costs about a third more
than a replay of recorded steps, and some 24 B a slot in place of 8 B x ``max_steps``.

Limits: should a compiler round a replayed error estimate to the other side of 1, the replay would
take another step there, as good a one, and the gradient be that of a solve that did so (odds of
some 1e-13 a step in float64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base.types import Carry, Index, Scalar, State

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final
    from .step_vjp import PullCarry, ReverseStep


class ClockedStates:
    """States with what an adaptive integration needs to go on from them.

    Attributes
    ----------
    layout
        What buffers of such states are made by; itself.
    shapes, dtype
        Of the arrays of one such state, where the clock is traced.
    """

    def __init__(self, loop: Integrator) -> None:
        self.xp, self.traced = loop.bk.xp, loop.clock.traced
        layout = loop.carried
        self.complex = layout.dtype != layout.real_dtype
        self.dtype = layout.dtype
        self.dtypes = (self.dtype,) * (len(layout.shapes) + 1)
        self.shapes = (*layout.shapes, (2 + len(loop.memory()),))
        self.layout = self

    def pack(self, y: State, t: Scalar, h: Scalar, memory: tuple[Scalar, ...]) -> State:
        """One state: a row of a buffer, where the clock is traced."""
        if not self.traced:
            return y, (t, h, memory)
        clock = self.xp.stack([t, h, *memory])
        return (*y, self.xp.astype(clock, self.dtype) if self.complex else clock)

    def unpack(self, state: State) -> tuple[State, Scalar, Scalar, tuple[Scalar, ...]]:
        """(y, t, h, memory)."""
        if not self.traced:
            y, (t, h, memory) = state
            return y, t, h, memory
        *y, clock = state
        clock = self.xp.real(clock) if self.complex else clock
        return tuple(y), clock[0], clock[1], tuple(clock[i] for i in range(2, clock.shape[0]))


class ClockedPull:
    """Replays and pulls over :class:`ClockedStates`, for ``_checkpointing.reverse``.

    Rows are counted by the accepted step, or, in a batch (``loop.masked``), by the try: then
    a rejected one, or one behind the end of its sample, is a step that the pull passes over.

    Parameters
    ----------
    step : ReverseStep
    states : ClockedStates
    """

    def __init__(self, step: ReverseStep, states: ClockedStates) -> None:
        self.step, self.states = step, states
        self.bk, self.clock, self.masked = step.loop.bk, step.loop.clock, step.loop.masked
        self.tries = step.loop.tries(step.inputs)

    def start(self, carry: PullCarry, final: Final) -> Carry:
        """What the pulls thread: cotangents, where the step behind ended, and its number."""
        return carry, final.t, final.n if self.masked else ()

    def advance(self, i: Index, state: State) -> State:
        """Try from a state until a step is accepted, as the integration does; in a batch, try
        once."""
        tries = self.tries
        s = tries.at(*self.states.unpack(state))
        if self.masked:
            s = tries.step(s, tries.running(s))
        else:
            s = self.bk.while_loop(lambda s: s.n == 0, tries.step, s)
        return self.states.pack(s.y, s.t, s.h, s.memory)

    def pull(self, i: Index, state: State, carry: Carry) -> Carry:
        """Reverse step i, which ended at the time that the carry has."""
        y, t, _, memory = self.states.unpack(state)
        if self.step.loop.solver.switches:
            self.step.loop.problem.chosen.stiff = memory[-2] > 0.5
        inner, end, n = carry
        if not self.masked:
            return self.step.pull_step(i, (t, end - t), y, inner), t, n
        on = t != end
        inner = self.step.pull_step(n - 1, (t, end - t), y, inner, on)
        return inner, t, self.bk.pick(on, n - 1, n)
