"""The velocity Verlet (leapfrog) method: order 2, for separable systems, reversible."""

from dataclasses import dataclass
from typing import ClassVar

from .kicks_and_drifts import kicks_and_drifts
from .semi_implicit_euler import SeparableSolver
from .solver import Programs, line

_PROGRAMS = kicks_and_drifts((0.5, 0.5), (1.0,), dense=(line("q", "q1"), line("p", "p1")))


@dataclass(frozen=True)
class VelocityVerlet(SeparableSolver):
    """Velocity Verlet, the leapfrog method as kick, drift, kick; by name also ``"leapfrog"``.

    ``half = p + h/2 a(t, q)``, ``q_new = q + h v(t + h/2, half)``,
    ``p_new = half + h/2 a(t + h, q_new)``.

    For separable systems ``dq/dt = v(t, p)``, ``dp/dt = a(t, q)``: y is a pair (q, p), a tuple
    or list (or namedtuple) of two trees with equally many leaves and elements, and f returns
    ``(dq/dt, dp/dt)``. Symplectic and symmetric: the method for molecules, planets and Monte
    Carlo. Needs a constant step size.

    Notes
    -----
    ============  =====================================================================
    order         2
    stages        3
    cost          3 calls of ``f`` a step
    error         no estimate
    stability     h omega < 2 on an oscillator of frequency omega
    interpolant   order 1, the straight line; continuous: its error inside a step, O(h**2), is
                  of the order of the method's
    inverse       exact up to rounding, 3 calls of ``f``
    ============  =====================================================================

    ``f(t, (q, p), args)`` is one function and both halves of its result are computed in every
    call, at (q, p), (q, half) and (q_new, half); the half that is not needed is thrown away. A
    compiling library (JAX) removes its computation: two accelerations and one velocity remain.
    An eager one pays for it. A step's last acceleration is the next one's first; it is computed
    twice, for then a stored state is y alone.

    Whether a system is separable is not checked. Where v depends on q or a on p, the gradient is
    still that of the steps taken, but they are of order 1 and not symplectic, and the inverse
    misses the state before the step by O(h**2).

    Due to Störmer and to Verlet [1]_, in this form to Swope et al. [2]_; [3]_ is the textbook.

    References
    ----------
    .. [1] L. Verlet, "Computer 'experiments' on classical fluids. I", Phys. Rev. 159 (1967)
       98-103, doi:10.1103/PhysRev.159.98.
    .. [2] W. C. Swope, H. C. Andersen, P. H. Berens, K. R. Wilson, J. Chem. Phys. 76 (1982)
       637-649, doi:10.1063/1.442716.
    .. [3] E. Hairer, C. Lubich, G. Wanner, "Geometric numerical integration illustrated by the
       Störmer-Verlet method", Acta Numerica 12 (2003) 399-450, doi:10.1017/S0962492902000144.

    Examples
    --------
    A pendulum of small swings, whose energy stays what it was:

    >>> import retrograde as rg
    >>> def f(t, y, args):
    ...     q, p = y
    ...     return p, -q
    >>> q, p = rg.solve(f, (1.0, 0.0), 0.0, 100.0, solver=rg.VelocityVerlet(), dt=0.05).ys
    >>> abs(float(q[-1] ** 2 + p[-1] ** 2) - 1.0) < 0.06
    True
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 3
    stages: ClassVar[int] = 3

    def programs(self) -> Programs:
        return _PROGRAMS
