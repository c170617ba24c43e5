"""The demo itself: fit on the first library, check every other one against it, and print."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from ..._backend.registry import adapter
from ..._base import __version__
from ..._base.units import format_bytes, parse_bytes
from ...measure import peak_gradient_bytes
from ..info import missing
from .fit import TOLERANCE, Fit, Objective, fit, require
from .problem import SPAN, UNKNOWNS, guesses, lotka_volterra

__all__ = ["Options", "Report", "run"]

ITERATIONS = 40
"""Joint iterations of all starts; the best one is then polished alone."""

PATIENCE = 3.0
"""Seconds that a library may take to repeat the fit; a slower one is only compared."""

AGREEMENT = 1e-6
"""Largest relative difference between two libraries' gradients that counts as agreement."""


@dataclass(frozen=True)
class Options:
    """The command line of the demo.

    Attributes
    ----------
    memory : str
    backends : tuple of str
    starts : int
    plot : str or None
        File to draw into.
    quiet : bool
        No progress bar.
    progress : bool
        A progress bar even where standard error is no terminal.
    """

    memory: str = "96KiB"
    backends: tuple[str, ...] = ("numpy", "jax", "torch", "cupy")
    starts: int = 64
    plot: str | None = None
    quiet: bool = False
    progress: bool = False


class Library:
    """One array library at work on the demo; arrays go in and come out as NumPy's.

    Parameters
    ----------
    name : str
    options : Options
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.bk = adapter(name)
        self.glue = importlib.import_module("retrograde_backends.commands.library")
        with self.glue.double_precision(name):
            field = lotka_volterra(self.glue.functions(name, self.bk.xp))
            self.objective = Objective(self.bk, options.memory, field=field)
        self._compiled: dict[tuple[int, ...], Any] = {}

    def gradient(self, x: Any) -> tuple[Any, Any]:
        """Sums of squares and their gradients."""
        here = self.bk.xp.asarray(x)
        if x.shape not in self._compiled:
            self._compiled[x.shape] = self.glue.compiled(self.name, self.objective, here)
        squares, g = self._compiled[x.shape](here)
        return self.glue.to_numpy(squares), self.glue.to_numpy(g)

    def peak(self, x: Any) -> Any:
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
    start, end : (squares, gradients)
        At the first guesses, and where the first library's joint fit ended.
    fit : Fit or None
        None: the library was only compared.
    """

    name: str
    seconds: float
    each: float
    peak: Any
    start: Any
    end: Any
    fit: Fit | None


def run(options: Options, out: TextIO | None = None) -> int:
    """Run the demo and print it.

    Returns
    -------
    int
        0; 1 if a gradient took more than its budget or two libraries differ.
    """
    out = out or sys.stdout
    budget = parse_bytes(options.memory)
    require("scipy.optimize", "demo")
    if options.plot is not None:
        require("matplotlib", "plot")
    np = adapter("numpy").xp
    x0 = guesses(np, options.starts)
    libraries, skipped = _libraries(options)
    reports: list[Report] = []
    joint: Fit | None = None
    best: Fit | None = None
    for library in libraries:
        with library.glue.double_precision(library.name):
            if joint is None:
                plan = _plan(library, x0, options)  # nothing is printed before it holds
                _say(out, *_title(options), *plan)
                joint, best, report = _first(library, np, x0, options)
                _say(out, *_fitted(np, best))
            else:
                report = _other(library, np, x0, joint, options)
            reports.append(report)
    table, good = _table(np, reports, budget)
    _say(out, *table, *(f"  {name:<7}skipped: {why}" for name, why in skipped))
    if options.plot is not None and best is not None:
        plot = importlib.import_module("retrograde._commands.demo.plot")
        plot.draw(options.plot, np, best, x0, budget, options.memory)
        _say(out, "", f"  wrote {options.plot}")
    return 0 if good else 1


def _libraries(options: Options) -> tuple[list[Library], list[tuple[str, str]]]:
    """The libraries that are there, and why the others are not."""
    found, skipped = [], []
    for name in options.backends:
        why = missing(name)
        if why is None:
            try:
                found.append(Library(name, options))
            except (ImportError, RuntimeError) as error:
                why = " ".join(str(error).split())
        if why is not None:
            skipped.append((name, why))
    return found, skipped


def _first(library: Library, np: Any, x0: Any, options: Options) -> tuple[Fit, Fit, Report]:
    """Fit from all starts, then polish the best one alone."""
    began = time.perf_counter()
    start = library.gradient(x0)
    with _bar(options, library.name, 2 * ITERATIONS) as tick:
        joint = fit(library.gradient, np, x0, ITERATIONS, tick)
        alone = fit(library.gradient, np, joint.x[:, [joint.best]], ITERATIONS, tick)
    seconds = time.perf_counter() - began
    end, each = _timed(library, joint.x)
    best = joint.polished(alone)
    return joint, best, Report(library.name, seconds, each, library.peak(x0), start, end, best)


