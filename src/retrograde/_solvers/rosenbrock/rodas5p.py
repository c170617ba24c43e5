"""Rodas5P, 5(4): the default method for stiff problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .solver import Rosenbrock
from .tableau import RosenbrockTableau

_GAMMA = 0.21193756319429014
_A6 = (
    -7.502846399306121,
    2.561846144803919,
    -11.627539656261098,
    -0.18268767659942256,
    0.030198172008377946,
)


@dataclass(frozen=True)
class Rodas5P(Rosenbrock):
    """The Rosenbrock method 5(4) of Steinebach.

    The first choice for stiff problems of up to some hundred unknowns (more where the Jacobian has
    a structure), at tolerances down to 1e-8 and below. It solves linear equations alone: no
    iteration can fail, and its gradient is that of the step to rounding.

    Notes
    -----
    ============  =====================================================================
    order         5, embedded 4; of index-1 differential-algebraic systems too
    stages        8, with one Jacobian and one factorisation a step
    cost          8 calls of ``f``, and those of its Jacobian
    error         O(h**5)
    stability     L-stable, as is the embedded method; stiffly accurate
    interpolant   order 4, quartic; continuous
    ============  =====================================================================

    The pair and its interpolant are those of [1]_; the digits are those that OrdinaryDiffEq.jl
    publishes as ``Rodas5PTableau``. On linear parabolic problems and those of Prothero and
    Robinson it keeps more of its order than Rodas5 does, which has 0 as an estimate of the error
    of y' = g(t).

    References
    ----------
    .. [1] G. Steinebach, "Construction of Rosenbrock-Wanner method Rodas5P and numerical
       benchmarks within the Julia Differential Equations package", BIT Numer. Math. 63 (2023) 27,
       doi:10.1007/s10543-023-00967-x.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> def van_der_pol(t, y, mu):
    ...     return np.stack([y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]])
    >>> y0 = np.array([2.0, 0.0])
    >>> sol = rg.solve(van_der_pol, y0, 0.0, 2000.0, 1000.0, solver="rodas5p", rtol=1e-6)
    >>> round(float(sol.ys[-1, 0]), 3), sol.stats["num_accepted_steps"] < 1000
    (1.706, True)
    """

    tableau: ClassVar[RosenbrockTableau] = RosenbrockTableau(
        gamma=_GAMMA,
        c=(
            0.0,
            0.6358126895828704,
            0.4095798393397535,
            0.9769306725060716,
            0.4288403609558664,
            1.0,
            1.0,
            1.0,
        ),
        d=(
            _GAMMA,
            -0.42387512638858027,
            -0.3384627126235924,
            1.8046452872882734,
            2.325825639765069,
            0.0,
            0.0,
            0.0,
        ),
        a=(
            (),
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
            _A6,
            (*_A6, 1.0),
            (*_A6, 1.0, 1.0),
        ),
        coupling=(
            (),
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (
                24.854864614690072,
                -3.0009227002832186,
                47.4931110020768,
                5.5814197821558125,
                -0.6610691825249471,
            ),
            (
                30.91273214028599,
                -3.1208243349937974,
                77.79954646070892,
                34.28646028294783,
                -19.097331116725623,
                -28.087943162872662,
            ),
            (
                37.80277123390563,
                -3.2571969029072276,
                112.26918849496327,
                66.9347231244047,
                -40.06618937091002,
                -54.66780262877968,
                -9.48861652309627,
            ),
        ),
        b=(*_A6, 1.0, 1.0, 1.0),
        b_error=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        order=5,
        error_order=5,
        interpolation=(
            (
                25.948786856663858,
                -2.5579724845846235,
                10.433815404888879,
                -2.3679251022685204,
                0.524948541321073,
                1.1241088310450404,
                0.4272876194431874,
                -0.17202221070155493,
            ),
            (
                -9.91568850695171,
                -0.9689944594115154,
                3.0438037242978453,
                -24.495224566215796,
                20.176138334709044,
                15.98066361424651,
                -6.789040303419874,
                -6.710236069923372,
            ),
            (
                11.419903575922262,
                2.8879645146136994,
                72.92137995996029,
                80.12511834622643,
                -52.072871366152654,
                -59.78993625266729,
                -0.15582684282751913,
                4.883087185713722,
            ),
        ),
        interpolation_order=4,
    )
