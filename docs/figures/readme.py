"""The figures in README.md: ``python docs/figures/readme.py`` takes them anew.

Three kinds: what each example prints, where its library is installed; the table of ``python -m
retrograde compare``, without its times, where its packages are; and the ratios of times, which are
not measured here: they come from ``readings.json``, two readings of ``asv_bench/report.py``, whose
files ``--readings`` stores with the date and the commit. The tests hold README to all three.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrograde._commands.compare import problem as problems
from retrograde._commands.compare.measure import examine, reference
from retrograde._commands.compare.rows import Row
from retrograde._commands.compare.table import tabulated

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
READINGS = Path(__file__).with_name("readings.json")
EXAMPLE = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)

COMPARED = {
    "jax": (
        ("retrograde", "auto, ample"),
        ("retrograde", "auto, 256 B"),
        ("retrograde", "recursive, 10 checkpoints"),
        ("retrograde", "backsolve, continuous"),
        ("retrograde", "forward"),
        ("diffrax", "Recursive, 10 checkpoints"),
        ("diffrax", "Backsolve"),
        ("jax", "lax.scan"),
    ),
    "torch": (
        ("retrograde", "auto, 256 B"),
        ("torchdiffeq", "odeint"),
        ("torchdiffeq", "odeint_adjoint"),
    ),
}
"""Rows of the table that README shows, of the toy problem."""

PEER = "diffrax, 4096 slots"
RATIOS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "500 Euler steps in JAX, gradient from 10 states (168 bytes)",
        "diffrax, 10 checkpoints",
        (("gradient, toy, 10 slots", "diffrax, 10 slots"),),
    ),
    (
        "the same",
        "a differentiated `lax.scan`, 16,000 bytes",
        (("gradient, toy, 10 slots", "lax.scan"),),
    ),
    (
        "Lotka-Volterra in JAX, solve / gradient",
        "diffrax",
        (
            ("forward, Lotka-Volterra", "diffrax"),
            ("gradient, Lotka-Volterra", "diffrax, default"),
        ),
    ),
    (
        "three bodies / a network 4-16-4 in JAX, gradient",
        "diffrax, 4096 checkpoints",
        (("gradient, 3-body", PEER), ("gradient, network 4-16-4", PEER)),
    ),
    (
        "three bodies in JAX, tracing and compiling the gradient",
        "diffrax",
        (("compile the gradient, three_body", "diffrax, default"),),
    ),
    (
        "Lotka-Volterra in JAX, gradient",
        "diffrax, 4096 checkpoints",
        (("gradient, Lotka-Volterra", PEER),),
    ),
    (
        "the same with the XLA flag that speeds small loops in any library",
        "the same",
        (("flag: gradient, Lotka-Volterra", PEER),),
    ),
    (
        "Burgers with 10,000 unknowns in JAX, solve / gradient in half the bytes",
        "diffrax",
        (("forward, burgers_10000", "diffrax"), ("gradient, burgers_10000", "diffrax, default")),
    ),
    (
        "neural ODE in JAX, gradient",
        "diffrax",
        (("a step of the gradient, neural ODE", "diffrax, default"),),
    ),
    (
        "waves on a mesh in JAX, symplectic, solve / gradient in half the bytes",
        "diffrax",
        (("forward, wave_256x256", "diffrax"), ("gradient, wave_256x256", "diffrax, default")),
    ),
    (
        "Lotka-Volterra / Burgers with 100,000 unknowns in NumPy",
        "SciPy RK45",
        (("forward, lotka_volterra", "SciPy RK45"), ("forward, burgers_100000", "SciPy RK45")),
    ),
    (
        "the same, order 8 at 1e-9",
        "SciPy DOP853",
        (
            ("forward at 1e-9, lotka_volterra", "SciPy DOP853"),
            ("forward at 1e-9, burgers_100000", "SciPy DOP853"),
        ),
    ),
    (
        "Lotka-Volterra / Burgers with 100,000 unknowns in PyTorch",
        "torchdiffeq dopri5",
        (
            ("forward, torch, lotka_volterra", "torchdiffeq"),
            ("forward, torch, burgers_100000", "torchdiffeq"),
        ),
    ),
    (
        "the same",
        "torchode",
        (
            ("forward, torch, lotka_volterra", "torchode"),
            ("forward, torch, burgers_100000", "torchode"),
        ),
    ),
    (
        "Lotka-Volterra / neural ODE in PyTorch, `compile=True`",
        "torchdiffeq dopri5",
        (
            ("forward, torch, compiled, lotka_volterra", "torchdiffeq"),
            ("forward, torch, compiled, neural_ode", "torchdiffeq"),
        ),
    ),
    (
        "Lotka-Volterra / neural ODE in PyTorch, gradient",
        "torchdiffeq, backpropagation",
        (
            ("gradient, torch, lotka_volterra, the plan's choice", "torchdiffeq"),
            ("gradient, torch, neural_ode, the plan's choice", "torchdiffeq"),
        ),
    ),
    (
        "Robertson's reaction / HIRES, stiff, in JAX",
        "diffrax Kvaerno5, PI controller",
        (
            ("solve, Robertson, JAX", "diffrax, Kvaerno5, PI"),
            ("solve, HIRES, JAX", "diffrax, Kvaerno5, PI"),
        ),
    ),
    (
        "the same, gradient",
        "diffrax Kvaerno5, its default controller",
        (
            ("gradient, Robertson, JAX", "diffrax, Kvaerno5"),
            ("gradient, HIRES, JAX", "diffrax, Kvaerno5"),
        ),
    ),
    (
        "the same in NumPy",
        "SciPy Radau",
        (("solve, Robertson, NumPy", "SciPy, Radau"), ("solve, HIRES, NumPy", "SciPy, Radau")),
    ),
    (
        "the same in PyTorch, `compile=True`",
        "SciPy Radau",
        (
            ("solve, Robertson, PyTorch, compiled", "SciPy, Radau"),
            ("solve, HIRES, PyTorch, compiled", "SciPy, Radau"),
        ),
    ),
    (
        "Brusselator of 1,000 unknowns, stiff, banded, in JAX / NumPy",
        "CVODE / SciPy Radau",
        (
            ("solve, Brusselator of 1,000, JAX", "CVODE, band"),
            ("solve, Brusselator of 1,000, NumPy", "SciPy, Radau, sparse"),
        ),
    ),
    (
        "a loop of 1,000 / 10,000 cheap steps in JAX, gradient",
        "equinox, as many checkpoints",
        (
            ("gradient, loop: scalar, n = 1000", "equinox"),
            ("gradient, loop: scalar, n = 10000", "equinox"),
        ),
    ),
    (
        "a loop over 100,000 numbers / a 256 x 256 network, gradient",
        "the same",
        (
            ("gradient, loop: 100,000 elements", "equinox"),
            ("gradient, loop: 256 x 256 network", "equinox"),
        ),
    ),
)
"""Rows of README's table of times: work, peer, and (work, peer) of the report's lines."""


def library_of(code: str) -> str:
    """The array library that an example imports."""
    return re.findall(r"^import (numpy|jax|torch|cupy)\b", code, re.MULTILINE)[0]


def usable(library: str) -> bool:
    """Whether it is installed and, if it needs one, finds a device."""
    if importlib.util.find_spec(library) is None:
        return False
    return library != "cupy" or bool(importlib.import_module("cupy").is_available())


def printed(code: str) -> str:
    """What an example prints, in an interpreter of its own."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def with_examples(text: str) -> str:
    """README with what its examples print."""

    def anew(found: re.Match[str]) -> str:
        code, shown = found.groups()
        if shown is None or not usable(library_of(code)):
            return found[0]
        return f"```python\n{code}```\n\n```text\n{printed(code)}```\n"

    return EXAMPLE.sub(anew, text)


