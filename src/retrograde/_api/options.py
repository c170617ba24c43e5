"""The keywords that ``solve``, ``solve_vjp`` and ``plan`` share, each written once for its type and
once for its default.

``Keywords`` is what type checkers and editors read; ``Options`` is what a call becomes, with the
checks that need nothing else. ``entry`` makes a public function of the three: its signature and
its docstring hold every keyword.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar

from .._backend.registry import opaque
from .._base.errors import InputError

if TYPE_CHECKING:
    from .._adjoints import AbstractAdjoint
    from .._base.types import Memory, Time, Times, Tree
    from .._controllers import AbstractController
    from .._integrate.events import Event
    from .._integrate.saveat import SaveAt
    from .._planner.plan import Plan
    from .._solvers import AbstractSolver

_P = ParamSpec("_P")
_R = TypeVar("_R")

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


class Keywords(TypedDict, total=False):
    """The types of the keywords of :func:`solve`, which tells what they are."""

    solver: SolverName | AbstractSolver
    dt: Time | None
    rtol: float | Tree
    atol: float | Tree
    controller: AbstractController | None
    saveat: SaveAt | Times | Sequence[SaveAt] | Mapping[str, SaveAt] | None
    event: Event | Sequence[Event] | None
    adjoint: AdjointName | AbstractAdjoint | Plan
    memory: Memory | None
    max_steps: int | None
    per_sample: bool
    progress: bool | Callable[[float], object]
    on_step: Callable[[float, Tree, float, bool], object] | None
    throw: bool
    compile: bool


@dataclass(frozen=True, eq=False)
class Options:
    """The same with their defaults, as a solve reads them."""

    solver: SolverName | AbstractSolver = "tsit5"
    dt: Time | None = None
    rtol: float | Tree = 1e-4
    atol: float | Tree = 1e-6
    controller: AbstractController | None = None
    saveat: SaveAt | Times | Sequence[SaveAt] | Mapping[str, SaveAt] | None = None
    event: Event | Sequence[Event] | None = None
    adjoint: AdjointName | AbstractAdjoint | Plan = "auto"
    memory: Memory | None = None
    max_steps: int | None = None
    per_sample: bool = False
    progress: bool | Callable[[float], object] = False
    on_step: Callable[[float, Tree, float, bool], object] | None = None
    throw: bool = True
    compile: bool = False

    @classmethod
    def of(cls, name: str, keywords: Keywords) -> Options:
        """Out of the keywords of a call of the function ``name``."""
        for key in keywords:
            if key not in cls.__dataclass_fields__:
                known = ", ".join(cls.__dataclass_fields__)
                what = f"{name}() got an unexpected keyword argument {key!r}"
                raise TypeError(f"{what}; it takes {known}.")
        return cls(**keywords)

    def __post_init__(self) -> None:
        if self.event and self.per_sample:
            raise InputError(
                "`event` and `per_sample` can't be combined in this version; in JAX, jax.vmap of "
                "the solve of one sample has both."
            )
        if self.on_step is not None and not callable(self.on_step):
            raise InputError(
                f"`on_step` is {self.on_step!r}; pass on_step(t, y, h, accepted), or None."
            )
        for name in ("compile", "per_sample"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise InputError(f"`{name}` is {value!r}; pass True or False.")


def entry(fn: Callable[_P, _R], documented: Callable[..., Any] | None = None) -> Callable[_P, _R]:
    """``fn(..., **keywords)`` as users call it, opaque to compilers of Python.

    Its signature has the keywords by name, and its docstring too, as ``documented`` has them.
    """
    call = opaque(fn)
    own = inspect.signature(fn)
    *named, _ = own.parameters.values()
    shared = inspect.signature(Options).parameters.values()
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in shared]
    vars(call)["__signature__"] = own.replace(parameters=[*named, *keywords])
    if documented is not None:
        text = inspect.getdoc(documented) or ""
        text = text[text.index("solver : ") : text.index("\n\nReturns")]
        call.__doc__ = (inspect.getdoc(fn) or "").replace(_AS_SOLVE, text)
    return call


_AS_SOLVE = """**keywords
    As :func:`solve` takes them."""
"""What stands for the keywords in docstrings of functions like ``solve``."""
