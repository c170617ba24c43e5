"""The event table: its two rules, its distance from the optimum, and executed."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograde._checkpointing.schedules import (
    NEVER,
    EventTable,
    capacity,
    events,
    extra_advances,
    total_advances,
)


def placements(slots, n):
    return zip(*events(slots).upto(n), strict=True)


def ratio(slots, n):
    """Advances of the whole gradient over those of the binomial optimum."""
    return (n + events(slots).extra_advances(n)) / (n + extra_advances(n, slots))


def cost(held, n, slots):
    """Advances that reverse `n` steps from the states `held`."""
    lengths = [b - a for a, b in pairwise([*held, n])]
    return sum(total_advances(length, slots - k) for k, length in enumerate(lengths))


def greedy(stored, slots, states):
    """Yield the marginal-cost rule's overwrites: at every state, every slot is tried."""
    for state in states:
        held = sorted(stored)
        trials = [[q for q in held if q != dropped] + [state] for dropped in held[1:]]
        least, dropped = min(
            (cost(trial, state + 1, slots), q) for trial, q in zip(trials, held[1:], strict=True)
        )
        if least < cost(held, state + 1, slots):
            stored[state] = stored.pop(dropped)
            yield state, stored[state]


@pytest.mark.parametrize("slots", [2, 3, 4, 8, 13])
def test_table_is_the_step_by_step_rule_once_two_advances_do_not_suffice(slots):
    n, early = 400, capacity(slots, 2) - 1
    state_in = {slot: state for state, slot in placements(slots, early)}
    stored = {state: slot for slot, state in state_in.items()}
    table = [event for event in placements(slots, n) if event[0] >= early]
    assert table == list(greedy(stored, slots, range(early, n)))


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 21, 60])
def test_optimal_wherever_the_solve_stops_within_two_passes(slots):
    for n in range(1, capacity(slots, 2)):
        assert events(slots).extra_advances(n) == extra_advances(n, slots)


@given(n=st.integers(1, 500), slots=st.integers(1, 40))
def test_executed_advances_equal_the_formula(run_machine, n, slots):
    machine = run_machine(n, slots, placements(slots, n))
    assert machine.advances == events(slots).extra_advances(n)
    assert machine.advances <= total_advances(n, slots)
    assert len(machine.used) == min(n, slots)


@pytest.mark.parametrize(("slots", "bound"), [(2, 1.16), (3, 1.07), (4, 1.07)])
def test_few_slots_stay_near_the_optimum(slots, bound):
    ratios = [ratio(slots, n) for n in range(1, 1500)]
    assert max(ratios) <= bound
    assert sum(ratios) <= 1.02 * len(ratios)


@pytest.mark.parametrize("slots", [5, 6, 8, 11, 16, 32, 64, 65, 200])
def test_from_five_slots_within_five_percent_of_the_optimum(slots):
    counts = [*range(1, 600, 2), *range(600, 4000, 41), *range(4000, 20000, 499)]
    ratios = [ratio(slots, n) for n in counts]
    assert max(ratios) <= 1.05
    assert sum(ratios) <= 1.012 * len(ratios)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [5, 8, 16, 32, 64])
def test_every_length_is_within_five_percent_of_the_optimum(slots):
    assert max(ratio(slots, n) for n in range(1, 20_001)) <= 1.05


@pytest.mark.parametrize("slots", [3, 16, 64, 1000, 2048])
def test_long_tables_stay_small_and_near_the_optimum(slots):
    indices, _ = events(slots).upto(10**6)
    assert len(indices) <= 34_000
    assert all(a < b for a, b in pairwise(indices))
    for n in (30_000, 137_111, 517_000, 999_999):
        assert ratio(slots, n) <= 1.02


def test_asking_one_by_one_equals_asking_at_once():
    table = EventTable(7)
    one_by_one = [(table.index(e), table.slot(e)) for e in range(150)]
    n = one_by_one[-1][0] + 1
    assert one_by_one == list(zip(*EventTable(7).upto(n), strict=True))
    assert one_by_one[:7] == [(i, i) for i in range(7)]


def test_one_slot_holds_y0_for_ever():
    table = EventTable(1)
    assert (table.index(0), table.slot(0), table.index(1), table.index(5)) == (0, 0, NEVER, NEVER)
    assert table.upto(1000) == ((0,), (0,))
    assert table.positions(1000) == (0,)
    assert table.extra_advances(1000) == extra_advances(1000, 1)


def test_more_slots_than_steps_cost_nothing():
    # A budget of gigabytes and a state of bytes: the table must not be as long as the slots.
    table = EventTable(10**12)
    assert table.upto(3) == ((0, 1, 2), (0, 1, 2))
    assert table.positions(5) == (0, 1, 2, 3, 4)
    assert table.extra_advances(5) == 0


def test_threads_share_a_table():
    table, expected = EventTable(8), EventTable(8).upto(20_000)
    found = []
    threads = [threading.Thread(target=lambda: found.append(table.upto(20_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_no_slots_are_refused():
    with pytest.raises(ValueError, match="slots"):
        events(0)
