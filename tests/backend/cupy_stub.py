"""A stand-in for CuPy that computes with NumPy, as strict as CuPy is with what it is given.

Its arrays are no subclass of NumPy's; whatever is no array of its own (an array of NumPy, a
variable of the tape) is a TypeError in its functions; results of reductions are 0-d arrays;
nothing is converted to NumPy unless ``get`` asks for it; there is no ``__array_namespace__``. Its
protocols are those of CuPy 14.2: ``__array_ufunc__`` and ``__array_function__``, which leave
operands of foreign types to them, and ufuncs that look for
``__cupy_override_elementwise_kernel__``.
"""

from __future__ import annotations

import contextlib
import operator
import types
from typing import Any

import numpy as np

__all__ = ["READS", "make_cupy", "ndarray", "wrap"]

READS: list[tuple[int, ...]] = []
"""Shapes of what was read back to the host."""

SCALARS = (bool, int, float, complex, np.generic)


class Device(contextlib.nullcontext):
    """One device."""

    def __init__(self, device: Any = None) -> None:
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    __hash__ = None

    def synchronize(self) -> None:
        pass


class ndarray:
    """An array on a device that is not there."""

    __array_priority__ = 100
    __hash__ = None
    device = Device()

    def __init__(self, values: Any) -> None:
        self._a = np.asarray(values)

    shape = property(lambda self: self._a.shape)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    dtype = property(lambda self: self._a.dtype)
    nbytes = property(lambda self: self._a.nbytes)
    T = property(lambda self: wrap(self._a.T))
    real = property(lambda self: wrap(self._a.real))
    imag = property(lambda self: wrap(self._a.imag))

    def get(self) -> np.ndarray:
        READS.append(self.shape)
        return self._a.copy()

    def item(self) -> Any:
        return self.get().item()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        return wrap(self._a[own(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._a[own(key)] = own(value)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or not all(isinstance(x, (ndarray, np.ndarray, *SCALARS))
                                           for x in inputs):  # fmt: skip
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        return ufunc(function)(*inputs, **kwargs)

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        if not all(issubclass(kind, (ndarray, np.ndarray)) for kind in kinds):
            return NotImplemented
        return strict(function)(*args, **kwargs)

    def dot(self, other: Any, out: Any = None) -> Any:
        result = wrap(self._a.dot(own(other)))
        if out is None:
            return result
        out[...] = result
        return out


def wrap(x: Any) -> Any:
    """Results as arrays of the stub."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(wrap, x))
    return ndarray(x) if isinstance(x, (np.ndarray, np.generic)) else x


def own(x: Any) -> Any:
    """Arguments as NumPy's; TypeError for arrays of others."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, (tuple, list)):
        return type(x)(map(own, x))
    if isinstance(x, np.ndarray) or (
        hasattr(x, "__array_ufunc__") and not isinstance(x, np.generic)
    ):
        raise TypeError(f"Unsupported type {type(x)}")
    return x


def strict(function: Any) -> Any:
    """A function of NumPy as CuPy's."""

    def call(*args: Any, **kwargs: Any) -> Any:
        named = {name: own(x) for name, x in kwargs.items()}
        return wrap(function(*map(own, args), **named))

    call.__name__ = getattr(function, "__name__", "")
    return call


class ufunc:
    """A ufunc of NumPy as CuPy's."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.name = self.__name__ = f"cupy_{function.__name__}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for x in args:
            override = getattr(x, "__cupy_override_elementwise_kernel__", None)
            if override is not None:
                return override(self, *args, **kwargs)
        out = kwargs.pop("out", None)
        result = wrap(self.function(*map(own, args), **kwargs))
        if out is None:
            return result
        out[...] = result
        return out


def _methods() -> None:
    """Operators go through ufuncs for arrays and numbers, else through NumPy's protocol."""

    def binary(name: str, function: Any, reflected: bool, in_place: bool) -> None:
        def method(self: Any, other: Any) -> Any:
            if in_place:
                self[...] = ufunc(function)(self, other)
                return self
            pair = (other, self) if reflected else (self, other)
            mine = isinstance(other, (ndarray, *SCALARS))
            return ufunc(function)(*pair) if mine else function(*pair)

        setattr(ndarray, name, method)

    arithmetic = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
        "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "floordiv": np.floor_divide,
    }  # fmt: skip
    for name, function in arithmetic.items():
        binary(f"__{name}__", function, reflected=False, in_place=False)
        binary(f"__r{name}__", function, reflected=True, in_place=False)
        binary(f"__i{name}__", function, reflected=False, in_place=True)
    for name, function in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "eq": np.equal,
                           "ge": np.greater_equal, "ne": np.not_equal, "and": np.logical_and,
                           "or": np.logical_or}.items():  # fmt: skip
        binary(f"__{name}__", function, reflected=False, in_place=False)
    for name, one in {"neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
        setattr(ndarray, f"__{name}__", lambda self, one=one: ufunc(one)(self))
    for name, number in {"float": float, "int": int, "bool": bool, "index": operator.index}.items():
        setattr(ndarray, f"__{name}__", lambda self, number=number: number(self.get()))
    for name in ("reshape", "ravel", "copy", "astype", "sum", "all", "any", "transpose", "view",
                 "squeeze", "max", "min", "conj", "fill"):  # fmt: skip
        method = getattr(np.ndarray, name)
        setattr(ndarray, name, lambda self, *args, method=method, **named: wrap(
            method(self._a, *map(own, args), **named)))  # fmt: skip


_methods()
ndarray.__module__ = "cupy"


class Pool:
    """What a memory pool tells of itself."""

    limit = 0

    def free_bytes(self) -> int:
        return 1_000_000

    def used_bytes(self) -> int:
        return 2_000_000

    def get_limit(self) -> int:
        return self.limit


def make_cupy() -> dict[str, Any]:
    """Modules with the names of CuPy's that computing with NumPy can stand for."""
    cupy: Any = types.ModuleType("cupy")
    for name in dir(np):
        value = getattr(np, name)
        if isinstance(value, np.ufunc):
            value = ufunc(value)
        elif callable(value) and not isinstance(value, type):
            value = strict(value)
        if not name.startswith("_") and not isinstance(value, types.ModuleType):
            setattr(cupy, name, value)
    # from the host comes what is asked for by name
    cupy.asarray = cupy.array = lambda x, *args, **named: ndarray(
        np.array(_unwrapped(x), *args, **named)
    )
    pool = Pool()
    cupy.ndarray, cupy.linalg, cupy.fft = ndarray, np.linalg, np.fft
    cupy.get_default_memory_pool = lambda: pool
    runtime = types.SimpleNamespace(memGetInfo=lambda: (5_000_000, 9_000_000))
    cupy.cuda = types.ModuleType("cupy.cuda")
    cupy.cuda.runtime, cupy.cuda.Device = runtime, Device
    cupy.cuda.MemoryHook = object  # what counts bytes derives from it
    return {
        "cupy": cupy,
        "cupy.linalg": np.linalg,
        "cupy.fft": np.fft,
        "cupy.cuda": cupy.cuda,
        "cupy.cuda.device": types.SimpleNamespace(Device=Device),
    }


def _unwrapped(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(map(_unwrapped, x))
    return x._a if isinstance(x, ndarray) else x
