"""Kværnø's pair 3(2)."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ESDIRK
from .tableau import ESDIRKTableau

_G = 0.435866521508459
_A3 = ((-4 * _G**2 + 6 * _G - 1) / (4 * _G), (1 - 2 * _G) / (4 * _G))
_A4 = (
    (6 * _G - 1) / (12 * _G),
    -1 / ((24 * _G - 12) * _G),
    (-6 * _G**2 + 6 * _G - 1) / (6 * _G - 3),
)


@dataclass(frozen=True)
class Kvaerno3(ESDIRK):
    """Kværnø's ESDIRK pair 3(2).

    For stiff problems at loose tolerances, and where ``f`` has first derivatives alone.

    Parameters
    ----------
    linear_solver : GMRES, optional
        How linear systems are solved without a matrix; default: by a factorisation, in the form of
        the field's ``structure``.

    Notes
    -----
    ============  ===================================================
    order         3, embedded 2
    stages        4, the first one explicit
    cost          one Jacobian and factorisation a step, to five at
                  loose tolerances; of each stage 3 to 6 calls of
                  ``f`` and solves
    error         O(h**3)
    stability     A- and L-stable, stiffly accurate
    interpolant   order 3, cubic; bounded on stiff problems
    ============  ===================================================

    Coefficients are rational in gamma, a root of the cubic that makes the method L-stable. The
    interpolant is this project's: the only one of order 3 that is bounded on stiff problems (cubic
    Hermite's is not).

    References
    ----------
    .. [1] A. Kværnø, "Singly diagonally implicit Runge-Kutta methods with an explicit first stage",
       BIT 44 (2004) 489-502, doi:10.1023/B:BITN.0000046811.70614.38.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> f = lambda t, y, args: -1e4 * (y - math.cos(t))
    >>> sol = rg.solve(f, [1.0], 0.0, 1.0, solver=rg.Kvaerno3(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.cos(1.0)) < 1e-3, int(sol.stats["num_steps"]) < 200
    (True, True)
    """

    tableau: ClassVar[ESDIRKTableau] = ESDIRKTableau(
        gamma=_G,
        c=(0.0, 2 * _G, 1.0, 1.0),
        a=(
            (),
            (_G,),
            _A3,
            _A4,
        ),
        b_error=(_A4[0] - _A3[0], _A4[1] - _A3[1], _A4[2] - _G, _G),
        order=3,
        error_order=3,
        interpolation=(
            (1.0, -1.0735700900697605, 0.38238006004650693),
            (0.0, 4.471690165265342, -2.981126776843561),
            (1.0452602553351023, -5.796240150391163, 3.5157400151490745),
            (-1.0452602553351023, 2.3981200751955813, -0.9169932983520201),
        ),
        interpolation_order=3,
    )
