"""The semi-implicit (symplectic) Euler method: order 1, for separable systems, reversible.

It, and what it shares with other solvers of separable systems: a pair (q, p) whose halves drive
each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..._base.errors import InputError
from .solver import Programs, ProgramSolver, line
from .straight_line import Evaluate, LinearCombination, StraightLine

if TYPE_CHECKING:
    from ..._integrate.problem import Problem


class SeparableSolver(ProgramSolver):
    """A solver of ``dq/dt = v(t, p), dp/dt = a(t, q)``, whose y is the pair (q, p).

    f stays one function of the pair and is called at mixed states (a new q with an old p); the
    half of its result that a line of the method does not need is thrown away. Programs name the
    halves of y, q first.
    """

    parted: ClassVar[bool] = True

    def check(self, problem: Problem) -> None:
        bk, tree, name = problem.bk, problem.structure(), type(self).__name__
        if not isinstance(tree, (tuple, list)) or len(tree) != 2:
            raise InputError(
                f"`solver` {name} needs `y0` as a pair (q, p), but it is {problem.describe()}; "
                "pass `y0=(q, p)` with f returning (dq/dt, dp/dt), or another solver."
            )
        halves = [[problem.layout.shapes[i] for i in bk.flatten(half)[0]] for half in tree]
        leaves, sizes = [len(x) for x in halves], [sum(map(math.prod, x)) for x in halves]
        if leaves[0] != leaves[1] or sizes[0] != sizes[1]:
            raise InputError(
                f"`solver` {name} needs halves of `y0` = (q, p) that are alike, but q has "
                f"{leaves[0]} leaves of {sizes[0]} elements in all and p {leaves[1]} of "
                f"{sizes[1]}; give each q its p."
            )


_STEP = StraightLine(
    ("q", "p"),
    (
        Evaluate(("v", None), 0.0, ("q", "p")),
        LinearCombination("q1", (("q", 1.0, 0.0), ("v", 0.0, 1.0))),
        Evaluate((None, "a"), 0.0, ("q1", "p")),
        LinearCombination("p1", (("p", 1.0, 0.0), ("a", 0.0, 1.0))),
    ),
    ("q1", "p1"),
)
_INVERSE = StraightLine(
    ("q1", "p1"),
    (
        Evaluate((None, "a"), 0.0, ("q1", "p1")),
        LinearCombination("p", (("p1", 1.0, 0.0), ("a", 0.0, -1.0))),
        Evaluate(("v", None), 0.0, ("q1", "p")),
        LinearCombination("q", (("q1", 1.0, 0.0), ("v", 0.0, -1.0))),
    ),
    ("q", "p"),
)
_PROGRAMS = Programs(_STEP, _INVERSE, dense=(line("q", "q1"), line("p", "p1")))


@dataclass(frozen=True)
class SemiImplicitEuler(SeparableSolver):
    """Semi-implicit Euler, ``q_new = q + h v(t, p)``, ``p_new = p + h a(t, q_new)``.

    For separable systems ``dq/dt = v(t, p)``, ``dp/dt = a(t, q)``: y is a pair (q, p), a tuple
    or list (or namedtuple) of two trees with equally many leaves and elements, and f returns
    ``(dq/dt, dp/dt)``. Symplectic, hence without drift of energy over long times. Needs a
    constant step size.

    Notes
    -----
    ============  =====================================================================
    order         1
    stages        2
    cost          2 calls of ``f`` a step
    error         no estimate
    stability     h omega < 2 on an oscillator of frequency omega
    interpolant   order 1, the straight line; continuous
    inverse       exact up to rounding, 2 calls of ``f``
    ============  =====================================================================

    ``f(t, (q, p), args)`` is one function and both halves of its result are computed in both
    calls, at (q, p) and at (q_new, p); the half that is not needed is thrown away. A compiling
    library (JAX) removes its computation; an eager one pays for it.

    Whether a system is separable is not checked. Where v depends on q or a on p, steps are still
    of order 1 and their gradient is exact, but they are not symplectic, and the inverse misses
    the state before the step by O(h**2).

    The method is de Vogelaere's [1]_; [2]_ is the textbook. Written q first, with both slopes at
    the time t.

    References
    ----------
    .. [1] R. de Vogelaere, "Methods of integration which preserve the contact transformation
       property of the Hamilton equations", Report 4, Univ. of Notre Dame (1956).
    .. [2] E. Hairer, C. Lubich, G. Wanner, "Geometric Numerical Integration", 2nd ed., Springer
       (2006), doi:10.1007/3-540-30666-8, Sec. I.1.2 and VI.3.

    Examples
    --------
    A pendulum of small swings, whose energy stays what it was:

    >>> import retrograde as rg
    >>> def f(t, y, args):
    ...     q, p = y
    ...     return p, -q
    >>> q, p = rg.solve(f, (1.0, 0.0), 0.0, 100.0, solver=rg.SemiImplicitEuler(), dt=0.05).ys
    >>> abs(float(q[-1] ** 2 + p[-1] ** 2) - 1.0) < 0.06
    True
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 2
    stages: ClassVar[int] = 2

    def programs(self) -> Programs:
        return _PROGRAMS
