"""PyTorch: steps and their vjps as compiled programs (``compile=True``).

What is compiled is the step written once for every library (``runge_kutta.solver.Stepper`` and
``rosenbrock.step.Stepper`` over sums of arrays), with t and h as a tensor so that no step compiles
anew. Its vjp is autograd's, taken inside the program; nothing is differentiated stage by stage. One
number is read back a step.

Known limits: reverse mode, once; f must be one program (no branch on a tensor's value, no Python
side effect that matters). Not tried on a GPU yet, where programs run as CUDA graphs.
"""

from __future__ import annotations

import types
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from retrograde._autodiff import VectorField
from retrograde._backend.specialise import Steps
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import VectorFieldFn
from retrograde._solvers import ExplicitRungeKutta
from retrograde._solvers.base import Calls
from retrograde._solvers.rosenbrock.solver import Rosenbrock

from ..flat import TorchLayout
from ..forward_mode import transformed
from ..modes import Placed
from ..random_draws import refuse_compiled
from .cache import SETTINGS, Kernel, kernel
from .implicit import ImplicitStep, Massed
from .step import ProgramStep, leafwise
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
    if not isinstance(solver, (ExplicitRungeKutta, Rosenbrock)):
        raise UnsupportedByBackend(
            f"`compile` is True, but `solver` is {solver.name}; pass an explicit Runge-Kutta "
            "method (such as tsit5, dopri5, rk4, euler) or a Rosenbrock method (rodas5p, "
            "rosenbrock23), or leave `compile` out."
        )
    if isinstance(problem.f, VectorField) and problem.f.vjp is not None:
        raise InputError(
            "`compile` is True, which differentiates `f` itself, but `f` brings its own "
            "`vjp`; pass the plain function, or leave `compile` out."
        )
    if not problem.single:
        problem.leafwise = leafwise(problem.call, problem.structure())
    if isinstance(solver, Rosenbrock):
        _check_equations(problem)
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
        field: Field | None = None, one_tape: bool = False,
    ) -> CompiledStepVJP:  # fmt: skip
        # a program frees its tapes by itself, so `field` (one tape at a time) is not needed
        return CompiledStepVJP(programs, layout, vjp, time=time)

    return Steps(stepper, step_vjp)


def _check_equations(problem: Problem) -> None:
    """Raise for what programs of implicit steps don't take."""
    leave = "or leave `compile` out."
    if problem.jac is not None:
        raise InputError(
            "`compile` is True, which finds the Jacobian itself, but `f` brings its own `jac`; "
            f"pass the plain function, {leave}"
        )
    if problem.jac_structure not in (None, "dense", "batch"):
        raise UnsupportedByBackend(
            f"`compile` is True, but `structure` is {problem.jac_structure!r}; compiled steps "
            f'solve dense systems: pass "dense" or "batch", {leave}'
        )
    if problem.mass_fn is not None:
        raise UnsupportedByBackend(
            "`compile` is True, but `mass` depends on `args`, or requires a gradient; pass a "
            f"constant matrix, {leave}"
        )


class Programs:
    """The compiled programs of one solver and problem.

    Parameters
    ----------
    problem : Problem
    solver : ExplicitRungeKutta or Rosenbrock
    dense : bool
        Whether a step's inside will be asked for.
    """

    def __init__(
        self, problem: Problem, solver: ExplicitRungeKutta | Rosenbrock, dense: bool
    ) -> None:
        self.problem, self.extra, self.dense = problem, solver.extra, dense
        tableau: Any = solver.tableau
        self.tableau, structure = tableau, problem.jac_structure
        self.implicit = isinstance(solver, Rosenbrock)
        self.fsal = not self.implicit and tableau.fsal
        self.inside = tableau.stages if self.implicit else tableau.inside
        self.calls: tuple[Calls | None, Calls | None] = None, None
        """Of a step whose end alone is asked for, and of any, of a method that solves equations."""
        if self.implicit:
            self.calls = Calls(tableau.inner, 1, 1), Calls(tableau.stages, 1, 1)
        self.step = partial(ImplicitStep, structure=structure) if self.implicit else ProgramStep
        self.structure = (
            _code(problem.f), problem.treedef, problem.layout.shapes, problem.layout.dtype,
            problem.layout.device, problem._args_treedef,
            tuple((x.shape, x.dtype) for x in problem.params[: len(problem.where)]), solver,
            structure, problem.mass is None,
        )  # fmt: skip

    def known(self, field: Function) -> Function | Massed:
        """A field as the programs take it."""
        mass = self.problem.mass
        if not self.implicit:
            return field
        return Massed(field, () if mass is None else mass(self.problem.params))

    def program(self, make: Function, layout: Layout, *flags: bool) -> Kernel:
        """The kernel that ``make(step, *flags)`` gives."""
        recorded, flat = torch.is_grad_enabled(), isinstance(layout, TorchLayout)
        key = (self.structure, make, layout.shapes, flat, recorded, flags)
        return kernel(key, lambda: make(self.step(self.tableau, layout), *flags))


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
