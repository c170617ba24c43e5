"""Kværnø's pair 5(4)."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ESDIRK
from .tableau import ESDIRKTableau

_A6 = (
    0.13855640231268224,
    0.0,
    -0.04245337201752043,
    0.02446657898003141,
    0.61943039072480676,
)
_A7 = (
    0.13659751177640291,
    0.0,
    -0.05496908796538376,
    -0.04118626728321046,
    0.62993304899016403,
    0.06962479448202728,
)


@dataclass(frozen=True)
class Kvaerno5(ESDIRK):
    """Kværnø's ESDIRK pair 5(4).

    For stiff problems at tight tolerances, where ``f`` has first derivatives alone, and for large
    systems without a factorisation.

    Parameters
    ----------
    linear_solver : GMRES, optional
        How linear systems are solved without a matrix; default: by a factorisation, in the form of
        the field's ``structure``.

    Notes
    -----
    ============  ===================================================
    order         5, embedded 4
    stages        7, the first one explicit
    cost          one Jacobian and factorisation a step, to five at
                  loose tolerances; of each stage 3 to 6 calls of
                  ``f`` and solves
    error         O(h**5)
    stability     A- and L-stable, stiffly accurate
    interpolant   order 4, quartic; bounded on stiff problems
    ============  ===================================================

    The interpolant is this project's, one of order 4 that is bounded on stiff problems (cubic
    Hermite's is not, and loses two orders).

    References
    ----------
    .. [1] A. Kværnø, "Singly diagonally implicit Runge-Kutta methods with an explicit first stage",
       BIT 44 (2004) 489-502, doi:10.1023/B:BITN.0000046811.70614.38.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> f = lambda t, y, args: -1e4 * (y - math.cos(t))
    >>> sol = rg.solve(f, [1.0], 0.0, 1.0, solver=rg.Kvaerno5(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.cos(1.0)) < 1e-3, int(sol.stats["num_steps"]) < 200
    (True, True)
    """

    tableau: ClassVar[ESDIRKTableau] = ESDIRKTableau(
        gamma=0.26,
        c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
        a=(
            (),
            (0.26,),
            (0.13, 0.84033320996790809),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998),
            _A6,
            _A7,
        ),
        b_error=(
            _A7[0] - _A6[0],
            0.0,
            _A7[2] - _A6[2],
            _A7[3] - _A6[3],
            _A7[4] - _A6[4],
            _A7[5] - 0.26,
            0.26,
        ),
        order=5,
        error_order=5,
        interpolation=(
            (0.9724108181006358, -2.04183238763161, 1.7356077426423417, -0.5295886613349647),
            (0.0, 0.0, 0.0, 0.0),
            (-0.176272414150423, 1.0357109668177067, -1.6169010472929575, 0.7024934066602898),
            (-0.9246603034837899, 0.34575131675749776, 2.681392364017329, -2.143669644574247),
            (0.14792033752951075, 3.0949826005669148, -4.236158578864903, 1.6231886897586423),
            (-1.3448949236468692, 2.694914745343404, 1.1377560734136358, -2.4181511006281435),
            (2.325496485650936, -5.129527241853915, 0.2983034460845554, 2.765727310118424),
        ),
        interpolation_order=4,
    )
