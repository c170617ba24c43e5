"""Which states to keep, and which steps to run again: the integers behind every adjoint.

No arrays and nothing but the standard library: a schedule says *which*, the reversal in
`_checkpointing` does it. In this room:

* `binomial`: the number of steps is known. Positions, the optimal split of a range, and the
  closed formulas for what reversing costs.
* `split_table`: the same splits by comparisons with one row of a table, for traced loops.
* `online`: the number of steps is not known. The `EventTable` of a number of slots lists the
  states to store and the slots to overwrite, near-optimal wherever the solve stops.
* `segments`: leaves of several steps, for executors whose bookkeeping costs as much as a step.

`n` counts accepted steps, a slot holds one state, `slots` include the one that holds ``y0``, and
"advances" are steps run again by the reversal, not those inside the vjps.

To add a schedule: one file with a function that returns the states to store in increasing order,
the first 0, with their slots (or an object with the methods of `EventTable`), a function for the
advances that reversing them costs, and a line below. The reversal needs nothing else, since it
splits what it finds; run the schedule on the set machine of ``tests/schedules`` to prove both.
"""

from .binomial import (
    capacity,
    extra_advances,
    positions,
    repeats,
    replay_limit,
    split,
    total_advances,
    twice,
)
from .online import NEVER, EventTable, events
from .segments import (
    Segments,
    block_advances,
    block_positions,
    choose_segments,
    segment_positions,
)
from .split_table import split_from_row, split_table, split_wide

__all__ = [
    "NEVER",
    "EventTable",
    "Segments",
    "block_advances",
    "block_positions",
    "capacity",
    "choose_segments",
    "events",
    "extra_advances",
    "positions",
    "repeats",
    "replay_limit",
    "segment_positions",
    "split",
    "split_from_row",
    "split_table",
    "split_wide",
    "total_advances",
    "twice",
]
