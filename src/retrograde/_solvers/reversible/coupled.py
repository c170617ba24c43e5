"""The coupled form of a Runge-Kutta method: the order of its base, and an exact inverse."""

from dataclasses import dataclass
from typing import ClassVar

from ..._base.errors import InputError
from ..runge_kutta.solver import ExplicitRungeKutta
from .solver import Programs, ProgramSolver
from .straight_line import BaseStep, LinearCombination, StraightLine

_START = StraightLine(("y",), (), ("y", "y"))


@dataclass(frozen=True)
class Reversible(ProgramSolver):
    """Any explicit Runge-Kutta method, made reversible by coupling two copies of y.

    Carries (y, z), begun as (y0, y0). With ``Psi_h(t, x)`` the increment of the base's step from
    x: ``y_new = lam y + (1 - lam) z + Psi_h(t, z)``, ``z_new = z - Psi_{-h}(t + h, y_new)``.

    Parameters
    ----------
    base : ExplicitRungeKutta
        ``rg.RK4()``, ``rg.Tsit5()``, ...
    coupling : float
        ``lam``, above 0 and at most 1. The smaller, the more stable the solve forward, and the
        faster rounding grows in the inverse.

    Raises
    ------
    InputError
        For a base that is no explicit Runge-Kutta solver, or a coupling out of its range.

    Notes
    -----
    ============  =====================================================================
    order         the base's
    stages        twice the base's
    cost          2 steps of the base
    memory        carries 2 states: a checkpoint is twice y
    error         the base's estimate, of its step from z
    stability     on the negative real axis where the base's stability function is above lam:
                  about [ln lam, 0], [-0.001, 0] by default
    interpolant   the base's, blended to start at y and end at y_new; continuous
    inverse       exact up to rounding, 2 steps of the base; every step inverted magnifies earlier
                  rounding by 1 / lam at least on modes that are not damped
    ============  =====================================================================

    On ``y' = lambda y`` the determinant of a step is lam: of its two modes one follows the
    solution, the other is lam / that one. So a damped system, |h lambda| > -ln lam, blows up
    forward for lam near 1; and for smaller lam the inverse loses n ln(1 / lam) digits (base e) in
    n steps. No choice makes long solves of strongly damped systems reversible.

    The form and its order are due to McCallum and Foster [1]_, Section 3.

    References
    ----------
    .. [1] S. McCallum, J. Foster, "Efficient, accurate and stable gradients for neural ODEs"
       (2024), arXiv:2410.11648.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> solver = rg.Reversible(rg.RK4())
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=solver, dt=0.1)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-5
    True
    """

    base: ExplicitRungeKutta
    coupling: float = 0.999
    copies: ClassVar[int] = 2

    def __post_init__(self) -> None:
        base, lam = self.base, self.coupling
        if not isinstance(base, ExplicitRungeKutta):
            raise InputError(
                f"`base` is {base!r}; pass an explicit Runge-Kutta solver such as rg.Tsit5()."
            )
        number = isinstance(lam, (int, float)) and not isinstance(lam, bool)
        if not number or not 0 < lam <= 1:
            raise InputError(f"`coupling` is {lam!r}; pass a number above 0 and at most 1.")
        of_base = {
            "order": base.order,
            "error_order": base.error_order,
            "evaluations": 2 * base.evaluations,
            "stages": 2 * base.stages,
            "extra": base.extra,
        }
        for name, value in of_base.items():
            object.__setattr__(self, name, value)

    def programs(self) -> Programs:
        # x + Psi_h(t, x) is the base's step; y and z are near each other: their difference first
        lam = float(self.coupling)
        forth = BaseStep("forth", 0.0, 1.0, "z", self.base, inside=True)
        back = BaseStep("back", 1.0, -1.0, "y1", self.base)
        step = StraightLine(
            ("y", "z"),
            (
                forth,
                LinearCombination("y1", (("y", lam, 0.0), ("z", -lam, 0.0), ("forth", 1.0, 0.0))),
                back,
                LinearCombination("z1", (("y1", 1.0, 0.0), ("back", -1.0, 0.0), ("z", 1.0, 0.0))),
            ),
            ("y1", "z1"),
        )
        inverse = StraightLine(
            ("y1", "z1"),
            (
                back,
                LinearCombination("z", (("back", 1.0, 0.0), ("y1", -1.0, 0.0), ("z1", 1.0, 0.0))),
                forth,
                LinearCombination(
                    "y", (("y1", 1 / lam, 0.0), ("forth", -1 / lam, 0.0), ("z", 1.0, 0.0))
                ),
            ),
            ("y", "z"),
        )
        # z + Psi_h theta is the base's interpolant; the rest runs from y - z to lam (y - z)
        dense = (("y", (1.0, lam - 1.0)), ("z", (-1.0, 1.0 - lam)))
        return Programs(step, inverse, dense=(dense,), start=_START)
