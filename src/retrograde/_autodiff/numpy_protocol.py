"""NumPy's functions and methods on variables: ``np.sin(y)``, ``np.concatenate``, ``y.sum()``.

NumPy hands its functions to their arguments (``__array_ufunc__``, ``__array_function__``);
they are recognised by their names, so nothing here imports NumPy. A function that has neither
a rule nor a constant result raises. CuPy's operators come this way, too (``W * y`` with a CuPy
array W), as long as variables have no ``__cupy_get_ndarray__``; so do its ufuncs (``cp.sin(y)``,
by ``__cupy_override_elementwise_kernel__``), and functions that call the method of their argument
(``cp.sum(y)``). Its other functions (``cp.stack``, ``cp.roll``) accept arrays of CuPy alone.

Known limit: array-api-strict refuses foreign operands, so its arrays can't stand on the left of
a variable (``W @ y``; write ``xp.matmul(W, y)``).
"""

from __future__ import annotations

from collections.abc import Sequence

from .._base.types import Array, Function, Leaves, Namespace
from .namespace import PLAIN, unwrapped
from .rules.unbroadcast import Axis, Setting
from .tape import refuse

_SPELLINGS = {
    "absolute": "abs",
    "fabs": "abs",
    "conjugate": "conj",
    "power": "pow",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "amax": "max",
    "amin": "min",
    "concatenate": "concat",
    "transpose": "permute_dims",
    "true_divide": "divide",
}
_CONSTANT = PLAIN | frozenset(
    "rint around fix shape ndim size allclose isclose array_equal iscomplexobj isrealobj "
    "shares_memory may_share_memory".split()
)
_METHODS = frozenset(
    "sum mean std var prod max min cumsum trace diagonal reshape ravel flatten transpose "
    "squeeze repeat take clip conj conjugate dot astype copy".split()
)
_PLAIN_METHODS = frozenset("all any argmax argmin argsort nonzero round searchsorted".split())


_ORDER = {
    **dict.fromkeys(("sum", "prod"), ("axis", "dtype", "out", "keepdims")),
    **dict.fromkeys(("max", "min"), ("axis", "out", "keepdims")),
    "mean": ("axis", "dtype", "out", "keepdims"),
    **dict.fromkeys(("std", "var"), ("axis", "dtype", "out", "ddof", "keepdims")),
    "cumsum": ("axis", "dtype", "out"),
    "clip": ("min", "max", "out"),
    "dot": ("b", "out"),
}
"""Arguments of methods whose order is NumPy's own."""


def _meant(
    name: str, args: Leaves, kwargs: dict[str, Setting]
) -> tuple[Leaves, dict[str, Setting]]:
    """Arguments of a method without those that say nothing (``out=None``)."""
    order = _ORDER.get(name, ())
    first = 1 if name == "dot" else 2 if name == "clip" else 0  # the standard's, too
    named = dict(zip(order[first:], args[first:], strict=False)) if order else {}
    kept = {k: v for k, v in {**named, **kwargs}.items() if not _says_nothing(k, v)}
    return (args[:first] if order else args), kept


def _says_nothing(name: str, value: object) -> bool:
    return (name in ("out", "dtype", "axis") and value is None) or (
        name == "order" and value == "C"
    )


def _ravel(ns: Namespace, x: Array) -> Array:
    return ns.reshape(x, (-1,))


def _copy(ns: Namespace, x: Array) -> Array:
    return ns.asarray(x, copy=True)


def _cumsum(ns: Namespace, x: Array, axis: int | None = None) -> Array:
    return ns.cumulative_sum(_ravel(ns, x) if axis is None else x, axis=axis or 0)


def _dot(ns: Namespace, x: Array, y: Array) -> Array:
    """NumPy's ``dot``: the last axis of x with the last but one of y."""
    if not (getattr(x, "ndim", 0) and getattr(y, "ndim", 0)):
        return x * y
    return ns.tensordot(x, y, axes=((x.ndim - 1,), (max(y.ndim - 2, 0),)))


def _norm(
    ns: Namespace, x: Array, ord: Setting = None, axis: Axis = None, keepdims: bool = False
) -> Array:
    if ord is not None and x.ndim > 1 and not isinstance(axis, int):
        raise refuse("`norm` of a matrix of a given order", "use `xp.linalg.vector_norm`")
    return ns.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if ord is None else ord)


def _hstack(ns: Namespace, arrays: Sequence[Array]) -> Array:
    arrays = [x if getattr(x, "ndim", 0) else ns.stack([x]) for x in arrays]
    return ns.concat(arrays, axis=0 if arrays[0].ndim == 1 else 1)


_COMPOSED: dict[str, Function] = {
    "ravel": _ravel,
    "flatten": _copy,
    "copy": _copy,
    "cumsum": _cumsum,
    "dot": _dot,
    "norm": _norm,
    "hstack": _hstack,
}


def _recorded(ns: Namespace, name: str) -> Function | None:
    if name in _COMPOSED:
        return lambda *args, **kwargs: _COMPOSED[name](ns, *args, **kwargs)
    return ns._functions.get(_SPELLINGS.get(name, name))  # type: ignore[no-any-return]


def call(ns: Namespace, function: Function, args: Leaves, kwargs: dict[str, Setting]) -> Array:
    """What a NumPy function does with variables among its arguments.

    Raises
    ------
    UnsupportedByBackend
        If the function has no rule.
    """
    name = function.__name__.removeprefix("cupy_")
    recorded = _recorded(ns, name)
    if recorded is not None:
        named = {k: v for k, v in kwargs.items() if not _says_nothing(k, v)}
        return recorded(*args, **named)
    if name in _CONSTANT:
        return function(*unwrapped(args), **unwrapped(kwargs))
    raise refuse(f"`{name}`", "express it with functions that have a derivative")


def method(x: Array, name: str) -> Array:
    """A method of the library's arrays that the standard does not have, for a variable.

    Raises
    ------
    AttributeError
        If the library's arrays lack it too.
    UnsupportedByBackend
        If it has no rule.
    """
    own = getattr(x.value, name)
    ns = x.tape.namespace
    if name in ("real", "imag"):
        return getattr(ns, name)(x)
    if name in _PLAIN_METHODS:
        return own
    if name not in _METHODS:
        raise refuse(f"the method or attribute `{name}`", "use a function of `xp`")
    recorded = _recorded(ns, name)
    assert recorded is not None

    def bound(*args: Setting, **kwargs: Setting) -> Array:
        args, kwargs = _meant(name, args, kwargs)
        if name == "flatten":
            return recorded(_ravel(ns, x))
        if name in ("reshape", "transpose") and len(args) > 1:
            args = (args,)
        return recorded(x, *args, **kwargs)

    return bound
