"""Adjoint spaces in plain array-API form: the cotangents of one step's stages (see ``_spaces``).

u_i = h (b_i g + sum_j>i a_ji mu_j) + q_i (Hager 2000, doi:10.1007/s002110000178; Sanz-Serna 2016,
doi:10.1137/151002769), over all stages that there are, those of an interpolant alone included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._types import Scalar, State

__all__ = ["ListAdjoint", "known_zero"]


class ListAdjoint:
    """The cotangents of one explicit Runge-Kutta step over a ``ListLayout``."""

    def __init__(self, layout: Any, tableau: Any) -> None:
        self.layout = layout
        self.a = tableau.a
        self.s = tableau.inside
        self.b = (*tableau.b, *[0.0] * (self.s - tableau.stages))
        self.mu: list[Any] = [None] * self.s
        self.h: Any = None
        self.g: State = None
        self.q: Any = None

    def begin(self, h: Scalar, g: State, q: Any = None) -> None:
        """Start with the cotangent g of y1 and, per stage, q_i on k_i (or None)."""
        self.h, self.g, self.q = h, g, q
        self.mu = [None] * self.s

    def forget(self, low: int) -> None:
        """Stages from ``low`` on are not pulled from now on: ``begin`` forgets them as it is."""

    def sources(self) -> Any:
        """The q_i of a step, zero."""
        return (self.layout.zeros(),) * self.s

    def add_source(self, q: Any, weights: Sequence[Scalar], ct: State) -> Any:
        """q_i + w_i ct for every stage."""
        return tuple(
            qi if known_zero(w) else self.layout.axpy(qi, w, ct)
            for qi, w in zip(q, weights, strict=True)
        )

    def lam(self, i: int) -> State:
        """u_i = h (b_i g + sum_j>i a_ji mu_j) + q_i."""
        h, out = self.h, None if self.q is None else self.q[i]
        terms = [(self.b[i], self.g)]
        terms += [(self.a[j][i], self.mu[j]) for j in range(i + 1, self.s)]
        for w, x in terms:
            if w and x is not None:
                w = h * w
                out = (
                    tuple(w * v for v in x)
                    if out is None
                    else tuple(o + w * v for o, v in zip(out, x, strict=True))
                )
        return self.layout.zeros() if out is None else out

    def push(self, i: int, mu: Any) -> None:
        """Store the cotangent of Y_i (leaves from f's vjp)."""
        self.mu[i] = mu

    def total(self) -> State:
        """g + sum_i mu_i, the cotangent of y."""
        out = list(self.g)
        for mu in self.mu:
            if mu is not None:
                out = [o + v for o, v in zip(out, mu, strict=True)]
        return tuple(out)


def known_zero(w: Any) -> bool:
    """Whether a weight is a number of the host's, and 0."""
    return isinstance(w, (int, float)) and w == 0
