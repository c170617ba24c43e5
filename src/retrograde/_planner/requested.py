"""The planner's own switch: what a solve is visibly asked for, and the adjoint that has it.

Seen at call time are dual tensors, torch.func's transforms, JAX's tracers outside of ``jit``, and
how many real numbers are differentiated. What is hidden can't be switched for: there the
adapter's derivatives of derivatives, or an error that names the adjoint, take over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._adjoints.base import AbstractAdjoint
from .._adjoints.direct import DirectAdjoint
from .._adjoints.forward_mode import ForwardMode
from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Inputs, Memory, RequestedTransforms
from .costs import forward_cost
from .plan import Plan
from .shape import UNLIMITED, Shape

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator

__all__ = ["method_override", "unmeasured_plan"]


def method_override(
    loop: Integrator,
    inputs: Inputs,
    shape: Shape,
    budget: int,
    named: AbstractAdjoint | None,
    *,
    native: bool,
) -> tuple[Shape, AbstractAdjoint | None, str]:
    """The shape with what is asked for; an adjoint and why, or None where the planner is free."""
    requested = loop.bk.requested(inputs) if native else RequestedTransforms()
    shape = shape._replace(numbers=requested.scalars)
    if named is not None:
        return shape, named, "it was named"
    if requested.forward:
        return shape, ForwardMode(), "forward mode (a jvp) is asked for"
    if requested.again:
        return shape, DirectAdjoint(), "forward and reverse mode are asked for at once"
    if _pays(loop, shape, budget):
        reason = "one number is differentiated, and its tangent needs no reverse pass"
        return shape, ForwardMode(), reason
    return shape, None, ""


def _pays(loop: Integrator, shape: Shape, budget: int) -> bool:
    """Whether a tangent along the steps beats every reverse pass: 2.5 F a step against 3."""
    own = getattr(loop.problem.f, "vjp", None) is not None
    if shape.numbers != 1 or own or forward_cost(shape, 1).bytes > budget:
        return False
    return bool(loop.bk.has_forward_mode(loop.problem))


def unmeasured_plan(
    loop: Integrator,
    inputs: Inputs,
    named: AbstractAdjoint | None,
    memory: Memory | None,
    *,
    native: bool,
) -> Plan | None:
    """The plan under transforms that hide the size of a tape; None without such transforms.

    Raises
    ------
    InputError
        If a budget is given, which could not be kept.
    UnsupportedByBackend
        For ``solve_vjp``, and an adjoint by name that has no way through the transforms.
    """
    requested = loop.bk.requested(inputs)
    if requested.measurable:
        return None
    if not native:
        raise UnsupportedByBackend(
            f"solve_vjp can't run under the function transforms of {loop.bk.name}; use solve "
            "there, or call solve_vjp outside of them."
        )
    if memory is not None:
        raise InputError(
            "`memory` is set, but under these transforms every step is recorded and the size of "
            "its tape can't be seen; leave it out, or take the gradient without the transform."
        )
    if named is not None and not named.follows_solve:
        raise UnsupportedByBackend(
            f"`adjoint` is {named.name}, which has a reverse pass alone and no way through these "
            "transforms; pass adjoint='auto', 'direct' or 'forward'."
        )
    chosen = named or (ForwardMode() if requested.forward else DirectAdjoint())
    return Plan(
        adjoint=chosen,
        memory=0,
        budget=UNLIMITED,
        source="not measured under transforms",
        steps=loop.count or 0,
        known=loop.count is not None,
        items={},
        candidates=(),
        reason="it was named"
        if named
        else "the transforms need an integration that autodiff follows",
        fallback=None,
        limit=None,
        shape=_unseen(loop),
        named=named,
    )


def _unseen(loop: Integrator) -> Shape:
    """The shape of a solve of which no size can be seen."""
    return Shape(0, loop.count or 0, loop.count is not None, None, 0, 0, {}, True, False)
