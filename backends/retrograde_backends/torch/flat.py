"""Flat states, stages and cotangents in PyTorch's cheapest calls.

A call costs 1-2 us whatever it does on a small tensor, so calls are what is saved: ``copy_`` for
``row[...] =`` (0.9 us against 1.5), ``addmv`` for a product and a sum, ``mv`` on a transposed
view of row-major rows (``a @ K`` takes twice as long, ``tensordot`` five times). Nothing here is
recorded by autograd: every method runs under ``no_grad``.

On the CPU, tensors and NumPy arrays can share memory, and a call of NumPy on a small array takes
a third of the time. So all but the field's own calls is NumPy's there: 38 us a step without the
field become 17. What the field is given are tensors of memory of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import setitem
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from retrograde._base.types import Array, Namespace, Scalar, Scale, State, Tree

from ..flat.attempt import FEW, Norm, squared_norm
from ..flat.stages import FlatLayout, FlatStages, stamper
from .distributed import spread, whole
from .forward_mode import unwrapped
from .memory import on_host, shares

if TYPE_CHECKING:
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from ..flat.adapter import FlatBackend

SHARED = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}
"""What both libraries have."""

FORMATS = {torch.float32: "f", torch.float64: "d"}
"""Their real ones, as ``struct`` calls them."""

SMALL = 1 << 11
"""Up to so many elements, NumPy's products take less time than PyTorch's."""


def product(row: Tensor, rows: Tensor, out: Tensor | None = None) -> Callable[[], Tensor]:
    """A call that forms ``row @ rows``, anew or into ``out``."""
    if out is None and near(rows.device, rows.dtype, rows.shape[1]):
        dot = partial(shared(row).dot, shared(rows))
        return lambda: torch.from_numpy(dot())
    bound = partial(torch.mv, rows.T, row)
    return bound if out is None else partial(bound, out=out)


def near(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether NumPy computes with tensors of this size in less time than PyTorch."""
    return shares(device) and dtype in SHARED and size <= SMALL


def timer(
    dtype: torch.dtype, device: torch.device, origin: float | None = None
) -> Callable[[float], Tensor]:
    """``t -> 0-d tensor``; never ``torch.tensor``, which takes thrice as long."""
    if on_host(device) and dtype in SHARED:
        stamp, share = stamper(SHARED[dtype], origin), torch.from_numpy
        return lambda t: share(stamp(t))
    make: Callable[[float], Tensor] = partial(torch.scalar_tensor, dtype=dtype, device=device)
    return make if origin is None else lambda t: make(origin + t)


def shared(x: Array) -> Tree:
    """A tensor's memory as NumPy's array."""
    return x.resolve_conj().resolve_neg().numpy()


def writer(row: Tensor) -> Callable[[Tensor], object]:
    """A call that copies a slope into a row: a few numbers by way of floats, in half the time."""
    kind = FORMATS.get(row.dtype)
    if kind is None or len(row) > FEW:
        return row.copy_
    pack = partial(Struct(f"{len(row)}{kind}").pack_into, memoryview(shared(row)).cast("B"), 0)
    return lambda k: pack(*k.tolist())


class TorchLayout(FlatLayout):
    """States as flat tensors."""

    def __init__(self, bk: FlatBackend, like: Sequence[Array]) -> None:
        super().__init__(bk, like)
        self.time: Tree = timer(self.real_dtype, self.device)
        self.spread = spread(like[0])
        """Whether the leaves are DTensors."""

    def store(self, row: Array, leaves: Sequence[Array]) -> None:
        if self.plain:
            row.copy_(leaves[0])
        elif self.alone:
            row.copy_(leaves[0].reshape(-1))
        else:
            for part, leaf in zip(self.slices, leaves, strict=True):
                row[part].copy_(leaf.reshape(-1))

    def finite(self, y: State) -> bool:
        return bool(whole(torch.isfinite(unwrapped(y)).all()))

    def axpy(self, y: State, h: float, k: State) -> State:
        return torch.add(y, k, alpha=h)

    def weighted(self, terms: Sequence[tuple[Scalar, State]]) -> State:
        w, x = terms[0]
        out = w * x
        for w, x in terms[1:]:
            out.add_(x, alpha=w)
        return out


class TorchStages(FlatStages):
    """Stages as rows of a matrix, in PyTorch's calls."""

    def __init__(self, layout: TorchLayout, tableau: Tableau, scale: Scale | None = None) -> None:
        super().__init__(layout, tableau, scale)
        self.parts = self.slopes[: self.end].T, self.scaled[self.s, : self.end]

    def putter(self, row: Tensor) -> Callable[[Tensor], object]:
        return row.copy_

    def norm(self, xp: Namespace) -> Norm:
        return super().norm(torch)

    def total(self, y: Tensor) -> Tensor:
        return torch.addmv(y, *self.parts)


class HostStages(TorchStages):
    """The same of small tensors on the CPU: all but what the field is given is NumPy's."""

    def __init__(self, layout: TorchLayout, tableau: Tableau, scale: Scale | None = None) -> None:
        self.twins = Twins()
        super().__init__(layout, tableau, scale)
        self.start = partial(self.twins.start, shared(self.rows[0]))
        self.again = partial(setitem, shared(self.rows[1]), ..., shared(self.rows[self.s]))
        self.table, self.scaled = shared(self.table), shared(self.scaled)
        self.scale_into = np.multiply
        columns, weights = self.parts
        self.increment = partial(shared(weights).dot, shared(columns.T))

    def putter(self, row: Tensor) -> Callable[[Tensor], object]:
        return writer(row)

    def total(self, y: Tensor) -> Tensor:
        return self.twins.end(self.twins.array(y) + self.increment())

    def norm(self, xp: Namespace) -> Norm:
        scale, slopes, spare = self.scale, shared(self.slopes), shared(self.spare)
        assert scale is not None
        if scale.norm is not None:
            return super().norm(xp)
        rows = shared(self.scaled_all)[self.s + 1 :, 1:]
        error, *coarse = (partial(row.dot, slopes, spare) for row in rows)
        tolerances = (None if scale.rtol is None else shared(scale.rtol)), shared(scale.atol)
        estimates, buffers = (error, coarse[0] if coarse else None), shared(self.buffers)
        square = squared_norm(np, estimates, tolerances, buffers, self.layout.dtype.is_complex)
        array = self.twins.array
        return lambda y, y1: square(array(y), array(y1))


class Twins:
    """The last step's begin and end, as both libraries have them.

    No part of the stages: they would hold themselves, until the interpreter looks for cycles.
    """

    def __init__(self) -> None:
        self.y0: Tensor | None = None
        self.y1: Tensor | None = None
        self.array0 = self.array1 = np.empty(0)

    def array(self, y: Tensor) -> np.ndarray:
        """A state's memory as NumPy's array, the same one for the same state."""
        if y is self.y0:
            return self.array0
        return self.array1 if y is self.y1 else shared(y)

    def start(self, row: np.ndarray, y: Tensor) -> None:
        """Begin a step: copy y into a row."""
        self.array0, self.y0 = self.array(y), y
        row[...] = self.array0

    def end(self, array: np.ndarray) -> Tensor:
        """A step's end as a tensor."""
        self.y1, self.array1 = torch.from_numpy(array), array
        return self.y1


def stages(layout: TorchLayout, tableau: Tableau, scale: Scale | None = None) -> TorchStages:
    """The stages of a step over states of this layout."""
    small = near(layout.device, layout.dtype, layout.size)
    return (HostStages if small else TorchStages)(layout, tableau, scale)
