"""Which derivatives of f a solve takes (``linearise``), chosen and looked at once, at its call.

Whether the complex step may be taken is seen at (t0, y0), near it, and later on where f looks at
its time: its product with a random direction must be the one that vjps give. ``abs`` of complex
numbers, say, is not differentiable, and raises nothing. Here, too, a user's matrix and a structure
are held to f.
"""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, cast

from .._backend.protocols import Capability
from .._backend.reals import Reals
from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Array, Function, Scalar, State
from .columns import Columns, Known, eligible
from .linearise import (
    LOST,
    NEAR,
    ComplexPoint,
    ComplexStep,
    FieldDerivatives,
    Linearise,
    Rows,
    noise_row,
    points_near,
    state_vjp,
    stiff_field,
)

if TYPE_CHECKING:
    from .._backend.linear import Linear
    from .._backend.structure import Structure
    from .._integrate.problem import Problem

FAR = 1e29
"""An end behind this is none: the solve ends by an event."""


def prepare_derivatives(
    problem: Problem, t0: Scalar, *, timed: bool, end: float | None = None
) -> None:
    """Choose how f is linearised, once a solve that needs Jacobians.

    ``timed``: df/dt is needed; ``end``: of the solve, where it is known.

    Raises
    ------
    UnsupportedByBackend
        Where there is no derivative of f that is exact.
    InputError
        Where the user's ``jac`` gives a matrix of another shape, or one that does not fit the
        structure.
    """
    bk, layout, jac = problem.bk, problem.layout, problem.jac
    times = _times(problem, t0, end)
    if Capability.AUTODIFF in bk.capabilities:
        kind = "vjp" if getattr(problem.stiff, "vjp", None) is not None else "library"
        if timed and kind == "library":
            for t in (times[0], *times[2:]):
                bk.check_by_time(stiff_field(problem), layout.time(t), problem.y0)
    elif layout.dtype != layout.real_dtype:
        kind = "vjp"
        _rows_or_error(problem, t0, timed)
    else:
        kind = _complex_step_or_rows(problem, times, timed, given=jac is not None)
    if jac is not None:
        _check_shape(problem, jac, t0)
    problem.derivatives = FieldDerivatives(
        weakref.ref(problem), kind, times[min(1, len(times) - 1)], jac
    )
    _check_structure(problem, t0)
    if kind != "vjp" and jac is None:
        _try_columns(problem.derivatives, t0)


def _times(problem: Problem, t0: Scalar, end: float | None) -> list[Scalar]:
    """When f is looked at: at the start and near it, in the middle and at the end of a solve; at
    the start alone where the others are not known."""
    start = problem.bk.concrete(t0)
    if start is None or end is None or abs(end) >= FAR:
        return [t0]
    return [t0, *(float(start) + part * (end - float(start)) for part in (NEAR, 0.5, 1.0))]


def _complex_step_or_rows(
    problem: Problem, times: Sequence[Scalar], timed: bool, *, given: bool
) -> str:
    """The complex step where it gives what vjps give, else vjps.

    Near the start f must take complex numbers. Later on, where a branch may do something else, it
    is enough that it does not give another number: where it fails, the solve takes vjps.
    """
    reals, by = Reals(problem.layout), ComplexStep(stiff_field(problem))
    what = {"state": not given, "timed": timed}
    own, wrong = getattr(problem.stiff, "vjp", None) is not None, False
    if not any(what.values()):
        return "complex step"
    first, near = points_near(problem, reals)
    states = [first, near, near, near] if len(times) > 1 else [first, near]
    times = times if len(times) > 1 else [*times, *times]
    with problem.bk.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # float(y[0]) drops an imaginary part, and a derivative with it
        warnings.filterwarnings("error", message="Casting complex values")
        for i, point in enumerate(zip(times, states, strict=True)):
            try:
                if not _agrees(problem, by, reals, point, **what):
                    wrong = own and _agrees(problem, by, reals, point, **what, apart=True)
                    break
            except LOST:
                if i < 2:
                    break
            if i == 1 and not by.sees_time:
                return "complex step"
        else:
            return "complex step"
    if wrong:
        raise InputError(
            "`vjp` does not give the derivatives of `f` near `y0`: complex arguments and "
            "differences agree on others. `rg.check_vjp(f, t0, y0, args)` tells which it misses."
        )
    if not given or timed:
        _rows_or_error(problem, times[0], timed)
    return "vjp"


