"""One problem on every library: bytes and errors of each method, then all timed in turn.

Seconds are of the wall clock: medians over rounds in which every method of the problem takes its
turn, so that a busy machine slows all alike. What is timed has run before.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..._api.solve import plan, solve
from ..._backend.registry import adapter
from ..._base.errors import InputError, PlanInfeasible, UnsupportedByBackend
from ..._base.types import Function, Tree
from ..._integrate.saveat import SaveAt
from ...measure import peak_gradient_bytes
from .problem import Problem, relative_error
from .rows import Bench, Entrant, Row, bench, ours

__all__ = ["Effort", "Reference", "examine", "measure", "reference"]

NOT_FOR_THIS = (InputError, PlanInfeasible, UnsupportedByBackend)
"""Errors by which a method of ours says that it is not made for a problem, library or budget."""

Call = Callable[[], object]

WARM = 0.05
"""A first call of fewer seconds tells little of the next one."""


class Effort(NamedTuple):
    """How long is timed: rounds, seconds of a turn, seconds in all of one method."""

    rounds: int
    turn: float
    patience: float


class Reference(NamedTuple):
    """Gradients that errors are taken to: of our steps, and of the true ODE; steps accepted."""

    steps: Sequence[float]
    true: Sequence[float]
    accepted: int


def reference(problem: Problem) -> Reference:
    """The gradients of a problem that no adjoint had a part in."""
    if problem.steps is not None:
        times = problem.grid(problem.steps)
    else:  # every library takes these steps, up to rounding
        xp = adapter("numpy").xp
        y0, *args = (xp.asarray(x) for x in problem.leaves)
        saveat = SaveAt(t0=True, steps=True)
        call = (problem.field(xp), y0, 0.0, problem.t1, *args)
        times = [float(t) for t in solve(*call, saveat=saveat, **problem.settings).ts]
    return Reference(problem.gradient(times), problem.true_gradient(), len(times) - 1)


def measure(
    problem: Problem,
    libraries: Sequence[str],
    wanted: Reference,
    effort: Effort,
    tick: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Rows of a problem, libraries in the order given.

    Parameters
    ----------
    problem : Problem
    libraries : sequence of str
        Installed ones.
    wanted : Reference
    effort : Effort
    tick : callable
        Told what is done next: each method, then each round of timing.
    """
    rows, ready = examine(problem, libraries, wanted, tick)
    calls: dict[Function, tuple[Call, float]] = {}
    for _, entrant, seconds in ready:
        if entrant.forward not in calls:  # methods may share it
            alone = _call(entrant, entrant.forward)
            alone()
            calls[entrant.forward] = alone, _seconds(alone, 1)
        calls[entrant.gradient] = _call(entrant, entrant.gradient), seconds
    medians = _timed(list(calls.values()), effort, lambda: tick(f"{problem.name}: timing"))
    found = dict(zip(calls, medians, strict=True))
    for row, entrant, _ in ready:
        row.forward_seconds, row.gradient_seconds = found[entrant.forward], found[entrant.gradient]
    return rows


def examine(
    problem: Problem,
    libraries: Sequence[str],
    wanted: Reference,
    tick: Callable[[str], None] = lambda _: None,
    only: Callable[[Row], bool] = lambda _: True,
) -> tuple[list[Row], list[tuple[Row, Entrant, float]]]:
    """Rows of a problem with all that is no time of a run: bytes and errors.

    ``only`` tells which rows are wanted. With those that did not fail come their entrants, and the
    seconds of one gradient.
    """
    rows: list[Row] = []
    ready: list[tuple[Row, Entrant, float]] = []
    for library in libraries:
        for row, make in _entries(problem, library):
            if not only(row):
                continue
            tick(f"{problem.name}: {library} {row.method}")
            rows.append(row)
            try:
                entrant = make()
                ready.append((row, entrant, _fill(row, entrant, problem, wanted)))
            except Exception as error:  # a method that fails must not hide the others
                row.failed = _reason(error, row)
                row.fault = row.package == "retrograde" and not isinstance(error, NOT_FOR_THIS)
    return rows, ready


def _entries(problem: Problem, library: str) -> Iterator[tuple[Row, Callable[[], Entrant]]]:
    """Rows without figures, ours first, and how to make what fills them."""
    here = bench(library, problem)
    for method, keywords in ours(problem):
        row = Row(library, "retrograde", method)
        yield row, partial(_ours, here, row, keywords)
    for package, method, make_peer in here.peers():
        yield Row(library, package, method), make_peer


def _ours(here: Bench, row: Row, keywords: dict[str, Tree]) -> Entrant:
    """A method of ours, and what its plan says of it."""
    chosen = plan(*here.call(*here.leaves), **{**here.problem.settings, **keywords})
    row.exact = chosen.adjoint.accuracy == "exact"
    row.chosen = next((c.method for c in chosen.candidates if c.verdict == "chosen"), None)
    return here.ours(keywords)


def _fill(row: Row, entrant: Entrant, problem: Problem, wanted: Reference) -> float:
    """Everything but the times of runs; returns the seconds of one gradient."""
    glue = importlib.import_module("retrograde_backends.commands.library")
    start = time.perf_counter()
    result = entrant.wait(entrant.gradient(*entrant.leaves))
    seconds = time.perf_counter() - start
    if seconds < WARM:  # that was mostly the first call's own business
        seconds = _seconds(_call(entrant, entrant.gradient), 1)
    leaves = [glue.to_numpy(x) for x in result]
    found = [float(x) for leaf in leaves for x in leaf]
    row.true_error = relative_error(found, wanted.true)
    if problem.steps is not None or row.package == "retrograde":  # peers choose other steps
        row.error = relative_error(found, wanted.steps)
    row.residual_bytes = entrant.residual_bytes()
    account = adapter(row.library)
    peak = peak_gradient_bytes(entrant.forward, entrant.gradient, *entrant.leaves, backend=account)
    row.peak_bytes = max(0, peak.bytes)
    row.compile_seconds = entrant.compile_seconds
    return seconds


def _reason(error: Exception, row: Row) -> str:
    """One line."""
    text = " ".join(str(error).split())
    ours = row.package == "retrograde" and isinstance(error, NOT_FOR_THIS)
    return text if ours and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _call(entrant: Entrant, fn: Function) -> Call:
    return lambda: entrant.wait(fn(*entrant.leaves))


def _timed(
    calls: Sequence[tuple[Call, float]], effort: Effort, tick: Callable[[], None]
) -> list[float]:
    """Median seconds of calls that have run, from (call, seconds of that run).

    Short calls are repeated in a turn, after one that only brings their data back into the
    caches; slow ones take part in fewer rounds.
    """
    repeats = [max(1, min(10_000, int(effort.turn / max(t, 1e-7)))) for _, t in calls]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(effort.rounds):
        tick()
        for (call, _), n, so_far in zip(calls, repeats, found, strict=True):
            if n * sum(so_far) < effort.patience:
                if n > 1:
                    call()
                so_far.append(_seconds(call, n))
    return [statistics.median(so_far) for so_far in found]


def _seconds(call: Call, n: int) -> float:
    """Mean seconds of n calls, the collector resting."""
    running = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(n):
            call()
        return (time.perf_counter() - start) / n
    finally:
        if running:
            gc.enable()
