"""The check of a user's Jacobian, and of what he says of its zeros, against f's own derivatives."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, cast

from .._autodiff.prepare_derivatives import prepare_derivatives
from .._autodiff.vector_field import VectorField, leaf_names
from .._backend.linear import Linear
from .._backend.registry import backend_of
from .._backend.structure import Banded, Coloured, Structure, products
from .._base.errors import InputError
from .._base.types import Array, Tree
from .._integrate.problem import Problem

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import LinearField


def check_jac(
    field: VectorField, t: float, y: Tree, args: Tree = None, *, rtol: float | None = None
) -> float:
    """Hold the Jacobian and the structure of a vector field to f's own derivatives.

    Parameters
    ----------
    field : VectorField
        With ``jac``, ``structure``, or both.
    t : float [time]
        When to check.
    y, args : trees of arrays
        Where to check; choose a point at which no entry vanishes by chance.
    rtol : float, optional
        Largest error accepted, relative to the largest entry of its row; default the root of the
        precision of y.

    Returns
    -------
    float
        The worst relative error of ``jac``; 0 where there is none.

    Raises
    ------
    InputError
        Where an entry of ``jac`` is off, or one stands outside of the structure: which, and by how
        much. If there is nothing to check.
    UnsupportedByBackend
        Where f has no derivative to compare with on this library.

    See Also
    --------
    check_vjp : the same of a vjp.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> def pendulum(t, y, args):
    ...     return np.stack([y[1], -np.sin(y[0])])
    >>> def jac(t, y, args):
    ...     return np.array([[0.0, 1.0], [-np.cos(y[0]), 0.0]])
    >>> rg.check_jac(rg.VectorField(pendulum, jac=jac), 0.0, np.array([0.4, 0.1])) < 1e-12
    True
    >>> rg.check_jac(rg.VectorField(pendulum, structure=rg.Banded(0, 1)), 0.0, np.ones(2))
    Traceback (most recent call last):
    ...
    retrograde...InputError: `structure` is Banded(lower=0, upper=1), but ...
    """
    jac, structure = getattr(field, "jac", None), getattr(field, "structure", None)
    if jac is None and structure in (None, "dense"):
        raise InputError(
            "`field` has neither a Jacobian nor a structure to check; pass "
            "`rg.VectorField(f, jac=..., structure=...)`."
        )
    bk = backend_of(y, args)
    problem = Problem(bk, dataclasses.replace(field, jac=None, structure=None), y, args)
    bk.capture(problem, t)
    prepare_derivatives(problem, t, timed=False)
    case = _Case(bk, problem, structure)
    with bk.quiet():
        point = problem.layout.time(t), problem.y0
        bound = cast("LinearField", problem.bind(problem.params))
        exact = bk.linear(problem.layout).jacobian(bound, *point)[0]
        given = None
        if jac is not None:
            given = jac(point[0], problem.state_tree(problem.y0), problem.arguments(problem.params))
        rtol = float(case.xp.finfo(exact.dtype).eps) ** 0.5 if rtol is None else rtol
        case.check_structure(exact, rtol)
        return 0.0 if given is None else case.check_entries(exact, given, rtol)


class _Case:
    """A point at which a Jacobian is checked, over the n real numbers of y."""

    def __init__(self, bk: AbstractBackend, problem: Problem, structure: Structure) -> None:
        self.bk, self.problem, self.xp, self.structure = bk, problem, bk.xp, structure
        self.linear: Linear = bk.linear(problem.layout, structure)
        self.n = self.linear.reals.size

    def check_structure(self, exact: Array, rtol: float) -> None:
        """Raise where J has an entry that the structure has not."""
        xp, layout = self.xp, self.problem.layout
        if self.structure in (None, "dense"):
            return
        mask = self.bk.array(self._mask(), xp.bool, layout.device)
        outside = xp.abs(xp.where(mask, xp.zeros_like(exact), exact))
        error, i, j = self._worst(outside / self._rows(exact))
        if not error <= rtol:
            raise InputError(
                f"`structure` is {self.structure!r}, but f{self._name(i)} depends on "
                f"{self._name(j, 'y')}: row {i}, column {j} of the Jacobian is "
                f"{float(exact[i, j]):.6g}. Widen the structure, or reorder y."
            )

    def check_entries(self, exact: Array, given: Array, rtol: float) -> float:
        """The worst error of the user's matrix."""
        shape, n = tuple(given.shape), self.n
        if math.prod(shape) == n * n:
            given = self.xp.reshape(given, (n, n))
        elif shape == self.linear.shape:
            given = self._dense(given)
        else:
            raise InputError(
                f"`jac` returned a matrix of shape {shape}; it should have shape ({n}, {n}) over "
                "the numbers of y."
            )
        error, i, j = self._worst(self.xp.abs(given - exact) / self._rows(exact))
        if not error <= rtol:
            raise InputError(
                f"`jac` is off in row {i}, column {j} (f{self._name(i)} by {self._name(j, 'y')}): "
                f"it gives {float(given[i, j]):.6g}, f's own derivative is "
                f"{float(exact[i, j]):.6g}. Correct that entry."
            )
        return error

    def _dense(self, matrix: Array) -> Array:
        """A matrix in the storage of the structure, by its columns."""
        linear, xp, layout = self.linear, self.xp, self.problem.layout
        unit = xp.eye(self.n, dtype=layout.real_dtype, device=layout.device)
        states = [linear.reals.state(unit[j, ...]) for j in range(self.n)]
        columns = [linear.reals.of(linear.product((matrix,), x)) for x in states]
        return xp.stack(columns, axis=1)

    def _mask(self) -> list[list[bool]]:
        """Where the structure has entries."""
        if isinstance(self.structure, (Banded, Coloured)):
            size = self.problem.layout.size
            rows = products(self.structure, size, pairs=size != self.n).rows
            return [[j in row for j in range(self.n)] for row in map(set, rows)]
        sample: list[int] = []
        for shape, size in zip(self.problem.layout.shapes, self.linear.reals.sizes, strict=True):
            each = size // shape[0]
            sample += [k // each for k in range(size)]
        return [[a == b for b in sample] for a in sample]

    def _rows(self, exact: Array) -> Array:
        """The largest entry of each row; 1 where there is none."""
        most = self.xp.max(self.xp.abs(exact), axis=1)
        return self.xp.where(most > 0, most, self.xp.ones_like(most))[:, None]

    def _worst(self, errors: Array) -> tuple[float, int, int]:
        """The largest error, and where."""
        at = int(self.xp.argmax(self.xp.reshape(errors, (-1,))))
        i, j = divmod(at, self.n)
        return float(errors[i, j]), i, j

    def _name(self, k: int, whose: str = "") -> str:
        """Number k of y, or of what f returns."""
        layout, bk = self.problem.layout, self.bk
        names = leaf_names(bk.unflatten(self.problem.treedef, range(len(layout.shapes))), whose)
        for name, size, shape in zip(names, self.linear.reals.sizes, layout.shapes, strict=True):
            if k >= size:
                k -= size
                continue
            k, index = k * math.prod(shape) // size, []
            for extent in reversed(shape):
                k, place = divmod(k, extent)
                index.append(place)
            return f"{name.strip('`')}{list(reversed(index)) if index else ''}"
        raise AssertionError(k)
