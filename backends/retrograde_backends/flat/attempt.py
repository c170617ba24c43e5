"""One attempt of a step in one frame: ``FlatStages``' calls in their order, bound once a solve.

The numbers are those of ``begin``, ``evaluate``, ``result``, ``put`` and ``error2`` one by one, to
the last bit: replays of an integration go through those. Only calls are saved: between small arrays
they cost as much as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["bare_call", "fused_attempt", "host_square", "mean_square", "with_coarse"]

FEW = 8
"""Up to so many elements, the arithmetic of floats takes less time than calls of NumPy."""


def fused_attempt(space: Any, field: Any) -> Callable[..., tuple[Any, Any, Any, float]] | None:
    """``(t, h, y, k0) -> (y1, k1, kept, error2)``, or None where states have many leaves."""
    found = bare_call(space, field)
    if found is None:
        return None
    call, args = found
    first, second, last = space.rows[0], space.rows[1], space.rows[space.s]
    plan, store, kept, end = space.plan[1:-1], space.store, (second,), space.c[space.s - 1]
    table, scaled, scale = space.table, space.scaled, space.scale_into
    time, norm, total, owned = space.stamp, space.square, space.total, space.bk.owned

    locks, ended = space.bk.locks, None

    def attempt(t: float, h: float, y: Any, k0: Any) -> tuple[Any, Any, Any, float]:
        nonlocal ended
        space.y, space.h = y, h  # the interpolant asks for them
        first[...] = y
        scale(table, h, scaled)
        if k0 is ended:
            second[...] = last
        elif k0 is not kept:
            store(second, k0)
        for c, product, row in plan:
            row[...] = call(time(t + c * h), product(), args)
        given = y1 = total(y)
        if locks:  # ``owned`` but for a call
            y1.setflags(False)
        else:
            given = owned(y1)
        k1 = call(time(t + end * h), given, args)
        last[...] = k1
        ended = (k1,)
        return y1, ended, kept, norm(y, y1)

    def attempt_late(t: float, h: float, y: Any, k0: Any) -> tuple[Any, Any, Any, float]:
        """The same; the last stage is evaluated where the error is small enough."""
        space.y, space.h, space.t = y, h, t
        first[...] = y
        scale(table, h, scaled)
        if k0 is not kept:
            store(second, k0 or (call(time(t), owned(y), args),))
        for c, product, row in plan:
            row[...] = call(time(t + c * h), product(), args)
        y1 = total(y)
        error2 = norm(y, y1)
        space.whole = error2 <= 1.0
        if not space.whole:
            return y1, None, kept, error2
        k1 = call(time(t + end * h), owned(y1), args)
        last[...] = k1
        return y1, (k1,), kept, error2

    return attempt_late if space.late else attempt


def bare_call(space: Any, field: Any) -> tuple[Callable[..., Any], Any] | None:
    """``f(t, y, args)`` of flat states, and args; None for a space that has no fused form."""
    layout, found = space.layout, getattr(field, "call", None)
    if found is None or not layout.alone or space.scale is None:
        return None
    call, args = found
    if layout.plain:
        return call, args
    shape = layout.shapes[0]
    return (lambda t, y, args: call(t, y.reshape(shape), args).reshape(-1)), args


def host_square(
    xp: Any,
    estimates: tuple[Callable[[], Any], Callable[[], Any] | None],
    tolerances: tuple[Any, Any],
    buffers: Any,
    complex_: bool,
) -> Callable[[Any, Any], float]:
    """``mean_square`` of one or two estimates, in the cheapest form for arrays of NumPy itself."""
    error, coarse = estimates
    rtol, atol = tolerances
    few = buffers.shape[1] <= FEW and coarse is None and rtol is None and not complex_
    if few and atol.ndim == 0 and atol > 0:
        return _square_of_few(error, float(atol), buffers.shape[1])
    square = mean_square(xp, error, tolerances, buffers, complex_)
    return with_coarse(square, coarse, buffers[0], complex_)


def _square_of_few(error: Callable[[], Any], atol: float, n: int) -> Callable[[Any, Any], float]:
    """``(y, y1) -> mean of (|e| / (atol + max(|y|, |y1|)))**2`` in floats: 0.8 us, not 2.7."""
    last: Any = None
    values: list[float] = []

    def square(y: Any, y1: Any) -> float:
        nonlocal last, values
        before = values if y is last else y.tolist()
        last, values = y1, y1.tolist()
        total = 0.0
        for e, a, b in zip(error().tolist(), before, values, strict=False):
            if a < 0.0:  # calls of abs would take a third of the time
                a = -a
            if b < 0.0:
                b = -b
            e /= atol + (a if a > b else b)  # b where that is nan
            total += e * e
        return total / n

    return square


def with_coarse(
    square: Callable[[Any, Any], float],
    coarse: Callable[[], Any] | None,
    bound: Any,
    complex_: bool,
) -> Callable[[Any, Any], float]:
    """``square``, joined by a second estimate over the bound that it left
    (``_backend.stages.joint``).

    One host read more. A method with one estimate gets ``square`` itself.
    """
    if coarse is None:
        return square
    part = 0.01 / bound.shape[0]

    def both(y: Any, y1: Any) -> float:
        fine = square(y, y1)
        e = coarse()
        if complex_:
            e = abs(e)
        e /= bound
        total = fine + part * float(e.dot(e))
        return fine * (fine / total) if total > 0.0 else fine  # 0, or nan

    return both


def mean_square(
    xp: Any, error: Callable[[], Any], tolerances: tuple[Any, Any], buffers: Any, complex_: bool
) -> Callable[[Any, Any], float]:
    """``(y, y1) -> mean of (|e| / (atol + rtol max(|y|, |y1|)))**2`` in NumPy's calls.

    Parameters
    ----------
    error : callable
        Forms e in memory that may be overwritten.
    tolerances : tuple
        rtol and atol as arrays; rtol None counts as 1.
    buffers : array, shape (3, n)
    """
    (rtol, atol), (bound, size, spare) = tolerances, buffers
    absolute, maximum, add, divide = xp.absolute, xp.maximum, xp.add, xp.divide
    count, last = bound.shape[0], None

    def square(y: Any, y1: Any) -> float:
        nonlocal last, size, spare
        if y is not last:
            absolute(y, out=size)
        absolute(y1, out=spare)
        maximum(size, spare, out=bound)
        if rtol is not None:
            xp.multiply(bound, rtol, out=bound)
        add(bound, atol, out=bound)
        # the size of y1 is kept: it is the y of the next step, if this one is accepted
        last, size, spare = y1, spare, size
        e = error()
        if complex_:
            e = absolute(e)
        divide(e, bound, out=e)
        result: float = float(e.dot(e)) / count
        return result

    return square
