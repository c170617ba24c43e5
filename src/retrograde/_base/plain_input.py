"""Plain input: numbers, lists and integers where arrays are meant.

A y0 of numbers becomes arrays of the library that the other arrays are of. Numbers in args
become 0-d arrays, so that they get gradients. What f returns, and cotangents, may be lists for
arrays. What is an array of the right kind already is handed on untouched.

What looks like an array or a tree and can't be taken (units, labels, masks) is refused with what it
is and the cure. Its type is known by the module that it comes from, or by the marks that its
library leaves on it, so that nothing is imported for it.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InputError
from .types import Array, Device, DType, Tree

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend


class Like(NamedTuple):
    """What new arrays are made like: a real floating dtype, and a device."""

    dtype: DType
    device: Device


def kind(x: object) -> str:
    """'int', 'real' or 'complex' for a number of Python's or NumPy's; '' else, and for bools."""
    cls: Any = type(x)
    return _kind(cls)


@functools.lru_cache(maxsize=1024)
def _kind(kind: type) -> str:
    if issubclass(kind, bool) or not issubclass(kind, numbers.Complex):
        return ""
    if issubclass(kind, numbers.Integral):
        return "int"
    return "real" if issubclass(kind, numbers.Real) else "complex"


def integral(x: Array) -> bool:
    """Whether an array holds integers (not bools)."""
    return _integral(str(x.dtype))


@functools.lru_cache(maxsize=256)
def _integral(dtype: str) -> bool:
    return re.search(r"\bu?int\d+$", dtype) is not None


def like(bk: AbstractBackend, *trees: Tree) -> Like:
    """The dtype and device of the arrays in some trees, the library's own where there are none."""
    arrays = [x for tree in trees for x in bk.flatten(tree)[0] if bk.is_array(x)]
    floats = [bk.real_dtype(x) for x in arrays if bk.floating(x)]
    one = bk.xp.asarray(1.0)
    dtype = bk.xp.result_type(*floats) if floats else one.dtype
    if floats and bk.itemsize(dtype) < 4:  # numbers have more digits than that
        dtype = bk.xp.float32
    return Like(dtype, bk.device_of(arrays[0] if arrays else one))


def state(bk: AbstractBackend, y0: Tree, others: Sequence[Tree]) -> Tree:
    """y0 with its numbers, lists of numbers and integer arrays as floating arrays.

    Parameters
    ----------
    others : sequence of tree
        Where the dtype and the device come from if y0 has no floating array.
    """
    if bk.is_array(y0) and bk.floating(y0):
        return y0
    tree = _gathered(y0)
    leaves, treedef = bk.flatten(tree)
    lists = [isinstance(x, _Numbers) for x in leaves]
    plain = [
        many or bool(not bk.floating(x) and integral(x) if bk.is_array(x) else kind(x))
        for x, many in zip(leaves, lists, strict=True)
    ]
    if not any(plain):
        return y0
    values = [x.values if many else x for x, many in zip(leaves, lists, strict=True)]
    known = [x for x, p in zip(values, plain, strict=True) if not p and bk.is_array(x)]
    found = like(bk, known, *(() if any(map(bk.floating, known)) else others))
    whole = any(bk.floating(x) == "complex" for x in known) or any(
        _complex(x) for x, p in zip(values, plain, strict=True) if p and not bk.is_array(x)
    )
    made = [
        _made(bk, "y0", x, found, complex_=whole) if p else x
        for x, p in zip(values, plain, strict=True)
    ]
    return bk.unflatten(treedef, made)


