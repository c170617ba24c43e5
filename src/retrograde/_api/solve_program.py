"""One solve as an adapter sees it: a function, with a forward and a reverse for its gradient."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from .._adjoints import AbstractAdjoint, DirectAdjoint, ForwardMode, check_followed
from .._base.types import Inputs, NeedsGradient
from .._integrate.outputs import output_times
from .._integrate.solution import Status
from .._planner import Plan, widened

__all__ = ["DifferentiableSolve"]


class DifferentiableSolve:
    """One solve as the adapters see it: a primal, and a forward and reverse for its gradient.

    Attributes
    ----------
    loop : Integrator
    adjoint : AbstractAdjoint
    fallback : AbstractAdjoint
        What takes over where the adjoint finds that it has no room (``TooManySteps``).
    stats : dict
        The solution's statistics; a reverse pass adds its own when it has run.
    plan : Plan or None
        Whose limit of steps is kept.
    """

    def __init__(self, loop: Any, adjoint: AbstractAdjoint, plan: Plan | None = None) -> None:
        self.loop = loop
        self.adjoint = adjoint
        self.fallback = (plan and plan.fallback) or adjoint
        self.plan = plan
        self.stats: dict[str, Any] = {}
        self._bounded_loop = loop

    def key(self) -> Any:
        """What a compiled form of this program depends on; unhashable where it can't be kept."""
        loop = self.loop
        problem, saveat = loop.problem, loop.outputs.saveat
        return (
            problem.key(),
            loop.solver,
            _static(loop.controller),
            loop.max_steps,
            loop.count,
            loop.shifted,
            (saveat.t0, saveat.t1, saveat.ts is not None, saveat.steps, saveat.fn),
            loop.outputs.count,
            loop.times_checked,
            self.adjoint,
        )

    @property
    def given(self) -> int:
        """How many parameters are arguments of the user's, not found in closures."""
        return len(self.loop.problem.where)

    @property
    def small(self) -> bool:
        """Whether it may be one kernel of the device."""
        return bool(self.loop.problem.small)

    def forget(self) -> None:
        """Drop the arrays, once they are inputs of a program that outlives this call."""
        self.loop.problem.forget()

    def along(self, forward: bool) -> Callable[[Inputs], Any]:
        """Output leaves by operations that autodiff follows; ``forward``: in forward mode alone."""
        check_followed(self.loop)
        adjoint = ForwardMode() if forward else DirectAdjoint()
        return lambda inputs: tuple(adjoint.primal(self.loop.placed(inputs), inputs)[0])

    def primal(self, inputs: Inputs) -> tuple[Any, Any]:
        """(output leaves, what else the solve tells)."""
        leaves, final = self.adjoint.primal(self.loop.placed(inputs), inputs)
        return leaves, self._aux(inputs, final)

    def forward(self, inputs: Inputs, wanted: NeedsGradient | None = None) -> tuple[Any, Any, Any]:
        """The same, and what the reverse needs (of what is ``wanted``, where that is known)."""
        leaves, final, residuals = self._forward_within_limits(inputs, wanted)
        return leaves, self._aux(inputs, final), residuals

    def reverse(
        self, inputs: Inputs, residuals: Any, cotangents: Any, wanted: NeedsGradient
    ) -> Inputs:
        """Cotangents of the inputs."""
        return self.adjoint.reverse(
            self._bounded_loop.placed(inputs), inputs, residuals, cotangents, wanted
        )

    def resume(self) -> int | None:
        """Take the plan's limit of steps, which is returned: for an integration, or after one."""
        limit = None if self.plan is None else self.plan.limit
        self._bounded_loop = self.loop
        if limit is not None:
            self._bounded_loop = copy.copy(self.loop)
            self._bounded_loop.max_steps = limit
        return limit

    def _forward_within_limits(
        self, inputs: Inputs, wanted: NeedsGradient | None
    ) -> tuple[Any, Any, Any]:
        """Begun again by a plan for more steps where the solve outgrows its plan.

        Never in a traced library: its records and buffers have their size before it runs.
        """
        while True:
            limit = self.resume()
            loop = self._bounded_loop.placed(inputs)
            leaves, final, residuals = self.adjoint.forward_for(loop, inputs, wanted)
            if self.plan is None or limit is None or final.status != int(Status.max_steps):
                return leaves, final, residuals
            self.loop.problem.trials += self._bounded_loop.called(final)
            del leaves, final, residuals
            self.plan = widened(self.plan)
            self.adjoint = self.plan.adjoint

    def failed(self, aux: Any) -> bool:
        """Whether a run whose status is known did not reach t1, by what it told."""
        return bool(aux[3] != int(Status.converged))

    def tell(self, cotangents: Inputs) -> None:
        """Note what a finished reverse pass tells of itself."""
        for name, value in (cotangents.stats or {}).items():
            self.stats[name] = self.loop.bk.number(value)

    def _aux(self, inputs: Inputs, final: Any) -> tuple[Any, ...]:
        times, t = output_times(self.loop, inputs, final), self.loop.user_time(inputs, final.t)
        inside = final.inside[2] if len(final.inside) > 2 else 0
        n = final.inside[0] if self.loop.outputs.inside == "steps" else final.n
        return times, n, final.tries, final.status, t, inside


def _static(controller: Any) -> Any:
    """A controller without the settings that are inputs of a program (``Inputs.settings``)."""
    numbers = (int, float, str, bool, tuple, type(None))
    given = {f.name: getattr(controller, f.name) for f in dataclasses.fields(controller)}
    dropped = {name: None for name, value in given.items() if not isinstance(value, numbers)}
    return dataclasses.replace(controller, **dropped), tuple(dropped)
