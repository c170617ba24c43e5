"""What a row of the report is made of: entrants that are timed in turn, and exact facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._backends import Run, library
from ._peers import peer
from ._problem import Problem

__all__ = [
    "EQUAL_ERROR",
    "Case",
    "Entrant",
    "Fact",
    "Rival",
    "Skipped",
    "ours_forward",
    "ours_gradient",
    "per",
    "their_forward",
    "their_gradient",
    "tighter",
]


EQUAL_ERROR = 0.9
"""Of the tolerances, ours in JAX on Lotka-Volterra: at equal ones our controller rejects half as
many tries and errs by a third more than diffrax with the same coefficients; what is timed is equal
error."""


@dataclass(frozen=True)
class Entrant:
    """One side of a timed row.

    Attributes
    ----------
    run : callable
    error : callable
        Relative error of what run returns.
    part : callable
        What is compared, from the seconds of a run: the time itself, or a part of it.
    repeats : int or None
        Runs in a round; None fills a slice of time.
    """

    run: Run
    error: Callable[[Any], float]
    part: Callable[[float], float] = lambda seconds: seconds
    repeats: int | None = None


@dataclass(frozen=True)
class Rival:
    """A peer in a row: its row's id, its name, the least ratio, and how to make it.

    ``most`` is a ratio's upper bound, where a row has one.
    """

    row: str
    name: str
    target: float
    make: Callable[[], Entrant]
    most: float = float("inf")


@dataclass(frozen=True)
class Case:
    """Some work, how we do it, and who else does.

    ``quick`` cases are short enough for a smoke test; ``rounds`` limits those that are dear.
    """

    work: str
    ours: Callable[[], Entrant]
    rivals: tuple[Rival, ...]
    quick: bool = False
    rounds: int | None = None


@dataclass(frozen=True)
class Fact:
    """Something exact: bytes, counts, accuracy.

    Attributes
    ----------
    row, work, unit : str
    limit : float
        The most that may be: of the peer's where there is one, else of the unit.
    measure : callable
        Gives ours, or ours and the peer's.
    peer : str
    known : float or None
        What a row that misses its limit reaches today: beyond it is a regression.
    why : str
        Of a known miss.
    """

    row: str
    work: str
    unit: str
    limit: float
    measure: Callable[[], float | tuple[float, float]]
    peer: str = ""
    known: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Skipped:
    """A row that can't be run, and why."""

    row: str
    work: str
    reason: str


def per(count: float) -> Callable[[float], float]:
    """The part of a run's time that one of so many equal parts takes."""
    return lambda seconds: seconds / count


def tighter(problem: Problem, factor: float) -> Problem:
    """The problem at so much of its tolerances."""
    return dataclasses.replace(problem, rtol=factor * problem.rtol, atol=factor * problem.atol)


def ours_forward(
    backend: str, problem: Problem, *, tolerance: float = 1.0, **keywords: Any
) -> Entrant:
    """Our solve, at so much of the tolerances."""
    lib = library(backend)
    run = lib.forward(tighter(problem, tolerance), **keywords)
    return Entrant(run, lambda y: problem.error(lib.to_numpy(y)))


def ours_gradient(
    backend: str, problem: Problem, *, tolerance: float = 1.0, **keywords: Any
) -> Entrant:
    """Our gradient, likewise."""
    lib = library(backend)
    run = lib.gradient(tighter(problem, tolerance), **keywords)
    return Entrant(run, lambda g: problem.gradient_error([lib.to_numpy(x) for x in g]))


def their_forward(kind: type[Any], problem: Problem) -> Entrant:
    """A peer's solve."""
    other = peer(kind)
    return Entrant(other.forward(problem), lambda y: problem.error(other.lib.to_numpy(y)))


def their_gradient(kind: type[Any], problem: Problem, **keywords: Any) -> Entrant:
    """A peer's gradient."""
    other = peer(kind)
    run = other.gradient(problem, **keywords)
    return Entrant(run, lambda g: problem.gradient_error([other.lib.to_numpy(x) for x in g]))
