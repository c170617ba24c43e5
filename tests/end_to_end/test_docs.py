"""The documentation names all that is public, and its table of choices says what it says."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import retrograde as rg

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MODULES = {"interpolate", "measure"}


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    entries = set((DOCS / "reference" / "index.md").read_text(encoding="utf-8").split())
    assert set(rg.__all__) - MODULES <= entries
    assert set(rg.measure.__all__) | set(rg.interpolate.__all__) <= entries


def test_every_page_is_in_the_index() -> None:
    pages = {p.relative_to(DOCS).with_suffix("") for p in DOCS.glob("*/*.md")}
    shown = re.findall(r"<([\w/-]+)>", (DOCS / "index.md").read_text(encoding="utf-8"))
    assert {str(page) for page in pages if page.parts[0] != "_build"} == set(shown)


def test_what_the_comparison_claims_has_the_test_that_it_names() -> None:
    page = (DOCS / "explanation" / "comparison.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(\.\./\.\./(tests/[^ )]+)(?: \"(\w+)\")?\)", page)
    assert len(links) > 30
    for path, name in links:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name or 'test_'}" in text, (path, name)


def test_the_figure_is_small() -> None:
    assert (DOCS / "figures" / "complexity.svg").stat().st_size < 150_000


def test_the_picture_of_the_house_shows_the_folders_that_are_there() -> None:
    house = runpy.run_path(str(DOCS / "figures" / "house.py"))
    assert house["SVG"].read_text(encoding="utf-8") == house["draw"]()


CHOICES = {
    "constant": {"ample": "RecursiveCheckpointAdjoint", "else": "BacksolveAdjoint"},
    "adaptive": {"ample": "RecursiveCheckpointAdjoint", "else": "RecursiveCheckpointAdjoint"},
    "reversible": {"ample": "RecursiveCheckpointAdjoint", "else": "ReversibleAdjoint"},
}


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_choices_are_what_the_page_says_of_them(library: str) -> None:
    pytest.importorskip(library)
    script = runpy.run_path(str(DOCS / "figures" / "choices.py"))
    for solve, budget, plan in script["choices"](library):
        expected = CHOICES[solve].get(budget, CHOICES[solve]["else"])
        if library == "torch" and budget == "ample":
            expected = "DirectAdjoint"
        assert plan.adjoint.name == expected
        assert plan.memory <= plan.budget
        inverted = "they are inverted" in plan.reason
        assert inverted == (budget == "tiny" and solve != "adaptive")


def test_a_time_in_a_comparison_has_the_gradient_that_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Zero without a warning; by ``jump_ts``, and by splitting the solve, 10 exp(-0.9)."""
    page = (DOCS / "how-to" / "switch_times.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```{code-cell}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    cells = [cell for cell in cells if "import matplotlib" not in cell]
    if importlib.util.find_spec("jax") is None:
        cells = [cell for cell in cells if "import jax" not in cell]
    exec("\n".join(cells), {"__name__": "page"})
    printed = capsys.readouterr().out
    # one cell shows the wrong one, and the last is of values alone
    assert re.findall(r"by stop (\S+)", printed) == ["0.0000", *["4.0657"] * (len(cells) - 2)]
    assert "jump_ts=None: 0.000000" in printed
    assert "jump_ts=[2.0, 2.01]: 4.071801" in printed
    level = 10 / 0.3 * (1 - np.exp(-0.6)) * np.exp(-0.9)
    assert [float(x) for x in re.findall(r"level (\S+),", printed)] == pytest.approx(
        [level] * 3, 1e-4
    )
    by_rate = re.findall(r"by rate (\S+),", printed)
    assert [float(x) for x in by_rate] == pytest.approx([level / 10] * 3, rel=1e-3)


def test_the_rectifier_has_the_ripple_of_a_tight_solve(capsys: pytest.CaptureFixture[str]) -> None:
    """1.41241 V; its derivative by differences of 1e-4 at rtol 1e-10."""
    page = (DOCS / "how-to" / "dae.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```{code-cell}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec("\n".join(x for x in cells if "import matplotlib" not in x), {"__name__": "page"})
    found = re.findall(r"ripple (\S+) V, by capacity (\S+) V", capsys.readouterr().out)
    assert [float(x) for x in found[0]] == pytest.approx([1.41241, -1.28722], abs=1e-3)


def test_lorenz_in_plain_python_has_the_gradient_that_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """d z(1) / d rho at 28 from (1, 1, 1): 0.446134893."""
    page = (DOCS / "how-to" / "plain_input.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```{code-cell}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec("\n".join(cells), {"__name__": "page"})
    found = re.findall(r"rho = (\S+)", capsys.readouterr().out)
    assert [float(x) for x in found] == pytest.approx([0.446134893], abs=2e-6)


def test_the_figures_of_costs_are_those_of_their_readings() -> None:
    script = runpy.run_path(str(DOCS / "figures" / "work_precision.py"))
    found = json.loads(script["READINGS"].read_text(encoding="utf-8"))
    for kind in script["LINES"]:
        path = DOCS / "figures" / f"work_precision_{kind}.svg"
        assert path.read_text(encoding="utf-8") == script["drawn"](kind, found)
    assert script["table"](found) in script["PAGE"].read_text(encoding="utf-8")
    script = runpy.run_path(str(DOCS / "figures" / "gradients.py"))
    found = json.loads(script["READINGS"].read_text(encoding="utf-8"))
    path = DOCS / "figures" / "gradients.svg"
    assert path.read_text(encoding="utf-8") == script["drawn"](found)


def test_files_that_pages_point_at_are_there() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md"), *DOCS.glob("*/*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        links = [x.partition("#")[0] for x in re.findall(r"\]\(([^)\s]+)", text) if ":" not in x]
        named = re.findall(r"`((?:docs|tests|src|asv_bench|backends)/[\w/.-]+)`", text)
        for path in [page.parent / x for x in links] + [ROOT / x for x in named]:
            assert path.exists(), (page, path)
