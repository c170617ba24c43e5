"""README's Python code prints what README says, and its tables are what their commands print.

``python docs/figures/readme.py`` writes all of these figures anew.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = runpy.run_path(str(ROOT / "docs" / "figures" / "readme.py"))
EXAMPLES, _library = FIGURES["EXAMPLE"].findall(README), FIGURES["library_of"]
REQUIRED = os.environ.get("RETROGRADE_REQUIRE", "").replace(",", " ").split()


def _skip_without(library: str) -> None:
    if library in REQUIRED:
        return
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if library == "cupy" and not importlib.import_module("cupy").is_available():
        pytest.skip("cupy finds no device")


def _words_and_numbers(text: str) -> tuple[list[str], list[float]]:
    """A plan's bytes differ a little between versions of Python; its words do not."""
    return re.findall(r"[^\d\s.]+", text), [float(x) for x in re.findall(r"\d+(?:\.\d+)?", text)]


def test_every_library_has_an_example() -> None:
    assert {_library(code) for code, _ in EXAMPLES} == {"numpy", "jax", "torch", "cupy"}


@pytest.mark.parametrize(
    ("code", "printed"), EXAMPLES, ids=[_library(code) for code, _ in EXAMPLES]
)
def test_example_runs_and_prints_what_the_readme_says(code: str, printed: str) -> None:
    _skip_without(_library(code))
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    words, numbers = _words_and_numbers(done.stdout)
    expected_words, expected_numbers = _words_and_numbers(printed)
    assert words == expected_words
    assert numbers == pytest.approx(expected_numbers, rel=0.1)


def _shown() -> dict[tuple[str, str], list[str]]:
    """Cells of README's table of gradient methods, by library and package with method."""
    library, cells = "", {}
    for line in FIGURES["block"](README, "compare")[1].splitlines()[4:-2]:
        parts = re.split(r" {2,}", line.strip())
        library = line if len(parts) == 1 else library
        if len(parts) > 1:
            cells[library, parts[0] + " " + parts[1].partition(":")[0]] = parts[1:]
    return cells


def _holds(rows: list[object], shown: dict[tuple[str, str], list[str]]) -> None:
    """Methods and bytes kept are as README says; peaks and errors are about that."""
    assert rows
    printed = {(row.library, f"{row.package} {row.method}"): row for row in rows}
    table = FIGURES["compare_lines"](rows)
    for key, row in printed.items():
        assert not row.failed
        method, residual, peak, error = shown[key]
        assert any(method in line for line in table)
        assert f"{row.residual_bytes:,}" == residual
        assert row.peak_bytes == pytest.approx(int(peak.replace(",", "")), rel=0.15)
        said = float(error.removesuffix(" !"))
        assert row.error == pytest.approx(said, rel=0.1) or (row.error < 1e-12 and said < 1e-12)


@pytest.mark.quick("jax")
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_the_table_of_methods_is_what_compare_prints(library: str) -> None:
    _skip_without(library)
    packages = ("retrograde", "jax", "torchdiffeq")
    _holds(FIGURES["compared"]([library], packages), _shown())


@pytest.mark.slow
def test_the_rows_of_diffrax_too() -> None:
    pytest.importorskip("diffrax")
    _holds(FIGURES["compared"](["jax"], ("diffrax",)), _shown())


def test_the_table_of_times_is_that_of_its_readings() -> None:
    readings = json.loads(FIGURES["READINGS"].read_text(encoding="utf-8"))
    shown = FIGURES["block"](README, "times")[1].split("\n")
    assert shown == ["", *FIGURES["ratio_lines"](readings), "", ""]
    assert {"date", "commit"} <= set(readings)
    assert all(len(line["ratios"]) >= 2 for line in readings["lines"])
