"""The namespace that variables report: array-API functions that record.

:func:`namespace_of` builds it once per library. A function is one of four kinds:

- it has a rule, or is composed of functions that do: it records;
- it is in :data:`PLAIN`: its result is constant between jumps (``floor``, comparisons,
  ``argmax``), so it gives plain arrays;
- it makes arrays from no variable, or is a dtype or a constant: passed through;
- anything else is passed through too, and raises as soon as a variable is handed to it.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Sequence
from typing import Any

from .._base.types import Array, Function, Namespace, Tree
from .rules.composed import COMPOSED, LIKE
from .rules.elementwise import BINARY, FROM_INPUT, FROM_OUTPUT, UNARY
from .rules.products import PRODUCTS, inv
from .rules.shaping import JOINING, SELECTIONS, SHAPING
from .rules.unbroadcast import Setting, fit
from .tape import Recorded, foreign, record, refuse

PLAIN = frozenset(
    "sign signbit floor ceil round trunc floor_divide equal not_equal less less_equal greater "
    "greater_equal isfinite isinf isnan all any argmax argmin argsort nonzero count_nonzero "
    "searchsorted result_type can_cast isdtype logical_and logical_or logical_not "
    "logical_xor".split()
)
LINALG = frozenset(
    "matmul tensordot vecdot outer matrix_transpose solve inv diagonal trace vector_norm".split()
)
_VIEWS = frozenset(
    "reshape expand_dims squeeze permute_dims moveaxis matrix_transpose flip broadcast_to "
    "real imag diagonal".split()
)
_PYTHON = frozenset({int, float})


def carries(arguments: object) -> bool:
    """Whether there is a variable in arguments: itself, or in lists, tuples, dicts."""
    if isinstance(arguments, Recorded):
        return True
    if isinstance(arguments, dict):
        arguments = arguments.values()
    elif not isinstance(arguments, (list, tuple)):
        return False
    return any(carries(x) for x in arguments)


def unwrapped(x: Tree) -> Tree:
    """Arguments with the values of variables in their place."""
    if isinstance(x, Recorded):
        return x.value
    if isinstance(x, (list, tuple)):
        return type(x)([unwrapped(v) for v in x])
    return {k: unwrapped(v) for k, v in x.items()} if isinstance(x, dict) else x


class RecordingNamespace:
    """The functions of one array library, those that have rules replaced."""

    def __init__(self, xp: Namespace, path: str, functions: dict[str, Function]) -> None:
        self.__dict__["_xp"] = xp
        self.__dict__["_path"] = path
        self.__dict__["_functions"] = functions
        self._publish()

    def _publish(self) -> None:
        """Make attributes of the functions that the library has, too."""
        self.__dict__.update({k: f for k, f in self._functions.items() if hasattr(self._xp, k)})

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._xp, name)
        if inspect.ismodule(found):
            inner = self._functions if name == "linalg" else {}
            inner = {k: f for k, f in inner.items() if k in LINALG}
            found = RecordingNamespace(found, f"{self._path}{name}.", inner)
        elif callable(found) and not isinstance(found, type):
            found = (_plain if name in PLAIN else _guarded)(f"{self._path}{name}", found)
        self.__dict__[name] = found
        return found

    def __repr__(self) -> str:
        return f"<recording namespace over {self._xp!r}>"


@functools.lru_cache(maxsize=16)
def namespace_of(xp: Namespace) -> RecordingNamespace:
    """The recording namespace over an array library's namespace."""
    functions: dict[str, Function] = {}
    namespace = RecordingNamespace(xp, "xp.", functions)
    for of_output, table in ((False, FROM_INPUT), (True, FROM_OUTPUT)):
        for name, derivative in table.items():
            functions[name] = _unary(xp, name, derivative, of_output)
    tables: tuple[tuple[dict[str, Function], int, bool], ...] = (
        ({**UNARY, **SHAPING, **SELECTIONS, "inv": inv}, 1, False),
        (BINARY, 2, True),
        (PRODUCTS, 2, False),
    )
    for rules, operands, broadcast in tables:
        for name, rule in rules.items():
            functions[name] = _ruled(xp, name, rule, operands, broadcast)
    for name, rule in JOINING.items():
        functions[name] = _joining(xp, name, rule)
    for name, function in {**COMPOSED, **LIKE}.items():
        functions[name] = _composed(namespace, name, function)
    namespace._publish()
    return namespace


