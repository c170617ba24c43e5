"""The figure of ``explanation/adjoints``: work and bytes of a gradient over the number of steps.

``python docs/figures/complexity.py`` writes ``complexity.svg`` beside itself (minutes, NumPy).
Up to 10,000 steps everything is measured on real gradients of 256 oscillators by RK4: executed
steps by counting calls of f, bytes by tracemalloc (gradient minus solve). Above, steps are counted
on a machine of integers that runs the same executor (the state before step i is the number i, and
every inversion succeeds), and bytes go on by what each step adds: nothing for slots, 32 B for a
guard's notes. ``tests/adjoints/test_complexity.py`` holds both to the bound, and to each other.
"""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg
from retrograde._backend.clock import HostClock
from retrograde._checkpointing import FAR, Slots, checkpointed_for, reverse, schedules
from retrograde._checkpointing.reverse_by_inversion import Invertible, reverse_inverting
from retrograde.backend import EagerBackend

MEASURED = (100, 316, 1000, 3162, 10_000)
BEYOND = (31_623, 100_000, 316_228, 1_000_000)
PAIRS, STAGES, STATE = 256, 4, 2 * 256 * 8
NOTED = 4 * 8
"""Bytes that a guard notes of a state."""


class Taken(NamedTuple):
    """What a gradient took: steps executed beside the pulls, and bytes (None: not measured)."""

    steps: float
    bytes: int | None


def bound(n: int, c: int) -> int:
    """The binomial optimum: the solve, and the least advances that reverse n steps from c slots."""
    return n + schedules.extra_advances(n, c)


def log2_slots(n: int) -> int:
    """As many slots as n has binary digits, or so."""
    return math.ceil(math.log2(n))


def real(n: int, adjoint: rg.AbstractAdjoint, *, size: bool = False) -> Taken:
    """A gradient over n constant steps, its calls of f counted and its bytes measured."""
    calls = {"f": 0, "vjp": 0}

    def field(t: Any, y: Any, rate: Any) -> Any:
        calls["f"] += 1
        return np.stack([rate * y[1], -rate * y[0]])

    def vjp(t: Any, y: Any, rate: Any, ct: Any) -> Any:
        calls["vjp"] += 1
        by_rate = np.sum(ct[0] * y[1] - ct[1] * y[0])
        return 0.0 * t, np.stack([-rate * ct[1], rate * ct[0]]), by_rate

    f, y0, rate = rg.VectorField(field, vjp=vjp), np.ones((2, PAIRS)), np.asarray(1.0)
    keywords = {"solver": "rk4", "dt": 0.01, "adjoint": adjoint}

    def solve() -> Any:
        return rg.solve(f, y0, 0.0, 0.01 * n, rate, **keywords).ys

    def gradient() -> Any:
        sol, pullback = rg.solve_vjp(f, y0, 0.0, 0.01 * n, rate, **keywords)
        return pullback(np.ones_like(sol.ys))

    gradient()
    # a pull calls f and its vjp once a stage; what is left are steps, and the planner's look
    steps = (calls["f"] - calls["vjp"]) / STAGES
    return Taken(steps, peak(gradient) - peak(solve) if size else None)


def peak(run: Callable[[], Any]) -> int:
    """Most bytes alive in a call: one of those that ``retrograde.measure`` takes the least of."""
    run()
    gc.collect()
    tracemalloc.start()
    run()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def on_integers(n: int, c: int, *, inverting: bool) -> tuple[int, int]:
    """(steps executed beside the pulls, most states stored) by the executor of every adjoint."""
    machine, index = EagerBackend(None), (*schedules.positions(n, c), FAR)
    slots = Slots(c, index, tuple(range(len(index))), 1, n)
    _, stored = checkpointed_for(
        machine, n, (0,), lambda i, s: (s[0] + 1,), lambda s: s[0], slots, None
    )
    steps, most = n, 0

    def advance(i: Any, y: int) -> int:
        nonlocal steps
        steps += 1
        return y + 1

    def invert(i: Any, y: int) -> int:
        return advance(i, y) - 2

    def pull(i: Any, y: int, carry: int) -> int:
        nonlocal most
        assert y == i == carry - 1
        if i % 64 == 0:
            most = max(most, sum(row != slots.rows for row in stored.buffer))
        return i

    if not inverting:
        reverse(machine, slots, stored, n, (advance, pull), n, None)
        return steps, most
    step = Invertible(
        advance, pull, invert, lambda y, after, x: y, lambda i, y: float(y != i),
        lambda x, y: float(x != y), 1, 0.5, True,
    )  # fmt: skip
    reverse_inverting(machine, slots, stored, (n, n), step, n, HostClock())
    return steps, most


