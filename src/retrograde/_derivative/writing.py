"""Writes into variables: ``d[1:-1] = ...`` and ``d += ...``, recorded as functions.

A write gives the variable a new value and a new place on the tape; nothing is mutated, so
every write costs a copy. Arrays that share memory are followed as NumPy would: a write into a
slice ``d[a:b]`` goes through to d. Where that can't be followed it raises: writes into an
input of the function, into a reshaped view, and into an array of which another view is alive.
"""

from __future__ import annotations

import operator
import weakref
from typing import Any

from .._errors import InputError
from .._types import Array
from .fitting import fit
from .recording import Recorded, foreign, record, refuse

__all__ = ["Writable", "basic_key"]

_BASIC = frozenset({int, slice, type(None), type(Ellipsis)})


def basic_key(key: Any) -> tuple[Any, bool]:
    """An index with its integer scalars made ints, and whether it is basic (holds no array)."""
    if type(key) in _BASIC:
        return key, True
    if type(key) is tuple:
        parts = [basic_key(k) for k in key]
        return tuple(k for k, _ in parts), all(basic for _, basic in parts)
    if isinstance(key, Recorded):
        raise refuse("an index that carries a gradient", "index with plain integers")
    scalar = hasattr(key, "__index__") and getattr(key, "ndim", 0) == 0
    return (operator.index(key), True) if scalar and not _is_bool(key) else (key, False)


def _is_bool(key: Any) -> bool:
    return isinstance(key, bool) or "bool" in str(getattr(key, "dtype", ""))


def _cleared(xp: Any, g: Array, key: Any) -> Array:
    rest = xp.asarray(g, copy=True)
    rest[key] = 0
    return rest


def _assigned(xp: Any, old: Array, new: Any, key: Any) -> tuple[Array, Any, Any]:
    """The rule of ``old[key] = new``."""
    value = xp.asarray(old, copy=True)
    value[key] = new
    back = fit(xp, _assigned, lambda g: g[key], new, value, True) if hasattr(new, "dtype") else None
    return value, lambda g: _cleared(xp, g, key), back


class Writable(Recorded):
    """The writing half of a variable."""

    __slots__ = ()

    def share(self, view: Any, base: Any) -> Any:
        """The ``base`` of a view of this array, which is remembered as long as it lives."""
        if type(self.base) is str:
            return self.base
        if not hasattr(self, "views"):
            self.views: list[weakref.ref[Any]] = []
        self.views.append(weakref.ref(view))
        return base

    def __setitem__(self, key: Any, new: Any) -> None:
        key, basic = basic_key(key)
        if not basic and not _is_bool(key):
            raise refuse("a write at an array of indices", "write slices, or use `xp.where`")
        self._check_write(new)
        tape = self.tape
        xp = tape.xp
        if isinstance(new, Recorded) and new.tape is not tape:
            raise foreign()
        plain = new.value if isinstance(new, Recorded) else new
        self.value, clear, back = _assigned(xp, self.value, plain, key)
        edges = [(self.index, clear, None)] if tape[self.index] else []
        if isinstance(new, Recorded):
            edges.append((new.index, back, None))
        self.index = len(tape)
        tape.append(tuple(edges))
        self._write_through()

    def _store(self, new: Any) -> Any:
        """What ``x += ...`` leaves in x: x itself, now of the value of ``new``."""
        if not hasattr(self.value, "__setitem__"):
            return new  # a NumPy scalar can't be written into: += binds the name anew
        self._check_write(new)
        if new.value.shape != self.value.shape:
            raise InputError(
                f"an in-place operation would change the shape {tuple(self.value.shape)} to "
                f"{tuple(new.value.shape)}; write `x = x + ...`."
            )
        if new.value.dtype != self.value.dtype:
            new = record(_cast, (new,), (self.value.dtype,))
        self.value, self.index = new.value, new.index
        self._write_through()
        return self

    def _check_write(self, new: Any) -> None:
        if type(self.base) is str:
            raise refuse(
                f"a write into {self.base}", "write into a copy (`xp.asarray(x, copy=True)`)"
            )
        alive = [view for view in (ref() for ref in getattr(self, "views", ())) if view is not None]
        if any(view is not new for view in alive):
            raise refuse(
                "a write into an array of which a view is still in use",
                "copy the view (`xp.asarray(view, copy=True)`) or write before taking it",
            )
        self.views = [weakref.ref(view) for view in alive]

    def _write_through(self) -> None:
        if self.base is not None:
            owner, key = self.base
            owner[key] = self

    def __iadd__(self, other: Any) -> Any:
        return self._store(self + other)

    def __isub__(self, other: Any) -> Any:
        return self._store(self - other)

    def __imul__(self, other: Any) -> Any:
        return self._store(self * other)

    def __itruediv__(self, other: Any) -> Any:
        return self._store(self / other)

    def __ipow__(self, other: Any) -> Any:
        return self._store(self**other)

    def __imatmul__(self, other: Any) -> Any:
        return self._store(self @ other)

    def __imod__(self, other: Any) -> Any:
        return self._store(self % other)


def _cast(xp: Any, x: Array, dtype: Any) -> tuple[Array, Any]:
    return xp.asarray(x, dtype=dtype), lambda g: g
