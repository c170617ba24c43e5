"""Flat states, stages and cotangents in PyTorch's cheapest calls.

A call costs 1-2 us whatever it does on a small tensor, so calls are what is saved: ``copy_`` for
``row[...] =`` (0.9 us against 1.5), ``addmv`` for a product and a sum, ``mv`` on a transposed
view of row-major rows (``a @ K`` takes twice as long, ``tensordot`` five times). Nothing here is
recorded by autograd: every method runs under ``no_grad``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch

from retrograde._spaces import Scale

from ._flat import FlatLayout, FlatStages
from ._flat_adjoint import FlatAdjoint
from ._torch_distributed import spread, whole
from ._torch_forward import unwrapped
from ._torch_step import HostProduct, HostStep, fused_attempt, shared, timer

__all__ = ["TorchAdjoint", "TorchLayout", "TorchStages"]


class TorchLayout(FlatLayout):
    """States as flat tensors."""

    def __init__(self, bk: Any, like: Sequence[Any]) -> None:
        super().__init__(bk, like)
        self.time: Any = timer(self.real_dtype, self.device)
        self.spread = spread(like[0])
        """Whether the leaves are DTensors."""

    def store(self, row: Any, leaves: Sequence[Any]) -> None:
        if self.plain:
            row.copy_(leaves[0])
        elif self.alone:
            row.copy_(leaves[0].reshape(-1))
        else:
            for part, leaf in zip(self.slices, leaves, strict=True):
                row[part].copy_(leaf.reshape(-1))

    def finite(self, y: Any) -> bool:
        return bool(whole(torch.isfinite(unwrapped(y)).all()))

    def axpy(self, y: Any, h: float, k: Any) -> Any:
        return torch.add(y, k, alpha=h)

    def weighted(self, terms: Sequence[tuple[float, Any]]) -> Any:
        w, x = terms[0]
        out = w * x
        for w, x in terms[1:]:
            out.add_(x, alpha=w)
        return out

    def leaf_at(self, offset: int) -> int:
        """Index of the leaf that element ``offset`` of a state belongs to."""
        return bisect_right(self.slices, offset, key=lambda part: part.start) - 1

    def leaf_bytes(self, i: int) -> int:
        """Bytes of a leaf."""
        return (self.slices[i].stop - self.slices[i].start) * int(self.dtype.itemsize)


class TorchStages(FlatStages):
    """Stages as rows of a matrix."""

    skips = False

    def __init__(self, layout: TorchLayout, tableau: Any, scale: Scale | None = None) -> None:
        self.host: HostStep | None = None
        super().__init__(layout, tableau, scale)
        self.columns = self.all.T
        self.parts = self.slopes[: self.end].T, self.scaled[self.s, : self.end]
        columns, weights = self.parts
        host = isinstance(self.products[0], HostProduct)
        self.increment_on_host = HostProduct(weights, columns.T).dot if host else None

    def begin(self, t: float, h: float, y: Any, k0: Any = None) -> Any:
        self.t, self.h, self.y = t, h, y
        rows = self.rows
        rows[0].copy_(y)
        torch.mul(self.table, h, out=self.scaled)
        if k0 is None:
            return None
        if k0[0] is not rows[1]:
            self.store(rows[1], k0)
        return (rows[1],)  # a copy: f may reuse the tensor that it returned

    def evaluate(self, field: Any, low: int, high: int) -> None:
        t, h, store, scalar = self.t, self.h, self.store, self.layout.time
        field = getattr(field, "fresh", field)  # what products give is nobody's afterwards
        if self.layout.plain:
            for c, product, row in self.plan[low:high]:
                row.copy_(field(scalar(t + c * h), product())[0])
            return
        for c, product, row in self.plan[low:high]:
            store(row, field(scalar(t + c * h), product()))

    def total(self, y: Any) -> Any:
        if self.increment_on_host is None:
            return torch.addmv(y, *self.parts)
        return torch.from_numpy(shared(y) + self.increment_on_host())

    def fused(self, field: Any) -> Any:
        return self.host.fused(self, field) if self.host else fused_attempt(self, field)

    def inside(self, i: int) -> Any:
        weights, slopes = self.more[i - self.s]
        return torch.addmv(self.y, slopes.T, self._row([self.h * w for w in weights]))

    def interpolate(self, weights: Sequence[float]) -> Any:
        return torch.addmv(self.y, self.columns, self._row([self.h * w for w in weights]))


class TorchAdjoint(FlatAdjoint):
    """Cotangents of one step as rows of a matrix."""

    def begin(self, h: float, g: Any, q: Any = None) -> None:
        torch.mul(self.table, h, out=self.scaled)
        self.rows[0].copy_(g)
        self.q = q
