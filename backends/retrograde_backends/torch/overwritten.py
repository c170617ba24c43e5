"""PyTorch: states that f is given and must not change.

Tensors count what is written into them, so that a look at the count after f's call tells. Those of
``inference_mode`` count nothing: f gets copies of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from retrograde._base.errors import InputError
from retrograde._base.types import Array, Function, Scalar, State, Tree

__all__ = ["changed", "guarded", "watch"]


def changed(whose: str = "`f` changed its argument `y`") -> InputError:
    """The error for a write into what was only lent."""
    return InputError(f"{whose} in place; return a new tensor instead.")


def guarded(field: Function) -> Function:
    """``field(t, y)`` of a state (a tensor, or a tuple of them) that it must leave as it was."""

    def call(t: Scalar, y: State) -> Tree:
        if isinstance(y, tuple):
            y = tuple(x.clone() if x.is_inference() else x for x in y)
            look = watch(y, "`f` changed its argument `y`")
            k = field(t, y)
            look()
            return k
        if y.is_inference():
            return field(t, y.clone())
        before = y._version
        k = field(t, y)
        if y._version != before:
            raise changed()
        return k

    return call


def watch(leaves: Sequence[Array], whose: str) -> Callable[[], None]:
    """A function that raises InputError if tensors were changed in place since."""
    tensors = [x for x in leaves if isinstance(x, torch.Tensor) and not x.is_inference()]
    versions = [x._version for x in tensors]

    def look() -> None:
        if versions != [x._version for x in tensors]:
            raise changed(whose)

    return look
