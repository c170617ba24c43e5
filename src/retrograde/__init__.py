"""Differential equations solved, and their solves differentiated within a memory budget.

Solvers, controllers and adjoints are written once against the array API standard; a backend
adapter supplies what the standard lacks; a planner chooses how the gradient is computed.
"""

from typing import TYPE_CHECKING, Any

from ._base import __version__ as __version__

if TYPE_CHECKING:
    from ._adjoints import (
        AbstractAdjoint,
        BacksolveAdjoint,
        DirectAdjoint,
        ForwardMode,
        RecursiveCheckpointAdjoint,
        ReversibleAdjoint,
        TapeAdjoint,
    )
    from ._api.check_jac import check_jac
    from ._api.mass import consistent_initial_values
    from ._api.solve import plan, solve, solve_vjp
    from ._api.steady_state import steady_state, steady_state_vjp
    from ._autodiff import Split, VectorField, check_vjp
    from ._backend.krylov import GMRES
    from ._backend.structure import Banded, Coloured
    from ._base.errors import (
        InputError,
        PlanInfeasible,
        RetrogradeError,
        SolveFailed,
        UnsupportedByBackend,
    )
    from ._controllers import AbstractController, ConstantSteps, PIDController, StepTo
    from ._integrate.events import Event, Hit
    from ._integrate.samples.problem import PerSample
    from ._integrate.saveat import SaveAt
    from ._integrate.solution import Gradients, Solution, Status
    from ._loops import loop_vjp, scan, while_loop
    from ._planner.plan import Plan
    from ._solvers import (
        ALF,
        RK4,
        AbstractSolver,
        Auto,
        Bosh3,
        Dopri5,
        Dopri8,
        Euler,
        ExplicitRungeKutta,
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
        Tableau,
        Tsit5,
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

_HOMES = {
    "_adjoints": "AbstractAdjoint BacksolveAdjoint DirectAdjoint ForwardMode "
    "RecursiveCheckpointAdjoint ReversibleAdjoint TapeAdjoint",
    "_api.check_jac": "check_jac",
    "_api.mass": "consistent_initial_values",
    "_api.solve": "plan solve solve_vjp",
    "_api.steady_state": "steady_state steady_state_vjp",
    "_autodiff": "Split VectorField check_vjp",
    "_backend.krylov": "GMRES",
    "_backend.structure": "Banded Coloured",
    "_base.errors": "InputError PlanInfeasible RetrogradeError SolveFailed UnsupportedByBackend",
    "_controllers": "AbstractController ConstantSteps PIDController StepTo",
    "_integrate.events": "Event Hit",
    "_integrate.samples.problem": "PerSample",
    "_integrate.saveat": "SaveAt",
    "_integrate.solution": "Gradients Solution Status",
    "_loops": "loop_vjp scan while_loop",
    "_planner.plan": "Plan",
}
"""Where the public names live that are no solvers; each is loaded when it is first used."""

_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used: so that the import costs next to nothing."""
    from importlib import import_module

    if name in ("interpolate", "measure"):
        return import_module(f".{name}", __name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f".{_HOME.get(name, '_solvers')}", __name__)
    found = globals()[name] = getattr(home, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
