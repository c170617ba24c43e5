"""PyTorch: the vjp of a step of few numbers, recorded as one graph.

Autograd takes 20 us a call beside its nodes, and a stage apart some 40 us of Python. So a small
step is recorded whole, by the sums that ``DirectAdjoint`` is given, and pulled by one call; a
large one is cheaper stage by stage, for sums of states in a graph are passes over memory.
"""

from __future__ import annotations

from typing import Any

import torch

from retrograde._solvers import ExplicitRungeKutta
from retrograde._solvers.explicit_rk import ForwardSweep, ReverseSweep, StepCotangents

from ._torch_reverse import TorchPullback

__all__ = ["RecordHooks", "RecordedSweep"]

LARGE = 1 << 14
"""States of so many numbers are pulled stage by stage."""


class RecordHooks:
    """The hook behind steps recorded whole."""

    def own_sweep(
        self, solver: Any, layout: Any, vjp: Any, *, outputs: bool, time: bool, stored: bool
    ) -> Any:
        explicit = isinstance(solver, ExplicitRungeKutta)  # and not compiled
        whole = stored and not (outputs or time) and layout.size < LARGE
        if not (explicit and whole and isinstance(vjp, TorchPullback)):
            return None
        return RecordedSweep(solver.tableau, layout, vjp)


class RecordedSweep(ReverseSweep):
    """Exact vjps of steps, where neither their inside nor times have cotangents."""

    def __init__(self, tableau: Any, layout: Any, vjp: TorchPullback) -> None:
        self.tableau, self.layout, self.vjp = tableau, layout, vjp
        bk = layout.bk
        leaves = bk.direct_layout(layout)
        self.space = bk.direct_stages(leaves, tableau, None)
        self.forward = ForwardSweep(tableau, self.space, leaves, vjp.field)

    def replay(self, field: Any) -> ForwardSweep:
        """Steps forward, over a stage space of their own."""
        space = self.layout.bk.stages(self.layout, self.tableau)
        return ForwardSweep(self.tableau, space, self.layout, field)

    def pull(
        self,
        t: Any,
        h: Any,
        y: Any,
        g: Any,
        acc: Any,
        outputs: Any = None,
        size: bool = True,
    ) -> tuple[StepCotangents, Any]:
        """Pull the cotangent g of y1 back to y; there are no outputs inside the step."""
        layout, cts = self.layout, self.layout.unpack(g)
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in layout.unpack(y))
            end = self.forward.advance(t, h, leaves)
        self.space.k = []  # the graph alone holds slopes, as long as it needs them
        # y is a term of its step's end, so none is missing
        found, acc = self.vjp.pull(self.vjp.ends(end), cts, leaves, acc)
        pairs = zip(found, cts, strict=True)
        own = [x.clone() if x.data_ptr() == c.data_ptr() else x for x, c in pairs]
        return StepCotangents(layout.pack(own), acc, 0.0, 0.0), None
