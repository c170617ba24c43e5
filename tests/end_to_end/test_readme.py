"""The README's Python code runs in a fresh interpreter and prints what the README says."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
EXAMPLES = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
REQUIRED = os.environ.get("RETROGRADE_REQUIRE", "").replace(",", " ").split()


def _library(code: str) -> str:
    """The array library that an example imports."""
    return re.findall(r"^import (numpy|jax|torch|cupy)\b", code, re.MULTILINE)[0]


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
