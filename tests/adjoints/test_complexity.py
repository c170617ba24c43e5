"""Work within the binomial bound and flat bytes, whatever the number of steps.

Counted are the runs that the documentation's figure is made of (``docs/figures/complexity.py``):
real gradients, and the same executor on a machine of integers where those take long.
"""

from __future__ import annotations

import pathlib
import runpy

import pytest

import retrograde as rg

_ROOT = pathlib.Path(__file__).parents[2]
_figure = runpy.run_path(str(_ROOT / "docs" / "figures" / "complexity.py"))
bound, on_integers, real = _figure["bound"], _figure["on_integers"], _figure["real"]
NOTED, STATE = _figure["NOTED"], _figure["STATE"]
SLOTS = {"16 slots": lambda n: 16, "log2(n) slots": _figure["log2_slots"]}
ADJOINTS = {"checkpoints": rg.RecursiveCheckpointAdjoint, "backsolve": rg.BacksolveAdjoint}
slow = pytest.mark.slow


@pytest.mark.parametrize("n", [100, 1000, pytest.param(10_000, marks=slow)])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_steps_of_real_gradients_stay_within_the_bound(adjoint, slots, n):
    c = SLOTS[slots](n)
    taken = real(n, ADJOINTS[adjoint](c)).steps
    assert n <= taken <= 1.1 * bound(n, c)
    if adjoint == "checkpoints":  # the optimum itself, and the planner's look at f
        assert taken == pytest.approx(bound(n, c), abs=1)
    elif c < n**0.5:
        assert taken <= 2 * n + 1


@pytest.mark.parametrize(
    "n", [100, 1000, 10_000, *(pytest.param(n, marks=slow) for n in (100_000, 1_000_000))]
)
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("inverting", [False, True])
def test_steps_of_the_executor_stay_within_the_bound(inverting, slots, n):
    c = SLOTS[slots](n)
    steps, stored = on_integers(n, c, inverting=inverting)
    assert steps <= 1.1 * bound(n, c)
    assert stored <= c
    if inverting:
        assert steps <= 2 * n or steps == bound(n, c)


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_integers_take_the_steps_of_real_gradients(adjoint, slots, n):
    c = SLOTS[slots](n)
    steps, _ = on_integers(n, c, inverting=adjoint == "backsolve")
    assert real(n, ADJOINTS[adjoint](c)).steps == pytest.approx(steps, abs=1)


@pytest.mark.quick("noted")
@pytest.mark.parametrize(
    ("adjoint", "each"),
    [
        pytest.param(rg.RecursiveCheckpointAdjoint(16), 0, id="checkpoints"),
        pytest.param(rg.BacksolveAdjoint(16, guard=None), 0, id="stored"),
        pytest.param(rg.BacksolveAdjoint(16), NOTED, id="noted"),
    ],
)
def test_bytes_are_flat(adjoint, each):
    """But for a guard's notes, 32 B a step."""
    few, many = 200, 800
    sizes = [real(n, adjoint, size=True).bytes for n in (few, many)]
    assert sizes[0] < 40 * STATE
    assert sizes[1] - sizes[0] == pytest.approx(each * (many - few), abs=STATE)
