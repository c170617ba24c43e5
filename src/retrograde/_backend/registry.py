"""Finds the adapter of an array: by the root module of its type, once per type.

The built-in adapters stand in a table of modules that are imported when one of their arrays
arrives. Entry points are read only for a type that the table does not know (it takes 40 ms) and
that has a shape. An adapter that is announced there is asked first; else an array that says what
its namespace is (``__array_namespace__``) gets the generic one.

Public functions are hidden from compilers of Python around them (:func:`opaque`). A solve chooses
its steps by values, so a compiler that traces the Python which calls it has to leave it whole: cut
into the pieces that it can trace, it would run no faster, and take minutes to compile. How a
function is hidden from such a compiler is its library's own (``apart``).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from .._base.errors import InputError, UnsupportedByBackend
from .._base.plain_input import cure, kind, refuse
from .._base.types import Function, Tree
from .interface import AbstractBackend, EagerBackend

BUILT_IN = {
    "numpy": "retrograde_backends.numpy",
    "jax": "retrograde_backends.jax",
    "jaxlib": "retrograde_backends.jax",
    "torch": "retrograde_backends.torch",
    "cupy": "retrograde_backends.cupy",
}

COMPILERS = {"torch._dynamo": "torch"}
"""Modules that may compile the Python around a call, and whose adapter hides the call from them."""

_by_type: dict[type, AbstractBackend | None] = {}
_generic: dict[str, AbstractBackend] = {}


def adapter(name: str) -> AbstractBackend:
    """The adapter of a library by its name; imports the library."""
    if name in BUILT_IN:
        return importlib.import_module(BUILT_IN[name]).backend  # type: ignore[no-any-return]
    found = _from_entry_points({name})
    if found is None:
        raise InputError(f"no adapter is called {name!r}; there are {sorted(set(BUILT_IN))}.")
    return found


def backend_for(x: object) -> AbstractBackend | None:
    """The adapter of one array, or None for what is no array."""
    kind = type(x)
    if kind not in _by_type:
        _by_type[kind] = _look_up(x)
    return _by_type[kind]


def backend_of(*trees: Tree, names: tuple[str, str] = ("y0", "args")) -> AbstractBackend:
    """The one adapter of all arrays in some trees.

    Raises
    ------
    InputError
        If the arrays come from several libraries, or there is none.
    """
    found: dict[str, AbstractBackend] = {}
    for leaf in _leaves(trees):
        bk = backend_for(leaf)
        if bk is not None:
            found[bk.name] = bk
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        for leaf in _leaves(trees):
            refuse(names[0], leaf)
        raise InputError(
            f"`{names[0]}` holds no array; pass an array of NumPy, JAX, PyTorch, CuPy or another "
            "array-API library, numbers, or a tree of these."
        )
    raise InputError(
        f"`{names[0]}` and `{names[1]}` mix arrays of {' and '.join(sorted(found))}; convert them "
        "to one library."
    )


def backend_beside(y0: Tree, *others: Tree) -> AbstractBackend:
    """The adapter of y0's arrays; where it has numbers alone, of arrays beside it, or NumPy's."""
    found = None if kind(y0) else backend_for(y0)
    if found is not None:
        return found
    leaves = list(_leaves(y0))
    numbers = [bool(kind(x)) for x in leaves]
    if not numbers or not all(numbers):
        arrays = tuple(x for x, number in zip(leaves, numbers, strict=True) if not number)
        return backend_of(arrays)
    for leaf in _leaves(others):
        bk = None if kind(leaf) else backend_for(leaf)
        if bk is not None:
            return bk
    return adapter("numpy")


def _look_up(x: object) -> AbstractBackend | None:
    kind: Any = type(x)
    if cure(kind):
        return None
    names = [base.__module__.partition(".")[0] for base in kind.__mro__]
    for name in names:
        if name in BUILT_IN:
            bk = adapter(name)
            return bk if bk.is_array(x) else None
    if not hasattr(x, "shape"):
        return None
    found = _from_entry_points(set(names))
    if found is not None:
        return found if found.is_array(x) else None
    namespace = getattr(x, "__array_namespace__", None)
    if namespace is None:
        return None
    xp = namespace()
    if names[0] not in _generic:
        bk = type("GenericBackend", (EagerBackend,), {"name": names[0]})(xp)
        _generic[names[0]] = bk
    return _generic[names[0]]


def _from_entry_points(names: set[str]) -> AbstractBackend | None:
    from importlib.metadata import entry_points  # dear: never on the common path

    for point in entry_points(group="retrograde.backends"):
        if point.name in names:
            try:
                return point.load()  # type: ignore[no-any-return]
            except ImportError as error:
                raise UnsupportedByBackend(
                    f"the adapter {point.name!r} can't be loaded: {error}. Install its library."
                ) from error
    return None


def _leaves(tree: Tree) -> Iterable[Tree]:
    """Leaves of a tree before its library is known: standard containers, else the thing itself."""
    if backend_for(tree) is not None:
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _leaves(value)
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            yield from _leaves(getattr(tree, field.name))
    elif isinstance(tree, (int, float, complex)):
        yield tree
    elif tree is not None and not isinstance(tree, (str, bytes)):
        yield from _registered(tree)


def _registered(tree: Tree) -> Iterable[Tree]:
    """Leaves of a container that only some library's own tree registry knows."""
    for root, module in BUILT_IN.items():
        if root in sys.modules and module in sys.modules:
            leaves, _ = adapter(root).flatten(tree)
            if len(leaves) != 1 or leaves[0] is not tree:
                for leaf in leaves:
                    yield from _leaves(leaf)
                return
    yield tree


_P = ParamSpec("_P")
_R = TypeVar("_R")


def opaque(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """``fn``, which compilers of Python that are loaded do not look into."""

    @functools.wraps(fn)
    def call(*args: _P.args, **keywords: _P.kwargs) -> _R:
        hidden: Function = fn
        for module, library in COMPILERS.items():
            if module in sys.modules:
                hidden = adapter(library).apart(hidden)
        return hidden(*args, **keywords)  # type: ignore[no-any-return]

    # what torch.compile reads of a function before it traces it, and says where it must not stop
    vars(call).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=_WHY % fn.__name__)
    return call


_WHY = (
    "retrograde.%s takes steps by the values of tensors and can be no part of a graph; leave "
    "`fullgraph` out, or compile `f` in place of what calls it"
)
