"""The arguments of a loop, checked, as a program that is ready to run."""

from __future__ import annotations

from typing import Any

from .._adjoints import DirectAdjoint
from .._errors import InputError
from .._types import Inputs
from ..backend import Capability
from .body import Loop
from .program import LoopProgram

__all__ = ["scan_arguments", "scan_program", "while_arguments", "while_program"]

KINDS = ("checkpointed", "bounded", "lax")


def while_arguments(
    cond: Any,
    body: Any,
    init: Any,
    *,
    max_steps: Any = None,
    kind: str = "checkpointed",
    checkpoints: Any = None,
    memory: Any = None,
    throw: bool = True,
) -> Any:
    return *while_program(cond, body, init, max_steps, kind, throw), kind, checkpoints, memory


def scan_arguments(
    body: Any,
    init: Any,
    xs: Any = None,
    length: Any = None,
    *,
    kind: str = "checkpointed",
    checkpoints: Any = None,
    memory: Any = None,
    reverse: bool = False,
) -> Any:
    return *scan_program(body, init, xs, length, kind, reverse), kind, checkpoints, memory


def while_program(
    cond: Any, body: Any, init: Any, max_steps: Any, kind: str, throw: bool
) -> tuple[LoopProgram, Inputs]:
    _callable("cond", cond)
    if max_steps is not None and (isinstance(max_steps, bool) or not isinstance(max_steps, int)
                                  or max_steps < 0):  # fmt: skip
        raise InputError(f"`max_steps` is {max_steps!r}; pass a whole number, or None.")
    loop = Loop(cond, body, init, None, count=None, max_steps=max_steps)
    return _prepared(loop, kind, throw)


def scan_program(
    body: Any, init: Any, xs: Any, length: Any, kind: str, reverse: bool
) -> tuple[LoopProgram, Inputs]:
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)
                               or length < 0):  # fmt: skip
        raise InputError(f"`length` is {length!r}; pass a whole number, or None.")
    loop = Loop(None, body, init, xs, count=length, reverse=bool(reverse))
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


def _prepared(loop: Loop, kind: str, throw: bool) -> tuple[LoopProgram, Inputs]:
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
    return LoopProgram(loop, DirectAdjoint(), throw=throw), inputs


def _callable(name: str, fn: Any) -> None:
    if not callable(fn):
        raise InputError(f"`{name}` is {fn!r}, which is not callable.")
