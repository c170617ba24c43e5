"""PyTorch: Jacobians by rows of vjps, batched in one backward pass, and linear systems.

One recorded call of f and one batched backward give all rows, and df/dt with them: a tenth of the
time of ``torch.func.jacfwd``. Where autograd can't batch a backward (a function without a rule for
``vmap``), rows come one by one. Autograd follows what is made here where it records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde._backend.banded import BandLinear
from retrograde._backend.linear import DenseLinear, Factors, Matrix
from retrograde._backend.reals import Reals
from retrograde._base.types import Array, Bool, Field, Function, Leaves, State

from .field_vjp import Reads, check_twice
from .forward_mode import dual, transformed

INVERTED = 32
"""Up to so many unknowns the inverse is formed."""


class TorchLinearisation:
    """f at one (t, y), recorded once."""

    forward = False
    matrix: Array | None = None

    def __init__(self, field: Field, reals: Reals, t: Array, y: State, *, timed: bool) -> None:
        self.field, self.reals, self.timed = field, reals, timed
        self.again = torch.is_grad_enabled()  # autograd follows the solve itself
        self.t, self.y = t, y
        self.graph: tuple[Tensor, tuple[Tensor, ...], Tensor] | None = None
        self.pulled: tuple[Tensor, Tensor] | None = None
        """w J, recorded, and w."""
        self.slopes: Array | None = None
        """Derivatives by time of the rows that were asked for last."""
        self.autonomous = False
        """Whether their graph does not reach the time."""

    # --- one graph for all rows
    def _recorded(self) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """f's numbers, and what they are differentiated by: the parts of y, and t."""
        if self.graph is None:
            with _recording():
                parts = self.y if isinstance(self.y, tuple) else (self.y,)
                fresh = tuple(self._fresh(x) for x in parts)
                t = self._fresh(self.t) if self.timed else self.t
                y = fresh if isinstance(self.y, tuple) else fresh[0]
                self.graph = self.reals.of_leaves(self.field(t, y)), fresh, t
            if self.again and not getattr(self.field, "twice", False):
                check_twice(self.graph[:1], fresh)
                self.field.twice = True  # type: ignore[attr-defined]
        return self.graph

    def _fresh(self, x: Tensor) -> Tensor:
        if self.again and x.requires_grad:
            return x
        x = x.clone() if x.is_inference() else x
        if not dual(x):
            return x.detach().requires_grad_()
        forward: Any = torch.autograd.forward_ad
        value, tangent = forward.unpack_dual(x)  # detach would drop the tangent
        fresh: Tensor = forward.make_dual(value.detach().requires_grad_(), tangent)
        return fresh

    def vjp(self, w: Array) -> Array:
        """w J for each row w."""
        if transformed():
            return self._by_transforms(w)
        value, fresh, t = self._recorded()
        by = (*fresh, t) if self.timed else fresh
        grads = _rows(value, by, w, again=self.again)
        if self.timed:
            *grads, self.slopes = grads
            self.autonomous = self.slopes is None
        return self._joined(grads, len(w))

    def _joined(self, grads: Sequence[Array | None], count: int) -> Array:
        """Gradients by the parts of y as rows."""
        reals, parts = self.reals, []
        for x, g in zip(self._parts(), grads, strict=True):
            g = x.new_zeros((count, *x.shape)) if g is None else g
            g = torch.view_as_real(g.resolve_conj()) if reals.complex else g
            parts.append(g.reshape(count, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _parts(self) -> tuple[Tensor, ...]:
        return self.y if isinstance(self.y, tuple) else (self.y,)

    def by_time(self) -> Array | None:
        """df/dt; None where f's graph does not reach its time."""
        if transformed():
            return torch.func.jvp(self._of_time, (self.t,), (torch.ones_like(self.t),))[1]
        if self.autonomous:
            return None
        value, _, t = self._recorded()
        if self.slopes is not None and len(self.slopes) == self.reals.size:
            return self.slopes  # of all unit vectors
        with _recording():
            w = torch.zeros_like(value, requires_grad=True)
            (slope,) = _grad(value, (t,), w, again=True)
            if slope is None or not slope.requires_grad:
                return None
            return _grad(slope, (w,), torch.ones_like(slope), again=self.again)[0]

    def jvp(self, d: Array) -> Array:
        """J d for each row d: the derivative of w J by w."""
        if transformed():
            y = self.reals.of(self.y)
            along = torch.func.vmap(lambda v: torch.func.jvp(self._of_row, (y,), (v,))[1])
            return along(d)
        value, fresh, _ = self._recorded()
        with _recording():
            if self.pulled is None:
                w = torch.zeros_like(value, requires_grad=True)
                row = self._joined([_lead(g) for g in _grad(value, fresh, w, again=True)], 1)[0]
                self.pulled = row, w
            row, w = self.pulled
            if not row.requires_grad:
                return torch.zeros_like(d)
            return self._products(row, w, d)

    def _products(self, row: Tensor, w: Tensor, d: Tensor) -> Array:
        (found,) = _rows(row, (w,), d, again=self.again)
        return torch.zeros_like(d) if found is None else found

    # --- what torch.func's transforms follow
    def _of_row(self, row: Array) -> Array:
        return self.reals.of_leaves(self.field(self.t, self.reals.state(row)))

    def _of_time(self, t: Array) -> Array:
        return self.reals.of_leaves(self.field(t, self.y))

    def _by_transforms(self, w: Array) -> Array:
        pull: Function = torch.func.vjp(self._of_row, self.reals.of(self.y))[1]
        found: Array = torch.func.vmap(lambda row: pull(row)[0])(w)
        return found


def check_by_time(field: Field, t: Array, y: State) -> None:
    """Raise where f reads its time as a plain number, so that df/dt would be 0 unseen."""
    if transformed() or dual(t):
        return
    with _recording():
        t = (t.clone() if t.is_inference() else t).detach().requires_grad_()
        with Reads(t, "a method that needs df/dt (Rosenbrock's) solves", CURE):
            field(t, y)


CURE = "Use functions of PyTorch on t, or a method without df/dt, such as 'kvaerno5'."


def _recording() -> contextlib.AbstractContextManager[object]:
    """Autograd on, in inference mode too."""
    stack = contextlib.ExitStack()
    if torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    return stack


def _lead(x: Tensor | None) -> Tensor | None:
    return None if x is None else x[None]


def _grad(value: Tensor, by: Sequence[Tensor], ct: Tensor, *, again: bool) -> Leaves:
    """``ct`` pulled back; None where nothing depends."""
    if not value.requires_grad:
        return (None,) * len(by)
    found: Leaves = torch.autograd.grad(
        value, by, ct, retain_graph=True, create_graph=again, allow_unused=True
    )
    return found


def _rows(value: Tensor, by: Sequence[Tensor], w: Tensor, *, again: bool) -> list[Array | None]:
    """Each row of w pulled back, in one backward pass where autograd can batch it."""
    if not value.requires_grad:
        return [None] * len(by)
    if len(w) == 1:
        return [_lead(g) for g in _grad(value, by, w[0], again=again)]
    try:
        return list(
            torch.autograd.grad(
                value, by, w, retain_graph=True, create_graph=again, allow_unused=True,
                is_grads_batched=True,
            )
        )  # fmt: skip
    except RuntimeError:  # an operation without a rule for vmap
        rows = [_grad(value, by, w[i], again=again) for i in range(len(w))]
        columns = zip(*rows, strict=True)
        return [None if c[0] is None else torch.stack(list(c)) for c in columns]


class TorchLinear(DenseLinear):
    """Linear systems in PyTorch, of one matrix or of one a sample; nothing waits for a device."""

    def factor(self, matrix: Matrix) -> Factors:
        if self.n <= INVERTED:
            found = torch.linalg.inv_ex(matrix[0])
            return found.inverse, found.info
        lu, pivots, info = torch.linalg.lu_factor_ex(matrix[0])
        return lu, info, pivots

    def ok(self, factors: Factors) -> Bool:
        return bool(torch.isfinite(factors[0]).all() & (factors[1] == 0).all())

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        if self.n <= INVERTED:
            return super()._solved(factors, b, transposed=transposed)
        lu, _, pivots = factors
        found: Array = torch.linalg.lu_solve(lu, pivots, b[..., None], adjoint=transposed)
        return found[..., 0]

    def _times(self, a: Array, x: Array) -> Array:
        return torch.matmul(a, x[..., None])[..., 0] if self.batch else torch.mv(a, x)

    def _transposed(self, a: Array) -> Array:
        return a.mT


class TorchBand(BandLinear):
    """Banded systems in PyTorch: a block without an inverse gives nan, and nothing waits."""

    def ok(self, factors: Factors) -> Bool:
        return bool(torch.stack([torch.isfinite(x).all() for x in factors]).all())

    def _inverse(self, a: Array) -> Array:
        found = torch.linalg.inv_ex(a)
        return torch.where(found.info[..., None, None] == 0, found.inverse, float("nan"))

    def _times(self, a: Array, x: Array) -> Array:
        return torch.matmul(a, x[..., None])[..., 0]

    def _transposed(self, a: Array) -> Array:
        return a.mT
