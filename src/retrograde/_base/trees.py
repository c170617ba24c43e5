"""Trees for eager libraries: optree's, with dataclasses registered when they are first met."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial

from .types import Tree, TreeDef


def flatten(tree: Tree) -> tuple[list[Tree], TreeDef]:
    """Leaves and structure of a tree; the structure's ``unflatten(leaves)`` is the inverse."""
    import optree  # loading it takes longer than the rest of the package

    leaves, treedef = optree.tree_flatten(tree, namespace="retrograde")
    # what ``dataclasses.is_dataclass`` looks for, without its calls: trees are opened often
    new = {kind for kind in map(type, leaves) if hasattr(kind, "__dataclass_fields__")}
    new = {kind for kind in new if not hasattr(kind, "__array_namespace__")}
    if not new:
        return leaves, treedef
    for kind in new:
        optree.register_pytree_node(
            kind, _open_dataclass, partial(_close_dataclass, kind), namespace="retrograde"
        )
    return flatten(tree)


def _open_dataclass(x: Tree) -> tuple[tuple[Tree, ...], tuple[str, ...]]:
    names = tuple(f.name for f in dataclasses.fields(x))
    return tuple(getattr(x, name) for name in names), names


def _close_dataclass(kind: type, names: tuple[str, ...], values: Iterable[Tree]) -> Tree:
    x: Tree = object.__new__(kind)  # not __init__: the values may be cotangents, or None
    for name, value in zip(names, values, strict=True):
        object.__setattr__(x, name, value)
    return x
