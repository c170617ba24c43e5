"""The pair of Bogacki and Shampine, 3(2): the cheap pair for loose tolerances."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau

_B = (2 / 9, 1 / 3, 4 / 9)


@dataclass(frozen=True)
class Bosh3(ExplicitRungeKutta):
    """The pair 3(2) of Bogacki and Shampine.

    For loose tolerances, relative ones of 1e-3 or so, where pairs of order 5 do not repay their
    extra stages.

    Notes
    -----
    ============  ===================================================
    order         3, embedded 2
    stages        4, the last one the first of the next step
    cost          3 calls of ``f`` a step, and 1 more to start
    error         O(h**3)
    stability     [-2.512, 0] on the negative real axis
    interpolant   order 3, cubic; continuously differentiable
    ============  ===================================================

    The coefficients are those of [1]_; the interpolant is the cubic Hermite polynomial through
    the values and slopes at both ends of the step [2]_.

    References
    ----------
    .. [1] P. Bogacki, L. F. Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Lett. 2
       (1989) 321-325, doi:10.1016/0893-9659(89)90079-7.
    .. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.6.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.Bosh3(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-5
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0, 1 / 2, 3 / 4, 1.0),
        a=((), (1 / 2,), (0.0, 3 / 4), _B),
        b=(*_B, 0.0),
        b_error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        order=3,
        error_order=3,
        interpolation=(
            (1.0, -4 / 3, 5 / 9),
            (0.0, 1.0, -2 / 3),
            (0.0, 4 / 3, -8 / 9),
            (0.0, -1.0, 1.0),
        ),
        interpolation_order=3,
    )