def _try_columns(found: FieldDerivatives, t0: Scalar) -> None:
    """Note whether blocks of columns give what the library's derivatives, or columns one by one,
    give at (t0, y0) and near it."""
    problem, reals, t = found.problem, Reals(found.problem.layout), found.problem.layout.time(t0)
    bk, structure, field = problem.bk, problem.jac_structure, stiff_field(found.problem)
    if not eligible(bk, problem.layout, reals, structure):
        return
    other, points = found.bind(problem.params, field), points_near(problem, reals)
    with bk.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found.timed in (False, True):
            columns = found.block(field)
            if all(_same_products(columns, other, reals, t, y) for y in points):
                found.columns = True
                return


def _same_products(columns: Columns, other: Linearise, reals: Reals, t: Array, y: State) -> bool:
    """Whether a product with the Jacobian of a block is one of the other linearisation."""
    xp, noise = reals.xp, noise_row(reals, 2)
    matrix = columns.at(t, y, reals.layout.own(columns.field(t, y)))
    if matrix is None:
        return False
    block, exact = Known(matrix, lambda: None), other(reals, t, y, timed=False)
    by = "jvp" if exact.forward else "vjp"
    mine, theirs = (getattr(x, by)(noise[None, :])[0, ...] for x in (block, exact))
    eps = float(xp.finfo(reals.layout.real_dtype).eps)
    size = xp.max(xp.abs(theirs))
    return bool(xp.max(xp.abs(mine - theirs)) <= eps**0.5 * size)


def _agrees(
    problem: Problem, by: ComplexStep, reals: Reals, point: tuple[Scalar, State], *, state: bool,
    timed: bool, apart: bool = False,
) -> bool:  # fmt: skip
    """Whether products by the complex step are those of a vjp; where f has none, or ``apart`` from
    it, of differences.

    ``state``, ``timed``: of df/dy, and of df/dt.
    """
    xp, t, y = reals.xp, problem.layout.time(point[0]), point[1]
    d, w = noise_row(reals, 2), noise_row(reals, 3)
    found = ComplexPoint(by, reals, t, y, timed=timed)
    columns = [found.jvp(d[None, :])[0, ...] if state else None]
    columns.append(found.by_time() if timed else None)
    try:
        if apart:
            raise UnsupportedByBackend("a vjp of the user's, which is in question")
        row = Rows(state_vjp(problem, problem.params), reals, t, y, timed=timed)
        row.check(by.field(t, y))
        if timed and row.plain:
            raise UnsupportedByBackend("its time is a plain number")
        mu, by_time, _ = row.pull(reals.leaves(w), row.acc)
        others = [xp.sum(reals.of_leaves(mu) * d), by_time]
        near = float(xp.finfo(problem.layout.real_dtype).eps) ** 0.5
    except (UnsupportedByBackend, InputError, TypeError):
        others, near = _by_differences(by, reals, (t, y), (d, w))
    for column, other in zip(columns, others, strict=True):
        if column is None:
            continue
        size = float(xp.sum(xp.abs(w * column))) + abs(float(other))
        if abs(float(xp.sum(w * column)) - float(other)) > near * size:
            return False
    return True  # nan, too: f is not finite there, which the solve will tell


def _by_differences(
    by: ComplexStep, reals: Reals, point: tuple[Array, State], directions: tuple[Array, Array]
) -> tuple[list[Array], float]:
    """The same products by differences in y and in time, and how near they are.

    They only judge: 1e-4 of them tells a derivative that is lost.
    """
    xp, (t, y), (d, w) = reals.xp, point, directions
    eps = float(xp.finfo(reals.layout.real_dtype).eps)
    e, at, time = eps ** (1 / 3), reals.of(y), xp.asarray(t)
    h = e * (float(xp.max(xp.abs(at))) or 1.0), e * max(abs(float(t)), 1e-3)
    ends = [[reals.of_leaves(by.field(t, reals.state(at + s * h[0] * d))) for s in (-1, 1)]]
    ends.append([reals.of_leaves(by.field(time + s * h[1], y)) for s in (-1.0, 1.0)])
    rises = [xp.sum((high - low) * w) for low, high in ends]
    return [x / (2 * s) for x, s in zip(rises, h, strict=True)], 10 * eps**0.25


