"""Leaves of several steps: the smallest segments, and the advances executed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograde._checkpointing.schedules import (
    block_advances,
    block_positions,
    choose_segments,
    events,
    extra_advances,
    segment_positions,
)


def test_segments_exist_from_the_fewest_states_on():
    for n in range(1, 1200):
        fewest = min(slots + -(-n // slots) for slots in range(1, n + 1))
        chosen = choose_segments(n, fewest)
        assert sum(chosen) == fewest
        assert chosen.slots * chosen.window >= n
        assert choose_segments(n, fewest - 1) is None


@given(n=st.integers(2, 3000), more=st.integers(0, 3000))
def test_segments_have_the_most_slots_that_the_states_allow(n, more):
    states = more + 2
    chosen = choose_segments(n, states)
    if chosen is not None:
        slots, window = chosen
        assert slots * window >= n
        assert slots + window <= states
        assert slots == n or (slots + 1) + -(-n // (slots + 1)) > states


@given(n=st.integers(1, 600), states=st.integers(2, 700))
def test_segments_replay_all_but_what_is_stored(run_machine, n, states):
    chosen = choose_segments(n, states)
    if chosen is not None:
        slots, window = chosen
        positions = segment_positions(n, slots)
        assert max(b - a for a, b in itertools.pairwise((*positions, n))) <= window
        machine = run_machine(n, slots, zip(positions, range(slots), strict=True), window)
        assert machine.advances == n - slots


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
