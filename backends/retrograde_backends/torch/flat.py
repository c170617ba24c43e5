"""Flat states, stages and cotangents in PyTorch's cheapest calls.

A call costs 1-2 us whatever it does on a small tensor, so calls are what is saved: ``copy_`` for
``row[...] =`` (0.9 us against 1.5), ``addmv`` for a product and a sum, ``mv`` on a transposed
view of row-major rows (``a @ K`` takes twice as long, ``tensordot`` five times). Nothing here is
recorded by autograd: every method runs under ``no_grad``.

One attempt of a step in one frame, in calls of PyTorch (see ``flat.attempt``).

On the CPU, tensors and NumPy arrays can share memory, and a call of NumPy on a small array takes
a third of the time. So all but the field's own calls is NumPy's there: 38 us a step without the
field become 17. What the field is given are tensors of memory of their own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from typing import Any

import numpy as np
import torch

from retrograde._base.types import Scale

from ..flat.attempt import FEW, bare_call, host_square, with_coarse
from ..flat.cotangents import FlatCotangents
from ..flat.stages import FlatLayout, FlatStages
from .device import on_host, shares
from .distributed import spread, whole
from .forward_mode import unwrapped
from .overwritten import changed, guarded

__all__ = [
    "HostProduct",
    "HostStep",
    "TorchAdjoint",
    "TorchLayout",
    "TorchStages",
    "fused_attempt",
    "product",
    "shared",
    "squarer",
    "timer",
]


SHARED = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}
"""What both libraries have."""

FORMATS = {torch.float32: "f", torch.float64: "d"}
"""Their real ones, as ``struct`` calls them."""

LARGE = 1 << 14
"""From this many elements on, PyTorch's threads are worth more than short calls."""

SMALL = 1 << 11
"""Up to so many elements, NumPy's products take less time than PyTorch's."""


def product(row: Any, rows: Any, out: Any = None) -> Callable[[], Any]:
    """A call that forms ``row @ rows``, anew or into ``out``."""
    small = shares(rows.device) and rows.shape[1] <= SMALL and rows.dtype in SHARED
    if out is None and small:
        return HostProduct(row, rows)
    bound = partial(torch.mv, rows.T, row)
    return bound if out is None else partial(bound, out=out)


class HostProduct:
    """A call that forms ``row @ rows`` as a tensor; ``dot`` forms it as an array of NumPy."""

    __slots__ = ("dot",)

    def __init__(self, row: Any, rows: Any) -> None:
        self.dot = partial(shared(row).dot, shared(rows))

    def __call__(self) -> Any:
        return torch.from_numpy(self.dot())


def stamper(kind: Any, origin: float | None = None) -> Callable[[float], Any]:
    """``t -> 0-d array``, of a time of the clock that counts from the origin."""
    stamp = np.asarray if kind is np.float64 else partial(np.asarray, dtype=kind)
    return stamp if origin is None else lambda t: stamp(origin + t)


def timer(dtype: Any, device: Any) -> Callable[[Any], Any]:
    """``t -> 0-d tensor``; never ``torch.tensor``, which takes thrice as long."""
    if not on_host(device) or dtype not in SHARED:
        make: Callable[[float], Any] = partial(torch.scalar_tensor, dtype=dtype, device=device)
    else:
        stamp, share = stamper(SHARED[dtype]), torch.from_numpy
        make = lambda t: share(stamp(t))  # noqa: E731

    return make


def shared(x: Any) -> Any:
    """A tensor's memory as NumPy's array."""
    return x.resolve_conj().resolve_neg().numpy()


def writer(row: Any) -> Callable[[Any], Any]:
    """A call that copies a slope into a row: a few numbers by way of floats, in half the time."""
    kind = FORMATS.get(row.dtype)
    if kind is None or len(row) > FEW:
        return row.copy_  # type: ignore[no-any-return]
    pack = partial(Struct(f"{len(row)}{kind}").pack_into, memoryview(shared(row)).cast("B"), 0)
    return lambda k: pack(*k.tolist())


