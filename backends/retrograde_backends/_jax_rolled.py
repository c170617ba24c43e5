"""JAX: the vjp of a step with its stages as two loops, so that f and its vjp stand in it once.

For costly fields of small states, whose gradient is one kernel (``_jax_kernel``): what the vjp of f
needs goes into rows, one for each stage, and is read from there on the way back. The sums are those
of ``explicit_reverse``; see ``_jax_stages``.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from retrograde._solvers import ExplicitRungeKutta
from retrograde._solvers.explicit_rk import ReverseSweep, StepCotangents
from retrograde._spaces import ListAdjoint

from ._jax_derivative import Pullback
from ._jax_kernel import lanes
from ._jax_loops import for_loop, read_row, write_row
from ._jax_stages import RolledStages, added, as_rows
from ._jax_tape import Tape

__all__ = ["RolledSweep", "rolled_sweep"]


def rolled_sweep(solver: Any, layout: Any, vjp: Any, *, outputs: bool, time: bool) -> Any:
    """A :class:`RolledSweep`, or None for what is none of its."""
    explicit = isinstance(solver, ExplicitRungeKutta) and isinstance(vjp, Pullback)
    if not (explicit and layout.long) or lanes():
        return None
    tableau = solver.tableau if outputs else solver.tableau.bare
    if tableau.inside > tableau.stages:  # stages that an output alone asks for
        return None
    space = RolledStages(layout, tableau)
    adjoint = ListAdjoint(layout, tableau)
    sweep = RolledSweep(tableau, space, adjoint, layout, vjp, outputs=outputs, time=time)
    sweep.tape = Tape(layout, vjp)
    return sweep


class RolledSweep(ReverseSweep):
    """Exact vjps of steps over ``RolledStages``."""

    tape: Tape

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.columns = [
            [row[i] if i < len(row) else 0.0 for row in self.tableau.a[: self.count]]
            for i in range(self.count)
        ]

    def linearise(self, t: Any, h: Any, y: Any) -> Any:
        w = self.space
        w.begin(t, h, y)
        slopes, _, rows = w.run(self.tape.linearise, 0, self.count, self.tape.rows(self.count))
        w.k[: self.count] = as_rows(slopes, self.count)
        return rows, 0

    def transpose(
        self, h: Any, y: Any, g: Any, acc: Any, pulls: Any, inside: Any = None, *, size: bool
    ) -> StepCotangents:
        layout, count, tape, (rows, low) = self.layout, self.count, self.tape, pulls
        real, inner = layout.real_dtype, layout.inner
        q, qy = inside or (None, None)
        weights = jnp.asarray(self.tableau.b[:count], real) * h
        columns = jnp.asarray(self.columns, real) * h
        nodes = jnp.asarray(self.c[:count], real)
        sources = q and tuple(jnp.stack([x[n] for x in q]) for n in range(len(layout.shapes)))
        known = self.space.k[:count] if self.time and size else ()
        slopes = tuple(jnp.stack(x) for x in zip(*known, strict=True))

        def stage(j: Any, z: Any) -> Any:
            i, (pulled, acc, ct_t, ct_h) = count - 1 - j, z
            start = tuple(read_row(weights, i) * x for x in g)
            if sources:
                start = tuple(a + read_row(x, i) for a, x in zip(start, sources, strict=True))
            lam = added(start, read_row(columns, i), pulled, count)
            *first, mu, cts = tape.pull(tape.recall([read_row(x, low + i) for x in rows]), lam)
            acc = [a + x for a, x in zip(acc, cts, strict=True)]
            pulled = tuple(write_row(x, i, v) for x, v in zip(pulled, mu, strict=True))
            if self.time:
                ct_t = ct_t + first[0]
            if slopes:
                k = tuple(read_row(x, i) for x in slopes)
                ct_h = ct_h + read_row(nodes, i) * first[0] + inner(lam, k) / h
            return pulled, acc, ct_t, ct_h

        zero = jnp.zeros((), real)
        pulled = tuple(jnp.zeros((count, *x.shape), x.dtype) for x in g)
        pulled, acc, ct_t, ct_h = for_loop(0, count, stage, (pulled, acc, zero, zero))
        g = added(g, jnp.ones(count, real), pulled, count)
        if qy is not None:
            g = layout.add(g, qy)
        return StepCotangents(g, acc, ct_t, ct_h)
