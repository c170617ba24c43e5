"""McLachlan's optimised method of order 4: five drifts between six kicks."""

import math
from dataclasses import dataclass
from typing import ClassVar

from .kicks_and_drifts import kicks_and_drifts
from .semi_implicit_euler import SeparableSolver
from .solver import Programs

_ROOT = math.sqrt(19.0)
_KICKS = ((14.0 - _ROOT) / 108.0, (20.0 - 7.0 * _ROOT) / 108.0, (10.0 + 4.0 * _ROOT) / 54.0)
_DRIFTS = (2 / 5, -1 / 10, 2 / 5, -1 / 10, 2 / 5)
_PROGRAMS = kicks_and_drifts((*_KICKS, *reversed(_KICKS)), _DRIFTS)


@dataclass(frozen=True)
class McLachlan4(SeparableSolver):
    """The symmetric method of order 4 with five stages whose leading error is smallest.

    The first choice for separable systems over long times.

    For separable systems ``dq/dt = v(t, p)``, ``dp/dt = a(t, q)``: y is a pair (q, p), a tuple
    or list (or namedtuple) of two trees with equally many leaves and elements, and f returns
    ``(dq/dt, dp/dt)``. Symplectic and symmetric. Needs a constant step size.

    Notes
    -----
    ============  =====================================================================
    order         4
    stages        11
    cost          11 calls of ``f`` a step (6 forces and 5 velocities), and 1 more in steps
                  with output inside
    error         no estimate
    stability     h omega < 3.034 on an oscillator of frequency omega
    interpolant   order 3, cubic; continuously differentiable: its error inside a step is
                  O(h**4), of the order of the method's
    inverse       exact up to rounding, 11 calls of ``f``
    ============  =====================================================================

    What is said at `VelocityVerlet` of calls of f, and of systems that are not separable, is true
    here. Kicks are (14 - r)/108, (20 - 7 r)/108, (10 + 4 r)/54 with r = sqrt(19), and mirrored;
    drifts are 2/5, -1/10, 2/5, -1/10, 2/5: type S, m = 5 of [1]_.

    References
    ----------
    .. [1] R. I. McLachlan, "On the numerical integration of ordinary differential equations by
       symmetric composition methods", SIAM J. Sci. Comput. 16 (1995) 151-168,
       doi:10.1137/0916010.

    Examples
    --------
    >>> import retrograde as rg
    >>> def f(t, y, args):
    ...     q, p = y
    ...     return p, -q
    >>> q, p = rg.solve(f, (1.0, 0.0), 0.0, 100.0, solver=rg.McLachlan4(), dt=0.2).ys
    >>> abs(float(q[-1] ** 2 + p[-1] ** 2) - 1.0) < 1e-4
    True
    """

    order: ClassVar[int] = 4
    evaluations: ClassVar[int] = 11
    stages: ClassVar[int] = 11
    extra: ClassVar[int] = 1

    @property
    def name(self) -> str:
        return "mclachlan4"

    def programs(self) -> Programs:
        return _PROGRAMS
