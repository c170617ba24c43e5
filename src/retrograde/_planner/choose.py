"""The plan of a solve: the user's own, or a new one by what is visibly asked for and measured.

Seen at call time are dual tensors, torch.func's transforms, JAX's tracers outside of ``jit``, and
how many real numbers are differentiated. What is hidden can't be switched for: there the
adapter's derivatives of derivatives, or an error that names the adjoint, take over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .._adjoints import AbstractAdjoint, DirectAdjoint, ForwardMode, find_adjoint
from .._backend.protocols import Capability
from .._base.errors import InputError, UnsupportedByBackend
from .._base.log import DEBUG, listener
from .._base.memory import budget_bytes
from .._base.types import Inputs, Memory, RequestedTransforms
from .costs import forward_cost
from .measure_vjp import measured_vjp
from .plan import MadeFor, Plan
from .problem_size import measure_problem
from .rules import make_plan
from .shape import UNLIMITED, Shape

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator


def choose_plan(
    loop: Integrator,
    inputs: Inputs,
    adjoint: str | AbstractAdjoint | Plan,
    memory: Memory | None,
    *,
    native: bool,
    plan_only: bool = False,
    calibrate: bool = False,
) -> Plan:
    """The user's plan, or a new one.

    Parameters
    ----------
    adjoint, memory
        As :func:`~retrograde.solve` takes them.
    native : bool
        The library's own gradients are asked for, not ``solve_vjp``.
    plan_only : bool
        The plan itself is asked for. Nothing else is worth the compilation of a probe: what a
        traced library takes depends on the bound of the steps, not on their number.
    calibrate : bool
        The cost of a step's vjp is to be measured.
    """
    if isinstance(adjoint, Plan):
        adjoint.check(loop, inputs)
        return adjoint
    named = find_adjoint(adjoint)
    if named is not None:
        named.check(loop)
        named.check_events(loop)
    requested = loop.bk.requested(inputs)
    if not requested.measurable:
        return _unmeasured(loop, requested, named, memory, native=native)
    if named is not None and memory is None:
        budget, source = UNLIMITED, "no budget was given"
    else:
        budget, source = budget_bytes(memory, loop.bk, loop.layout.unpack(inputs.y0)[0])
    short_probe = named is None and (plan_only or Capability.TRACED not in loop.bk.capabilities)
    shape = measure_problem(loop, inputs, native=native, short_probe=short_probe, budget=budget)
    if calibrate:
        shape = shape._replace(vjp=measured_vjp(loop, inputs), calibrated=True)
    why = "it was named"
    if native:
        shape = shape._replace(numbers=requested.scalars)
        if named is None:
            named, why = _override(loop, requested, shape, budget)
    plan = make_plan(shape, budget, source, named, why)
    if not (loop.problem.steady or plan.adjoint.differentiable):
        raise InputError(
            f"`f` returned two results for the same arguments, and {plan.adjoint.name} calls it "
            "again for the gradient. Let it depend on t, y and args alone: draw random numbers "
            "before the solve and hand them in by `args` (what it draws from PyTorch's default "
            "generators is held)."
        )
    if log := listener(DEBUG):
        log.debug("The gradient of a solve: %s, because %s.", plan.summary, plan.reason)
    return replace(plan, made_for=MadeFor.of(loop, inputs))


def _override(
    loop: Integrator, requested: RequestedTransforms, shape: Shape, budget: int
) -> tuple[AbstractAdjoint | None, str]:
    """The adjoint that has what is asked for, and why; None where the planner is free."""
    if requested.forward:
        return ForwardMode(), "forward mode (a jvp) is asked for"
    if requested.again:
        return DirectAdjoint(), "forward and reverse mode are asked for at once"
    if loop.events is not None:  # whose tangents keep the states of all steps
        return None, ""
    own = getattr(loop.problem.f, "vjp", None) is not None
    # a tangent along the steps beats every reverse pass: 2.5 F a step against 3
    if requested.scalars == 1 and not own and forward_cost(shape, 1).bytes <= budget:
        if loop.bk.has_forward_mode(loop.problem):
            return (
                ForwardMode(),
                "one number is differentiated, and its tangent needs no reverse pass",
            )
    return None, ""


def _unmeasured(
    loop: Integrator,
    requested: RequestedTransforms,
    named: AbstractAdjoint | None,
    memory: Memory | None,
    *,
    native: bool,
) -> Plan:
    """The plan under transforms that hide the size of a tape.

    Raises
    ------
    InputError
        If a budget is given, which could not be kept.
    UnsupportedByBackend
        For ``solve_vjp``, and an adjoint by name that has no way through the transforms.
    """
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
    steps, known = loop.count or 0, loop.count is not None
    return Plan(
        adjoint=named or (ForwardMode() if requested.forward else DirectAdjoint()),
        memory=0,
        budget=UNLIMITED,
        source="not measured under transforms",
        steps=steps,
        known=known,
        items={},
        candidates=(),
        reason="it was named" if named else "autodiff has to follow the steps under transforms",
        fallback=None,
        limit=None,
        shape=Shape(0, steps, known, None, 0, 0, {}, True, False),
        named=named,
    )
