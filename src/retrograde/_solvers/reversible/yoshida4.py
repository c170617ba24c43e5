"""The method of order 4 of Forest and Ruth, and of Yoshida: three leapfrog steps in one."""

from dataclasses import dataclass
from typing import ClassVar

from .kicks_and_drifts import of_leapfrogs
from .semi_implicit_euler import SeparableSolver
from .solver import Programs

_OUTER = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_PROGRAMS = of_leapfrogs((_OUTER, 1.0 - 2.0 * _OUTER, _OUTER))


@dataclass(frozen=True)
class Yoshida4(SeparableSolver):
    """Three steps of :class:`VelocityVerlet` of sizes 1.3512 h, -1.7024 h, 1.3512 h.

    By name also ``"forest_ruth"``: it is one method, found twice.

    For separable systems ``dq/dt = v(t, p)``, ``dp/dt = a(t, q)``: y is a pair (q, p), a tuple
    or list (or namedtuple) of two trees with equally many leaves and elements, and f returns
    ``(dq/dt, dp/dt)``. Symplectic and symmetric. Needs a constant step size. `McLachlan4` costs
    half as much again a step, and errs some hundred times less.

    Notes
    -----
    ============  =====================================================================
    order         4
    stages        7
    cost          7 calls of ``f`` a step (4 forces and 3 velocities), and 1 more in steps
                  with output inside
    error         no estimate
    stability     h omega < 1.573 on an oscillator of frequency omega
    interpolant   order 3, cubic; continuously differentiable: its error inside a step is
                  O(h**4), of the order of the method's
    inverse       exact up to rounding, 7 calls of ``f``
    ============  =====================================================================

    With w = 1 / (2 - 2**(1/3)) the sizes are w, 1 - 2 w, w. What is said at `VelocityVerlet` of
    calls of f, and of systems that are not separable, is true here.

    Forest and Ruth [1]_ begin with a drift, which is the same row of sizes on the leapfrog that
    drifts first; Yoshida [2]_ has both, and here kicks come first, as in `VelocityVerlet`.

    References
    ----------
    .. [1] E. Forest, R. D. Ruth, "Fourth-order symplectic integration", Physica D 43 (1990)
       105-117, doi:10.1016/0167-2789(90)90019-L.
    .. [2] H. Yoshida, "Construction of higher order symplectic integrators", Phys. Lett. A 150
       (1990) 262-268, doi:10.1016/0375-9601(90)90092-3, Sec. 3.

    Examples
    --------
    >>> import retrograde as rg
    >>> def f(t, y, args):
    ...     q, p = y
    ...     return p, -q
    >>> q, p = rg.solve(f, (1.0, 0.0), 0.0, 100.0, solver=rg.Yoshida4(), dt=0.1).ys
    >>> abs(float(q[-1] ** 2 + p[-1] ** 2) - 1.0) < 1e-3
    True
    """

    order: ClassVar[int] = 4
    evaluations: ClassVar[int] = 7
    stages: ClassVar[int] = 7
    extra: ClassVar[int] = 1

    def programs(self) -> Programs:
        return _PROGRAMS
