"""Explicit Runge-Kutta methods: what a tableau makes of a solver, written once for all.

Steps forward: ``explicit_forward``. Their exact adjoints: ``explicit_reverse``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..._base.types import Field, Scale
from ..base import AbstractSolver
from .step import Stepper
from .step_vjp import Sources, StepCotangents, StepVJP
from .tableau import Tableau

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import FieldVJP, Layout

__all__ = ["ExplicitRungeKutta", "Sources", "StepCotangents", "StepVJP", "Stepper"]


class ExplicitRungeKutta(AbstractSolver):
    """Any explicit Runge-Kutta method; a subclass is a page with a ``tableau``.

    Examples
    --------
    A method is a class with a tableau:

    >>> import retrograde as rg
    >>> class ExplicitMidpoint(rg.ExplicitRungeKutta):
    ...     tableau = rg.Tableau(
    ...         c=(0.0, 0.5), a=((), (0.5,)), b=(0.0, 1.0), b_error=(-1.0, 1.0), order=2,
    ...         error_order=2, interpolation=((1.0, -1.0), (0.0, 1.0)), interpolation_order=2,
    ...     )
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=ExplicitMidpoint(), dt=0.01)
    >>> round(float(sol.ys[-1, 0]), 4)
    0.3679
    """

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.tableau
        cls.order = tableau.order
        cls.error_order = None if tableau.b_error is None else tableau.error_order
        cls.stages = tableau.stages
        cls.extra = tableau.inside - tableau.stages
        cls.init_evaluations = int(tableau.fsal)
        cls.evaluations = tableau.stages - tableau.fsal

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        return Stepper(self.tableau, bk.stages(layout, self.tableau, scale), layout, field)

    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
    ) -> StepVJP:
        tableau = self.tableau if outputs else self.tableau.bare
        return StepVJP(
            tableau,
            bk.stages(layout, tableau),
            bk.adjoint(layout, tableau),
            layout,
            vjp,
            outputs=outputs,
            time=time,
            field=field,
        )
