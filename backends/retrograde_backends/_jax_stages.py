"""JAX: the stages of a step as one loop, so that f stands in it once and not s times.

The loop is for fields that are dear next to their state (``_jax_gate.dear``), products of matrices
above all: a stage then reads all slopes of the step, s where it needs half as many, and the
program is some hundred operations shorter. It is for steps forward alone: the pull of a step keeps
the tapes of its stages, which a loop would copy (13 % of the time of a neural ODE's gradient).

The numbers are those of the sums written out: what the rows have more are zeros.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from retrograde._spaces import ListStages, combination_rows

from ._jax_kernel import joined
from ._jax_loops import for_loop, read_row, write_row

__all__ = ["RolledStages"]


class RolledStages(ListStages):
    """Stages whose slopes stand in one buffer for each leaf while a step goes forward."""

    def __init__(self, layout: Any, tableau: Any, scale: Any = None) -> None:
        super().__init__(layout, tableau, scale)
        self.last = combination_rows(tableau)[: self.s]
        self.fsal = tableau.fsal

    def evaluate(self, field: Any, low: int, high: int) -> None:
        self.k[:high] = _rows(self._run(field, low, high)[0], high)

    def fused(self, field: Any) -> Any:
        """One attempt and its error; the last stage stands at the step's end."""

        def attempt(t: Any, h: Any, y: Any, k0: Any) -> tuple[Any, Any, Any, Any]:
            self.begin(t, h, y, k0)
            slopes, y1 = self._run(field, 1, self.s)

            def error2(slopes: Any, y1: Any) -> Any:
                self.k = _rows(slopes, self.s)
                return self.error2(y1)

            e2 = joined(error2)(slopes, y1)  # of the whole buffer: a row of it would be a copy
            self.k = _rows(slopes, self.s)
            return y1, self.k[-1], k0, e2

        return attempt

    def _run(self, field: Any, low: int, high: int) -> Any:
        """(slopes of stages below high, the state of the last of them)."""
        layout, real = self.layout, self.layout.real_dtype
        rows, nodes = jnp.asarray(self.last, real), jnp.asarray(self.c, real)

        def stage(i: Any, z: Any) -> Any:
            slopes, _ = z
            weights, y = read_row(rows, i) * self.h, list(self.y)
            for n, x in enumerate(slopes):
                for j in range(high - 1):
                    y[n] = self.add(y[n], weights[j], x[j])
            k = field(layout.time(self.t + read_row(nodes, i) * self.h), tuple(y))
            return tuple(write_row(x, i, v) for x, v in zip(slopes, k, strict=True)), tuple(y)

        shapes = ((self.s, *shape) for shape in layout.shapes)
        slopes = tuple(jnp.zeros(shape, layout.dtype) for shape in shapes)
        for j in range(low):
            pairs = zip(slopes, self.k[j], strict=True)
            slopes = tuple(write_row(x, j, k) for x, k in pairs)
        return for_loop(low, high, stage, (slopes, tuple(self.y)))


def _rows(slopes: Any, count: int) -> list[Any]:
    return [tuple(x[j] for x in slopes) for j in range(count)]
