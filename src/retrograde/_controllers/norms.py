"""Norms of the scaled error: one number out of ``|e| / (atol + rtol max(|y|, |y1|))``.

``"rms"`` is the root of the mean square over all elements of all leaves (Hairer, Norsett, Wanner,
*Solving ODEs I*, eq. II.4.11); adapters have it in their cheapest forms. The others are here, of
leaves of ratios, and so is the user's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, TypeAlias

from .._base.errors import InputError
from .._base.types import Array, Leaves, Tree

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend

ErrorNorm: TypeAlias = "str | Callable[[Tree], Array]"
"""``"rms"``, ``"max"``, ``"worst_sample"``, or ``norm(tree of ratios like y0) -> 0-d array``."""

LeafNorm: TypeAlias = Callable[[Leaves], Array]
"""The same of leaves."""

NAMES = ("rms", "max", "worst_sample")


def error_norm(
    bk: AbstractBackend,
    norm: ErrorNorm,
    shapes: tuple[tuple[int, ...], ...],
    tree: Callable[[Leaves], Tree],
) -> LeafNorm | None:
    """A norm of leaves; None for the root of the mean square.

    Parameters
    ----------
    shapes : tuple
        Of the leaves of y0.
    tree : callable
        Leaves in the form of y0.

    Raises
    ------
    InputError
        For a name that is none, and for samples of leaves that have different numbers of them.
    """
    if callable(norm):
        return _Own(bk, norm, tree)
    if norm == "rms":
        return None
    if norm == "max":
        return _Largest(bk)
    if norm != "worst_sample":
        raise InputError(
            f"`norm` is {norm!r}; choose one of {', '.join(map(repr, NAMES))}, or pass "
            "norm(ratios, a tree like y0) -> a 0-d array."
        )
    if () in shapes or len({shape[0] for shape in shapes}) != 1:
        raise InputError(
            f"`norm` is 'worst_sample', but the leaves of `y0` have the shapes {list(shapes)}: "
            "axis 0 must be the samples of each; pass a norm of your own."
        )
    return _WorstSample(bk, shapes)


class _Largest:
    """The largest ratio."""

    def __init__(self, bk: AbstractBackend) -> None:
        self.xp = bk.xp

    def __call__(self, ratios: Leaves) -> Array:
        return reduce(self.xp.maximum, map(self.xp.max, ratios))


class _WorstSample:
    """The largest root mean square of one sample, along axis 0 of every leaf."""

    def __init__(self, bk: AbstractBackend, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.xp, self.count = bk.xp, shapes[0][0]

    def __call__(self, ratios: Leaves) -> Array:
        xp = self.xp
        rows = xp.concat([xp.reshape(x, (self.count, -1)) for x in ratios], axis=1)
        return xp.sqrt(xp.max(xp.mean(rows * rows, axis=1)))


class _Own:
    """The user's, whose result is looked at."""

    def __init__(
        self, bk: AbstractBackend, norm: Callable[[Tree], Array], tree: Callable[[Leaves], Tree]
    ) -> None:
        self.bk, self.norm, self.tree = bk, norm, tree

    def __call__(self, ratios: Leaves) -> Array:
        found = self.norm(self.tree(ratios))
        if getattr(found, "shape", ()) != () or isinstance(found, (tuple, list, dict)):
            raise InputError(
                "`norm` must return a number or a 0-d array, but returned "
                f"{getattr(found, 'shape', type(found).__name__)}; reduce over all elements."
            )
        return found