class HostStep:
    """Attempts over the memory of a space that NumPy shares; the space holds it, not it the space,
    whose memory would stay until the interpreter looks for cycles.

    Parameters
    ----------
    space : TorchStages
    """

    def __init__(self, space: Any) -> None:
        layout, scale = space.layout, space.scale
        table = shared(space.scaled_all)
        slopes, spare = shared(space.slopes), shared(space.spare)
        error, *coarse = (partial(row.dot, slopes, spare) for row in table[space.s + 1 :, 1:])
        tolerances = (scale.rtol if scale.rtol is None else shared(scale.rtol), shared(scale.atol))
        complex_ = layout.dtype.is_complex
        buffers = shared(space.buffers)
        estimates = error, coarse[0] if coarse else None
        self.norm = host_square(np, estimates, tolerances, buffers, complex_)

    def square(self, y: Any, y1: Any) -> float:
        """Mean of ``(|e| / (atol + rtol max(|y|, |y1|)))**2``."""
        return self.norm(shared(y), shared(y1))

    def fused(self, space: Any, field: Any) -> Callable[..., tuple[Any, Any, Any, float]] | None:
        """``(t, h, y, k0) -> (y1, k1, kept, error2)``, or None where states have many leaves."""
        found, norm, increment = bare_call(space, field), self.norm, space.increment_on_host
        layout = space.layout
        if found is None or increment is None or space.late:
            return fused_attempt(space, field)
        call, args = found
        rows, end = space.rows[: space.s + 1], space.c[space.s - 1]
        first, second, third = (shared(rows[i]) for i in (0, 1, space.s))
        puts, dots = [writer(row) for row in rows[2:]], [x.dot for x in space.products[1:-1]]
        plan = list(zip(space.c[1:-1], dots, puts[:-1], strict=True))
        table, scaled, multiply = shared(space.table), shared(space.scaled), np.multiply
        put_last, store, kept = puts[-1], space.store, (rows[1],)
        share, stamp = torch.from_numpy, stamper(SHARED[layout.real_dtype], layout.origin)
        counted = not torch.is_inference_mode_enabled()
        ended = known = array = None

        def attempt(t: float, h: float, y: Any, k0: Any) -> tuple[Any, Any, Any, float]:
            nonlocal ended, known, array
            space.y, space.h = y, h  # the interpolant asks for them
            if y is not known:
                known, array = y, shared(y)
            first[...] = array
            multiply(table, h, scaled)
            if k0 is ended:
                second[...] = third
            elif k0 is not kept:
                store(rows[1], k0)
            for c, dot, put in plan:
                put(call(share(stamp(t + c * h)), share(dot()), args))
            new = array + increment()
            y1 = share(new)
            k1 = call(share(stamp(t + end * h)), y1 if counted else y1.clone(), args)
            if counted and y1._version:
                raise changed()
            put_last(k1)
            error2 = norm(array, new)
            ended = (k1,)
            if error2 <= 1.0:  # then the next attempt begins there
                known, array = y1, new
            return y1, ended, kept, error2

        return attempt


def fused_attempt(space: Any, field: Any) -> Callable[..., tuple[Any, Any, Any, float]] | None:
    """The same on any device."""
    found = bare_call(space, field)
    if found is None:
        return None
    call, args = found
    last_call = guarded(lambda t, y: (call(t, y, args),))  # of states that are needed afterwards
    first, second, last = space.rows[0], space.rows[1], space.rows[space.s]
    plan, store, kept, end = space.plan[1:-1], space.store, (second,), space.c[space.s - 1]
    table, scaled, total = space.table, space.scaled, space.total
    time, norm, mul = space.layout.time, space.square, torch.mul

    def attempt(t: float, h: float, y: Any, k0: Any) -> tuple[Any, Any, Any, float]:
        space.y, space.h = y, h  # the interpolant asks for them
        first.copy_(y)
        mul(table, h, out=scaled)
        if k0 is not kept:
            store(second, k0)
        for c, product, row in plan:
            row.copy_(call(time(t + c * h), product(), args))
        y1 = total(y)
        k1 = last_call(time(t + end * h), y1)[0]
        last.copy_(k1)
        return y1, (k1,), kept, norm(y, y1)

    def attempt_late(t: float, h: float, y: Any, k0: Any) -> tuple[Any, Any, Any, float]:
        """The same; the last stage is evaluated where the error is small enough."""
        space.y, space.h, space.t = y, h, t
        first.copy_(y)
        mul(table, h, out=scaled)
        if k0 is not kept:
            store(second, k0 or last_call(time(t), y))
        for c, product, row in plan:
            row.copy_(call(time(t + c * h), product(), args))
        y1 = total(y)
        error2 = norm(y, y1)
        space.whole = error2 <= 1.0
        if not space.whole:
            return y1, None, kept, error2
        k1 = last_call(time(t + end * h), y1)[0]
        last.copy_(k1)
        return y1, (k1,), kept, error2

    return attempt_late if space.late else attempt


def squarer(space: Any) -> Callable[[Any, Any], float]:
    """``(y, y1) -> mean of (|e| / (atol + rtol max(|y|, |y1|)))**2``, with one host read."""
    layout, error, scale = space.layout, space.error, space.scale
    host = shares(layout.device)
    if host and layout.size < LARGE and layout.dtype in SHARED:
        space.host = HostStep(space)
        return space.host.square  # type: ignore[no-any-return]
    rtol, atol, count, complex_ = scale.rtol, scale.atol, layout.size, layout.dtype.is_complex
    bound, size, spare = space.buffers
    absolute, maximum, addcmul = torch.abs, torch.maximum, torch.addcmul
    last: Any = None

    def square(y: Any, y1: Any) -> float:
        nonlocal last, size, spare
        if y is not last:
            absolute(y, out=size)
        absolute(y1, out=spare)
        maximum(size, spare, out=bound)
        if rtol is None:
            bound.add_(atol)
        else:
            addcmul(atol, bound, rtol, out=bound)
        # the size of y1 is kept: it is the y of the next step, if this one is accepted
        last, size, spare = y1, spare, size
        e = error()
        if complex_:
            e = e.abs()
        e.div_(bound)
        return e.dot(e).item() / count  # type: ignore[no-any-return]

    return with_coarse(square, space.coarse, bound, complex_)


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


class TorchAdjoint(FlatCotangents):
    """Cotangents of one step as rows of a matrix."""

    def begin(self, h: float, g: Any, q: Any = None) -> None:
        torch.mul(self.table, h, out=self.scaled)
        self.rows[0].copy_(g)
        self.q = q