def curve(lengths: Sequence[int], slots: Any, *, inverting: bool, size: bool) -> list[Taken]:
    """One method over all lengths."""
    kind = rg.BacksolveAdjoint if inverting else rg.RecursiveCheckpointAdjoint
    found = []
    for n in lengths:
        c = slots(n)
        if n <= MEASURED[-1]:
            found.append(real(n, kind(c), size=size))
        else:
            found.append(Taken(on_integers(n, c, inverting=inverting)[0], None))
        print(n, c, kind.__name__, found[-1], bound(n, c), flush=True)
    return found


def extended(lengths: Sequence[int], found: Sequence[Taken], each: int) -> list[int]:
    """Measured bytes, continued by so many for each step."""
    sizes = [x.bytes for x in found if x.bytes is not None]
    last = lengths[len(sizes) - 1]
    return sizes + [sizes[-1] + each * (n - last) for n in lengths[len(sizes) :]]


def main() -> None:
    """Draw."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "retrograde", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    lengths = (*MEASURED, *BEYOND)
    figure, (work, room) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    few, real_to = (lambda n: 16), len(MEASURED)
    for slots, name, color in ((few, "16 slots", "C0"), (log2_slots, "log2(n) slots", "C1")):
        fine = np.unique(np.geomspace(100, 1_000_000, 200).astype(int)).tolist()
        work.plot(fine, [bound(n, slots(n)) / n for n in fine], color=color, label=f"{name}: bound")
        size = slots is few
        for inverting, mark in ((False, "o"), (True, "^")):
            found = curve(lengths, slots, inverting=inverting, size=size)
            per = [x.steps / n for x, n in zip(found, lengths, strict=True)]
            label = f"{name}: {'guarded backsolve' if inverting else 'checkpoints'}"
            work.plot(lengths[:real_to], per[:real_to], mark, color=color, label=label)
            work.plot(lengths[real_to:], per[real_to:], mark, color=color, fillstyle="none")
            if size:
                sizes = extended(lengths, found, NOTED if inverting else 0)
                room.plot(lengths, sizes, "-", color=color, linewidth=0.8)
                room.plot(lengths[:real_to], sizes[:real_to], mark, color=color, label=label)
                room.plot(lengths[real_to:], sizes[real_to:], mark, color=color, fillstyle="none")
    spaced = [real(n, rg.BacksolveAdjoint(16, guard=None), size=True) for n in MEASURED]
    sizes = extended(lengths, spaced, 0)
    label = "16 slots: backsolve, slots as guards"
    room.plot(lengths, sizes, "v-", color="C2", linewidth=0.8, label=label)
    room.plot(lengths, [n * STATE for n in lengths], "--", color="0.5", label="every state")
    work.set(xscale="log", xlabel="steps n", ylabel="steps executed / n", ylim=(0, None))
    room.set(xscale="log", yscale="log", xlabel="steps n", ylabel="bytes of the gradient")
    for axes in (work, room):
        axes.legend(fontsize="x-small")
    path = Path(__file__).with_suffix(".svg")
    figure.savefig(path, metadata={"Date": None})
    path.write_text("\n".join(map(str.rstrip, path.read_text().splitlines())) + "\n")


if __name__ == "__main__":
    main()
