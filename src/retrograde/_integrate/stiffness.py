"""Whether a problem is stiff, found out on the way of an explicit method that takes many steps.

An explicit method on a stiff problem is held by its stability: h |lambda| of the fastest eigenvalue
of df/dy stays near the end of its interval on the negative axis, however smooth y is. The
eigenvalue is found by the nonlinear power method, differences of f along their own direction
(Sommeijer, Shampine & Verwer 1998, doi:10.1016/S0377-0427(97)00219-7): no Jacobian, nine calls of
f, where an integration is looked at once in hundreds of tries.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from .._base.log import INFO, listener
from .._base.types import Field, State
from .._solvers import ExplicitRungeKutta
from .._solvers.runge_kutta.tableau import reach
from .solution import ADVICE

if TYPE_CHECKING:
    from .._backend.protocols import Layout
    from .integrator import Integrator

TRIES, TURNS, NEAR = 400, 8, 0.8
"""Tries from which on it is looked at; differences in a row; part of the stable interval that a
step is held at."""


class StiffnessHint:
    """Notes where an integration by an explicit method became stiff, in its problem's
    ``stiff_from``.

    Looks that say so must follow each other: the first of two is where it began.
    """

    def __init__(self, loop: Integrator, field: Field) -> None:
        self.loop, self.field = loop, field
        self.since: float | None = None

    @cached_property
    def reach(self) -> float:
        """How far h lambda may go; found where it is looked for, as in most solves it is not."""
        solver = self.loop.solver
        return reach(solver.tableau) if isinstance(solver, ExplicitRungeKutta) else math.inf

    def look(self, t: float, h: float, y: State, at: float) -> None:
        """The integration is at (t, y), a time ``at`` as the user counts it, with steps of h."""
        problem = self.loop.problem
        if problem.stiff_from is not None or self.reach == math.inf:
            return
        with self.loop.bk.quiet():
            rate = fastest(self.loop.layout, self.field, t, y, self.loop.clock.eps)
        problem.trials += TURNS + 1
        if not abs(h) * rate > NEAR * self.reach:
            self.since = None
        elif self.since is None:
            self.since = at
        else:
            problem.stiff_from = self.since
            if log := listener(INFO):
                log.info(ADVICE, self.since)

    def ended(self, t: float, h: float, y: State, at: float, tries: int) -> None:
        """The integration ended short of t1, after so many tries."""
        if tries >= TRIES // 4 and math.isfinite(h):
            self.look(t, h, y, at)
            self.loop.problem.stiff_from = self.since


def fastest(layout: Layout, field: Field, t: float, y: State, eps: float) -> float:
    """The modulus of the largest eigenvalue of df/dy at (t, y)."""
    time = layout.time(t)
    slope = layout.own(field(time, y))
    size = math.sqrt(eps) * max(_norm(layout, y), 1e-3)
    change, rate = slope, 0.0
    for _ in range(TURNS):
        length = _norm(layout, change)
        if not 0.0 < length < math.inf:
            return 0.0
        near = layout.axpy(y, size / length, change)
        change = layout.axpy(layout.own(field(time, near)), -1.0, slope)
        rate = _norm(layout, change) / size
    return rate if math.isfinite(rate) else 0.0


def _norm(layout: Layout, x: State) -> float:
    return math.sqrt(abs(float(layout.inner(x, x))))
