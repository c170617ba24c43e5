"""Heun's method of order 2: the trapezoidal rule with an Euler predictor."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau


@dataclass(frozen=True)
class Heun(ExplicitRungeKutta):
    """Heun's method of order 2, also called the explicit trapezoidal rule.

    Takes Euler's step, and then averages the slopes at its two ends.

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

    The rule is in Runge [1]_ and was generalised by Heun [2]_.
    The interpolant is the only quadratic of order 2, ``b_2(theta) = theta**2 / (2 c_2)`` and
    ``b_1 = theta - b_2`` [3]_.

    References
    ----------
    .. [1] C. Runge, "Ueber die numerische Auflösung von Differentialgleichungen", Math. Ann. 46
       (1895) 167-178, doi:10.1007/BF01446807.
    .. [2] K. Heun, "Neue Methoden zur approximativen Integration der Differentialgleichungen
       einer unabhängigen Veränderlichen", Z. Math. Phys. 45 (1900) 23-38.
    .. [3] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.1 and II.6.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.Heun(), dt=0.1)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-3
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0, 1.0),
        a=((), (1.0,)),
        b=(1 / 2, 1 / 2),
        b_error=(-1 / 2, 1 / 2),
        order=2,
        error_order=2,
        interpolation=((1.0, -1 / 2), (0.0, 1 / 2)),
        interpolation_order=2,
    )
