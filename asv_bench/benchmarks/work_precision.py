"""Step control by counts: calls of f against error over problems that are not stiff.

``python -m benchmarks.work_precision [solver]`` (in ``asv_bench``) prints a table over settings of
the controller; counts and errors are the same on every machine. A ratio at equal error is
``calls * error**(1 / order)``, its geometric mean over tolerances and problems, to the defaults.

Problems: Hull, Enright, Fellen, Sedgwick 1972 (doi:10.1137/0709052), classes A to E, and what
machine learning solves: short spans of smooth networks; a bump that a long step may miss; two whose
steps are bounded by stability. References: SciPy's DOP853 at 3e-14.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg

TOLERANCES = [10.0 ** (-k / 2) for k in range(4, 17)]

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "factormax=5": {"factormax": 5.0},
    "factormax=20": {"factormax": 20.0},
    "safety=0.95": {"safety": 0.95},
    "p=0.15, i=0.75": {"pcoeff": 0.15, "icoeff": 0.75},
    "p=0.1, i=0.85": {"pcoeff": 0.1, "icoeff": 0.85},
    **{x: {"coefficients": x} for x in ("I", "PI34", "PI42", "H211PI", "H211b", "H312PID")},
}


class Case(NamedTuple):
    """f(t, y), y0, t0 and t1."""

    f: Callable[[float, Any], Any]
    y0: Any
    t1: float


class Count(NamedTuple):
    """Calls of f, relative error of the worst of five rows, rejected tries, all tries."""

    calls: int
    error: float
    rejected: int
    tries: int


def _b4(t: float, y: Any) -> Any:
    r = math.hypot(y[0], y[1])
    return np.array([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def _orbit(t: float, y: Any) -> Any:
    r3 = math.hypot(y[0], y[1]) ** 3
    return np.array([y[2], y[3], -y[0] / r3, -y[1] / r3])


def _start(e: float) -> list[float]:
    return [1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))]


def _linear(diagonals: dict[int, float], n: int, y0: Any, t1: float) -> Case:
    matrix = sum(w * np.eye(n, k=k) for k, w in diagonals.items())
    return Case(lambda t, y: matrix @ y, np.asarray(y0, float), t1)


def _network(rng: Any, width: int, hidden: int, t1: float) -> Case:
    w = rng.standard_normal((width, hidden)) / math.sqrt(width)
    v = rng.standard_normal((hidden, width)) / math.sqrt(hidden)
    b = rng.standard_normal(hidden)
    return Case(lambda t, y: np.tanh(y @ w + b) @ v, rng.standard_normal(width), t1)


def problems() -> dict[str, Case]:
    """All of them, by their names in the paper where they are from there."""
    rng, unit = np.random.default_rng(0), np.eye
    laplace = {-1: 1.0, 0: -2.0, 1: 1.0}
    heat = 60.0 * sum(w * unit(24, k=k) for k, w in laplace.items())
    small: dict[str, tuple[Callable[[float, Any], Any], list[float], float]] = {
        "A1": (lambda t, y: -y, [1.0], 20.0),
        "A2": (lambda t, y: -(y**3) / 2, [1.0], 20.0),
        "A3": (lambda t, y: y * np.cos(t), [1.0], 20.0),
        "A4": (lambda t, y: y / 4 * (1 - y / 20), [1.0], 20.0),
        "A5": (lambda t, y: (y - t) / (y + t), [4.0], 20.0),
        "B1": (lambda t, y: np.array([2 * y[0] * (1 - y[1]), -y[1] * (1 - y[0])]), [1, 3], 20.0),
        "B3": (lambda t, y: np.array([-y[0], y[0] - y[1] ** 2, y[1] ** 2]), [1, 0, 0], 20.0),
        "B4": (_b4, [3.0, 0.0, 0.0], 20.0),
        "B5": (
            lambda t, y: np.array([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]),
            [0.0, 1.0, 1.0], 20.0,
        ),
        "D1": (_orbit, _start(0.1), 20.0),
        "D3": (_orbit, _start(0.5), 20.0),
        "D5": (_orbit, _start(0.9), 20.0),
        "E2": (lambda t, y: np.array([y[1], (1 - y[0] ** 2) * y[1] - y[0]]), [2.0, 0.0], 20.0),
        "E3": (
            lambda t, y: np.array([y[1], y[0] ** 3 / 6 - y[0] + 2 * math.sin(2.78535 * t)]),
            [0.0, 0.0], 20.0,
        ),
        "bump": (lambda t, y: np.array([np.exp(-50 * (t - 5) ** 2)]) - y, [0.0], 10.0),
        "stability": (lambda t, y: -80 * (y - np.cos(t)), [1.0], 5.0),
    }  # fmt: skip
    return {name: Case(f, np.asarray(y0, float), t1) for name, (f, y0, t1) in small.items()} | {
        "C1": _linear({-1: 1.0, 0: -1.0}, 10, unit(10)[0], 20.0),
        "C4": _linear(laplace, 20, unit(20)[0], 20.0),
        "heat": Case(
            lambda t, y: heat @ y + y * (1 - y), np.sin(np.pi * np.arange(1, 25) / 25), 2.0
        ),
        "network 4-16-4": _network(rng, 4, 16, 1.0),
        "network 16-64-16": _network(rng, 16, 64, 1.0),
        "network 8-32-8": _network(rng, 8, 32, 10.0),
    }


def references(cases: dict[str, Case]) -> dict[str, tuple[Any, Any]]:
    """Five times and the states there."""
    from scipy.integrate import solve_ivp

    found = {}
    for name, case in cases.items():
        ts = np.linspace(0.0, case.t1, 6)[1:]
        sol = solve_ivp(
            case.f, (0.0, case.t1), case.y0, "DOP853", rtol=3e-14, atol=1e-14, t_eval=ts
        )
        found[name] = ts, sol.y.T
    return found


def count(
    case: Case, reference: tuple[Any, Any], solver: str, tol: float, **settings: Any
) -> Count:
    """One solve."""
    ts, exact = reference
    sol = rg.solve(
        lambda t, y, args: case.f(float(t), y), case.y0, 0.0, case.t1, solver=solver,
        controller=rg.PIDController(tol, 1e-2 * tol, **settings), saveat=ts, max_steps=5000,
        throw=False,
    )  # fmt: skip
    size = max(1e-3, float(np.sqrt(np.mean(exact**2))))
    errors = np.sqrt(np.mean((sol.ys - exact) ** 2, axis=1)) if len(sol.ys) == len(exact) else [1.0]
    error = float(np.max(errors)) / size
    stats = sol.stats
    error = error if math.isfinite(error) else 1.0
    return Count(stats["num_f_evals"], error, stats["num_rejected_steps"], stats["num_steps"])


def ratios(own: list[Count], base: list[Count], order: int) -> tuple[float, float, float]:
    """(calls at equal error, calls at equal tolerance, error there) as logarithms to base 10."""
    pairs = [
        (a, b)
        for a, b in zip(own, base, strict=True)
        if 1e-13 < min(a.error, b.error) and max(a.error, b.error) < 0.3
    ]
    if not pairs:
        return 0.0, 0.0, 0.0
    calls = float(np.mean([math.log10(a.calls / b.calls) for a, b in pairs]))
    error = float(np.mean([math.log10(a.error / b.error) for a, b in pairs]))
    return calls + error / order, calls, error


def table(solver: str) -> Iterator[str]:
    """The study, line by line."""
    cases = problems()
    exact = references(cases)
    order = {"tsit5": 5, "dopri5": 5, "dopri8": 8, "bosh3": 3}[solver]
    yield f"{solver}: calls at equal error, worst, best | at equal tolerance | rejected"
    base: dict[str, list[Count]] = {}
    for setting, keywords in SETTINGS.items():
        found = {
            name: [count(case, exact[name], solver, tol, **keywords) for tol in TOLERANCES]
            for name, case in cases.items()
        }
        base = base or found
        smooth = [name for name in cases if name != "bump"]
        by = {name: ratios(found[name], base[name], order) for name in smooth}
        mean = [10 ** float(np.mean([x[i] for x in by.values()])) for i in range(3)]
        worst, best = (pick(by, key=lambda name: by[name][0]) for pick in (max, min))
        ends = ", ".join(f"{10 ** by[name][0]:.2f} ({name})" for name in (worst, best))
        tries = [(c.rejected, c.tries) for rows in found.values() for c in rows]
        part = sum(a for a, _ in tries) / sum(b for _, b in tries)
        yield (
            f"{setting:18} {mean[0]:.3f}  {ends:44} | calls {mean[1]:.3f}, error {mean[2]:.2f} "
            f"| {part:.1%}"
        )


class WorkPrecision:
    """Calls of f and error at three tolerances, of the defaults."""

    params = (("tsit5", "dopri8"), (1e-3, 1e-5, 1e-7))
    param_names = ("solver", "tolerance")
    timeout = 120

    def setup(self, solver: str, tolerance: float) -> None:
        cases = problems()
        exact = references(cases)
        self.found = [count(case, exact[name], solver, tolerance) for name, case in cases.items()]

    def track_f_calls(self, solver: str, tolerance: float) -> float:
        return float(np.exp(np.mean([math.log(c.calls) for c in self.found])))

    def track_error(self, solver: str, tolerance: float) -> float:
        return float(np.exp(np.mean([math.log(c.error / tolerance) for c in self.found])))


WorkPrecision.track_f_calls.unit = "calls"  # type: ignore[attr-defined]
WorkPrecision.track_error.unit = "tolerances"  # type: ignore[attr-defined]

if __name__ == "__main__":
    for line in table(sys.argv[1] if len(sys.argv) > 1 else "tsit5"):
        print(line, flush=True)
