"""A vector field that brings its own vjp, and the check of any vjp against differences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .._backend.protocols import Capability
from .._backend.structure import Structure
from .._base.errors import InputError
from .._base.types import Array, Tree, VectorFieldFn

if TYPE_CHECKING:
    from random import Random

_DIRECTIONS = 3


@dataclasses.dataclass(frozen=True)
class VectorField:
    """A vector field and, where the library's autodiff is missing or slow, its vjp.

    Parameters
    ----------
    f : callable
        ``f(t, y, args) -> dy/dt``, of the structure of y.
    vjp : callable, optional
        ``vjp(t, y, args, ct) -> (ct_t, ct_y, ct_args)``: the cotangent ``ct`` (of the
        structure of y) times the Jacobians of f. ``ct_args`` has the structure of args. For
        complex y the transpose is the conjugate one.
    jac : callable, optional
        ``jac(t, y, args) -> df/dy``, for implicit methods: one matrix of shape (n, n) over the n
        numbers of y, its leaves one behind the other.
    structure : str, Banded or Coloured, optional
        What is known of the Jacobian's zeros: ``"dense"`` (the default), ``"batch"``, where axis 0
        of every leaf of y counts samples that do not meet in f, or a band or a pattern over the n
        numbers of y. It saves evaluations of f, and most of the time of linear systems. With a
        band, ``jac`` may give its diagonals, as SciPy's ``solve_banded`` takes them.

    See Also
    --------
    check_vjp : holds a vjp to finite differences; do it once for one that you wrote.
    check_jac : holds a Jacobian and a structure to f's own derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> def decay(t, y, rate):
    ...     return -rate * y
    >>> def decay_vjp(t, y, rate, ct):
    ...     return 0.0 * t, -rate * ct, -np.sum(ct * y)
    >>> field = VectorField(decay, vjp=decay_vjp)
    >>> y, rate = np.array([1.0, 2.0]), np.array(0.5)
    >>> [float(v) for v in field(0.0, y, rate)]
    [-0.5, -1.0]
    >>> float(field.vjp(0.0, y, rate, np.array([1.0, 1.0]))[2])
    -3.0
    >>> check_vjp(field, 0.0, y, rate) < 1e-8
    True
    """

    f: VectorFieldFn
    vjp: Callable[[Array, Tree, Tree, Tree], tuple[Array, Tree, Tree]] | None = None
    jac: Callable[[Array, Tree, Tree], Array] | None = None
    structure: Structure = None

    def __call__(self, t: Array, y: Tree, args: Tree = None) -> Tree:
        return self.f(t, y, args)


def check_vjp(
    field: VectorFieldFn,
    t: Array,
    y: Tree,
    args: Tree = None,
    *,
    rtol: float | None = None,
    seed: int = 0,
) -> float:
    """Hold the vjp of a vector field to central differences along random directions.

    Parameters
    ----------
    field : VectorField or callable
        What has no ``vjp`` of its own is differentiated by the tape that ``solve_vjp`` uses.
    t : float or array, shape () [time]
        When to check.
    y, args : trees of arrays
        Where to check; choose a point at which f is smooth. Leaves of ``args`` that are not
        floating arrays are left alone.
    rtol : float, optional
        Largest relative error accepted; default ``eps ** 0.4`` of y's precision (5.5e-7 in
        float64). Rounding in the differences is allowed for on top.
    seed : int
        Of the random directions.

    Returns
    -------
    float
        The worst relative error met.

    Raises
    ------
    InputError
        If there is no vjp to check; if a cotangent misses its differences by more than
        ``rtol`` or is not finite (says which, and by how much); if the vjp returns another
        structure or shape.

    Notes
    -----
    Two calls of f for each of three directions and each leaf, and three of the vjp.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> def f(t, y, rate):
    ...     return -rate * y
    >>> def wrong(t, y, rate, ct):
    ...     return 0.0 * t, rate * ct, -np.sum(ct * y)
    >>> rg.check_vjp(rg.VectorField(f, vjp=wrong), 0.0, np.ones(2), np.asarray(0.5))
    Traceback (most recent call last):
    ...
    retrograde...InputError: the vjp is off in its cotangent of `y`: ...
    """
    from random import Random  # not in the time of the import

    case = _Case(field, t, y, args, Random(seed))
    eps = float(case.xp.finfo(case.points[1].dtype).eps)
    rtol = eps**0.4 if rtol is None else rtol
    worst = (0.0, "", 0.0, 0.0)
    for _ in range(_DIRECTIONS):
        ct = [case.noise(k) for k in case.values]
        for i, (name, mine) in enumerate(zip(case.names, case.cotangents(ct), strict=True)):
            v = case.noise(case.points[i])
            got = case.pair(mine, v)
            expected, scale, rounding = case.difference(i, v, ct, eps)
            error = abs(got - expected) / (max(scale, abs(got)) + rounding / rtol or 1.0)
            worst = max(worst, (error if error == error else math.inf, name, got, expected))
    error, name, got, expected = worst
    if error > rtol:
        raise InputError(
            f"the vjp is off in its cotangent of {name}: along a random direction it gives "
            f"{got:.6g}, central differences give {expected:.6g} (relative error {error:.1e}, "
            f"allowed {rtol:.1e}). Correct that part of `vjp`."
        )
    return error


class _Case:
    """One point at which a vjp is checked: everything flat, with a name for each input."""

    def __init__(self, field: VectorFieldFn, t: Array, y: Tree, args: Tree, draw: Random) -> None:
        from .._backend.registry import backend_of

        self.bk = bk = backend_of(y, args)
        self.xp = xp = bk.xp
        self.field, self.draw = field, draw
        if getattr(field, "vjp", None) is None and Capability.AUTODIFF in bk.capabilities:
            raise InputError(
                f"`field` has no vjp to check: the backend {bk.name!r} differentiates it by its "
                "own autodiff. Pass `rg.VectorField(f, vjp=...)`."
            )
        y_leaves, self.y_def = bk.flatten(y)
        self.args_leaves, self.args_def = bk.flatten(args)
        first = y_leaves[0]
        if not bk.is_array(t):
            t = xp.asarray(t, dtype=bk.real_dtype(first), device=bk.device_of(first))
        self.count = len(y_leaves)
        self.where = [
            i for i, x in enumerate(self.args_leaves) if bk.is_array(x) and bk.floating(x)
        ]
        self.points = [t, *y_leaves, *(self.args_leaves[i] for i in self.where)]
        paths = list(leaf_names(bk.unflatten(self.args_def, range(len(self.args_leaves))), "args"))
        self.names = ["`t`", *leaf_names(bk.unflatten(self.y_def, range(self.count)), "y")]
        self.names += [paths[i] for i in self.where]
        self.values = self.flat(*self.points)

    def trees(self, t: Array, *rest: Array) -> tuple[Array, Tree, Tree]:
        """Time, state and arguments from the flat list of inputs."""
        leaves = list(self.args_leaves)
        for i, x in zip(self.where, rest[self.count :], strict=True):
            leaves[i] = x
        y = self.bk.unflatten(self.y_def, rest[: self.count])
        return t, y, self.bk.unflatten(self.args_def, leaves)

    def flat(self, *inputs: Array) -> list[Array]:
        """Leaves of the field's value."""
        return self.bk.flatten(self.field(*self.trees(*inputs)))[0]

    def cotangents(self, ct: list[Array]) -> list[Array]:
        """What the vjp under check gives for each input."""
        own_vjp = getattr(self.field, "vjp", None)
        if own_vjp is None:
            from .vjp import vjp as tape_vjp

            return tape_vjp(self.flat, self.points, self.xp)[1](ct)
        tree = self.bk.unflatten(self.y_def, ct)
        ct_t, ct_y, ct_args = own_vjp(*self.trees(*self.points), tree)
        found: list[Array] = [ct_t]
        for name, part, n in (("y", ct_y, self.count), ("args", ct_args, len(self.args_leaves))):
            leaves = self.bk.flatten(part)[0]
            if len(leaves) != n and (name == "y" or self.where):
                raise InputError(
                    f"`vjp` returned a cotangent of `{name}` with {len(leaves)} leaves; "
                    f"`{name}` has {n}. Return its structure, with zeros where f does not "
                    "depend on a leaf."
                )
            found += leaves if name == "y" else [leaves[i] for i in self.where]
        for name, x, point in zip(self.names, found, self.points, strict=True):
            shape = tuple(getattr(x, "shape", ()))
            if shape != tuple(point.shape):
                raise InputError(
                    f"`vjp` returned a cotangent of {name} of shape {shape}; it should have "
                    f"shape {tuple(point.shape)}."
                )
        return found

    def noise(self, like: Array) -> Array:
        """Standard normal numbers in the shape, dtype and device of an array."""
        xp, size = self.xp, math.prod(like.shape)
        drawn = [self.draw.gauss(0.0, 1.0) for _ in range(size)]
        device = self.bk.device_of(like)
        x = xp.reshape(xp.asarray(drawn, dtype=like.dtype, device=device), like.shape)
        if xp.isdtype(like.dtype, "complex floating"):
            drawn = [self.draw.gauss(0.0, 1.0) for _ in range(size)]
            imaginary = xp.asarray(drawn, dtype=like.dtype, device=device)
            x = x + 1j * xp.reshape(imaginary, like.shape)
        return x

    def terms(self, a: Array, b: Array) -> Array:
        """Real parts of conj(a) b, element by element."""
        xp = self.xp
        a = a if hasattr(a, "dtype") else xp.asarray(a, dtype=b.dtype, device=self.bk.device_of(b))
        product = a * b
        if not xp.isdtype(product.dtype, "complex floating"):
            return product
        return xp.real(xp.conj(xp.asarray(a, dtype=product.dtype)) * b)

    def pair(self, a: Array, b: Array) -> float:
        """The real inner product."""
        return float(self.xp.sum(self.terms(a, b)))

    def difference(
        self, i: int, v: Array, ct: list[Array], eps: float
    ) -> tuple[float, float, float]:
        """<ct, df along v> by central differences, its size before cancellation, its rounding."""
        xp, x = self.xp, self.points[i]
        size = float(xp.max(xp.abs(x))) if math.prod(x.shape) else 1.0
        h = eps ** (1 / 3) * max(size, 1e-3)
        ends = [self.flat(*self.points[:i], x + s * v, *self.points[i + 1 :]) for s in (-h, h)]
        value = scale = rounding = 0.0
        for c, low, high in zip(ct, *ends, strict=True):
            slopes = self.terms(c, (high - low) / (2 * h))
            value += float(xp.sum(slopes))
            scale += float(xp.sum(xp.abs(slopes)))
            rounding += float(xp.sum(xp.abs(self.terms(c, xp.abs(high) + xp.abs(low)))))
        return value, scale, 8 * eps * rounding / h


def leaf_names(tree: Tree, name: str) -> Iterator[str]:
    """Names of a tree's leaves in their order, such as ``args['rate'][0]``."""
    found: dict[int, str] = {}

    def walk(node: Tree, path: str) -> None:
        if isinstance(node, int):
            found[node] = path
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}[{key!r}]")
        elif hasattr(node, "_fields"):
            for field in node._fields:
                walk(getattr(node, field), f"{path}.{field}")
        elif isinstance(node, (tuple, list)):
            for k, value in enumerate(node):
                walk(value, f"{path}[{k}]")
        elif dataclasses.is_dataclass(node):
            for part in dataclasses.fields(node):
                walk(getattr(node, part.name), f"{path}.{part.name}")

    walk(tree, name)
    return (f"`{found[k]}`" if k in found else f"a leaf of `{name}`" for k in sorted(found))
