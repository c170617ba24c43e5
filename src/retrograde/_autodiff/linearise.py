"""How Jacobians of a vector field come about, chosen once a solve; never by differences.

In this order: the user's ``jac``; the library's own derivatives; the complex step
``Im f(y + i e d) / e`` (Squire & Trapp 1998, doi:10.1137/S003614459631241X), which is exact to
rounding, at the cost of f, where f is analytic; rows by the tape, or by the user's ``vjp``. Whether
the complex step may be taken is seen at (t0, y0) and near it: its product with a random direction
must be the one that vjps give. ``abs`` of complex numbers, say, is not differentiable, and raises
nothing.

df/dt comes the same way. An eager f is called with a time that can't be looked at first: where it
succeeds, f is autonomous, there at least, and df/dt costs nothing.
"""

from __future__ import annotations

import copy
import functools
import random
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from .._backend.protocols import Capability
from .._backend.reals import Reals
from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Array, Function, Namespace, NeedsGradient, Scalar, State
from .columns import Columns, Known, eligible, first_of
from .field_vjp import field_pullback, output_pullback
from .guarded_time import UNSEEN, ComplexTime
from .second import complex_settings, second_kind

if TYPE_CHECKING:
    from .._backend.linear import Linear
    from .._backend.protocols import FieldVJP, Linearisation
    from .._backend.structure import Structure
    from .._integrate.problem import Problem
    from .field_vjp import TapePullback

Linearise: TypeAlias = "Callable[..., Linearisation]"
"""What a bound field is linearised by."""

NEAR = 1e-3
"""How far from y0 the complex step is looked at, relative to y0's largest number, and from t0,
relative to the solve's span."""

FAR = 1e29
"""An end behind this is none: the solve ends by an event."""


LOST = (TypeError, ValueError, AttributeError, RuntimeWarning, UnsupportedByBackend)
"""What is raised where f takes no complex numbers, or would drop their imaginary parts."""


@dataclass
class FieldDerivatives:
    """How a problem's field is linearised.

    Attributes
    ----------
    owner : weakref of Problem
        Whose field it is: it has these.
    kind : str
        ``"library"``, ``"complex step"`` or ``"vjp"``: where products and df/dt come from.
    t0 : scalar
        When the choices are made.
    jac : callable or None
        The user's Jacobian.
    """

    owner: weakref.ref[Problem]
    kind: str
    t0: Scalar
    jac: Function | None = None
    columns: bool = False
    """Whether a block of columns serves at (t0, y0) (``columns``),"""
    timed: bool = False
    """and whether f looks at its time."""

    @property
    def problem(self) -> Problem:
        """Whose field it is."""
        problem = self.owner()
        assert problem is not None
        return problem

    @functools.cached_property
    def second(self) -> str:
        """Where products with second derivatives come from, as ``second`` tells."""
        problem = self.problem
        own = getattr(problem.f, "vjp", None) is not None
        if Capability.AUTODIFF in problem.bk.capabilities:
            mapped = not own or Capability.TRACED in problem.bk.capabilities
            return "library" if mapped else "differences"
        if problem.layout.dtype != problem.layout.real_dtype:
            return "differences"
        reals = Reals(problem.layout)
        wanted = NeedsGradient(tuple(problem.differentiable), False, False, False)
        vjp = field_pullback(problem, problem.params, wanted, prepared=False)
        t, noise = problem.layout.time(self.t0), [_noise(reals, 4), _noise(reals, 5)]
        return second_kind(cast("TapePullback", vjp), t, _points(problem, reals), noise)

    @property
    def accuracy(self) -> str:
        """That of the gradient of a method that needs them."""
        if self.second != "differences":
            return "exact"
        return "1e-9" if self.problem.bk.itemsize(self.problem.layout.real_dtype) >= 8 else "1e-4"

    def bind(self, params: Sequence[Array], field: Function) -> Linearise:
        """``linearise(reals, t, y, timed=)`` of a bound field: see ``LinearField``."""
        make: Linearise
        if self.kind == "library":
            make = partial(self.problem.bk.linearise, field)
        elif self.kind == "complex step":
            rows = partial(_rows_at, self.problem, params)
            make = partial(ComplexPoint, ComplexStep(field, rows))
        else:
            make = partial(_Rows, _state_vjp(self.problem, params))
        if self.jac is None:
            return first_of(self.block(field) if self.columns else None, make)
        given = self.problem.bind_output(self.jac, params)

        def with_matrix(reals: Reals, t: Array, y: State, *, timed: bool) -> Linearisation:
            found = make(reals, t, y, timed=timed)
            found.matrix = given(t, reals.layout.unpack(y))[0]
            return found

        return first_of(None, with_matrix)

    def block(self, field: Function) -> Columns:
        """Jacobians of a bound field by blocks."""
        problem = self.problem
        return Columns(problem.bk, problem.layout, field, None if self.timed else UNSEEN)


