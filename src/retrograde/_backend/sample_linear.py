"""Linear algebra of a batch whose samples have steps of their own: a matrix for each.

No sample's f depends on another's y, so that products with unit vectors of all samples at once give
all their Jacobians. As in ``linear``, a factorisation is the inverse; every sample's is its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from .._base.errors import UnsupportedByBackend
from .._base.types import Array, Leaves, Scalar, State
from .reals import Reals

if TYPE_CHECKING:
    from .protocols import LinearField
    from .samples import SampleLayout, SampleLeaves


class SampleReals(Reals):
    """The numbers of states (n, b) in a row, beside the user's leaves (b, *shape).

    Parameters
    ----------
    layout : SampleLeaves
    """

    whole = False

    def __init__(self, layout: SampleLeaves) -> None:
        super().__init__(layout)
        self.own, self.columns = layout, (layout.size, layout.samples)

    def of(self, y: State) -> Array:
        return self.xp.reshape(y[0], (-1,))

    def state(self, row: Array) -> State:
        return (self.xp.reshape(row, self.columns),)

    def of_leaves(self, leaves: Sequence[Array]) -> Array:
        return self.of(self.own.pack(leaves))

    def leaves(self, row: Array) -> Leaves:
        return self.own.unpack(self.state(row))


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

    def derivatives(
        self, field: LinearField, t: Array, y: State, slope: State | None = None
    ) -> tuple[Matrices, State | None]:
        """The Jacobians and df/dt at (t, y); None for df/dt where f does not see its time."""
        found = field.linearise(self.reals, t, y, timed=True)
        products = found.jvp(self.seeds) if found.forward else found.vjp(self.seeds)
        parts = self.xp.reshape(products, (self.n, self.n, self.samples))
        axes = (2, 1, 0) if found.forward else (2, 0, 1)
        by_time = found.by_time()
        matrices = (self.xp.permute_dims(parts, axes),)
        return matrices, None if by_time is None else self.reals.state(by_time)

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

    def solve_transposed(self, factors: Matrices, b: State) -> State:
        """The cotangent x with ``<x, W v> = <b, v>`` for all v, of a cotangent b."""
        return self.solve((self.xp.matrix_transpose(factors[0]),), b)

    def confirmed(
        self, matrix: Matrices, point: tuple[Array, State], w: State, pulled: State
    ) -> State:
        """The pull of a cotangent w by f's vjp, where it is that by the Jacobians that steps use.

        Raises
        ------
        UnsupportedByBackend
            Where it is another: there is no exact gradient.
        """
        xp, back = self.xp, self.xp.matrix_transpose(matrix[0])
        pairs = (back, w[0]), (xp.abs(back), xp.abs(w[0]))
        own, terms = (self.solve((a,), (x,))[0] for a, x in pairs)
        near = self.bk.itemsize(self.layout.real_dtype) ** -6.0
        most = xp.max(xp.abs(pulled[0]), axis=0)
        off = xp.abs(pulled[0] - own) > near * (terms + 1e-6 * near * most)
        if bool(xp.any(off)):
            first = int(xp.nonzero(xp.any(off, axis=0))[0][0])
            raise UnsupportedByBackend(
                f"the Jacobian that steps use is not that of `f` at t = {float(point[0][first])!r} "
                f"of sample {first}, so there is no exact gradient: f has a branch there that is "
                "not analytic (`abs`, `.real`, a cast to real numbers), through which its complex "
                "step loses a part. Write it without, or solve sample by sample with "
                "`rg.VectorField(f, jac=...)`."
            )
        return pulled
