"""Yoshida's method of order 6: seven leapfrog steps in one."""

from dataclasses import dataclass
from typing import ClassVar

from .kicks_and_drifts import of_leapfrogs
from .semi_implicit_euler import SeparableSolver
from .solver import Programs

_W3, _W2, _W1 = 0.7845136104775573, 0.23557321335935813, -1.177679984178871
_W0 = 1.0 - 2.0 * (_W1 + _W2 + _W3)
_PROGRAMS = of_leapfrogs((_W3, _W2, _W1, _W0, _W1, _W2, _W3))


@dataclass(frozen=True)
class Yoshida6(SeparableSolver):
    """Seven steps of :class:`VelocityVerlet`, of sizes found for order 6 (Yoshida's solution A).

    For separable systems ``dq/dt = v(t, p)``, ``dp/dt = a(t, q)``: y is a pair (q, p), a tuple
    or list (or namedtuple) of two trees with equally many leaves and elements, and f returns
    ``(dq/dt, dp/dt)``. Symplectic and symmetric. Needs a constant step size.

    Notes
    -----
    ============  =====================================================================
    order         6
    stages        15
    cost          15 calls of ``f`` a step (8 forces and 7 velocities), and 1 more in steps
                  with output inside
    error         no estimate
    stability     h omega < 2.268 on an oscillator of frequency omega
    interpolant   order 3, cubic; continuously differentiable: its error inside a step is
                  O(h**4), larger than the method's at their ends; choose steps that end at the
                  times to be saved
    inverse       exact up to rounding, 15 calls of ``f``
    ============  =====================================================================

    What is said at `VelocityVerlet` of calls of f, and of systems that are not separable, is true
    here. The three numbers of [1]_ (Table 1, solution A) are rounded to the nearest floats of 64
    bits from 26 digits, which satisfy the conditions of order 6 to 1e-25.

    References
    ----------
    .. [1] H. Yoshida, "Construction of higher order symplectic integrators", Phys. Lett. A 150
       (1990) 262-268, doi:10.1016/0375-9601(90)90092-3.

    Examples
    --------
    >>> import retrograde as rg
    >>> def f(t, y, args):
    ...     q, p = y
    ...     return p, -q
    >>> q, p = rg.solve(f, (1.0, 0.0), 0.0, 100.0, solver=rg.Yoshida6(), dt=0.2).ys
    >>> abs(float(q[-1] ** 2 + p[-1] ** 2) - 1.0) < 1e-4
    True
    """

    order: ClassVar[int] = 6
    evaluations: ClassVar[int] = 15
    stages: ClassVar[int] = 15
    extra: ClassVar[int] = 1

    def programs(self) -> Programs:
        return _PROGRAMS
