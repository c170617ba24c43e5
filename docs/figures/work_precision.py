"""The figures of ``how-to/which_solver``: what an error costs, in calls of f and in CPU time.

``python docs/figures/work_precision.py`` draws ``work_precision_nonstiff.svg`` and
``work_precision_stiff.svg`` from ``work_precision.json`` and writes the page's table;
``--measure`` takes the readings first (it needs SciPy, JAX, diffrax, PyTorch and torchdiffeq; some
ten minutes on one core), ``--only PROBLEM`` and ``--library torch`` those of one.

Error is the largest of ``|y - y*| / (|y*| + atol / rtol)`` over the components at t1: what the
tolerance is a bound of in each step. A reading of time is the least CPU time of several rounds, in
each of which every method has its turn. Calls are those of f in NumPy, Jacobians' and trials'
included. f is the same plain code for all, of arrays in double precision; compilation is not
counted.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg

ROOT = Path(__file__).parents[2]
READINGS = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "how-to" / "which_solver.md"
TABLE = re.compile(r"(<!-- figures: work_precision -->\n\n).*?(\n<!-- end -->)", re.DOTALL)
ROUNDS, LEAST_SECONDS, DEAR_SECONDS = 5, 0.02, 1.0

Run = Callable[[], Any]


class Case(NamedTuple):
    """f(xp, t, y, args); ``scale`` is atol / rtol."""

    f: Callable[..., Any]
    y0: Any
    t1: float
    args: Any
    scale: float
    tolerances: Sequence[float]


class Line(NamedTuple):
    """A line of a panel; ours have no ``peer``. The second method of a peer is dashed."""

    solver: str
    peer: str = ""
    dashed: bool = False

    @property
    def name(self) -> str:
        """As it is drawn."""
        return f"{self.peer} {self.solver}" if self.peer else f"ours, {self.solver}"


LINES = {
    "nonstiff": {
        "numpy": [
            Line("tsit5"), Line("dopri8", "", True),
            Line("RK45", "SciPy"), Line("DOP853", "SciPy", True), Line("LSODA", "SciPy"),
        ],
        "jax": [
            Line("tsit5"), Line("dopri8", "", True),
            Line("Tsit5", "diffrax"), Line("Dopri8", "diffrax", True),
        ],
        "torch": [
            Line("tsit5"), Line("dopri8", "", True),
            Line("dopri5", "torchdiffeq"), Line("dopri8", "torchdiffeq", True),
        ],
    },
    "stiff": {
        "numpy": [
            Line("rodas5p"), Line("kvaerno5", "", True),
            Line("Radau", "SciPy"), Line("BDF", "SciPy", True), Line("LSODA", "SciPy"),
        ],
        "jax": [Line("rodas5p"), Line("kvaerno5", "", True), Line("Kvaerno5", "diffrax", True)],
        "torch": [Line("rodas5p"), Line("Radau", "torchdiffeq")],
    },
}  # fmt: skip
"""What is drawn, by the kind of problem and the library."""

PROBLEMS = {
    "nonstiff": ("Lotka-Volterra", "Pleiades, 28 unknowns"),
    "stiff": ("Robertson", "HIRES, 8 unknowns", "van der Pol, mu = 1000"),
}


def pleiades(xp: Any, t: Any, y: Any, args: Any) -> Any:
    """Seven stars in a plane, y = (x, v) of shape (4, 7) (Hairer, Norsett & Wanner, II.10)."""
    x, v = y[:2], y[2:]
    apart = x[:, None, :] - x[:, :, None]
    distance2 = (apart * apart).sum(0) + args[1]  # of a star to itself: one
    return xp.concatenate([v, (args[0] * apart / distance2**1.5).sum(2)])


def van_der_pol(xp: Any, t: Any, y: Any, mu: Any) -> Any:
    """Two relaxations, where mu is 1000."""
    return xp.stack([y[1], mu * ((1.0 - y[0] * y[0]) * y[1]) - y[0]])


def cases(kind: str) -> dict[str, Case]:
    """Problems, by the names that are drawn; those of the benchmarks are theirs."""
    sys.path.insert(0, str(ROOT / "asv_bench"))
    from benchmarks import _problems, _rows_stiff

    decades = [10.0**-k for k in range(3, 12)]
    if kind == "nonstiff":
        rabbits = _problems.lotka_volterra()
        x = [[3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0], [3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0]]
        v = [[0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5], [0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0]]
        stars = np.array(x + v), 3.0, (np.arange(1.0, 8.0), np.eye(7))
        f = lambda xp, t, y, p: rabbits.field(xp)(t, y, p)  # noqa: E731
        return {
            "Lotka-Volterra": Case(f, rabbits.y0, rabbits.t1, rabbits.args, 1.0, decades),
            "Pleiades, 28 unknowns": Case(pleiades, *stars, 1.0, decades),
        }
    rob, hires = (_rows_stiff.PROBLEMS[name] for name in ("Robertson", "HIRES"))
    start, rates, light = (np.asarray(x) for x in (rob.y0, rob.args, hires.y0))
    return {
        "Robertson": Case(rob.f, start, rob.t1, rates, 1e-6, decades[:8]),
        "HIRES, 8 unknowns": Case(
            hires.f, light, hires.t1, np.asarray(hires.args), 1e-3, decades[:8]
        ),
        "van der Pol, mu = 1000": Case(
            van_der_pol, np.array([2.0, 0.0]), 2000.0, np.asarray(1000.0), 1e-3, decades[:8]
        ),
    }


# what runs


def reference(case: Case, stiff: bool) -> Any:
    """The state at t1, by SciPy near rounding."""
    f = lambda t, y: case.f(np, t, y.reshape(case.y0.shape), case.args).ravel()  # noqa: E731
    from scipy.integrate import solve_ivp

    rtol = 1e-12 if stiff else 3e-14
    method, atol = ("Radau", 1e-3) if stiff else ("DOP853", 1.0)
    sol = solve_ivp(
        f, (0.0, case.t1), case.y0.ravel(), method, rtol=rtol, atol=rtol * atol * case.scale
    )
    return sol.y[:, -1].reshape(case.y0.shape)


def settings(case: Case, tol: float) -> dict[str, float]:
    """rtol and atol."""
    return {"rtol": tol, "atol": tol * case.scale}


def numpy_run(case: Case, line: Line, tol: float, on_call: Callable[[], None] | None = None) -> Run:
    """Ours or SciPy's; ``on_call`` with every call."""
    shape = case.y0.shape

    def f(t: Any, y: Any, args: Any) -> Any:
        if on_call:
            on_call()
        return case.f(np, t, y, args)

    if line.peer:
        from scipy.integrate import solve_ivp

        fun: Any = lambda t, y: f(t, y, case.args)  # noqa: E731
        if len(shape) > 1:
            fun = lambda t, y: f(t, y.reshape(shape), case.args).ravel()  # noqa: E731
        start, span = case.y0.ravel(), (0.0, case.t1)
        return lambda: solve_ivp(fun, span, start, line.solver, **settings(case, tol)).y[:, -1]
    return lambda: rg.solve(
        f, case.y0, 0.0, case.t1, case.args, solver=line.solver, **settings(case, tol)
    ).ys[-1]


