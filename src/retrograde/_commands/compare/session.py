"""The command itself: which libraries and problems, progress, exit code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from ..._base.errors import InputError
from ..demo.fit import require
from ..info import INSTALL, missing
from .measure import Effort, Reference, measure, reference
from .problem import Problem, lotka_volterra, toy
from .rows import PACKAGES, Row, bench, ours
from .table import AGREEMENT, as_json, footnotes, heading, render

__all__ = ["Options", "run"]

FULL, QUICK = Effort(15, 0.02, 2.0), Effort(11, 0.005, 0.3)


@dataclass(frozen=True)
class Options:
    """The command line of ``compare``.

    Attributes
    ----------
    backends : tuple of str
    problems : tuple of Problem
    quick : bool
        A few short rounds of timing.
    json : str or None
        File to write the figures into; ``"-"`` is standard output, in place of the table.
    plot : str or None
        File to draw into.
    quiet : bool
        No progress bar.
    progress : bool
        A progress bar even where standard error is no terminal.
    """

    backends: tuple[str, ...] = tuple(INSTALL)
    problems: tuple[Problem, ...] = (toy(), lotka_volterra())
    quick: bool = False
    json: str | None = None
    plot: str | None = None
    quiet: bool = False
    progress: bool = False


def run(options: Options, out: TextIO | None = None) -> int:
    """Measure, and print the table.

    Returns
    -------
    int
        0; 1 if a method of ours failed by a fault, or one that is exact missed the exact
        gradient by more than 1e-10.
    """
    out = out or sys.stdout
    _check(options)
    effort, silent = QUICK if options.quick else FULL, options.json == "-"
    found: list[tuple[Problem, Reference, list[Row]]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of the peers
        devices, absent = _libraries(options, stack)
        if not silent:
            print(heading(effort, devices), file=out, flush=True)
        for problem in options.problems:
            wanted = reference(problem)
            with _bar(options, problem, devices, effort) as tick:
                rows = measure(problem, tuple(devices), wanted, effort, tick)
            found.append((problem, wanted, rows))
            if not silent:
                print("", *render(problem, wanted, rows), sep="\n", file=out, flush=True)
    if not silent:
        print("", *footnotes(tuple(devices), absent), sep="\n", file=out)
    _write(options, found, (devices, absent), out)
    return 0 if all(map(_good, (row for *_, rows in found for row in rows))) else 1


def _check(options: Options) -> None:
    """What would else fail after minutes.

    Raises
    ------
    InputError
        For a file in a folder that is not there.
    MissingExtra
        Without matplotlib, for a picture.
    """
    for name, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None and not pathlib.Path(path).absolute().parent.is_dir():
            raise InputError(f"{name} is {path!r}, but its folder is not there; make it first.")
    if options.plot is not None:
        require("matplotlib", "plot")


def _write(
    options: Options,
    found: list[tuple[Problem, Reference, list[Row]]],
    libraries: tuple[dict[str, str], dict[str, str]],
    out: TextIO,
) -> None:
    """The figures as JSON, and as a picture."""
    written = []
    if options.json is not None:
        text = json.dumps(
            as_json(found, *libraries, quick=options.quick), indent=1, allow_nan=False
        )
        if options.json == "-":
            print(text, file=out)
        else:
            with open(options.json, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            written.append(options.json)
    if options.plot is not None:
        plot = importlib.import_module("retrograde._commands.compare.plot")
        plot.draw(options.plot, found)
        written.append(options.plot)
    if written and options.json != "-":
        print("", f"wrote {' and '.join(written)}", sep="\n", file=out)


def _good(row: Row) -> bool:
    if row.fault:
        return False
    return not row.exact or row.error is None or row.error <= AGREEMENT


def _libraries(
    options: Options, stack: contextlib.ExitStack
) -> tuple[dict[str, str], dict[str, str]]:
    """Devices of the libraries here, in double precision; what is absent, and why."""
    glue = importlib.import_module("retrograde_backends.commands.library")
    here: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name in options.backends:
        why = missing(name)
        if why is None:
            try:
                stack.enter_context(glue.double_precision(name))
                here[name] = bench(name, options.problems[0]).device
            except Exception as error:  # a broken library, or one without its device
                why = f"can't be used: {' '.join(str(error).split()) or type(error).__name__}"
        if why is not None:
            absent[name] = why
            continue
        for package in PACKAGES.get(name, ()):
            if importlib.util.find_spec(package) is None:
                absent[package] = f"pip install {package}"
    if not here:
        whys = "; ".join(f"{name} {why}" for name, why in absent.items())
        raise InputError(f"no library that was asked for can be used: {whys}")
    return here, absent


@contextlib.contextmanager
def _bar(
    options: Options, problem: Problem, libraries: Iterable[str], effort: Effort
) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error, where somebody looks at it."""
    wanted = not options.quiet and (options.progress or sys.stderr.isatty())
    if not wanted:
        yield lambda _: None
        return
    tqdm = require("tqdm", "demo").tqdm
    count = sum(len(list(ours(problem))) + len(bench(x, problem).peers()) for x in libraries)
    with tqdm(total=count + effort.rounds, file=sys.stderr, leave=False) as bar:

        def tick(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()

        yield tick