def _state_vjp(problem: Problem, params: Sequence[Array]) -> FieldVJP:
    """The vjp of f by y and t alone: the user's, or the tape's."""
    wanted = NeedsGradient((False,) * len(params), True, False, False)
    if problem.split is not None:
        return output_pullback(problem, problem.split[1], params, wanted)
    return field_pullback(problem, params, wanted, prepared=False)


def _rows_at(
    problem: Problem, params: Sequence[Array], reals: Reals, t: Array, y: State, *, timed: bool
) -> _Rows:
    return _Rows(_state_vjp(problem, params), reals, t, y, timed=timed)


def _stiff_field(problem: Problem) -> Function:
    """f, or what is implicit of it, bound."""
    field: Function = problem.bind(problem.params)
    parts = field.equations.parts  # type: ignore[attr-defined]
    return field if parts is None else parts[1]


class ComplexStep:
    """A field at y + i e d.

    Parameters
    ----------
    field : callable
    rows : callable or None
        ``rows(reals, t, y, timed=)``: f by vjps, at a point where the complex step fails; None: it
        must not.
    """

    def __init__(self, field: Function, rows: Callable[..., _Rows] | None = None) -> None:
        self.field, self.rows = field, rows
        self.sees_time = False
        """Whether f was seen to look at its time."""
        self.known: tuple[Array, list[State]] = None, []
        """Directions, and their steps."""

    def steps(self, reals: Reals, d: Array) -> list[State]:
        """i e d of each row, as complex states; those of a matrix's seeds are made once."""
        if self.known[0] is not d:
            e, dtype = complex_settings(reals)
            rows = (1j * e) * reals.xp.astype(d, dtype)
            self.known = d, [reals.state(rows[i, ...]) for i in range(d.shape[0])]
        return self.known[1]

    def blind(self, xp: Namespace, y: State) -> Sequence[Array] | None:
        """Leaves of f where it does not look at its time; None where it does."""
        if self.sees_time:
            return None
        try:
            leaves: Sequence[Array] = self.field(UNSEEN, y)
            if all(xp.isdtype(x.dtype, ("real floating", "complex floating")) for x in leaves):
                return leaves
        except Exception:  # whatever the library says of what is no array
            pass
        self.sees_time = True
        return None


