"""What is printed: one table for each problem, notes on what was measured, and JSON."""

from __future__ import annotations

import math
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ..._base import __version__
from ..terminal import padded

if TYPE_CHECKING:
    from .measure import Effort, Reference
    from .problem import Problem
    from .rows import Row

AGREEMENT = 1e-10
"""Largest relative error of a method that is exact."""

WRONG = 1e-3
"""A gradient with a larger relative error than this is marked."""

WIDTH = 118

MACHINE = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"

RESIDUAL = {
    "numpy": "arrays that the pullback holds",
    "jax": "leaves of jax.vjp's closure",
    "torch": "tensors saved for backward",
}
PEAK = {
    "numpy": "tracemalloc, which sees Python objects too",
    "jax": "XLA's temporaries",
    "torch": "live storages",
}
"""Who counts bytes; NumPy's way is that of others, too."""


def heading(effort: Effort, devices: Mapping[str, str]) -> str:
    """The first lines."""
    where = ", ".join(f"{name} {_version(name)} on {device}" for name, device in devices.items())
    return (
        f"retrograde {__version__}: gradient methods on this machine ({MACHINE}), float64\n"
        f"{where}\n"
        f"times: wall clock, medians of up to {effort.rounds} interleaved rounds after warm-up"
    )


def render(problem: Problem, wanted: Reference, rows: Sequence[Row]) -> Iterator[str]:
    """Lines of one problem's table, with what the gradient is, and what errors are taken to."""
    by = "the initial state and args" if problem.args else "the initial state"
    numbers = ", ".join(f"{x:.6f}" for x in wanted.steps)
    yield f"{problem.name}: {problem.title}"
    yield f"  loss: sum of the final state; gradient by {by}"
    if problem.steps is not None:
        true = ", ".join(f"{x:.6f}" for x in wanted.true)
        yield f"  error: to the exact gradient of these {problem.steps} steps, ({numbers})"
        yield f"  (these steps are far from the true ODE, whose gradient is ({true}))"
    else:
        yield (
            f"  rtol {problem.rtol:g}, atol {problem.atol:g}, at most {problem.max_steps} tries; "
            f"ours accepts {wanted.accepted} steps"
        )
        yield (
            "  error, ODE: to the gradient of the true ODE (what the tolerance allows); error, "
            "steps: ours, to the exact"
        )
        yield "  gradient of the steps that were taken"
    yield from tabulated(problem, rows)


def tabulated(problem: Problem, rows: Sequence[Row], *, times: bool = True) -> Iterator[str]:
    """The table alone, with its columns of seconds or without."""
    columns = {k: v for k, v in _columns(problem).items() if times or not k.endswith("s]")}
    names = [[name.partition("|")[part] for name in columns] for part in (0, 2)]
    cells = padded([*names, *([text(row) for text in columns.values()] for row in rows)], left=2)
    yield from ("  ".join(("", *line)).rstrip() for line in cells[:2])
    library = None
    for row, parts in zip(rows, cells[2:], strict=True):
        if row.library != library:
            library = row.library
            yield library
        line = "  ".join(("", *parts)).rstrip()
        if row.failed:
            line = "  ".join(("", *parts[:2], row.failed))
            line = line if len(line) <= WIDTH else line[: WIDTH - 3].rstrip() + "..."
        yield line


def _columns(problem: Problem) -> dict[str, Callable[[Row], str]]:
    """Headings in two lines, and each row's text."""
    columns: dict[str, Callable[[Row], str]] = {
        "by": lambda r: r.package,
        "method": _method,
        "residual|[B]": lambda r: _number(r.residual_bytes, 1, 0),
        "peak|[B]": lambda r: _number(r.peak_bytes, 1, 0),
        "forward|[us]": lambda r: _number(r.forward_seconds, 1e6, 0),
        "gradient|[us]": lambda r: _number(r.gradient_seconds, 1e6, 0),
        "compile|[s]": lambda r: _number(r.compile_seconds, 1, 2),
    }
    if problem.steps is not None:
        return {**columns, "error": lambda r: _error(r.error)}
    errors = {
        "error,|ODE": lambda r: _error(r.true_error),
        "error,|steps": lambda r: _error(r.error),
    }
    return {**columns, **errors}


def _method(row: Row) -> str:
    """Its name, with what ``auto`` became."""
    if row.chosen is None or not row.method.startswith("auto"):
        return row.method
    short = row.chosen.removeprefix("RecursiveCheckpointAdjoint, ").replace("Adjoint", "")
    short = textwrap.shorten(short.removesuffix(" at a time"), 26, placeholder="")
    return f"{row.method}: {short.rstrip(',')}"


def _number(x: float | None, unit: float, digits: int) -> str:
    return "-" if x is None else f"{x * unit:,.{digits}f}"


def _error(error: float | None) -> str:
    if error is None:
        return "-  "
    return f"{error:.1e}" + (" !" if not error <= WRONG else "  ")


def footnotes(libraries: Sequence[str], absent: Mapping[str, str]) -> Iterator[str]:
    """How the columns were measured, and how to get what is absent."""
    residual, peak = (
        "; ".join(f"{x}: {sources.get(x, sources['numpy'])}" for x in libraries)
        for sources in (RESIDUAL, PEAK)
    )
    notes = [
        "residual: bytes of the distinct arrays kept from the solve to its pullback, inputs "
        f"where a method keeps them ({residual})",
        "peak: most bytes alive during a gradient, beyond those of the same method's solve alone "
        f"({peak})",
        "forward: the solve alone; gradient: the solve and its gradient; compile: tracing and "
        "compiling the gradient",
        f"!: a wrong gradient, with a relative error above {WRONG:g}",
    ]
    if absent:
        notes.append("left out: " + "; ".join(f"{name} ({why})" for name, why in absent.items()))
    for note in notes:
        yield from textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _version(package: str) -> str | None:
    found = getattr(sys.modules.get(package), "__version__", None)
    try:
        return version(package) if found is None else str(found)
    except PackageNotFoundError:
        return None


def as_json(
    found: Sequence[tuple[Problem, Reference, Sequence[Row]]],
    devices: Mapping[str, str],
    absent: Mapping[str, str],
    *,
    quick: bool,
) -> dict[str, object]:
    """The figures as plain containers; what is not finite is None."""
    packages = {name for *_, rows in found for row in rows for name in (row.library, row.package)}
    return {
        "retrograde": __version__,
        "machine": MACHINE,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in sorted(packages)},
        "devices": devices,
        "quick": quick,
        "absent": absent,
        "problems": [
            {
                "name": problem.name,
                "title": problem.title,
                "steps": wanted.accepted,
                "discrete_gradient": wanted.steps,
                "true_gradient": wanted.true,
                "rows": [{k: _finite(x) for k, x in asdict(row).items()} for row in rows],
            }
            for problem, wanted, rows in found
        ],
    }


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
