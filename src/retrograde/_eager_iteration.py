"""The generic eager form of the hooks of public loops (``while_loop``, ``scan``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ._errors import InputError
from ._types import Array

__all__ = ["IterationHooks", "Stack"]


class Stack:
    """Rows of leaves, written into arrays that are made when the first row is known."""

    def __init__(self, xp: Any, rows: int) -> None:
        self.xp, self.rows = xp, rows
        self.leaves: list[Array] | None = None

    def put(self, i: int, leaves: Sequence[Array]) -> None:
        """Write row i."""
        if self.leaves is None:
            zeros = self.xp.zeros
            self.leaves = [
                zeros((self.rows, *x.shape), dtype=x.dtype, device=_device(x)) for x in leaves
            ]
        for block, x in zip(self.leaves, leaves, strict=True):
            same_row(block[0, ...], x)
            block[i, ...] = x


def _device(x: Array) -> Any:
    """Where an array lives, if its library says."""
    return getattr(x, "device", None)


def same_row(first: Array, x: Array) -> None:
    """Raise InputError unless a y is like the first one."""
    if x.shape != first.shape or x.dtype != first.dtype:
        raise InputError(
            f"`body` returned a y of {x.dtype}, shape {tuple(x.shape)}, after one of "
            f"{first.dtype}, shape {tuple(first.shape)}; return the same shape and dtype always."
        )


class IterationHooks:
    """Hooks of public loops, in plain array API."""

    xp: Any
    is_array: Callable[[object], bool]

    def carry_leaves(self, leaves: Sequence[Any]) -> Sequence[Any]:
        return leaves

    def array_bytes(self, x: Array) -> int:
        kinds = ("bool", "integral", "real floating", "complex floating")
        kind = next(k for k in kinds if self.xp.isdtype(x.dtype, k))
        info = self.xp.iinfo if kind == "integral" else self.xp.finfo
        size = 1 if kind == "bool" else info(x.dtype).bits // 8
        pair = 2 if kind == "complex floating" else 1
        return int(math.prod(x.shape)) * int(size) * pair

    def row_like(self, x: Array) -> Array:
        return self.xp.zeros(x.shape[1:], dtype=x.dtype, device=_device(x))

    def row(self, x: Array, i: Any) -> Array:
        return x[i, ...]

    def new_stack(self, rows: int, like: Sequence[Array] | None) -> Any:
        return Stack(self.xp, rows)

    def put(self, stack: Any, i: Any, leaves: Sequence[Array]) -> Any:
        stack.put(i, leaves)
        return stack

    def stacked(self, stack: Any, like: Sequence[Array]) -> list[Array]:
        if stack.leaves is not None:
            return list(stack.leaves)
        zeros, rows = self.xp.zeros, stack.rows
        return [zeros((rows, *x.shape), dtype=x.dtype, device=_device(x)) for x in like]

    def predicate(self, x: Array) -> Any:
        return bool(x)

    def negated(self, ok: Any) -> Any:
        return not ok

    def lent(self, leaves: Sequence[Any]) -> Sequence[Any]:
        return [self.xp.asarray(x, copy=True) if self.is_array(x) else x for x in leaves]

    def watch(self, leaves: Sequence[Any], whose: str) -> Callable[[], None]:
        arrays = [x for x in leaves if self.is_array(x)]
        copies = [self.xp.asarray(x, copy=True) for x in arrays]

        def look() -> None:
            for x, same in zip(arrays, copies, strict=True):
                if not bool(self.xp.all((x == same) | (x != x))):
                    raise InputError(f"{whose} in place; return a new array instead.")

        return look

    def capture_loop(self, loop: Any) -> None:
        pass

    def followed_scan(
        self, step: Callable[..., Any], state: Any, count: int, reverse: bool
    ) -> tuple[Any, list[Array]]:
        rows: list[Sequence[Array]] = []
        for i in range(count):
            state, ys = step(i, state)
            for x, first in zip(ys, rows[0] if rows else ys, strict=True):
                same_row(first, x)
            rows.append(ys)
        if reverse:
            rows.reverse()
        return state, [self.xp.stack(leaf) for leaf in zip(*rows, strict=True)]

    def bounded_loop(
        self, running: Callable[[Any], Any], body: Callable[[Any], Any], s: Any, bound: int | None
    ) -> Any:
        while (bound is None or s[0] < bound) and running(s):
            s = body(s)
        return s

    def body_tape_bytes(
        self, vjp: Any, span: Any, leaves: Sequence[Array]
    ) -> tuple[int, Sequence[bool]]:
        out, pull = vjp(span, tuple(leaves))
        tape = getattr(pull, "tape", None)
        same = [new is old for new, old in zip(out, leaves, strict=False)]
        return 0 if tape is None else int(tape.nbytes), same

    def differentiate_loop(self, program: Any, inputs: Any, kind: str) -> Any:
        return program.primal(inputs)

    def detach_loop(self, loop: Any, inputs: Any) -> Any:
        return inputs

    def tracked_leaves(self, loop: Any, params: Sequence[Array]) -> Sequence[bool]:
        return [False] * len(params)