def jax_run(case: Case, line: Line, tol: float) -> Run:
    """Ours or diffrax', compiled; with the coefficients of ours, Kvaerno5 with its best."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    f = partial(case.f, jnp)

    def ours(y0: Any, args: Any) -> Any:
        return rg.solve(
            f, y0, 0.0, case.t1, args, solver=line.solver, max_steps=16**4, **settings(case, tol)
        ).ys[-1]

    def theirs(y0: Any, args: Any) -> Any:
        import diffrax

        p, i = (0.3, 0.3) if line.solver == "Kvaerno5" else (0.2, 0.65)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), getattr(diffrax, line.solver)(), 0.0, case.t1, None, y0, args,
            stepsize_controller=diffrax.PIDController(**settings(case, tol), pcoeff=p, icoeff=i),
            max_steps=16**4, throw=False,
        ).ys[-1]  # fmt: skip

    start, args = jnp.asarray(case.y0), jax.tree.map(jnp.asarray, case.args)
    compiled = jax.jit(theirs if line.peer else ours).lower(start, args).compile()
    return lambda: jax.block_until_ready(compiled(start, args))


def torch_run(case: Case, line: Line, tol: float) -> Run:
    """Ours or torchdiffeq's, eager."""
    import torch

    start = torch.asarray(case.y0)
    args = (
        tuple(map(torch.asarray, case.args))
        if isinstance(case.args, tuple)
        else torch.asarray(case.args)
    )
    f = partial(case.f, torch)
    if not line.peer:
        return lambda: rg.solve(
            f, start, 0.0, case.t1, args, solver=line.solver, **settings(case, tol)
        ).ys[-1]
    from torchdiffeq import odeint

    ts = torch.tensor([0.0, case.t1], dtype=start.dtype)
    scipy = line.solver == "Radau"
    how = {"method": "scipy_solver", "options": {"solver": "Radau"}} if scipy else {}
    how = how or {"method": line.solver}
    call = torch.no_grad()(lambda: odeint(lambda t, y: f(t, y, args), start, ts, **keywords)[-1])
    keywords = {**settings(case, tol), **how}
    return call


