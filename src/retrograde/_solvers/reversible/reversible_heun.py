"""The reversible Heun method: order 2, one evaluation a step, an exact inverse."""

from dataclasses import dataclass
from typing import ClassVar

from .solver import Programs, ProgramSolver, line
from .straight_line import Evaluate, LinearCombination, StraightLine

_START = StraightLine(("y",), (Evaluate(("k",), 0.0, ("y",)),), ("y", "y", "k"))
_STEP = StraightLine(
    ("y", "z", "k"),
    (
        LinearCombination("z1", (("y", 2.0, 0.0), ("z", -1.0, 0.0), ("k", 0.0, 1.0))),
        Evaluate(("k1",), 1.0, ("z1",)),
        LinearCombination("y1", (("y", 1.0, 0.0), ("k", 0.0, 0.5), ("k1", 0.0, 0.5))),
    ),
    ("y1", "z1", "k1"),
)
_INVERSE = StraightLine(
    ("y1", "z1", "k1"),
    (
        LinearCombination("z", (("y1", 2.0, 0.0), ("z1", -1.0, 0.0), ("k1", 0.0, -1.0))),
        Evaluate(("k",), 0.0, ("z",)),
        LinearCombination("y", (("y1", 1.0, 0.0), ("k", 0.0, -0.5), ("k1", 0.0, -0.5))),
    ),
    ("y", "z", "k"),
)
_ERROR = (("k1", 0.0, 0.5), ("k", 0.0, -0.5))
_PROGRAMS = Programs(_STEP, _INVERSE, dense=(line("y", "y1"),), start=_START, error=_ERROR)


@dataclass(frozen=True)
class ReversibleHeun(ProgramSolver):
    """The reversible Heun method of Kidger et al.

    Carries (y, z, k) with ``k = f(t, z)``, begun as (y0, y0, f(t0, y0)):
    ``z_new = 2 y - z + h k``, ``k_new = f(t + h, z_new)``, ``y_new = y + h/2 (k + k_new)``.

    For systems without damping, where memory is dear. Stiff or damped ones blow up: see the
    stability.

    Notes
    -----
    ============  =====================================================================
    order         2
    stages        1
    cost          1 call of ``f`` a step, and 1 before the first
    memory        carries 3 states: a checkpoint is three times y
    error         O(h**2), ``h/2 (k_new - k)``, the difference from Euler's step
    stability     the segment [-i, i] of the imaginary axis for h lambda; no point off it
    interpolant   order 1, the straight line; continuous: its error inside a step, O(h**2), is
                  of the order of the method's
    inverse       exact up to rounding, 1 call of ``f``
    ============  =====================================================================

    Due to [1]_ (Algorithms 1 and 2; the stability is in their Appendix D).

    References
    ----------
    .. [1] P. Kidger, J. Foster, X. Li, T. Lyons, "Efficient and accurate gradients for neural
       SDEs", NeurIPS (2021), arXiv:2105.13493.

    Examples
    --------
    >>> import math
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=rg.ReversibleHeun(), dt=0.01)
    >>> abs(float(sol.ys[-1, 0]) - math.exp(-1.0)) < 1e-4
    True
    """

    order: ClassVar[int] = 2
    error_order: ClassVar[int | None] = 2
    evaluations: ClassVar[int] = 1
    stages: ClassVar[int] = 1
    copies: ClassVar[int] = 3

    def programs(self) -> Programs:
        return _PROGRAMS
