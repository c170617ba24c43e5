"""The explicit midpoint rule: two stages, order 2."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau


@dataclass(frozen=True)
class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule of order 2, also called the modified Euler method.

    Takes half of Euler's step, and then the whole step with the slope found there.

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

    The method is due to Runge [1]_.
    The interpolant is the only quadratic of order 2, ``b_2(theta) = theta**2 / (2 c_2)`` and
    ``b_1 = theta - b_2`` [2]_.

    References
    ----------
    .. [1] C. Runge, "Ueber die numerische Auflösung von Differentialgleichungen", Math. Ann. 46
       (1895) 167-178, doi:10.1007/BF01446807.
    .. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.1 and II.6.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.Midpoint(), dt=0.1)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-3
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0, 1 / 2),
        a=((), (1 / 2,)),
        b=(0.0, 1.0),
        b_error=(-1.0, 1.0),
        order=2,
        error_order=2,
        interpolation=((1.0, -1.0), (0.0, 1.0)),
        interpolation_order=2,
    )
