"""Jacobians of a vector field; never by differences.

In this order: the user's ``jac``; the library's own derivatives; the complex step
``Im f(y + i e d) / e`` (Squire & Trapp 1998, doi:10.1137/S003614459631241X), which is exact to
rounding, at the cost of f, where f is analytic; rows by the tape, or by the user's ``vjp``.
``prepare_derivatives`` chooses, once a solve.

df/dt comes the same way. An eager f is called with a time that can't be looked at first: where it
succeeds, f is autonomous, there at least, and df/dt costs nothing.
"""

from __future__ import annotations

import functools
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from .._backend.protocols import Capability
from .._backend.reals import Reals
from .._base.errors import UnsupportedByBackend
from .._base.types import Array, Function, Namespace, NeedsGradient, Scalar, State
from .columns import Columns, first_of
from .field_vjp import field_pullback, output_pullback
from .guarded_time import UNSEEN, ComplexTime
from .second import complex_settings, second_kind

if TYPE_CHECKING:
    from .._backend.protocols import FieldVJP, Linearisation
    from .._integrate.problem import Problem
    from .field_vjp import TapePullback

Linearise: TypeAlias = "Callable[..., Linearisation]"
"""What a bound field is linearised by."""

NEAR = 1e-3
"""How far from y0 the complex step is looked at, relative to y0's largest number, and from t0,
relative to the solve's span."""

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
        t, noise = problem.layout.time(self.t0), [noise_row(reals, 4), noise_row(reals, 5)]
        return second_kind(cast("TapePullback", vjp), t, points_near(problem, reals), noise)

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
            make = partial(Rows, state_vjp(self.problem, params))
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


def state_vjp(problem: Problem, params: Sequence[Array]) -> FieldVJP:
    """The vjp of f by y and t alone: the user's, or the tape's."""
    wanted = NeedsGradient((False,) * len(params), True, False, False)
    if problem.split is not None:
        return output_pullback(problem, problem.split[1], params, wanted)
    return field_pullback(problem, params, wanted, prepared=False)


def _rows_at(
    problem: Problem, params: Sequence[Array], reals: Reals, t: Array, y: State, *, timed: bool
) -> Rows:
    return Rows(state_vjp(problem, params), reals, t, y, timed=timed)


def stiff_field(problem: Problem) -> Function:
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

    def __init__(self, field: Function, rows: Callable[..., Rows] | None = None) -> None:
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


class Rows:
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


# --- places and directions to look at
def points_near(problem: Problem, reals: Reals) -> list[State]:
    """y0 and a state near it, where a number that is 0 at first is not."""
    y0 = problem.bk.map_state(problem.bk.stop_gradient, problem.y0)
    xp, row = reals.xp, reals.of(y0)
    most = float(xp.max(xp.abs(row))) or 1.0
    near = row + NEAR * most * noise_row(reals, 1)
    return [y0, reals.state(near)]


def noise_row(reals: Reals, seed: int) -> Array:
    """Random numbers, normal, shape (n,)."""
    layout, numbers = reals.layout, _numbers(reals.size, seed)
    return layout.bk.array(list(numbers), layout.real_dtype, layout.device)


@functools.lru_cache(maxsize=8)
def _numbers(count: int, seed: int) -> tuple[float, ...]:
    draw = random.Random(seed)
    return tuple(draw.gauss(0.0, 1.0) for _ in range(count))
