"""The planner's own switch: what a solve is visibly asked for, and the adjoint that has it.

Seen at call time are dual tensors, torch.func's transforms, JAX's tracers outside of ``jit``, and
how many real numbers are differentiated. What is hidden can't be switched for: there the
adapter's derivatives of derivatives, or an error that names the adjoint, take over.
"""

from __future__ import annotations

from typing import Any

from .._adjoints import AbstractAdjoint, DirectAdjoint, ForwardMode, Shape
from .._errors import InputError, UnsupportedByBackend
from .._types import Inputs
from .costs import forward_cost
from .plan import UNLIMITED, Plan

__all__ = ["switch", "unmeasured_plan"]


def switch(
    loop: Any, inputs: Inputs, shape: Shape, budget: int
) -> tuple[AbstractAdjoint | None, str]:
    """The adjoint that what is asked for calls for, and why; None where the planner is free."""
    asked = loop.bk.asked(inputs)
    if asked.forward:
        return ForwardMode(), "forward mode (a jvp) is asked for"
    if asked.again:
        return DirectAdjoint(), "forward and reverse mode are asked for at once"
    own = getattr(loop.problem.f, "vjp", None) is not None
    if asked.scalars != 1 or own or forward_cost(shape, 1).bytes > budget:
        return None, ""
    t0 = loop.layout.time(loop.clock.real(inputs.t0))
    if not loop.bk.has_forward_mode(loop.problem, t0):
        return None, ""
    return ForwardMode(), "one number is differentiated, and its tangent takes no reverse sweep"


def unmeasured_plan(loop: Any, asked: Any, named: AbstractAdjoint | None, memory: Any) -> Plan:
    """The plan under transforms that hide the size of a tape.

    Raises
    ------
    InputError
        If a budget is given, which could not be kept.
    UnsupportedByBackend
        If the adjoint that was named has no way through the transforms.
    """
    if memory is not None:
        raise InputError(
            "`memory` is set, but under these transforms every step is recorded and the size of "
            "its tape can't be seen; leave it out, or take the gradient without the transform."
        )
    if named is not None and not named.follows_march:
        raise UnsupportedByBackend(
            f"`adjoint` is {named.name}, which has a reverse sweep alone and no way through these "
            "transforms; pass adjoint='auto', 'direct' or 'forward'."
        )
    chosen = named or (ForwardMode() if asked.forward else DirectAdjoint())
    return Plan(
        adjoint=chosen,
        memory=0,
        budget=UNLIMITED,
        source="not measured under transforms",
        steps=loop.count or 0,
        known=loop.count is not None,
        items={},
        candidates=(),
        reason="it was named" if named else "the transforms need a march that autodiff follows",
    )
