"""PyTorch: stages that autograd records (DirectAdjoint), in as few nodes and calls as it goes.

A sum of slopes is one node for each; the error estimate is formed outside of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from retrograde._backend.gradient_hooks import DirectLayout, DirectStages
from retrograde._backend.stages import joint
from retrograde._base.errors import InputError
from retrograde._base.types import Array, Field, Function, Leaves, Scalar, Scale, State, Tree

from .flat import timer
from .forward_mode import item, moving_forward

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.protocols import Layout, StepStages
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from .flat import TorchLayout


class DirectHooks:
    """What DirectAdjoint is given."""

    def direct_kind(self, layout: Layout) -> Function:
        return partial(TorchDirectLayout, spread=cast("TorchLayout", layout).spread)

    def direct_stages(self, layout: Layout, tableau: Tableau, scale: Scale | None) -> StepStages:
        # forward mode, torch.func and DTensors have rules for fewer operations
        plain = moving_forward() or cast("TorchLayout", layout).spread
        kind = WatchedStages if plain else TorchDirectStages
        return kind(layout, tableau, scale)


class TorchDirectLayout(DirectLayout):
    """Times pass as they are where they are tensors already."""

    def __init__(self, bk: AbstractBackend, like: Sequence[Array], *, spread: bool = False) -> None:
        super().__init__(bk, like)
        self.spread = spread
        self.make = timer(self.real_dtype, self.device)

    def time(self, t: Scalar) -> Array:
        return t if isinstance(t, torch.Tensor) else self.make(t)


class WatchedStages(DirectStages):
    """Slopes are what f returned, not copies: f must not write into them later.

    An f that returns one buffer again and again would else change the stages that were there, and
    gradients with them, without a word from autograd: sums save no operand.
    """

    def begin(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None = None) -> Leaves | None:
        self.seen: list[Array] = [k0 and _versions(k0)] + [None] * (self.total - 1)
        return super().begin(t, h, y, k0)

    def put(self, i: int, k: Sequence[Array]) -> None:
        self.k[i], self.seen[i] = k, _versions(k)

    def result(self) -> State:
        self.unchanged()
        return super().result()

    def unchanged(self) -> None:
        """Raise InputError if f changed a slope of this step."""
        for k, versions in zip(self.k, self.seen, strict=True):
            if k is not None and _versions(k) != versions:
                raise InputError(
                    "`f` changed a tensor in place that it had returned before, which a gradient "
                    "needs; return a new tensor from every call."
                )


class TorchDirectStages(WatchedStages):
    """Stages that autograd records in reverse mode."""

    def __init__(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> None:
        super().__init__(layout, tableau, scale)
        self.errors = self.rows[self.s + 1 :]

    def evaluate(self, field: Field, low: int, high: int) -> None:
        t, h, y, c, time, total = self.t, self.h, self.y, self.c, self.layout.time, self._total
        for i in range(low, high):
            self.put(i, field(time(t + c[i] * h), total(y, h, i)))

    def combine(self, i: int) -> State:
        return self._total(self.y, self.h, i)

    def result(self) -> State:
        self.unchanged()
        return self._total(self.y, self.h, self.s)

    def _total(self, y: Sequence[Array], h: Scalar, i: int) -> State:
        """``y + h sum_j w_j k_j`` over row i."""
        row = self.rows[i]
        if isinstance(h, torch.Tensor):
            return self._sum(y, h, row)
        add, terms, out = torch.add, [(h * w, self.k[j]) for j, w in row], []
        for m, x in enumerate(y):
            for w, k in terms:
                x = add(x, k[m], alpha=w)
            out.append(x)
        return tuple(out)

    def error2(self, y1: State) -> Scalar:
        scale, totals = self.scale, [0.0] * len(self.errors)
        assert scale is not None
        with torch.no_grad():
            for m, (a, b) in enumerate(zip(self.y, y1, strict=True)):
                rtol, atol = (x[m] if isinstance(x, tuple) else x for x in (scale.rtol, scale.atol))
                bound = torch.maximum(a.abs(), b.abs()).mul_(rtol).add_(atol)
                squares = (self._square(m, bound, weights) for weights in self.errors)
                totals = [x + part for x, part in zip(totals, squares, strict=True)]
            error2, *coarse = (item(x) / self.layout.size for x in totals)
            where = self.layout.bk.clock(self.layout).where
            return joint(error2, coarse[0], where) if coarse else error2

    def _square(self, m: int, bound: Any, weights: Sequence[Array]) -> Tree:
        """Of leaf m's error by these weights, over the bound."""
        (first, w), *others = weights
        h = self.h  # into the weights: slopes over a bound have squares that overflow
        e = self.k[first][m] * (h * w)
        for j, w in others:
            e.add_(self.k[j][m], alpha=h * w)
        e = (e.abs() if e.is_complex() else e).div_(bound).reshape(-1)
        return e.dot(e)


def _versions(leaves: Sequence[Array]) -> list[int]:
    """How often each was changed in place, where that is counted."""
    return [0 if x.is_inference() else x._version for x in leaves]
