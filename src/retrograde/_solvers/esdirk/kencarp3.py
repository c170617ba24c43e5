"""Kennedy and Carpenter's additive pair 3(2)."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ESDIRK
from .tableau import ESDIRKTableau

_G = 1767732205903 / 4055673282236
_B = (
    1471266399579 / 7840856788654,
    -4482444167858 / 7529755066697,
    11266239266428 / 11593286722821,
    _G,
)
_B_HAT = (
    2756255671327 / 12835298489170,
    -10771552573575 / 22201958757719,
    9247589265047 / 10645013368117,
    2193209047091 / 5459859503100,
)


@dataclass(frozen=True)
class KenCarp3(ESDIRK):
    """Kennedy and Carpenter's additive pair 3(2).

    For sums of a stiff part and one that is not, as advection and diffusion are.

    With ``rg.Split(explicit, implicit)`` as the field its explicit part takes the explicit half of
    the pair, so that nothing of it is solved for; any other field is implicit as a whole.

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
    interpolant   order 3 (2 of a split field); bounded on stiff problems
    ============  ===================================================

    The pair is ARK3(2)4L[2]SA of [1]_. The interpolant is this project's: of order 3 for the
    implicit half, 2 for the pair, bounded on stiff problems.

    References
    ----------
    .. [1] C. A. Kennedy, M. H. Carpenter, "Additive Runge-Kutta schemes for
       convection-diffusion-reaction equations", Appl. Numer. Math. 44 (2003) 139-181,
       doi:10.1016/S0168-9274(02)00138-1.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> f = lambda t, y, args: -1e4 * (y - math.cos(t))
    >>> sol = rg.solve(f, [1.0], 0.0, 1.0, solver=rg.KenCarp3(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.cos(1.0)) < 1e-3, int(sol.stats["num_steps"]) < 200
    (True, True)
    """

    tableau: ClassVar[ESDIRKTableau] = ESDIRKTableau(
        gamma=_G,
        c=(0.0, 2 * _G, 3 / 5, 1.0),
        a=(
            (),
            (_G,),
            (2746238789719 / 10658868560708, -640167445237 / 6845629431997),
            _B[:-1],
        ),
        b_error=tuple(b - x for b, x in zip(_B, _B_HAT, strict=True)),
        order=3,
        error_order=3,
        interpolation=(
            (1.1025331881751257, -1.6421433033100798, 0.727251139481678),
            (1.7650559155930663, -5.316004251916997, 2.955650862746976),
            (-0.8223288484330897, 4.560027480031496, -2.765908703876634),
            (-1.0452602553351023, 2.3981200751955813, -0.9169932983520201),
        ),
        interpolation_order=3,
        explicit=(
            (),
            (2 * _G,),
            (5535828885825 / 10492691773637, 788022342437 / 10882634858940),
            (
                6485989280629 / 16251701735622,
                -4246266847089 / 9704473918619,
                10755448449292 / 10357097424841,
            ),
        ),
        joint_order=2,
    )
