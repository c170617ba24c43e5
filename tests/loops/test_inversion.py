"""Walking back by inverted steps on a machine of integers: the state before step i is the number i.

Some steps invert to a wrong number, which stays wrong until the walk finds a true one. Whatever
fails: every step is pulled once for good, in order, from its own state, if a guard looks at it.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograde._backend.clock import HostClock
from retrograde._checkpointing import FAR, Slots, checkpointed_for, schedules
from retrograde._checkpointing.reverse_by_inversion import Invertible, reverse_inverting
from retrograde._checkpointing.schedules import replay_limit
from retrograde.backend import EagerBackend

MACHINE = EagerBackend(None)
WRONG = 10**6
lengths = st.integers(0, 150)
slots = st.integers(1, 12)
guards = st.sampled_from([1, 2, 7, None])
failures = st.sets(st.integers(0, 149), max_size=8)


def walk(n, c, every, bad=(), *, corrected=False, cured=()):
    """(pulled (step, state) pairs, replayed steps, inverted steps, report)."""
    index = (*schedules.positions(n, c), FAR)
    plan = Slots(c, index, tuple(range(len(index))), 1, n)
    _, stored = checkpointed_for(
        MACHINE, n, (0,), lambda i, s: (s[0] + 1,), lambda s: s[0], plan, None
    )
    replayed, inverted = [], []

    def advance(i, y):
        replayed.append(i)
        return y + 1

    def invert(i, y):
        inverted.append(i)
        return y - 1 + (WRONG if i in bad else 0)

    step = Invertible(
        advance=advance,
        pull=lambda i, y, carry: [*carry, (i, y)],
        invert=invert,
        correct=lambda y, after, x: x - 1 if x in cured else y,
        error=lambda i, y: 0.0 if y == i else 1.0,
        apart=lambda x, y: 0.0 if x == y else 1.0,
        every=every,
        tolerance=0.5,
        corrected=corrected,
    )
    carry, report = reverse_inverting(MACHINE, plan, stored, (n, n), step, [], HostClock())
    return carry, replayed, inverted, report


@given(n=lengths, c=slots, every=guards, bad=failures)
def test_every_step_is_pulled_from_its_own_state(n, c, every, bad):
    carry, _, _, report = walk(n, c, every, bad)
    assert carry == [(i, i) for i in reversed(range(n))]
    assert report.error == 0.0
    assert 0 <= report.inverted <= n


@given(n=lengths, c=slots, every=guards)
def test_what_inverts_is_not_replayed(n, c, every):
    _, replayed, inverted, report = walk(n, c, every)
    assert report.inverted == len(inverted)
    ranges = len(schedules.positions(n, c))
    # what is left are ends of ranges that are no dearer to replay, each checked at most once
    assert len(replayed) <= sum(replay_limit(c, 1) for _ in range(ranges)) + ranges
    if c == 1:
        assert report.inverted >= n - 3


@given(n=lengths, c=slots)
def test_where_nothing_inverts_it_costs_what_checkpoints_cost(n, c):
    """But for one try in each range between stored states."""
    _, replayed, inverted, report = walk(n, c, 1, bad=range(n))
    assert len(replayed) == schedules.extra_advances(n, c)
    assert len(inverted) <= c
    assert report.inverted == 0


@given(n=lengths, c=slots, bad=failures)
def test_a_failure_behind_waiting_pulls_is_the_last_one(n, c, bad):
    """A guard of the stored states alone tells late: then nothing more is inverted."""
    _, _, inverted, report = walk(n, c, None, bad)
    if bad & set(inverted):
        low = min(inverted)
        first = min(i for i in bad & set(inverted))
        assert low <= first
        assert report.inverted <= n - first
    else:
        assert report.inverted == len(inverted)


def test_corrections_only_where_a_replay_would_cost_more():
    n = 100
    cured = range(1, n + 1)
    _, replayed, _, report = walk(n, 1, 1, bad=range(n), corrected=True, cured=cured)
    assert report.inverted == n - replay_limit(1, 2)
    assert len(replayed) <= n + replay_limit(1, 2) ** 2
    # many slots: a replay takes less than two steps for each of a range
    _, _, inverted, report = walk(n, 13, 1, bad=range(n), corrected=True, cured=cured)
    assert report.inverted == 0
    assert len(inverted) <= 13


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("room", [3, 4, 7, 20, 100])
def test_replay_limit_is_the_longest_range(room, repeats):
    limit = replay_limit(room, repeats)
    assert schedules.total_advances(limit, room) <= repeats * limit
    assert schedules.total_advances(limit + 1, room) > repeats * (limit + 1)


def test_no_steps():
    assert walk(0, 3, 1)[0] == []
