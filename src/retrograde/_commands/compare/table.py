"""What is printed: one table for each problem, notes on what was measured, and JSON."""

from __future__ import annotations

import math
import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..._base import __version__
from .measure import Effort, Reference
from .problem import Problem
from .rows import Row

__all__ = [
    "AGREEMENT",
    "WIDTH",
    "WRONG",
    "as_json",
    "footnotes",
    "heading",
    "judged",
    "render",
    "tabulated",
]

AGREEMENT = 1e-10
"""Largest relative error of a method that is exact."""

WRONG = 1e-3
"""A gradient with a larger relative error than this is marked."""

WIDTH = 118

Figures = Sequence[tuple[Problem, Reference, Sequence[Row]]]


def heading(effort: Effort, devices: dict[str, str]) -> str:
    """The first lines."""
    where = ", ".join(f"{name} {_version(name)} on {device}" for name, device in devices.items())
    return (
        f"retrograde {__version__}: gradient methods on this machine ({_machine()}), float64\n"
        f"{where}\n"
        f"times: wall clock, medians of up to {effort.rounds} interleaved rounds after warm-up"
    )


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def render(problem: Problem, wanted: Reference, rows: Sequence[Row]) -> Iterator[str]:
    """Lines of one problem's table, with what stands above it."""
    yield f"{problem.name}: {problem.title}"
    yield from _about(problem, wanted)
    yield from tabulated(problem, rows)


def tabulated(problem: Problem, rows: Sequence[Row], *, times: bool = True) -> Iterator[str]:
    """The table alone, with its columns of seconds or without."""
    columns = [x for x in _columns(problem) if times or not x[0].endswith("s]")]
    cells = [[cell(row) for _, cell in columns] for row in rows]
    names = [[name.partition("|")[part] for name, _ in columns] for part in (0, 2)]
    widths = [max(len(text) for text in column) for column in zip(*names, *cells, strict=True)]
    yield from ("  ".join(("", *_padded(line, widths))).rstrip() for line in names)
    library = None
    for row, parts in zip(rows, cells, strict=True):
        if row.library != library:
            library = row.library
            yield library
        if row.failed:
            yield _cut(f"{'  '.join(('', *_padded(parts[:2], widths)))}  {row.failed}")
        else:
            yield "  ".join(("", *_padded(parts, widths))).rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 3].rstrip() + "..."


def _about(problem: Problem, wanted: Reference) -> list[str]:
    """What the gradient is, and what errors are taken to."""
    by = "the initial state and args" if problem.args else "the initial state"
    lines = [f"  loss: sum of the final state; gradient by {by}"]
    numbers = ", ".join(f"{x:.6f}" for x in wanted.steps)
    if problem.steps is not None:
        true = ", ".join(f"{x:.6f}" for x in wanted.true)
        lines.append(f"  error: to the exact gradient of these {problem.steps} steps, ({numbers})")
        lines.append(f"  (these steps are far from the true ODE, whose gradient is ({true}))")
    else:
        lines.append(
            f"  rtol {problem.rtol:g}, atol {problem.atol:g}, at most {problem.max_steps} tries; "
            f"ours accepts {wanted.accepted} steps"
        )
        lines.append(
            "  error, ODE: to the gradient of the true ODE (what the tolerance allows); error, "
            "steps: ours, to the exact"
        )
        lines.append("  gradient of the steps that were taken")
    return lines


def _columns(problem: Problem) -> list[tuple[str, Any]]:
    """Headings in two lines, and each row's text."""
    columns: list[tuple[str, Any]] = [
        ("by", lambda r: r.package),
        ("method", _method),
        ("residual|[B]", lambda r: _count(r.residual_bytes)),
        ("peak|[B]", lambda r: _count(r.peak_bytes)),
        ("forward|[us]", lambda r: _time(r.forward_seconds, 1e6)),
        ("gradient|[us]", lambda r: _time(r.gradient_seconds, 1e6)),
        ("compile|[s]", lambda r: _time(r.compile_seconds, 1.0)),
    ]
    if problem.steps is not None:
        return [*columns, ("error", lambda r: _error(r.error))]
    return [
        *columns,
        ("error,|ODE", lambda r: _error(r.true_error)),
        ("error,|steps", lambda r: _error(r.error)),
    ]


def _padded(parts: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The first two to the left, the rest to the right."""
    pairs = zip(parts, widths, strict=False)
    return [x.ljust(w) if i < 2 else x.rjust(w) for i, (x, w) in enumerate(pairs)]


def _method(row: Row) -> str:
    """Its name, with what ``auto`` became."""
    if row.chosen is None or not row.method.startswith("auto"):
        return row.method
    short = row.chosen.removeprefix("RecursiveCheckpointAdjoint, ").replace("Adjoint", "")
    short = textwrap.shorten(short.removesuffix(" at a time"), 24, placeholder="")
    return f"{row.method}: {short.rstrip(',')}"


def judged(row: Row, problem: Problem) -> float | None:
    """The error by which a gradient is called wrong."""
    return row.error if problem.steps is not None else row.true_error


def _count(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _time(seconds: float | None, unit: float) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f}" if unit == 1.0 else f"{seconds * unit:,.0f}"


def _error(error: float | None) -> str:
    if error is None:
        return "-  "
    return f"{error:.1e}" + (" !" if not error <= WRONG else "  ")


def footnotes(libraries: Sequence[str], absent: dict[str, str]) -> Iterator[str]:
    """How the columns were measured, and how to get what is absent."""
    residual = {
        "numpy": "arrays that the pullback holds",
        "jax": "leaves of jax.vjp's closure",
        "torch": "tensors saved for backward",
    }
    peak = {
        "numpy": "tracemalloc, which sees Python objects too",
        "jax": "XLA's temporaries",
        "torch": "live storages",
    }

    def each(sources: dict[str, str]) -> str:
        return "; ".join(f"{x}: {sources.get(x, sources['numpy'])}" for x in libraries)

    notes = [
        "residual: bytes of the distinct arrays kept from the solve to its pullback, inputs "
        f"where a method keeps them ({each(residual)})",
        "peak: most bytes alive during a gradient, beyond those of the same method's solve alone "
        f"({each(peak)})",
        "forward: the solve alone; gradient: the solve and its gradient; compile: tracing and "
        "compiling the gradient",
        f"!: a wrong gradient, with a relative error above {WRONG:g}",
    ]
    if absent:
        notes.append("left out: " + "; ".join(f"{name} ({why})" for name, why in absent.items()))
    for note in notes:
        yield from textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _version(package: str) -> str | None:
    if package in sys.modules:
        found = getattr(sys.modules[package], "__version__", None)
        if found is not None:
            return str(found)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_json(
    found: Figures, devices: dict[str, str], absent: dict[str, str], *, quick: bool
) -> dict[str, Any]:
    """The figures as plain containers; what is not finite is None."""
    packages = {name for *_, rows in found for row in rows for name in (row.library, row.package)}
    return {
        "retrograde": __version__,
        "machine": _machine(),
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
                "discrete_gradient": list(wanted.steps),
                "true_gradient": list(wanted.true),
                "rows": [
                    {key: _finite(value) for key, value in asdict(row).items()} for row in rows
                ],
            }
            for problem, wanted, rows in found
        ],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
