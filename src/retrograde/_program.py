"""One solve as an adapter sees it: a function, with a forward and a reverse for its gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

from ._adjoints import AbstractAdjoint
from ._rows import output_times
from ._types import Inputs, Wanted

__all__ = ["Program"]


class Program:
    """One solve as the adapters see it: a primal, and a forward and reverse for its gradient.

    Attributes
    ----------
    loop : ForwardLoop
    adjoint : AbstractAdjoint
    fallback : AbstractAdjoint
        What takes over where the adjoint finds that it has no room (``TooManySteps``).
    """

    def __init__(
        self, loop: Any, adjoint: AbstractAdjoint, fallback: AbstractAdjoint | None = None
    ) -> None:
        self.loop = loop
        self.adjoint = adjoint
        self.fallback = fallback or adjoint

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
            (saveat.t0, saveat.t1, saveat.ts is not None, saveat.steps, saveat.fn),
            loop.outputs.count,
            self.adjoint,
        )

    def primal(self, inputs: Inputs) -> tuple[Any, Any]:
        """(output leaves, what else the solve tells)."""
        leaves, final = self.adjoint.primal(self.loop, inputs)
        return leaves, self._aux(inputs, final)

    def forward(self, inputs: Inputs, wanted: Wanted | None = None) -> tuple[Any, Any, Any]:
        """The same, and what the reverse needs (of what is ``wanted``, where that is known)."""
        leaves, final, residuals = self.adjoint.forward_for(self.loop, inputs, wanted)
        return leaves, self._aux(inputs, final), residuals

    def reverse(self, inputs: Inputs, residuals: Any, cotangents: Any, wanted: Wanted) -> Inputs:
        """Cotangents of the inputs."""
        return self.adjoint.reverse(self.loop, inputs, residuals, cotangents, wanted)

    def _aux(self, inputs: Inputs, final: Any) -> tuple[Any, ...]:
        times = output_times(self.loop, inputs, final)
        return times, final.n, final.tries, final.status, final.t


def _static(controller: Any) -> Any:
    """A controller without the settings that are inputs of a program (``Inputs.settings``)."""
    numbers = (int, float, str, bool, tuple, type(None))
    given = {f.name: getattr(controller, f.name) for f in dataclasses.fields(controller)}
    dropped = {name: None for name, value in given.items() if not isinstance(value, numbers)}
    return dataclasses.replace(controller, **dropped), tuple(dropped)
