"""A reversal executed on a machine made of integers and sets, which knows what is legal.

A state is the number of steps behind it. The machine can advance the state it holds, copy it into
a slot, restore a slot, and reverse step ``i`` from state ``i`` and from nothing else. It follows
the library's reversal turn by turn, counts, and refuses whatever a real one could not do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from retrograde._checkpointing.schedules import split


@dataclass
class SetMachine:
    """`slots` states, a replay window of `window` states, and one state at hand."""

    slots: int
    window: int = 1
    stored: dict[int, int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    most_held: int = 0
    swept: int = 0
    advances: int = 0
    reversed: list[int] = field(default_factory=list)

    def store(self, slot: int, state: int) -> None:
        """Overwrite `slot`, which must exist, by `state`, which must not be held already."""
        assert 0 <= slot < self.slots
        assert state not in self.stored.values()
        self.stored[slot] = state
        self.used.add(slot)
        self.most_held = max(self.most_held, len(self.stored))

    def forward(self, n: int, placements: Iterable[tuple[int, int]]) -> None:
        """Advance from ``y0`` to state `n`, storing (state, slot) on the way."""
        placements = iter(placements)
        due, slot = next(placements)
        assert due == 0
        for state in range(n):
            if state == due:
                self.store(slot, state)
                due, slot = next(placements, (n, -1))
            self.swept += 1
        assert due >= n, "placements must come in order"

    def reverse(self, n: int) -> None:
        """Reverse all steps, leaf by leaf, from what is stored."""
        by_state = sorted(self.stored, key=self.stored.__getitem__)
        order = by_state + sorted(set(range(self.slots)) - set(by_state))
        top, end = len(by_state), n
        while end > 0:
            state = self.stored[order[top - 1]]
            while end - state > self.window:
                blocks = -(-(end - state) // self.window)
                state += (ahead := self.window * split(blocks, self.slots - top + 1))
                self.advances += ahead
                assert state < end
                if top < self.slots:
                    self.store(order[top], state)
                    top += 1
            leaf = list(range(state, end))
            assert len(leaf) <= self.window
            self.advances += len(leaf) - 1
            self.reversed += leaf[::-1]
            end = state
            while top and self.stored[order[top - 1]] >= end:
                top -= 1
                del self.stored[order[top]]

    def check(self, n: int) -> None:
        """Every step reversed once, the last first, and nothing left behind."""
        assert self.swept == n
        assert self.reversed == list(range(n - 1, -1, -1))
        assert not self.stored
        assert self.most_held <= self.slots


@pytest.fixture(scope="session")
def run_machine():
    """Execute a whole gradient: ``run_machine(n, slots, placements, window=1) -> SetMachine``."""

    def run(n, slots, placements, window=1):
        machine = SetMachine(slots, window)
        machine.forward(n, placements)
        machine.reverse(n)
        machine.check(n)
        return machine

    return run
