"""What a plan says: in words, as HTML, as plain data, and as a picture.

Plans and candidates are read here, never made; ``plan`` has the rules.
"""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._adjoints.base import AbstractAdjoint
from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.direct import DirectAdjoint
from .._adjoints.inversion import BacksolveAdjoint, InvertingAdjoint
from .._adjoints.stored_vjp import TapeAdjoint
from .._base.memory import format_bytes, require
from .._base.types import Tree
from .shape import ARRAYS_ONLY

if TYPE_CHECKING:
    from .plan import Plan

WIDTH = 88
"""Columns of the items' paragraphs."""


def describe(adjoint: AbstractAdjoint) -> str:
    """An adjoint in words."""
    if isinstance(adjoint, RecursiveCheckpointAdjoint):
        c = adjoint.checkpoints
        words = "every state stored" if c is None else counted(c, "checkpoint")
        words += f", window {adjoint.window}" if adjoint.window > 1 else ""
        words += ", one tape at a time" if adjoint.one_tape else ""
        words += "" if adjoint.record else ", times not recorded"
        return f"RecursiveCheckpointAdjoint, {words}"
    if isinstance(adjoint, TapeAdjoint):
        return "TapeAdjoint, what the vjp of f needs stored"
    if isinstance(adjoint, DirectAdjoint):
        return "DirectAdjoint, every step recorded"
    if isinstance(adjoint, BacksolveAdjoint) and adjoint.mode == "continuous":
        return "BacksolveAdjoint, continuous"
    if isinstance(adjoint, InvertingAdjoint):
        return adjoint.name + describe(adjoint.replaying).removeprefix(adjoint.replaying.name)
    return adjoint.name


def counted(n: int, what: str) -> str:
    """A number of things in words."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def summary(plan: Plan) -> str:
    """The choice and its bytes in one line."""
    return f"{describe(plan.adjoint)}: {_bytes(plan)}"


def _bytes(plan: Plan) -> str:
    limit = "" if plan.unlimited else f" of {format_bytes(plan.budget)}"
    bound = "at most " if plan.memory <= ARRAYS_ONLY else ""
    return f"{bound}{format_bytes(plan.memory)}{limit}"


def _head(plan: Plan) -> tuple[str, ...]:
    """What was chosen, its bytes, why, and for how many steps."""
    how = "by calls of f" if plan.shape.stiff else "assumed"
    how = "measured" if plan.calibrated else how
    return (
        f"Plan: {describe(plan.adjoint)}",
        f"{_bytes(plan)} ({plan.source})",
        f"because {plan.reason}",
        f"steps: {plan.steps} ({plan.steps_source}); vjp of a step: {plan.vjp:.1f} F ({how})",
    )


def _table(plan: Plan) -> list[tuple[str, ...]]:
    """The candidates, below a line of titles."""
    rows: list[tuple[str, ...]] = [("method", "bytes", "time [F/step]", "accuracy", "verdict")]
    for c in plan.candidates:
        verdict = c.verdict if c.verdict == "chosen" else c.reason
        rows.append((c.method, format_bytes(c.bytes), f"{c.time:.2f}", c.accuracy, verdict))
    return rows


def as_html(plan: Plan) -> str:
    """The same as HTML."""
    (title, *head), (titles, *rows) = (map(html.escape, _head(plan)), _table(plan))
    lines = [_row("th", titles)]
    for c, row in zip(plan.candidates, rows, strict=True):
        style = ' style="font-weight:bold"' if c.verdict == "chosen" else ""
        lines.append(_row("td", row, style))
    items = (html.escape(" ".join(text.split())) for text in _all_items(plan))
    return (
        f"<div><strong>{title}</strong><br>{'<br>'.join(head)}"
        f"<table>{''.join(lines)}</table>{'<br>'.join(items)}</div>"
    )


def _row(kind: str, cells: Sequence[str], style: str = "") -> str:
    left = ' style="text-align:left"'
    inner = "".join(f"<{kind}{left}>{html.escape(cell)}</{kind}>" for cell in cells)
    return f"<tr{style}>{inner}</tr>"


def as_text(plan: Plan) -> str:
    """The choice, the table of candidates, and the items."""
    head, rows = _head(plan), _table(plan)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([x.ljust(w) for x, w in zip(row, widths, strict=True)] for row in rows)
    lines = ["  ".join(("", *row)).rstrip() for row in cells]
    return "\n  ".join(head) + "\n" + "\n".join([*lines, *_all_items(plan)])


def _all_items(plan: Plan) -> list[str]:
    """What every method needs, and what does not count."""
    items = _items("needed by all", plan.items)
    outputs = _items("asked for, beside the budget", plan.outputs)
    beside = [_items("not counted either, about", plan.beside)] if plan.beside else []
    return [items, outputs, *beside]


def _items(title: str, items: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {format_bytes(n)}" for name, n in items.items() if n)
    text = f"{title}: {listed or 'nothing'}"
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def as_data(plan: Plan) -> dict[str, Tree]:
    """A plan in str, int, float, bool, None, list and dict alone."""
    return {
        "adjoint": _settings(plan.adjoint),
        "fallback": None if plan.fallback is None else _settings(plan.fallback),
        "memory": plan.memory,
        "budget": None if plan.unlimited else plan.budget,
        "source": plan.source,
        "reason": plan.reason,
        "steps": plan.steps,
        "known": plan.known,
        "steps_source": plan.steps_source,
        "limit": plan.limit,
        "vjp": plan.vjp,
        "calibrated": plan.calibrated,
        "items": dict(plan.items),
        "outputs": dict(plan.outputs),
        "beside": dict(plan.beside),
        "candidates": [_plain(dataclasses.asdict(c)) for c in plan.candidates],
    }


def _settings(adjoint: AbstractAdjoint) -> dict[str, Tree]:
    """Name and settings; an adjoint that is no dataclass has its name alone."""
    found: dict[str, Tree] = {}
    if dataclasses.is_dataclass(adjoint):
        found = dataclasses.asdict(adjoint)
    return {"name": adjoint.name, **_plain(found)}


def _plain(values: dict[str, Tree]) -> dict[str, Tree]:
    """Values that JSON has; what it has not is written as text."""

    def value(x: Tree) -> Tree:
        if isinstance(x, float) and not math.isfinite(x):
            return None
        return x if isinstance(x, (str, int, float, bool, type(None))) else repr(x)

    return {name: value(x) for name, x in values.items()}


def draw(plan: Plan, path: str | None, ax: Any) -> Any:
    """Bytes against time of every candidate, with the budget; returns the axes."""
    if ax is None:
        make = require("matplotlib.figure", "plot").Figure
        ax = make(figsize=(7, 4), layout="constrained").subplots()
    for candidate in plan.candidates:
        chosen = candidate.verdict == "chosen"
        ax.plot(
            candidate.time,
            max(1, candidate.bytes),
            "*" if chosen else "o",
            markersize=12 if chosen else 7,
            fillstyle="full" if candidate.verdict in ("chosen", "fits") else "none",
            label=f"{candidate.method} ({candidate.verdict})",
        )
    if not plan.unlimited:
        label = f"budget, {format_bytes(plan.budget)}"
        ax.axhline(plan.budget, color="tab:red", linestyle="--", label=label)
    ax.set_yscale("log")
    ax.set(xlabel="time [F/step]", ylabel="bytes", title="Gradient methods")
    ax.legend(fontsize="small")
    if path is not None:
        ax.figure.savefig(path, dpi=120)
    return ax
