"""The picture of the comparison: peak bytes of a gradient against its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._demo.fit import require
from .measure import Reference
from .problem import Problem
from .rows import Row
from .table import WRONG

__all__ = ["draw"]

COLOURS = {"numpy": "tab:blue", "jax": "tab:green", "torch": "tab:orange", "cupy": "tab:purple"}


def draw(path: str, found: Sequence[tuple[Problem, Reference, Sequence[Row]]]) -> None:
    """Write one panel for each problem to a file, whose ending names the format."""
    size = (8.5 * len(found), 7)
    figure = require("matplotlib.figure", "plot").Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (problem, _, rows) in zip(panels, found, strict=True):
        _panel(axes, problem, [row for row in rows if not row.failed])
    figure.savefig(path, dpi=120)


def _panel(axes: Any, problem: Problem, rows: Sequence[Row]) -> None:
    for row in rows:
        mine = row.package == "retrograde"
        colour = COLOURS.get(row.library, "black")
        error = row.error if problem.steps is not None else row.true_error
        wrong = error is None or not error <= WRONG
        seconds, size = row.gradient_seconds or 0.0, max(1, row.peak_bytes or 0)
        x = 1e6 * seconds
        axes.plot(
            x, size, "o" if mine else "s", color=colour, markersize=7,
            markerfacecolor=colour if mine else "none",
        )  # fmt: skip
        if wrong:
            axes.plot(x, size, "x", color="tab:red", markersize=13, markeredgewidth=2)
        name = row.method if mine else f"{row.package} {row.method}"
        axes.annotate(
            name, (x, size), (7, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    for library in dict.fromkeys(row.library for row in rows):
        axes.plot([], [], "o", color=COLOURS.get(library, "black"), label=f"retrograde, {library}")
    axes.plot([], [], "s", color="black", markerfacecolor="none", label="other packages")
    axes.plot([], [], "x", color="tab:red", markersize=10, label=f"wrong: error above {WRONG:g}")
    axes.set(xscale="log", yscale="log", xlabel="time of a gradient [us]", ylabel="peak [B]")
    axes.set_title(problem.name)
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
