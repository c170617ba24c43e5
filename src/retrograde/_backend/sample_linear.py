"""Linear algebra of a batch whose samples have steps of their own: a matrix for each.

No sample's f depends on another's y, so that products with unit vectors of all samples at once give
all their Jacobians. As in ``linear``, a factorisation is the inverse; every sample's is its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from .._base.errors import UnsupportedByBackend
from .._base.types import Array, Scalar, State
from .reals import Reals

if TYPE_CHECKING:
    from .protocols import LinearField
    from .samples import SampleLayout

Matrices: TypeAlias = tuple[Array]
"""Those of b samples, (b, n, n)."""


class SampleLinear:
    """Jacobians of states (n, b), a column for each sample, and linear systems in them.

    Parameters
    ----------
    layout : SampleLayout
    """

    def __init__(self, layout: SampleLayout) -> None:
        self.layout, self.bk, self.xp = layout, layout.bk, layout.xp
        self.reals = Reals(layout)
        self.n, self.samples = layout.size, layout.samples
        n, b, xp = self.n, self.samples, self.xp
        self.identity = xp.eye(n, dtype=layout.real_dtype, device=layout.device)
        unit = xp.broadcast_to(self.identity[:, :, None], (n, n, b))
        self.seeds = xp.reshape(unit, (n, n * b))

    def derivatives(self, field: LinearField, t: Array, y: State) -> tuple[Matrices, State | None]:
        """The Jacobians and df/dt at (t, y); None for df/dt where f does not see its time."""
        found = field.linearise(self.reals, t, y, timed=True)
        products = found.jvp(self.seeds) if found.forward else found.vjp(self.seeds)
        parts = self.xp.reshape(products, (self.n, self.n, self.samples))
        axes = (2, 1, 0) if found.forward else (2, 0, 1)
        slope = found.by_time()
        matrices = (self.xp.permute_dims(parts, axes),)
        return matrices, None if slope is None else self.reals.state(slope)

    def shifted(self, matrix: Matrices, c: Scalar, mass: None = None) -> Matrices:
        """``c - J``, c of each sample."""
        c = self.xp.astype(c, self.layout.real_dtype)
        return (self.xp.reshape(c, (-1, 1, 1)) * self.identity - matrix[0],)

    def factor(self, matrix: Matrices) -> Matrices:
        """What solves with the matrices take."""
        return (self._inverse(matrix[0]),)

    def _inverse(self, a: Array) -> Array:
        linalg = getattr(self.xp, "linalg", None)
        if not hasattr(linalg, "inv"):
            raise UnsupportedByBackend(
                f"the backend {getattr(self.bk, 'name', 'of y0')!r} has no linear algebra "
                "(`xp.linalg.inv`), which implicit methods need; choose an explicit method, such "
                "as 'tsit5', or NumPy, PyTorch or JAX."
            )
        try:
            return linalg.inv(a)  # type: ignore[union-attr]
        except (ValueError, RuntimeError, ArithmeticError):  # one is singular: its own is nan
            if a.shape[0] == 1:
                return self.xp.full_like(a, math.nan)
        half = a.shape[0] // 2
        return self.xp.concat([self._inverse(a[:half, ...]), self._inverse(a[half:, ...])], axis=0)

    def ok(self, factors: Matrices) -> Array:
        """Which samples' matrices could be factored."""
        return self.xp.all(self.xp.isfinite(factors[0]), axis=(1, 2))

    def solve(self, factors: Matrices, b: State) -> State:
        """x of ``W x = b``."""
        xp = self.xp
        rows = xp.permute_dims(b[0], (1, 0))[:, :, None]
        found = xp.matmul(factors[0], rows)[:, :, 0]
        return (xp.permute_dims(found, (1, 0)),)
