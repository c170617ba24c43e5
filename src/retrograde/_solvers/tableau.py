"""Butcher tableaus of explicit Runge-Kutta methods, and the conditions that fix their order.

A `Tableau` is numbers only: tuples of Python floats, no arrays, so that one table serves every
array library and every precision. It checks its shapes when it is made, and its mathematics
when `Tableau.check` is called (by the tests, never at import). The order conditions are not a
list of formulas but generated from the rooted trees, for any order. Explicit methods only.

The theory is Butcher's [1]_, in the notation of Hairer, Nørsett and Wanner [2]_: a tree ``t``
with branches ``t_1 .. t_m`` has the density ``gamma(t) = |t| gamma(t_1) .. gamma(t_m)`` and, at
stage ``i``, the elementary weight ``Phi_i(t) = prod_k sum_j a_ij Phi_j(t_k)``.

References
----------
.. [1] J. C. Butcher, "Coefficients for the study of Runge-Kutta integration processes", J. Aust.
   Math. Soc. 3 (1963) 185-201, doi:10.1017/S1446788700027932.
.. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd ed.,
   Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.2 (Theorem 2.13) and II.6.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import fsum, prod
from operator import mul
from typing import TypeAlias

Tree: TypeAlias = "tuple[Tree, ...]"
"""A rooted tree, as the sorted tuple of the branches at its root; ``()`` is the single vertex."""

# Rounding leaves Tsit5, whose coefficients reach 90, residuals of up to 1.4e-14.
_SUM_TOLERANCE = 1e-14
_ORDER_TOLERANCE = 1e-13


@dataclass(frozen=True, slots=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method with ``s`` stages.

    One step of size ``h`` from ``(t, y)`` is::

        k_i       = f(t + c_i h, y + h sum_{j<i} a_ij k_j)
        y_new     = y + h sum_i b_i k_i
        error     = h sum_i b_error_i k_i
        y(theta)  = y + h sum_i b_i(theta) k_i,     0 <= theta <= 1

    Parameters
    ----------
    c : tuple of float, length s
        Nodes, in units of the step; ``c[0]`` is 0.
    a : tuple of tuples of float, lengths 0, 1, ..., s - 1
        Stage coefficients below the diagonal; row ``i`` sums to ``c[i]``.
    b : tuple of float, length s
        Weights of the solution that is carried on; they sum to 1.
    b_error : tuple of float, length s, or None
        ``b`` minus the weights ``b_hat`` of the embedded method; they sum to 0. None for a
        method without an error estimate.
    order : int
        Order ``p`` of the solution that is carried on: its global error is O(h**p).
    error_order : int
        Exponent ``k`` of the error estimate, O(h**k), whose ``k``-th root the step controller
        takes: 1 more than the order of the less accurate method of the pair, hence ``p`` for a
        pair p(p-1). Without an estimate ``p + 1``, the exponent of the local error itself.
    interpolation : tuple of s tuples of float, all of one length d
        Row ``i`` holds the coefficients of ``theta**1, ..., theta**d`` in ``b_i(theta)``.
    interpolation_order : int
        Order ``q`` of the interpolant: inside a step that starts exactly its error is
        O(h**(q+1)).

    Raises
    ------
    ValueError
        If the shapes do not fit each other, a row of `a` does not sum to its node, or the
        weights do not sum to 1 (`b`) or 0 (`b_error`).

    Examples
    --------
    >>> from retrograde._solvers.tableau import Tableau
    >>> midpoint = Tableau(
    ...     c=(0.0, 0.5), a=((), (0.5,)), b=(0.0, 1.0), b_error=(-1.0, 1.0), order=2,
    ...     error_order=2, interpolation=((1.0, -1.0), (0.0, 1.0)), interpolation_order=2,
    ... )
    >>> midpoint.check()
    >>> midpoint.weights(0.5)
    (0.25, 0.25)
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...] | None
    order: int
    error_order: int
    interpolation: tuple[tuple[float, ...], ...]
    interpolation_order: int

    def __post_init__(self) -> None:
        self._check_shapes()
        for i, row in enumerate(self.a):
            _check_sum(f"a[{i}]", row, self.c[i])
        _check_sum("b", self.b, 1.0)
        if self.b_error is not None:
            _check_sum("b_error", self.b_error, 0.0)

    def _check_shapes(self) -> None:
        s = len(self.b)
        for name in ("c", "a", "b_error", "interpolation"):
            entries = getattr(self, name)
            if entries is not None and len(entries) != s:
                raise ValueError(
                    f"`{name}` has {len(entries)} entries, but `b` has {s}: one for each stage."
                )
        for i, row in enumerate(self.a):
            if len(row) != i:
                raise ValueError(
                    f"`a[{i}]` has {len(row)} entries instead of {i}, one for each earlier stage."
                )
        degrees = {len(row) for row in self.interpolation}
        if len(degrees) != 1 or 0 in degrees:
            raise ValueError(
                f"The rows of `interpolation` have lengths {sorted(degrees)}, but all need one "
                "common length of at least 1; pad with zeros."
            )
        ranges = {"error_order": (2, self.order + 1), "interpolation_order": (1, self.order)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; with `order` {self.order} it can be "
                    f"{least} to {most}."
                )

    @property
    def stages(self) -> int:
        """Number of stages ``s``, the first and the last included."""
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Whether the last stage of a step is the first of the next ("first same as last")."""
        return self.c[-1] == 1.0 and self.b[-1] == 0.0 and self.a[-1] == self.b[:-1]

    @property
    def b_hat(self) -> tuple[float, ...] | None:
        """Weights of the embedded method, ``b - b_error``; None without an error estimate."""
        if self.b_error is None:
            return None
        return tuple(b - e for b, e in zip(self.b, self.b_error, strict=True))

    def weights(self, theta: float) -> tuple[float, ...]:
        """Weights ``b_i(theta)`` of the interpolant.

        Parameters
        ----------
        theta : float
            Place in the step, 0 at its start and 1 at its end. Only ``+`` and ``*`` are applied
            to it, so a scalar of an array library, traced or not, serves as well.

        Returns
        -------
        tuple of float, length s
            They vanish at 0 and equal `b` at 1 (to rounding, not to the bit).
        """
        return tuple(_horner(row, theta) * theta for row in self.interpolation)

    def weight_derivatives(self, theta: float) -> tuple[float, ...]:
        """Derivatives of `weights`: ``dy/dt = sum_i b_i'(theta) k_i`` along the interpolant.

        Parameters
        ----------
        theta : float
            As for `weights`.

        Returns
        -------
        tuple of float, length s
            They sum to 1.
        """
        powers = range(1, len(self.interpolation[0]) + 1)
        return tuple(_horner([*map(mul, row, powers)], theta) for row in self.interpolation)

    def check(self, tolerance: float = _ORDER_TOLERANCE) -> None:
        """Verify that the tableau has the orders it states.

        Held to their order conditions are `b`, `b_hat` (up to ``error_order - 1``) and, for
        every theta, the interpolant, which also has to end in `b`. Takes about 1 ms.

        Parameters
        ----------
        tolerance : float
            Largest residual that passes for rounding.

        Raises
        ------
        ValueError
            If a residual exceeds `tolerance`.
        """
        for name, residuals in self._residuals():
            worst = max(map(abs, residuals))
            if not worst <= tolerance:
                raise ValueError(
                    f"{name} of this tableau is off by {worst:.1e}; {tolerance:.1e} is allowed. "
                    "A coefficient is mistyped, or a stated order is too high."
                )

    def _residuals(self) -> Iterator[tuple[str, Sequence[float]]]:
        yield f"Order {self.order} of `b`", order_conditions(self, self.order)
        if self.b_hat is not None:
            lower = self.error_order - 1
            yield f"Order {lower} of `b_hat`", order_conditions(self, lower, self.b_hat)
        # Each residual is a polynomial in theta without a constant term, so as many places as
        # its degree decide whether it vanishes for every theta.
        q = self.interpolation_order
        degree = max(q, len(self.interpolation[0]))
        for j in range(1, degree + 1):
            theta = j / degree
            name = f"Order {q} of `interpolation` at theta = {theta:.2g}"
            yield name, order_conditions(self, q, self.weights(theta), theta)
        ends = zip(self.weights(1.0), self.b, strict=True)
        yield "The end of `interpolation`, which should be `b`,", [w - b for w, b in ends]


