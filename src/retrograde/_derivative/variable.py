"""The array that records: :class:`Variable`.

On a uniform tape the four operators and reads of blocks need no rule, no closure and no cast:
that is what makes a node cost about a microsecond. Everything else goes through
:func:`.recording.record`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NoReturn

from .._types import Array
from . import elementwise, products
from .numpy_protocol import call, method
from .recording import record, refuse
from .shaping import permute_dims, reshape, selection
from .writing import Writable, basic_key

__all__ = ["Variable"]

_PYTHON = frozenset({int, float})
_mul, _div, _neg = operator.mul, operator.truediv, operator.neg


def _same(g: Array) -> Array:
    return g


def _plain(x: Any) -> Any:
    return x.value if isinstance(x, Variable) else x


class Variable(Writable):
    """An array-API array that records what is done with it.

    Comparisons give plain arrays, so ``if y[0] > 0`` works; whatever would silently drop the
    gradient (``float(y[0])``, ``np.asarray(y)``) raises :class:`UnsupportedByBackend`.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    # --- arithmetic
    def __add__(self, other: Any) -> Any:
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

    def __sub__(self, other: Any) -> Any:
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

    def __rsub__(self, other: Any) -> Any:
        if self.tape.uniform and type(other) in _PYTHON:
            return Variable(other - self.value, self.tape, ((self.index, _neg, None),))
        return record(elementwise.subtract, (other, self), broadcast=True)

    def __mul__(self, other: Any) -> Any:
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

    def __truediv__(self, other: Any) -> Any:
        if self.tape.uniform and type(other) in _PYTHON:
            return Variable(self.value / other, self.tape, ((self.index, _div, other),))
        return record(elementwise.divide, (self, other), broadcast=True)

    def __rtruediv__(self, other: Any) -> Any:
        return record(elementwise.divide, (other, self), broadcast=True)

    def __pow__(self, other: Any) -> Any:
        if type(other) is int and other == 2 and self.tape.uniform:
            x = self.value
            return Variable(x * x, self.tape, ((self.index, _mul, 2 * x),))
        return record(elementwise.pow, (self, other), broadcast=True)

    def __rpow__(self, other: Any) -> Any:
        return record(elementwise.pow, (other, self), broadcast=True)

    def __mod__(self, other: Any) -> Any:
        return record(elementwise.remainder, (self, other), broadcast=True)

    def __rmod__(self, other: Any) -> Any:
        return record(elementwise.remainder, (other, self), broadcast=True)

    def __matmul__(self, other: Any) -> Any:
        return record(products.matmul, (self, other))

    def __rmatmul__(self, other: Any) -> Any:
        return record(products.matmul, (other, self))

    def __neg__(self) -> Any:
        return Variable(-self.value, self.tape, ((self.index, _neg, None),))

    def __pos__(self) -> Any:
        return Variable(+self.value, self.tape, ((self.index, _same, None),))

    def __abs__(self) -> Any:
        return record(elementwise.abs, (self,))

    # --- piecewise constant: plain arrays
    def __floordiv__(self, other: Any) -> Array:
        return self.value // _plain(other)

    def __rfloordiv__(self, other: Any) -> Array:
        return other // self.value

    def __eq__(self, other: object) -> Any:
        return self.value == _plain(other)

    def __ne__(self, other: object) -> Any:
        return self.value != _plain(other)

    def __lt__(self, other: Any) -> Any:
        return self.value < _plain(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= _plain(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > _plain(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= _plain(other)

    def __bool__(self) -> bool:
        return bool(self.value)

    # --- reading
    def __getitem__(self, key: Any) -> Any:
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

    def __iter__(self) -> Iterator[Any]:
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
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def device(self) -> Any:
        return self.value.device

    @property
    def T(self) -> Any:
        return record(permute_dims, (self,), view=True)

    @property
    def mT(self) -> Any:
        return self.tape.namespace.matrix_transpose(self)

    # --- protocols
    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self.tape.namespace

    def __getattr__(self, name: str) -> Any:
        # Met only for what the class lacks: the methods of NumPy's arrays.
        if name.startswith("_") or name == "views":
            raise AttributeError(name)
        return method(self, name)

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return call(self.tape.namespace, function, args, kwargs)

    def __array_ufunc__(self, ufunc: Any, form: str, *inputs: Any, **kwargs: Any) -> Any:
        if form != "__call__" or kwargs:
            name = ufunc.__name__ if form == "__call__" else f"{ufunc.__name__}.{form}"
            raise refuse(f"`{name}` with {sorted(kwargs)}", "call the plain function")
        return call(self.tape.namespace, ufunc, inputs, {})

    def __cupy_override_elementwise_kernel__(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        # how CuPy's ufuncs hand themselves to their arguments
        if any(value is not None for value in kwargs.values()):
            raise refuse(f"`{kernel.name}` with {sorted(kwargs)}", "call the plain function")
        return call(self.tape.namespace, kernel, args, {})

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise refuse(
            "converting to a plain array (`np.asarray(y)`, `np.array([y[1], -y[0]])`, "
            "`d[0] = y[0]` into a plain array d)",
            "use `xp.stack([...])`, or write into `xp.zeros_like(y)`",
        )

    def __dlpack__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise refuse("handing the array to another library (DLPack)", "stay in one library")

    def _number(self, *args: Any) -> NoReturn:
        raise refuse(
            "converting to a Python number (`float(y[0])`, `math.sin(y[0])`, `d[0] = y[0]` into a "
            "plain array d)",
            "keep it an array (`y[0]`, `xp.sin(y[0])`), write into `xp.zeros_like(y)`",
        )

    __float__ = __int__ = __complex__ = __index__ = _number

    def __repr__(self) -> str:
        return f"Variable({self.value!r})"