def parameters(bk: AbstractBackend, args: Tree, y0: Tree, *, given: bool) -> list[Tree]:
    """``args`` as f may be given them beside this y0, the best first.

    Numbers are 0-d arrays. Where args holds numbers alone its ints are floats too, so that they
    get gradients; next come ints as they are, for an f that counts or indexes by them; and last,
    if that may be (``given``), args as they came, for an f that needs numbers of Python.
    """
    leaves, treedef = bk.flatten(args)
    kinds = ["" if bk.is_array(x) else kind(x) for x in leaves]

    if not any(kinds):
        return [args]
    found = like(bk, y0)

    def made(chosen: tuple[str, ...]) -> Tree:
        pairs = zip(leaves, kinds, strict=True)
        new = [
            _made(bk, "args", x, found, complex_=k == "complex") if k in chosen else x
            for x, k in pairs
        ]
        return bk.unflatten(treedef, new)

    inexact = "real" in kinds or "complex" in kinds
    trees = []
    if "int" in kinds and all(kinds):
        trees.append(made(("int", "real", "complex")))
    if inexact:
        trees.append(made(("real", "complex")))
    return [*trees, args] if given or not inexact else trees


def matched(bk: AbstractBackend, template: Tree, given: Tree) -> dict[int, Tree] | None:
    """What stands in ``given`` in the place of each leaf (a number) of a template; None if unlike.

    A list stands for a tuple of the same length, and a tuple for a list.
    """
    if isinstance(template, int):
        return {template: given}
    if isinstance(template, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(template):
            return None
        pairs = [(template[key], given[key]) for key in template]
    elif isinstance(template, (tuple, list)):
        if not isinstance(given, (tuple, list)) or len(given) != len(template):
            return None
        pairs = list(zip(template, given, strict=True))
    else:
        places, structure = bk.flatten(template)
        leaves, treedef = bk.flatten(given)
        return dict(zip(places, leaves, strict=True)) if treedef == structure else None
    out: dict[int, Tree] = {}
    for part, x in pairs:
        inner = matched(bk, part, x)
        if inner is None:
            return None
        out.update(inner)
    return out


def fitted(bk: AbstractBackend, x: Tree, dtype: DType, device: Device) -> Tree:
    """A number, a list of numbers or arrays, or an integer array, as a floating array.

    What is none of these comes back as it is. Derivatives go through.
    """
    if hasattr(x, "dtype") and hasattr(x, "shape") and not kind(x):
        return bk.array(x, dtype, device) if bk.is_array(x) and integral(x) else x
    if isinstance(x, (list, tuple)) and x:
        parts = [fitted(bk, part, dtype, device) for part in x]
        if not all(hasattr(part, "shape") for part in parts):
            return x
        if len({tuple(part.shape) for part in parts}) > 1:
            return x
        for part in parts:  # an array that records has a namespace of its own
            if hasattr(part, "tape"):
                return part.__array_namespace__().stack(parts)
        return bk.stack(parts)
    what = kind(x)
    if not what or bk.is_array(x):
        return x
    value = complex(x) if what == "complex" else float(x)
    return bk.array(value, dtype, device)


def cotangent_leaf(bk: AbstractBackend, x: Tree, result: Array) -> Array:
    """A cotangent of a result: an array of its library and dtype, from lists and numbers, too.

    Raises
    ------
    InputError
        If it can't be one: a complex cotangent of a real result, say.
    """
    dtype, device = result.dtype, bk.device_of(result)
    what = f"a {type(x).__name__}"
    try:
        x = fitted(bk, _own(bk, x, result), dtype, device)
        if bk.is_array(x) and bk.floating(x):
            return x if x.dtype == dtype else bk.array(x, dtype, device)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(
        f"the cotangent holds {what} for a result of dtype {dtype} and shape "
        f"{tuple(result.shape)}; pass an array like it."
    )


def _own(bk: AbstractBackend, x: Tree, result: Array) -> Tree:
    """A cotangent with arrays of other libraries as those of the result's."""
    if isinstance(x, (list, tuple)):
        return [_own(bk, part, result) for part in x]
    whole = bk.floating(result) == "complex"
    if not whole and (kind(x) == "complex" or "complex" in str(getattr(x, "dtype", ""))):
        raise TypeError
    if bk.is_array(x) or not hasattr(x, "__array__"):
        return x
    return bk.array(x, result.dtype, bk.device_of(result))


class _Numbers:
    """A list of numbers, which is one leaf."""

    def __init__(self, values: Sequence[Tree]) -> None:
        self.values = values


def _gathered(tree: Tree) -> Tree:
    """A tree with its lists of numbers as leaves."""
    if isinstance(tree, list) and _all_numbers(tree):
        return _Numbers(tree)
    if type(tree) in (list, tuple):
        return type(tree)([_gathered(x) for x in tree])
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(_gathered, tree))
    return {k: _gathered(x) for k, x in tree.items()} if type(tree) is dict else tree


