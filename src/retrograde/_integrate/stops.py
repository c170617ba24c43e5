"""Times that steps end on (``PIDController.step_ts``), and those at which f jumps (``jump_ts``).

A step that would pass a stop ends on it; the size that was meant is kept for the step behind it.
Which stop is next follows from where a step begins alone, so that replays need to know nothing.

Steps meet at a jump without a gap. What differs is the time that f is given: between two jumps it
is at least the number of its dtype behind the first, and at most the one before the second. So the
stages of a step that ends on a jump see f as it is on the left, those of the next one as it is on
the right, whatever rounding does to t + c h; and a slope from the left (FSAL) is evaluated anew.
(diffrax, ``ClipStepSizeController``, leaves the two numbers beside a jump out of the solve.)

Times before the first stop move with t0, those behind a jump with its time, up to the next stop:
so the gradient by a jump's time is that by the end of the solve before it and by the start of the
one behind it. Behind other stops times stand still.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .._backend.interface import Capability
from .._backend.specialise import Steps
from .._backend.stages import smallest
from .._base.types import (
    Array,
    Bool,
    Carry,
    Field,
    Index,
    Inputs,
    Leaves,
    ParamSums,
    Scalar,
    Scale,
    State,
    Tree,
)
from .._solvers.base import AbstractStepper, Calls, SolverState, Step

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import AbstractStepVJP, FieldVJP, Layout, Pull
    from .integrator import Integrator


class Stops:
    """The stops of one integration.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
        Whose settings, behind the tolerances, are: all stops and the jumps among them as the clock
        counts, the jumps as f does. In any order.
    back : bool
        The integration goes from t1 to t0 (a walk back).
    """

    def __init__(self, loop: Integrator, inputs: Inputs, *, back: bool = False) -> None:
        stops, jumps, given = inputs.settings[2:]
        self.bk, self.clock, self.layout = loop.bk, loop.clock, loop.problem.layout
        clock, traced = self.clock, self.clock.traced
        self.t0, self.t1 = (clock.real(t) for t in inputs.clocked[:2])
        down = self.t1 > self.t0 if back else self.t1 < self.t0
        self.sign = clock.where(down, -1.0, 1.0)
        self.calls = loop.solver.calls(1, full=True)
        self.fresh = loop.solver.init_evaluations
        self.bytes = self.bk.itemsize(self.layout.real_dtype)
        self.jumps: Any = None
        """Jumps in the order of the integration, by the clock and for f; times the sign."""
        self.bounds: tuple[Array, Array] = (None, None)
        """Between which f is asked in the step at hand."""
        self.next: Scalar = None
        """The jump ahead of it."""
        self.given = jumps
        """Jumps by the clock, in the order in which they were given."""
        if traced:
            self.stops = self.sign * stops
            self.jumps = (self.sign * jumps, self.sign * given) if len(given) else None
            return
        self.stops = sorted(self.sign * t for t in stops)
        pairs = sorted((self.sign * t, self.sign * s) for t, s in zip(jumps, given, strict=True))
        self.jumps = tuple(zip(*pairs, strict=True)) if pairs else None

    @property
    def first(self) -> Scalar:
        """The first stop, or t1: what is before it moves with t0."""
        return self.after(self.t0, self.t1)

    def after(self, t: Scalar, t1: Scalar) -> Scalar:
        """Where the step from t may go at most: to the next stop, or to t1."""
        sign = self.sign
        return sign * self.clock.minimum(sign * t1, self._ahead(self.stops, sign * t))

    def lands(self, t: Scalar, h: Scalar) -> tuple[Bool, Bool]:
        """Whether the size h of a step from t was chosen to end on the next stop or on t1, and
        whether on a stop before t1."""
        stop = self.after(t, self.t1)
        lands = h == stop - t
        return lands, self.clock.both(lands, stop != self.t1)

    def jump_at(self, t: Scalar) -> tuple[Index, Bool]:
        """Which of the jumps, as they were given, is at a time of the clock, and whether one is."""
        if not self.clock.traced:
            here = t in self.given
            return (self.given.index(t) if here else 0), here
        if not len(self.given):
            return 0, False
        xp, here = self.bk.xp, self.given == t
        return xp.argmax(xp.where(here, 1, 0)), xp.any(here)

    def jump_behind(self, t: Scalar) -> tuple[Index, Bool]:
        """The same of the last stop that the solve has met up to t."""
        sign = self.sign
        if not self.clock.traced:
            i = bisect_right(self.stops, sign * t)
            met = i > 0 and self.stops[i - 1] > sign * self.t0
            return self.jump_at(sign * self.stops[i - 1]) if met else (0, False)
        xp = self.bk.xp
        met = (self.stops > sign * self.t0) & (self.stops <= sign * t)
        last = xp.max(xp.where(met, self.stops, -math.inf))
        return self.jump_at(sign * last)

    def _ahead(self, times: Any, t: Scalar) -> Scalar:
        """The first of times behind t, inf if there is none."""
        if self.clock.traced:
            xp = self.bk.xp
            ahead = xp.where(times > t, times, math.inf)
            return ahead[xp.argmin(ahead)]  # of equal ones the first, with its derivative
        i = bisect_right(times, t)
        return times[i] if i < len(times) else math.inf

    def enter(self, t: Scalar) -> None:
        """What is asked of f from now on belongs to a step that begins at t."""
        times, given = self.jumps
        t = self.sign * t
        if self.clock.traced:
            xp = self.bk.xp
            ahead = times > t
            low = xp.max(xp.where(ahead, -math.inf, given))
            high = xp.min(xp.where(ahead, given, math.inf))
            one, inf = xp.ones_like(low), math.inf * xp.ones_like(low)
            least = smallest(self.bytes) * one  # of smaller ones processors make 0
            low = xp.where(low == 0, least, xp.nextafter(low, inf))
            high = xp.where(high == 0, -least, xp.nextafter(high, -inf))
        else:
            i = bisect_right(times, t)
            low = self._beside(given[i - 1], 1) if i else -math.inf
            high = self._beside(given[i], -1) if i < len(given) else math.inf
        low, high = (self.bk.scalar_array(self.sign * x, self.layout) for x in (low, high))
        self.bounds = self.clock.select(self.sign > 0, (low, high), (high, low))
        self.next = self.sign * self._ahead(times, t)

    def _beside(self, t: float, way: int) -> float:
        """The number of y's real dtype next to t."""
        if self.bytes >= 8:
            t = math.nextafter(t, way * math.inf)
            return t if abs(t) >= smallest(8) else way * smallest(8)
        near: float = struct.unpack("<f", struct.pack("<f", t))[0]
        if near == 0.0:
            return way * smallest(4)
        bits: int = struct.unpack("<i", struct.pack("<f", near))[0]
        found: float = struct.unpack("<f", struct.pack("<i", bits + way * (1 if near > 0 else -1)))[
            0
        ]
        return found

    def within(self, t: Array) -> Array:
        """A time of f between the jumps beside the step at hand; with t's derivatives."""
        bk, (low, high) = self.bk, self.bounds
        xp = bk.xp
        if not isinstance(t, float) and xp.isdtype(t.dtype, "complex floating"):
            real = xp.real(t)  # a complex step in time
            return self.within(real) + (t - real)
        at = xp.where(t < low, low, xp.where(t > high, high, t))
        if Capability.DIRECT in bk.capabilities:
            at = t + bk.stop_gradient(at - t)  # both are exact, of neighbours
        return at

    # --- steps
    def sided(self, field: Field) -> Field:
        """f as a step sees it."""
        if self.jumps is None:
            return field
        sided: Field = lambda t, y: field(self.within(t), y)  # noqa: E731
        if (known := getattr(field, "equations", None)) is not None:
            jac = known.jac
            jac = jac and partial(self._at, known.jac)
            parts = known.parts and tuple(self.sided(part) for part in known.parts)
            known = known._replace(jac=jac, parts=parts)
            sided.equations = known  # type: ignore[attr-defined]
        if (linearise := getattr(field, "linearise", None)) is not None:
            sided.linearise = lambda reals, t, y, **known: linearise(  # type: ignore[attr-defined]
                reals, self.within(t), y, **known
            )
        return sided

    def _at(self, fn: Field, t: Array, y: State) -> Tree:
        return fn(self.within(t), y)

    def sided_vjp(self, vjp: FieldVJP) -> FieldVJP:
        """The vjp of f as a step sees it."""
        return vjp if self.jumps is None else _SidedVJP(self, vjp)

    def steps(self, steps: Steps) -> Steps:
        """The same steps and vjps, between jumps."""
        if self.jumps is None:
            return steps

        def stepper(
            bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
        ) -> AbstractStepper:
            return _SidedStepper(self, steps.stepper(bk, layout, self.sided(field), scale))

        def step_vjp(
            bk: AbstractBackend, layout: Layout, vjp: FieldVJP, *, field: Field | None = None,
            **needs: bool,
        ) -> AbstractStepVJP:  # fmt: skip
            sided = None if field is None else self.sided(field)
            made = steps.step_vjp(bk, layout, self.sided_vjp(vjp), field=sided, **needs)
            return _SidedStepVJP(self, made)

        return Steps(stepper, step_vjp)


