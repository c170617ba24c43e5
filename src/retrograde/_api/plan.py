"""The plan that a solve follows: the user's, or a new one; and what a solve tells the next plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .._adjoints import find_adjoint
from .._backend.interface import Capability
from .._base.errors import InputError
from .._base.types import Index, Inputs
from .._planner.budget import budget_bytes
from .._planner.plan import MadeFor, Plan
from .._planner.problem_size import measure_problem
from .._planner.requested import method_override, unmeasured_plan
from .._planner.rules import make_plan
from .._planner.shape import UNLIMITED
from .._planner.step_count import remember

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator
    from .solve import Options
    from .solve_program import DifferentiableSolve

__all__ = ["choose_plan", "note_steps"]


def choose_plan(
    loop: Integrator,
    inputs: Inputs,
    options: Options,
    *,
    native: bool,
    vjp: float | None = None,
    plan_only: bool = False,
) -> Plan:
    """The user's plan, or a new one.

    Parameters
    ----------
    options : Options
        The keywords of ``solve``.
    native : bool
        The library's own gradients are asked for, not ``solve_vjp``.
    vjp : float [F] or None
        Measured cost of a step's vjp.
    plan_only : bool
        The plan itself is asked for. Nothing else is worth the compilation of a probe: what a
        traced library takes depends on the bound of the steps, not on their number.
    """
    if isinstance(options.adjoint, Plan):
        options.adjoint.check(loop, inputs)
        return options.adjoint
    named = find_adjoint(options.adjoint)
    if named is not None:
        named.check(loop)
    hidden = unmeasured_plan(loop, inputs, named, options.memory, native=native)
    if hidden is not None:
        return hidden
    like = loop.layout.unpack(inputs.y0)[0]
    if named is not None and options.memory is None:
        budget, source = UNLIMITED, "no budget was given"
    else:
        budget, source = budget_bytes(options.memory, loop.bk, like)
    short_probe = named is None and (plan_only or Capability.TRACED not in loop.bk.capabilities)
    shape = measure_problem(loop, inputs, native=native, short_probe=short_probe, budget=budget)
    if vjp is not None:
        shape = shape._replace(vjp=vjp, calibrated=True)
    shape, named, why = method_override(loop, inputs, shape, budget, named, native=native)
    plan = make_plan(shape, budget, source, named, why)
    if not (loop.problem.steady or plan.adjoint.differentiable):
        raise InputError(
            f"`f` returned two results for the same arguments, and {plan.adjoint.name} calls it "
            "again for the gradient. Let it depend on t, y and args alone: draw random numbers "
            "before the solve and hand them in by `args` (what it draws from PyTorch's default "
            "generators is held)."
        )
    return replace(plan, made_for=MadeFor.of(loop, inputs))


def note_steps(program: DifferentiableSolve, inputs: Inputs, n: Index) -> None:
    """Let the next plan of the same adaptive problem know how many steps this one took."""
    count = program.loop.bk.concrete(n)
    if program.plan is not None and program.loop.adaptive and count is not None:
        remember(program.loop, inputs, int(count), program.plan.steps)
