"""The benchmarks time what is accurate alone, and the report's verdicts mean what they say."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("scipy")

BENCH = Path(__file__).parents[2] / "asv_bench"


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports of benchmark modules that leave neither settings of the process nor themselves.

    What they import stays: parts of NumPy can't be loaded twice.
    """
    with mock.patch.dict(os.environ), mock.patch.object(sys, "path", [str(BENCH), *sys.path]):
        yield importlib.import_module
    for name in [n for n in sys.modules if n.split(".")[0] in ("benchmarks", "report")]:
        del sys.modules[name]


@pytest.mark.parametrize("what", ["forward", "gradient"])
def test_what_misses_its_accuracy_is_not_timed(load: Any, what: str) -> None:
    backends, problems = load("benchmarks._backends"), load("benchmarks._problems")
    rough = dataclasses.replace(problems.lotka_volterra(), rtol=1e-2, atol=1e-2)
    message = r"lotka_volterra has a relative error of \d.\de[-+]\d\d, above its target of 1e-03"
    with pytest.raises(ArithmeticError, match=message):
        getattr(backends, f"checked_{what}")("numpy", rough)


def test_what_is_absent_is_skipped(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("benchmarks._peers")
    monkeypatch.setattr(peers.SciPy, "module", "no_such_library")
    with pytest.raises(NotImplementedError, match="SciPy: No module named 'no_such_library'"):
        peers.peer(peers.SciPy)


@pytest.mark.parametrize(
    ("value", "known", "verdict"),
    [((6.0, 10.0), None, "pass"), ((7.0, 10.0), None, "FAIL"), ((7.0, 10.0), 0.7, "MISS, known"),
     ((8.0, 10.0), 0.7, "FAIL")],
)  # fmt: skip
def test_facts_pass_or_fail(load: Any, value: Any, known: float | None, verdict: str) -> None:
    report, cases = load("report"), load("benchmarks._cases")
    fact = cases.Fact("X1", "bytes", "B", 0.6, lambda: value, "peer", known, "a reason")
    line = report.checked(fact)
    assert line.verdict.startswith(verdict)
    assert line.failed == (verdict == "FAIL")
    assert line.missed == (verdict != "pass")
    assert f"{value[0]:.0f} B" in report.render([line])


def test_a_faster_run_that_is_less_accurate_fails(load: Any) -> None:
    report, cases = load("report"), load("benchmarks._cases")
    ours = cases.Entrant(lambda: 1e-3, lambda found: found)
    exact = cases.Entrant(lambda: 1e-6, lambda found: found)
    rival = cases.Rival("X1", "peer", 0.01, lambda: exact)
    (line,) = report.timed(cases.Case("work", lambda: ours, (rival,), quick=True), None, True)
    assert line.verdict == "FAIL: error 1.0e-03, the peer's 1.0e-06"


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "jax", "cupy"])
def test_rows_of_a_gpu_run_where_none_is(load: Any, library: str) -> None:
    """On the CPU, at a thousandth of their size; NumPy stands in for CuPy."""
    pytest.importorskip("torchdiffeq")
    pytest.importorskip("diffrax")
    backends, rows = load("benchmarks._backends"), load("benchmarks._rows_device")
    instead = {"cupy": backends.NumPy}
    with mock.patch.dict(backends._CLASSES, instead), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in getattr(rows, f"{library}_rows")(1000):
            if hasattr(case, "ours") and "compiled" not in case.work:
                for make in (case.ours, *(r.make for r in case.rivals)):
                    entrant = make()
                    assert entrant.error(entrant.run()) < 1e-2, case.work


def test_the_command_for_a_gpu_ends_what_runs_out_of_time(tmp_path: Path) -> None:
    gpu: Any = types.ModuleType("ci_gpu")
    gpu.__file__ = str(BENCH.parent / ".ci" / "gpu")
    with mock.patch.dict(sys.modules, ci_gpu=gpu):
        exec(compile(Path(gpu.__file__).read_text(), gpu.__file__, "exec"), gpu.__dict__)
    gpu.LOGS = tmp_path
    long = gpu.begin("long", ["-uc", "import time; print('begun'); time.sleep(60)"], 1.0)
    short = gpu.begin("short", ["-c", "print('done')"], 60.0)
    wrong = gpu.begin("wrong", ["-c", "raise SystemExit('a reason')"], 60.0)
    found = [(x.verdict, x.said()) for x in map(gpu.finish, (long, short, wrong))]
    assert found == [("OUT OF TIME", ["begun"]), ("passed", ["done"]), ("FAILED", ["a reason"])]
    assert long.process.poll() is not None


def test_one_period_is_the_reference_of_all(load: Any) -> None:
    grids = load("benchmarks._grids")
    whole, cell = grids.heat(64, 2.0, 0.1), grids.heat(32, 2.0, 0.1)
    direct = dataclasses.replace(whole, cell=None)
    assert np.allclose(whole.reference, direct.reference, rtol=0, atol=1e-10)
    assert whole.reference.shape == (64,)
    gradient = [np.ones(64), np.zeros(())]  # heat conserves the sum
    assert whole.cell.y0.shape == cell.y0.shape
    assert whole.gradient_error(gradient) < 1e-9
    assert whole.gradient_error([1.1 * np.ones(64), np.zeros(())]) > 1e-3
