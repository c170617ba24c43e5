"""PyTorch: explicit Runge-Kutta steps and their vjps as compiled programs (``compile=True``).

What is compiled is the step written once for every library (``runge_kutta.solver.Stepper`` over
sums of arrays), with t and h as a tensor so that no step compiles anew. Its vjp is autograd's,
taken inside the program; nothing is differentiated stage by stage. One number is read back a
step.

Known limits: reverse mode, once; f must be one program (no branch on a tensor's value, no Python
side effect that matters). Not tried on a GPU yet, where programs run as CUDA graphs.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

import torch

from retrograde._autodiff import VectorField
from retrograde._backend.specialise import Steps
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import VectorFieldFn
from retrograde._solvers import ExplicitRungeKutta

from ..flat import TorchLayout
from ..forward_mode import transformed
from ..modes import Placed
from ..random_draws import refuse_compiled
from .cache import SETTINGS, Kernel, kernel
from .step import leafwise
from .steppers import CompiledStepper, CompiledStepVJP

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout
    from retrograde._base.types import Field, Function, Scale
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver

    from ..adapter import TorchBackend
    from ..field_vjp import TorchPullback


def compiled_steps(problem: Problem, solver: AbstractSolver, *, dense: bool) -> Steps:
    """Steps and their vjps as compiled programs; ``dense``: with the stages of their inside."""
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
    programs = Programs(problem, solver, dense)

    def stepper(
        bk: TorchBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> CompiledStepper:
        if transformed() or torch.autograd.forward_ad._current_level >= 0:
            raise UnsupportedByBackend(
                "`compile` is True, which has reverse mode alone; leave it out for forward mode "
                "and torch.func transforms."
            )
        return CompiledStepper(programs, layout, field, scale)

    def step_vjp(
        bk: TorchBackend, layout: Layout, vjp: TorchPullback, *, outputs: bool, time: bool,
        field: Field | None = None,
    ) -> CompiledStepVJP:  # fmt: skip
        # a program frees its tapes by itself, so `field` (one tape at a time) is not needed
        return CompiledStepVJP(programs, layout, vjp, time=time)

    return Steps(stepper, step_vjp)


class Programs:
    """The compiled programs of one solver and problem.

    Parameters
    ----------
    problem : Problem
    solver : ExplicitRungeKutta
    dense : bool
        Whether a step's inside will be asked for.
    """

    def __init__(self, problem: Problem, solver: ExplicitRungeKutta, dense: bool) -> None:
        self.tableau, self.extra, self.dense = solver.tableau, solver.extra, dense
        self.structure = (
            _code(problem.f), problem.treedef, problem.layout.shapes, problem.layout.dtype,
            problem.layout.device, problem._args_treedef,
            tuple((x.shape, x.dtype) for x in problem.params[: len(problem.where)]), solver,
        )  # fmt: skip

    def program(self, make: Function, layout: Layout, *flags: bool) -> Kernel:
        """The kernel that ``make(tableau, layout, *flags)`` gives."""
        recorded, flat = torch.is_grad_enabled(), isinstance(layout, TorchLayout)
        key = (self.structure, make, layout.shapes, flat, recorded, flags)
        return kernel(key, lambda: make(self.tableau, layout, *flags))


def _code(f: VectorFieldFn) -> object:
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