def _own(xp: Namespace, name: str) -> Function:
    """The library's function, or what says that there is none."""
    found = getattr(xp, name, None) or getattr(xp.linalg, name, None)
    if found is None:

        def found(*args: Setting, **kwargs: Setting) -> Array:
            raise refuse(f"`{name}`, which the library lacks,", "use another function")

    return found


def _plain(name: str, function: Function) -> Function:
    @functools.wraps(function)
    def plain(*args: Setting, **kwargs: Setting) -> Array:
        return function(*unwrapped(args), **unwrapped(kwargs))

    return plain


def _guarded(name: str, function: Function) -> Function:
    @functools.wraps(function)
    def guarded(*args: Setting, **kwargs: Setting) -> Array:
        if carries(args) or carries(kwargs):
            raise refuse(f"`{name}`", "express it with functions that have a derivative")
        return function(*args, **kwargs)

    return guarded


def _unary(xp: Namespace, name: str, derivative: Function, of_output: bool) -> Function:
    forward = _own(xp, name)

    def recorded(x: Array, /) -> Array:
        if not isinstance(x, Recorded):
            return forward(x)
        tape = x.tape
        out = forward(x.value)
        kept = out if of_output else x.value

        def back(g: Array) -> Array:
            return g * derivative(xp, kept)

        if tape.uniform:
            return type(x)(out, tape, ((x.index, back, None),))
        fitted = fit(xp, recorded, back, x.value, out, False)
        return type(x)(out, tape, ((x.index, fitted, None),))

    recorded.__name__ = name
    return recorded


def _ruled(xp: Namespace, name: str, rule: Function, operands: int, broadcast: bool) -> Function:
    forward = _own(xp, name)
    view = name in _VIEWS

    def recorded(*args: Setting, **named: Setting) -> Array:
        given, settings = args[:operands], args[operands:]
        if carries(settings) or carries(named):
            raise refuse(f"`{name}` with a variable among its settings", "pass plain numbers")
        if not carries(given):
            return forward(*args, **named)
        return record(rule, given, settings, named, broadcast=broadcast, view=view)

    recorded.__name__ = name
    return recorded


def _composed(namespace: RecordingNamespace, name: str, function: Function) -> Function:
    forward = _own(namespace._xp, name)

    def recorded(*args: Setting, **named: Setting) -> Array:
        if not (carries(args) or carries(named)):
            return forward(*args, **named)
        return function(namespace, *args, **named)

    recorded.__name__ = name
    return recorded


def _joining(xp: Namespace, name: str, rule: Function) -> Function:
    forward = _own(xp, name)

    def recorded(arrays: Sequence[Array], /, axis: int | None = 0) -> Array:
        arrays = tuple(arrays)
        for lead in arrays:
            if isinstance(lead, Recorded):
                break
        else:
            return forward(arrays, axis=axis)
        if name == "stack" and axis == 0 and lead.tape.uniform:
            made = _stacked_scalars(xp, lead, arrays)
            if made is not None:
                return made
        return record(rule, arrays, named={"axis": axis})

    recorded.__name__ = name
    return recorded


def _stacked_scalars(xp: Namespace, lead: Recorded, arrays: Sequence[Array]) -> Array:
    """``stack`` of 0-d variables and numbers, without the library's overhead (12x in NumPy)."""
    tape = lead.tape
    out = xp.empty((len(arrays),), dtype=tape.dtype, device=tape.device)
    edges = []
    for k, x in enumerate(arrays):
        if isinstance(x, Recorded):
            if x.tape is not tape:
                raise foreign()
            value = x.value
            if value.shape:
                return None
            edges.append((x.index, operator.getitem, k))
        elif type(x) in _PYTHON:
            value = x
        else:
            return None
        out[k] = value
    return type(lead)(out, tape, tuple(edges))
