"""What a traced forward march hands to its reverse, without what the host knows anyway.

A number of steps that is known, and the positions of the rows that follow from it, are constants
of the program: kept as arrays, they would be a good part of the residuals of a small state.
"""

from __future__ import annotations

from typing import Any

from .._loops import FAR, Slots

__all__ = ["fill", "strip"]


def strip(loop: Any, slots: Slots, final: Any) -> Any:
    """The end of a march without what :func:`fill` finds again."""
    if not _known(loop, slots):
        return final
    stored = final.stored if slots.everything else final.stored._replace(positions=())
    t = final.t if loop.outputs.saveat.fn is not None else ()  # which that alone is told
    return final._replace(t=t, n=(), tries=(), stored=stored)


def fill(loop: Any, slots: Slots, final: Any, placed: tuple[int, ...]) -> Any:
    """The end of a march as it was; ``placed`` are the steps whose states were stored."""
    if not _known(loop, slots):
        return final
    stored, n = final.stored, slots.length
    if not slots.everything:
        assert slots.rows is not None
        empty = slots.rows + 1 - len(placed)
        stored = stored._replace(positions=loop.bk.ints((*placed, *[FAR] * empty)))
    return final._replace(n=n, tries=n, stored=stored)


def _known(loop: Any, slots: Slots) -> bool:
    return loop.clock.traced and slots.length is not None
