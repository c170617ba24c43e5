"""The tape, and how a rule's result is written on it.

A :class:`Tape` is a list with one entry per variable, in order of creation. The entry is a
tuple of *edges* ``(index, op, data)``: how a cotangent ``g`` of this variable contributes to
the variable ``index``:

- ``op(g)`` where ``data`` is None, ``op(g, data)`` otherwise;
- ``op`` None is a read ``x[key]``, ``data = (key, shape)``: g is added to that block of x's.

A tape is *uniform* while all its variables have one and the same real dtype; then no
cotangent needs a cast or a conjugate, and operands of equal shape need no :func:`fit` either.

For states of a few KiB the Python objects of a tape take more bytes than its arrays
(:func:`object_bytes`). Counted is what a
:class:`~.tape.Pullback` alone keeps alive: tuples, closures, cells and array headers. Not
counted are classes, modules and what functions reach through their globals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import CellType, FunctionType
from typing import TYPE_CHECKING, TypeAlias

from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Array, Function
from .rules.unbroadcast import Key, Setting, fit

if TYPE_CHECKING:
    from .vjp import Signature

Edge: TypeAlias = tuple[int, Function | None, Key]
Edges: TypeAlias = tuple[Edge, ...]
_PYTHON = frozenset({int, float, complex, bool, type(None)})
_VIEW = "a reshaped or converted view of another array"


def refuse(what: str, remedy: str) -> UnsupportedByBackend:
    """The one error for what the tape can't follow."""
    return UnsupportedByBackend(
        f"{what} can't be differentiated on this array library: {remedy}, "
        "or give the derivative yourself with `rg.VectorField(f, vjp=...)`."
    )


def foreign() -> InputError:
    """A variable of another call."""
    return InputError(
        "a variable of another call of the function took part in this one; the function "
        "must not keep its arguments, and gradients of gradients are not supported here."
    )


class Tape(list[Edges]):
    """What one call of a function did; see the module's docstring for its entries."""

    __slots__ = ("constants", "device", "dtype", "namespace", "uniform", "xp")

    def __init__(self, signature: Signature) -> None:
        self.xp, self.namespace = signature.xp, signature.namespace
        self.uniform, self.dtype = signature.uniform, signature.dtype
        self.device = signature.device
        self.constants: list[Array] = []
        """Arrays of the user's that took part: not counted as kept alive by the tape."""


class Recorded:
    """A value, and its place on the tape (no behaviour; see :class:`.variable.Variable`)."""

    __slots__ = ("__weakref__", "base", "index", "tape", "value", "views")

    def __init__(self, value: Array, tape: Tape, edges: Edges, base: Key = None) -> None:
        self.value = value
        self.tape = tape
        self.index = len(tape)
        self.base = base
        """None: owns its data. A str: read-only, and why. ``(x, key)``: a view ``x[key]``."""
        tape.append(edges)


def leaf(like: Recorded, value: Array) -> Array:
    """A variable made inside the function that depends on nothing yet."""
    tape = like.tape
    if value.dtype != tape.dtype:
        tape.uniform = False
    return type(like)(value, tape, ())


def record(
    rule: Function,
    operands: Sequence[Array],
    settings: Sequence[Setting] = (),
    named: Mapping[str, Setting] | None = None,
    *,
    broadcast: bool = False,
    view: bool = False,
) -> Array:
    """Apply a rule to operands of which at least one is a variable; the result is one.

    Parameters
    ----------
    rule : callable
        ``rule(xp, *values, *settings, **named) -> (out, back, ...)``, one ``back(g)`` per
        operand.
    operands : sequence of Variable, array or scalar
    settings, named : sequence, mapping
        Axes, shapes and the like: no variables.
    broadcast : bool
        Whether operands broadcast against each other: cotangents are then summed back.
    view : bool
        Whether the library may return a view of the first operand.
    """
    lead: Array = None
    values = []
    for x in operands:
        if isinstance(x, Recorded):
            if lead is None:
                lead = x
            elif x.tape is not lead.tape:
                raise foreign()
            values.append(x.value)
        else:
            values.append(x)
    tape = lead.tape
    out, *backs = rule(tape.xp, *values, *settings, **(named or {}))
    if out.dtype != tape.dtype:
        tape.uniform = False
    edges = []
    for x, value, back in zip(operands, values, backs, strict=True):
        if isinstance(x, Recorded):
            if not tape.uniform or (broadcast and value.shape != out.shape):
                back = fit(tape.xp, rule, back, value, out, broadcast)
            edges.append((x.index, back, None))
        elif type(x) not in _PYTHON:
            tape.constants.append(x)
    made = type(lead)(out, tape, tuple(edges))
    if view:
        made.base = lead.share(made, _VIEW)
    return made


_CONTAINERS = (tuple, list, set, frozenset)


def object_bytes(pull: object) -> int:
    """Bytes of the objects that a pullback keeps alive, the data of arrays not counted.

    Examples
    --------
    >>> import numpy as np
    >>> from .vjp import vjp
    >>> sizes = [object_bytes(vjp(np.sin, [np.zeros(n)], np)[1]) for n in (10, 100_000)]
    >>> sizes[0] == sizes[1] > 500
    True
    """
    seen: set[int] = set()
    stack, total = [pull], 0
    while stack:
        x = stack.pop()
        if id(x) in seen or isinstance(x, (type, str)):
            continue
        seen.add(id(x))
        size, inner = _parts(x)
        total += size
        stack.extend(inner)
    return total


def _parts(x: object) -> tuple[int, Iterable[object]]:
    """Size of one object, and what it refers to; nothing for what is shared with others."""
    if isinstance(x, _CONTAINERS):
        return sys.getsizeof(x), x
    if isinstance(x, CellType):
        return sys.getsizeof(x), (x.cell_contents,)
    if isinstance(x, FunctionType):
        inner = (*(x.__closure__ or ()), *(x.__defaults__ or ()), x.__dict__.get("tape"))
        return (sys.getsizeof(x), inner) if x.__closure__ or x.__defaults__ else (0, ())
    if hasattr(x, "_nodes"):  # a tape's Pullback; its inputs' shapes are one list for all stages
        return sys.getsizeof(x), [getattr(x, name) for name in ("_nodes", "_outputs")]
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        owned = getattr(x, "nbytes", 0) if getattr(x, "base", None) is None else 0
        return max(0, sys.getsizeof(x) - owned), ()
    return 0, ()
