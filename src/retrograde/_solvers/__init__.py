"""Solvers, a page each: what it is, its order, cost, stability and source.

Members: :class:`AbstractSolver` (the abstract class), :class:`ExplicitRungeKutta` and
``ProgramSolver`` (the families), and the methods below. To add a Runge-Kutta or an ESDIRK method:
one file with a docstring and a tableau, one line in ``PAGES``. To add another explicit one: one
file with its step, its inverse and its start as straight-line programs, one line there.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from sys import modules
from typing import TYPE_CHECKING, Any

from .._base.errors import InputError
from .base import AbstractSolver
from .runge_kutta.solver import ExplicitRungeKutta
from .runge_kutta.tableau import Tableau
from .runge_kutta.tsit5 import Tsit5

if TYPE_CHECKING:
    from .esdirk.kencarp3 import KenCarp3
    from .esdirk.kencarp4 import KenCarp4
    from .esdirk.kencarp5 import KenCarp5
    from .esdirk.kvaerno3 import Kvaerno3
    from .esdirk.kvaerno4 import Kvaerno4
    from .esdirk.kvaerno5 import Kvaerno5
    from .reversible.alf import ALF
    from .reversible.coupled import Reversible
    from .reversible.mclachlan4 import McLachlan4
    from .reversible.reversible_heun import ReversibleHeun
    from .reversible.semi_implicit_euler import SemiImplicitEuler
    from .reversible.velocity_verlet import VelocityVerlet
    from .reversible.yoshida4 import Yoshida4
    from .reversible.yoshida6 import Yoshida6
    from .rosenbrock.rodas5p import Rodas5P
    from .rosenbrock.rosenbrock23 import Rosenbrock23
    from .rosenbrock.solver import Rosenbrock
    from .rosenbrock.tableau import RosenbrockTableau
    from .runge_kutta.bosh3 import Bosh3
    from .runge_kutta.dopri5 import Dopri5
    from .runge_kutta.dopri8 import Dopri8
    from .runge_kutta.euler import Euler
    from .runge_kutta.heun import Heun
    from .runge_kutta.midpoint import Midpoint
    from .runge_kutta.ralston import Ralston
    from .runge_kutta.rk4 import RK4
    from .switching.auto import Auto

__all__ = [
    "ALF",
    "RK4",
    "AbstractSolver",
    "Auto",
    "Bosh3",
    "Dopri5",
    "Dopri8",
    "Euler",
    "ExplicitRungeKutta",
    "Heun",
    "KenCarp3",
    "KenCarp4",
    "KenCarp5",
    "Kvaerno3",
    "Kvaerno4",
    "Kvaerno5",
    "McLachlan4",
    "Midpoint",
    "Ralston",
    "Reversible",
    "ReversibleHeun",
    "Rodas5P",
    "Rosenbrock",
    "Rosenbrock23",
    "RosenbrockTableau",
    "SemiImplicitEuler",
    "Tableau",
    "Tsit5",
    "VelocityVerlet",
    "Yoshida4",
    "Yoshida6",
    "find_solver",
]

PAGES = {
    "ALF": "reversible.alf",
    "Auto": "switching.auto",
    "Bosh3": "runge_kutta.bosh3",
    "Dopri5": "runge_kutta.dopri5",
    "Dopri8": "runge_kutta.dopri8",
    "Euler": "runge_kutta.euler",
    "Heun": "runge_kutta.heun",
    "KenCarp3": "esdirk.kencarp3",
    "KenCarp4": "esdirk.kencarp4",
    "KenCarp5": "esdirk.kencarp5",
    "Kvaerno3": "esdirk.kvaerno3",
    "Kvaerno4": "esdirk.kvaerno4",
    "Kvaerno5": "esdirk.kvaerno5",
    "McLachlan4": "reversible.mclachlan4",
    "Midpoint": "runge_kutta.midpoint",
    "RK4": "runge_kutta.rk4",
    "Ralston": "runge_kutta.ralston",
    "Reversible": "reversible.coupled",
    "ReversibleHeun": "reversible.reversible_heun",
    "Rodas5P": "rosenbrock.rodas5p",
    "Rosenbrock": "rosenbrock.solver",
    "Rosenbrock23": "rosenbrock.rosenbrock23",
    "RosenbrockTableau": "rosenbrock.tableau",
    "SemiImplicitEuler": "reversible.semi_implicit_euler",
    "Tsit5": "runge_kutta.tsit5",
    "VelocityVerlet": "reversible.velocity_verlet",
    "Yoshida4": "reversible.yoshida4",
    "Yoshida6": "reversible.yoshida6",
}
"""Loaded when they are asked for, but for the default: a fifth of the package's import."""

NO_METHODS = ("Reversible", "Rosenbrock", "RosenbrockTableau")
BY_NAME = {page.rpartition(".")[2]: name for name, page in PAGES.items() if name not in NO_METHODS}
BY_NAME |= {"leapfrog": "VelocityVerlet", "forest_ruth": "Yoshida4"}

SCIPY = {"rk23": "bosh3", "rk45": "dopri5", "dop853": "dopri8"}
"""SciPy's names of methods that are here, too."""

SCIPY_IMPLICIT = ("radau", "bdf", "lsoda")


def __getattr__(name: str) -> Any:
    if name not in PAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{PAGES[name]}", __name__), name)
    return found


@cache
def _named(page: str) -> AbstractSolver:
    found: AbstractSolver = getattr(modules[__name__], BY_NAME[page])()
    return found


def find_solver(solver: object) -> AbstractSolver:
    """A solver from its name or itself.

    Raises
    ------
    InputError
        For an unknown name or an object that is no solver.
    """
    if isinstance(solver, AbstractSolver):
        return solver
    if isinstance(solver, str):
        name = solver.lower()
        name = SCIPY.get(name, name)
        if name in BY_NAME:
            return _named(name)
        if name in SCIPY_IMPLICIT:
            raise InputError(
                f"`solver` is {solver!r}, SciPy's method for stiff problems; the nearest here is "
                "'rodas5p' (of one step, so that its gradient is that of the solve), or "
                "'rosenbrock23' for tolerances of 1e-3 and looser."
            )
    if isinstance(solver, type) and issubclass(solver, AbstractSolver):
        raise InputError(f"`solver` is the class {solver.__name__}; pass `{solver.__name__}()`.")
    raise InputError(
        f"`solver` is {solver!r}, which is no solver; choose one of "
        f"{', '.join(sorted(BY_NAME))} or pass an AbstractSolver."
    )
