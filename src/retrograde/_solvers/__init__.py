"""Solvers, a page each: what it is, its order, cost, stability and source.

Members: :class:`AbstractSolver` (the abstract class), :class:`ExplicitRungeKutta` and
``ProgramSolver`` (the families), and the methods below. To add a Runge-Kutta method: one file
with a docstring and a tableau, one line here. To add another explicit one: one file with its
step, its inverse and its start as straight-line programs, one line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._errors import InputError
from .base import AbstractSolver
from .bosh3 import Bosh3
from .dopri5 import Dopri5
from .dopri8 import Dopri8
from .euler import Euler
from .explicit_rk import ExplicitRungeKutta
from .heun import Heun
from .midpoint import Midpoint
from .ralston import Ralston
from .rk4 import RK4
from .tableau import Tableau
from .tsit5 import Tsit5

if TYPE_CHECKING:
    from .alf import ALF
    from .reversible import Reversible
    from .reversible_heun import ReversibleHeun
    from .semi_implicit_euler import SemiImplicitEuler
    from .velocity_verlet import VelocityVerlet

__all__ = [
    "ALF",
    "RK4",
    "AbstractSolver",
    "Bosh3",
    "Dopri5",
    "Dopri8",
    "Euler",
    "ExplicitRungeKutta",
    "Heun",
    "Midpoint",
    "Ralston",
    "Reversible",
    "ReversibleHeun",
    "SemiImplicitEuler",
    "Tableau",
    "Tsit5",
    "VelocityVerlet",
    "find_solver",
]

BY_NAME: dict[str, AbstractSolver] = {
    solver.name: solver
    for solver in (
        Euler(),
        Heun(),
        Midpoint(),
        Ralston(),
        RK4(),
        Bosh3(),
        Dopri5(),
        Tsit5(),
        Dopri8(),
    )
}
REVERSIBLE = {
    "ALF": "alf",
    "Reversible": "reversible",
    "ReversibleHeun": "reversible_heun",
    "SemiImplicitEuler": "semi_implicit_euler",
    "VelocityVerlet": "velocity_verlet",
}
"""Pages that are loaded when they are asked for: a tenth of the package's import."""

LAZY = {page: name for name, page in REVERSIBLE.items() if name != "Reversible"}
LAZY["leapfrog"] = "VelocityVerlet"


def __getattr__(name: str) -> Any:
    if name in REVERSIBLE:
        return getattr(import_module(f".{REVERSIBLE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_solver(solver: object) -> AbstractSolver:
    """A solver from its name or itself.

    Raises
    ------
    InputError
        For an unknown name or an object that is no solver.
    """
    if isinstance(solver, AbstractSolver):
        return solver
    if isinstance(solver, str) and solver.lower() in BY_NAME:
        return BY_NAME[solver.lower()]
    if isinstance(solver, str) and solver.lower() in LAZY:
        found: AbstractSolver = __getattr__(LAZY[solver.lower()])()
        return found
    if isinstance(solver, type) and issubclass(solver, AbstractSolver):
        raise InputError(f"`solver` is the class {solver.__name__}; pass `{solver.__name__}()`.")
    raise InputError(
        f"`solver` is {solver!r}, which is no solver; choose one of "
        f"{', '.join(sorted((*BY_NAME, *LAZY)))} or pass an AbstractSolver."
    )
