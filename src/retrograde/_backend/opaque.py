"""Public functions as one call each, for compilers of Python around them.

A solve chooses its steps by values, so a compiler that traces the Python which calls it has to
leave it whole: cut into the pieces that it can trace, it would run no faster, and take minutes to
compile. How a function is hidden from such a compiler is its library's own (``apart``).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .._base.types import Function
from .registry import COMPILERS, adapter

__all__ = ["opaque"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def opaque(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """``fn``, which compilers of Python that are loaded do not look into."""

    @functools.wraps(fn)
    def call(*args: _P.args, **keywords: _P.kwargs) -> _R:
        hidden: Function = fn
        for module, library in COMPILERS.items():
            if module in sys.modules:
                hidden = adapter(library).apart(hidden)
        return hidden(*args, **keywords)  # type: ignore[no-any-return]

    # what torch.compile reads of a function before it traces it, and says where it must not stop
    vars(call).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=_WHY % fn.__name__)
    return call


_WHY = (
    "retrograde.%s takes steps by the values of tensors and can be no part of a graph; leave "
    "`fullgraph` out, or compile `f` in place of what calls it"
)
