"""Leaves of several steps: the smallest segments, and the advances executed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograde._schedules import (
    block_advances,
    block_positions,
    choose_segments,
    events,
    extra_advances,
)


def test_segments_take_the_fewest_states():
    for n in range(1, 1200):
        fewest = min(slots + -(-n // slots) for slots in range(1, n + 1))
        chosen = choose_segments(n, fewest)
        assert sum(chosen) == fewest
        assert chosen.slots * chosen.window >= n
        assert choose_segments(n, fewest + 7) == chosen
        assert choose_segments(n, fewest - 1) is None


@given(n=st.integers(1, 2000))
def test_segments_pay_less_than_one_extra_sweep(run_machine, n):
    slots, window = choose_segments(n, 10**6)
    placements = zip(block_positions(n, slots, window), range(slots), strict=False)
    assert run_machine(n, slots, placements, window).advances == n - -(-n // window)


@given(n=st.integers(1, 600), slots=st.integers(1, 20), window=st.integers(1, 30))
def test_executed_advances_equal_the_formula(run_machine, n, slots, window):
    placements = zip(block_positions(n, slots, window), range(slots), strict=False)
    machine = run_machine(n, slots, placements, window)
    assert machine.advances == block_advances(n, slots, window)


@given(n=st.integers(1, 600), slots=st.integers(1, 20), window=st.integers(1, 30))
def test_event_table_in_units_of_blocks(run_machine, n, slots, window):
    blocks = -(-n // window)
    indices, rows = events(slots).upto(blocks)
    placements = zip((window * i for i in indices), rows, strict=True)
    machine = run_machine(n, slots, placements, window)
    assert machine.advances == window * events(slots).extra_advances(blocks) + n - blocks


@given(n=st.integers(0, 10**6), slots=st.integers(1, 1000))
def test_leaves_of_one_step_are_the_binomial(n, slots):
    assert block_advances(n, slots, 1) == extra_advances(n, slots)


def test_no_steps_have_no_segments():
    with pytest.raises(ValueError, match="`n` >= 1"):
        choose_segments(0, 10)
