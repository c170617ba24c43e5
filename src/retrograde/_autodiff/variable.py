"""The array that records: :class:`Variable`.

On a uniform tape the four operators and reads of blocks need no rule, no closure and no cast:
that is what makes a node cost about a microsecond. Everything else goes through
:func:`~.tape.record`.

Writes into variables, ``d[1:-1] = ...`` and ``d += ...``, are recorded as functions. A write gives
the variable a new value and a new place on the tape; nothing is mutated, so every write costs a
copy. Arrays that share memory are followed as NumPy would: a write into a slice ``d[a:b]`` goes
through to d. Where that can't be followed it raises: writes into an input of the function, into a
reshaped view, and into an array of which another view is alive.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

from .._base.errors import InputError
from .._base.types import Array, Device, DType, Function, Leaves, Namespace
from .numpy_protocol import call, method
from .rules import elementwise, products
from .rules.shaping import permute_dims, reshape, selection
from .rules.unbroadcast import Back, Key, Setting, fit
from .tape import Edge, Recorded, foreign, record, refuse

_BASIC = frozenset({int, slice, type(None), type(Ellipsis)})


def basic_key(key: Key) -> tuple[Key, bool]:
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


def _is_bool(key: object) -> bool:
    return isinstance(key, bool) or "bool" in str(getattr(key, "dtype", ""))


def _cleared(xp: Namespace, g: Array, key: Key) -> Array:
    rest = xp.asarray(g, copy=True)
    rest[key] = 0
    return rest


def _assigned(xp: Namespace, old: Array, new: Array, key: Key) -> tuple[Array, Back, Back | None]:
    """The rule of ``old[key] = new``."""
    value = xp.asarray(old, copy=True)
    value[key] = new
    back = fit(xp, _assigned, lambda g: g[key], new, value, True) if hasattr(new, "dtype") else None
    return value, lambda g: _cleared(xp, g, key), back


def _in_place(op: Function) -> Function:
    """``x op= other``, by ``x op other``."""
    return lambda x, other: x._store(op(x, other))


class Writable(Recorded):
    """The writing half of a variable."""

    __slots__ = ()

    def share(self, view: Array, base: Key) -> Key:
        """The ``base`` of a view of this array, which is remembered as long as it lives."""
        if type(self.base) is str:
            return self.base
        if not hasattr(self, "views"):
            self.views: list[weakref.ref[Array]] = []
        self.views.append(weakref.ref(view))
        return base

    def __setitem__(self, key: Key, new: Array) -> None:
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
        edges: list[Edge] = [(self.index, clear, None)] if tape[self.index] else []
        if isinstance(new, Recorded):
            edges.append((new.index, back, None))
        self.index = len(tape)
        tape.append(tuple(edges))
        self._write_through()

    def _store(self, new: Array) -> Array:
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

    def _check_write(self, new: Array) -> None:
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

    __iadd__, __isub__, __imul__ = map(_in_place, (operator.add, operator.sub, operator.mul))
    __itruediv__, __ipow__ = map(_in_place, (operator.truediv, operator.pow))
    __imatmul__, __imod__ = map(_in_place, (operator.matmul, operator.mod))


def _cast(xp: Namespace, x: Array, dtype: DType) -> tuple[Array, Back]:
    return xp.asarray(x, dtype=dtype), lambda g: g


_PYTHON = frozenset({int, float})
_mul, _div, _neg = operator.mul, operator.truediv, operator.neg


def _same(g: Array) -> Array:
    return g


def _constant(op: Function) -> Function:
    """An operator whose result is constant between jumps: a plain array."""
    return lambda x, other: op(x.value, other.value if isinstance(other, Variable) else other)


def _reflected(op: Function) -> Function:
    """``other op x``, by the rule of op."""
    return lambda x, other: record(op, (other, x), broadcast=True)


class Variable(Writable):
    """An array-API array that records what is done with it.

    Comparisons give plain arrays, so ``if y[0] > 0`` works; whatever would silently drop the
    gradient (``float(y[0])``, ``np.asarray(y)``) raises :class:`UnsupportedByBackend`.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    # --- arithmetic
    def __add__(self, other: Array) -> Array:
        tape = self.tape
        if tape.uniform:
            x = self.value
            kind = type(other)
            if kind is Variable:
                y = other.value
                if other.tape is tape and x.shape == y.shape:
                    edges = ((self.index, _same, None), (other.index, _same, None))
                    return Variable(x + y, tape, edges)
            elif kind in _PYTHON:
                return Variable(x + other, tape, ((self.index, _same, None),))
        return record(elementwise.add, (self, other), broadcast=True)

    __radd__ = __add__

    def __sub__(self, other: Array) -> Array:
        tape = self.tape
        if tape.uniform:
            x = self.value
            kind = type(other)
            if kind is Variable:
                y = other.value
                if other.tape is tape and x.shape == y.shape:
                    edges = ((self.index, _same, None), (other.index, _neg, None))
                    return Variable(x - y, tape, edges)
            elif kind in _PYTHON:
                return Variable(x - other, tape, ((self.index, _same, None),))
        return record(elementwise.subtract, (self, other), broadcast=True)

    def __rsub__(self, other: Array) -> Array:
        if self.tape.uniform and type(other) in _PYTHON:
            return Variable(other - self.value, self.tape, ((self.index, _neg, None),))
        return record(elementwise.subtract, (other, self), broadcast=True)

    def __mul__(self, other: Array) -> Array:
        tape = self.tape
        if tape.uniform:
            x = self.value
            kind = type(other)
            if kind is Variable:
                y = other.value
                if other.tape is tape and x.shape == y.shape:
                    edges = ((self.index, _mul, y), (other.index, _mul, x))
                    return Variable(x * y, tape, edges)
            elif kind in _PYTHON:
                return Variable(x * other, tape, ((self.index, _mul, other),))
        return record(elementwise.multiply, (self, other), broadcast=True)

    __rmul__ = __mul__

    def __truediv__(self, other: Array) -> Array:
        if self.tape.uniform and type(other) in _PYTHON:
            return Variable(self.value / other, self.tape, ((self.index, _div, other),))
        return record(elementwise.divide, (self, other), broadcast=True)

    __rtruediv__ = _reflected(elementwise.divide)

    def __pow__(self, other: Array) -> Array:
        if type(other) is int and other == 2 and self.tape.uniform:
            x = self.value
            return Variable(x * x, self.tape, ((self.index, _mul, 2 * x),))
        return record(elementwise.pow, (self, other), broadcast=True)

    __rpow__ = _reflected(elementwise.pow)
    __rmod__ = _reflected(elementwise.remainder)

    def __mod__(self, other: Array) -> Array:
        return record(elementwise.remainder, (self, other), broadcast=True)

    def __matmul__(self, other: Array) -> Array:
        return record(products.matmul, (self, other))

    def __rmatmul__(self, other: Array) -> Array:
        return record(products.matmul, (other, self))

    def __neg__(self) -> Array:
        return Variable(-self.value, self.tape, ((self.index, _neg, None),))

    def __pos__(self) -> Array:
        return Variable(+self.value, self.tape, ((self.index, _same, None),))

    def __abs__(self) -> Array:
        return record(elementwise.abs, (self,))

    # --- piecewise constant: plain arrays
    __floordiv__, __lt__, __le__ = map(_constant, (operator.floordiv, operator.lt, operator.le))
    __gt__, __ge__ = map(_constant, (operator.gt, operator.ge))
    __eq__, __ne__ = map(_constant, (operator.eq, operator.ne))

    def __rfloordiv__(self, other: Array) -> Array:
        return other // self.value

    def __bool__(self) -> bool:
        return bool(self.value)

    # --- reading
    def __getitem__(self, key: Key) -> Array:
        value = self.value
        if type(key) is not int:
            key, basic = basic_key(key)
            if not basic or not value.ndim:
                return record(selection, (self,), (lambda v: v[key],))
            if key is None or (type(key) is tuple and None in key):
                # Blocks are added to through their key, and None is no key for writing.
                parts = () if key is None else tuple(k for k in key if k is not None)
                inner = self[parts] if parts else self
                return record(reshape, (inner,), (value[key].shape,), view=True)
        out = value[key]
        made = Variable(out, self.tape, ((self.index, None, (key, value.shape)),))
        if out.shape:
            made.base = self.share(made, (self, key))
        return made

    def __len__(self) -> int:
        return len(self.value) if not self.value.shape else self.value.shape[0]

    def __iter__(self) -> Iterator[Array]:
        if not self.value.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[k, ...] if self.value.ndim > 1 else self[k] for k in range(len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self.value.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        return self.value.size  # type: ignore[no-any-return]

    @property
    def dtype(self) -> DType:
        return self.value.dtype

    @property
    def device(self) -> Device:
        return self.value.device

    @property
    def T(self) -> Array:
        return record(permute_dims, (self,), view=True)

    @property
    def mT(self) -> Array:
        return self.tape.namespace.matrix_transpose(self)

    # --- protocols
    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return self.tape.namespace

    def __getattr__(self, name: str) -> Any:
        # Met only for what the class lacks: the methods of NumPy's arrays.
        if name.startswith("_") or name == "views":
            raise AttributeError(name)
        return method(self, name)

    def __array_function__(
        self, function: Function, types: object, args: Leaves, kwargs: dict[str, Setting]
    ) -> Array:
        return call(self.tape.namespace, function, args, kwargs)

    def __array_ufunc__(
        self, ufunc: Function, form: str, *inputs: Array, **kwargs: Setting
    ) -> Array:
        if form != "__call__" or kwargs:
            name = ufunc.__name__ if form == "__call__" else f"{ufunc.__name__}.{form}"
            raise refuse(f"`{name}` with {sorted(kwargs)}", "call the plain function")
        return call(self.tape.namespace, ufunc, inputs, {})

    def __cupy_override_elementwise_kernel__(
        self, kernel: Any, *args: Array, **kwargs: Setting
    ) -> Array:
        # how CuPy's ufuncs hand themselves to their arguments
        if any(value is not None for value in kwargs.values()):
            raise refuse(f"`{kernel.name}` with {sorted(kwargs)}", "call the plain function")
        return call(self.tape.namespace, kernel, args, {})

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        raise refuse(
            "converting to a plain array (`np.asarray(y)`, `np.array([y[1], -y[0]])`, "
            "`d[0] = y[0]` into a plain array d)",
            "use `xp.stack([...])`, or write into `xp.zeros_like(y)`",
        )

    def __dlpack__(self, *args: object, **kwargs: object) -> NoReturn:
        raise refuse("handing the array to another library (DLPack)", "stay in one library")

    def _number(self, *args: object) -> NoReturn:
        raise refuse(
            "converting to a Python number (`float(y[0])`, `math.sin(y[0])`, `d[0] = y[0]` into a "
            "plain array d)",
            "keep it an array (`y[0]`, `xp.sin(y[0])`), write into `xp.zeros_like(y)`",
        )

    __float__ = __int__ = __complex__ = __index__ = _number

    def __repr__(self) -> str:
        return f"Variable({self.value!r})"
