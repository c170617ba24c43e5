"""What a page of a Rosenbrock method holds, and the conditions that it must satisfy.

A step solves linear equations of one matrix, W = M / (h gamma) - J, where J = df/dy and M is the
mass matrix (Hairer & Wanner, *Solving ODEs II*, 2nd ed., 1996, doi:10.1007/978-3-642-05221-7, eq.
IV.7.25)::

    W U_i = f(t + c_i h, y + sum_j a_ij U_j) + M sum_j (C_ij / h) U_j + h d_i df/dt
    y1 = y + sum_i b_i U_i

so that no product with J is formed. ``check`` goes back to the form of the theory, U = h Gamma k
with Gamma = (diag(1 / gamma) - C)^-1, whose order conditions are those of a Runge-Kutta method but
that a vertex with one branch takes alpha + Gamma in place of alpha (theorem IV.7.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum
from operator import mul

from ..runge_kutta.order_conditions import residuals

_TOLERANCE = 1e-13
"""Rounding leaves Rodas5P, whose coefficients reach 165, residuals of up to 1.6e-14."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class RosenbrockTableau:
    """The coefficients of a Rosenbrock method with ``s`` stages, as its steps use them.

    Parameters
    ----------
    gamma : float
        The diagonal entry that all stages share.
    c, d : tuple of float, length s
        Times of the stages, and weights of df/dt, both in units of the step.
    a, coupling : tuple of tuples of float, lengths 0, 1, ..., s - 1
        ``a_ij`` and ``C_ij`` below the diagonal.
    b, b_error : tuple of float, length s
        Weights of the stages ``U_i`` in the step, and in the estimate of its error.
    order, error_order : int
        Of the step: its global error is O(h**order); the estimate is O(h**error_order).
    interpolation : tuple of tuples of float, each of length s
        Rows ``H_k``. The weights inside of a step are
        ``theta b + theta (1 - theta) (H_0 + theta H_1 + theta**2 H_2 + ...)``.
    interpolation_order : int
        Order of y(t + theta h).

    Raises
    ------
    ValueError
        If the lengths do not match.

    Examples
    --------
    >>> import retrograde as rg
    >>> tableau = rg.Rodas5P.tableau
    >>> tableau.stages, tableau.order, tableau.degree
    (8, 5, 4)
    >>> tableau.check()
    """

    gamma: float
    c: tuple[float, ...]
    d: tuple[float, ...]
    a: Rows
    coupling: Rows
    b: tuple[float, ...]
    b_error: tuple[float, ...]
    order: int
    error_order: int
    interpolation: Rows
    interpolation_order: int

    def __post_init__(self) -> None:
        s = len(self.b)
        rows = {"c": self.c, "d": self.d, "b_error": self.b_error}
        rows |= {f"interpolation[{k}]": row for k, row in enumerate(self.interpolation)}
        for name, entries in rows.items():
            if len(entries) != s:
                raise ValueError(f"`{name}` has {len(entries)} entries, but `b` has {s}.")
        for name in ("a", "coupling"):
            lengths = [len(row) for row in getattr(self, name)]
            if lengths != list(range(s)):
                raise ValueError(
                    f"The rows of `{name}` have lengths {lengths} instead of 0 to {s - 1}: one "
                    "entry for each earlier stage."
                )

    @property
    def stages(self) -> int:
        """Number of stages ``s``."""
        return len(self.b)

    @property
    def inner(self) -> int:
        """Stages that y1 alone needs: those behind are the error's."""
        return 1 + max(i for i, b in enumerate(self.b) if b)

    @property
    def degree(self) -> int:
        """Of the interpolant, a polynomial in theta."""
        return 1 + len(self.interpolation)

    def basis(self, theta: float) -> tuple[float, ...]:
        """``theta``, and ``theta**(k + 1) (1 - theta)`` for each row of ``interpolation``.

        Only ``+``, ``-`` and ``*`` are applied to theta: a traced scalar serves as well.
        """
        bump, found = theta * (1.0 - theta), [theta]
        for _ in self.interpolation:
            found.append(bump)
            bump = bump * theta
        return tuple(found)

    def basis_derivatives(self, theta: float) -> tuple[float, ...]:
        """Their derivatives by theta."""
        power, found = 1.0, [1.0 + 0.0 * theta]
        for k in range(len(self.interpolation)):
            # d/dtheta of theta**(k + 1) - theta**(k + 2)
            found.append(power * ((k + 1) - (k + 2) * theta))
            power = power * theta
        return tuple(found)

    def weights(self, theta: float) -> tuple[float, ...]:
        """Weights of the stages in y(t + theta h); those of y1 at 1, to the bit."""
        return self._combined(self.basis(theta))

    def weight_derivatives(self, theta: float) -> tuple[float, ...]:
        """Their derivatives by theta: h dy/dt along the interpolant is their sum of the stages."""
        return self._combined(self.basis_derivatives(theta))

    def _combined(self, basis: Sequence[float]) -> tuple[float, ...]:
        found = []
        for column in zip(self.b, *self.interpolation, strict=True):
            total = 0.0
            for weight, x in zip(column, basis, strict=True):
                total = total + weight * x if weight else total
            found.append(total)
        return tuple(found)

    def check(self, tolerance: float = _TOLERANCE) -> None:
        """Verify that the tableau has the orders it states, of y1, the estimate and the inside.

        Parameters
        ----------
        tolerance : float
            Largest residual that passes for rounding, relative to the terms of its sum.

        Raises
        ------
        ValueError
            If a residual exceeds `tolerance`.
        """
        for name, found in self._residuals():
            worst = max(map(abs, found))
            if not worst <= tolerance:
                raise ValueError(
                    f"{name} of this tableau is off by {worst:.1e}; {tolerance:.1e} is allowed. "
                    "A coefficient is mistyped, or a stated order is too high."
                )

    def _residuals(self) -> Iterator[tuple[str, Sequence[float]]]:
        gammas = _inverse(self.gamma, self.coupling)
        alphas = _product(self.a, gammas)
        for name, rows, given in (("c", alphas, self.c), ("d", gammas, self.d)):
            sums = [fsum((*row, -x)) for row, x in zip(rows, given, strict=True)]
            yield f"`{name}`, which should be row sums,", sums
        both = tuple(
            tuple(fsum(pair) for pair in zip(*rows, strict=True))
            for rows in zip(alphas, gammas, strict=True)
        )

        def conditions(weights: Sequence[float], order: int, theta: float) -> list[float]:
            (theirs,) = _product((weights,), gammas)
            return residuals(alphas, order, theirs, theta, chain=both)

        yield f"Order {self.order} of `b`", conditions(self.b, self.order, 1.0)
        lower = [b - e for b, e in zip(self.b, self.b_error, strict=True)]
        kind = self.error_order - 1
        yield f"Order {kind} of `b - b_error`", conditions(lower, kind, 1.0)
        q = self.interpolation_order
        degree = max(q, self.degree)
        for j in range(1, degree + 1):
            theta = j / degree
            name = f"Order {q} of `interpolation` at theta = {theta:.2g}"
            yield name, conditions(self.weights(theta), q, theta)


def _inverse(gamma: float, coupling: Rows) -> Rows:
    """``(diag(1 / gamma) - C)^-1``, with zeros above the diagonal."""
    s = len(coupling)
    rows: list[tuple[float, ...]] = []
    for i, row in enumerate(coupling):
        new = [
            gamma
            * fsum((float(i == j), *(c * known[j] for c, known in zip(row, rows, strict=True))))
            for j in range(s)
        ]
        rows.append(tuple(new))
    return tuple(rows)


def _product(left: Sequence[Sequence[float]], right: Rows) -> Rows:
    """The matrix product; rows on the left may be short."""
    columns = tuple(zip(*right, strict=True))
    return tuple(tuple(fsum(map(mul, row, column)) for column in columns) for row in left)