def _rows_or_error(problem: Problem, t0: Scalar, timed: bool) -> None:
    """Raise where f has no vjp, or none by its time."""
    reals, t = Reals(problem.layout), problem.layout.time(t0)
    name = problem.bk.name
    try:
        found = Rows(state_vjp(problem, problem.params), reals, t, problem.y0, timed=timed)
        found.check(stiff_field(problem)(t, problem.y0))
        found.vjp(noise_row(reals, 3)[None, :])
    except UnsupportedByBackend as error:
        raise UnsupportedByBackend(
            f"`f` has no Jacobian on {name}: it takes no complex numbers (or is not analytic), and "
            f"the tape says: {error} For an implicit method pass `rg.VectorField(f, jac=...)`, or "
            "make arrays inside of f like y (`np.zeros_like(y)`, `np.stack`)."
        ) from error
    if timed:
        found.by_time()


def _check_structure(problem: Problem, t0: Scalar) -> None:
    """Raise InputError where J, or the user's, has entries outside of the structure.

    Where values are known; a traced library, whose first calls are dear, once a problem.
    """
    bk, structure, by = problem.bk, problem.jac_structure, problem.derivatives
    assert by is not None
    if structure in (None, "dense"):
        return
    traced = Capability.TRACED in bk.capabilities
    shapes = problem.layout.shapes, problem.layout.dtype  # not the problem's key: that is not whole
    key = (problem.stiff, structure, *shapes) if traced else ()
    if key in _SEEN or bk.concrete(problem.layout.finite(problem.y0)) is None:
        return
    problem, t0 = _still(problem), t0 if isinstance(t0, float) else bk.stop_gradient(t0)
    linear: Linear = bk.linear(problem.layout, cast("Structure", structure))
    field, reals = stiff_field(problem), linear.reals
    point = problem.layout.time(t0), points_near(problem, reals)[1]
    d = noise_row(reals, 6)
    with bk.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lost = [False]
        if by.jac is None or by.kind != "vjp":
            bare = FieldDerivatives(weakref.ref(problem), by.kind, t0).bind(problem.params, field)
            found = bare(reals, *point, timed=False)
            product = (found.jvp if found.forward else found.vjp)(d[None, :])[0, ...]
            kept = linear.of_products(found)
            lost.append(linear.lacks(kept, d, product, transposed=not found.forward))
        if by.jac is not None:
            given = problem.bind_output(by.jac, problem.params)
            matrix = given(point[0], reals.layout.unpack(point[1]))[0]
            lost.append(linear.drops(matrix))
        known = [bk.concrete(x) for x in lost]
    if True in known:
        own = by.jac is not None and known[-1]
        whose = "`jac` gives a matrix that" if own else "the Jacobian of `f`"
        raise InputError(
            f"`structure` is {structure!r}, but {whose} has entries outside of it near "
            "`y0`. `rg.check_jac(f, t0, y0, args)` tells which; widen the structure, or reorder y."
        )
    if traced and None not in known and len(_SEEN) < 256:
        _SEEN.add(key)


def _still(problem: Problem) -> Problem:
    """The same of constants: numbers that are being differentiated can't be looked at."""
    still, constant = copy.copy(problem), problem.bk.stop_gradient
    still.y0 = problem.bk.map_state(constant, problem.y0)
    still.params = tuple(constant(x) if problem.bk.is_array(x) else x for x in problem.params)
    return still


_SEEN: set[Hashable] = set()
"""Problems of traced libraries whose structure was found right."""


def _check_shape(problem: Problem, jac: Function, t0: Scalar) -> None:
    """Raise InputError unless ``jac`` gives a matrix that fits y0."""
    bk = problem.bk
    linear: Linear = bk.linear(problem.layout, cast("Structure", problem.jac_structure))
    n = linear.n
    leaves, _ = bk.example(problem, jac, t0)
    shapes = [tuple(getattr(x, "shape", ())) for x in leaves]
    fits = len(leaves) == 1 and (math.prod(shapes[0]) == n * n or shapes[0] == linear.shape)
    if not fits or not hasattr(leaves[0], "dtype"):
        also = "" if linear.shape == (n, n) else f" or {linear.shape}"
        raise InputError(
            f"`jac` returned arrays of shapes {shapes}; it must return one matrix of shape "
            f"({n}, {n}){also}: df/dy over the numbers of y, its leaves one behind the other."
        )
    dtype = leaves[0].dtype
    if "complex" in str(dtype):
        raise InputError(
            f"`jac` returned dtype {dtype}; return a real matrix, of complex numbers of y each as "
            "a pair of reals."
        )
