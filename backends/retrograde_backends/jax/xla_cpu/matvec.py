"""JAX on the CPU: products of a small matrix and a column, in the form that a kernel runs fastest.

XLA's emitter of products in kernels (``kernel``) fills vectors of eight along the last axis of
a matrix; what is left over, all of it below eight, it adds up number by number, in memory. Sums of
elementwise products do that in registers. But of a product, operand and result are arrays, while a
sum becomes part of what it is read by, and what it reads part of it, where that is cheap: read
twice, it is formed twice. So sums are for products whose operand is there anyway, and whose result
is read once (jax 0.10: gradients of ``A @ y`` of 3 to 6 unknowns in two thirds of the time; of
``(A @ y) * (B @ y)`` it would be 1.7 times, of layers with residuals 3).

The vectors that such products make are columns. In a kernel, LLVM writes a loop over the 16
elements of a vector out before it would make vectors of four or eight of it: a tanh of 16 is 16 of
them, with branches. Of a column, shape (16, 1), the loop that is written out is that over one
element, and the other becomes vectors (with what ``matvec`` does, jax 0.10: the gradient of a
network 4-16-4 in 0.57 of the time).

:class:`Matvec` runs the program of a field in that form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, repeat
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from retrograde._base.types import Array, Function, Leaves, Tree

from ..types import Axes, Eqn, Jaxpr, Ref, Var
from .eligible import (
    ALLOWED,
    CALLS,
    ELEMENTWISE,
    SHAPES,
    TRANSCENDENTAL,
    equations_of,
    names,
)

FILLED = 8
"""Numbers of a last axis from which XLA's emitter of products fills its vectors."""


def is_product(eqn: Eqn) -> bool:
    """Whether it is the product of a matrix and a vector, all of one inexact dtype."""
    if eqn.primitive.name != "dot_general":
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    avals = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    return (
        sorted(x.ndim for x in avals[:2]) == [1, 2]
        and not any(batch)
        and len(contracted[0]) == 1
        and len({x.dtype for x in avals}) == 1
        and bool(jnp.issubdtype(avals[0].dtype, jnp.inexact))
    )


def product(eqn: Eqn, matrix: Array, column: Array, *, as_sum: bool) -> Array:
    """What the equation makes of these, as a column."""
    at = [v.aval.ndim for v in eqn.invars].index(2)
    (axis,), precision = eqn.params["dimension_numbers"][0][at], eqn.params["precision"]
    return _product.bind(matrix, column, axis=axis, precision=precision, as_sum=as_sum)


def products_to_sum(jaxpr: Jaxpr, states: Iterable[Var]) -> set[int]:
    """The results, by id, of those that may be sums.

    Its operand has to be an array (what a transcendental one or a product gives, a parameter, and
    what is cheap of those), or of a state that no other product reads: a sum of slopes, which is
    formed for each of its elements. The result has to be read once, and what is cheap of it.
    """
    sources = _sources(jaxpr, {id(v) for v in states})
    found = [e for e in jaxpr.eqns if is_product(e)]
    read = Counter(s for e in found for s in _union(sources, e.invars))
    lone = _read_once(jaxpr)
    return {
        id(e.outvars[0])
        for e in found
        if id(e.outvars[0]) in lone and all(read[s] == 1 for s in _union(sources, e.invars))
    }


def _cheap(eqn: Eqn) -> bool:
    """Whether XLA makes an operation part of every other one that reads its result."""
    return not names(eqn) & TRANSCENDENTAL and names(eqn) <= ELEMENTWISE | SHAPES | CALLS


def _sources(jaxpr: Jaxpr, states: set[int]) -> dict[int, set[int]]:
    """The states that each variable is a cheap function of."""
    found: dict[int, set[int]] = {s: {s} for s in states}
    for eqn in jaxpr.eqns:
        union = _union(found, eqn.invars) if _cheap(eqn) else set()
        found.update((id(v), union) for v in eqn.outvars)
    return found


def _union(sources: dict[int, set[int]], variables: Iterable[Var]) -> set[int]:
    return {s for v in variables for s in sources.get(id(v), ())}


def _read_once(jaxpr: Jaxpr) -> set[int]:
    """Variables that are read once, as is everything cheap that is made of them."""
    reads = Counter(id(v) for eqn in jaxpr.eqns for v in eqn.invars)
    reads.update(map(id, jaxpr.outvars))
    found = {id(v) for v in jaxpr.outvars if reads[id(v)] == 1}
    for eqn in reversed(jaxpr.eqns):
        if not _cheap(eqn) or all(id(v) in found for v in eqn.outvars):
            found.update(id(v) for v in eqn.invars if reads[id(v)] == 1)
    return found


# --- the primitive: ``(matrix, column) -> column``, over an axis of the matrix


_product: Array = Primitive("retrograde_product")