class ComplexPoint:
    """f at one (t, y), by complex steps; by vjps, in a branch of f that takes no such numbers.

    Which of the two it is depends on the point alone, so that replays are the solve.
    """

    forward = True
    matrix: Array | None = None
    autonomous = False

    def __init__(self, by: ComplexStep, reals: Reals, t: Array, y: State, *, timed: bool) -> None:
        self.by, self.reals, self.point, self.xp = by, reals, (t, y), reals.xp
        self.e, self.dtype = complex_settings(reals)
        self.y = reals.layout.bk.map_state(lambda a: self.xp.astype(a, self.dtype), y)

    def _imaginary(self, leaves: Sequence[Array]) -> Array:
        """The imaginary parts over e; leaves that depend on nothing may be real."""
        xp = self.xp
        parts = [
            xp.imag(x) if xp.isdtype(x.dtype, "complex floating") else xp.zeros_like(x)
            for x in leaves
        ]
        return self.reals.of_leaves(parts) / self.e

    def jvp(self, d: Array) -> Array:
        """J d for each row d."""
        try:
            return self._products(d)
        except LOST:
            if self.by.rows is None:
                raise
        return self.by.rows(self.reals, *self.point, timed=False).jvp(d)

    def _products(self, d: Array) -> Array:
        by, t = self.by, self.point[0]
        rows: list[Array] = []
        add, field = self.reals.layout.add, by.field
        for step in by.steps(self.reals, d):
            y = add(self.y, step)
            leaves = None if rows else by.blind(self.xp, y)
            if leaves is None:
                leaves = field(t, y)
            else:
                self.autonomous = True
            rows.append(self._imaginary(leaves))
        return self.reals.layout.bk.stack(rows)

    def vjp(self, w: Array) -> Array:
        """w J for each row w, by a product with each unit vector."""
        return paired_with_units(self.reals, self.jvp, w)

    def by_time(self) -> Array | None:
        """df/dt; None where f did not look at its time."""
        xp, by, t = self.xp, self.by, self.point[0]
        if self.autonomous or by.blind(xp, self.y) is not None:
            return None
        array = xp.asarray(t)
        value = xp.asarray(xp.astype(array, self.dtype) + 1j * self.e)
        # a library whose functions take nothing but its arrays has no casts that drop a part
        guarded = ComplexTime(t, value) if hasattr(array, "__array_ufunc__") else value
        try:
            return self._imaginary(by.field(guarded, self.y))
        except LOST:
            if by.rows is None:
                raise
        return by.rows(self.reals, *self.point, timed=True).by_time()


def by_matrix(reals: Reals, products: Callable[[Array], Array]) -> Array:
    """The transposed matrix of all products with unit vectors."""
    layout = reals.layout
    return products(layout.xp.eye(reals.size, dtype=layout.real_dtype, device=layout.device))


def paired_with_units(reals: Reals, product: Callable[[Array], Array], w: Array) -> Array:
    """``<w, product(e_j)>`` of each row w and each unit vector; no matrix is made."""
    xp = reals.xp
    columns = [xp.sum(w * product(unit[None, :]), axis=1) for unit in units(reals)]
    return xp.stack(columns, axis=1)


def units(reals: Reals) -> Iterator[Array]:
    """The unit vectors, one at a time."""
    xp, layout = reals.xp, reals.layout
    every = xp.arange(reals.size, device=layout.device)
    for i in range(reals.size):
        yield xp.astype(every == i, layout.real_dtype)


class _Rows:
    """f at one (t, y), by vjps."""

    forward = False
    matrix: Array | None = None

    def __init__(self, vjp: FieldVJP, reals: Reals, t: Array, y: State, *, timed: bool) -> None:
        self.reals, self.xp = reals, reals.xp
        (self.values, self.pull), self.acc = vjp(t, y), vjp.zero()
        self.whole: Array | None = None
        """The transposed Jacobian."""
        self.plain = not getattr(vjp, "timed", True)
        """Whether f takes its time as a plain number."""

    def check(self, leaves: Sequence[Array]) -> None:
        """Raise where f, called to be recorded, gave others than these."""
        found, wanted = self.reals.of_leaves(self.values), self.reals.of_leaves(leaves)
        xp, near = self.xp, self.reals.layout.bk.itemsize(found.dtype) ** -6.0
        if bool(xp.any(xp.abs(found - wanted) > near * xp.max(xp.abs(wanted)))):
            raise UnsupportedByBackend(
                "`f` gives another value for arrays that record than for plain ones: it looks at "
                "their type (`isinstance(y, np.ndarray)`), or draws random numbers."
            )

    def vjp(self, w: Array) -> Array:
        """w J for each row w."""
        reals = self.reals
        pulled = [self.pull(reals.leaves(w[i, ...]), self.acc)[0] for i in range(w.shape[0])]
        return reals.layout.bk.stack([reals.of_leaves(mu) for mu in pulled])

    def jvp(self, d: Array) -> Array:
        """J d for each row d, by the whole of J."""
        if self.whole is None:
            self.whole = self.xp.matrix_transpose(by_matrix(self.reals, self.vjp))
        return d @ self.whole

    def by_time(self) -> Array | None:
        """df/dt.

        Raises
        ------
        UnsupportedByBackend
            Where f takes its time as a plain number.
        """
        reals, layout = self.reals, self.reals.layout
        if self.plain:
            raise UnsupportedByBackend(
                f"`f` takes its time as a plain number on {layout.bk.name} (`float(t)`, "
                "`math.cos(t)`, `t.item()`, a table), so that it has no derivative by time, which "
                "Rosenbrock methods need; use functions of the array library on t (`np.cos(t)`), "
                "or a method without it, such as 'kvaerno5'."
            )
        found = [self.pull(reals.leaves(unit), self.acc)[1] for unit in units(reals)]
        return layout.bk.array(found, layout.real_dtype, layout.device)


