"""The classical Runge-Kutta method of order 4, without an error estimate."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau


@dataclass(frozen=True)
class RK4(ExplicitRungeKutta):
    """The classical Runge-Kutta method of order 4.

    The usual choice for a constant step size, which it needs: it has no error estimate.

    Notes
    -----
    ============  ===================================================
    order         4
    stages        4
    cost          4 calls of ``f`` a step
    error         no estimate
    stability     [-2.785, 0] on the negative real axis
    interpolant   order 3, cubic; continuous
    ============  ===================================================

    The method is due to Kutta [1]_. Four stages admit no interpolant of order 4; the one of
    order 3 used here is Zennaro's natural continuous extension [2]_, [3]_. Between the steps
    the solution is thus one order less accurate than at them.

    References
    ----------
    .. [1] W. Kutta, "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",
       Z. Math. Phys. 46 (1901) 435-453.
    .. [2] M. Zennaro, "Natural continuous extensions of Runge-Kutta methods", Math. Comp. 46
       (1986) 119-133.
    .. [3] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Table II.1.2 and Sec. II.6.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.RK4(), dt=0.1)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-6
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0, 1 / 2, 1 / 2, 1.0),
        a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        b_error=None,
        order=4,
        error_order=5,
        interpolation=(
            (1.0, -3 / 2, 2 / 3),
            (0.0, 1.0, -2 / 3),
            (0.0, 1.0, -2 / 3),
            (0.0, -1 / 2, 2 / 3),
        ),
        interpolation_order=3,
    )