def compared(libraries: Sequence[str] = tuple(COMPARED), packages: Any = None) -> list[Row]:
    """README's rows of ``compare``, measured anew; of some packages only."""
    toy = problems.toy()

    def only(row: Row) -> bool:
        here = packages is None or row.package in packages
        return here and (row.package, row.method) in COMPARED[row.library]

    glue = importlib.import_module("retrograde_backends.commands.library")
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        for library in libraries:
            stack.enter_context(glue.double_precision(library))
        rows, _ = examine(toy, libraries, reference(toy), only=only)
    return sorted(rows, key=lambda row: list(COMPARED).index(row.library))


def compare_lines(rows: Sequence[Row]) -> list[str]:
    """The table of some rows."""
    return ["```text", *tabulated(problems.toy(), rows, times=False), "```"]


def ratio_lines(readings: dict[str, Any]) -> Iterator[str]:
    """The table of times: the lower of two readings."""
    found = {(line["work"], line["peer"]): line["ratios"] for line in readings["lines"]}
    yield "| work | peer | ratio |"
    yield "| --- | --- | --- |"
    for work, peer, lines in RATIOS:
        yield f"| {work} | {peer} | {' / '.join(_short(min(found[line])) for line in lines)} |"


def _short(x: float) -> str:
    return f"{x:.0f}" if x >= 10 else f"{x:.1f}" if x >= 1 else f"{x:.2f}"


