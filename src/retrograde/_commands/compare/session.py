"""The command itself: which libraries and problems, progress, exit code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import pathlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from ..._base.errors import InputError
from ..._base.memory import require
from .. import terminal
from .measure import Effort, Reference, measure, reference
from .problem import Problem, lotka_volterra, toy
from .rows import PACKAGES, Row, bench, ours
from .table import AGREEMENT, as_json, footnotes, heading, render

FULL, QUICK = Effort(15, 0.02, 2.0), Effort(11, 0.005, 0.3)


@dataclass(frozen=True, kw_only=True)
class Options(terminal.Options):
    """The command line of ``compare``.

    Attributes
    ----------
    problems : tuple of Problem
    quick : bool
        A few short rounds of timing.
    json : str or None
        File to write the figures into; ``"-"`` is standard output, in place of the table.
    """

    problems: tuple[Problem, ...] = (toy(), lotka_volterra())
    quick: bool = False
    json: str | None = None


def run(options: Options, out: TextIO | None = None) -> int:
    """Measure, and print the table.

    Returns
    -------
    int
        0; 1 if a method of ours failed by a fault, or one that is exact missed the exact
        gradient by more than 1e-10.
    """
    write = partial(print, sep="\n", file=out or sys.stdout, flush=True)
    say: Callable[..., None] = write if options.json != "-" else lambda *_: None
    _check(options)
    effort = QUICK if options.quick else FULL
    found: list[tuple[Problem, Reference, list[Row]]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of the peers
        devices, absent = _libraries(options, stack)
        say(heading(effort, devices))
        for problem in options.problems:
            wanted = reference(problem)

            def count(problem: Problem = problem) -> int:
                peers = sum(len(bench(x, problem).peers()) for x in devices)
                return len(devices) * len(list(ours(problem))) + peers + effort.rounds

            with terminal.progress_bar(options, count) as tick:
                rows = measure(problem, tuple(devices), wanted, effort, tick)
            found.append((problem, wanted, rows))
            say("", *render(problem, wanted, rows))
    say("", *footnotes(tuple(devices), absent))
    if options.json is not None:
        figures = as_json(found, devices, absent, quick=options.quick)
        text = json.dumps(figures, indent=1, allow_nan=False)
        if options.json == "-":
            write(text)
        else:
            pathlib.Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.plot is not None:
        importlib.import_module("retrograde._commands.compare.plot").draw(options.plot, found)
    files = [path for path in (options.json, options.plot) if path is not None]
    if files:
        say("", f"wrote {' and '.join(files)}")
    return 0 if all(_good(row) for *_, rows in found for row in rows) else 1


def _check(options: Options) -> None:
    """What would else fail after minutes: a folder that is not there, no matplotlib."""
    for name, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None and not pathlib.Path(path).absolute().parent.is_dir():
            raise InputError(f"{name} is {path!r}, but its folder is not there; make it first.")
    if options.plot is not None:
        require("matplotlib", "plot")


def _good(row: Row) -> bool:
    return not row.fault and (not row.exact or row.error is None or row.error <= AGREEMENT)


def _libraries(
    options: Options, stack: contextlib.ExitStack
) -> tuple[dict[str, str], dict[str, str]]:
    """Devices of the libraries here, in double precision; what is absent, and why."""
    glue = importlib.import_module("retrograde_backends.commands.library")

    def device(name: str) -> str:
        stack.enter_context(glue.double_precision(name))
        return bench(name, options.problems[0]).device

    here, absent = terminal.available(options.backends, device)
    for package in (package for name in here for package in PACKAGES.get(name, ())):
        if importlib.util.find_spec(package) is None:
            absent[package] = f"pip install {package}"
    if not here:
        whys = "; ".join(f"{name} {why}" for name, why in absent.items())
        raise InputError(f"no library that was asked for can be used: {whys}")
    return here, absent
