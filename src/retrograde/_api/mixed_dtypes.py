"""States of half precision, and trees of several dtypes: carried in one dtype, seen in their own.

A solve carries y in the least dtype that holds every leaf, float32 at least: steps, error norms and
sums are formed in it. f, ``SaveAt.fn`` and the user see the leaves in the dtypes that they came in,
and what f returns may have either. So a bfloat16 state does not lose its steps, which are smaller
than its resolution, and a real leaf beside a complex one stays real.

All of it are casts around an ordinary solve; a library's own autodiff goes through those of y0 and
of args (leaves of half precision there are carried in float32 too, since cotangents of all steps
are summed in their dtype). A y0 of one dtype of float32 or more never comes here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._autodiff.vector_field import VectorField
from .._base.types import Array, DType, Tree, VectorFieldFn
from .._integrate.events import Event, wished

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._integrate.saveat import SaveAt
    from .._integrate.solution import Gradients

SINGLE = 4
"""Bytes of a real in which sums are formed at least."""


@dataclasses.dataclass(frozen=True)
class Cast:
    """Leaves of one tree in their own dtypes and in the carried ones; None: left as it is."""

    bk: AbstractBackend
    own: tuple[DType | None, ...]
    carried: tuple[DType | None, ...]

    def down(self, tree: Tree) -> Tree:
        """A tree of this structure, in its own dtypes."""
        return self._cast(tree, self.own)

    def up(self, tree: Tree) -> Tree:
        """The same as it is carried."""
        return self._cast(tree, self.carried)

    def _cast(self, tree: Tree, dtypes: Sequence[DType | None]) -> Tree:
        leaves, treedef = self.bk.flatten(tree)
        if len(leaves) != len(dtypes):
            return tree  # unlike: the checks that follow say so
        pairs = zip(leaves, dtypes, strict=True)
        return self.bk.unflatten(treedef, [_as(self.bk, x, dtype) for x, dtype in pairs])


def _as(bk: AbstractBackend, x: Tree, dtype: DType | None) -> Tree:
    """An array in a dtype; what is none stays."""
    if dtype is None or getattr(x, "dtype", dtype) == dtype:
        return x
    own = getattr(x, "__array_namespace__", None)  # a tape's arrays have their own
    xp = bk.xp if own is None else own()
    complex_ = xp.isdtype(x.dtype, "complex floating")
    if complex_ and not xp.isdtype(dtype, "complex floating"):
        x = xp.real(x)
    return x if x.dtype == dtype else xp.astype(x, dtype)


@dataclasses.dataclass(frozen=True)
class Casts:
    """The casts of one solve: y and args."""

    y: Cast
    args: Cast

    def field(self, f: VectorFieldFn) -> VectorFieldFn:
        """f of what is carried, equal to another one of the same f."""
        if not isinstance(f, VectorField):
            return _Field(self, f)
        vjp = None if f.vjp is None else _FieldVJP(self, f.vjp)
        jac = None if f.jac is None else _Jacobian(self, f.jac)
        return dataclasses.replace(f, f=_Field(self, f.f), vjp=vjp, jac=jac)

    def events(self, wish: Event | Sequence[Event] | None) -> list[Event]:
        """The same events, of carried dtypes."""
        return [
            dataclasses.replace(
                event,
                condition=_Output(self, event.condition),
                reset=None if event.reset is None else _Field(self, event.reset),
            )
            if isinstance(event, Event)
            else event
            for event in wished(wish)
        ]

    def saveat(self, saveat: SaveAt) -> SaveAt:
        """``SaveAt.fn`` of what is carried."""
        if saveat.fn is None:
            return saveat
        return dataclasses.replace(saveat, fn=_Output(self, saveat.fn))

    def gradients(self, g: Gradients) -> Gradients:
        """Cotangents in the dtypes of the inputs."""
        return g._replace(y0=self.y.down(g.y0), args=_but_none(self.args, g.args))


def _but_none(cast: Cast, tree: Tree) -> Tree:
    """Cotangents of args, where leaves without one are None and no leaves."""
    own = [dtype for dtype in cast.own if dtype is not None]
    leaves, treedef = cast.bk.flatten(tree)
    dtypes = own if len(own) == len(leaves) else [None] * len(leaves)
    pairs = zip(leaves, dtypes, strict=True)
    return cast.bk.unflatten(treedef, [_as(cast.bk, x, dtype) for x, dtype in pairs])


@dataclasses.dataclass(frozen=True)
class _Field:
    """``f(t, y, args)`` of carried dtypes."""

    casts: Casts
    f: VectorFieldFn

    def __call__(self, t: Array, y: Tree, args: Tree) -> Tree:
        casts = self.casts
        return casts.y.up(self.f(t, casts.y.down(y), casts.args.down(args)))


@dataclasses.dataclass(frozen=True)
class _Output:
    """``SaveAt.fn`` of carried dtypes; what it returns stays."""

    casts: Casts
    fn: VectorFieldFn

    def __call__(self, t: Array, y: Tree, args: Tree) -> Tree:
        return self.fn(t, self.casts.y.down(y), self.casts.args.down(args))


@dataclasses.dataclass(frozen=True)
class _Jacobian:
    """The user's Jacobian, a matrix over all of y, of carried dtypes."""

    casts: Casts
    jac: VectorFieldFn

    def __call__(self, t: Array, y: Tree, args: Tree) -> Array:
        cast = self.casts.y
        found = self.jac(t, cast.down(y), self.casts.args.down(args))
        return _as(cast.bk, found, cast.carried[0])


@dataclasses.dataclass(frozen=True)
class _FieldVJP:
    """The user's vjp, of carried dtypes."""

    casts: Casts
    vjp: Callable[[Array, Tree, Tree, Tree], tuple[Array, Tree, Tree]]

    def __call__(self, t: Array, y: Tree, args: Tree, ct: Tree) -> tuple[Array, Tree, Tree]:
        y_cast, args_cast = self.casts.y, self.casts.args
        given = y_cast.down(y), args_cast.down(args), y_cast.down(ct)
        ct_t, ct_y, ct_args = self.vjp(t, *given)
        return ct_t, y_cast.up(ct_y), args_cast.up(ct_args)


def casts(bk: AbstractBackend, y0: Tree, args: Tree) -> Casts | None:
    """The casts that a solve needs; None where y0 has one dtype, of float32 or more."""
    leaves = bk.flatten(y0)[0]
    if not leaves or not all(bk.is_array(x) and bk.floating(x) for x in leaves):
        return None
    own = tuple(x.dtype for x in leaves)
    if len(set(own)) == 1 and bk.itemsize(bk.real_dtype(leaves[0])) >= SINGLE:
        return None
    xp = bk.xp
    carried = xp.result_type(*own, xp.float32)

    def of_args(x: Tree) -> DType | None:
        return x.dtype if bk.is_array(x) and bk.floating(x) else None

    parameters = bk.flatten(args)[0]
    found = tuple(of_args(x) for x in parameters)
    wider = tuple(
        xp.float32 if dtype is not None and bk.itemsize(bk.real_dtype(x)) < SINGLE else dtype
        for x, dtype in zip(parameters, found, strict=True)
    )
    return Casts(Cast(bk, own, (carried,) * len(own)), Cast(bk, found, wider))