def stored(files: Sequence[str]) -> dict[str, Any]:
    """Readings of ``report.py --json`` as they are kept."""
    runs = [json.loads(Path(name).read_text(encoding="utf-8")) for name in files]
    ratios: dict[tuple[str, str], list[float]] = {}
    for line in (line for run in runs for line in run if line["kind"] == "time"):
        ratios.setdefault((line["work"], line["peer"]), []).append(round(line["ratio"], 3))
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [{"work": w, "peer": p, "ratios": r} for (w, p), r in ratios.items()]
    return {"date": time.strftime("%Y-%m-%d"), "commit": commit.strip(), "lines": lines}


def block(text: str, name: str) -> tuple[str, str, str]:
    """README before, in and after the block of a name."""
    before, mark, rest = text.partition(f"<!-- figures: {name} -->\n")
    inside, end, after = rest.partition("<!-- end -->\n")
    if not mark or not end:
        raise ValueError(f"README.md has no block '<!-- figures: {name} -->' ... '<!-- end -->'")
    return before + mark, inside, end + after


def put(text: str, name: str, lines: Sequence[str]) -> str:
    """README with these lines in the block of a name."""
    before, _, after = block(text, name)
    return f"{before}\n{chr(10).join(lines)}\n\n{after}"


def main() -> None:
    """Write README.md, and what could not be taken anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--readings", nargs="+", metavar="FILE", help="report.py --json FILE, twice"
    )
    options = parser.parse_args()
    if options.readings:
        text = json.dumps(stored(options.readings), indent=1)
        READINGS.write_text(re.sub(r"\n  +|\n }", " ", text) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    absent = [name for name in ("numpy", "jax", "torch", "cupy") if not usable(name)]
    text = with_examples(text)
    packages = {package for rows in COMPARED.values() for package, _ in rows} - {"retrograde"}
    lacking = sorted(name for name in packages if importlib.util.find_spec(name) is None)
    if lacking or {"jax", "torch"} & set(absent):
        print(f"left as it is: the table of compare, without {', '.join(lacking or absent)}")
    else:
        text = put(text, "compare", compare_lines(compared()))
    readings = json.loads(READINGS.read_text(encoding="utf-8"))
    text = put(text, "times", list(ratio_lines(readings)))
    README.write_text(text, encoding="utf-8")
    if absent:
        print(f"left as they are: the examples of {', '.join(absent)}")


if __name__ == "__main__":
    main()
