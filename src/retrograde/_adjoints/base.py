"""The one abstract class of gradient methods.

An adjoint receives the forward loop; it never imports it. Either ``forward`` runs the loop and
keeps what ``reverse`` will need, or (``differentiable``) ``primal`` solves by operations that the
library's own autodiff follows.
"""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar

from .._base.errors import UnsupportedByBackend
from .._base.types import Inputs, Leaves, NeedsGradient, Residuals
from .._integrate.outputs import output_leaves

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final


class AbstractAdjoint(ABC):
    """A way to the gradient of a solve.

    Attributes
    ----------
    accuracy : str
        'exact' (gradient of the discrete solve to round-off), or what it is instead.
    differentiable : bool
        Whether its result can be differentiated again.
    forward_depends_on_wanted : bool
        Whether what it keeps depends on what is differentiated (``forward_for``).
    follows_solve : bool
        Whether its primal can be followed by the library's own forward mode.
    passes_events : bool
        Whether it gives the gradient of a solve with events.

    Examples
    --------
    >>> import retrograde as rg
    >>> plan = rg.plan(lambda t, y, args: -y, [1.0], 0.0, 1.0, dt=0.01, memory="1 KiB")
    >>> isinstance(plan.adjoint, rg.AbstractAdjoint)
    True
    """

    accuracy: ClassVar[str]
    differentiable: ClassVar[bool] = False
    forward_depends_on_wanted: ClassVar[bool] = False
    follows_solve: ClassVar[bool] = False
    passes_events: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class' name."""
        return type(self).__name__

    @property
    def kind(self) -> str:
        """``accuracy``, as it is with these settings."""
        return self.accuracy

    def check(self, loop: Integrator) -> None:
        """Raise InputError or UnsupportedByBackend where this method can't serve a loop."""
        return

    def check_events(self, loop: Integrator) -> None:
        """Raise UnsupportedByBackend where a loop has events and this method can't pass them."""
        if loop.events is not None and not self.passes_events:
            raise UnsupportedByBackend(
                f"`adjoint` is {self.name}, which can't pass the events of a solve; use "
                "adjoint='auto' or rg.RecursiveCheckpointAdjoint()."
            )

    def primal(self, loop: Integrator, inputs: Inputs) -> tuple[Leaves, Final]:
        """(output leaves, where the integration ended): a plain solve unless a method differs."""
        final = loop.integrate(inputs)
        return output_leaves(loop, inputs, final), final

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        """Solve; returns (where the loop ended, what reverse needs)."""
        raise UnsupportedByBackend(self._no_reverse(loop))

    def forward_for(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient | None
    ) -> tuple[Leaves, Final, Residuals]:
        """Output leaves and what ``forward`` gives; ``wanted``: what is asked for, if known."""
        final, residuals = self.forward(loop, inputs)
        return output_leaves(loop, inputs, final), final, residuals

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        """Cotangents of the inputs from those of the output rows, shape (k, *shape) each."""
        raise UnsupportedByBackend(self._no_reverse(loop))

    def push(self, loop: Integrator, residuals: Residuals, tangents: Inputs) -> Leaves | None:
        """Tangents of the rows from what ``forward_for`` kept; None where it does not tell."""
        return None

    def _no_reverse(self, loop: Integrator) -> str:
        return (
            f"`adjoint` {self.name} has no reverse pass of its own on {loop.bk.name}; use "
            "adjoint='auto'."
        )
