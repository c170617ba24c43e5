"""Random problems of every kind: solves and gradients are what differences say, or a clear error.

The seed is the day's; ``RETROGRADE_SEED`` sets it. A failure prints the command that runs its
problem again. ``tests/random_problems.py`` says what is drawn, and runs any number of them.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from ..random_problems import draw, installed, sought

pytestmark = pytest.mark.optimised

SEED = int(os.environ.get("RETROGRADE_SEED") or time.strftime("%Y%m%d"))
GROUPS = {("numpy", "torch", "strict"): 60, ("jax", "jax:jit"): 5}


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_random_problems(group: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    libraries = installed(group)
    if not libraries:
        pytest.skip(f"none of {group} is here")
    with capsys.disabled():
        print(f"\nrandom problems of seed {SEED} on {', '.join(libraries)}")
    found = list(sought(SEED, range(GROUPS[group]), libraries))
    refused = [(p, v) for p, v in found if v.kind == "clear error"]
    bad = [(p, v) for p, v in found if v.kind in ("wrong", "crash")]
    assert not bad, "\n\n".join(map(_stats, bad))
    assert len(refused) <= len(found) // 10, "\n\n".join(map(_stats, refused))


def _stats(pair: Any) -> str:
    problem, verdict = pair
    return f"{verdict.kind}: {problem.words}\n{verdict.why}\n{problem.command}"


def test_a_problem_depends_on_its_seed_and_number_alone() -> None:
    first, again = (draw(7, 3, ("numpy",)) for _ in range(2))
    assert first.words == again.words
    assert first.words != draw(7, 4, ("numpy",)).words != draw(8, 4, ("numpy",)).words
