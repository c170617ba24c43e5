"""Functions of a batch as functions of one sample, which a single solve calls.

What they are called with gets a first axis of one in front: the time, the state, and the leaves of
args that belong to samples. What they return loses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .._autodiff.vector_field import VectorField
from .._backend.registry import backend_for
from .._base.types import Array, Tree, VectorFieldFn
from .._integrate.events import Event, wished

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend


@dataclass(frozen=True)
class OfOne:
    """``fn(t, y, args) -> tree`` of a batch as one of a sample.

    Equal to another one of the same function, as programs are kept by it. It may be pickled: the
    library is found again by the first array that comes.

    Parameters
    ----------
    bk : AbstractBackend or None
    fn : callable
        Of a batch.
    marks : tuple of bool
        Which leaves of args belong to samples.
    """

    bk: AbstractBackend | None
    fn: VectorFieldFn
    marks: tuple[bool, ...]

    def __call__(self, t: Array, y: Tree, args: Tree) -> Tree:
        if self.bk is None:
            object.__setattr__(self, "bk", backend_for(t))
        return _without(self.bk, self.fn(t[None], *self.batch(y, args)))

    def batch(self, y: Tree, args: Tree) -> tuple[Tree, Tree]:
        """A state and args as those of a batch of one."""
        bk: Any = self.bk
        values, structure = bk.flatten(args)
        values = [x[None, ...] if m else x for x, m in zip(values, self.marks, strict=True)]
        return _with(bk, y), bk.unflatten(structure, values)

    def __getstate__(self) -> dict[str, Tree]:
        return {"bk": None, "fn": self.fn, "marks": self.marks}

    def __setstate__(self, state: dict[str, Tree]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class _VJPOfOne:
    """The user's vjp of a batch as one of a sample."""

    one: OfOne
    vjp: Callable[[Array, Tree, Tree, Tree], tuple[Array, Tree, Tree]]

    def __call__(self, t: Array, y: Tree, args: Tree, ct: Tree) -> tuple[Array, Tree, Tree]:
        bk: Any = self.one.bk
        ct_t, ct_y, ct_args = self.vjp(t[None], *self.one.batch(y, args), _with(bk, ct))
        values, structure = bk.flatten(ct_args)
        marks = self.one.marks
        if len(values) == len(marks):
            values = [x[0, ...] if m else x for x, m in zip(values, marks, strict=True)]
        ct_t = ct_t[0] if getattr(ct_t, "shape", ()) else ct_t
        return ct_t, _without(bk, ct_y), bk.unflatten(structure, values)


def field_of_one(bk: AbstractBackend, f: VectorFieldFn, marks: Sequence[bool]) -> VectorFieldFn:
    """A vector field of a batch as one of a sample, with its own vjp, if it has one."""
    if not isinstance(f, VectorField):
        return OfOne(bk, f, tuple(marks))
    one = OfOne(bk, f.f, tuple(marks))
    return replace(f, f=one, vjp=None if f.vjp is None else _VJPOfOne(one, f.vjp))


def events_of_one(bk: AbstractBackend, wish: Tree, marks: Sequence[bool]) -> list[Event] | None:
    """Events whose functions are those of a batch as events of a sample."""
    if wish is None:
        return None

    def of_one(x: Event) -> Event:
        reset = None if x.reset is None else OfOne(bk, x.reset, tuple(marks))
        return replace(x, condition=OfOne(bk, x.condition, tuple(marks)), reset=reset)

    return [of_one(x) if isinstance(x, Event) else x for x in wished(wish)]


def _with(bk: AbstractBackend, tree: Tree) -> Tree:
    leaves, treedef = bk.flatten(tree)
    return bk.unflatten(treedef, [x[None, ...] for x in leaves])


def _without(bk: Any, tree: Tree) -> Tree:
    leaves, treedef = bk.flatten(tree)
    return bk.unflatten(treedef, [x[0, ...] for x in leaves])
