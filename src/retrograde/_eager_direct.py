"""What DirectAdjoint needs of a library whose autodiff follows Python loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._spaces import ListLayout, ListStages
from ._types import Array, State

__all__ = ["DirectHooks", "DirectLayout", "DirectStages"]


class DirectHooks:
    """Loops, rows and look-ups as plain Python."""

    xp: Any

    def direct_kind(self, layout: Any) -> Any:
        """What makes layouts that autodiff follows."""
        return DirectLayout

    def direct_layout(self, layout: Any) -> Any:
        layout_of: Any = self.direct_kind(layout)
        made = layout_of(self, layout.unpack(layout.zeros()))
        return made if layout.origin is None else made.at(layout.origin)

    def direct_stages(self, layout: Any, tableau: Any, scale: Any) -> Any:
        return DirectStages(layout, tableau, scale)

    def scan_states(
        self, n: Any, bound: int | None, advance: Callable[[Any, State], State], y: State
    ) -> tuple[State, Any]:
        states = []
        for i in range(n):
            states.append(y)
            y = advance(i, y)
        return y, states

    def map_rows(self, row: Callable[[Any], Sequence[Array]], count: int) -> tuple[Array, ...]:
        rows = [row(j) for j in range(count)]
        return tuple(self.xp.stack(leaves) for leaves in zip(*rows, strict=True))

    def look_state(self, states: Any, i: Any, n: Any = None, final: Any = None) -> State:
        return final if n is not None and i == n else states[i]

    def step_of(self, grid: Any, n: int, t: float) -> int:
        inside = [i for i in range(n) if (t - grid.step(i)[0]) * grid.step(i)[1] > 0]
        return inside[-1] if inside else 0

    def blank(self, rows: tuple[Array, ...], n: Any, fill: Any) -> tuple[Array, ...]:
        if all(n >= x.shape[0] for x in rows):
            return rows
        concat, zeros = self.xp.concat, self.xp.zeros_like
        return tuple(concat([x[:n, ...], zeros(x[n:, ...]) + fill], axis=0) for x in rows)


class DirectLayout(ListLayout):
    """Times pass as they are where they are arrays already."""

    def time(self, t: Any) -> Array:
        return t if self.bk.is_array(t) else super().time(t)


class DirectStages(ListStages):
    """Stages whose error estimate is no part of the graph: step sizes are constants."""

    def error2(self, y1: State) -> Any:
        with self.layout.bk.quiet():
            return super().error2(y1)
