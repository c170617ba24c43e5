"""Kennedy and Carpenter's additive pair 5(4)."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import ESDIRK
from .tableau import ESDIRKTableau

_G = 41 / 200
_B = (
    -872700587467 / 9133579230613,
    0.0,
    0.0,
    22348218063261 / 9555858737531,
    -1143369518992 / 8141816002931,
    -39379526789629 / 19018526304540,
    32727382324388 / 42900044865799,
    _G,
)
_B_HAT = (
    -975461918565 / 9796059967033,
    0.0,
    0.0,
    78070527104295 / 32432590147079,
    -548382580838 / 3424219808633,
    -33438840321285 / 15594753105479,
    3629800801594 / 4656183773603,
    4035322873751 / 18575991585200,
)


@dataclass(frozen=True)
class KenCarp5(ESDIRK):
    """Kennedy and Carpenter's additive pair 5(4).

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
    order         5, embedded 4
    stages        8, the first one explicit
    cost          one Jacobian and factorisation a step, to five at
                  loose tolerances; of each stage 3 to 6 calls of
                  ``f`` and solves
    error         O(h**5)
    stability     A- and L-stable, stiffly accurate
    interpolant   order 3; bounded on stiff problems
    ============  ===================================================

    The pair is ARK5(4)8L[2]SA of [1]_. The interpolant is this project's, one of order 3 that is
    bounded on stiff problems; none of order 4 exists on these stages.

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
    >>> sol = rg.solve(f, [1.0], 0.0, 1.0, solver=rg.KenCarp5(), rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0]) - math.cos(1.0)) < 1e-3, int(sol.stats["num_steps"]) < 200
    (True, True)
    """

    tableau: ClassVar[ESDIRKTableau] = ESDIRKTableau(
        gamma=_G,
        c=(
            0.0,
            41 / 100,
            2935347310677 / 11292855782101,
            1426016391358 / 7196633302097,
            92 / 100,
            24 / 100,
            3 / 5,
            1.0,
        ),
        a=(
            (),
            (_G,),
            (41 / 400, -567603406766 / 11931857230679),
            (683785636431 / 9252920307686, 0.0, -110385047103 / 1367015193373),
            (
                3016520224154 / 10081342136671,
                0.0,
                30586259806659 / 12414158314087,
                -22760509404356 / 11113319521817,
            ),
            (
                218866479029 / 1489978393911,
                0.0,
                638256894668 / 5436446318841,
                -1179710474555 / 5321154724896,
                -60928119172 / 8023461067671,
            ),
            (
                1020004230633 / 5715676835656,
                0.0,
                25762820946817 / 25263940353407,
                -2161375909145 / 9755907335909,
                -211217309593 / 5846859502534,
                -4269925059573 / 7827059040749,
            ),
            _B[:-1],
        ),
        b_error=tuple(b - x for b, x in zip(_B, _B_HAT, strict=True)),
        order=5,
        error_order=5,
        interpolation=(
            (0.2384394039963709, -1.1915308634996222, 0.8575428727518527),
            (0.0, 0.0, 0.0),
            (-1.7857805046829553, 5.476861944267741, -3.691081439584786),
            (3.6768025291079742, 0.7526264149672275, -2.090736140309956),
            (-0.25052818375578645, 0.3794895065087253, -0.2693930788354142),
            (-1.0408944240180475, -6.199835416685942, 5.17014213274743),
            (-0.13489096337624223, 1.7907250002583068, -0.892958789856878),
            (0.29685214272868604, -1.0083365858164373, 0.9164844430877511),
        ),
        interpolation_order=3,
        explicit=(
            (),
            (41 / 100,),
            (367902744464 / 2072280473677, 677623207551 / 8224143866563),
            (1268023523408 / 10340822734521, 0.0, 1029933939417 / 13636558850479),
            (
                14463281900351 / 6315353703477,
                0.0,
                66114435211212 / 5879490589093,
                -54053170152839 / 4284798021562,
            ),
            (
                14090043504691 / 34967701212078,
                0.0,
                15191511035443 / 11219624916014,
                -18461159152457 / 12425892160975,
                -281667163811 / 9011619295870,
            ),
            (
                19230459214898 / 13134317526959,
                0.0,
                21275331358303 / 2942455364971,
                -38145345988419 / 4862620318723,
                -1 / 8,
                -1 / 8,
            ),
            (
                -19977161125411 / 11928030595625,
                0.0,
                -40795976796054 / 6384907823539,
                177454434618887 / 12078138498510,
                782672205425 / 8267701900261,
                -69563011059811 / 9646580694205,
                7356628210526 / 4942186776405,
            ),
        ),
    )