def order_conditions(
    tableau: Tableau, order: int, weights: Sequence[float] | None = None, theta: float = 1.0
) -> list[float]:
    """Residuals of all order conditions up to `order`.

    For each rooted tree ``t`` with at most `order` vertices the residual is
    ``sum_i w_i Phi_i(t) - theta**|t| / gamma(t)``; weights ``w`` have that order at ``t + theta
    h`` exactly when all of them vanish.

    Parameters
    ----------
    tableau : Tableau
        Whose stages are weighted.
    order : int
        Largest number of vertices; up to order 5 there are 17 conditions.
    weights : sequence of float, length s, optional
        ``w``. Default: the tableau's `b`.
    theta : float
        Place in the step that the weights are meant for.

    Returns
    -------
    list of float
        One residual a tree, the smaller trees first.
    """
    w = tableau.b if weights is None else weights
    residuals = []
    for tree in (tree for n in range(1, order + 1) for tree in rooted_trees(n)):
        terms = [x * phi for x, phi in zip(w, _elementary_weights(tableau, tree), strict=True)]
        residuals.append(fsum([*terms, -(theta ** _vertices(tree)) / _density(tree)]))
    return residuals


@cache
def rooted_trees(vertices: int) -> tuple[Tree, ...]:
    """All rooted trees with so many vertices: 1, 1, 2, 4, 9, 20, ... of them."""
    # Every tree is a smaller one plus a leaf; sorting the branches merges those met twice.
    if vertices == 1:
        return ((),)
    grown = {larger for tree in rooted_trees(vertices - 1) for larger in _with_one_more_leaf(tree)}
    return tuple(sorted(grown))


def _with_one_more_leaf(tree: Tree) -> Iterator[Tree]:
    yield tuple(sorted((*tree, ())))
    for i, branch in enumerate(tree):
        for larger in _with_one_more_leaf(branch):
            yield tuple(sorted((*tree[:i], larger, *tree[i + 1 :])))


def _vertices(tree: Tree) -> int:
    return 1 + sum(map(_vertices, tree))


def _density(tree: Tree) -> int:
    return _vertices(tree) * prod(map(_density, tree))


def _elementary_weights(tableau: Tableau, tree: Tree) -> list[float]:
    branches = [_elementary_weights(tableau, branch) for branch in tree]
    return [prod(fsum(map(mul, row, phi)) for phi in branches) for row in tableau.a]


def _horner(coefficients: Sequence[float], theta: float) -> float:
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * theta + coefficient
    return value


def _check_sum(name: str, entries: tuple[float, ...], total: float) -> None:
    if not abs(fsum(entries) - total) <= _SUM_TOLERANCE:
        raise ValueError(f"`{name}` sums to {fsum(entries)!r}, but has to sum to {total!r}.")
