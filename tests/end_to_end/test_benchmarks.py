"""The benchmarks time what is accurate alone, and the report's verdicts mean what they say."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
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
