"""The comparison: what it prints and writes, and that its figures mean what they say."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrograde as rg
from retrograde._commands.compare import measure as measuring
from retrograde._commands.compare.problem import lotka_volterra, relative_error, toy
from retrograde._commands.compare.rows import bench
from retrograde._commands.compare.session import Options, run
from retrograde._commands.compare.table import WIDTH
from retrograde._commands.main import main

SMALL = (toy(40), lotka_volterra(1.0))
KEYS = {
    "library", "package", "method", "chosen", "exact", "residual_bytes", "peak_bytes",
    "forward_seconds", "gradient_seconds", "compile_seconds", "error", "true_error", "failed",
    "fault",
}  # fmt: skip


def options(**more: Any) -> Options:
    small = Options(backends=("numpy",), problems=SMALL, quick=True, quiet=True)
    return replace(small, **more)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Text and JSON of one quick run."""
    path, out = tmp_path_factory.mktemp("compare") / "figures.json", io.StringIO()
    assert run(options(json=str(path)), out) == 0
    return out.getvalue(), json.loads(path.read_text())


def test_the_table_fits_and_has_a_row_for_each_method(small: tuple[str, dict[str, Any]]) -> None:
    text, figures = small
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for problem in figures["problems"]:
        assert f"{problem['name']}: {problem['title']}" in lines
        for row in problem["rows"]:
            start = rf"  {row['package']} +{re.escape(row['method'])}"
            assert any(re.match(start, line) for line in lines)
    assert "residual: bytes" in text


def test_json_has_one_schema(small: tuple[str, dict[str, Any]]) -> None:
    _, figures = small
    assert {"retrograde", "machine", "versions", "quick", "absent", "problems"} <= set(figures)
    assert [problem["name"] for problem in figures["problems"]] == ["toy", "lotka_volterra"]
    for problem in figures["problems"]:
        assert problem["rows"]
        for row in problem["rows"]:
            assert set(row) == KEYS
            measured = [row[key] for key in ("residual_bytes", "peak_bytes", "gradient_seconds")]
            assert all(x is None for x in measured) if row["failed"] else all(measured)


def test_exact_methods_are_exact(small: tuple[str, dict[str, Any]]) -> None:
    _, figures = small
    for problem in figures["problems"]:
        exact = [row for row in problem["rows"] if row["exact"] and not row["failed"]]
        assert len(exact) >= 4
        assert all(row["error"] <= 1e-10 for row in exact)


def test_less_budget_keeps_less(small: tuple[str, dict[str, Any]]) -> None:
    _, figures = small
    for problem in figures["problems"]:
        kept = [r["residual_bytes"] for r in problem["rows"] if r["method"].startswith("auto")]
        assert kept == sorted(kept, reverse=True)


def test_a_method_that_cannot_says_why_in_its_row(small: tuple[str, dict[str, Any]]) -> None:
    text, figures = small
    row = next(r for r in figures["problems"][0]["rows"] if r["method"] == "direct")
    assert "numpy has no autodiff" in row["failed"]
    assert not row["fault"]
    assert re.search(r"direct +`adjoint` is DirectAdjoint", text)


@pytest.mark.slow
def test_json_alone_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options(json="-", problems=SMALL[:1])) == 0
    assert json.loads(capsys.readouterr().out)["quick"] is True


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fault", "error"])
def test_a_fault_or_an_error_is_exit_code_1(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a made-up fault")

    made_up = broken if how == "fault" else lambda found, reference: 0.5
    monkeypatch.setattr(measuring, "relative_error", made_up)
    assert run(options(problems=SMALL[:1])) == 1
    out = capsys.readouterr().out
    assert ("RuntimeError: a made-up fault" if how == "fault" else "5.0e-01 !") in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--problems", "heat"], "'heat' is no problem"),
        (["--problems", ","], "no name given"),
        (["--backends", "fortran"], "'fortran' is no array library"),
        (["--frob"], "unrecognized arguments: --frob"),
        (["--plot", "/no/such/folder/x.png"], "its folder is not there"),
        (["--json", "/no/such/folder/x.json"], "its folder is not there"),
    ],
)
def test_a_wrong_argument_is_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_picture_and_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    picture = tmp_path / "out.png"
    assert run(options(plot=str(picture), quiet=False, progress=True, problems=SMALL[:1])) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    err = capsys.readouterr().err
    assert "toy: numpy" in err
    assert "timing" in err


def test_references_are_right() -> None:
    """Of the steps: the toy's published gradient. Of the true ODE: traps.md T1, and SciPy's."""
    exact = toy()
    assert exact.gradient(exact.grid(500)) == pytest.approx((-6.673239, 5.042737), abs=1e-6)
    assert exact.true_gradient() == pytest.approx((11.312883, -8.563734), abs=1e-5)
    solve_ivp = pytest.importorskip("scipy.integrate").solve_ivp
    problem = lotka_volterra()
    f = problem.field(np)

    def loss(x: np.ndarray) -> float:
        call = (lambda t, y: f(t, y, x[2:]), (0.0, problem.t1), x[:2], "DOP853")
        return float(solve_ivp(*call, rtol=1e-12, atol=1e-13).y[:, -1].sum())

    x = np.asarray([*problem.y0, *problem.args])
    units = 1e-4 * np.eye(6)
    differences = [(loss(x + u) - loss(x - u)) / 2e-4 for u in units]
    assert relative_error(problem.true_gradient(), differences) < 1e-6


def test_kept_arrays_are_counted_once_and_by_their_owner() -> None:
    """Every state of 40 steps, y0's included, the final one and a few numbers."""
    problem = toy(40)
    here = bench("numpy", problem)
    state = 16
    kept = here.ours({"adjoint": rg.RecursiveCheckpointAdjoint()}).residual_bytes()
    assert 40 * state <= kept <= 44 * state


@pytest.mark.slow
def test_everything_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--quick", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    rows = [row for problem in figures["problems"] for row in problem["rows"]]
    assert not [row for row in rows if row["fault"]]
    for row in rows:
        if row["exact"] and not row["failed"]:
            assert row["error"] <= 1e-10
    for row in figures["problems"][0]["rows"]:  # every continuous adjoint fails on the toy
        if row["package"] != "retrograde" and re.search("(?i)backsolve|odeint_adj", row["method"]):
            assert row["failed"] or row["error"] > 1
