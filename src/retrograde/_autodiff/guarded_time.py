"""Times that a field is called with to see what it makes of them.

``UNSEEN`` is a time that nothing can be computed of: an f that takes it is autonomous, there
at least. A ``ComplexTime`` is ``t + i e``, for df/dt by the complex step. What drops an imaginary
part without a word (``t.real``, ``abs(t)``, ``float(t)``, ``math.cos(t)``, ``t.item()``, a cast)
raises instead, wherever in a solve it is met: the tape, which follows some of these, stands in. Of
what f has made of its time nothing is guarded: ``(2.0 * t).real`` is caught where the derivative is
held to another route's, not here.
"""

from __future__ import annotations

import operator
from typing import Any, NoReturn

from .._base.types import Array, Function, Leaves


class Unseen:
    """A time that nothing can be computed of."""

    def _seen(self, *_: object) -> NoReturn:
        raise TypeError("f looks at its time")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __abs__ = _seen
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __mod__ = __floordiv__ = _seen
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __bool__ = _seen
    __float__ = __int__ = __complex__ = __index__ = __array__ = _seen
    __hash__ = object.__hash__
    __array_ufunc__ = __array_function__ = _seen


UNSEEN = Unseen()

LOSSY = frozenset(
    "absolute abs fabs real imag angle conjugate conj sign norm vdot vecdot real_if_close".split()
)
"""Functions of complex numbers that are not analytic."""

COMPARED = frozenset("less less_equal greater greater_equal equal not_equal".split())


def _operator(op: Function) -> Function:
    return lambda self, other: op(self.value, getattr(other, "value", other))


def _reflected(op: Function) -> Function:
    return lambda self, other: op(other, self.value)


def _compared(op: Function) -> Function:
    return lambda self, other: op(self.plain, getattr(other, "plain", other))


class ComplexTime:
    """A complex time that does not become a real one.

    Parameters
    ----------
    plain : array, shape ()
        t, by which f branches.
    value : array, shape ()
        ``t + i e``.
    """

    __slots__ = ("plain", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, plain: Array, value: Array) -> None:
        self.plain, self.value = plain, value

    __add__, __radd__ = _operator(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _operator(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _operator(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _operator(operator.truediv), _reflected(operator.truediv)
    __pow__, __rpow__ = _operator(operator.pow), _reflected(operator.pow)
    __lt__, __le__ = _compared(operator.lt), _compared(operator.le)
    __gt__, __ge__ = _compared(operator.gt), _compared(operator.ge)
    __eq__, __ne__ = _compared(operator.eq), _compared(operator.ne)

    def __neg__(self) -> Array:
        return -self.value

    def __pos__(self) -> Array:
        return self.value

    def __bool__(self) -> bool:
        return bool(self.plain)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __getitem__(self, key: Any) -> Array:
        return self.value[key]

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "size", "dtype", "device", "__array_namespace__"):
            return getattr(self.value, name)
        raise AttributeError(f"{name!r} of a time may drop its derivative")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        if getattr(dtype, "kind", "c") != "c":
            raise TypeError("a cast drops the derivative by time")
        return self.value

    def __array_ufunc__(self, ufunc: Function, form: str, *inputs: Array, **given: Any) -> Array:
        return _called(ufunc.__name__, getattr(ufunc, form), inputs, given)

    def __array_function__(
        self, function: Function, types: object, args: Leaves, given: dict[str, Any]
    ) -> Array:
        return _called(function.__name__, function, args, given)

    def __cupy_override_elementwise_kernel__(
        self, kernel: Any, *args: Array, **given: Any
    ) -> Array:
        return _called(kernel.name.removeprefix("cupy_"), kernel, args, given)


def _called(name: str, function: Function, args: Leaves, given: dict[str, Any]) -> Array:
    """A function of the library of what times stand for."""
    if name in LOSSY:
        raise TypeError(f"`{name}` drops the derivative by time")
    kind = "plain" if name in COMPARED else "value"
    bare = [_bare(kind, x) for x in args]
    return function(*bare, **{key: _bare(kind, x) for key, x in given.items()})


def _bare(kind: str, x: Any) -> Any:
    """What times in x stand for: ``"plain"`` numbers, or complex ones, their ``"value"``."""
    if isinstance(x, ComplexTime):
        return getattr(x, kind)
    return type(x)(_bare(kind, part) for part in x) if type(x) in (list, tuple) else x
