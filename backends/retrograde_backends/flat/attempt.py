"""One step in one frame: ``FlatStages``' calls in their order, bound once a solve.

The numbers are those of ``begin``, ``evaluate``, ``result``, ``put`` and ``error2`` one by one, to
the last bit: replays of an integration go through those. Only calls are saved: between small arrays
they cost as much as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from retrograde._base.types import Array, Field, Leaves, Namespace
from retrograde._solvers.base import Step
from retrograde._solvers.runge_kutta.solver import Stepper

if TYPE_CHECKING:
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from .stages import FlatLayout, FlatStages

FEW = 8
"""Up to so many elements, the arithmetic of floats takes less time than calls of NumPy."""

Norm: TypeAlias = Callable[[Array, Array], float]
"""``(y, y1) -> mean of (|e| / (atol + rtol max(|y|, |y1|)))**2``, with one host read."""

Estimate: TypeAlias = Callable[[], Array]
"""Forms an estimate of the error in memory that may be overwritten."""


def flat_stepper(tableau: Tableau, space: FlatStages, layout: FlatLayout, field: Field) -> Stepper:
    """Steps over flat states; those of an FSAL method with an error are one frame each.

    Where the tableau's last stage is late, it is evaluated if the error is small enough. States of
    many leaves have no such form.
    """
    stepper = Stepper(tableau, space, layout, field)
    found = getattr(field, "call", None)
    if found is None or not (tableau.fsal and layout.alone) or space.scale is None:
        return stepper
    bare = Stepper(tableau, space, layout, field).step  # of another: none is to hold itself
    (f, args), call, shape = found, found[0], layout.shapes[0]
    if not layout.plain:
        call = lambda t, y, args: f(t, y.reshape(shape), args).reshape(-1)  # noqa: E731
    last = layout.bk.guard(lambda t, y: call(t, y, args))  # of states that are needed afterwards
    plan, end, kept = space.plan[1 : space.s - 1], space.c[space.s - 1], (space.rows[1],)
    put_last, last_row, locks = space.puts[space.s - 1], space.rows[space.s], layout.bk.locks
    start, again, store, table, scaled = (
        space.start, space.again, space.store, space.table, space.scaled,
    )  # fmt: skip
    scale, time, total, norm, late = (
        space.scale_into, space.stamp, space.total, space.square, space.late,
    )  # fmt: skip
    ended: Leaves = ()

    def step(t: float, h: float, y: Array, k0: Leaves | None, *, error: bool) -> Step:
        nonlocal ended
        if not error:
            return bare(t, h, y, k0, error=False)
        space.t, space.h, space.y = t, h, y  # the interpolant asks for them
        start(y)
        scale(table, h, scaled)
        if k0 is ended:
            again()
        elif k0 is not kept:
            store(kept[0], k0 or (last(time(t), y),))
        if locks:  # 5 % of a step: no call of ours beside those of NumPy
            for c, product, _, row in plan:
                row[...] = call(time(t + c * h), product(), args)
        else:
            for c, product, put, _ in plan:
                put(call(time(t + c * h), product(), args))
        y1 = total(y)
        if late:
            error2 = norm(y, y1)
            space.whole = error2 <= 1.0
            if not space.whole:
                return Step(y1, error2, None, kept, False, space.s - 2 + (not k0))
        if locks:
            y1.setflags(False)
            last_row[...] = k1 = call(time(t + end * h), y1, args)
        else:
            k1 = last(time(t + end * h), y1)
            put_last(k1)
        ended = (k1,)
        if late:
            return Step(y1, error2, ended, kept, False, space.s - 1 + (not k0))
        # a Step's fields; its class would take 2 % of the smallest steps
        return y1, norm(y, y1), ended, kept, False, None  # type: ignore[return-value]

    stepper.step = step  # type: ignore[method-assign, assignment]
    return stepper


def squared_norm(
    xp: Namespace,
    estimates: tuple[Estimate, Estimate | None],
    tolerances: tuple[Array, Array],
    buffers: Array,
    complex_: bool,
) -> Norm:
    """The squared norm of one or two estimates, in the cheapest form for their library.

    Parameters
    ----------
    tolerances : tuple
        rtol and atol as arrays; rtol None counts as 1.
    buffers : array, shape (3, n)
    """
    error, coarse = estimates
    rtol, atol = tolerances
    plain = xp is np and coarse is None and rtol is None and not complex_
    few = plain and buffers.shape[1] <= FEW
    if few and atol.ndim == 0 and atol > 0:
        return _square_of_few(error, float(atol), buffers.shape[1])
    square = _mean_square(xp, error, tolerances, buffers, complex_)
    return square if coarse is None else _with_coarse(square, coarse, buffers[0], complex_)


def _square_of_few(error: Estimate, atol: float, n: int) -> Norm:
    """``(y, y1) -> mean of (|e| / (atol + max(|y|, |y1|)))**2`` in floats: 0.8 us, not 2.7."""
    last: Array = None
    values: list[float] = []

    def square(y: Array, y1: Array) -> float:
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


def _with_coarse(square: Norm, coarse: Estimate, bound: Array, complex_: bool) -> Norm:
    """``square``, joined by a second estimate over the bound that it left
    (``_backend.stages.joint``): one host read more.
    """
    part = 0.01 / bound.shape[0]

    def both(y: Array, y1: Array) -> float:
        fine = square(y, y1)
        e = coarse()
        if complex_:
            e = abs(e)
        e /= bound
        total = fine + part * float(e.dot(e))
        return fine * (fine / total) if total > 0.0 else fine  # 0, or nan

    return both


def _mean_square(
    xp: Namespace,
    error: Estimate,
    tolerances: tuple[Array, Array],
    buffers: Array,
    complex_: bool,
) -> Norm:
    """The norm in calls of NumPy's, which PyTorch and CuPy have, too."""
    (rtol, atol), (bound, size, spare) = tolerances, buffers
    absolute, maximum, add, divide = xp.absolute, xp.maximum, xp.add, xp.divide
    count = bound.shape[0]
    last: Array = None

    def square(y: Array, y1: Array) -> float:
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
