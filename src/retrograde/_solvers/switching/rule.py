"""When to switch: the loop's tries, with the choice of method kept in the controller's memory.

The rule is OrdinaryDiffEq.jl's (AutoSwitch; Rackauckas & Nie 2019, arXiv:1807.06430), with its
constants but for 0.6 in place of 0.9: steps of an explicit method that is held by its stability
hover where the fast part's error is the tolerance, the lower the tighter that is (Robertson at
1e-10: half of them between 0.6 and 0.76 of the stable interval). A verdict after each accepted
step, whether h rho is beyond the explicit method's stability; so many verdicts in a row against the
method in use, and the other takes over. Only the loop decides. What it decided stands
in the record beside the accepted times, and replays read it there (``GivenGrid.stiff``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..._base.types import Chosen, Scalar, State

if TYPE_CHECKING:
    from ..._backend.protocols import Clock

LIMIT = 0.6
"""Of the stable interval: beyond it a step is hard for the explicit method."""
HARD, EASY = 10, 3
"""Verdicts in a row, to leave the explicit method and to come back to it."""
FACTOR = 2.0
"""The step grows by so much where the stiff method takes over, and shrinks where it leaves."""


def memory(clock: Clock) -> tuple[Scalar, Scalar]:
    """What the rule remembers before the first step: the method (1: the stiff one), and how many
    verdicts in a row were against it."""
    return clock.real(0.0), clock.real(0.0)


def switching(
    clock: Clock, attempt: Callable[..., Any], chosen: Chosen, reach: float
) -> Callable[..., Any]:
    """Tries (``try_step``) of the method that the memory tells, and the rule after each.

    ``reach``: how far h rho may go in a stable step of the explicit method.
    """
    where, limit = clock.where, LIMIT * reach

    def attempted(
        t: Scalar, h: Scalar, remembered: tuple[Scalar, ...], y: State, state: Any
    ) -> tuple[Any, ...]:
        *inner, stiff, count = remembered
        chosen.stiff = stiff > 0.5
        ok, t_new, size, y1, e2, new, inner, *rest = attempt(t, h, tuple(inner), y, state)
        hard = where(abs(size) * chosen.rate > limit, 1.0, 0.0)
        against = where(hard != stiff, count + 1.0, 0.0 * count)
        enough = where(chosen.stiff, float(EASY), float(HARD))
        turn = clock.both(ok, against >= enough)
        other = where(turn, 1.0 - stiff, stiff)
        factor = where(turn, where(chosen.stiff, 1.0 / FACTOR, FACTOR), 1.0)
        against = where(turn, 0.0 * count, against)
        kept = clock.select(ok, (other, against), (stiff, count))
        return ok, t_new, size, y1, e2, clock.constant(new * factor), (*inner, *kept), *rest

    return attempted
