"""Steps that a checkpointed gradient executes, against the binomial optimum (row M2p).

Counted from outside: calls of f by gradients in c slots, less those of one that stores every
state. The optimum is that of Griewank and Walther 2000, doi:10.1145/347837.347846.
"""

from typing import Any

import numpy as np

import retrograde as rg

SLOTS = (2, 3, 5, 8, 16, 32)


def extra_advances(n: int, slots: int) -> int:
    """Fewest steps to run beyond a forward solve of n steps, from slots (y0's included).

    ``t(n + 1) - n``, where t(m) counts the steps that reverse m and end before the last of them:
    a solve runs its last step, too.
    """
    total, repeats, reach = 0, 0, 1  # reach = binomial(slots + repeats, slots)
    while reach < n + 1:
        repeats += 1
        wider = reach * (slots + repeats) // repeats
        total += repeats * (min(wider, n + 1) - reach)
        reach = wider
    return total - n


def calls(adjoint: Any, **keywords: Any) -> tuple[int, int]:
    """(evaluations of f by a gradient, accepted steps)."""
    count = 0

    def f(t: Any, y: Any, args: Any) -> Any:
        nonlocal count
        count += 1
        return -y * (1.0 + 0.5 * np.sin(t))

    y0 = np.ones(1)
    sol, pullback = rg.solve_vjp(f, y0, 0.0, 10.0, adjoint=adjoint, solver="heun", **keywords)
    pullback(np.ones_like(sol.ys))
    return count, int(sol.stats["num_accepted_steps"])


def executed_over_optimum(slots: int, **keywords: Any) -> float:
    """Executed advances, the forward pass included, over the fewest possible."""
    everything, n = calls(rg.RecursiveCheckpointAdjoint(), **keywords)
    some, _ = calls(rg.RecursiveCheckpointAdjoint(slots), **keywords)
    extra = (some - everything) / 2  # Heun: two evaluations a step
    return (n + extra) / (n + extra_advances(n, slots))


class Schedule:
    """1 is optimal; 1.06 is what a solve of unknown length may take from 5 slots on."""

    params = (SLOTS,)
    param_names = ("slots",)

    def track_known_length(self, slots: int) -> float:
        return executed_over_optimum(slots, dt=0.02)

    def track_unknown_length(self, slots: int) -> float:
        return executed_over_optimum(slots, rtol=1e-5, atol=1e-8)


Schedule.track_known_length.unit = "executed/optimum"
Schedule.track_unknown_length.unit = "executed/optimum"