class _SidedVJP:
    """The vjp of f at times between jumps; the rest of it as it is."""

    def __init__(self, stops: Stops, vjp: FieldVJP) -> None:
        self.stops, self.vjp = stops, vjp

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.vjp, name)
        return _SidedVJP(self.stops, found) if name in ("explicit", "implicit") else found

    def __call__(self, t: Array, y: State) -> tuple[Sequence[Array], Pull]:
        return self.vjp(self.stops.within(t), y)

    def second(self, t: Array, *rest: Any) -> Any:
        self.vjp.sides = self.stops.bounds
        return self.vjp.second(self.stops.within(t), *rest)


class _SidedStepper(AbstractStepper):
    """Steps that are told between which jumps they lie."""

    tells_calls = True  # a slope is evaluated anew at a jump

    def __init__(self, stops: Stops, stepper: AbstractStepper) -> None:
        self.stops, self.stepper, self.extra = stops, stepper, stepper.extra
        self.tells_algebra = stepper.tells_algebra
        self.old: SolverState = ()

    def start(self, t0: Scalar, y0: State) -> State:
        self.stops.enter(t0)
        return self.stepper.start(t0, y0)

    def state(self, carried: State) -> State:
        return self.stepper.state(carried)

    def init(self, t: Scalar, carried: State, slope: Leaves | None = None) -> SolverState:
        self.stops.enter(t)
        return self.stepper.init(t, carried, slope)

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        stops = self.stops
        calls: Index | Calls = 0
        stops.enter(t)
        if error and state is self.old:
            state, calls = self.stepper.init(t, carried), stops.fresh
        found = self.stepper.step(t, h, carried, state, error=error)
        if not error:
            return found
        y1, e2, after, again, failed, counted = found
        calls += stops.calls if counted is None else counted
        if after is not None:
            after, more = self._anew(h == stops.next - t, stops.next, y1, after)
            calls = calls + more
        return Step(y1, e2, after, again, failed, calls)

    def _anew(
        self, ends: Bool, t: Scalar, y1: State, after: SolverState
    ) -> tuple[SolverState, Scalar]:
        """The solver's state where a step has ended, perhaps on the jump t; evaluations of f."""
        stops = self.stops
        if not stops.clock.traced:
            if ends:  # evaluated if it is accepted
                self.old = after
            return after, 0
        kept = stops.bounds, stops.next

        def right(after: SolverState) -> SolverState:
            stops.enter(t)
            return self.stepper.init(t, y1)

        after = stops.bk.cond(ends, right, lambda after: after, after)
        stops.bounds, stops.next = kept
        return after, stops.clock.where(ends, stops.fresh, 0)

    def extra_stages(self, due: Bool = True) -> None:
        self.stepper.extra_stages(due)

    def invert(self, t: Scalar, h: Scalar, carried: State) -> State:
        self.stops.enter(t)
        return self.stepper.invert(t, h, carried)

    def interpolate(self, theta: Scalar) -> State:
        return self.stepper.interpolate(theta)


class _SidedStepVJP:
    """Pulls that are told between which jumps their steps lie; the rest as it is."""

    def __init__(self, stops: Stops, step_vjp: AbstractStepVJP) -> None:
        self.stops, self.step_vjp = stops, step_vjp

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step_vjp, name)

    def finish(
        self, t0: Scalar, y0: State, ct: State, acc: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        self.stops.enter(t0)
        return self.step_vjp.finish(t0, y0, ct, acc)

    def replay(self, field: Field) -> AbstractStepper:
        return _SidedStepper(self.stops, self.step_vjp.replay(self.stops.sided(field)))

    def pull(
        self, t: Scalar, h: Scalar, y: State, g: State, acc: ParamSums,
        outputs: Callable[..., Carry] | None = None, size: bool = True,
    ) -> Carry:  # fmt: skip
        self.stops.enter(t)
        return self.step_vjp.pull(t, h, y, g, acc, outputs, size)