# --- the choice
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
                bk.check_by_time(_stiff_field(problem), layout.time(t), problem.y0)
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
    reals, by = Reals(problem.layout), ComplexStep(_stiff_field(problem))
    what = {"state": not given, "timed": timed}
    if not any(what.values()):
        return "complex step"
    first, near = _points(problem, reals)
    states = [first, near, near, near] if len(times) > 1 else [first, near]
    times = times if len(times) > 1 else [*times, *times]
    with problem.bk.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # float(y[0]) drops an imaginary part, and a derivative with it
        warnings.filterwarnings("error", message="Casting complex values")
        for i, point in enumerate(zip(times, states, strict=True)):
            try:
                if not _agrees(problem, by, reals, point, **what):
                    break
            except LOST:
                if i < 2:
                    break
            if i == 1 and not by.sees_time:
                return "complex step"
        else:
            return "complex step"
    if not given or timed:
        _rows_or_error(problem, times[0], timed)
    return "vjp"


def _try_columns(found: FieldDerivatives, t0: Scalar) -> None:
    """Note whether blocks of columns give what the library's derivatives, or columns one by one,
    give at (t0, y0) and near it."""
    problem, reals, t = found.problem, Reals(found.problem.layout), found.problem.layout.time(t0)
    bk, structure, field = problem.bk, problem.jac_structure, _stiff_field(found.problem)
    if not eligible(bk, problem.layout, reals, structure):
        return
    other, points = found.bind(problem.params, field), _points(problem, reals)
    with bk.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found.timed in (False, True):
            columns = found.block(field)
            if all(_same_products(columns, other, reals, t, y) for y in points):
                found.columns = True
                return


def _same_products(columns: Columns, other: Linearise, reals: Reals, t: Array, y: State) -> bool:
    """Whether a product with the Jacobian of a block is one of the other linearisation."""
    xp, noise = reals.xp, _noise(reals, 2)
    matrix = columns.at(t, y, reals.layout.own(columns.field(t, y)))
    if matrix is None:
        return False
    block, exact = Known(matrix, None), other(reals, t, y, timed=False)
    by = "jvp" if exact.forward else "vjp"
    mine, theirs = (getattr(x, by)(noise[None, :])[0, ...] for x in (block, exact))
    eps = float(xp.finfo(reals.layout.real_dtype).eps)
    size = xp.max(xp.abs(theirs))
    return bool(xp.max(xp.abs(mine - theirs)) <= eps**0.5 * size)


def _points(problem: Problem, reals: Reals) -> list[State]:
    """y0 and a state near it, where a number that is 0 at first is not."""
    y0 = problem.bk.map_state(problem.bk.stop_gradient, problem.y0)
    xp, row = reals.xp, reals.of(y0)
    most = float(xp.max(xp.abs(row))) or 1.0
    near = row + NEAR * most * _noise(reals, 1)
    return [y0, reals.state(near)]


