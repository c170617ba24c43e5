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
    assert done.stdout == printed
