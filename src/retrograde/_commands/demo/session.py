"""The demo itself: fit on the first library, check every other one against it, and print."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from ..._backend.registry import adapter
from ..._base import __version__
from ..._base.memory import format_bytes, parse_bytes, require
from ..._base.types import Array, Namespace
from ...measure import Measured, peak_gradient_bytes
from .. import terminal
from .fit import TOLERANCE, Compiled, Fit, Objective, fit
from .problem import OBSERVATIONS, SPAN, UNKNOWNS, guesses, lotka_volterra

ITERATIONS = 40
"""Joint iterations of all starts; the best one is then polished alone."""

PATIENCE = 3.0
"""Seconds that a library may take to repeat the fit; a slower one is only compared."""

AGREEMENT = 1e-6
"""Largest relative difference between two libraries' gradients that counts as agreement."""


@dataclass(frozen=True, kw_only=True)
class Options(terminal.Options):
    """The command line of the demo: a budget, and how many first guesses."""

    memory: str = "96KiB"
    starts: int = 64


class Library:
    """One array library at work on the demo; arrays go in and come out as NumPy's."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.bk = adapter(name)
        self.glue = importlib.import_module("retrograde_backends.commands.library")
        with self.glue.double_precision(name):
            field = lotka_volterra(self.glue.functions(name, self.bk.xp))
            self.objective = Objective(self.bk, options.memory, field=field)
        self._compiled: dict[tuple[int, ...], Compiled] = {}

    def gradient(self, x: Array) -> tuple[Array, Array]:
        """Sums of squares and their gradients."""
        here = self.bk.xp.asarray(x)
        if x.shape not in self._compiled:
            self._compiled[x.shape] = self.glue.compiled(self.name, self.objective, here)
        squares, g = self._compiled[x.shape](here)
        return self.glue.to_numpy(squares), self.glue.to_numpy(g)

    def peak(self, x: Array) -> Measured:
        """Measured bytes of one gradient of the solve, beyond the solve's own."""
        xp, objective = self.bk.xp, self.objective
        weights = xp.ones((*objective.data.logs.shape, x.shape[1]), dtype=xp.float64)
        return peak_gradient_bytes(
            lambda x, _: objective.curves(x), objective.pull, xp.asarray(x), weights
        )


@dataclass
class Report:
    """What one library did.

    Attributes
    ----------
    name : str
    seconds : float
        Compilation, gradients, and the fit if there was one.
    each : float
        Seconds of one gradient of all starts, compiled.
    peak : Measured
    gradients : tuple of array
        At the first guesses, and where the first library's joint fit ended.
    fit : Fit or None
        None: the library was only compared.
    """

    name: str
    seconds: float
    each: float
    peak: Measured
    gradients: tuple[Array, Array]
    fit: Fit | None


def run(options: Options, out: TextIO | None = None) -> int:
    """Run the demo and print it.

    Returns
    -------
    int
        0; 1 if a gradient took more than its budget or two libraries differ.
    """
    say = partial(print, sep="\n", file=out or sys.stdout, flush=True)
    budget = parse_bytes(options.memory)
    require("scipy.optimize", "demo")
    if options.plot is not None:
        require("matplotlib", "plot")
    np = adapter("numpy").xp
    x0 = guesses(np, options.starts)
    libraries, skipped = terminal.available(options.backends, lambda x: Library(x, options))
    reports: list[Report] = []
    joint: Fit | None = None
    for library in libraries.values():
        with library.glue.double_precision(library.name):
            if joint is None:
                plan = library.objective.plan(library.bk.xp.asarray(x0))
                say(*_title(options), plan, "")  # nothing is printed before it holds
            report, joint = _examined(library, np, x0, joint, options)
        if not reports and report.fit is not None:
            say(*_fitted(np, report.fit))
        reports.append(report)
    table, good = _table(np, reports, budget)
    say(*table, *(f"  {name:<7}skipped: {why}" for name, why in skipped.items()))
    if options.plot is not None and reports:
        plot = importlib.import_module("retrograde._commands.demo.plot")
        plot.draw(options.plot, np, reports[0].fit, x0, budget, options.memory)
        say("", f"  wrote {options.plot}")
    return 0 if good else 1


