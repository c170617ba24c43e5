"""Functions of the user's that do not take what they are called with.

Looked at once a call has raised ``TypeError``, so that calls which go well pay nothing. ``f(t, y)``
is what most newcomers from SciPy and torchdiffeq bring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .._autodiff.split import Split
from .._autodiff.vector_field import VectorField
from .._base.errors import InputError
from .._base.types import Tree, VectorFieldFn
from .._integrate.events import Event, wished
from .._integrate.saveat import SaveAt

if TYPE_CHECKING:
    from .options import Options

Named = tuple[str, Callable[..., Tree] | None, tuple[str, ...]]
"""A function's name in messages, the function if there is one, and what it is called with."""

OF_TIME = ("t", "y", "args")


def explain_signatures(
    f: VectorFieldFn, saveats: Sequence[SaveAt], options: Options, error: TypeError
) -> None:
    """Raise InputError from ``error`` where a function can't be called as a solve calls it."""
    for name, function, called in _functions(f, saveats, options):
        try:
            signature = inspect.signature(getattr(function, "forward", function))  # type: ignore[arg-type]
        except (TypeError, ValueError):  # none, or a builtin, which does not tell
            continue
        try:
            signature.bind(*called)
        except TypeError:
            raise InputError(
                f"`{name}` is called with ({', '.join(called)}), but takes {signature}; give it "
                "all of these parameters, in this order."
            ) from error


def _functions(f: VectorFieldFn, saveats: Sequence[SaveAt], options: Options) -> Iterator[Named]:
    """All that a solve may call before its first step."""
    yield from _of_field("f", f)
    for i, event in enumerate(wished(options.event)):
        if isinstance(event, Event):
            yield f"event[{i}].condition", event.condition, OF_TIME
            yield f"event[{i}].reset", event.reset, OF_TIME
    for one in saveats:
        yield "saveat.fn", one.fn, OF_TIME
    if callable(options.mass):
        yield "mass", options.mass, ("args",)


def _of_field(name: str, f: VectorFieldFn) -> Iterator[Named]:
    if isinstance(f, Split):
        yield from _of_field("explicit", f.explicit)
        yield from _of_field("implicit", f.implicit)
    elif isinstance(f, VectorField):
        yield from _of_field(name, f.f)
        yield "vjp", f.vjp, (*OF_TIME, "ct")
        yield "jac", f.jac, OF_TIME
    else:
        yield name, f, OF_TIME
