"""What looks like an array or a tree and can't be taken: what it is, and the cure.

Types are known by the module that they come from, or by the marks that their libraries leave on
them, so that nothing is imported for it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from .errors import InputError
from .types import Tree

__all__ = ["cure", "holder", "refuse"]

UNITS = "which has units; pass plain numbers in units that you chose, "
LABELS = "which has labels; pass `{name}.to_numpy()`"
_MODULES = {
    "astropy": UNITS + "`{name}.to_value(unit)`",
    "pandas": LABELS,
    "pint": UNITS + "`{name}.to(unit).magnitude`",
    "polars": LABELS,
    "quantities": UNITS + "`{name}.rescale(unit).magnitude`",
    "unyt": UNITS + "`{name}.to_value(unit)`",
    "xarray": "which has labels; pass `{name}.values`",
}
_CLASSES = {
    ("numpy", "matrix"): "whose products are not elementwise; pass `np.asarray({name})`",
    ("numpy", "MaskedArray"): "whose masked elements can't be solved for; pass "
    "`{name}.filled(value)`",
}
_SPARSE = "which is sparse; pass `{name}.toarray()`"


@functools.lru_cache(maxsize=1024)
def cure(kind: type) -> str:
    """What a foreign type is and what to do, with {name} for the argument; '' for others."""
    for base in kind.__mro__:
        root, _, rest = base.__module__.partition(".")
        found = _CLASSES.get((root, base.__name__)) or _MODULES.get(root)
        if root == "scipy" and rest.startswith("sparse"):
            found = _SPARSE
        if found and hasattr(kind, "shape"):
            return found
    return ""


@functools.lru_cache(maxsize=1024)
def holder(kind: type) -> str:
    """The cure for a class that holds arrays and that the library's trees don't know; else ''."""
    name = kind.__name__
    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "model_fields"):
        return f"the pydantic model {name}, which is no tree; pass `dict({{name}})`"
    if hasattr(kind, "__attrs_attrs__"):
        return (
            f"the attrs class {name}, which is no tree; pass "
            "`attrs.asdict({name}, recurse=False)`"
        )
    if dataclasses.is_dataclass(kind):
        return (
            f"the dataclass {name}, which JAX does not know as a tree; call "
            f"`jax.tree_util.register_dataclass({name})` once"
        )
    return ""


def refuse(name: str, leaf: Tree, *, holders: bool = True) -> None:
    """Raise InputError for a leaf of a foreign type, or (``holders``) of one that holds arrays."""
    kind: Any = type(leaf)
    found = cure(kind)
    if found:
        root = kind.__module__.partition(".")[0]
        what = f"a {kind.__name__} of {root}, {found}"
    else:
        what = holder(kind) if holders else ""
    if what:
        raise InputError(f"`{name}` holds {what.format(name=name)}.")