RUNS = {"numpy": numpy_run, "jax": jax_run, "torch": torch_run}


# measuring


def error(case: Case, end: Any, y: Any) -> float:
    """In units of the tolerance's own."""
    found = np.abs(np.asarray(y).reshape(end.shape) - end) / (np.abs(end) + case.scale)
    return float(np.max(found))


def counted(case: Case, line: Line, tol: float) -> int:
    """Calls of f in a solve on NumPy."""
    calls = 0

    def on_call() -> None:
        nonlocal calls
        calls += 1

    numpy_run(case, line, tol, on_call)()
    return calls


def seconds(run: Run, times: int) -> float:
    """CPU time of a call, in so many."""
    begin = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - begin) / times


def measured(
    case: Case, library: str, lines: Sequence[Line], make: Callable[..., Run], missed: Any
) -> Iterator[dict[str, Any]]:
    """A reading for each line and tolerance; ``missed`` tells the error of a result."""
    taken: list[tuple[dict[str, Any], Run, int]] = []
    for line in lines:
        for tol in case.tolerances:
            try:
                run = make(case, line, tol)
                wrong = missed(run())
            except Exception as failed:  # a peer's failure is a point that is not drawn
                print(library, line.name, tol, type(failed).__name__, failed, flush=True)
                continue
            once = seconds(run, 1)
            reading = {"line": line.name, "library": library, "rtol": tol, "error": wrong}
            if make is numpy_run:
                reading["calls"] = counted(case, line, tol)
            taken.append((reading | {"seconds": once}, run, math.ceil(LEAST_SECONDS / once)))
    gc.collect()
    gc.disable()
    for turn in range(ROUNDS):
        for reading, run, times in taken:
            if turn > 1 and reading["seconds"] > DEAR_SECONDS:
                continue
            reading["seconds"] = min(reading["seconds"], seconds(run, times))
    gc.enable()
    for reading, _, _ in taken:
        rounded = {"error": float(f"{reading['error']:.3g}")}
        yield reading | rounded | {"seconds": float(f"{reading['seconds']:.3g}")}


def measure(only: str | None, library: str | None) -> None:
    """Take readings into the file, problem by problem; of one library, others stay."""
    import torch

    torch.set_num_threads(1)
    found = json.loads(READINGS.read_text()) if READINGS.exists() else {"problems": {}}
    for kind, libraries in LINES.items():
        for name, case in cases(kind).items():
            if only and not name.startswith(only):
                continue
            end = reference(case, kind == "stiff")
            rows = found["problems"][name]["readings"] if library else []
            for each in [library] if library else list(libraries):
                rows = [row for row in rows if row["library"] != each]
                make, missed = RUNS[each], partial(error, case, end)
                rows += measured(case, each, libraries[each], make, missed)
                print(name, each, len(rows), f"{time.process_time():.0f} s", flush=True)
            found["problems"][name] = dated(rows)
            READINGS.write_text(dumped(found), encoding="utf-8")


