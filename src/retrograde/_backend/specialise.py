"""The one door to fast forms of a step and its vjp.

An adapter's ``specialise(solver, problem, request)`` offers a pair that serves its library better
than the solver's own over ``Stages`` and ``StageCotangents``, or None. With the environment
``RETROGRADE_GENERIC=1`` nobody is asked, states are tuples of leaves, and nothing is compiled that
is a faster form alone: results are then the same but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .._solvers.base import AbstractStepper
    from .protocols import AbstractStepVJP

_GENERIC = os.environ.get("RETROGRADE_GENERIC", "") not in ("", "0")


def generic() -> bool:
    """Whether generic forms alone are asked for; the environment is read once, at import."""
    return _GENERIC


@dataclass(frozen=True)
class StepRequest:
    """What is needed of a solver's steps.

    Attributes
    ----------
    error : bool
        Steps can be rejected.
    outputs, dense : bool
        Rows of output at the ends of steps or between them; between them.
    gradient : bool
        Vjps of steps; else steps forward.
    time : bool
        Cotangents of times.
    one_tape : bool
        What the vjp of f holds is held for one stage at a time.
    stored : bool
        Every state is stored: no step is replayed.
    compile : bool
        The user's ``compile=True``.
    """

    error: bool = False
    outputs: bool = False
    dense: bool = False
    gradient: bool = False
    time: bool = False
    one_tape: bool = False
    stored: bool = False
    compile: bool = False


class Steps(NamedTuple):
    """How steps are made, and their vjps: by the solver, or by an adapter's form of it.

    Attributes
    ----------
    stepper : callable
        As ``AbstractSolver.stepper``.
    step_vjp : callable
        As ``AbstractSolver.step_vjp``.
    """

    stepper: Callable[..., AbstractStepper]
    step_vjp: Callable[..., AbstractStepVJP]
