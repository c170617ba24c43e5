"""Steps of a method that switches, and their vjps: those of the one chosen, by a branch.

Which one it is stands in a :class:`Chosen` beside the problem, and is set before each step by
whoever takes it: the loop by its rule, replays by the record. So a step is a function of (t, h, y)
and that bit, and its vjp is the chosen one's. Where the bit has no value yet (JAX), both are in the
program, and one runs; under ``vmap`` both do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..._base.types import Bool, Carry, Chosen, Field, Leaves, ParamSums, Scalar, Scale, State
from ..base import AbstractStepper, Calls, SolverState, Step, YCarried
from ..runge_kutta.solver import StepCotangents
from ..runge_kutta.solver import Stepper as ExplicitStepper

if TYPE_CHECKING:
    from ..._backend.protocols import AbstractStepVJP, Layout
    from ..rosenbrock.step import Linearised
    from ..rosenbrock.step import Stepper as StiffStepper
    from ..runge_kutta.solver import Sources

NODES = (0.25, 0.5, 0.75)
"""Inner places of a step whose states tell its interpolant, of degree 4, beside both ends."""


class Stepper(AbstractStepper):
    """Steps forward.

    Parameters
    ----------
    explicit, stiff : AbstractStepper
    chosen : Chosen
    scale : Scale, optional
        Tolerances, by which differences of stages are weighed.
    """

    tells_calls = tells_algebra = True

    def __init__(
        self,
        explicit: ExplicitStepper,
        stiff: StiffStepper,
        chosen: Chosen,
        scale: Scale | None = None,
    ) -> None:
        self.explicit, self.stiff, self.chosen, self.scale = explicit, stiff, chosen, scale
        self.layout, self.field = explicit.layout, explicit.field
        self.bk = self.layout.bk
        self.clock = self.bk.clock(self.layout)
        self.traced = self.clock.traced
        self.ends: tuple[State, ...] = ()

    def init(self, t: Scalar, carried: State, slope: Leaves | None = None) -> SolverState:
        """f(t, y); left to the step where that is known to be the stiff one's."""
        return self.explicit.init(t, carried, slope)

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        if not self.traced:
            return (self._stiff if self.chosen.stiff else self._explicit)(
                t, h, carried, state, error
            )[0]
        branches = [self._branch(one, error) for one in (self._stiff, self._explicit)]
        slope = None if not error else state
        found = self.bk.cond(self.chosen.stiff, *branches, t, h, carried, slope)
        y1, error2, k1, failed, calls, self.chosen.rate, inner = found
        self.ends = (carried, *inner, y1)
        kept = state if error else None
        return Step(y1, error2, k1, kept, failed, calls)

    def _branch(self, one: Callable[..., Any], error: bool) -> Callable[..., Carry]:
        """One method's step as a branch: both have the same results."""
        real, clock = self.clock.real, self.clock
        no = real(0.0) > real(1.0)

        def run(t: Scalar, h: Scalar, y: State, k0: Leaves | None) -> Carry:
            step, child = one(t, h, y, k0, error)
            if not error:
                return step.y1, None, None, no, None, real(0.0), ()
            error2 = None if step.error2 is None else real(step.error2)
            inner = tuple(child.interpolate(x) for x in NODES)
            failed = clock.either(step.failed, no)
            calls = Calls(*map(clock.count, step.calls))
            return step.y1, error2, step.state, failed, calls, real(self.chosen.rate), inner

        return run

    def _explicit(
        self, t: Scalar, h: Scalar, y: State, state: Leaves | None, error: bool
    ) -> tuple[Step, AbstractStepper]:
        child = self.explicit
        step = Step(*child.step(t, h, y, state, error=error))
        if error:
            self.chosen.rate = self._rate(step.y1)
            calls = step.calls
            if calls is None:
                calls = child.inner - (state is not None) + child.fsal
            step = step._replace(calls=Calls(calls, 0, 0))
        return step, child

    def _rate(self, y1: State) -> Scalar:
        """|k7 - k6| / |y1 - Y6|: two stages at the same time, which cost nothing more."""
        space, layout, last = self.explicit.space, self.layout, self.explicit.inner
        if self.explicit.late and not space.whole:
            return 0.0
        rise = layout.axpy(space.derivative(last), -1.0, space.derivative(last - 1))
        run = layout.axpy(y1, -1.0, space.combine(last - 1))
        rise2, run2 = (self.clock.real(self._size2(x, y1)) for x in (rise, run))
        return self.clock.root(rise2, run2)

    def _size2(self, x: State, y: State) -> Scalar:
        """Of a difference, weighed by the tolerances: what is fast may be small beside the rest."""
        scale = self.scale
        return self.layout.inner(x, x) if scale is None else self.layout.norm2(x, y, scale)

    def _stiff(
        self, t: Scalar, h: Scalar, y: State, state: Leaves | Linearised | None, error: bool
    ) -> tuple[Step, AbstractStepper]:
        child, stages, layout = self.stiff, self.stiff.stages, self.layout
        known: Any = state
        slopes, kept = 0, hasattr(state, "jacobian")
        if state is not None and not kept:
            known = stages.linearise(t, y, layout.own(state))
        step = child.step(t, h, y, known, error=error)
        if not error:
            return step, child
        self.chosen.rate = stages.linear.norm(stages.start.jacobian)
        if self.traced:  # the slope at its end, as the explicit method has it
            slope = self.field(layout.time(t + h), step.y1)
            slopes = 1
            step = step._replace(state=tuple(slope))
        calls = child.count - 1 + (state is None) if step.calls is None else step.calls
        return step._replace(calls=Calls(calls + slopes, 0 if kept else 1, 1)), child

    @property
    def untold(self) -> int:  # type: ignore[override]
        """Evaluations that no step told."""
        return self.explicit.untold

    def extra_stages(self, due: Bool = True) -> None:
        """There are none, but for a last stage that waits."""

    def interpolate(self, theta: Scalar) -> State:
        if not self.traced:
            return (self.stiff if self.chosen.stiff else self.explicit).interpolate(theta)
        at, terms = (0.0, *NODES, 1.0), []
        for j, y in enumerate(self.ends):
            weight: Scalar = 1.0
            for k, x in enumerate(at):
                if k != j:
                    weight = weight * ((theta - x) / (at[j] - x))
            terms.append((weight, y))
        return self.layout.weighted(terms)