def _noise(reals: Reals, seed: int) -> Array:
    """Random numbers, normal, shape (n,)."""
    layout, numbers = reals.layout, _numbers(reals.size, seed)
    return layout.bk.array(list(numbers), layout.real_dtype, layout.device)


@functools.lru_cache(maxsize=8)
def _numbers(count: int, seed: int) -> tuple[float, ...]:
    draw = random.Random(seed)
    return tuple(draw.gauss(0.0, 1.0) for _ in range(count))


def _agrees(
    problem: Problem, by: ComplexStep, reals: Reals, point: tuple[Scalar, State], *, state: bool,
    timed: bool,
) -> bool:  # fmt: skip
    """Whether products by the complex step are those of a vjp; where f has none, of differences.

    ``state``, ``timed``: of df/dy, and of df/dt. Differences only judge: 1e-4 of them tells a
    derivative that is lost.
    """
    xp, t, y = reals.xp, problem.layout.time(point[0]), point[1]
    d, w = _noise(reals, 2), _noise(reals, 3)
    eps = float(xp.finfo(problem.layout.real_dtype).eps)
    found = ComplexPoint(by, reals, t, y, timed=timed)
    columns = [found.jvp(d[None, :])[0, ...] if state else None]
    columns.append(found.by_time() if timed else None)
    try:
        row = _Rows(_state_vjp(problem, problem.params), reals, t, y, timed=timed)
        row.check(by.field(t, y))
        if timed and row.plain:
            raise UnsupportedByBackend("its time is a plain number")
        mu, by_time, _ = row.pull(reals.leaves(w), row.acc)
        others, near = [xp.sum(reals.of_leaves(mu) * d), by_time], eps**0.5
    except (UnsupportedByBackend, InputError, TypeError):
        e, at, time = eps ** (1 / 3), reals.of(y), xp.asarray(t)
        h = e * (float(xp.max(xp.abs(at))) or 1.0), e * max(abs(float(t)), 1e-3)
        ends = [[reals.of_leaves(by.field(t, reals.state(at + s * h[0] * d))) for s in (-1, 1)]]
        ends.append([reals.of_leaves(by.field(time + s * h[1], y)) for s in (-1.0, 1.0)])
        rises = [xp.sum((high - low) * w) for low, high in ends]
        others, near = [x / (2 * s) for x, s in zip(rises, h, strict=True)], 10 * eps**0.25
    for column, other in zip(columns, others, strict=True):
        if column is None:
            continue
        size = float(xp.sum(xp.abs(w * column))) + abs(float(other))
        if abs(float(xp.sum(w * column)) - float(other)) > near * size:
            return False
    return True  # nan, too: f is not finite there, which the solve will tell


def _rows_or_error(problem: Problem, t0: Scalar, timed: bool) -> None:
    """Raise where f has no vjp, or none by its time."""
    reals, t = Reals(problem.layout), problem.layout.time(t0)
    name = problem.bk.name
    try:
        found = _Rows(_state_vjp(problem, problem.params), reals, t, problem.y0, timed=timed)
        found.check(_stiff_field(problem)(t, problem.y0))
        found.vjp(_noise(reals, 3)[None, :])
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
    field, reals = _stiff_field(problem), linear.reals
    point = problem.layout.time(t0), _points(problem, reals)[1]
    d = _noise(reals, 6)
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
    count = 1
    for extent in leaves[0].shape if leaves else ():
        count *= int(extent)
    if len(leaves) != 1 or (count != n * n and tuple(leaves[0].shape) != linear.shape):
        shapes = [tuple(x.shape) for x in leaves]
        also = "" if linear.shape == (n, n) else f" or {linear.shape}"
        raise InputError(
            f"`jac` returned arrays of shapes {shapes}; it must return one matrix of shape "
            f"({n}, {n}){also}: df/dy over the numbers of y, its leaves one behind the other."
        )
