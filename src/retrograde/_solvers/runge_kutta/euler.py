"""The explicit Euler method: one stage, order 1, no error estimate."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau


@dataclass(frozen=True)
class Euler(ExplicitRungeKutta):
    """Euler's method, ``y_new = y + h f(t, y)``.

    The cheapest step there is and the least accurate. It needs a constant step size, since it
    has no error estimate; its use is in teaching and in tests.

    Notes
    -----
    ============  ===================================================
    order         1
    stages        1
    cost          1 call of ``f`` a step
    error         no estimate
    stability     [-2, 0] on the negative real axis
    interpolant   order 1, the straight line; continuous
    ============  ===================================================

    The method is due to Euler [1]_; [2]_ proves its convergence.

    References
    ----------
    .. [1] L. Euler, "Institutionum calculi integralis volumen primum" (1768), Sec. II, Ch. VII.
    .. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. I.7.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.Euler(), dt=0.01)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 2e-3
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0,),
        a=((),),
        b=(1.0,),
        b_error=None,
        order=1,
        error_order=2,
        interpolation=((1.0,),),
        interpolation_order=1,
    )
