"""TapeAdjoint: what the vjp of f needs is stored at every stage, so that nothing is computed twice.

For traced libraries, whose autodiff can't record an integration as it runs (``DirectAdjoint`` takes
the steps again). The integration is the one that every other method runs; on the way back there is
no f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .._base.errors import UnsupportedByBackend
from .._base.types import Carry, Index, Inputs, Leaves, NeedsGradient, Residuals
from .._integrate.outputs import output_leaves
from .._integrate.solution import Status
from .base import AbstractAdjoint
from .checkpointed import RecursiveCheckpointAdjoint, begun, fill, strip
from .step_vjp import ReverseStep

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final


@dataclass(frozen=True)
class TapeAdjoint(AbstractAdjoint):
    """Store what the vjp of f needs at every stage of every step: exact, and nothing recomputed.

    For JAX and explicit Runge-Kutta methods. Memory: that of ``max_steps`` steps where their number
    is not known. The planner takes it for small states whose f is costly (tanh, exp, powers), where
    it fits.

    Notes
    -----
    Where times are differentiated (t0, t1, ts) or ``SaveAt.fn`` is given, states are needed too:
    then they are stored in place of tapes, and f is evaluated once more for each stage.

    Examples
    --------
    In JAX::

        jax.grad(lambda k: rg.solve(f, y0, 0.0, 1.0, k, dt=0.1, adjoint="tape").ys[-1, 0])(0.5)

    >>> import retrograde as rg
    >>> rg.TapeAdjoint().name
    'TapeAdjoint'
    """

    accuracy: ClassVar[str] = "exact"
    forward_depends_on_wanted: ClassVar[bool] = True

    def check(self, loop: Integrator) -> None:
        if not loop.bk.records_tapes(loop):
            raise UnsupportedByBackend(
                f"`adjoint` TapeAdjoint can't store the tapes of this solve ({loop.bk.name}, "
                f"{loop.solver.name}): it takes JAX, an explicit Runge-Kutta method (for outputs "
                "inside steps, one without stages of their own), an f without a vjp of its own or "
                "`jump_ts`, and `max_steps` where the number of steps is not known. Else use "
                "adjoint='auto'."
            )

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        return STATES.forward(loop, inputs)

    def forward_for(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient | None
    ) -> tuple[Leaves, Final, Residuals]:
        if wanted is None or _needs_states(loop, wanted):
            return STATES.forward_for(loop, inputs, wanted)
        tapes = loop.bk.tapes(loop, inputs, wanted)
        final = loop.integrate(inputs, record=loop.adaptive, guard=tapes)
        kept = strip(
            loop, STATES.slots(loop), final._replace(inside=loop.outputs.counted(final), y=())
        )
        return output_leaves(loop, inputs, final), final, [kept]

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        final, bk = residuals[0], loop.bk
        if final.stored is not None:
            return STATES.reverse(loop, inputs, residuals, cotangents, wanted)
        final = fill(loop, STATES.slots(loop), final, ())
        step_vjp: Any = bk.tapes(loop, inputs, wanted).step_vjp(final.noted)
        step = ReverseStep(loop, inputs, final, cotangents, wanted, step_vjp=step_vjp)
        ok = final.status == int(Status.converged)
        carry: Carry = begun(bk, ok, step.start(final))

        def back(j: Index, carry: Carry) -> Carry:
            i = final.n - 1 - j
            step_vjp.at = i
            return step.pull(i, None, carry)

        return step.finish(bk.for_loop(0, final.n, back, carry))


STATES = RecursiveCheckpointAdjoint()
"""What stands in where tapes alone are not enough: every state stored."""


def _needs_states(loop: Integrator, wanted: NeedsGradient) -> bool:
    return bool(wanted.time or wanted.ts or loop.outputs.called)
