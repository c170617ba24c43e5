"""Linear systems of implicit methods without matrices: products with the Jacobian alone.

``W x = b`` with ``W = c I - J`` is solved by GMRES in the form of GCR (Eisenstat, Elman & Schultz
1983, doi:10.1137/0720023): both minimise the residual over the same directions, and this one takes
a preconditioner that may be anything. Directions beyond ``memory`` push out the oldest.

A correction of a stage needs a few digits of its system (inexact Newton); a cotangent needs all of
them. Known limits: real states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._base.errors import InputError
from .._base.types import Array, Bool, Carry, Field, Scalar, State, Tree
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
        The same for the transposed system, which gradients solve. Default: ``preconditioner``.
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
        if layout.dtype != layout.real_dtype:
            raise InputError("`linear_solver` is GMRES, which takes real states; split `y0`.")
        self.layout, self.settings = layout, settings
        self.bk, self.clock, self.reals = layout.bk, layout.bk.clock(layout), Reals(layout)
        self.field: Field | None = None
        self.vjp: FieldVJP | None = None
        """f's, where a reverse pass has one: for transposed products."""

    def jacobian(self, field: Field, t: Array, y: State) -> Carry:
        """df/dy at (t, y)."""
        self.field = field
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
        return self._solved(factors, b, self.settings.preconditioner, self.settings.rtol)

    def solve_transposed(self, factors: Carry, b: State) -> State:
        """The cotangent x with ``<x, W v> = <b, v>`` for all v, to rounding."""
        settings = self.settings
        near = settings.transposed or settings.preconditioner
        eps = self.clock.eps if self.clock.traced else self._eps()
        return self._solved(factors, b, near, _ROUNDED * eps, transposed=True)

    def _eps(self) -> float:
        return float(self.layout.xp.finfo(self.layout.real_dtype).eps)

    def _solved(
        self,
        factors: Carry,
        b: State,
        near: Callable[..., Tree] | None,
        rtol: float,
        *,
        transposed: bool = False,
    ) -> State:
        (t, y, c), layout, bk, reals = factors, self.layout, self.bk, self.reals
        inner, axpy, most = layout.inner, layout.axpy, self.settings.memory
        point = self.field.linearise(reals, t, y, timed=False)  # type: ignore[union-attr]
        product = self._products(t, y, point) if transposed else point.jvp
        guess = self._preconditioner(near, t, y, c)

        def image(x: State) -> State:
            there = reals.state(product(reals.of(x)[None, :])[0, ...])
            return layout.weighted([(c, x), (-1.0, there)])

        least = rtol * rtol * inner(b, b)

        def going(s: Carry) -> Bool:
            return self.clock.both(s[2] > least, s[3] < self.settings.max_products)

        def turn(s: Carry) -> Carry:
            x, r, _, n, ps, qs = s
            p = guess(r)
            q = image(p)

            def apart(j: Scalar, pair: Carry) -> Carry:
                p, q = pair
                before = bk.read(qs, j)
                w = -inner(before, q)
                return axpy(p, w, bk.read(ps, j)), axpy(q, w, before)

            known = bk.pick(n < most, n, most)
            p, q = bk.for_loop(0, known, apart, (p, q))
            size = self.clock.root(1.0, inner(q, q))
            p, q = layout.weighted([(size, p)]), layout.weighted([(size, q)])
            along, slot = inner(q, r), n % most
            x, r = axpy(x, along, p), axpy(r, -along, q)
            return x, r, inner(r, r), n + 1, bk.write(ps, slot, p), bk.write(qs, slot, q)

        ps, qs = (bk.new_buffer(most, layout, scratch=False) for _ in range(2))
        start = layout.zeros(), b, inner(b, b), self.clock.count(0), ps, qs
        found: State = bk.while_loop(going, turn, start)[0]
        return found

    def _products(self, t: Array, y: State, point: Linearisation) -> Callable[[Array], Array]:
        """``w -> w J``: by the library's autodiff, else by the tape's or the user's vjp."""
        vjp, reals = self.vjp, self.reals
        if vjp is None or Capability.AUTODIFF in self.bk.capabilities:
            return point.vjp
        (_, pull), none = vjp(t, y), vjp.zero()
        return lambda w: reals.of_leaves(pull(reals.leaves(w[0, ...]), none)[0])[None, :]

    def _preconditioner(
        self, near: Callable[..., Tree] | None, t: Array, y: State, c: Scalar
    ) -> Callable[[State], State]:
        if near is None:
            return lambda r: r
        tree = self.field.equations.tree  # type: ignore[union-attr]
        layout, flatten = self.layout, self.bk.flatten
        return lambda r: layout.own(flatten(near(t, tree(y), c, tree(r)))[0])
