"""The demo's picture: the data with the fitted curves, and the live bytes of one gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._backend.registry import adapter
from ..._base.memory import require
from ..._base.types import Array, Namespace
from ...measure import live_bytes, traced_peak
from .fit import Fit, Objective
from .problem import lotka_volterra


def draw(path: str, np: Namespace, best: Fit, x0: Array, budget: int, memory: str) -> None:
    """Write both panels to a file.

    Parameters
    ----------
    path : str
        Its ending names the format.
    np : namespace
        NumPy.
    best : Fit
    x0 : array, shape (6, starts)
        Where the gradient is watched.
    budget : int [bytes]
    memory : str
        The same budget as it was given.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, np, best)
    _bytes(right, np, x0, budget, memory)
    figure.savefig(path, dpi=120)


def _curves(axes: Any, np: Namespace, best: Fit) -> None:
    objective = Objective(adapter("numpy"), None)
    years, logs = objective.data
    x = best.x[:, [best.best]]
    fine = np.linspace(years[0], years[-1], 401)
    fitted = np.exp(objective.curves(x, fine))[:, :, 0]
    for k, (name, colour) in enumerate((("hare", "tab:blue"), ("lynx", "tab:orange"))):
        axes.plot(1900 + years, np.exp(logs[:, k]), "o", color=colour, label=name)
        axes.plot(1900 + fine, fitted[:, k], color=colour)
    axes.set_xticks(range(1900, 1921, 5))
    axes.set(xlabel="year", ylabel="pelts [thousands]", title="Hudson's Bay, 1900 to 1920")
    axes.legend()


def _bytes(axes: Any, np: Namespace, x0: Array, budget: int, memory: str) -> None:
    """Live bytes, by tracemalloc at every call of the vector field."""
    plain = lotka_volterra(np)
    backend = adapter("numpy")

    def watched(mark: Callable[[], object]) -> Objective:
        def field(t: Array, y: Array, rates: Array) -> Array:
            mark()
            return plain(t, y, rates)

        return Objective(backend, memory, field=field)

    objective = Objective(backend, memory)
    alone = traced_peak(objective.curves, x0)
    weights = np.ones((*objective.data.logs.shape, x0.shape[1]))
    live = np.asarray(live_bytes(lambda mark: watched(mark).pull(x0, weights))) / 1024
    axes.fill_between(np.arange(live.size), live, step="mid", alpha=0.3)
    axes.plot(live, drawstyle="steps-mid", linewidth=0.8, label="solve and gradient")
    axes.axhline(alone / 1024, color="grey", linestyle=":", label="peak of the solve alone")
    axes.axhline(
        (alone + budget) / 1024, color="tab:red", linestyle="--", label=f"and {memory} on top"
    )
    axes.set(xlabel="calls of the vector field", ylabel="live [KiB]", title="Bytes of one gradient")
    axes.set_ylim(0, None)
    axes.legend(loc="lower center")
