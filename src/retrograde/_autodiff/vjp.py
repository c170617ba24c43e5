"""The vjp of a function of arrays, where the library itself differentiates nothing.

:func:`vjp` calls the function once with :class:`Variable` in place of arrays, and the
:class:`Pullback` goes the recorded operations in reverse. First derivatives only. In complex
arithmetic a cotangent is multiplied by the conjugate transpose of the Jacobian, so that the
cotangents of a real loss are its gradients dL/da + i dL/db (PyTorch's convention, not JAX's).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence

from .._base.errors import InputError, RetrogradeError, UnsupportedByBackend
from .._base.types import Array, DType, Function, Namespace, Tree
from .namespace import namespace_of
from .rules.unbroadcast import device_of
from .tape import Edges, Tape, foreign
from .variable import Variable

_FRESH = frozenset({operator.mul, operator.truediv, operator.neg})


@functools.lru_cache(maxsize=64)
def _floating(xp: Namespace, dtype: DType) -> str:
    kinds = ("real floating", "complex floating")
    return next((kind for kind in kinds if xp.isdtype(dtype, kind)), "")


class Signature:
    """What calls of a function with arrays of the same shapes and dtypes have in common."""

    def __init__(self, arrays: Sequence[Array], xp: Namespace) -> None:
        self.xp, self.namespace = xp, namespace_of(xp)
        self.inputs = [(x.shape, x.dtype) for x in arrays]
        kinds = [_floating(xp, x.dtype) for x in arrays]
        self.floating = [bool(kind) for kind in kinds]
        self.device = device_of(arrays[0]) if arrays else None
        found = [x.dtype for x, kind in zip(arrays, kinds, strict=True) if kind]
        self.dtype = found[0] if found else None
        self.uniform = "complex floating" not in kinds and all(x == self.dtype for x in found)


def vjp(
    fn: Function,
    arrays: Sequence[Array],
    xp: Namespace,
    *,
    account: bool = True,
    signature: Signature | None = None,
) -> tuple[list[Array], Pullback]:
    """Values of a function, and its pullback.

    Parameters
    ----------
    fn : callable
        ``fn(*variables)`` returns an array or a sequence of arrays; called once.
    arrays : sequence of arrays, of any shapes
        An array that is not of a floating dtype is passed on as it is.
    xp : namespace
        The library's array-API namespace.
    account : bool
        Whether the pullback is to tell its ``nbytes`` (a sixteenth of a small vjp).
    signature : Signature or None
        That of the arrays, where it is known (another sixteenth).

    Returns
    -------
    outputs : list of arrays
    pull : Pullback
        ``pull(cotangents) -> list``: one cotangent per output, one per input.

    Raises
    ------
    UnsupportedByBackend
        If ``fn`` does what the tape can't follow; the message names it and the remedy.

    Notes
    -----
    Costs one call of ``fn`` and, per recorded operation, about 1 us on the way there and
    0.5 us back, beyond the arithmetic (NumPy, CPU).

    Examples
    --------
    >>> import numpy as np
    >>> outputs, pull = vjp(lambda y: np.sin(y) * y[0], [np.array([2.0, 1.0])], np)
    >>> [float(round(x, 6)) for x in pull([np.array([0.0, 1.0])])[0]]
    [0.841471, 1.080605]
    """
    known = Signature(arrays, xp) if signature is None else signature
    tape, operands = Tape(known), []
    for x, floating in zip(arrays, known.floating, strict=True):
        variable = Variable(x, tape, (), "an input of the function")
        operands.append(variable if floating else x)
    result = _called(fn, operands)
    indices, outputs = [], []
    for out in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(out, Variable):
            if out.tape is not tape:
                raise foreign()
            indices.append(out.index)
            out = out.value
        else:
            indices.append(-1)
        outputs.append(_array(xp, out))
    return outputs, Pullback(tape, known.inputs, arrays if account else None, outputs, indices)


def _called(fn: Function, operands: Sequence[Array]) -> Tree:
    """``fn(*operands)``; what fails for it is given variables, not arrays, is told as such."""
    try:
        return fn(*operands)
    except RetrogradeError:
        raise
    except (TypeError, AttributeError, ValueError, NotImplementedError) as error:
        if isinstance(error.__cause__, UnsupportedByBackend):  # NumPy wraps ours
            raise error.__cause__ from error
        raise UnsupportedByBackend(
            f"recording `f` for its derivative failed ({type(error).__name__}: {error}). Compiled "
            "code and functions such as CuPy's `cp.roll` can't be followed. NumPy's can (`np.roll` "
            "works on arrays of CuPy, too), and those of `array_api_compat.array_namespace(y)`; or "
            "give the derivative yourself with `rg.VectorField(f, vjp=...)`."
        ) from error


def _array(xp: Namespace, x: Array) -> Array:
    """x as an array proper (NumPy's scalars and Python's numbers are not)."""
    return x if hasattr(x, "__setitem__") and hasattr(x, "shape") else xp.asarray(x)


class Pullback:
    """The way back: from cotangents of a function's outputs to those of its inputs.

    Attributes
    ----------
    nbytes : int [bytes]
        What the tape keeps alive beyond the inputs, the outputs and the user's own arrays.
    """

    __slots__ = ("_device", "_inputs", "_known", "_nbytes", "_nodes", "_outputs", "_xp")

    def __init__(
        self,
        tape: Tape,
        inputs: list[tuple[tuple[int, ...], DType]],
        arrays: Sequence[Array] | None,
        outputs: list[Array],
        indices: list[int],
    ) -> None:
        m = len(inputs)
        self._nodes: list[Edges] = tape[: m - 1 if m else None : -1]
        self._xp = tape.xp
        self._device = tape.device
        self._inputs = inputs
        self._outputs = [
            (index, x.shape, x.dtype) for index, x in zip(indices, outputs, strict=True)
        ]
        # Ids, so that nothing is kept alive by being known: all of these arrays exist now, so
        # no array on the tape can carry the id of another one of them.
        self._nbytes: int | None = None
        self._known: set[int] | None = None
        if arrays is not None:
            self._known = {id(_owner(x)) for x in (*arrays, *outputs, *tape.constants)}

    def __call__(self, cotangents: Sequence[Array]) -> list[Array]:
        """Cotangents of the inputs; may be called again.

        Parameters
        ----------
        cotangents : sequence of arrays
            One per output, of its shape; None for zero.

        Returns
        -------
        list of arrays
            Of the inputs' shapes and dtypes, exact zeros where nothing depends on an input.
            They may share memory with the cotangents given: do not write into them.

        Raises
        ------
        InputError
            If the number of cotangents or a shape is wrong.
        """
        xp = self._xp
        cts: list[Array] = [None] * (len(self._inputs) + len(self._nodes))
        owned: set[int] = set()
        self._seed(cotangents, cts)
        for edges in self._nodes:
            g = cts.pop()
            if g is None:
                continue
            for i, op, data in edges:
                if op is None:  # a read x[key]: add into the block, in memory that is ours
                    key, shape = data
                    if i not in owned:
                        total = xp.zeros(shape, dtype=g.dtype, device=device_of(g))
                        if cts[i] is not None:
                            total += cts[i]
                        cts[i] = total
                        owned.add(i)
                    block = cts[i]
                    block[key] += g
                    continue
                c = op(g) if data is None else op(g, data)
                if cts[i] is None:
                    cts[i] = c
                elif i in owned:
                    cts[i] += c
                elif op in _FRESH:  # c is a new array of ours: add into it
                    c += cts[i]
                    cts[i] = c
                    owned.add(i)
                else:
                    cts[i] = cts[i] + c
                    owned.add(i)
        return [
            xp.zeros(shape, dtype=dtype, device=self._device) if c is None else _array(xp, c)
            for c, (shape, dtype) in zip(cts, self._inputs, strict=True)
        ]

    def _seed(self, cotangents: Sequence[Array], cts: list[Array]) -> None:
        if len(cotangents) != len(self._outputs):
            raise InputError(
                f"`cotangents` has {len(cotangents)} entries for {len(self._outputs)} outputs."
            )
        for g, (index, shape, dtype) in zip(cotangents, self._outputs, strict=True):
            if g is None:
                continue
            if g.shape != shape:
                raise InputError(
                    f"a cotangent has shape {tuple(g.shape)}, its output {tuple(shape)}."
                )
            if index < 0:
                continue
            if g.dtype != dtype:
                g = self._xp.asarray(g, dtype=dtype)
            cts[index] = g if cts[index] is None else cts[index] + g

    @property
    def nbytes(self) -> int:
        """Bytes of arrays kept alive by the tape beyond inputs, outputs and constants."""
        if self._nbytes is None:
            self._nbytes = self._count()
        return self._nbytes

    def held(self, arrays: Sequence[Array]) -> list[Array]:
        """Those of some arrays (inputs or outputs, say) whose memory the tape keeps alive."""
        owners = {id(x) for x in self._owners()}
        return [x for x in arrays if id(_owner(x)) in owners]

    def _owners(self) -> Iterator[Array]:
        """The arrays whose memory the edges keep, some more than once."""
        for edges in self._nodes:
            for _, op, data in edges:
                for x in _held(op if data is None else data):
                    yield _owner(x)

    def _count(self) -> int:
        assert self._known is not None, "made without an account"
        seen = set(self._known)
        total = 0
        for owner in self._owners():
            if id(owner) not in seen:
                seen.add(id(owner))
                total += _bytes(self._xp, owner)
        return total


def _held(x: object) -> Iterator[Array]:
    """The arrays that an edge keeps: itself, or in the cells of a closure."""
    if isinstance(getattr(x, "shape", None), tuple) and hasattr(x, "dtype"):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from _held(part)
    else:
        for cell in getattr(x, "__closure__", None) or ():
            yield from _held(cell.cell_contents)


def _owner(x: Array) -> Array:
    """The array whose memory x looks into, where the library tells (NumPy, CuPy)."""
    base = getattr(x, "base", None)
    while base is not None and hasattr(base, "dtype"):
        x, base = base, getattr(base, "base", None)
    return x


def _bytes(xp: Namespace, x: Array) -> int:
    if hasattr(x, "nbytes"):
        return int(x.nbytes)
    if xp.isdtype(x.dtype, "bool"):
        return int(x.size)
    info = xp.iinfo if xp.isdtype(x.dtype, "integral") else xp.finfo
    pair = 2 if xp.isdtype(x.dtype, "complex floating") else 1
    return int(x.size) * int(info(x.dtype).bits) // 8 * pair
