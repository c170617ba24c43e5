"""The keywords that public functions share, each written once for its type, once for its default.

``Keywords`` is what type checkers and editors read of ``solve``, ``solve_vjp`` and ``plan``;
``Options`` is what a call becomes, with the checks that need nothing else; ``RestKeywords`` and
``RestOptions`` are those of ``steady_state``. ``entry`` makes a public function of both: its
signature and its docstring hold every keyword.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeAlias, TypedDict, TypeVar

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
    "auto",
    "bosh3",
    "dopri5",
    "dopri8",
    "euler",
    "forest_ruth",
    "heun",
    "kencarp3",
    "kencarp4",
    "kencarp5",
    "kvaerno3",
    "kvaerno4",
    "kvaerno5",
    "leapfrog",
    "mclachlan4",
    "midpoint",
    "ralston",
    "reversible_heun",
    "rk4",
    "rodas5p",
    "rosenbrock23",
    "semi_implicit_euler",
    "tsit5",
    "velocity_verlet",
    "yoshida4",
    "yoshida6",
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
    mass: Tree | None
    adjoint: AdjointName | AbstractAdjoint | Plan
    memory: Memory | None
    max_steps: int | None
    per_sample: bool
    progress: bool | Callable[[float], object]
    on_step: Callable[[float, Tree, float, bool], object] | None
    throw: bool
    compile: bool


class RestKeywords(TypedDict, total=False):
    """The types of the keywords of :func:`steady_state`, which tells what they are."""

    t1: Time
    solver: SolverName | AbstractSolver
    rtol: float
    atol: float
    max_steps: int | None
    throw: bool


class _FromKeywords:
    """What keywords become: a dataclass with a field for each."""

    @classmethod
    def of(cls, name: str, keywords: Mapping[str, Any]) -> Self:
        """Out of the keywords of a call of the function ``name``."""
        fields = vars(cls)["__dataclass_fields__"]
        for key in keywords:
            if key not in fields:
                what = f"{name}() got an unexpected keyword argument {key!r}"
                raise TypeError(f"{what}; it takes {', '.join(fields)}.")
        return cls(**keywords)


@dataclass(frozen=True, eq=False)
class Options(_FromKeywords):
    """The same with their defaults, as a solve reads them."""

    solver: SolverName | AbstractSolver = "tsit5"
    dt: Time | None = None
    rtol: float | Tree = 1e-4
    atol: float | Tree = 1e-6
    controller: AbstractController | None = None
    saveat: SaveAt | Times | Sequence[SaveAt] | Mapping[str, SaveAt] | None = None
    event: Event | Sequence[Event] | None = None
    mass: Tree | None = None
    adjoint: AdjointName | AbstractAdjoint | Plan = "auto"
    memory: Memory | None = None
    max_steps: int | None = None
    per_sample: bool = False
    progress: bool | Callable[[float], object] = False
    on_step: Callable[[float, Tree, float, bool], object] | None = None
    throw: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        if self.on_step is not None and not callable(self.on_step):
            raise InputError(
                f"`on_step` is {self.on_step!r}; pass on_step(t, y, h, accepted), or None."
            )
        for name in ("compile", "per_sample"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise InputError(f"`{name}` is {value!r}; pass True or False.")


@dataclass(frozen=True, eq=False)
class RestOptions(_FromKeywords):
    """Those of :func:`steady_state` with their defaults."""

    t1: Time = math.inf
    solver: SolverName | AbstractSolver = "tsit5"
    rtol: float = 1e-8
    atol: float = 1e-10
    max_steps: int | None = None
    throw: bool = True


def entry(
    fn: Callable[_P, _R],
    documented: Callable[..., Any] | None = None,
    options: type[_FromKeywords] = Options,
) -> Callable[_P, _R]:
    """``fn(..., **keywords)`` as users call it, opaque to compilers of Python.

    Its signature has the keywords of ``options`` by name, and its docstring too, as ``documented``
    has them.
    """
    call = opaque(fn)
    own = inspect.signature(fn)
    *named, _ = own.parameters.values()
    shared = list(inspect.signature(options).parameters.values())
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in shared]
    vars(call)["__signature__"] = own.replace(parameters=[*named, *keywords])
    if documented is not None:
        text = inspect.getdoc(documented) or ""
        text = text[text.index(f"{shared[0].name} : ") : text.index("\n\nReturns")]
        start = f"**keywords\n    As :func:`{documented.__name__}` takes them."
        call.__doc__ = (inspect.getdoc(fn) or "").replace(start, text)
    return call
