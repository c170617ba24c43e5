"""The arguments of a loop, checked, as a program that is ready to run.

It is run as its kind asks for; results, and cotangents, are in the user's trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._adjoints.direct import DirectAdjoint
from .._backend.protocols import Capability
from .._base.errors import InputError, SolveFailed
from .._base.plain_input import cotangent_leaf
from .._base.types import (
    Array,
    Aux,
    Function,
    Inputs,
    Leaves,
    Memory,
    NeedsGradient,
    Tree,
    TreeDef,
)
from .checkpoints import check, choose
from .loop import LoopSpec
from .loop_program import DifferentiableLoop

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend

KINDS = ("checkpointed", "bounded", "lax")


def while_program(
    cond: Function, body: Function, init: Tree, max_steps: int | None, kind: str, throw: bool
) -> tuple[DifferentiableLoop, Inputs]:
    _callable("cond", cond)
    _check_count("max_steps", max_steps)
    loop = LoopSpec(cond, body, init, None, count=None, max_steps=max_steps)
    return _prepared(loop, kind, throw)


def scan_program(
    body: Function, init: Tree, xs: Tree, length: int | None, kind: str, reverse: bool
) -> tuple[DifferentiableLoop, Inputs]:
    _check_count("length", length)
    loop = LoopSpec(None, body, init, xs, count=length, reverse=bool(reverse))
    for x in loop.xs_leaves:
        if not loop.bk.is_array(x) or not x.shape:
            what = f"shape {tuple(x.shape)}" if loop.bk.is_array(x) else f"type {type(x).__name__}"
            raise InputError(
                f"`xs` has a leaf of {what}; make every leaf an array of shape (length, ...)."
            )
        if loop.count is None:
            loop.count = int(x.shape[0])
        elif loop.count != x.shape[0]:
            raise InputError(
                f"`xs` has a leaf of {x.shape[0]} rows where {loop.count} are expected (`length`, "
                "or the rows of another leaf); make them equal."
            )
    if loop.count is None:
        raise InputError("`length` is None and `xs` has no arrays; pass one of them.")
    return _prepared(loop, kind, True)


def _prepared(loop: LoopSpec, kind: str, throw: bool) -> tuple[DifferentiableLoop, Inputs]:
    _callable("body", loop.body)
    if kind not in KINDS:
        raise InputError(f"`kind` is {kind!r}; pass one of {', '.join(map(repr, KINDS))}.")
    traced = Capability.TRACED in loop.bk.capabilities
    if kind == "bounded" and traced and loop.count is None and loop.max_steps is None:
        raise InputError(
            f"`kind` is 'bounded' and `max_steps` is None; {loop.bk.name} needs a bound there."
        )
    loop.capture()
    inputs = Inputs((), tuple(loop.params), None, None, ())
    return DifferentiableLoop(loop, DirectAdjoint(), throw=throw), inputs


def _callable(name: str, fn: object) -> None:
    if not callable(fn):
        raise InputError(f"`{name}` is {fn!r}, which is not callable.")


def _check_count(name: str, n: int | None) -> None:
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
        raise InputError(f"`{name}` is {n!r}; pass a whole number, or None.")


def run(
    program: DifferentiableLoop,
    inputs: Inputs,
    kind: str,
    checkpoints: int | None,
    memory: Memory | None,
) -> tuple[Tree, Tree]:
    loop = program.loop
    bk = loop.bk
    check(loop, kind, checkpoints, memory)
    if kind == "checkpointed" and bk.needs_gradient(inputs):
        requested = bk.requested(inputs)
        if Capability.TRACED in bk.capabilities or not (requested.forward or requested.again):
            wanted = NeedsGradient(
                tuple(bk.tracked_leaves(loop, inputs.params)), False, False, False
            )
            program.adjoint, again = choose(loop, checkpoints, memory, wanted)
            program.fallback = again or program.adjoint
    # else a traced library has a loop of its own for a number of steps that is not known
    elif kind == "checkpointed" or (
        kind == "lax" and loop.count is None and Capability.TRACED in bk.capabilities
    ):
        program.adjoint = RecursiveCheckpointAdjoint(checkpoints)
    floats, aux = bk.differentiate_loop(program, inputs, kind)
    return wrapped(program, floats, aux)


def wrapped(program: DifferentiableLoop, floats: Sequence[Array], aux: Aux) -> tuple[Tree, Tree]:
    """The result's trees; SolveFailed where the bound is known to have ended the loop."""
    rest, _, ok = aux
    loop = program.loop
    bk = loop.bk
    if not program.throw or loop.max_steps is None:
        return program.joined(floats, rest)
    ended = bk.concrete(ok)
    if ended is None:  # known when the program runs
        return program.joined([bk.nan_unless(ok, x) for x in floats], rest)
    result = program.joined(floats, rest)
    if not ended:
        raise SolveFailed(
            f"while_loop took `max_steps` = {loop.max_steps} steps and `cond` still holds; raise "
            "`max_steps`, or pass throw=False for at most so many steps. The carry reached is the "
            "`solution` of this error.",
            result[0],
        )
    return result


def cotangents(loop: LoopSpec, floats: Sequence[Array], cotangent: Tree) -> Leaves:
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


def _like(bk: AbstractBackend, x: Array, y: Array) -> Array:
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


def _matching(
    bk: AbstractBackend, tree: Tree, treedef: TreeDef, count: int, name: str
) -> list[Array | None]:
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
