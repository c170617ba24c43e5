"""Running a loop as its kind asks for; its result in the user's trees, and cotangents from them."""

from __future__ import annotations

from typing import Any

from .._adjoints import RecursiveCheckpointAdjoint
from .._errors import InputError, SolveFailed
from .._plain import cotangent_leaf
from .._types import Inputs, Wanted
from ..backend import Capability
from .body import Loop
from .program import LoopProgram
from .schedule import check, choose

__all__ = ["cotangents", "run", "wrapped"]


def run(
    program: LoopProgram, inputs: Inputs, kind: str, checkpoints: Any, memory: Any
) -> tuple[Any, Any]:
    loop = program.loop
    bk = loop.bk
    check(loop, kind, checkpoints, memory)
    if kind == "checkpointed" and bk.needs_gradient(inputs):
        asked = bk.asked(inputs)
        if Capability.TRACED in bk.capabilities or not (asked.forward or asked.again):
            wanted = Wanted(tuple(bk.tracked_leaves(loop, inputs.params)), False, False, False)
            program.adjoint, again = choose(loop, checkpoints, memory, wanted)
            program.fallback = again or program.adjoint
    elif kind == "checkpointed" or (kind == "lax" and _plain(loop)):
        program.adjoint = RecursiveCheckpointAdjoint(checkpoints)
    floats, aux = bk.differentiate_loop(program, inputs, kind)
    return wrapped(program, floats, aux)


def _plain(loop: Loop) -> bool:
    """Whether the library has a loop of its own for a number of steps that is not known."""
    return loop.count is None and Capability.TRACED in loop.bk.capabilities


def wrapped(program: LoopProgram, floats: Any, aux: Any) -> tuple[Any, Any]:
    """The result's trees; SolveFailed where the bound is known to have ended the loop."""
    rest, _, ok = aux
    loop = program.loop
    bk = loop.bk
    if not program.throw or loop.max_steps is None:
        return program.joined(floats, rest)
    ended = bk.concrete(ok)
    if ended is None:  # known when the program runs
        return program.joined([bk.poison(ok, x) for x in floats], rest)
    result = program.joined(floats, rest)
    if not ended:
        raise SolveFailed(
            f"while_loop took `max_steps` = {loop.max_steps} steps and `cond` still holds; raise "
            "`max_steps`, or pass throw=False for at most so many steps. The carry reached is the "
            "`solution` of this error.",
            result[0],
        )
    return result


def cotangents(loop: Loop, floats: Any, cotangent: Any) -> tuple[Any, ...]:
    """Cotangents of a result's floating leaves."""
    bk = loop.bk
    carry, ys = cotangent, None
    if loop.scans:
        pair = (None, None) if cotangent is None else cotangent
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(
                f"the cotangent of a scan is {type(cotangent).__name__}; pass the pair (of the "
                "carry, of ys)."
            )
        carry, ys = pair
    count = len(loop.template)
    like = loop.ys_like or []
    out = []
    leaves = _matching(bk, carry, loop.treedef, count, "the carry")
    floating = set(loop.floating)
    out += [x for i, x in enumerate(leaves) if i in floating]
    if loop.scans:
        rows = _matching(bk, ys, loop.ys_treedef, len(like), "ys")
        inexact = [bool(bk.floating(y)) for y in like]
        out += [x for x, ok in zip(rows, inexact, strict=True) if ok]
    return tuple(_like(bk, x, y) for x, y in zip(out, floats, strict=True))


def _like(bk: Any, x: Any, y: Any) -> Any:
    """A cotangent of the result y."""
    if x is None:
        return bk.xp.zeros_like(y)
    found = cotangent_leaf(bk, x, y)
    if tuple(found.shape) != tuple(y.shape):
        got = f"shape {tuple(x.shape)}" if bk.is_array(x) else f"type {type(x).__name__}"
        raise InputError(
            f"a cotangent has {got}, its result has shape {tuple(y.shape)}; make them alike."
        )
    return found


def _matching(bk: Any, tree: Any, treedef: Any, count: int, name: str) -> list[Any]:
    """Leaves of a cotangent in the places of the result's; None for zeros."""
    if tree is None:
        return [None] * count
    try:
        return list(treedef.flatten_up_to(tree))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the cotangent of {name} has the structure {bk.flatten(tree)[1]}, the result "
            f"{treedef}; make them alike, with None for a leaf that has none."
        ) from error
