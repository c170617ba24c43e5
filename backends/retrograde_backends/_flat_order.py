"""Where the stages of a step lie in the matrix of ``_flat``, so that products skip what they can.

A product goes over neighbouring rows. In some methods of high order the first stages serve the
next few alone, and all later products would read rows for coefficients of 0: 22 of the 115 that a
step of Dopri8 reads. Before y, in reverse order, they are out of the way: k3, k2, y, k1, k4, ...
That pays where products are bound by memory (Burgers of 100,000: a tenth of the solve). A march
and its replays must have one order: it decides how sums round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Order"]


class Order:
    """The rows of y and of all stages.

    Parameters
    ----------
    tableau : Tableau
    skips : bool
        Whether rows are to be skipped; else y comes first and the stages follow.

    Attributes
    ----------
    lead : int
        y's row, behind as many stages.
    place : list of int
        Row of each stage.
    """

    def __init__(self, tableau: Any, skips: bool) -> None:
        lead = _passing(tableau) if skips else 0
        self.lead, total = lead, tableau.inside
        self.place = [lead + 1, *range(lead - 1, -1, -1), *range(lead + 2, total + 1)]

    def columns(self, row: Sequence[float]) -> list[float]:
        """Coefficients of a step's stages by row of the matrix, y's (1) included."""
        out = [1.0] * (len(row) + 1)
        for place, w in zip(self.place, row, strict=False):
            out[place] = w
        return out

    def span(self, row: Sequence[float]) -> slice:
        """Rows of y and of the stages that have coefficients."""
        if not self.lead:
            return slice(0, len(row) + 1)
        found = [self.lead, *(p for p, w in zip(self.place, row, strict=False) if w)]
        return slice(min(found), max(found) + 1)

    def live(self, weights: Sequence[float]) -> list[float]:
        """Weights of the stages behind y, in their order; those before it have none."""
        return [weights[0], *weights[self.lead + 1 :]]

    def scaler(self, multiply: Callable[..., Any]) -> Callable[..., Any]:
        """``(table, h, out)`` that scales all columns of ``columns`` but y's."""

        def scale(table: Any, h: float, out: Any) -> None:
            multiply(table, h, out)
            out[:, self.lead] = 1.0

        return scale


def _passing(tableau: Any) -> int:
    """How many stages after the first have no coefficient three rows later."""
    rows = [*tableau.a, tableau.b, tableau.b_error or (), tableau.b_coarse or ()]
    count = 0
    for i in range(1, tableau.stages - 2):
        later = rows[i + 3 :]
        if any(row[i] for row in later if len(row) > i) or any(tableau.interpolation[i]):
            break
        count = i
    return count
