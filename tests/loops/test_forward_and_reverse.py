"""Going forward and reversing on a machine of integers: the state before step i is the number i.

Every schedule, every length: each step is reversed once, from its own state, in descending
order; what is executed equals the closed formulas; no more states are alive than slots.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograde._checkpointing import (
    FAR,
    Slots,
    checkpointed_for,
    checkpointed_while,
    reverse,
    schedules,
)
from retrograde.backend import EagerBackend

MACHINE = EagerBackend(None)
lengths = st.integers(0, 150)
rows = st.integers(1, 12)
windows = st.integers(1, 9)


def everything(n):
    return Slots(n, None, None, 1, n)


def segments(n, window):
    index = (*range(0, n, window), FAR)
    return Slots(-(-n // window), index, tuple(range(len(index))), window, n, segments=True)


def binomial(n, c, window=1):
    blocks = -(-n // window)
    index = (*(i * window for i in schedules.positions(blocks, c)), FAR)
    return Slots(c, index, tuple(range(len(index))), window, n)


def online(c, window=1):
    return Slots(c, *MACHINE.placements(c, None), window, None)


def run(slots, n, known=True):
    """(reversed steps, replayed steps, most rows alive) of n steps."""
    if known:
        s, stored = checkpointed_for(
            MACHINE, n, (0,), lambda i, s: (s[0] + 1,), lambda s: s[0], slots, None
        )
    else:
        body, running = (lambda s: (s[0] + 1,)), (lambda s: s[0] < n)
        s, stored = checkpointed_while(
            MACHINE, (0,), body, running, lambda s: (s[0], s[0]), slots, None
        )
    assert s[0] == n
    replayed, alive = [], []

    def advance(i, y):
        assert y == i
        replayed.append(i)
        return y + 1

    def pull(i, y, carry):
        assert y == i
        scratch = None if slots.everything else slots.rows
        alive.append(sum(row != scratch for row in stored.buffer))
        return [*carry, i]

    carry = reverse(MACHINE, slots, stored, n, (advance, pull), [], None)
    return carry, replayed, max(alive, default=0)


@given(n=lengths)
def test_everything_stored_replays_nothing(n):
    for known in (True, False):
        order, replayed, alive = run(everything(n), n, known)
        assert order == list(reversed(range(n)))
        assert replayed == []
        assert alive == n


@given(n=st.integers(1, 150), window=st.integers(2, 20))
def test_segments_take_one_more_pass_at_most(n, window):
    order, replayed, alive = run(segments(n, window), n)
    assert order == list(reversed(range(n)))
    assert len(replayed) == n - -(-n // window)
    assert alive <= -(-n // window)


@given(n=lengths, c=rows, window=windows)
def test_known_length_is_optimal(n, c, window):
    order, replayed, alive = run(binomial(n, c, window), n)
    assert order == list(reversed(range(n)))
    assert len(replayed) == schedules.block_advances(n, c, window)
    assert alive <= c


@given(n=lengths, c=rows)
def test_unknown_length_costs_what_the_event_table_says(n, c):
    order, replayed, alive = run(online(c), n, known=False)
    assert order == list(reversed(range(n)))
    assert len(replayed) == schedules.events(c).extra_advances(n)
    assert alive <= c


@given(n=st.integers(1, 150), c=rows)
def test_a_replay_is_no_longer_than_the_way_from_the_start(n, c):
    """No step is replayed that is not needed again: none beyond the last one to reverse."""
    for slots, known in ((binomial(n, c), True), (online(c), False)):
        _, replayed, _ = run(slots, n, known)
        assert max(replayed, default=0) < n - 1 or not replayed


@pytest.mark.parametrize("slots", [everything(0), segments(0, 4), binomial(0, 3), online(3)])
def test_no_steps(slots):
    assert run(slots, 0, known=slots.length is not None)[0] == []


def test_rejected_tries_store_the_same_row_again():
    """A body that leaves the index as it was: every state is still stored once, the right one."""

    def body(s):
        i, tries = s
        return (i, tries + 1) if tries % 3 == 0 else (i + 1, tries + 1)

    start, n = (0, 0), 20
    for slots in (everything(None), online(4)):
        s, stored = checkpointed_while(
            MACHINE, start, body, lambda s: s[0] < n, lambda s: (s[0], s[0]), slots, None
        )
        steps = ((lambda i, y: y + 1), (lambda i, y, g: [*g, (i, y)]))
        pairs = reverse(MACHINE, slots, stored, s[0], steps, [], None)
        assert pairs == [(i, i) for i in reversed(range(n))]


@pytest.mark.parametrize(
    "make",
    [everything, lambda n: segments(n, 5), lambda n: binomial(n, 4), lambda n: binomial(n, 3, 4)],
    ids=["everything", "segments", "binomial", "blocks"],
)
def test_compiled_loops_walk_the_same_way(backend, make):
    """A hash of (step, state) in the order of the pulls, on arrays, equals Python's."""
    bk, n = backend.bk, 23
    layout = bk.layout([backend.array([0.0])])

    def program(zero):
        plan = make(n)
        if not plan.everything:
            plan = plan._replace(index=bk.ints(plan.index), row=bk.ints(plan.row))
        one = layout.pack([zero + 1.0])
        _, stored = checkpointed_for(
            bk, n, (layout.pack([zero]),), lambda i, s: (layout.add(s[0], one),),
            lambda s: s[0], plan, layout,
        )  # fmt: skip

        def pull(i, y, carry):
            value = layout.unpack(y)[0]
            return (carry * 31.0 + value * 7.0 + i) % 100003.0

        advance = lambda i, y: layout.add(y, one)  # noqa: E731
        return reverse(bk, plan, stored, n, (advance, pull), zero, layout)

    expected = 0
    for i in reversed(range(n)):
        expected = (expected * 31 + i * 7 + i) % 100003
    actual = backend.compiled(program)(backend.array([0.0]))
    assert backend.to_numpy(actual).tolist() == [expected]
