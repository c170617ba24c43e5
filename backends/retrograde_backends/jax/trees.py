"""JAX: solutions and plans as pytrees, so that jitted and mapped functions can return them.

A solution's arrays are its children, its plan is static; a plan has no children. They are
registered when the adapter is loaded, which is before there is one with an array of JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from retrograde import Hit, Plan, Solution, Status
from retrograde._base.types import Leaves, Tree
from retrograde._integrate.dense import DenseOutput
from retrograde.interpolate import Interpolant

CHILDREN = ("ts", "ys", "stats", "status", "t_final", "dense", "event", "events")


def register() -> None:
    """Let JAX know of them."""
    tree: Any = jax.tree_util
    tree.register_pytree_with_keys(Solution, _with_keys, _solution, _children)
    tree.register_dataclass(
        DenseOutput, ["rows", "knots", "sizes", "origin"], meta_fields=["nodes", "dtypes"]
    )
    tree.register_pytree_node(
        Hit, lambda hit: (tuple(vars(hit).values()), None), lambda _, parts: Hit(*parts)
    )
    tree.register_dataclass(Interpolant, ["ts", "xs", "slopes"], meta_fields=["outside"])
    tree.register_pytree_node(Plan, lambda plan: ((), plan), lambda plan, _: plan)


def _children(solution: Solution[Any]) -> tuple[Leaves, Any]:
    status = solution.status
    status = int(status) if isinstance(status, Status) else status  # JAX takes no enumerations
    parts = (solution.ts, solution.ys, solution.stats, status, solution.t_final, solution.dense)
    return (*parts, solution.event, solution.events), solution.plan


def _with_keys(solution: Solution[Any]) -> tuple[Tree, Tree]:
    children, plan = _children(solution)
    keys = map(jax.tree_util.GetAttrKey, CHILDREN)
    return tuple(zip(keys, children, strict=True)), plan


def _solution(plan: Plan, children: Sequence[Tree]) -> Solution[Any]:
    ts, ys, stats, status, t, *rest = children
    status = Status(status) if type(status) is int else status
    return Solution(ts, ys, stats, status, t, plan, *rest)
