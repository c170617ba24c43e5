"""DirectAdjoint: the library's own autodiff through the accepted steps.

First the loop runs on constants and records its accepted times; then the same steps are taken
again over the recorded times by a loop that autodiff can follow. So its gradient has the same
meaning as every exact method's (step sizes are constants), by an independent route, and it can
be differentiated again: jvp, Hessians, gradients of gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .._errors import UnsupportedByBackend
from .._types import Inputs, Wanted
from .base import AbstractAdjoint

__all__ = ["DirectAdjoint"]


@dataclass(frozen=True)
class DirectAdjoint(AbstractAdjoint):
    """Plain autodiff through the steps; stores a tape of each.

    Notes
    -----
    Takes one more forward sweep than a solve. Memory: one tape a step (in traced libraries a
    tape of each of max_steps steps).
    """

    accuracy: ClassVar[str] = "exact"
    differentiable: ClassVar[bool] = True

    def forward(self, loop: Any, inputs: Inputs) -> tuple[Any, Any]:
        """Solve by differentiable operations alone."""
        bk = loop.bk
        constant = bk.stop_gradient(inputs)
        final = loop.march(constant, None, record=loop.adaptive)
        return bk.differentiable_march(loop, inputs, final), None

    def reverse(
        self, loop: Any, inputs: Inputs, residuals: Any, cotangents: Any, wanted: Wanted
    ) -> Inputs:
        raise UnsupportedByBackend(
            f"`DirectAdjoint` needs a library with autodiff, and {loop.bk.name} has none; use "
            "`adjoint='auto'` or RecursiveCheckpointAdjoint()."
        )
