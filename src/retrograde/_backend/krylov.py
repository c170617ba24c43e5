"""Linear systems of implicit methods without matrices: products with the Jacobian alone.

``W x = b`` with ``W = c I - J`` is solved by GMRES in the form of GCR (Eisenstat, Elman & Schultz
1983, doi:10.1137/0720023): both minimise the residual over the same directions, and this one takes
a preconditioner that may be anything. Directions beyond ``memory`` push out the oldest.

A correction of a stage needs a few digits of its system (inexact Newton); a cotangent needs all of
them. Both are over the reals of a state (``Reals``): a complex number is a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._base.errors import InputError
from .._base.types import Array, Bool, Carry, Field, Index, Scalar, State, Tree
from .protocols import Capability
from .reals import Reals

if TYPE_CHECKING:
    from .protocols import FieldVJP, Layout, Linearisation

BESIDE = 12
"""States of a solve beside its directions."""

_ROUNDED = 512
"""A residual of so many roundings is none."""


@dataclass(frozen=True)
class GMRES:
    """Solves the linear systems of an ESDIRK method by products with the Jacobian.

    For systems so large that no factorisation is worth its time or memory, as of fields in two and
    three dimensions. Pass it to the method: ``rg.Kvaerno5(linear_solver=rg.GMRES(...))``.

    Parameters
    ----------
    preconditioner : callable, optional
        ``preconditioner(t, y, c, r) -> x`` with ``(c I - J(t, y)) x`` near r; x and r like y, c a
        number (1 over the step and the method's diagonal). None: x = r. Its accuracy decides the
        number of products, nothing else.
    transposed : callable, optional
        The same for the transposed system (of complex states, the conjugate one), which gradients
        solve. Default: ``preconditioner``.
    rtol : float
        Of the residual of a correction. Cotangents are solved for to rounding.
    memory : int
        Directions that are kept, two states each.
    max_products : int
        Products of J and a vector in one solve; after them it counts as it is, and the Newton
        iteration tells.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> def heat(t, u, rate):
    ...     return rate * (np.roll(u, 1) - 2 * u + np.roll(u, -1))
    >>> u0 = np.sin(np.linspace(0.0, 2 * np.pi, 64, endpoint=False))
    >>> solver = rg.Kvaerno3(linear_solver=rg.GMRES())
    >>> sol = rg.solve(heat, u0, 0.0, 1.0, np.asarray(100.0), solver=solver)
    >>> exact = u0 * np.exp(-200.0 * (1 - np.cos(2 * np.pi / 64)))
    >>> bool(np.abs(sol.ys[-1] - exact).max() < 1e-3)
    True
    """

    preconditioner: Callable[[Array, Tree, Scalar, Tree], Tree] | None = None
    transposed: Callable[[Array, Tree, Scalar, Tree], Tree] | None = None
    rtol: float = 1e-3
    memory: int = 20
    max_products: int = 200

    def __post_init__(self) -> None:
        if not 0.0 < self.rtol < 1.0:
            raise InputError(f"`rtol` of GMRES is {self.rtol!r}; choose a number between 0 and 1.")
        for name in ("memory", "max_products"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"`{name}` of GMRES is {value!r}; choose an int of at least 1.")

    def nbytes(self, layout: Layout) -> int:
        """Bytes of the directions of a solve, and of states beside them (complex ones too)."""
        return (2 * self.memory + BESIDE) * layout.nbytes

    def algebra(self, layout: Layout) -> MatrixFree:
        """What a stepper solves with."""
        return MatrixFree(layout, self)


class MatrixFree:
    """The linear algebra of implicit steps (``DenseLinear``) without matrices.

    A "Jacobian" is where it is taken, (t, y), and so is what stands for factors, with c.
    """

    def __init__(self, layout: Layout, settings: GMRES) -> None:
        self.layout, self.settings = layout, settings
        self.bk, self.clock, self.reals = layout.bk, layout.bk.clock(layout), Reals(layout)
        self.field: Field | None = None
        self.known: tuple[State, Any] = None, None
        """Where f was linearised last, and that."""
        self.vjp: FieldVJP | None = None
        """f's, where a reverse pass has one: for transposed products."""

    def jacobian(self, field: Field, t: Array, y: State) -> Carry:
        """df/dy at (t, y)."""
        self.field, self.known = field, (None, None)
        return t, y

    def shifted(self, jacobian: Carry, c: Scalar) -> Carry:
        """``c I - J``."""
        return (*jacobian, self.clock.real(c))

    def factor(self, matrix: Carry) -> Carry:
        """The matrix: nothing is factored."""
        return matrix

    def ok(self, factors: Carry) -> Bool:
        """Whether a matrix could be factored."""
        return self.layout.finite(factors[1])

    def solve(self, factors: Carry, b: State) -> State:
        """x of ``W x = b``, to ``rtol``."""
        settings = self.settings
        near = self._preconditioner(settings.preconditioner, factors)
        product = self._point(factors).jvp
        return self.reals.state(
            self._solved(product, factors, self.reals.of(b), near, settings.rtol)
        )

    def solve_transposed(self, factors: Carry, b: State) -> State:
        """The cotangent x with ``<x, W v> = <b, v>`` for all v, to rounding."""
        settings, reals = self.settings, self.reals
        near = self._preconditioner(settings.transposed or settings.preconditioner, factors)
        eps = self.clock.eps if self.clock.traced else self._eps()
        product, row = self._products(factors), reals.of(self._paired(b))
        return self._paired(reals.state(self._solved(product, factors, row, near, _ROUNDED * eps)))

    def _eps(self) -> float:
        return float(self.layout.xp.finfo(self.layout.real_dtype).eps)

    def _paired(self, x: State) -> State:
        """A cotangent in the library's convention as one of pairs of reals, and back."""
        if not self.reals.complex:
            return x
        pair, xp, dtype = self.bk.pair, self.layout.xp, self.layout.dtype
        return self.bk.map_state(
            lambda a: xp.astype(pair(a, 1.0), dtype) + 1j * xp.astype(pair(a, 1j), dtype), x
        )

    def _point(self, factors: Carry) -> Linearisation:
        """f linearised there; where times are numbers, once for all solves."""
        t, y, _ = factors
        if self.clock.traced or self.known[0] is not y:
            point = self.field.linearise(self.reals, t, y, timed=False)  # type: ignore[union-attr]
            self.known = y, point
        found: Linearisation = self.known[1]
        return found

    def _solved(
        self,
        product: Callable[[Array], Array],
        factors: Carry,
        b: Array,
        near: Callable[[Array], Array],
        rtol: float,
    ) -> Array:
        """Of rows. Directions p and their images q = W p are rows of two matrices."""
        c, bk, xp, most = factors[2], self.bk, self.layout.xp, self.settings.memory
        eager = not self.clock.traced

        def dot(x: Array, y: Array) -> Scalar:
            return bk.scalar(xp.sum(x * y))

        def scaled(w: Scalar, x: Array) -> Array:
            return w * x if eager else bk.scalar_array(w, self.layout) * x

        def apart(p: Array, q: Array, ps: Array, qs: Array, n: Index) -> tuple[Array, Array]:
            """q orthogonal to the images so far; twice is enough."""
            if eager:  # rows of a traced matrix that are not filled yet are 0
                ps, qs = ps[: min(n, most), ...], qs[: min(n, most), ...]
            for _ in range(2):
                along = bk.matmul(qs, q[:, None])
                p = p - bk.matmul(xp.matrix_transpose(ps), along)[:, 0]
                q = q - bk.matmul(xp.matrix_transpose(qs), along)[:, 0]
            return p, q

        least = rtol * rtol * dot(b, b)

        def going(s: Carry) -> Bool:
            return self.clock.both(s[2] > least, s[3] < self.settings.max_products)

        def turn(s: Carry) -> Carry:
            x, r, _, n, ps, qs = s
            p = near(r)
            q = scaled(c, p) - product(p[None, :])[0, ...]
            if not eager or n:
                p, q = apart(p, q, ps, qs, n)
            size = self.clock.root(1.0, dot(q, q))
            p, q = scaled(size, p), scaled(size, q)
            along, slot = dot(q, r), n % most
            x, r = x + scaled(along, p), r - scaled(along, q)
            return x, r, dot(r, r), n + 1, bk.set_row(ps, slot, p), bk.set_row(qs, slot, q)

        shape, like = (most, self.reals.size), {"dtype": b.dtype, "device": self.layout.device}
        ps, qs = (xp.zeros(shape, **like) for _ in range(2))
        start = xp.zeros_like(b), b, dot(b, b), self.clock.count(0), ps, qs
        return bk.while_loop(going, turn, start)[0]

    def _products(self, factors: Carry) -> Callable[[Array], Array]:
        """``w -> w J``: by the library's autodiff, else by the tape's or the user's vjp."""
        vjp, reals, (t, y, _) = self.vjp, self.reals, factors
        if vjp is None or Capability.AUTODIFF in self.bk.capabilities:
            return self._point(factors).vjp
        (_, pull), none = vjp(t, y), vjp.zero()
        return lambda w: reals.of_leaves(pull(reals.leaves(w[0, ...]), none)[0])[None, :]

    def _preconditioner(
        self, near: Callable[..., Tree] | None, factors: Carry
    ) -> Callable[[Array], Array]:
        """The user's, of rows."""
        if near is None:
            return lambda r: r
        (t, y, c), reals, flatten = factors, self.reals, self.bk.flatten
        tree, own = self.field.equations.tree, self.layout.own  # type: ignore[union-attr]
        y = tree(y)
        return lambda r: reals.of(own(flatten(near(t, y, c, tree(reals.state(r))))[0]))
