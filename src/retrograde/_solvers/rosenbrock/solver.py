"""Rosenbrock methods: what a tableau makes of a solver, written once for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..._base.types import Field, Index, Scale
from ..base import AbstractSolver
from .step import Stages, Stepper
from .step_vjp import StepVJP

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import FieldVJP, Layout
    from .tableau import RosenbrockTableau


class Rosenbrock(AbstractSolver):
    """Any Rosenbrock method; a subclass is a page with a ``tableau``.

    Examples
    --------
    >>> import retrograde as rg
    >>> isinstance(rg.Rodas5P(), rg.Rosenbrock), rg.Rodas5P().implicit, rg.Rodas5P().name
    (True, True, 'rodas5p')
    """

    tableau: ClassVar[RosenbrockTableau]
    implicit: ClassVar[bool] = True
    takes_mass: ClassVar[bool] = True
    second_derivatives: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.tableau
        cls.order, cls.error_order = tableau.order, tableau.error_order
        cls.stages = cls.evaluations = tableau.stages
        cls.degree = tableau.degree

    def pull_cost(self, products: int, terms: int) -> tuple[float, float]:
        forward = self.stages + products
        return (2 * self.stages + 3 * terms) / forward, self.stages / forward

    def linear_algebra(self, tries: Index, steps: Index, *, traced: bool) -> dict[str, Index]:
        # an eager library keeps the Jacobian from try to try of a step
        return {"num_jac_evals": tries if traced else steps, "num_factorizations": tries}

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        return Stepper(Stages(self.tableau, layout, field), scale)

    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
        one_tape: bool = False,
    ) -> StepVJP:
        assert field is not None
        stages = Stages(self.tableau, layout, field)
        return StepVJP(stages, vjp, outputs=outputs, time=time, one_tape=one_tape)