def _other(library: Library, np: Any, x0: Any, joint: Fit, options: Options) -> Report:
    """Compare at two points, and repeat the fit where that is a matter of seconds."""
    began = time.perf_counter()
    start = library.gradient(x0)
    end, each = _timed(library, joint.x)
    again = None
    if each * joint.evaluations < PATIENCE:
        with _bar(options, library.name, ITERATIONS) as tick:
            again = fit(library.gradient, np, x0, ITERATIONS, tick)
    seconds = time.perf_counter() - began
    return Report(library.name, seconds, each, library.peak(x0), start, end, again)


def _timed(library: Library, x: Any) -> tuple[Any, float]:
    """A gradient, and the seconds that it took."""
    began = time.perf_counter()
    result = library.gradient(x)
    return result, time.perf_counter() - began


@contextlib.contextmanager
def _bar(options: Options, name: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, where somebody looks at it."""
    wanted = not options.quiet and (options.progress or sys.stderr.isatty())
    if not wanted:
        yield lambda: None
        return
    tqdm = require("tqdm", "demo").tqdm
    with tqdm(total=total, desc=f"fit on {name}", file=sys.stderr, leave=False) as bar:
        yield lambda: bar.update()


# --- what is printed
def _say(out: TextIO, *lines: str) -> None:
    print(*lines, sep="\n", file=out, flush=True)


def _title(options: Options) -> list[str]:
    return [
        f"retrograde {__version__}: Lotka-Volterra fitted to the Hudson's Bay lynx and hare",
        f"{options.starts} first guesses in one batched solve of {SPAN:g} years, float64, Tsit5, "
        f"tolerance {TOLERANCE:g};",
        f"gradients of all {6 * options.starts} unknowns within {options.memory}.",
        "",
    ]


def _plan(library: Library, x0: Any, options: Options) -> list[str]:
    return [str(library.objective.plan(library.bk.xp.asarray(x0))), ""]


def _fitted(np: Any, best: Fit) -> list[str]:
    """The fitted values and how well they fit."""
    values = np.exp(best.x[:, best.best])
    squares, count = best.squares[best.best], best.squares.size
    rms = float(np.sqrt(squares / OBSERVATIONS))
    near = int((best.squares < 1.1 * squares).sum())
    lines = ["Fit: least squares of log counts, 21 years of hare and lynx"]
    for unknown, value in zip(UNKNOWNS, values, strict=True):
        lines.append(f"  {unknown.name:<11} {value:9.5f}  {unknown.unit:<15}{unknown.meaning}")
    lines.append(f"  rms of log residuals {rms:.5f}: counts are off by {100 * rms:.0f} % or so")
    lines.append(f"  {near} of {count} starts ended within 10 % of the least sum of squares")
    return [*lines, ""]


OBSERVATIONS = 42


def _table(np: Any, reports: Sequence[Report], budget: int) -> tuple[list[str], bool]:
    """One row for each library, and whether all kept budget and agreement."""
    first = reports[0] if reports else None
    rows = [
        ("library", "seconds", "iterations", "one gradient", "its peak", "of the budget", "differs")
    ]
    good = True
    for report in reports:
        apart = 0.0
        if report is not first and first is not None:
            apart = max(
                _difference(np, getattr(report, at)[1], getattr(first, at)[1])
                for at in ("start", "end")
            )
        within = report.peak.bytes <= budget
        good = good and within and apart <= AGREEMENT
        rows.append((
            report.name,
            f"{report.seconds:.1f}",
            "compared" if report.fit is None else str(report.fit.iterations),
            f"{1000 * report.each:.1f} ms",
            format_bytes(max(0, report.peak.bytes)),
            f"{100 * report.peak.bytes / budget:.0f} %" + ("" if within else " EXCEEDED"),
            "-" if report is first else f"{apart:.0e}" + ("" if apart <= AGREEMENT else " TOO FAR"),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["Gradients, measured against a budget of " + format_bytes(budget)]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  " + "  ".join(cells))
    lines += [f"  {report.name:<7}bytes by {report.peak.source}" for report in reports]
    return lines, good


def _difference(np: Any, g: Any, reference: Any) -> float:
    """Largest difference, relative to the largest component."""
    return float(np.max(np.abs(g - reference)) / np.max(np.abs(reference)))
