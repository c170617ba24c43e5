"""The command line: exit codes, and one line for what a user got wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from retrograde import __version__
from retrograde._base.memory import MissingExtra, require
from retrograde._commands.main import main

WRONG = [
    (["demo", "--memory", "banana"], "'banana', which is no number of bytes"),
    (["--memory", "banana"], "'banana', which is no number of bytes"),
    (["demo", "--memory", "10", "--backends", "numpy"], "smallest plan needs"),
    (["demo", "--backends", "fortran"], "'fortran' is no array library"),
    (["demo", "--backends", ","], "no name given"),
    (["demo", "--starts", "0"], "'0' is no whole number"),
    (["demo", "--starts", "many"], "'many' is no whole number"),
    (["demo", "--frob"], "unrecognized arguments: --frob"),
    (["frob"], "frob"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--help"], ["demo", "--help"], ["info", "-h"], ["--version"]])
def test_help_and_version_exit_with_0(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "usage: retrograde" in out or out == f"retrograde {__version__}\n"


def test_info_tells_of_every_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    blocks = dict(block.split(maxsplit=1) for block in out.split("\n\n"))
    assert "cpu" in blocks["numpy"]
    assert "free of" in blocks["numpy"]
    for name in ("jax", "torch", "cupy"):  # found, or said in one line how to get it
        assert name in blocks or blocks[f"{name}:"].startswith(("not installed: pip", "can't"))


def test_the_module_runs_as_a_program() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "retrograde", "demo", "--starts", "-1"],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("retrograde demo: ")
    assert done.stdout == ""


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingExtra, match=r'no_such_thing: pip install "retrograde\[demo\]"'):
        require("no_such_thing.inside", "demo")
