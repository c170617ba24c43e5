"""The conditions that fix the order of a Runge-Kutta method, generated from the rooted trees.

No list of formulas, hence of any order. The theory is Butcher's [1]_, in the notation of Hairer,
Nørsett and Wanner [2]_: a tree ``t`` with branches ``t_1 .. t_m`` has the density ``gamma(t) = |t|
gamma(t_1) .. gamma(t_m)`` and, at stage ``i``, the elementary weight ``Phi_i(t) = prod_k sum_j
a_ij Phi_j(t_k)``. Where f is a sum of parts, each with coefficients of its own, every branch has a
colour, which tells whose ``a_ij`` lead to it; at the root all parts have the same weights [3]_.

References
----------
.. [1] J. C. Butcher, "Coefficients for the study of Runge-Kutta integration processes", J. Aust.
   Math. Soc. 3 (1963) 185-201, doi:10.1017/S1446788700027932.
.. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd ed.,
   Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.2 (Theorem 2.13) and II.6.
.. [3] A. L. Araujo, A. Murua, J. M. Sanz-Serna, "Symplectic methods based on decompositions", SIAM
   J. Numer. Anal. 34 (1997) 1926-1947, doi:10.1137/S0036142995292128, Sec. 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import fsum, prod
from operator import mul
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .tableau import Tableau

Tree: TypeAlias = "tuple[tuple[int, Tree], ...]"
"""A rooted tree, as the sorted tuple of the branches at its root, each with its colour; ``()`` is
the single vertex."""

Coefficients: TypeAlias = Sequence[Sequence[float]]
"""Rows ``a_i``; what a row lacks is 0."""


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
        Largest number of vertices; up to order 5 there are 17 conditions, up to 8 200.
    weights : sequence of float, length s or S, optional
        ``w``; of the step's stages, or of the interpolant's too. Default: the tableau's `b`.
    theta : float
        Place in the step that the weights are meant for.

    Returns
    -------
    list of float
        One residual a tree, the smaller trees first.
    """
    w = tableau.b if weights is None else weights
    if len(w) == len(tableau.b):
        w = (*w, *[0.0] * (len(tableau.a) - len(w)))
    return residuals(tableau.a, order, w, theta)


def residuals(
    a: Coefficients,
    order: int,
    weights: Sequence[float],
    theta: float = 1.0,
    *,
    chain: Coefficients | None = None,
    others: Sequence[Coefficients] = (),
) -> list[float]:
    """The same of a matrix of stage coefficients and weights.

    ``chain``: the matrix of vertices with one branch alone, where it is another: alpha + Gamma of
    a Rosenbrock method (*Solving ODEs II*, theorem IV.7.4). ``others``: those of further parts of
    f; of two parts there are 36 coloured trees up to order 4, 143 up to order 5.
    """
    parts = (a, *others)
    known = _Weights(parts, a if chain is None else chain)
    found = []
    for tree in (tree for n in range(1, order + 1) for tree in rooted_trees(n, len(parts))):
        terms = [x * phi for x, phi in zip(weights, known(tree), strict=True)]
        found.append(fsum([*terms, -(theta ** _vertices(tree)) / _density(tree)]))
    return found


@cache
def rooted_trees(vertices: int, colours: int = 1) -> tuple[Tree, ...]:
    """All rooted trees with so many vertices: 1, 1, 2, 4, 9, 20, ... of them in one colour."""
    # Every tree is a smaller one plus a leaf; sorting the branches merges those met twice.
    if vertices == 1:
        return ((),)
    smaller = rooted_trees(vertices - 1, colours)
    grown = {larger for tree in smaller for larger in _with_one_more_leaf(tree, colours)}
    return tuple(sorted(grown))


def _with_one_more_leaf(tree: Tree, colours: int) -> Iterator[Tree]:
    for colour in range(colours):
        yield tuple(sorted((*tree, (colour, ()))))
    for i, (colour, branch) in enumerate(tree):
        for larger in _with_one_more_leaf(branch, colours):
            yield tuple(sorted((*tree[:i], (colour, larger), *tree[i + 1 :])))


@cache
def _vertices(tree: Tree) -> int:
    return 1 + sum(_vertices(branch) for _, branch in tree)


@cache
def _density(tree: Tree) -> int:
    return _vertices(tree) * prod(_density(branch) for _, branch in tree)


class _Weights:
    """Elementary weights of trees at all stages; those of branches are formed once."""

    def __init__(self, parts: Sequence[Coefficients], chain: Coefficients) -> None:
        self.parts, self.chain = parts, chain
        self.sums: dict[tuple[int, Tree, bool], list[float]] = {}

    def __call__(self, tree: Tree) -> list[float]:
        single = len(tree) == 1 and self.chain is not self.parts[0]
        factors = [self._sums(*branch, single) for branch in tree]
        return [prod(values) for values in zip(*factors, strict=True)] or [1.0] * len(self.parts[0])

    def _sums(self, colour: int, branch: Tree, single: bool) -> list[float]:
        if (colour, branch, single) not in self.sums:
            phi, rows = self(branch), self.chain if single else self.parts[colour]
            self.sums[colour, branch, single] = [fsum(map(mul, row, phi)) for row in rows]
        return self.sums[colour, branch, single]
