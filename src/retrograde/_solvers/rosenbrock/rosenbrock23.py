"""The pair of MATLAB's ode23s, 2(3): for stiff problems at loose tolerances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .solver import Rosenbrock
from .tableau import RosenbrockTableau

_GAMMA = 1.0 / (2.0 + math.sqrt(2.0))
_E32 = 6.0 + math.sqrt(2.0)


@dataclass(frozen=True)
class Rosenbrock23(Rosenbrock):
    """The Rosenbrock method 2(3) of Shampine and Reichelt.

    For stiff problems at tolerances of 1e-3 and looser, and where f or its derivatives have kinks;
    `Rodas5P` takes fewer steps from there on.

    Notes
    -----
    ============  =====================================================================
    order         2, embedded 3
    stages        2, and a third for the error; one Jacobian and one factorisation a step
    cost          3 calls of ``f``, and those of its Jacobian
    error         O(h**3)
    stability     L-stable
    interpolant   order 2, quadratic; continuous
    ============  =====================================================================

    The method is ``ode23s`` [1]_. There the third stage takes up values of f that the first two
    have used; here these are written by the stages themselves (``v = k_3 - (6 + sqrt 2) (k_2 -
    k_1) - 2 k_1``), which gives the three stages one form and the same results but for rounding.

    References
    ----------
    .. [1] L. F. Shampine, M. W. Reichelt, "The MATLAB ODE suite", SIAM J. Sci. Comput. 18 (1997)
       1-22, doi:10.1137/S1064827594276424.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> relax = lambda t, y, rate: -rate * (y - np.cos(t))
    >>> sol = rg.solve(relax, [0.0], 0.0, 1.5, 1e4, solver="rosenbrock23", rtol=1e-3)
    >>> bool(abs(sol.ys[-1, 0] - np.cos(1.5)) < 1e-3), sol.stats["num_steps"] < 60
    (True, True)
    """

    tableau: ClassVar[RosenbrockTableau] = RosenbrockTableau(
        gamma=_GAMMA,
        c=(0.0, 0.5, 1.0),
        d=(_GAMMA, 0.0, -_GAMMA),
        a=((), (0.5 / _GAMMA,), (1.0 / _GAMMA, 1.0 / _GAMMA)),
        coupling=((), (-1.0 / _GAMMA,), (-2.0 / _GAMMA, -_E32 / _GAMMA)),
        b=(1.0 / _GAMMA, 1.0 / _GAMMA, 0.0),
        b_error=(1.0 / (6.0 * _GAMMA), (_E32 - 2.0) / (6.0 * _GAMMA), 1.0 / (6.0 * _GAMMA)),
        order=2,
        error_order=3,
        interpolation=((0.0, -1.0 / (_GAMMA * (1.0 - 2.0 * _GAMMA)), 0.0),),
        interpolation_order=2,
    )
