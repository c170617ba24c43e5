"""Differential equations solved, and their solves differentiated within a memory budget.

Solvers, controllers and adjoints are written once against the array API standard; a backend
adapter supplies what the standard lacks; a planner chooses how the gradient is computed.
"""

from ._adjoints import (
    AbstractAdjoint,
    BacksolveAdjoint,
    DirectAdjoint,
    ForwardMode,
    RecursiveCheckpointAdjoint,
    ReversibleAdjoint,
)
from ._controllers import AbstractController, ConstantSteps, PIDController, StepTo
from ._derivative import VectorField, check_vjp
from ._errors import InputError, PlanInfeasible, RetrogradeError, SolveFailed, UnsupportedByBackend
from ._planner import Plan
from ._saveat import SaveAt
from ._solution import Gradients, Solution, Status
from ._solve import plan, solve, solve_vjp
from ._solvers import (
    ALF,
    RK4,
    AbstractSolver,
    Bosh3,
    Dopri5,
    Euler,
    ExplicitRungeKutta,
    Heun,
    Midpoint,
    Ralston,
    Reversible,
    ReversibleHeun,
    SemiImplicitEuler,
    Tableau,
    Tsit5,
    VelocityVerlet,
)

__version__ = "0.1.0"

__all__ = [
    "ALF",
    "RK4",
    "AbstractAdjoint",
    "AbstractController",
    "AbstractSolver",
    "BacksolveAdjoint",
    "Bosh3",
    "ConstantSteps",
    "DirectAdjoint",
    "Dopri5",
    "Euler",
    "ExplicitRungeKutta",
    "ForwardMode",
    "Gradients",
    "Heun",
    "InputError",
    "Midpoint",
    "PIDController",
    "Plan",
    "PlanInfeasible",
    "Ralston",
    "RecursiveCheckpointAdjoint",
    "RetrogradeError",
    "Reversible",
    "ReversibleAdjoint",
    "ReversibleHeun",
    "SaveAt",
    "SemiImplicitEuler",
    "Solution",
    "SolveFailed",
    "Status",
    "StepTo",
    "Tableau",
    "Tsit5",
    "UnsupportedByBackend",
    "VectorField",
    "VelocityVerlet",
    "check_vjp",
    "measure",
    "plan",
    "solve",
    "solve_vjp",
]


def __getattr__(name: str) -> object:
    """``retrograde.measure``, loaded when it is first asked for."""
    if name == "measure":
        import importlib

        return importlib.import_module(f"{__name__}.measure")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