def dated(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Readings with the day and the commit."""
    commit = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    head = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    return {"date": str(datetime.date.today()), "commit": head, "readings": rows}


def dumped(found: dict[str, Any]) -> str:
    """JSON with a reading a line."""
    text = json.dumps(found, indent=1)
    return re.sub(r"\{\s+(\"line\"[^}]*?)\s+\}", lambda m: f"{{{_flat(m[1])}}}", text) + "\n"


def _flat(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text)


# drawing

ROWS = (
    ("numpy", "calls", "calls of f, NumPy", 1.0),
    ("numpy", "seconds", "CPU time [ms], NumPy", 1e3),
    ("jax", "seconds", "CPU time [ms], JAX", 1e3),
    ("torch", "seconds", "CPU time [ms], PyTorch", 1e3),
)
COLUMN, ROW, LEFT, NAMES, HEAD, FOOT = 330, 190, 44, 122, 40, 34
OURS, PEER, OTHER = "#0067a5", "#c04e01", "#6b6b6b"
STYLE = (
    "text{font:11px sans-serif;fill:#222}.title{font-weight:bold;font-size:13px}"
    ".grid{stroke:#e4e4e4}.page{fill:#fff}.line{fill:none;stroke-width:1.8}"
    "path.dashed{stroke-dasharray:5 3}"
    f".ours{{stroke:{OURS}}}.peer{{stroke:{PEER}}}.other{{stroke:{OTHER}}}"
    f"text.ours{{fill:{OURS};stroke:none}}text.peer{{fill:{PEER};stroke:none}}"
    f"text.other{{fill:{OTHER};stroke:none}}circle.ours{{fill:{OURS}}}circle.peer{{fill:{PEER}}}"
    f"circle.other{{fill:{OTHER}}}circle.dashed{{fill:#fff}}"
)


def points(rows: Sequence[dict[str, Any]], library: str, line: Line, what: str) -> Any:
    """(error, cost) from the loosest tolerance on, of solves that came out."""
    found = [
        (r["error"], r[what])
        for r in rows
        if r["library"] == library and r["line"] == line.name and r["error"] < 0.1
    ]
    return np.array(found).reshape(-1, 2)


def decades(values: Any) -> tuple[int, int]:
    """Powers of ten around all of them."""
    return math.floor(np.log10(values).min() + 0.05), math.ceil(np.log10(values).max() - 0.05)


def kind_of(line: Line) -> str:
    """Classes of the style."""
    whose = "other" if line.solver == "LSODA" else "peer" if line.peer else "ours"
    return f"{whose} dashed" if line.dashed else whose


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """Heights near those wanted, so far apart that names do not meet."""
    order = np.argsort(wanted)
    found = np.array(wanted, float)[order]
    for _ in range(50):
        for i in range(len(found) - 1):
            short = least - (found[i + 1] - found[i])
            if short > 0:
                found[i], found[i + 1] = found[i] - short / 2, found[i + 1] + short / 2
    return [float(found[list(order).index(i)]) for i in range(len(found))]


def ticks(low: float, high: float, most: int) -> Iterator[tuple[float, str]]:
    """(logarithm, words) of round numbers: powers of ten, in a short range 2 and 5 of them too."""
    each = max(1, math.ceil((high - low) / most))
    shown = (1, 2, 5) if high - low < 1.6 else (1, 3) if high - low < 2.2 else (1,)
    for k in range(math.ceil(low - 1), math.floor(high) + 1):
        for m in shown:
            at = k + math.log10(m)
            if low - 1e-9 <= at <= high + 1e-9 and k % each == 0:
                yield at, f"{m * 10.0**k:g}" if -4 < k < 5 else f"{m}e{k}"


def panel(x: float, y: float, rows: Any, lines: Any, row: Any, errors: tuple[int, int]) -> str:
    """One set of axes; error falls to the right."""
    library, what, _, unit = row
    drawn = [(line, points(rows, library, line, what) * (1.0, unit)) for line in lines]
    drawn = [(line, found) for line, found in drawn if len(found)]
    costs = np.log10(np.concatenate([found[:, 1] for _, found in drawn]))
    low, high = costs.min() - 0.08, costs.max() + 0.08
    width, height = COLUMN - LEFT - NAMES, ROW - 44
    across = lambda k: x + width * (errors[1] - k) / (errors[1] - errors[0])  # noqa: E731
    up = lambda k: y + height * (high - k) / (high - low)  # noqa: E731
    out = []
    for k, words in ticks(*errors, 4):
        at = across(k)
        out.append(f'<path class="grid" d="M{at:.1f} {y}v{height}"/>')
        out.append(f'<text x="{at:.1f}" y="{y + height + 14}" text-anchor="middle">{words}</text>')
    for k, words in ticks(low, high, 4):
        at = up(k)
        out.append(f'<path class="grid" d="M{x} {at:.1f}h{width}"/>')
        out.append(f'<text x="{x - 5}" y="{at + 4:.1f}" text-anchor="end">{words}</text>')
    ends = []
    for line, found in drawn:
        logs = np.log10(found)
        places = [(across(a), up(b)) for a, b in logs]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        out.append(f'<path class="line {kind_of(line)}" d="M{path}"/>')
        out += [
            f'<circle class="{kind_of(line)}" cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>'
            for a, b in places
        ]
        ends.append(places[-1])
    heights = apart([b for _, b in ends], 13.0)
    for (line, _), (a, b), at in zip(drawn, ends, heights, strict=True):
        whose, right = kind_of(line).split()[0], x + width + 10
        out.append(
            f'<path class="{whose}" style="stroke-width:.6;fill:none" '
            f'd="M{a + 4:.1f} {b:.1f}L{right - 2} {at:.1f}"/>'
        )
        out.append(f'<text class="{whose}" x="{right}" y="{at + 4:.1f}">{escape(line.name)}</text>')
    return "\n".join(out)


def drawn(kind: str, found: dict[str, Any]) -> str:
    """The picture of a kind of problem."""
    lines = [LINES[kind][row[0]] for row in ROWS]
    return draw(PROBLEMS[kind], ROWS, [lines] * len(PROBLEMS[kind]), found)


def draw(
    names: Sequence[str],
    table: Any,
    lines: Any,
    found: dict[str, Any],
    what: str = "error at the end",
) -> str:
    """Problems beside each other, below each other what is counted; lines by problem and row."""
    width, height = COLUMN * len(names) + 20, HEAD + ROW * len(table) + FOOT
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="100%" height="100%" rx="6"/>'
    ]
    for i, name in enumerate(names):
        rows = found["problems"][name]["readings"]
        x = 12 + LEFT + COLUMN * i
        errors = decades(np.array([r["error"] for r in rows if r["error"] < 0.1]))
        out.append(f'<text class="title" x="{x}" y="20">{escape(name)}</text>')
        for j, row in enumerate(table):
            y = HEAD + 16 + ROW * j
            out.append(f'<text x="{x - LEFT + 4}" y="{y - 9}">{row[2]}</text>')
            out.append(panel(x, y, rows, lines[i][j], row, errors))
        out.append(f'<text x="{x}" y="{height - 12}">{what}, smaller to the right</text>')
    return "\n".join([*out, "</svg>", ""])


def at_error(found: Any, wanted: float) -> float | None:
    """The cost at an error, between the two readings around it."""
    logs = np.log10(found)
    for (a, b), (c, d) in itertools.pairwise(logs):
        if min(a, c) <= math.log10(wanted) <= max(a, c) and a != c:
            return float(10 ** (b + (d - b) * (math.log10(wanted) - a) / (c - a)))
    return None


def digits(x: float) -> str:
    """Two of them."""
    return f"{float(f'{x:.2g}'):g}"


def table(found: dict[str, Any], wanted: float = 1e-6) -> str:
    """Times at equal error: the best of ours, and each peer's over it."""
    rows = [f"| at an error of {wanted:g} | library | ours | time of each peer / ours |"]
    rows.append("| --- | --- | ---: | --- |")
    for kind, libraries in LINES.items():
        for name in PROBLEMS[kind]:
            readings = found["problems"].get(name, {"readings": []})["readings"]
            for library, lines in libraries.items():
                costs = {
                    line: cost
                    for line in lines
                    if (cost := at_error(points(readings, library, line, "seconds"), wanted))
                }
                if not any(not x.peer for x in costs):
                    continue
                ours = min((x for x in costs if not x.peer), key=costs.__getitem__)
                ratios = [f"{x.name} {digits(costs[x] / costs[ours])}" for x in costs if x.peer]
                label = {"numpy": "NumPy", "jax": "JAX", "torch": "PyTorch"}[library]
                time_taken = f"`{ours.solver}`, {digits(1e3 * costs[ours])} ms"
                rows.append(f"| {name} | {label} | {time_taken} | {', '.join(ratios)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure where asked, and draw."""
    parser = argparse.ArgumentParser(description="Figures of how-to/which_solver.")
    parser.add_argument("--measure", action="store_true", help="take readings first")
    parser.add_argument("--only", help="of the problem that begins so")
    parser.add_argument("--library", choices=RUNS, help="of this one alone")
    options = parser.parse_args()
    if options.measure:
        measure(options.only, options.library)
    found = json.loads(READINGS.read_text(encoding="utf-8"))
    for kind in LINES:
        path = READINGS.with_name(f"{READINGS.stem}_{kind}.svg")
        path.write_text(drawn(kind, found), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda m: m[1] + table(found) + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
