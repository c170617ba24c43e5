"""JAX: loops, rows of buffers, and splits."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from retrograde._base.types import Array, Bool, Carry, Function, Index, State, Tree
from retrograde._checkpointing.schedules import split_table

from .types import Axes


def while_loop(cond: Function, body: Function, s: Carry) -> Carry:
    """``lax.while_loop``, whose carry stays of the dtypes it begins with."""
    s = jax.tree_util.tree_map(jnp.asarray, s)
    return lax.while_loop(cond, lambda x: _like(s, body(x)), s)


def for_loop(low: Index, high: Index, body: Function, s: Carry) -> Carry:
    """``lax.fori_loop`` of the same kind, with an int32 counter."""
    if isinstance(low, int) and isinstance(high, int) and high <= low:
        return s
    s = jax.tree_util.tree_map(jnp.asarray, s)
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    return lax.fori_loop(low, high, lambda i, x: _like(s, body(i, x)), s)


def _like(s: Carry, new: State) -> Carry:
    """New values of a carry, of the dtypes of the old."""
    leaves, treedef = jax.tree_util.tree_flatten(s)
    pairs = zip(leaves, jax.tree_util.tree_leaves(new), strict=True)
    return jax.tree_util.tree_unflatten(treedef, [jnp.asarray(x, old.dtype) for old, x in pairs])


_IN_RANGE: dict[str, Any] = {}
if "allow_negative_indices" in inspect.signature(lax.dynamic_slice).parameters:
    _IN_RANGE["allow_negative_indices"] = False  # else each read and write wraps them


@jax.custom_batching.custom_vmap
def most(x: Array) -> Bool:
    """x; of the lanes of a ``vmap`` the largest, a predicate or count without their axis."""
    return x


@most.def_vmap
def _most(size: int, batched: Axes, x: Array) -> Tree:
    # in a ``vmap`` around, of its lanes as well
    return most(jnp.any(x, axis=0) if x.dtype == bool else jnp.max(x, axis=0)), False


@jax.custom_batching.custom_vmap
def least(x: Array) -> Array:
    """x; of the lanes of a ``vmap`` the least (of truths, whether all are true)."""
    return x


@least.def_vmap
def _least(size: int, batched: Axes, x: Array) -> Tree:
    return least(jnp.all(x, axis=0) if x.dtype == bool else jnp.min(x, axis=0)), False


def read_row(x: Array, i: Index) -> Array:
    """``x[i]`` for an index known to be in range: no wrap of negative ones, no bounds check."""
    if isinstance(i, int):
        return x[i]
    return lax.dynamic_index_in_dim(x, i, 0, keepdims=False, **_IN_RANGE)


def write_row(x: Array, i: Index, row: Sequence[Array]) -> Array:
    """x with row i replaced."""
    return lax.dynamic_update_index_in_dim(x, jnp.asarray(row, x.dtype), i, 0, **_IN_RANGE)


def splitter(slots: int) -> Function:
    """The binomial split over traced lengths (recipe: ``schedules.split_table``)."""
    rows = split_table(slots)
    table = jnp.asarray(rows, jnp.int32)
    most = len(rows) - 1

    def split(length: Index, free: Index) -> Index:
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
