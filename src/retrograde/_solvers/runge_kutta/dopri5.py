"""The pair of Dormand and Prince, 5(4), with Shampine's interpolant."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ExplicitRungeKutta
from .tableau import Tableau

_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)


@dataclass(frozen=True)
class Dopri5(ExplicitRungeKutta):
    """The pair 5(4) of Dormand and Prince, known as DOPRI5, ``ode45`` and ``RK45``.

    For moderate tolerances, and for comparison with the many programs that use it.

    Notes
    -----
    ============  ===================================================
    order         5, embedded 4
    stages        7, the last one the first of the next step
    cost          6 calls of ``f`` a step, and 1 more to start
    error         O(h**5)
    stability     [-3.306, 0] on the negative real axis
    interpolant   order 4, quartic; continuously differentiable
    ============  ===================================================

    The pair is RK5(4)7M of [1]_, its coefficients also Table II.5.2 of [3]_. The interpolant is
    Shampine's [2]_, the one of SciPy's ``RK45`` and of Hairer's program DOPRI5.

    References
    ----------
    .. [1] J. R. Dormand, P. J. Prince, "A family of embedded Runge-Kutta formulae", J. Comput.
       Appl. Math. 6 (1980) 19-26, doi:10.1016/0771-050X(80)90013-3.
    .. [2] L. F. Shampine, "Some practical Runge-Kutta formulas", Math. Comp. 46 (1986) 135-150,
       doi:10.1090/S0025-5718-1986-0815836-3.
    .. [3] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I",
       2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.5 and II.6.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.Dopri5(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-5
    True
    """

    tableau: ClassVar[Tableau] = Tableau(
        c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            _B,
        ),
        b=(*_B, 0.0),
        b_error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        order=5,
        error_order=5,
        interpolation=(
            (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
            (0.0, 0.0, 0.0, 0.0),
            (
                0.0,
                131558114200 / 32700410799,
                -68118460800 / 10900136933,
                87487479700 / 32700410799,
            ),
            (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
            (
                0.0,
                127303824393 / 49829197408,
                -318862633887 / 49829197408,
                701980252875 / 199316789632,
            ),
            (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
            (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
        ),
        interpolation_order=4,
    )
