"""Ralston's method of order 2: the two-stage method with the least error bound."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau


@dataclass(frozen=True)
class Ralston(ExplicitRungeKutta):
    """Ralston's method of order 2.

    Of all methods with two stages and order 2 the one with the least bound on its local error;
    the node that gives it is 2/3.

    Notes
    -----
    ============  ===================================================
    order         2, embedded 1 (Euler)
    stages        2
    cost          2 calls of ``f`` a step
    error         O(h**2), the difference from Euler's step
    stability     [-2, 0] on the negative real axis
    interpolant   order 2, quadratic; continuous
    ============  ===================================================

    The coefficients are (3.5) of [1]_.
    The interpolant is the only quadratic of order 2, ``b_2(theta) = theta**2 / (2 c_2)`` and
    ``b_1 = theta - b_2`` [2]_.

    References
    ----------
    .. [1] A. Ralston, "Runge-Kutta methods with minimum error bounds", Math. Comp. 16 (1962)
       431-437, doi:10.1090/S0025-5718-1962-0150954-0, Eq. (3.5).
    .. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.1 and II.6.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.Ralston(), dt=0.1)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-3
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0, 2 / 3),
        a=((), (2 / 3,)),
        b=(1 / 4, 3 / 4),
        b_error=(-3 / 4, 3 / 4),
        order=2,
        error_order=2,
        interpolation=((1.0, -3 / 4), (0.0, 3 / 4)),
        interpolation_order=2,
    )