class StepVJP(YCarried):
    """Exact vjps of steps.

    Notes
    -----
    Costs what the chosen method's does; holds its tapes, in JAX the larger ones.
    """

    extra = 0

    def __init__(
        self, explicit: AbstractStepVJP, stiff: AbstractStepVJP, layout: Layout, chosen: Chosen
    ) -> None:
        self.explicit, self.stiff, self.layout, self.chosen = explicit, stiff, layout, chosen
        self.clock = layout.bk.clock(layout)

    def replay(self, field: Field) -> Stepper:
        """Steps forward; a pull and a replay never interleave."""
        explicit: Any = self.explicit.replay(field)
        stiff: Any = self.stiff.replay(field)
        return Stepper(explicit, stiff, self.chosen)

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of y1 (and those of outputs inside the step) back to y.

        ``outputs`` and ``size`` are those of ``runge_kutta.solver.StepVJP.pull``; outputs see the
        chosen method's vjp.
        """
        if not self.clock.traced:
            child = self.stiff if self.chosen.stiff else self.explicit
            return child.pull(t, h, y, g, acc, outputs, size)
        real = self.clock.real

        def branch(child: AbstractStepVJP) -> Callable[..., Carry]:
            def run(t: Scalar, h: Scalar, y: State, g: State, acc: ParamSums) -> Carry:
                step, extra = child.pull(t, h, y, g, acc, outputs, size)
                return (step.y, step.params, real(step.t), real(step.h)), extra

            return run

        branches = branch(self.stiff), branch(self.explicit)
        found, extra = self.layout.bk.cond(self.chosen.stiff, *branches, t, h, y, g, acc)
        return StepCotangents(*found), extra
