"""PyTorch: explicit Runge-Kutta steps and their vjps as compiled programs (``compile=True``).

What is compiled is the step written once for every library (``explicit_rk.Stepper`` over
sums of arrays), with t and h as a tensor so that no step compiles anew. Its vjp is autograd's,
taken inside the program; nothing is differentiated stage by stage. One number is read back a
step.

Known limits: reverse mode, once; f must be one program (no branch on a tensor's value, no Python
side effect that matters). Not tried on a GPU yet, where programs run as CUDA graphs.
"""

from __future__ import annotations

import types
from typing import Any

import torch

from retrograde._autodiff import VectorField
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._solvers import ExplicitRungeKutta

from ..flat import TorchLayout
from ..forward_mode import transformed
from ..modes import Placed
from ..random_draws import refuse_compiled
from .cache import SETTINGS, kernel
from .step import leafwise
from .steppers import Stepper, StepVJP

__all__ = ["CompileHooks"]


class CompileHooks:
    """The hook behind ``compile=True``."""

    def compiled(self, problem: Any, solver: Any, *, dense: bool) -> Any:
        if not all(hasattr(torch._dynamo.config, name) for name in SETTINGS):
            raise UnsupportedByBackend(
                f"`compile` is True, but PyTorch {torch.__version__} can't put a gradient into a "
                "compiled program; install a later one (2.13 can), or leave `compile` out."
            )
        if problem.drawn:
            refuse_compiled()
        if not isinstance(solver, ExplicitRungeKutta):
            raise UnsupportedByBackend(
                f"`compile` is True, but `solver` is {solver.name}; pass an explicit Runge-Kutta "
                "method (such as tsit5, dopri5, rk4, euler), or leave `compile` out."
            )
        if isinstance(problem.f, VectorField) and problem.f.vjp is not None:
            raise InputError(
                "`compile` is True, which differentiates `f` itself, but `f` brings its own "
                "`vjp`; pass the plain function, or leave `compile` out."
            )
        if not problem.single:
            problem.leafwise = leafwise(problem.call, problem.structure())
        return CompiledSolver(problem, solver, dense)


class CompiledSolver:
    """A solver whose passes are compiled; all else is the solver's own.

    Parameters
    ----------
    problem : Problem
    solver : ExplicitRungeKutta
    dense : bool
        Whether a step's inside will be asked for.
    """

    compiled = True

    def __init__(self, problem: Any, solver: ExplicitRungeKutta, dense: bool) -> None:
        self.solver, self.dense = solver, dense
        self.structure = (
            _code(problem.f), problem.treedef, problem.layout.shapes, problem.layout.dtype,
            problem.layout.device, problem._args_treedef,
            tuple((x.shape, x.dtype) for x in problem.params[: len(problem.where)]), solver,
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self.solver, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompiledSolver) and other.solver == self.solver

    def __hash__(self) -> int:
        return hash((CompiledSolver, self.solver))

    @property
    def name(self) -> str:
        """The solver's name, as messages give it."""
        return f"{self.solver.name} with `compile=True`"

    def stepper(self, bk: Any, layout: Any, field: Any, scale: Any = None) -> Any:
        if transformed() or torch.autograd.forward_ad._current_level >= 0:
            raise UnsupportedByBackend(
                "`compile` is True, which has reverse mode alone; leave it out for forward mode "
                "and torch.func transforms."
            )
        return Stepper(self, layout, field, scale)

    def step_vjp(
        self, bk: Any, layout: Any, vjp: Any, *, outputs: bool, time: bool, field: Any = None
    ) -> Any:
        # a program frees its tapes by itself, so `field` (one tape at a time) is not needed
        return StepVJP(self, layout, vjp, time=time)

    def program(self, make: Any, layout: Any, *flags: Any) -> Any:
        """The kernel that ``make(tableau, layout, *flags)`` gives for this solver and problem."""
        recorded, flat = torch.is_grad_enabled(), isinstance(layout, TorchLayout)
        key = (self.structure, make, layout.shapes, flat, recorded, flags)
        return kernel(key, lambda: make(self.solver.tableau, layout, *flags))


def _code(f: Any) -> Any:
    """What f shares with the functions that a program made for it may also serve.

    Guards tell them apart where they close over different things.
    """
    if isinstance(f, VectorField):
        return VectorField, _code(f.f)
    if isinstance(f, types.MethodType):
        return _code(f.__func__)
    if isinstance(f, Placed):
        return Placed, f.kind, f.lower, _code(f.__wrapped__)
    return getattr(f, "__code__", type(f))