def _examined(
    library: Library, np: Namespace, x0: Array, joint: Fit | None, options: Options
) -> tuple[Report, Fit]:
    """What a library does, and where the first one's joint fit ended.

    The first one fits from all starts, then polishes the best one alone. Any other is compared at
    two points, and repeats the fit where that is a matter of seconds.
    """
    began = time.perf_counter()
    _, start = library.gradient(x0)
    result: Fit | None = None
    with terminal.progress_bar(options, lambda: (2 - bool(joint)) * ITERATIONS) as tick:
        again = partial(fit, library.gradient, np, iterations=ITERATIONS)
        progress = partial(tick, f"fit on {library.name}")
        if joint is None:
            joint = again(x0, progress=progress)
            alone = again(joint.x[:, [joint.best]], progress=progress)
            result = joint.polished(alone)
            seconds = time.perf_counter() - began
            end, each = _timed(library, joint.x)
        else:
            end, each = _timed(library, joint.x)
            if each * joint.evaluations < PATIENCE:
                result = again(x0, progress=progress)
            seconds = time.perf_counter() - began
    peak = library.peak(x0)
    return Report(library.name, seconds, each, peak, (start, end), result), joint


def _timed(library: Library, x: Array) -> tuple[Array, float]:
    """A gradient, and the seconds that it took."""
    began = time.perf_counter()
    _, g = library.gradient(x)
    return g, time.perf_counter() - began


# --- what is printed
def _title(options: Options) -> list[str]:
    return [
        f"retrograde {__version__}: Lotka-Volterra fitted to the Hudson's Bay lynx and hare",
        f"{options.starts} first guesses in one batched solve of {SPAN:g} years, float64, Tsit5, "
        f"tolerance {TOLERANCE:g};",
        f"gradients of all {6 * options.starts} unknowns within {options.memory}.",
        "",
    ]


def _fitted(np: Namespace, best: Fit) -> Iterator[str]:
    """The fitted values and how well they fit."""
    squares, count = best.squares[best.best], best.squares.size
    rms = float(np.sqrt(squares / OBSERVATIONS))
    near = int((best.squares < 1.1 * squares).sum())
    yield "Fit: least squares of log counts, 21 years of hare and lynx"
    for unknown, value in zip(UNKNOWNS, np.exp(best.x[:, best.best]), strict=True):
        yield f"  {unknown.name:<11} {value:9.5f}  {unknown.unit:<15}{unknown.meaning}"
    yield f"  rms of log residuals {rms:.5f}: counts are off by {100 * rms:.0f} % or so"
    yield f"  {near} of {count} starts ended within 10 % of the least sum of squares"
    yield ""


def _table(np: Namespace, reports: Sequence[Report], budget: int) -> tuple[list[str], bool]:
    """One row for each library, and whether all kept budget and agreement."""
    rows = [
        ("library", "seconds", "iterations", "one gradient", "its peak", "of the budget", "differs")
    ]
    good = True
    for report in reports:
        pairs = zip(report.gradients, reports[0].gradients, strict=True)
        apart = max(0.0 if a is b else _difference(np, a, b) for a, b in pairs)
        within = report.peak.bytes <= budget
        good = good and within and apart <= AGREEMENT
        differs = f"{apart:.0e}" + ("" if apart <= AGREEMENT else " TOO FAR")
        rows.append((
            report.name,
            f"{report.seconds:.1f}",
            "compared" if report.fit is None else str(report.fit.iterations),
            f"{1000 * report.each:.1f} ms",
            format_bytes(max(0, report.peak.bytes)),
            f"{100 * report.peak.bytes / budget:.0f} %" + ("" if within else " EXCEEDED"),
            "-" if report is reports[0] else differs,
        ))  # fmt: skip
    lines = [f"Gradients, measured against a budget of {format_bytes(budget)}"]
    lines += ["  ".join(("", *cells)) for cells in terminal.padded(rows, left=1)]
    return [*lines, *(f"  {x.name:<7}bytes by {x.peak.source}" for x in reports)], good


def _difference(np: Namespace, g: Array, reference: Array) -> float:
    """Largest difference, relative to the largest component."""
    return float(np.max(np.abs(g - reference)) / np.max(np.abs(reference)))
