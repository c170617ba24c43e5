"""DirectAdjoint: the library's own autodiff through the accepted steps.

Where autodiff follows Python, the integration is recorded as it runs. Elsewhere the loop first runs
on constants and records its accepted times; then the same steps are taken again over the recorded
times by a loop that autodiff can follow. Either way the gradient has the same meaning as every
exact method's (step sizes are constants), by an independent route, and it can be differentiated
again: jvp, Hessians, gradients of gradients.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from .._backend.protocols import Capability
from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import (
    Inputs,
    Leaves,
    Scalar,
    State,
)
from .._integrate.events import reached
from .._integrate.outputs import Outputs, output_leaves
from .base import AbstractAdjoint
from .retaken import ListForms, Retaken
from .retaken_events import RetakenWithEvents

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final


@dataclass(frozen=True)
class DirectAdjoint(AbstractAdjoint):
    """Plain autodiff through the steps; stores a tape of each.

    Parameters
    ----------
    limit : int or None
        Steps that there is room for. The planner sets it: an integration that takes more is begun
        again with checkpoints, so that a wrong prediction costs time and never bytes.

    Notes
    -----
    Where autodiff follows Python loops and no derivative by t0, t1 or ts is asked for, the steps
    are recorded as they are taken. Otherwise they are taken again, which costs one more forward
    pass, and one more step for each saved time inside the solve; in traced libraries memory
    then is that of max_steps tapes.

    Examples
    --------
    For derivatives of derivatives, where the library has autodiff::

        jax.hessian(lambda k: rg.solve(f, y0, 0.0, 1.0, k, dt=0.1, adjoint="direct").ys[-1, 0])

    >>> import retrograde as rg
    >>> rg.DirectAdjoint().differentiable, rg.RecursiveCheckpointAdjoint().differentiable
    (True, False)
    """

    limit: int | None = None
    accuracy: ClassVar[str] = "exact"
    differentiable: ClassVar[bool] = True
    passes_events: ClassVar[bool] = True
    follows_solve: ClassVar[bool] = True

    def primal(self, loop: Integrator, inputs: Inputs) -> tuple[Leaves, Final]:
        """(output leaves, where the integration ended), by differentiable operations alone."""
        bk = loop.bk
        check_followed(loop, self.name)
        followed = Capability.TRACED not in bk.capabilities and constant_times(inputs)
        if followed and loop.events is None:
            leaves, final = _recorded(loop, inputs, self.limit)
        else:
            constant = bk.stop_gradient(inputs)
            with bk.quiet():  # f may close over what requires a gradient
                final = loop.integrate(constant, None, record=loop.adaptive)
                values = output_leaves(loop, constant, final)
            kind = Retaken if loop.events is None else RetakenWithEvents
            again = kind(loop, inputs, constant, final).rows()
            # the integration's own numbers, bit for bit (v - x is exact), and nan where it did not
            # get
            pairs = zip(again, values, strict=True)
            leaves = tuple(x + bk.stop_gradient(v - x) for x, v in pairs)
        ok = reached(loop, final)
        return tuple(bk.poison_gradient(ok, x) for x in leaves), final


def check_followed(loop: Integrator, name: str | None = None) -> None:
    """Raise unless the library's autodiff can follow an integration of this loop.

    ``name``: the adjoint that the user named; None if a derivative asks for it that no reverse
    pass gives.
    """
    bk = loop.bk
    if getattr(loop.problem.f, "vjp", None) is not None:
        who, remedy = f"`adjoint` is {name}, which differentiates", "use adjoint='auto'"
        if name is None:
            who = "forward mode and second derivatives differentiate"
            remedy = "ask for one reverse-mode derivative"
        raise InputError(
            f"{who} `f` itself, but `f` brings its own `vjp`; {remedy}, or pass the plain function."
        )
    if getattr(loop.solver, "linear_solver", None) is not None:
        raise UnsupportedByBackend(
            f"{loop.solver.name} has a `linear_solver`, whose iterations autodiff would follow to "
            "their tolerance alone; take one reverse-mode derivative by adjoint='auto', or leave "
            "`linear_solver` out."
        )
    if Capability.DIRECT not in bk.capabilities:
        raise UnsupportedByBackend(
            f"`adjoint` is {name}, but {bk.name} has no autodiff; use adjoint='auto' "
            "or RecursiveCheckpointAdjoint()."
        )


def constant_times(inputs: Inputs) -> bool:
    """Whether no derivative by a time can be asked for: all are plain numbers."""
    ends, tables = (inputs.t0, inputs.t1), (inputs.ts, inputs.jumps)
    plain = all(isinstance(t, (int, float)) for t in ends)
    return plain and all(isinstance(ts, (list, tuple)) for ts in tables)


def _recorded(loop: Integrator, inputs: Inputs, limit: int | None) -> tuple[Leaves, Final]:
    """The integration itself under autodiff, with states as tuples of leaves."""
    bk = loop.bk
    twin = copy.copy(loop)
    twin.bk = cast("AbstractBackend", ListForms(bk, limit))
    twin.layout = bk.direct_layout(loop.layout)
    twin.carried = loop.solver.carried(twin.bk, twin.layout)
    twin.bind = loop.problem.bind_free
    parts = []
    for out in loop.outputs.parts:
        own = out.layout is loop.problem.layout
        parts.append(out.like(twin.layout if own else bk.direct_layout(out.layout)))
    twin.outputs = Outputs(bk, parts)
    settings = inputs.settings
    if loop.adaptive:
        settings = (*(_as_leaves(loop.layout, x) for x in settings[:2]), *settings[2:])
    inputs = inputs._replace(y0=tuple(loop.layout.unpack(inputs.y0)), settings=settings)
    final = twin.integrate(inputs)
    return output_leaves(twin, inputs, final), final


def _as_leaves(layout: Layout, tolerance: Scalar) -> State:
    return tolerance if isinstance(tolerance, float) else tuple(layout.unpack(tolerance))
