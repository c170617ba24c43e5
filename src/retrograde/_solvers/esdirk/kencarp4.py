"""Kennedy and Carpenter's additive pair 4(3)."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ESDIRK
from .tableau import ESDIRKTableau

_G = 0.25
_B = (
    82889 / 524892,
    0.0,
    15625 / 83664,
    69875 / 102672,
    -2260 / 8211,
    _G,
)
_B_HAT = (
    4586570599 / 29645900160,
    0.0,
    178811875 / 945068544,
    814220225 / 1159782912,
    -3700637 / 11593932,
    61727 / 225920,
)


@dataclass(frozen=True)
class KenCarp4(ESDIRK):
    """Kennedy and Carpenter's additive pair 4(3).

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
    order         4, embedded 3
    stages        6, the first one explicit
    cost          one Jacobian and factorisation a step, to five at
                  loose tolerances; of each stage 3 to 6 calls of
                  ``f`` and solves
    error         O(h**4)
    stability     A- and L-stable, stiffly accurate
    interpolant   order 3; bounded on stiff problems
    ============  ===================================================

    The pair is ARK4(3)6L[2]SA of [1]_. The interpolant is this project's, one of order 3 that is
    bounded on stiff problems.

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
    >>> sol = rg.solve(f, [1.0], 0.0, 1.0, solver=rg.KenCarp4(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.cos(1.0)) < 1e-3, int(sol.stats["num_steps"]) < 200
    (True, True)
    """

    tableau: ClassVar[ESDIRKTableau] = ESDIRKTableau(
        gamma=_G,
        c=(0.0, 0.5, 83 / 250, 31 / 50, 17 / 20, 1.0),
        a=(
            (),
            (_G,),
            (8611 / 62500, -1743 / 31250),
            (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
            (
                15267082809 / 155376265600,
                -71443401 / 120774400,
                730878875 / 902184768,
                2285395 / 8070912,
            ),
            _B[:-1],
        ),
        b_error=tuple(b - x for b, x in zip(_B, _B_HAT, strict=True)),
        order=4,
        error_order=4,
        interpolation=(
            (0.7687872402375288, -1.1316858420629647, 0.5208148969871074),
            (0.0, 0.0, 0.0),
            (0.9347123554993757, -1.2573446450156176, 0.5093912300402427),
            (-1.45196867621528, 5.400507885588149, -3.2679739140635338),
            (1.0571533550046306, -3.8706728772673267, 2.5382789912676893),
            (-0.30868427452625513, 0.8591954787577607, -0.30051120423150557),
        ),
        interpolation_order=3,
        explicit=(
            (),
            (0.5,),
            (13861 / 62500, 6889 / 62500),
            (
                -116923316275 / 2393684061468,
                -2731218467317 / 15368042101831,
                9408046702089 / 11113171139209,
            ),
            (
                -451086348788 / 2902428689909,
                -2682348792572 / 7519795681897,
                12662868775082 / 11960479115383,
                3355817975965 / 11060851509271,
            ),
            (
                647845179188 / 3216320057751,
                73281519250 / 8382639484533,
                552539513391 / 3454668386233,
                3354512671639 / 8306763924573,
                4040 / 17871,
            ),
        ),
    )
