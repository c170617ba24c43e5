"""PyTorch: Rosenbrock steps as compiled programs: the linear algebra, and f with its derivatives.

The step is the one written for every library (``rosenbrock.step.Stepper``) with numbers of a whole
state as one tensor. Its Jacobian is made inside of the program (``torch.func.vjp`` of all unit
vectors at once), so that autograd differentiates the whole step once more for the pull: no product
with second derivatives is formed by hand. Up to 32 unknowns the inverse of W is one call, and what
stands before and behind it becomes one kernel each.

Forward mode would be as fast, but its zero tangents have no memory in programs of TorchInductor
(PyTorch 2.13): a network as f made the interpreter crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from array_api_compat import torch as namespace

from retrograde._backend.reals import Reals
from retrograde._backend.stages import ListLayout
from retrograde._base.types import (
    Array,
    Bool,
    Equations,
    Function,
    Leaves,
    Namespace,
    Scalar,
    Scale,
    State,
)
from retrograde._solvers.rosenbrock.step import Stages, Stepper

from ..linear import TorchLinear
from .step import Forms, ProgramStep

if TYPE_CHECKING:
    from retrograde._backend.linear import Factors, Linear, Matrix
    from retrograde._backend.protocols import Layout
    from retrograde._solvers.base import Step
    from retrograde._solvers.rosenbrock.tableau import RosenbrockTableau


class Massed(NamedTuple):
    """A field with the mass matrix that stands left of y': inputs of a program."""

    field: Function
    mass: Matrix


class ProgramReals(Reals):
    """The real numbers of states that may be one flat tensor each, whatever the user's shapes."""

    def __init__(self, shaped: ListLayout, *, flat: bool) -> None:
        super().__init__(shaped)
        self.joined = flat

    def state(self, row: Array) -> State:
        return (self._complex(row),) if self.joined else super().state(row)


class ProgramLinear(TorchLinear):
    """Dense systems, of one matrix or of one a sample, without a look at a value."""

    def __init__(self, shaped: ListLayout, *, flat: bool, batch: bool) -> None:
        super().__init__(shaped, batch=batch)
        self.reals = ProgramReals(shaped, flat=flat)

    def ok(self, factors: Factors) -> Bool:
        return torch.isfinite(factors[0]).all() & (factors[1] == 0).all()


class ProgramField:
    """A field of states with what a Rosenbrock step asks of it (``LinearField``)."""

    def __init__(self, field: Function, equations: Equations) -> None:
        self.field, self.equations = field, equations

    def __call__(self, t: Array, y: State) -> Leaves:
        return tuple(self.field(t, y))

    def linearise(
        self, reals: Reals, t: Array, y: State, *, timed: bool, slope: State | None = None
    ) -> Point:
        """f at (t, y)."""
        return Point(self.field, reals, t, y)


class Point:
    """f at one (t, y), by reverse mode (``Linearisation``)."""

    forward = False
    matrix: Array | None = None

    def __init__(self, field: Function, reals: Reals, t: Array, y: State) -> None:
        def row(t: Array, y: Array) -> Array:
            return reals.of_leaves(field(t, reals.state(y)))

        found: Any = torch.func.vjp(row, t, reals.of(y))
        self.value, self.pull = found

    def vjp(self, w: Array) -> Array:
        """w J for each row w."""
        found: Array = torch.func.vmap(lambda v: self.pull(v)[1])(w)
        return found

    def by_time(self) -> Array:
        """df/dt, as the derivative by w of ``<w, df/dt>``."""
        found: Array = torch.func.grad(lambda w: self.pull(w)[0])(torch.zeros_like(self.value))
        return found


class ImplicitForms(Forms):
    """What linear systems ask of a backend beside."""

    xp: Namespace = namespace
    make: Callable[[], Linear]

    def linear(self, *_: object) -> Linear:
        return self.make()

    def map_state(self, fn: Function, y: State) -> State:
        return tuple(map(fn, y))

    def nan_unless(self, ok: Bool, x: Array) -> Array:
        return torch.where(ok, x, torch.nan)


class _Stages(Stages):
    """Stages whose error no gradient flows through."""

    def error2(self, y1: State, scale: Scale) -> Scalar:
        with torch.no_grad():  # step sizes are constants of the gradient
            return super().error2(y1, scale)


class _Stepper(Stepper):
    """Steps whose sums are weighted in y's precision, at times of the clock's."""

    def step(self, t: Scalar, h: Scalar, carried: State, state: Any, *, error: bool) -> Step:
        h = h.to(self.layout.real_dtype)
        self.size = h
        return super().step(t, h, carried, state, error=error)


class ImplicitStep(ProgramStep):
    """The parts of a Rosenbrock step that all programs share.

    What they keep of its inside are the stages over h, which stand in sums as slopes do.
    """

    forms, implicit = ImplicitForms, True

    def __init__(self, tableau: RosenbrockTableau, layout: Layout, structure: object) -> None:
        super().__init__(cast(Any, tableau), layout)
        like = [torch.empty(s, dtype=layout.dtype, device="meta") for s in layout.shapes]
        forms, self.leaves.device = cast(ImplicitForms, self.leaves.bk), layout.device
        shaped = ListLayout(cast(Any, forms), like)
        shaped.device, batch = layout.device, structure == "batch"
        forms.make = lambda: ProgramLinear(shaped, flat=self.flat, batch=batch)

    def stepper(self, field: Function, scale: Scale | None = None) -> Any:
        stages = _Stages(cast(Any, self.tableau), self.leaves, field)
        return _Stepper(stages, scale)

    def of_state(self, field: Massed) -> ProgramField:  # type: ignore[override]
        return self._known(super().of_state(field.field), field.mass)

    def of_leaves(self, field: Massed) -> ProgramField:  # type: ignore[override]
        return self._known(super().of_leaves(field.field), field.mass)

    def _known(self, field: Function, mass: Matrix) -> ProgramField:
        return ProgramField(field, Equations(mass=mass or None))

    def slopes(self, stepper: _Stepper) -> Leaves:  # type: ignore[override]
        u, h = stepper.stages.u, stepper.size
        return tuple(torch.stack([x[i] for x in u]) / h for i in range(self.width))