def _all_numbers(x: object) -> bool:
    if isinstance(x, (list, tuple)):
        return bool(x) and all(map(_all_numbers, x))
    return bool(kind(x))


def _complex(x: object) -> bool:
    return any(map(_complex, x)) if isinstance(x, (list, tuple)) else kind(x) == "complex"


def _made(bk: AbstractBackend, name: str, x: Tree, found: Like, *, complex_: bool) -> Array:
    """Numbers or integers as an array."""
    dtype = bk.xp.result_type(found.dtype, bk.xp.complex64) if complex_ else found.dtype
    try:
        values = x if bk.is_array(x) else _python(x, complex if complex_ else float)
        return bk.array(values, dtype, found.device)
    except (ValueError, TypeError, OverflowError) as error:
        what = "a list that is no array" if isinstance(x, list) else "a number that is no float"
        raise InputError(
            f"`{name}` holds {what} ({error}); make the rows of a list equally long and its "
            "numbers finite, or pass arrays."
        ) from None


def _python(x: Tree, number: type) -> Tree:
    """Numbers as Python's own."""
    return [_python(v, number) for v in x] if isinstance(x, (list, tuple)) else number(x)


UNITS = "which has units; pass plain numbers in units that you chose, "
LABELS = "which has labels; pass `{name}.to_numpy()`"
_MODULES = {
    "astropy": UNITS + "`{name}.to_value(unit)`",
    "pandas": LABELS,
    "pint": UNITS + "`{name}.to(unit).magnitude`",
    "polars": LABELS,
    "quantities": UNITS + "`{name}.rescale(unit).magnitude`",
    "unyt": UNITS + "`{name}.to_value(unit)`",
    "xarray": "which has labels; pass `{name}.values`",
}
_CLASSES = {
    ("numpy", "matrix"): "whose products are not elementwise; pass `np.asarray({name})`",
    ("numpy", "MaskedArray"): "whose masked elements can't be solved for; pass "
    "`{name}.filled(value)`",
}
_SPARSE = "which is sparse; pass `{name}.toarray()`"


@functools.lru_cache(maxsize=1024)
def cure(kind: type) -> str:
    """What a foreign type is and what to do, with {name} for the argument; '' for others."""
    for base in kind.__mro__:
        root, _, rest = base.__module__.partition(".")
        found = _CLASSES.get((root, base.__name__)) or _MODULES.get(root)
        if root == "scipy" and rest.startswith("sparse"):
            found = _SPARSE
        if found and hasattr(kind, "shape"):
            return found
    return ""


@functools.lru_cache(maxsize=1024)
def holder(kind: type) -> str:
    """The cure for a class that holds arrays and that the library's trees don't know; else ''."""
    name = kind.__name__
    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "model_fields"):
        return f"the pydantic model {name}, which is no tree; pass `dict({{name}})`"
    if hasattr(kind, "__attrs_attrs__"):
        return (
            f"the attrs class {name}, which is no tree; pass "
            "`attrs.asdict({name}, recurse=False)`"
        )
    if dataclasses.is_dataclass(kind):
        return (
            f"the dataclass {name}, which JAX does not know as a tree; call "
            f"`jax.tree_util.register_dataclass({name})` once"
        )
    return ""


def refuse(name: str, leaf: Tree) -> None:
    """Raise InputError for a leaf of a foreign type, or of one that holds arrays."""
    kind: Any = type(leaf)
    found = cure(kind)
    if found:
        root = kind.__module__.partition(".")[0]
        what = f"a {kind.__name__} of {root}, {found}"
    else:
        what = holder(kind)
    if what:
        raise InputError(f"`{name}` holds {what.format(name=name)}.")
