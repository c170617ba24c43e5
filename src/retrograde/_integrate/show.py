"""How a solution looks: in words, as HTML, as a picture, and as arrays of xarray.

It is read here, never made. What is not known yet (inside of a trace) is told by its shape, and
what stands in the place of an array (``jax.tree.map`` makes such trees) as itself: showing never
fails.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .._backend.registry import backend_for
from .._base.errors import InputError
from .._base.memory import require
from .._base.types import Array, Namespace, Scalar, Tree

if TYPE_CHECKING:
    from .solution import Solution

COUNTS = ("num_steps", "num_accepted_steps", "num_rejected_steps")
"""Counts that one line tells; the others stand below it."""

MOST_NAMED = 10
"""Lines of a picture that a legend names."""


def as_text(solution: Solution[Any]) -> str:
    """A few lines."""
    title, *rows = _rows(solution)
    width = max(len(name) for name, _ in rows)
    return "\n".join([title[1], *(f"  {name.ljust(width)}  {text}" for name, text in rows)])


def as_html(solution: Solution[Any]) -> str:
    """The same as a table, the plan's own below it."""
    title, *rows = _rows(solution)
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in rows
    )
    plan = solution.plan
    more = "" if plan is None else f"<details><summary>plan</summary>{plan._repr_html_()}</details>"
    return f"<div><strong>{html.escape(title[1])}</strong><table>{cells}</table>{more}</div>"


def _rows(solution: Solution[Any]) -> Iterator[tuple[str, str]]:
    """The title, then names with what there is to tell of them."""
    yield "", f"Solution: {_status(solution.status)}"
    for name in ("ts", "ys"):
        value = getattr(solution, name)
        leaves = list(named(value, ""))
        for path, x in leaves[:MOST_NAMED]:
            words = described(x)
            if name == "ts" and (ends := _range(x)):
                words += f", {ends}"
            yield f"{name}{path}", words
        if len(leaves) > MOST_NAMED:
            yield "", f"and {len(leaves) - MOST_NAMED} more arrays"
    stats = dict(solution.stats) if isinstance(solution.stats, dict) else {}
    tries, accepted, rejected = (_number(stats.pop(name, None)) for name in COUNTS)
    if tries is not None:
        yield "steps", f"{accepted} accepted, {rejected} rejected"
    yield "t_final", str(_number(solution.t_final))
    for name, x in stats.items():
        yield name, str(_number(x))
    if solution.events:
        counts = ", ".join(str(_number(hit.count)) for hit in solution.events)
        which = _number(solution.event)
        yield "events", f"{counts} recorded; {'none' if which == '-1' else which} ended the solve"
    if solution.dense is not None:
        yield "dense", "evaluate(t), derivative(t)"
    if solution.plan is not None:
        yield "plan", getattr(solution.plan, "summary", repr(solution.plan))


def named(tree: Tree, path: str) -> Iterator[tuple[str, Tree]]:
    """The leaves of a tree with their paths, such as ``.x``, ``['x']`` and ``[0]``."""
    parts: Any = None
    if isinstance(tree, dict):
        parts = [(f"[{key!r}]", x) for key, x in tree.items()]
    elif isinstance(tree, (tuple, list)):
        names = getattr(tree, "_fields", None)
        parts = [(f".{names[i]}" if names else f"[{i}]", x) for i, x in enumerate(tree)]
    elif dataclasses.is_dataclass(tree) and not hasattr(tree, "shape"):
        parts = [(f".{f.name}", getattr(tree, f.name)) for f in dataclasses.fields(tree)]
    if parts is None:
        if tree is not None:
            yield path, tree
        return
    for name, x in parts:
        yield from named(x, path + name)


def described(x: Tree) -> str:
    """Dtype and shape of an array."""
    if not hasattr(x, "shape"):
        return repr(x)
    dtype = str(getattr(x, "dtype", type(x).__name__)).rpartition(".")[2]
    return f"{dtype} {tuple(x.shape)}"


def _values(x: Tree) -> list[Any] | None:
    """Its numbers, in a row; None where they are not known or there are none."""
    if isinstance(x, (int, float)):
        return [x]
    found: Any
    try:
        found = x.tolist() if hasattr(x, "tolist") else _one_by_one(x)
    except Exception:  # a tracer's, or no number at all
        return None
    found = found if isinstance(found, list) else [found]
    while found and isinstance(found[0], list):
        found = [y for row in found for y in row]
    return found or None


def _one_by_one(x: Array) -> list[float]:
    """The numbers of an array that has the standard's methods alone."""
    x = x.__array_namespace__().reshape(x, (-1,))
    return [float(x[i]) for i in range(x.shape[0])]


