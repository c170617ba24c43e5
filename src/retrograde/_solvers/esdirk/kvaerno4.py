"""Kværnø's pair 4(3)."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ESDIRK
from .tableau import ESDIRKTableau

_G = 0.5728160624821349


def _p(*coefficients: float) -> float:
    value = 0.0
    for x in coefficients:
        value = value * _G + x
    return value


_A3 = (
    _p(144, -180, 81, -15, 1) * _G / _p(12, -6, 1) ** 2,
    _p(-36, 39, -15, 2) * _G / _p(12, -6, 1) ** 2,
)
_A4 = (
    _p(-144, 396, -330, 117, -18, 1) / (12 * _G**2 * _p(12, -9, 2)),
    _p(72, -126, 69, -15, 1) / (12 * _G**2 * _p(3, -1)),
    _p(-6, 6, -1) * _p(12, -6, 1) ** 2 / (12 * _G**2 * _p(12, -9, 2) * _p(3, -1)),
)
_A5 = (
    _p(288, -312, 120, -18, 1) / (48 * _G**2 * _p(12, -9, 2)),
    _p(24, -12, 1) / (48 * _G**2 * _p(3, -1)),
    -(_p(12, -6, 1) ** 3) / (48 * _G**2 * _p(3, -1) * _p(12, -9, 2) * _p(6, -6, 1)),
    _p(-24, 36, -12, 1) / _p(24, -24, 4),
)


@dataclass(frozen=True)
class Kvaerno4(ESDIRK):
    """Kværnø's ESDIRK pair 4(3).

    For stiff problems at moderate tolerances, and where ``f`` has first derivatives alone.

    Parameters
    ----------
    linear_solver : GMRES, optional
        How linear systems are solved without a matrix; default: by a factorisation, in the form of
        the field's ``structure``.

    Notes
    -----
    ============  ===================================================
    order         4, embedded 3
    stages        5, the first one explicit
    cost          one Jacobian and factorisation a step, to five at
                  loose tolerances; of each stage 3 to 6 calls of
                  ``f`` and solves
    error         O(h**4)
    stability     A- and L-stable, stiffly accurate
    interpolant   order 3, cubic; bounded on stiff problems
    ============  ===================================================

    Coefficients are rational in gamma, a root of the quartic that makes the method L-stable. The
    interpolant is this project's, one of order 3 that is bounded on stiff problems; none of order
    4 exists on these stages.

    References
    ----------
    .. [1] A. Kværnø, "Singly diagonally implicit Runge-Kutta methods with an explicit first stage",
       BIT 44 (2004) 489-502, doi:10.1023/B:BITN.0000046811.70614.38.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> f = lambda t, y, args: -1e4 * (y - math.cos(t))
    >>> sol = rg.solve(f, [1.0], 0.0, 1.0, solver=rg.Kvaerno4(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.cos(1.0)) < 1e-3, int(sol.stats["num_steps"]) < 200
    (True, True)
    """

    tableau: ClassVar[ESDIRKTableau] = ESDIRKTableau(
        gamma=_G,
        c=(0.0, 2 * _G, _G + _A3[0] + _A3[1], 1.0, 1.0),
        a=(
            (),
            (_G,),
            _A3,
            _A4,
            _A5,
        ),
        b_error=(
            _A5[0] - _A4[0],
            _A5[1] - _A4[1],
            _A5[2] - _A4[2],
            _A5[3] - _G,
            _G,
        ),
        order=4,
        error_order=4,
        interpolation=(
            (0.9789715500702124, -1.3883070037706766, 0.6065520020132992),
            (0.1571819436541047, 0.3807127524523153, -0.3610509122000478),
            (0.10900901982933395, 2.3424241601106477, -1.6359909985891432),
            (1.3805260126711232, -5.497503329195722, 3.3546587404724186),
            (-1.6256885262247742, 4.1626734204034355, -1.9641688316965267),
        ),
        interpolation_order=3,
    )
