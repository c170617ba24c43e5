"""JAX: the stages of a step as one loop, so that f stands in it once and not s times.

The loop is for fields that are dear next to their state (``_jax_gate.dear``), products of matrices
above all: a stage then reads all slopes of the step, s where it needs half as many, and the
program is some hundred operations shorter. Of those, steps forward alone are loops: the pull of a
step keeps the tapes of its stages, which a loop would copy (13 % of the time of a neural ODE's
gradient). And for costly fields of small states (``_jax_gate.costly``) in both directions
(``_jax_rolled``): in a kernel a loop costs nothing, and each copy of f is compiled on its own (a
gradient of the 3-body problem in half the time).

The numbers are those of the sums written out: what the rows have more are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from retrograde._spaces import ListLayout, ListStages, combination_rows

from ._jax_gate import costly, dear, long
from ._jax_kernel import joined, loose, together
from ._jax_loops import for_loop, read_row, write_row

__all__ = ["JaxLayout", "RolledStages", "added", "as_rows"]


class JaxLayout(ListLayout):
    """A layout that knows of the field over it what decides how its stages are written.

    Attributes
    ----------
    dear : bool
        Its products are many next to the state.
    taped : bool
        It is costly and small: f is not computed again.
    looped : bool
        The same where the whole may be one kernel: stages forward are a loop.
    long : bool
        And those backward.
    """

    dear = taped = looped = long = False

    def judge(self, jaxpr: Any, small: bool, lone: bool) -> None:
        """By the program of f; ``small``: it may be part of a kernel; ``lone``: and no lane."""
        self.dear = dear(jaxpr, self.size)
        self.taped = small and costly(jaxpr)
        self.looped = self.taped and lone
        self.long = self.looped and long(jaxpr)


class RolledStages(ListStages):
    """Stages whose slopes stand in one buffer for each leaf while a step goes forward."""

    def __init__(self, layout: Any, tableau: Any, scale: Any = None) -> None:
        super().__init__(layout, tableau, scale)
        self.last = combination_rows(tableau)[: self.s]
        self.fsal = tableau.fsal

    def evaluate(self, field: Any, low: int, high: int) -> None:
        self.k[:high] = as_rows(self.run(_alone(field), low, high)[0], high)

    def fused(self, field: Any) -> Any:
        """One attempt and its error; the last stage stands at the step's end."""
        alone = _alone(field)

        def attempt(t: Any, h: Any, y: Any, k0: Any) -> tuple[Any, Any, Any, Any]:
            self.begin(t, h, y, k0)
            slopes, y1, _ = self.run(alone, 1, self.s)

            def error2(slopes: Any, y1: Any) -> Any:
                self.k = as_rows(slopes, self.s)
                return self.error2(y1)

            e2 = joined(error2)(slopes, y1)  # of the whole buffer: a row of it would be a copy
            self.k = as_rows(slopes, self.s)
            return y1, self.k[-1], k0, e2

        return attempt

    def run(
        self, field: Callable[..., tuple[Any, Any]], low: int, high: int, kept: Any = (),
        first: Any = 0,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """Stages low, ..., high - 1 of ``field(t, y) -> (slope, what it keeps)``.

        Returns
        -------
        slopes : tuple of array, shape (s, *shape)
        y : state
            That of the last stage.
        kept
            The buffers given, with what stage i keeps in row ``first + i``.
        """
        layout, real = self.layout, self.layout.real_dtype
        rows, nodes = jnp.asarray(self.last, real), jnp.asarray(self.c[: self.s], real)

        def stage(i: Any, z: Any) -> Any:
            slopes, _, kept = z
            y = added(self.y, read_row(rows, i) * self.h, slopes, high - 1)
            with together():
                k, tape = field(layout.time(self.t + read_row(nodes, i) * self.h), y)
            kept = tuple(write_row(x, first + i, v) for x, v in zip(kept, tape, strict=True))
            return tuple(write_row(x, i, v) for x, v in zip(slopes, k, strict=True)), y, kept

        shapes = ((self.s, *shape) for shape in layout.shapes)
        slopes = tuple(jnp.zeros(shape, layout.dtype) for shape in shapes)
        for j in range(low):
            pairs = zip(slopes, self.k[j], strict=True)
            slopes = tuple(write_row(x, j, k) for x, k in pairs)
        found: tuple[Any, Any, Any]
        found = for_loop(low, high, stage, (slopes, tuple(self.y), tuple(kept)))
        return found


def added(y: Any, weights: Any, rows: Any, count: int) -> tuple[Any, ...]:
    """y and the sum of the first rows by their weights."""
    out = []
    for a, x in zip(y, rows, strict=True):
        if loose():  # one operation, whose result is there for all that reads it
            part = weights[:count].reshape((count,) + (1,) * a.ndim) * x[:count]
            out.append(a + jnp.sum(part, axis=0))
            continue
        for j in range(count):
            a = a + weights[j] * x[j]
        out.append(a)
    return tuple(out)


def as_rows(slopes: Any, count: int) -> list[Any]:
    """The slopes of each stage."""
    return [tuple(x[j] for x in slopes) for j in range(count)]


def _alone(field: Any) -> Any:
    return lambda t, y: (field(t, y), ())
