"""JAX: packed loops, buffers and splits.

Loops carry small floating leaves as one vector. XLA's CPU backend copies every leaf of a loop's
carry by a kernel of its own; packed, the Lotka-Volterra solve has 2 copies a step in place of 9
and takes 0.7 of the time. Only floats are packed: under ``vmap`` a vector that mixed batched
and unbatched integers would batch the row indices.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from retrograde._checkpointing.schedules import split_table

from .xla_cpu.kernel import loose

__all__ = ["for_loop", "read_row", "splitter", "while_loop", "write_row"]

PACKED_SIZE = 8
"""Leaves of at most this many elements are packed."""


def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], s: Any) -> Any:
    """``lax.while_loop`` over a packed carry."""
    pack, unpack = _packing(s)

    def packed_cond(p: Any) -> Any:
        return cond(unpack(p))

    return unpack(lax.while_loop(packed_cond, lambda p: pack(body(unpack(p))), pack(s)))


def for_loop(low: Any, high: Any, body: Callable[[Any, Any], Any], s: Any) -> Any:
    """``lax.fori_loop`` over a packed carry, with an int32 counter."""
    if isinstance(low, int) and isinstance(high, int) and high <= low:
        return s
    pack, unpack = _packing(s)
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    return unpack(lax.fori_loop(low, high, lambda i, p: pack(body(i, unpack(p))), pack(s)))


def _packing(s: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Functions that pack a carry like s and unpack it again."""
    leaves, treedef = jax.tree_util.tree_flatten(s)
    leaves = [jnp.asarray(x) for x in leaves]
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(leaves):
        if not loose() and x.size <= PACKED_SIZE and jnp.issubdtype(x.dtype, jnp.inexact):
            groups.setdefault(x.dtype, []).append(i)
    packed = [where for where in groups.values() if len(where) > 1]
    alone = [i for i in range(len(leaves)) if not any(i in where for where in packed)]
    shapes = [x.shape for x in leaves]
    dtypes = [x.dtype for x in leaves]

    def pack(s: Any) -> Any:
        values = jax.tree_util.tree_leaves(s)
        vectors = [
            jnp.concatenate([jnp.asarray(values[i], dtypes[i]).reshape(-1) for i in where])
            for where in packed
        ]
        return vectors, [jnp.asarray(values[i], dtypes[i]) for i in alone]

    def unpack(p: Any) -> Any:
        values: list[Any] = [None] * len(shapes)
        for vector, where in zip(p[0], packed, strict=True):
            at = 0
            for i in where:
                size = 1
                for d in shapes[i]:
                    size *= d
                piece = vector[at] if shapes[i] == () else vector[at : at + size]
                values[i] = piece.reshape(shapes[i])
                at += size
        for i, x in zip(alone, p[1], strict=True):
            values[i] = x
        return jax.tree_util.tree_unflatten(treedef, values)

    return pack, unpack


_IN_RANGE: dict[str, Any] = {}
if "allow_negative_indices" in inspect.signature(lax.dynamic_slice).parameters:
    _IN_RANGE["allow_negative_indices"] = False  # else each read and write wraps them


def read_row(x: Any, i: Any) -> Any:
    """``x[i]`` for an index known to be in range: no wrap of negative ones, no bounds check."""
    if isinstance(i, int):
        return x[i]
    return lax.dynamic_index_in_dim(x, i, 0, keepdims=False, **_IN_RANGE)


def write_row(x: Any, i: Any, row: Any) -> Any:
    """x with row i replaced."""
    return lax.dynamic_update_index_in_dim(x, jnp.asarray(row, x.dtype), i, 0, **_IN_RANGE)


def splitter(slots: int) -> Callable[[Any, Any], Any]:
    """The binomial split over traced lengths (recipe: ``schedules.split_table``)."""
    rows = split_table(slots)
    table = jnp.asarray(rows, jnp.int32)
    most = len(rows) - 1

    def split(length: Any, free: Any) -> Any:
        row = read_row(table, jnp.minimum(free, most))
        a = jnp.max(jnp.where(row < length, row, 0))
        b = jnp.max(jnp.where(row < a, row, 0))
        lean = length - (a - b)
        m = jnp.where(row[-1] < length, lean, jnp.minimum(a, lean))
        if slots <= most:
            return m
        s = jnp.minimum(free, 46339)
        inner = s * (s + 1) // 2
        two = jnp.maximum(1, jnp.minimum(free + 1, length - free))
        wide = jnp.maximum(two, jnp.minimum(inner + s + 1, length - inner))
        return jnp.where(free > most, wide, m)

    return split