def _plain(matrix: Array, column: Array, *, axis: int, precision: Ref, as_sum: bool) -> Array:
    numbers = ((axis,), (0,)), ((), ())
    return jax.lax.dot_general(matrix, column, numbers, precision=precision)


def _formed(matrix: Array, column: Array, *, axis: int, precision: Ref, as_sum: bool) -> Array:
    width = matrix.shape[1]
    if not as_sum or width > FILLED or (axis, width) == (0, FILLED):
        return _plain(matrix, column, axis=axis, precision=precision, as_sum=as_sum)
    factor = column.reshape(1, -1) if axis else column
    return jnp.sum(matrix * factor, axis=axis)[:, None]


def _shape(matrix: Array, column: Array, *, axis: int, **_: Ref) -> Ref:
    return column.update(shape=(matrix.shape[1 - axis], 1))


def _by_matrix(ct: Array, matrix: Array, column: Array, *, axis: int, **_: Ref) -> Array:
    return ct * column.reshape(1, -1) if axis else column * ct.reshape(1, -1)


def _by_column(ct: Array, matrix: Array, column: Array, *, axis: int, **rest: Any) -> Array:
    return _product.bind(matrix, ct, axis=1 - axis, **rest)


def _batch(arrays: Sequence[Array], axes: Axes, **settings: Ref) -> Tree:
    return jax.vmap(partial(_plain, **settings), in_axes=axes)(*arrays), 0


_product.def_impl(_plain)
_product.def_abstract_eval(_shape)
ad.defbilinear(_product, _by_matrix, _by_column)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_product] = _batch
mlir.register_lowering(_product, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_product, mlir.lower_fun(_formed, multiple_results=False), platform="cpu")


LEAST = 8
"""Elements from which vectors become columns: below, what is written out is faster."""


def multiplies(jaxpr: Jaxpr) -> bool:
    """Whether a program has products that become columns."""
    return any(map(is_product, equations_of(jaxpr)))


class Matvec:
    """The program of a field, with products and what follows on columns.

    Parameters
    ----------
    jaxpr
    before : int
        How many inputs (time, leaves of the state) stand before the parameters.
    """

    def __init__(self, jaxpr: Jaxpr, before: int) -> None:
        self.jaxpr, self.before = jaxpr, before
        self.given = [*jaxpr.constvars, *jaxpr.invars]
        self._programs: dict[tuple[bool, ...], Any] = {}

    def run(self, consts: Sequence[Array], *arrays: Array) -> list[Array]:
        """Its results; vectors among the arrays may be given as columns."""
        arrays = (*consts, *arrays)
        columns = tuple(jnp.ndim(x) > v.aval.ndim for x, v in zip(arrays, self.given, strict=True))
        if columns not in self._programs:
            self._programs[columns] = self._written(columns)[0]
        program = self._programs[columns]
        found: list[Array] = jax.core.eval_jaxpr(program.jaxpr, program.consts, *arrays)
        return found

    def prepared(self, params: Sequence[Array]) -> Leaves:
        """Parameters (inputs, then constants), with the vectors that meet columns as such.

        To be made once, before loops. In a loop XLA would move the change of shape to what follows,
        and nothing were a column. Those that are columns stay as they are.
        """
        pairs = zip(params, chain(self._met, repeat(False)), strict=False)
        return tuple(x.reshape(-1, 1) if m and x.ndim == 1 else x for x, m in pairs)

    @cached_property
    def _met(self) -> list[bool]:
        met, first = self._written((False,) * len(self.given))[1], len(self.jaxpr.constvars)
        return [*met[first + self.before :], *met[:first]]

    def _written(self, columns: Sequence[bool]) -> tuple[Tree, list[bool]]:
        """The program for such constants and arrays, and which of these met a column."""
        closed, values = self._inlined, list[_Value]()
        first = len(self.jaxpr.constvars)
        states = closed.jaxpr.invars[first + 1 : first + self.before]
        sums, starts = products_to_sum(closed.jaxpr, states), _before_transcendental(closed.jaxpr)

        def flat(*arrays: Array) -> list[Array]:
            pairs = zip(arrays, columns, strict=True)
            values[:] = [_Value(x, is_column=column) for x, column in pairs]
            return [x.flat() for x in _walk(closed, values, sums, starts)]

        avals = [v.aval for v in self.given]
        shapes = [(*x.shape, 1) if c else x.shape for x, c in zip(avals, columns, strict=True)]
        like = (x.update(shape=shape) for x, shape in zip(avals, shapes, strict=True))
        return jax.make_jaxpr(flat)(*like), [x.met for x in values]

    @cached_property
    def _inlined(self) -> Jaxpr:
        """The program of constants and arrays with no calls of ``jax.jit`` in it."""
        first = len(self.jaxpr.constvars)

        def flat(*arrays: Array) -> list[Array]:
            return _without_calls(self.jaxpr, arrays[:first], arrays[first:])

        return jax.make_jaxpr(flat)(*(v.aval for v in self.given))


