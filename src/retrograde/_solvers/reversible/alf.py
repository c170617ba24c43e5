"""The asynchronous leapfrog method: order 2, one evaluation a step, an exact inverse."""

from dataclasses import dataclass
from typing import ClassVar

from ..._base.errors import InputError
from .solver import Programs, ProgramSolver, line
from .straight_line import Evaluate, LinearCombination, StraightLine

_START = StraightLine(("y",), (Evaluate(("v",), 0.0, ("y",)),), ("y", "v"))


@dataclass(frozen=True)
class ALF(ProgramSolver):
    """The asynchronous leapfrog method, with the damping of MALI.

    Carries (y, v), begun as (y0, f(t0, y0)): ``mid = y + h/2 v``, ``u = f(t + h/2, mid)``,
    ``v_new = v + 2 eta (u - v)``, ``y_new = mid + h/2 v_new``. Needs a constant step size.

    Parameters
    ----------
    eta : float
        Damping, above 0 and at most 1, not 1/2 (which has no inverse). 1 is undamped.

    Raises
    ------
    InputError
        For any other ``eta``.

    Notes
    -----
    ============  =====================================================================
    order         2; 1 where eta < 1
    stages        1
    cost          1 call of ``f`` a step, and 1 before the first
    memory        carries 2 states: a checkpoint is twice y
    error         no estimate
    stability     undamped: the segment [-i, i] of the imaginary axis for h lambda. Damped:
                  [-2 (1 - eta) / eta, 0] on the negative real axis
    interpolant   order 1, the straight line; continuous: its error inside a step, O(h**2), is
                  of the order of the method's
    inverse       exact up to rounding, 1 call of ``f``; every step inverted magnifies earlier
                  rounding by up to 1 / |1 - 2 eta|
    ============  =====================================================================

    Undamped it is the two-step midpoint rule with v between its two states. With damping the
    determinant of a step on ``y' = lambda y`` is ``1 - 2 eta``, and v lags behind the slope by
    ``(1 - eta) / (2 eta) h y''``, which leaves an error of order 1 in y.

    The method is Mutze's [1]_; its damping and its use for gradients are in [2]_.

    References
    ----------
    .. [1] U. Mutze, "An asynchronous leapfrog method II" (2013), arXiv:1311.6602.
    .. [2] J. Zhuang, N. C. Dvornek, S. Tatikonda, J. S. Duncan, "MALI: a memory efficient and
       reverse accurate integrator for neural ODEs", ICLR (2021), arXiv:2102.04668.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.ALF(), dt=0.01)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-4
    True
    """

    eta: float = 1.0
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 1
    stages: ClassVar[int] = 1
    copies: ClassVar[int] = 2

    def __post_init__(self) -> None:
        eta = self.eta
        number = isinstance(eta, (int, float)) and not isinstance(eta, bool)
        if not number or not 0 < eta <= 1 or eta == 0.5:
            raise InputError(
                f"`eta` is {eta!r}; pass a number above 0 and at most 1 (undamped), but not 0.5, "
                "whose step has no inverse."
            )
        if eta < 1:
            object.__setattr__(self, "order", 1)

    def programs(self) -> Programs:
        two, rest = 2.0 * self.eta, 1.0 - 2.0 * self.eta
        step = StraightLine(
            ("y", "v"),
            (
                LinearCombination("mid", (("y", 1.0, 0.0), ("v", 0.0, 0.5))),
                Evaluate(("u",), 0.5, ("mid",)),
                LinearCombination("v1", (("u", two, 0.0), ("v", rest, 0.0))),
                LinearCombination("y1", (("mid", 1.0, 0.0), ("v1", 0.0, 0.5))),
            ),
            ("y1", "v1"),
        )
        inverse = StraightLine(
            ("y1", "v1"),
            (
                LinearCombination("mid", (("y1", 1.0, 0.0), ("v1", 0.0, -0.5))),
                Evaluate(("u",), 0.5, ("mid",)),
                LinearCombination("v", (("v1", 1.0 / rest, 0.0), ("u", -two / rest, 0.0))),
                LinearCombination("y", (("mid", 1.0, 0.0), ("v", 0.0, -0.5))),
            ),
            ("y", "v"),
        )
        return Programs(step, inverse, dense=(line("y", "y1"),), start=_START)