def _number(x: Tree) -> str | None:
    """A number, or the least and the largest of a batch."""
    if x is None:
        return None
    values = _values(x)
    if values is None:
        return f"not known yet ({described(x)})" if hasattr(x, "shape") else repr(x)
    ends = [repr(v) if isinstance(v, int) else f"{v:.6g}" for v in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _range(ts: Array) -> str:
    """The first and the last time of one solve, where they are known; of a batch, all ends."""
    values = [] if len(getattr(ts, "shape", ())) != 1 else _values(ts) or []
    values = [t for t in values if math.isfinite(t)]
    return f"{values[0]:.6g} to {values[-1]:.6g}" if values else ""


def _status(status: Any) -> str:
    """Its name; of a batch, how many ended how."""
    from .solution import Status  # which imports this file when it is shown

    values = None if status is None else _values(status)
    if values is None:
        return f"status {_number(status)}"
    try:
        names = [Status(int(v)).name for v in values]
    except (TypeError, ValueError):
        return f"status {status!r}"
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


# --- arrays of NumPy's


def _rows_reached(solution: Solution[Any], what: str) -> tuple[Namespace, Any, list[Any]]:
    """NumPy, the times that were reached, and the leaves there with their names."""
    np = require("numpy", "plot")

    def host(x: Array) -> Array:
        bk = backend_for(x)
        return np.asarray(x if bk is None else bk.on_host(x))

    ts = solution.ts
    if not hasattr(ts, "shape"):
        raise InputError(
            f"`{what}()` shows one output of a solve, but `saveat` asked for several; show one: "
            "`dataclasses.replace(sol, ts=sol.ts[name], ys=sol.ys[name])`."
        )
    if len(ts.shape) != 1:
        raise InputError(
            f"`{what}()` shows one solve, but `ts` is {described(ts)}; take a sample of the batch "
            "(of a `vmap` `jax.tree.map(lambda x: x[i], sol)`, of `per_sample=True` "
            "`dataclasses.replace(sol, ts=sol.ts[:, i], ys=sol.ys[:, i])`) and show that."
        )
    try:
        ts = host(ts)
        leaves = [(path, host(x)) for path, x in named(solution.ys, "")]
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("jax", "jaxlib"):
            raise
        raise InputError(
            f"`{what}()` was called inside of a traced function, where there are no numbers yet; "
            "return the solution and call it on what comes out."
        ) from error
    reached = np.isfinite(ts)
    return np, ts[reached], [(path, x[reached]) for path, x in leaves]


def _hits(np: Namespace, solution: Solution[Any]) -> list[Any]:
    """Times that each event recorded."""
    found = [np.asarray(_values(hit.ts) or []) for hit in solution.events]
    return [times[np.isfinite(times)] for times in found]


def draw(solution: Solution[Any], path: str | None, ax: Any) -> Any:
    """Every number of every leaf over the time; returns the axes."""
    np, ts, leaves = _rows_reached(solution, "plot")
    figure = None
    if ax is None:
        figure = require("matplotlib.figure", "plot").Figure(figsize=(7, 4), layout="constrained")
        ax = figure.subplots()
    lines = 0
    for name, x in leaves:
        for place in np.ndindex(x.shape[1:]):
            label = f"y{name}" + (f"[{', '.join(map(str, place))}]" if place else "")
            values = x[(slice(None), *place)]
            one = "." if len(ts) < 2 else ""
            if np.iscomplexobj(x):
                (line,) = ax.plot(ts, values.real, marker=one, label=f"re {label}")
                dashed = {"linestyle": "--", "color": line.get_color(), "marker": one}
                ax.plot(ts, values.imag, label=f"im {label}", **dashed)
            else:
                ax.plot(ts, values, marker=one, label=label)
            lines += 1
    for i, times in enumerate(_hits(np, solution)):
        for t in times:
            ax.axvline(t, color=f"C{i}", linestyle=":", linewidth=1)
    ax.set(xlabel="t", ylabel="y")
    if lines <= MOST_NAMED:
        ax.legend(fontsize="small")
    if path is not None:
        (figure or ax.figure).savefig(path, dpi=120)
    return ax


def as_xarray(solution: Solution[Any]) -> Any:
    """A DataArray, or a Dataset of the leaves of a tree, over the coordinate ``time``."""
    xarray = require("xarray", "xarray")
    _, ts, leaves = _rows_reached(solution, "to_xarray")
    stats = {name: _attribute(x) for name, x in solution.stats.items()}
    attributes = {"status": _status(solution.status), **stats}

    def array(name: str, x: Array, dims: str) -> Any:
        rest = [f"{dims}_{i}" for i in range(x.ndim - 1)]
        return xarray.DataArray(x, coords={"time": ts}, dims=["time", *rest], name=name)

    if len(leaves) == 1 and not leaves[0][0]:
        found = array("y", leaves[0][1], "dim")
        found.attrs.update(attributes)
        return found
    names = [_plain(path) for path, _ in leaves]
    arrays = {name: array(name, x, name) for name, (_, x) in zip(names, leaves, strict=True)}
    return xarray.Dataset(arrays, attrs=attributes)


def _plain(path: str) -> str:
    """``['x'][0]`` as ``x_0``."""
    kept = "".join(c if c.isalnum() or c in "_ " else "|" for c in path)
    return "_".join(part for part in kept.split("|") if part)


def _attribute(x: Scalar) -> Any:
    """A count as an attribute that files can hold."""
    values = _values(x)
    return repr(x) if values is None else values[0] if len(values) == 1 else values
