"""The keywords of ``solve`` in one object, and checks that need nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ._adjoints import AbstractAdjoint
from ._controllers import AbstractController
from ._errors import InputError
from ._planner import Plan
from ._saveat import SaveAt
from ._solvers import AbstractSolver
from ._types import Time, Times

__all__ = ["AdjointName", "Memory", "Options", "SolverName"]

SolverName: TypeAlias = Literal[
    "alf",
    "bosh3",
    "dopri5",
    "dopri8",
    "euler",
    "heun",
    "leapfrog",
    "midpoint",
    "ralston",
    "reversible_heun",
    "rk4",
    "semi_implicit_euler",
    "tsit5",
    "velocity_verlet",
    "RK23",
    "RK45",
    "DOP853",
]
"""Names of solvers, in the case that they are written in; a call takes any."""

AdjointName: TypeAlias = Literal[
    "auto", "backsolve", "direct", "forward", "recursive_checkpoint", "reversible", "tape"
]
"""Names of gradient methods."""

Memory: TypeAlias = str | float
"""A budget: text with a unit, bytes, or a fraction below 1."""


@dataclass(frozen=True, eq=False)
class Options:
    """The keywords of :func:`solve`, which ``solve_vjp`` and ``plan`` take as well."""

    solver: SolverName | AbstractSolver = "tsit5"
    dt: Time | None = None
    rtol: Any = 1e-4
    atol: Any = 1e-6
    controller: AbstractController | None = None
    saveat: SaveAt | Times | None = None
    event: None = None
    adjoint: AdjointName | AbstractAdjoint | Plan = "auto"
    memory: Memory | None = None
    max_steps: int | None = None
    per_sample: bool = False
    progress: bool | Callable[[float], object] = False
    throw: bool = True
    compile: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """Out of all arguments of a call."""
        return cls(*[arguments[name] for name in cls.__dataclass_fields__])

    def __post_init__(self) -> None:
        for name, what in (("event", "events"), ("per_sample", "per-sample steps")):
            if getattr(self, name):
                raise InputError(f"`{name}` is set, but this version has no {what}; leave it out.")
        if not isinstance(self.compile, bool):
            raise InputError(f"`compile` is {self.compile!r}; pass True or False.")
