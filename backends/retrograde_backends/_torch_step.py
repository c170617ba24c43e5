"""One attempt of a step in one frame, in calls of PyTorch (see ``_flat_step``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._flat_step import bare_call

__all__ = ["fused_attempt"]


def fused_attempt(space: Any, field: Any) -> Callable[..., tuple[Any, Any, Any, float]] | None:
    """``(t, h, y, k0) -> (y1, k1, kept, error2)``, or None where states have many leaves."""
    found = bare_call(space, field)
    if found is None:
        return None
    call, args = found
    first, second, last = space.rows[0], space.rows[1], space.rows[-1]
    plan, store, kept, end = space.plan[1:-1], space.store, (second,), space.c[-1]
    table, scaled, columns, weights = space.table, space.scaled, space.columns, space.weights
    time, norm, mul, addmv = space.bk.timer(space.layout), space.square, torch.mul, torch.addmv

    def attempt(t: float, h: float, y: Any, k0: Any) -> tuple[Any, Any, Any, float]:
        space.y, space.h = y, h  # the interpolant asks for them
        first.copy_(y)
        mul(table, h, out=scaled)
        if k0 is not kept:
            store(second, k0)
        for c, product, row in plan:
            row.copy_(call(time(t + c * h), product(), args))
        y1 = addmv(y, columns, weights)
        k1 = call(time(t + end * h), y1, args)
        last.copy_(k1)
        return y1, (k1,), kept, norm(y, y1)

    return attempt
