"""The equation of a stage, ``z = gamma h f(t, psi + z)``, solved to rounding.

Simplified Newton (Hairer & Wanner, *Solving ODEs II*, 2nd ed. 1996, Sec. IV.8): corrections by one
factorised matrix ``W = I / (gamma h) - J`` as long as they shrink fast, else by a new one, formed
where the iteration stands. A step begins with J at its own start, so that what it gives depends on
nothing else: a replay is the solve.

No tolerance of the solve enters. A stage is iterated until what is left is of the size of rounding,
so constant steps, replays and gradients (which hold for stages that are solved) are all of one
method. On five classical problems at rtol 1e-6 a stage takes 3 to 5 corrections so, each one
evaluation of f and one solve, and a step 1 to 1.7 matrices. What is left, 1e-13 of y, is where the
gradient may differ from that of the numbers that were computed; a solve that amplifies it tells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._base.types import Array, Bool, Carry, Field, Index, Scalar, Scale, State
from ..base import Calls

if TYPE_CHECKING:
    from ..._backend.protocols import Layout

SLOW = 0.1
"""Corrections that shrink less than so are worth a new matrix."""

STALLED = 0.5
"""Those that shrink less than so, and are small, are rounding."""

CORRECTIONS = 8
"""By one matrix."""

MATRICES = 5
"""Of one stage."""

FLOOR = 1e-8
"""Components are relative to their own size, or so much of the state's."""


UNKNOWN = 0.9
"""The rate of a first correction."""

LOST = 1e4
"""A correction of so many times the state's size: no Newton iteration comes back from there."""


def untrue(x: Bool) -> Bool:
    """Logical not, of a bool or a traced one."""
    return x == False  # noqa: E712


class Solved(NamedTuple):
    """A stage's increment.

    Attributes
    ----------
    z : state
        ``gamma h`` times the slope.
    factors : Factors
        The last matrix, for the stage behind.
    ok : bool or traced
    calls : Calls
    """

    z: State
    factors: Any
    ok: Bool
    calls: Calls


class StageEquations:
    """Solves the stages of one step after the other.

    Parameters
    ----------
    layout : Layout
    linear : linear algebra of the layout
    field : callable
        ``(t, y) -> leaves``, the part of f that is implicit.
    """

    def __init__(self, layout: Layout, linear: Any, field: Field) -> None:
        self.layout, self.linear, self.field = layout, linear, field
        self.clock = layout.bk.clock(layout)
        eps = self.clock.eps if self.clock.traced else float(layout.xp.finfo(layout.real_dtype).eps)
        self.small = 512 * eps
        """What is left of a stage is at most so much, relative."""
        self.noise = eps**0.5
        """Rounding may be so much where a problem amplifies it."""
        self.least = 2.0**-1022 if eps < 1e-10 else 2.0**-126

    def begin(self, y: State, c: Scalar, jacobian: Any) -> tuple[Any, Scale]:
        """Factors of W, and the sizes by which corrections of a step from y are judged."""
        mean = self.layout.bk.scalar(self.layout.squares(y)) / self.layout.size
        floor = FLOOR * self._root(mean) + self.least
        return self.linear.factor(self.linear.shifted(jacobian, c)), Scale(1.0, floor)

    def _root(self, x: Scalar) -> Scalar:
        return self.layout.xp.sqrt(x) if self.clock.traced else math.sqrt(x)

    def solve(
        self, t: Array, y: State, psi: State, guess: State, c: Scalar, scale: Scale, factors: Any
    ) -> Solved:
        """The increment z of the stage at t, from a guess; y is the step's start."""
        layout, linear, clock = self.layout, self.linear, self.clock
        both, either = clock.both, clock.either

        def again(s: Carry) -> Bool:
            _, _, ok, lost, _, matrices = s
            return both(untrue(either(ok, lost)), matrices < MATRICES)

        def renewed(s: Carry) -> Carry:
            z, _, _, _, calls, matrices = s
            jacobian = linear.jacobian(self.field, t, layout.add(psi, z))
            factors = linear.factor(linear.shifted(jacobian, c))
            return corrected(z, factors, calls, matrices + 1)

        def corrected(z: State, factors: Any, calls: Index, matrices: Index) -> Carry:
            def correct(s: Carry) -> Carry:
                z, before, k, _, _ = s
                value = layout.add(psi, z)
                slope = layout.own(self.field(t, value))
                step = linear.solve(factors, layout.axpy(slope, -c, z))
                size = clock.root(layout.error2(step, y, value, scale), 1.0)
                rate = clock.where(k > 0, size / before, UNKNOWN)
                left = size * rate / (1.0 - clock.minimum(rate, 0.9))
                settled = both(both(k > 0, rate > STALLED), size <= self.noise)
                ok = either(either(left <= self.small, size <= self.small), settled)
                # nan is neither ok nor going on
                going = both(both(untrue(ok), rate <= SLOW), k + 1 < CORRECTIONS)
                going = either(going, both(untrue(ok), both(k == 0, size < math.inf)))
                return layout.add(z, step), size, k + 1, ok, going

            yes = clock.real(0.0) == 0.0
            start = z, clock.real(1.0), clock.count(0), untrue(yes), yes
            z, size, k, ok, _ = layout.bk.while_loop(lambda s: s[4], correct, start)
            lost = untrue(size < LOST)
            return z, factors, ok, lost, calls + k, matrices

        zero = clock.count(0)
        z, factors, ok, _, calls, matrices = layout.bk.while_loop(
            again, renewed, corrected(guess, factors, zero, zero)
        )
        return Solved(z, factors, ok, Calls(calls, matrices, matrices))

    def followed(self, t: Array, psi: State, z: State, c: Scalar) -> State:
        """An increment that is known as a constant, with its derivatives up to the third.

        By two Newton steps, that autodiff follows: each doubles the orders that are right.
        """
        layout, linear = self.layout, self.linear
        for _ in range(2):
            value = layout.add(psi, z)
            factors = linear.factor(linear.shifted(linear.jacobian(self.field, t, value), c))
            slope = layout.own(self.field(t, value))
            z = layout.add(z, linear.solve(factors, layout.axpy(slope, -c, z)))
        return z
