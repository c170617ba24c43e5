"""Tableaus of ESDIRK methods: one coefficient on the diagonal, an explicit first stage.

The last stage is the result ("stiffly accurate"). Two ideas are this project's: an interpolant is
bounded where h times an eigenvalue grows without bound, as Hermite's is not (the first slope, of
rounding alone, may be any size there); and a stage's first guess is extrapolated from the slopes
before it, by weights that follow from the nodes.

Known limits: no method whose diagonal varies, none without an explicit first stage.

Notation: E. Hairer, G. Wanner, "Solving Ordinary Differential Equations II", 2nd ed., Springer
(1996), doi:10.1007/978-3-642-05221-7, Sec. IV.6; additive pairs: C. A. Kennedy, M. H. Carpenter
(2003), doi:10.1016/S0168-9274(02)00138-1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..runge_kutta.order_conditions import Coefficients, residuals
from ..runge_kutta.tableau import check_sum, horner, slopes

_ORDER_TOLERANCE = 1e-13


@dataclass(frozen=True)
class ESDIRKTableau:
    """The coefficients of an ESDIRK method with ``s`` stages, or of an additive pair.

    One step of size ``h`` from ``(t, y)`` is::

        k_1       = f(t, y)
        k_i       = f(t + c_i h, Y_i),   Y_i = y + h sum_{j<i} a_ij k_j + h gamma k_i
        y_new     = y + h sum_i b_i k_i,    b_i = a_si,  b_s = gamma
        error     = h sum_i b_error_i k_i
        y(theta)  = y + h sum_i b_i(theta) k_i,     0 <= theta <= 1

    With an ``explicit`` part, f is a sum and ``k_i`` the sum of both parts' slopes, but in Y_i,
    where those of the explicit part have its own coefficients.

    Parameters
    ----------
    gamma : float
        The diagonal.
    c : tuple of float, length s
        Nodes, in units of the step; the first is 0, the last 1.
    a : tuple of tuples of float, lengths 0, 1, ..., s - 1
        Coefficients below the diagonal; row i and ``gamma`` sum to ``c[i]`` for i > 0.
    b_error : tuple of float, length s
        ``b`` minus the weights of the embedded method.
    order, error_order : int
        As of a ``Tableau``.
    interpolation : tuple of s tuples of float
        Row i has the coefficients of ``theta**1, theta**2, ...`` in ``b_i(theta)``.
    interpolation_order : int
        Of the interpolant of the method without an explicit part.
    explicit : tuple of tuples of float, lengths 0, 1, ..., s - 1, or None
        The explicit part's.
    joint_order : int or None
        Of the interpolant with the explicit part, where that is less.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or a row does not have its sum.

    Examples
    --------
    >>> from retrograde._solvers.esdirk.tableau import ESDIRKTableau
    >>> from retrograde import Kvaerno3
    >>> Kvaerno3.tableau.check()
    >>> round(Kvaerno3.tableau.at_infinity(1.0), 12)
    0.0
    """

    gamma: float
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b_error: tuple[float, ...]
    order: int
    error_order: int
    interpolation: tuple[tuple[float, ...], ...]
    interpolation_order: int
    explicit: tuple[tuple[float, ...], ...] | None = None
    joint_order: int | None = None

    def __post_init__(self) -> None:
        for name in ("a", "b_error", "interpolation", "explicit"):
            entries = getattr(self, name)
            if entries is not None and len(entries) != len(self.c):
                raise ValueError(f"`{name}` has {len(entries)} entries, `c` has {len(self.c)}.")
        for name, diagonal in (("a", self.gamma), ("explicit", 0.0)):
            for i, row in enumerate(getattr(self, name) or ()):
                if len(row) != i:
                    raise ValueError(f"`{name}[{i}]` has {len(row)} entries instead of {i}.")
                check_sum(f"{name}[{i}]", (*row, diagonal if i else 0.0), self.c[i])
        check_sum("b_error", self.b_error, 0.0)
        if len({len(row) for row in self.interpolation}) != 1 or self.c[-1] != 1.0:
            raise ValueError("rows of `interpolation` need one length, and `c` has to end in 1.")

    @property
    def stages(self) -> int:
        """Number of stages, the explicit first one included."""
        return len(self.c)

    @property
    def b(self) -> tuple[float, ...]:
        """Weights of the result: the last row."""
        return (*self.a[-1], self.gamma)

    @property
    def rows(self) -> tuple[tuple[float, ...], ...]:
        """``a`` with its diagonal."""
        return tuple((*row, self.gamma) if row else () for row in self.a)

    @cached_property
    def guesses(self) -> tuple[tuple[float, ...], ...]:
        """Weights of the slopes before a stage in the first guess of its own.

        Lagrange's through the slopes at nodes around its own (beyond all of them, through the
        outermost two), without the first slope where two others are there, as that is the noisy
        one; for the second of two stages at the end of the step, what makes it equal to the first.
        """
        found: list[tuple[float, ...]] = [()]
        for i, c in enumerate(self.c[1:], 1):
            if self.c[i - 1] == c and self.explicit is None:
                before = (*self.a[i - 1], self.gamma)
                pairs = zip(before, self.a[i], strict=True)
                found.append(tuple((x - y) / self.gamma for x, y in pairs))
                continue
            nodes = _near(self.c, range(1 if i > 2 else 0, i), c)
            found.append(tuple(_lagrange(self.c, nodes, j, c) for j in range(i)))
        return tuple(found)

    def weights(self, theta: float) -> tuple[float, ...]:
        """Weights ``b_i(theta)`` of the interpolant; theta may be an array's scalar."""
        return tuple(horner(row, theta) * theta for row in self.interpolation)

    def weight_derivatives(self, theta: float) -> tuple[float, ...]:
        """Their derivatives."""
        return slopes(self.interpolation, theta)

    # --- claims
    def at_infinity(self, theta: float) -> float:
        """y(theta) / y of one step on y' = lambda y, as the real part of lambda goes to -inf.

        Raises
        ------
        ValueError
            If that has no bound.
        """
        weights, first = self.weights(theta), [row[0] for row in self.a[1:]]
        once = self._solved(first)
        slope = weights[0] - sum(w * x for w, x in zip(weights[1:], once, strict=True))
        if abs(slope) > _ORDER_TOLERANCE:
            raise ValueError(f"y at theta = {theta:.2g} has no bound on stiff problems.")
        twice = [x + y for x, y in zip(self._solved([1.0] * len(first)), self._solved(once),
                                       strict=True)]  # fmt: skip
        return 1.0 - sum(w * x for w, x in zip(weights[1:], twice, strict=True))

    def _solved(self, right: Sequence[float]) -> list[float]:
        """x of A x = b, of the implicit stages."""
        x: list[float] = []
        for row, b in zip(self.a[1:], right, strict=True):
            x.append((b - sum(a * v for a, v in zip(row[1:], x, strict=True))) / self.gamma)
        return x

    def check(self, tolerance: float = _ORDER_TOLERANCE) -> None:
        """Verify the orders that are stated, and that the interpolant is bounded.

        Of an additive pair every condition that couples its parts, too. Takes some milliseconds.

        Raises
        ------
        ValueError
            If one does not hold.
        """
        for name, found in self._residuals():
            worst = max(map(abs, found))
            if not worst <= tolerance:
                raise ValueError(
                    f"{name} of this tableau is off by {worst:.1e}; {tolerance:.1e} is allowed."
                )
        for theta in (0.25, 0.5, 0.75, 1.0):
            self.at_infinity(theta)

    def _residuals(self) -> Iterator[tuple[str, Sequence[float]]]:
        b_hat = [b - e for b, e in zip(self.b, self.b_error, strict=True)]
        inner, joint = self.interpolation_order, self.joint_order or self.interpolation_order
        methods: list[tuple[str, tuple[Coefficients, ...], int]] = [("", (self.rows,), inner)]
        if self.explicit is not None:
            methods.append((" with its explicit part", (self.rows, self.explicit), joint))
        degree = max(inner, len(self.interpolation[0]))
        for which, a, q in methods:
            yield (
                f"Order {self.order} of `b`{which}",
                residuals(a[0], self.order, self.b, others=a[1:]),
            )
            lower = self.error_order - 1
            yield f"Order {lower} of `b_hat`{which}", residuals(a[0], lower, b_hat, others=a[1:])
            for j in range(1, degree + 1):
                theta = j / degree
                found = residuals(a[0], q, self.weights(theta), theta, others=a[1:])
                yield f"Order {q} of `interpolation`{which} at theta = {theta:.2g}", found
        pairs = zip(self.weights(1.0), self.b, strict=True)
        yield "The end of `interpolation`, which should be `b`,", [w - b for w, b in pairs]


def _near(c: Sequence[float], stages: Sequence[int], at: float) -> list[int]:
    """Stages whose slopes make a guess at a node: two to three of different nodes."""
    apart: list[int] = []
    for j in sorted(stages, key=lambda j: abs(c[j] - at)):
        if all(abs(c[j] - c[m]) > 0.05 for m in apart):
            apart.append(j)
    ends = [min(apart, key=c.__getitem__), max(apart, key=c.__getitem__)]
    inside = c[ends[0]] < at < c[ends[1]]
    return apart[:3] if inside else sorted({*ends})


def _lagrange(c: Sequence[float], nodes: Sequence[int], j: int, at: float) -> float:
    """The weight of node j in the polynomial through the nodes."""
    if j not in nodes:
        return 0.0
    value = 1.0
    for m in nodes:
        if m != j:
            value *= (at - c[m]) / (c[j] - c[m])
    return value
