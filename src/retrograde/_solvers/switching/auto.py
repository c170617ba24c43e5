"""The solver that chooses by itself: an explicit method, and one for stiff problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

from ..._base.errors import InputError
from ..._base.types import Chosen, Field, Scale
from ..base import AbstractSolver, AbstractStepper
from ..rosenbrock.rodas5p import Rodas5P
from ..rosenbrock.solver import Rosenbrock
from ..runge_kutta.solver import ExplicitRungeKutta
from ..runge_kutta.tableau import reach
from ..runge_kutta.tsit5 import Tsit5
from .step import Stepper, StepVJP

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import AbstractStepVJP, FieldVJP, Layout
    from ..._integrate.problem import Problem
    from ..rosenbrock.step import Stepper as StiffStepper


@dataclass(frozen=True)
class Auto(AbstractSolver):
    """Steps of :class:`Tsit5` where the problem is not stiff, of :class:`Rodas5P` where it is.

    For problems that are not known, or are stiff in parts. Needs adaptive steps.

    Parameters
    ----------
    explicit : ExplicitRungeKutta
        ``rg.Tsit5()`` or ``rg.Dopri5()``: a pair of order 5 with two stages at the step's end.
    stiff : Rosenbrock
        A method of order 5.

    Raises
    ------
    InputError
        For other methods.

    Notes
    -----
    ============  =====================================================================
    order         5, embedded 4: of both
    cost          of an explicit step 6 calls of ``f``, of a stiff one 8, a Jacobian and its
                  factorisation
    error         that of the method
    stability     that of `Rodas5P`, L-stable, once it has taken over
    interpolant   order 4, that of the method; continuous
    memory        8 bytes a step beside the accepted times tell which method it was of
    ============  =====================================================================

    A step is held by stability where h rho is above 0.6 of the explicit method's stable interval on
    the negative real axis. For rho, the spectral radius of df/dy, an explicit step has
    ``|k7 - k6| / |y1 - Y6|``, of two stages at the same time and weighed by the tolerances, which
    costs nothing; a stiff one has the norm of its Jacobian. After 10 such steps in a row the stiff
    method takes over with twice the step, and after 3 others the explicit one with half of it:
    OrdinaryDiffEq.jl's AutoSwitch [1]_ (which has 0.9; steps at tight tolerances hover below that).

    Only the solve decides. Each step's method is recorded, and replays from checkpoints and the
    gradient read it: the gradient is that of the steps taken, exact as each method's is. In JAX
    both methods are in the program and one of them runs; under ``jax.vmap`` both run.

    References
    ----------
    .. [1] C. Rackauckas, Q. Nie, "Confederated modular differential equation APIs for accelerated
       algorithm development and benchmarking", Adv. Eng. Softw. 132 (2019) 1-6,
       arXiv:1807.06430.

    Examples
    --------
    Van der Pol's oscillator, which is stiff between its jumps:

    >>> import numpy as np
    >>> import retrograde as rg
    >>> def f(t, y, mu):
    ...     return np.stack([y[1], mu * ((1.0 - y[0] ** 2) * y[1]) - y[0]])
    >>> y0 = np.array([2.0, 0.0])
    >>> sol = rg.solve(f, y0, 0.0, 2000.0, 1000.0, solver="auto", rtol=1e-5, atol=1e-8)
    >>> sol.stats["num_f_evals"] < 5000
    True
    """

    explicit: ExplicitRungeKutta = field(default_factory=Tsit5)
    stiff: Rosenbrock = field(default_factory=Rodas5P)
    order: ClassVar[int] = 5
    error_order: ClassVar[int | None] = 5
    evaluations: ClassVar[int] = 8
    stages: ClassVar[int] = 8
    init_evaluations: ClassVar[int] = 1
    degree: ClassVar[int] = 4  # type: ignore[misc]
    implicit: ClassVar[bool] = True
    switches: ClassVar[bool] = True
    second_derivatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        explicit, stiff = self.explicit, self.stiff
        paired = isinstance(explicit, ExplicitRungeKutta) and explicit.tableau.fsal
        paired = paired and explicit.tableau.c[explicit.stages - 2] == 1.0
        if not paired or explicit.error_order != 5 or explicit.extra:
            raise InputError(
                f"`explicit` is {explicit!r}; pass rg.Tsit5() or rg.Dopri5(), whose stages tell "
                "whether a problem is stiff."
            )
        if not isinstance(stiff, Rosenbrock) or stiff.error_order != 5:
            raise InputError(f"`stiff` is {stiff!r}; pass rg.Rodas5P().")

    @property
    def reach(self) -> float:  # type: ignore[override]
        """How far h lambda of the explicit method may go along the negative real axis."""
        return reach(self.explicit.tableau)

    def pull_cost(self, products: int, terms: int) -> tuple[float, float]:
        return self.stiff.pull_cost(products, terms)

    def check(self, problem: Problem) -> None:
        self.explicit.check(problem)
        self.stiff.check(problem)

    def stepper(
        self,
        bk: AbstractBackend,
        layout: Layout,
        field: Field,
        scale: Scale | None = None,
        *,
        stiff: Callable[..., AbstractStepper] | None = None,
    ) -> Stepper:
        """``stiff``: an adapter's form of the stiff method's steps."""
        explicit = self.explicit.stepper(bk, layout, field, scale)
        other = (stiff or self.stiff.stepper)(bk, layout, field, scale)
        return Stepper(explicit, cast("StiffStepper", other), _chosen(field), scale)

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
    ) -> AbstractStepVJP:
        assert field is not None
        explicit = self.explicit.step_vjp(
            bk, layout, vjp, outputs=outputs, time=time, field=field if one_tape else None
        )
        stiff = self.stiff.step_vjp(
            bk, layout, vjp, outputs=outputs, time=time, field=field, one_tape=one_tape
        )
        # outputs of a step are given the chosen method's vjp: of this one they need the pull
        return cast("AbstractStepVJP", StepVJP(explicit, stiff, layout, _chosen(field)))


def _chosen(field: Field) -> Chosen:
    found: Chosen = field.equations.chosen  # type: ignore[attr-defined]
    return found
