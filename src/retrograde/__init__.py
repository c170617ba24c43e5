"""Differential equations solved, and their solves differentiated within a memory budget.

Solvers, controllers and adjoints are written once against the array API standard; a backend
adapter supplies what the standard lacks; a planner chooses how the gradient is computed.
"""

from typing import TYPE_CHECKING, Any

from . import _solvers
from ._adjoints import (
    AbstractAdjoint,
    BacksolveAdjoint,
    DirectAdjoint,
    ForwardMode,
    RecursiveCheckpointAdjoint,
    ReversibleAdjoint,
    TapeAdjoint,
)
from ._api.solve import plan, solve, solve_vjp
from ._autodiff import Split, VectorField, check_vjp
from ._backend.structure import Banded, Coloured
from ._base import __version__ as __version__
from ._base.errors import (
    InputError,
    PlanInfeasible,
    RetrogradeError,
    SolveFailed,
    UnsupportedByBackend,
)
from ._controllers import AbstractController, ConstantSteps, PIDController, StepTo
from ._integrate.events import Event, Hit
from ._integrate.saveat import SaveAt
from ._integrate.solution import Gradients, Solution, Status
from ._planner.plan import Plan
from ._solvers import AbstractSolver, ExplicitRungeKutta, Tableau, Tsit5

if TYPE_CHECKING:
    from ._api.check_jac import check_jac
    from ._api.mass import consistent_initial_values
    from ._api.steady_state import steady_state, steady_state_vjp
    from ._backend.krylov import GMRES
    from ._integrate.samples.problem import PerSample
    from ._loops import loop_vjp, scan, while_loop
    from ._solvers import (
        ALF,
        RK4,
        Auto,
        Bosh3,
        Dopri5,
        Dopri8,
        Euler,
        Heun,
        KenCarp3,
        KenCarp4,
        KenCarp5,
        Kvaerno3,
        Kvaerno4,
        Kvaerno5,
        McLachlan4,
        Midpoint,
        Ralston,
        Reversible,
        ReversibleHeun,
        Rodas5P,
        Rosenbrock,
        Rosenbrock23,
        RosenbrockTableau,
        SemiImplicitEuler,
        VelocityVerlet,
        Yoshida4,
        Yoshida6,
    )

__all__ = [
    "ALF",
    "GMRES",
    "RK4",
    "AbstractAdjoint",
    "AbstractController",
    "AbstractSolver",
    "Auto",
    "BacksolveAdjoint",
    "Banded",
    "Bosh3",
    "Coloured",
    "ConstantSteps",
    "DirectAdjoint",
    "Dopri5",
    "Dopri8",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "ForwardMode",
    "Gradients",
    "Heun",
    "Hit",
    "InputError",
    "KenCarp3",
    "KenCarp4",
    "KenCarp5",
    "Kvaerno3",
    "Kvaerno4",
    "Kvaerno5",
    "McLachlan4",
    "Midpoint",
    "PIDController",
    "PerSample",
    "Plan",
    "PlanInfeasible",
    "Ralston",
    "RecursiveCheckpointAdjoint",
    "RetrogradeError",
    "Reversible",
    "ReversibleAdjoint",
    "ReversibleHeun",
    "Rodas5P",
    "Rosenbrock",
    "Rosenbrock23",
    "RosenbrockTableau",
    "SaveAt",
    "SemiImplicitEuler",
    "Solution",
    "SolveFailed",
    "Split",
    "Status",
    "StepTo",
    "Tableau",
    "TapeAdjoint",
    "Tsit5",
    "UnsupportedByBackend",
    "VectorField",
    "VelocityVerlet",
    "Yoshida4",
    "Yoshida6",
    "check_jac",
    "check_vjp",
    "consistent_initial_values",
    "interpolate",
    "loop_vjp",
    "measure",
    "plan",
    "scan",
    "solve",
    "solve_vjp",
    "steady_state",
    "steady_state_vjp",
    "while_loop",
]


def __getattr__(name: str) -> Any:
    """Loops, two modules and most solvers: loaded when they are asked for."""
    import importlib

    if name in ("interpolate", "measure"):
        return importlib.import_module(f"{__name__}.{name}")
    if name == "check_jac":
        return importlib.import_module(f"{__name__}._api.check_jac").check_jac
    if name == "PerSample":
        return importlib.import_module(f"{__name__}._integrate.samples.problem").PerSample
    if name == "GMRES":
        return importlib.import_module(f"{__name__}._backend.krylov").GMRES
    if name == "consistent_initial_values":
        return importlib.import_module(f"{__name__}._api.mass").consistent_initial_values
    if name in ("steady_state", "steady_state_vjp"):
        return getattr(importlib.import_module(f"{__name__}._api.steady_state"), name)
    if name in ("loop_vjp", "scan", "while_loop"):
        return getattr(importlib.import_module(f"{__name__}._loops"), name)
    if name in _solvers.PAGES:
        return getattr(_solvers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
