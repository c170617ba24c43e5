"""The binomial schedule: closed formulas against dynamic programming, and executed."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograde._checkpointing.schedules import (
    capacity,
    extra_advances,
    positions,
    repeats,
    split,
    total_advances,
)


@cache
def fewest(length, slots):
    """Fewest advances by trying every split; knows no binomial coefficient."""
    if length <= 1:
        return 0
    if slots == 1:
        return length - 1 + fewest(length - 1, 1)
    return min(after(length, slots, m) for m in range(1, length))


def after(length, slots, m):
    return m + fewest(length - m, slots - 1) + fewest(m, slots)


def cost_of(length, slots, m):
    """Total advances if a range is first split at `m`, and optimally from there."""
    return m + total_advances(length - m, slots - 1) + total_advances(m, slots)


@pytest.mark.parametrize("slots", range(1, 9))
def test_total_advances_is_the_optimum_by_dynamic_programming(slots):
    assert [total_advances(n, slots) for n in range(120)] == [fewest(n, slots) for n in range(120)]


@pytest.mark.parametrize("slots", range(2, 9))
def test_split_is_the_largest_optimal_one(slots):
    for length in range(2, 120):
        best = [m for m in range(1, length) if after(length, slots, m) == fewest(length, slots)]
        assert split(length, slots) == max(best)


@given(n=st.integers(0, 10**7), slots=st.integers(1, 200))
def test_repeats_is_the_least_with_enough_capacity(n, slots):
    if slots == 1:
        n %= 1000
    r = repeats(n, slots)
    assert n <= capacity(slots, r)
    assert r == 0 or n > capacity(slots, r - 1)


@given(length=st.integers(2, 10**7), slots=st.integers(2, 5000))
def test_split_keeps_the_optimum_at_any_size(length, slots):
    assert cost_of(length, slots, split(length, slots)) == total_advances(length, slots)


def test_split_of_one_slot_runs_to_the_last_step():
    assert [split(length, 1) for length in (2, 3, 100)] == [1, 2, 99]


@given(n=st.integers(1, 400), slots=st.integers(1, 40))
def test_executed_advances_equal_the_formula(run_machine, n, slots):
    machine = run_machine(n, slots, zip(positions(n, slots), range(slots), strict=False))
    assert machine.advances == extra_advances(n, slots)
    assert machine.most_held == min(n, slots)


def test_four_steps_in_four_slots_use_them_all(run_machine):
    # pyrevolve#19 left one unused, and paid an advance for it.
    assert positions(4, 4) == (0, 1, 2, 3)
    machine = run_machine(4, 4, zip(positions(4, 4), range(4), strict=True))
    assert machine.used == {0, 1, 2, 3}
    assert machine.advances == 0


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 20, 64])
def test_no_slot_is_left_unused(slots):
    for n in range(1, 300):
        assert len(positions(n, slots)) == min(n, slots)


@given(slots=st.integers(1, 300))
def test_one_extra_pass_reaches_as_far_as_two_repeats(slots):
    reach = capacity(slots, 2) - 1
    assert extra_advances(slots, slots) == 0
    assert extra_advances(reach, slots) <= reach
    assert extra_advances(reach + 1, slots) == extra_advances(reach, slots) + 2


@pytest.mark.parametrize("call", [repeats, total_advances, extra_advances, positions])
@pytest.mark.parametrize(("n", "slots"), [(3, 0), (-2, 3)])
def test_impossible_schedules_are_refused(call, n, slots):
    with pytest.raises(ValueError, match="slots"):
        call(n, slots)


@pytest.mark.parametrize(("length", "slots"), [(1, 3), (3, 0)])
def test_impossible_splits_are_refused(length, slots):
    with pytest.raises(ValueError, match="cannot split"):
        split(length, slots)
