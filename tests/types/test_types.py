"""What type checkers say of right and wrong calls, and that all signatures are one."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import pathlib
import shutil
import subprocess
import sys
import typing

import pytest

import retrograde as rg
from retrograde import _adjoints, _solvers
from retrograde._api.options import AdjointName, Keywords, Options, SolverName

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
RIGHT, WRONG = HERE / "right_calls.py", HERE / "wrong_calls.py"


def wrong_lines():
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {i for i, line in enumerate(lines, 1) if line.startswith("rg.")}


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy_accepts_right_calls_and_rejects_wrong_ones():
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("no mypy")
    flags = ["--output=json", "--python-executable", sys.executable, "--explicit-package-bases"]
    out = run(sys.executable, "-m", "mypy", *flags, str(RIGHT), str(WRONG))
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    found = [(pathlib.Path(x["file"]).name, x["line"]) for x in found if x["severity"] == "error"]
    assert [x for x in found if x[0] != WRONG.name] == []
    assert {line for _, line in found} == wrong_lines()


def test_pyright_accepts_right_calls_and_rejects_wrong_ones():
    if shutil.which("pyright") is None:
        pytest.skip("no pyright")
    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, str(RIGHT), str(WRONG))
    found = [
        (pathlib.Path(x["file"]).name, x["range"]["start"]["line"] + 1)
        for x in json.loads(out)["generalDiagnostics"]
        if x["severity"] == "error"
    ]
    assert [x for x in found if x[0] != WRONG.name] == []
    assert {line for _, line in found} == wrong_lines()


@pytest.mark.parametrize("call", [rg.solve, rg.solve_vjp, rg.plan])
def test_signatures_have_one_source(call):
    """The keywords are those of ``Options``: names, order, types, and defaults."""
    options = dataclasses.fields(Options)
    found = inspect.signature(call).parameters
    keywords = [p for p in found.values() if p.kind is p.KEYWORD_ONLY and p.name != "calibrate"]
    assert list(found)[:5] == ["f", "y0", "t0", "t1", "args"]
    assert all(p.kind is not p.VAR_KEYWORD for p in found.values())
    assert [p.name for p in keywords] == [x.name for x in options]
    assert [p.annotation for p in keywords] == [x.type for x in options]
    assert [p.default for p in keywords] == [x.default for x in options]
    types = {name: x.__forward_arg__ for name, x in Keywords.__annotations__.items()}
    assert types == {x.name: x.type for x in options}


def test_names_in_types_are_all_names():
    assert {name.lower() for name in typing.get_args(SolverName)} == {
        *_solvers.BY_NAME,
        *_solvers.SCIPY,
    }
    assert set(typing.get_args(AdjointName)) == {"auto", *_adjoints.BY_NAME}
