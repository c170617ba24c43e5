"""The promises of the planner over the whole range of budgets, measured.

Budgets run from 1/64 to 64 times what storing every state takes, for four kinds of state, constant
and adaptive steps, on every library that keeps an account of its memory. Held to: measured peak
<= budget; predicted bytes as measured; most of the budget used where anything is recomputed;
work (calls of f, not seconds) that never rises with the budget and never jumps.

The table that these tests judge is printed by ``python tests/planner/budgets.py``.
"""

from __future__ import annotations

import itertools

import pytest

import retrograde as rg

from .budgets import CASES, CONTROLS, LIBRARIES, OverBudgets, Subject, faults, over_budgets

# --- the promises


def here(library: str) -> None:
    """Skip where a library is missing."""
    pytest.importorskip(library)


@pytest.mark.quick("numpy-oscillator")
@pytest.mark.parametrize("case", ["oscillator", "batch"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_promises_hold_at_some_budgets(library: str, case: str) -> None:
    here(library)
    assert not faults(library, over_budgets(library, case, "constant", (-4, -2, 0)))


@pytest.mark.quick("numpy", "torch")
@pytest.mark.parametrize("library", LIBRARIES)
def test_promises_hold_for_adaptive_steps(library: str) -> None:
    here(library)
    assert not faults(library, over_budgets(library, "tree", "adaptive", (-5, -3)))


# The sum of a step's arrays is up to a third too high where few slots are bought (a tree of seven
# slots on NumPy: 22 % of the plan is not taken), and for NumPy's
# adaptive steps: arrays of the solve itself, which are free by then, serve the pull as well.
# On JAX, clocked windows of two numbers are charged more than XLA takes. One tape at a time
# is charged on PyTorch for fields that hand on parts of their state, which few do.
TOO_HIGH = {
    ("numpy", "large", "adaptive"),
    ("numpy", "tree", "constant"),
    ("numpy", "tree", "adaptive"),
    ("torch", "oscillator", "adaptive"),
    ("jax", "oscillator", "adaptive"),
    ("torch", "large", "constant"),
    ("torch", "large", "adaptive"),
    ("torch", "tree", "constant"),
}
"""Where a prediction is more than 15 % above what is measured, or under 70 % is used."""

WHOLE = list(itertools.product(LIBRARIES, CASES, CONTROLS))


def kept(found: OverBudgets) -> bool:
    """Whether no gradient took more than its budget."""
    return all(row.measured <= row.budget for row in found.rows)


@pytest.mark.slow
@pytest.mark.parametrize(("library", "case", "control"), WHOLE)
def test_promises_hold_over_the_whole_range(library: str, case: str, control: str) -> None:
    here(library)
    found = over_budgets(library, case, control)
    assert found.rows
    assert kept(found)
    wrong = faults(library, found)
    if (library, case, control) in TOO_HIGH:
        assert wrong, "better than it was: take it off the list"
        pytest.xfail(f"known: {wrong}")
    assert not wrong


@pytest.mark.parametrize(
    "library", ["numpy", *(pytest.param(x, marks=pytest.mark.slow) for x in ("torch", "jax"))]
)
def test_no_cliff_at_the_bound_of_steps(library: str) -> None:
    """``max_steps`` = n, n + 1, 2 n, 8 n: neighbours differ by less than 2 in work and bytes."""
    here(library)
    n = Subject(library, "tree", "adaptive").taken()
    budget, work, sizes = 2**22, [], []
    for bound in (n, n + 1, 2 * n, 8 * n):
        row = Subject(library, "tree", "adaptive", max_steps=bound).row(budget)
        assert row is not None
        work.append(row.work)
        sizes.append(row.measured)
    assert max(work) < 1.1 * min(work)
    assert all(b <= 2.1 * a for a, b in itertools.pairwise(sizes))


def test_what_does_not_fit_is_itemised_on_every_library() -> None:
    for library in LIBRARIES:
        here(library)
        with pytest.raises(rg.PlanInfeasible, match="the smallest plan needs"):
            Subject(library, "tree", "constant").plan(30_000)