def _without_calls(jaxpr: Jaxpr, consts: Sequence[Array], arrays: Sequence[Array]) -> list[Array]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arrays), strict=True))

    def read(v: Var) -> Tree:
        return v.val if hasattr(v, "val") else values[v]

    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("jit", "pjit"):
            closed = eqn.params["jaxpr"]
            found = _without_calls(closed.jaxpr, closed.consts, [*map(read, eqn.invars)])
        else:
            named = _named(eqn)
            found = _alone(jaxpr, eqn, named)(*(values[v] for v in named))
        values.update(zip(eqn.outvars, found, strict=True))
    return [*map(read, jaxpr.outvars)]


def _named(eqn: Eqn) -> list[Array]:
    """What it reads that is no number written in the program."""
    return list(dict.fromkeys(v for v in eqn.invars if not hasattr(v, "val")))


def _alone(jaxpr: Jaxpr, eqn: Eqn, named: Sequence[Array]) -> Function:
    """One equation as a function."""
    program = jaxpr.replace(constvars=[], invars=[*named], eqns=[eqn], outvars=eqn.outvars)
    return lambda *arrays: jax.core.eval_jaxpr(program, (), *arrays)


class _Value:
    """A value of the program; a vector as it is, or as a column."""

    def __init__(self, array: Any, *, is_column: bool = False) -> None:
        self.array, self.is_column, self.met = array, is_column, False

    def flat(self) -> Array:
        return self.array.reshape(-1) if self.is_column else self.array

    def column(self) -> Array:
        self.met = True
        return self.array if self.is_column else jnp.reshape(self.array, (-1, 1))


def _walk(
    closed: Jaxpr, given: Sequence[_Value], sums: set[int], starts: set[int]
) -> Iterator[_Value]:
    """Results of the program, of whose products these become sums, and these stay columns."""
    jaxpr = closed.jaxpr
    constants = map(_Value, closed.consts)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *given), strict=True))

    def read(v: Var) -> _Value:
        return _Value(v.val) if hasattr(v, "val") else values[v]

    for eqn in jaxpr.eqns:
        found: list[_Value]
        if is_product(eqn):
            pair = sorted(zip(eqn.invars, map(read, eqn.invars), strict=True), key=_rank)
            vector, matrix = (x for _, x in pair)
            result = id(eqn.outvars[0])
            column = product(eqn, matrix.array, vector.column(), as_sum=result in sums)
            found = [_Value(column, is_column=True)]
            found = found if result in starts else [_Value(found[0].flat())]
        else:
            named = _named(eqn)
            found = _applied(_alone(jaxpr, eqn, named), eqn, {v: values[v] for v in named})
        values.update(zip(eqn.outvars, found, strict=True))
    return map(read, jaxpr.outvars)


def _before_transcendental(jaxpr: Jaxpr) -> set[int]:
    """Vectors, by id, that transcendental operations of eight elements or more follow."""
    found: set[int] = set()
    for eqn in reversed(jaxpr.eqns):
        if _elementwise(eqn) and eqn.outvars[0].aval.size >= LEAST:
            if names(eqn) & TRANSCENDENTAL or any(id(v) in found for v in eqn.outvars):
                found.update(map(id, eqn.invars))
    return found


def _rank(pair: tuple[Any, _Value]) -> int:
    return int(pair[0].aval.ndim)


def _applied(run: Function, eqn: Eqn, given: dict[Any, _Value]) -> list[_Value]:
    """An equation of what is given: of columns, where one is among them, if it can be."""
    if not (_elementwise(eqn) and any(x.is_column for x in given.values())):
        return [_Value(x) for x in run(*(x.flat() for x in given.values()))]
    axes = [1 if v.aval.ndim else None for v in given]
    arrays = [x.column() if v.aval.ndim else x.array for v, x in given.items()]
    along = jax.vmap(run, in_axes=axes, out_axes=1)  # a custom jvp has rules for this
    return [_Value(x, is_column=True) for x in along(*arrays)]


def _elementwise(eqn: Eqn) -> bool:
    """Whether it takes numbers and vectors of one length, two at least, element by element."""
    name = eqn.primitive.name
    if name == "custom_jvp_call":
        if not names(eqn) <= ALLOWED | CALLS:
            return False
    elif name not in ELEMENTWISE:
        return False
    sizes = {v.aval.size for v in (*eqn.invars, *eqn.outvars) if v.aval.ndim}
    plain = all(v.aval.ndim < 2 for v in eqn.invars) and all(v.aval.ndim == 1 for v in eqn.outvars)
    return plain and len(sizes) == 1 and sizes != {1}
