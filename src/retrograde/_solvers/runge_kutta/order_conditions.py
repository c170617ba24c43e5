"""The conditions that fix the order of a Runge-Kutta method, generated from the rooted trees.

No list of formulas, hence of any order. The theory is Butcher's [1]_, in the notation of Hairer,
Nørsett and Wanner [2]_: a tree ``t`` with branches ``t_1 .. t_m`` has the density ``gamma(t) = |t|
gamma(t_1) .. gamma(t_m)`` and, at stage ``i``, the elementary weight ``Phi_i(t) = prod_k sum_j
a_ij Phi_j(t_k)``.

References
----------
.. [1] J. C. Butcher, "Coefficients for the study of Runge-Kutta integration processes", J. Aust.
   Math. Soc. 3 (1963) 185-201, doi:10.1017/S1446788700027932.
.. [2] E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd ed.,
   Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.2 (Theorem 2.13) and II.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import fsum, prod
from operator import mul
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .tableau import Tableau

Tree: TypeAlias = "tuple[Tree, ...]"
"""A rooted tree, as the sorted tuple of the branches at its root; ``()`` is the single vertex."""


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
    a: Sequence[Sequence[float]],
    order: int,
    weights: Sequence[float],
    theta: float = 1.0,
    *,
    chain: Sequence[Sequence[float]] | None = None,
) -> list[float]:
    """The same of a matrix of stage coefficients and weights.

    ``chain``: the matrix of vertices with one branch alone, where it is another: alpha + Gamma of
    a Rosenbrock method (*Solving ODEs II*, theorem IV.7.4).
    """
    known = _Weights(a, a if chain is None else chain)
    found = []
    for tree in (tree for n in range(1, order + 1) for tree in rooted_trees(n)):
        terms = [x * phi for x, phi in zip(weights, known(tree), strict=True)]
        found.append(fsum([*terms, -(theta ** _vertices(tree)) / _density(tree)]))
    return found


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


@cache
def _vertices(tree: Tree) -> int:
    return 1 + sum(map(_vertices, tree))


@cache
def _density(tree: Tree) -> int:
    return _vertices(tree) * prod(map(_density, tree))


class _Weights:
    """Elementary weights of trees at all stages; those of branches are formed once."""

    def __init__(self, a: Sequence[Sequence[float]], chain: Sequence[Sequence[float]]) -> None:
        self.a, self.chain = a, chain
        self.sums: dict[tuple[Tree, bool], list[float]] = {}

    def __call__(self, tree: Tree) -> list[float]:
        single = len(tree) == 1 and self.chain is not self.a
        factors = [self._sums(branch, single) for branch in tree]
        return [prod(values) for values in zip(*factors, strict=True)] or [1.0] * len(self.a)

    def _sums(self, branch: Tree, single: bool) -> list[float]:
        if (branch, single) not in self.sums:
            phi, rows = self(branch), self.chain if single else self.a
            self.sums[branch, single] = [fsum(map(mul, row, phi)) for row in rows]
        return self.sums[branch, single]
