"""The picture of the comparison: peak bytes of a gradient against its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._base.memory import require
from .measure import Reference
from .problem import Problem
from .rows import Row
from .table import WRONG

COLOURS = {"numpy": "tab:blue", "jax": "tab:green", "torch": "tab:orange", "cupy": "tab:purple"}
DPI = 120


def draw(path: str, found: Sequence[tuple[Problem, Reference, Sequence[Row]]]) -> None:
    """Write one panel for each problem to a file, whose ending names the format."""
    size, make = (8.5 * len(found), 7.5), require("matplotlib.figure", "plot").Figure
    figure = make(figsize=size, layout="constrained", dpi=DPI)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    shown = [[row for row in rows if not row.failed] for *_, rows in found]
    for axes, (problem, *_), rows in zip(panels, found, shown, strict=True):
        _points(axes, problem, rows)
    figure.legend(handles=_legend(panels[0], shown), loc="outside lower center", ncols=6)
    figure.draw_without_rendering()  # places the axes, so that labels can be placed
    for axes, rows in zip(panels, shown, strict=True):
        _labels(axes, rows)
    figure.savefig(path, dpi=DPI)


def _place(row: Row) -> tuple[float, float]:
    """Where a row stands [us, B]."""
    return 1e6 * (row.gradient_seconds or 0.0), max(1, row.peak_bytes or 0)


def _points(axes: Any, problem: Problem, rows: Sequence[Row]) -> None:
    for row in rows:
        x, y = _place(row)
        mine, colour = row.package == "retrograde", COLOURS.get(row.library, "black")
        mark, fill = ("o", colour) if mine else ("s", "none")
        axes.plot(x, y, mark, color=colour, markersize=7, markerfacecolor=fill, zorder=3)
        error = row.judged(problem)
        if error is None or not error <= WRONG:
            axes.plot(x, y, "x", color="tab:red", markersize=13, markeredgewidth=2, zorder=4)
    axes.set(xscale="log", yscale="log", xlabel="time of a gradient [us]", ylabel="peak [B]")
    axes.set_title(problem.title, fontsize=10)
    axes.margins(x=0.15, y=0.08)
    axes.grid(alpha=0.3)


def _legend(axes: Any, shown: Sequence[Sequence[Row]]) -> list[Any]:
    handles: list[Any] = []
    for library in dict.fromkeys(row.library for rows in shown for row in rows):
        colour = COLOURS.get(library, "black")
        handles += axes.plot([], [], "o", color=colour, label=f"retrograde, {library}")
    wrong = {"color": "tab:red", "markersize": 10, "label": f"error above {WRONG:g}"}
    return [
        *handles,
        *axes.plot([], [], "s", color="black", markerfacecolor="none", label="other packages"),
        *axes.plot([], [], "x", **wrong),
    ]


def _labels(axes: Any, rows: Sequence[Row]) -> None:
    """Names beside their points, where no other name or point stands."""
    bbox = require("matplotlib.transforms", "plot").Bbox
    places = axes.transData.transform([_place(row) for row in rows])
    taken = [bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    frame = axes.get_window_extent()
    for row in sorted(rows, key=lambda row: (row.peak_bytes or 0, row.gradient_seconds or 0.0)):
        name = row.method if row.package == "retrograde" else f"{row.package} {row.method}"
        label = axes.annotate(
            name, _place(row), (7, 0), textcoords="offset points", va="center", fontsize=6.5,
            color=COLOURS.get(row.library, "black"),
        )  # fmt: skip
        for shift, side in ((s, side) for s in SHIFTS for side in ("left", "right")):
            label.set(position=(7 if side == "left" else -7, shift), horizontalalignment=side)
            box = label.get_window_extent()
            inside = frame.x0 < box.x0 and box.x1 < frame.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


SHIFTS = (0, 8, -8, 16, -16, 24, -24, 32)
"""How far a name may stand above its point, in the order tried [points]."""
