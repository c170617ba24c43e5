"""What the vjp of a step costs over a step forward, measured here and now.

The actual f, solver, backend and state: some steps forward, and the same with a pull of each, as
the passes take them (compiled where the library compiles). The pull evaluates the stages again,
so with T the time of the first loop and U that of the second, B/F = U/T - 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .._autodiff.field_vjp import field_pullback
from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.types import Carry, Field, Index, Inputs, NeedsGradient, Scalar, State
from .._controllers.base import AdaptiveController
from .shape import CHEAP

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._integrate.integrator import Integrator

STEPS, MANY_STEPS = 8, 512
"""Steps of one repetition; many where the call of a compiled program costs more than a step."""

REPETITIONS = 7
"""Timed repetitions of each loop, whose median counts; one more, untimed, compiles and warms."""

ENOUGH = 1.0
"""Once this much time has passed, no repetition is added [s]."""

LEAST = 0.1
"""The least ratio; below it lies the noise of clocks [F]."""


def measured_vjp(loop: Integrator, inputs: Inputs) -> float:
    """Cost of one step's vjp, given its tapes, in units of one step forward [F].

    Raises
    ------
    InputError
        Under tracing, where nothing can be timed.
    """
    bk = loop.bk
    if Capability.TRACED in bk.capabilities and bk.needs_gradient(inputs):
        raise InputError(
            "`calibrate` is True, but nothing can be timed under tracing; plan outside of jit and "
            "grad, and pass the plan as `adjoint`."
        )
    constant = bk.stop_gradient(inputs)
    own = len(loop.problem.where)  # f goes on using itself what it closes over
    constant = constant._replace(params=(*constant.params[:own], *inputs.params[own:]))
    steps = [partial(bk.run_forward, _Steps(loop, pulls=p), constant) for p in (False, True)]
    with bk.quiet():
        times = _interleaved(bk, steps)
    forward, pulled = (sorted(each)[len(each) // 2] for each in times)
    return max(LEAST, pulled / forward - 2.0)


def _interleaved(bk: AbstractBackend, calls: Sequence[Callable[[], Carry]]) -> list[list[float]]:
    """Seconds of each call's repetitions, taken in turns: a slow moment meets all of them."""
    for call in calls:
        bk.synchronize(call())
    times: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    while len(times[0]) < REPETITIONS and (not times[0] or time.perf_counter() - start < ENOUGH):
        for call, found in zip(calls, times, strict=True):
            begin = time.perf_counter()
            bk.synchronize(call())
            found.append(time.perf_counter() - begin)
    return times


class _Steps:
    """The first steps of a solve, all of one size, as adapters run programs."""

    def __init__(self, loop: Integrator, *, pulls: bool) -> None:
        self.loop, self.pulls = loop, pulls
        cheap = loop.clock.traced and loop.layout.size <= CHEAP
        self.steps = MANY_STEPS if cheap else STEPS

    def key(self) -> Hashable:
        """What a compiled form depends on."""
        loop = self.loop
        parts = loop.problem.key(), loop.solver, loop.controller, loop.shifted
        return "calibrate", self.pulls, *parts

    def forget(self) -> None:
        """Drop the arrays of the problem."""
        self.loop.problem.forget()

    def forward(self, inputs: Inputs) -> Carry:
        """The last state, and where pulls are taken the cotangents."""
        loop = self.loop.placed(inputs)
        field = loop.bind(inputs.params)
        t0, h = self._first(loop, inputs, field)
        if not self.pulls:
            stepper = loop.steps().stepper(loop.bk, loop.layout, field)

            def advance(i: Index, y: State) -> State:
                return stepper.step(t0 + i * h, h, y, None, error=False).y1

            return loop.bk.for_loop(0, self.steps, advance, inputs.y0)
        wanted = NeedsGradient(loop.problem.differentiable, False, False, False)
        vjp = field_pullback(loop.problem, inputs.params, wanted)
        more: dict[str, Any] = {"field": field, "one_tape": False} if loop.solver.implicit else {}
        reverse = loop.steps(gradient=True).step_vjp(
            loop.bk, loop.layout, vjp, outputs=False, time=False, **more
        )
        replay = reverse.replay(field)

        def both(i: Index, s: Carry) -> Carry:
            y, g, acc = s
            t = t0 + i * h
            cotangents, _ = reverse.pull(t, h, y, g, acc, None, False)
            # a state that moves keeps compilers from taking the evaluations out of the loop
            y = replay.step(t, h, y, None, error=False).y1
            return y, cotangents.y, cotangents.params

        start = (inputs.y0, loop.layout.axpy(inputs.y0, 0.0, inputs.y0), vjp.zero())
        y, g, acc = loop.bk.for_loop(0, self.steps, both, start)
        return y, g, vjp.finish(acc)

    def _first(self, loop: Integrator, inputs: Inputs, field: Field) -> tuple[Scalar, Scalar]:
        """Start and size of the first step."""
        clock = loop.clock
        t0, t1 = (clock.real(t) for t in inputs.clocked[:2])
        if not loop.adaptive:
            return loop.grid(inputs).step(0)
        k0 = tuple(1.0 * k for k in field(loop.layout.time(t0), inputs.y0))  # f may reuse them
        start = (t0, t1, inputs.y0, k0)
        scale, order = loop.tolerances(inputs), loop.solver.error_order
        controller = loop.controller
        assert isinstance(controller, AdaptiveController)
        assert order is not None
        return t0, controller.first_step(clock, loop.layout, field, scale, start, order)
