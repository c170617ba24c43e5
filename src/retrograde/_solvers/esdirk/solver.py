"""ESDIRK methods: what a tableau makes of a solver for stiff problems, written once for all.

What a step is made of are increments ``z_i = gamma h k_i``: an error in one is an error in y, where
one in a slope is as much larger as the problem is stiff. The exact adjoint needs first derivatives
alone: with ``lam_i`` the cotangent of stage i, ``(I / (gamma h) - J_i)^T lam_i = w_i``, where
``w_i`` is what the stages behind it and the result make of z_i, one vjp of f at stage i pulls
``lam_i`` to y, args and time (implicit function theorem; Hager 2000, doi:10.1007/s002110000178). It
is the gradient of stages that are solved, which ``newton`` does to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..._base.types import (
    Array,
    Bool,
    Carry,
    Field,
    Index,
    Leaves,
    ParamSums,
    Scalar,
    Scale,
    State,
)
from ..base import AbstractSolver, AbstractStepper, SolverState, Step, made
from ..runge_kutta.solver import Sources, StepCotangents
from .newton import StageEquations
from .tableau import ESDIRKTableau

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import FieldVJP, Layout


class Increments(NamedTuple):
    """One step: where it began, its increments, and whether its stages were solved."""

    t: Scalar
    h: Scalar
    y: State
    z: tuple[State, ...]
    y1: State
    ok: Bool
    calls: Index
    factors: Any
    known: Any


class Stages:
    """The stages of one step, forward; sums of increments by rows of a tableau.

    Parameters
    ----------
    tableau : ESDIRKTableau
    layout : Layout
    field : callable
    linear
        Linear algebra of the layout.
    followed : bool
        The library's autodiff follows them.
    """

    def __init__(
        self, tableau: ESDIRKTableau, layout: Layout, field: Field, linear: Any, *,
        followed: bool = False,
    ) -> None:  # fmt: skip
        self.tableau, self.layout, self.field, self.linear = tableau, layout, field, linear
        self.bk, self.clock = layout.bk, layout.bk.clock(layout)
        self.s, self.gamma = tableau.stages, tableau.gamma
        self.rows = Rows(layout, [[w / self.gamma for w in row] for row in tableau.a], self.s)
        self.guesses = Rows(layout, tableau.guesses, self.s)
        self.nodes = self.bk.time_sequence(tableau.c, layout)
        self.equations = StageEquations(layout, linear, field)
        self.followed = followed

    def shift(self, h: Scalar) -> Scalar:
        """``c`` of ``c I - J``."""
        return 1.0 / (self.gamma * h)

    def time(self, i: Index, t: Scalar, h: Scalar) -> Array:
        """That of stage i, as f is given it."""
        return self.layout.time(t + self.bk.table_get(self.nodes, i) * h)

    def begin(self, i: Index, y: State, z: Sequence[State]) -> State:
        """``psi_i``, stage i without its own increment."""
        return self.layout.weighted([(1.0, y), *self.rows.terms(i, z)])

    def run(self, t: Scalar, h: Scalar, y: State, known: Any = None) -> Increments:
        """All stages; ``known``: slope and Jacobian at the start, of a try before."""
        if not self.followed:
            return self._run(t, h, y, known)
        with self.bk.quiet():
            still = self.bk.stop_gradient((t, h, y))
            found = self._run(still[0], still[1], still[2], None)
            z, ok = self.bk.stop_gradient((found.z, found.ok))
        layout, c = self.layout, self.shift(h)
        first = layout.weighted([(self.gamma * h, layout.own(self.field(layout.time(t), y)))])

        def stage(i: Index, z: Carry) -> tuple[Carry, Leaves]:
            psi, now = self.begin(i + 1, y, z), _at(self.clock, i + 1, z)
            return _put(
                self.clock, i + 1, z, self.equations.followed(self.time(i + 1, t, h), psi, now, c)
            ), ()

        z, _ = self.bk.followed_scan(stage, (first, *z[1:]), self.s - 1, False)
        y1 = self._poisoned(ok, layout.add(self.begin(self.s - 1, y, z), z[-1]))
        return found._replace(t=t, h=h, y=y, z=z, y1=y1)

    def _run(self, t: Scalar, h: Scalar, y: State, known: Any) -> Increments:
        layout, clock, bk, start = self.layout, self.clock, self.bk, self.layout.time(t)
        calls = 0 if known else 1
        if known is None:
            known = layout.own(self.field(start, y)), self.linear.jacobian(self.field, start, y)
        slope, jacobian = known
        c = self.shift(h)
        factors, scale = self.equations.begin(y, c, jacobian)
        first = layout.weighted([(self.gamma * h, slope)])

        def stage(i: Index, s: Carry) -> Carry:
            z, factors, ok, calls = s
            psi, guess = self.begin(i, y, z), layout.weighted(self.guesses.terms(i, z))
            at = self.time(i, t, h)
            found = self.equations.solve(at, y, psi, guess, c, scale, factors)
            return (
                _put(clock, i, z, found.z),
                found.factors,
                clock.both(ok, found.ok),
                calls + found.calls,
            )

        z = (first, *[layout.zeros()] * (self.s - 1))
        begun = z, factors, clock.real(0.0) == 0.0, clock.count(calls)
        z, factors, ok, calls = bk.for_loop(1, self.s, stage, begun)
        y1 = layout.add(self.begin(self.s - 1, y, z), z[-1])
        return Increments(t, h, y, z, self._poisoned(ok, y1), ok, calls, factors, known)

    def _poisoned(self, ok: Bool, y: State) -> State:
        """y, nan where the stages were not solved."""
        if ok is True:
            return y
        return self.layout.weighted([(self.clock.where(ok, 1.0, float("nan")), y)])


class Rows:
    """Rows of weights of increments, that a loop may count through."""

    def __init__(self, layout: Layout, rows: Sequence[Sequence[float]], width: int) -> None:
        self.bk = layout.bk
        self.sparse = [[(j, w) for j, w in enumerate(row) if w] for row in rows]
        padded = [[*row, *[0.0] * (width - len(row))] for row in rows]
        self.columns = [self.bk.time_sequence(x, layout) for x in zip(*padded, strict=True)]

    def terms(self, i: Index, z: Sequence[State]) -> list[tuple[Scalar, State]]:
        """(weight, increment) of row i."""
        if isinstance(i, int):
            return [(w, z[j]) for j, w in self.sparse[i]]
        return [(self.bk.table_get(w, i), x) for w, x in zip(self.columns, z, strict=True)]


class Inside:
    """y inside the step at hand."""

    tableau: ESDIRKTableau
    layout: Layout
    at: Increments
    extra = 0

    def extra_stages(self, due: Bool = True) -> None:
        """Nothing: the interpolant lies in the stages."""
        return

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h) of the last step."""
        return self.layout.weighted([(1.0, self.at.y), *self._terms(self.tableau.weights(theta))])

    def slope(self, theta: Scalar) -> State:
        """Its derivative with respect to time."""
        terms = self._terms(self.tableau.weight_derivatives(theta))
        return self.layout.weighted([(w / self.at.h, z) for w, z in terms])

    def _terms(self, weights: Sequence[Scalar]) -> list[tuple[Scalar, State]]:
        pairs = zip(weights, self.at.z, strict=True)
        return [(w / self.tableau.gamma, z) for w, z in pairs]


class Stepper(Inside, AbstractStepper):
    """Steps forward."""

    def __init__(
        self, tableau: ESDIRKTableau, layout: Layout, field: Field, linear: Any,
        scale: Scale | None = None, *, followed: bool = False,
    ) -> None:  # fmt: skip
        self.tableau, self.layout, self.scale = tableau, layout, scale
        self.stages = Stages(tableau, layout, field, linear, followed=followed)
        self.traced = self.stages.clock.traced
        self.tells_calls = not self.traced

    def start(self, t0: Scalar, y0: State) -> State:
        """What the loop carries at t0: y0."""
        return y0

    def state(self, carried: State) -> State:
        """y, of what the loop carries."""
        return carried

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        found = self.at = self.stages.run(t, h, carried, state)
        if not error:
            return made((found.y1, None, None, None, False, None))
        error2 = None
        if self.scale is not None:
            e = self.layout.weighted(self._terms(self.tableau.b_error))
            error2 = self.layout.error2(e, found.y, found.y1, self.scale)
        # a step that is taken again begins with the same slope and Jacobian
        kept = None if self.traced else found.known
        failed = found.ok == False  # noqa: E712 - may be traced
        return made((found.y1, error2, None, kept, failed, None if self.traced else found.calls))


class StepVJP(Inside):
    """Exact vjps of steps whose stages are solved.

    Notes
    -----
    Costs the step, and at each stage a Jacobian, its factorisation, and a vjp of f; holds the tape
    of one stage.
    """

    def __init__(
        self, tableau: ESDIRKTableau, layout: Layout, vjp: FieldVJP, field: Field, linear: Any,
        *, time: bool,
    ) -> None:  # fmt: skip
        self.tableau, self.layout, self.vjp, self.field = tableau, layout, vjp, field
        self.linear, self.time = linear, time
        self.stages = Stages(tableau, layout, field, linear)
        s, gamma = tableau.stages, tableau.gamma
        behind = [[tableau.a[m][j] / gamma if m > j else 0.0 for m in range(s)] for j in range(s)]
        self.behind = Rows(layout, behind, s)
        self.last = Rows(layout, [[b / gamma] for b in tableau.b], 1)

    def replay(self, field: Field) -> Stepper:
        """Steps forward; a pull and a replay never interleave."""
        return Stepper(self.tableau, self.layout, field, self.linear)

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of y1 (and those of outputs inside the step) back to y."""
        self.at = self.stages.run(t, h, y)
        inside, ct_t, ct_h, extra = None, 0.0, 0.0, None
        if outputs is not None:
            g, acc, inside, ct_t, ct_h, extra = outputs(self, g, acc)
        step = self._transposed(g, acc, inside, size=size and self.time)
        return StepCotangents(step.y, step.params, step.t + ct_t, step.h + ct_h), extra

    def _transposed(self, g: State, acc: ParamSums, inside: State, *, size: bool) -> StepCotangents:
        layout, linear, stages, at = self.layout, self.linear, self.stages, self.at
        clock, s, c = stages.clock, stages.s, stages.shift(at.h)
        q, qy = inside or (None, None)

        def stage(j: Index, carry: Carry) -> Carry:
            p, total, acc, ct_t, ct_h = carry
            i = s - 1 - j
            z, source = _at(clock, i, at.z), () if q is None else ((1.0, _at(clock, i, q)),)
            w = layout.weighted([*self.last.terms(i, (g,)), *self.behind.terms(i, p), *source])
            time, value = stages.time(i, at.t, at.h), layout.add(stages.begin(i, at.y, at.z), z)
            matrix = linear.shifted(linear.jacobian(self.field, time, value), c)
            lam = linear.solve_transposed(linear.factor(matrix), w)
            _, pull = self.vjp(time, value)
            _, ct, acc = pull(layout.unpack(lam), acc)
            if self.time:
                ct_t = ct_t + ct
                if size:
                    node = stages.bk.table_get(stages.nodes, i)
                    ct_h = ct_h + node * ct + layout.inner(lam, z) * (c / at.h)
            new = layout.axpy(layout.weighted([(-1.0, w)]), c, lam)
            return _put(clock, i, p, new), layout.add(total, new), acc, ct_t, ct_h

        nothing, zero = layout.zeros(), clock.real(0.0)
        begun = (nothing,) * s, g, acc, zero, zero
        p, total, acc, ct_t, ct_h = stages.bk.for_loop(0, s - 1, stage, begun)
        # the first stage is explicit, at y
        source = () if q is None else ((1.0, q[0]),)
        w = layout.weighted([*self.last.terms(0, (g,)), *self.behind.terms(0, p), *source])
        lam = layout.weighted([(1.0 / c, w)])
        _, pull = self.vjp(layout.time(at.t), at.y)
        mu, ct, acc = pull(layout.unpack(lam), acc)
        if self.time:
            ct_t = ct_t + ct
            if size:
                ct_h = ct_h + layout.inner(lam, at.z[0]) * (c / at.h)
        total = layout.add(total, layout.own(mu))
        return StepCotangents(total if qy is None else layout.add(total, qy), acc, ct_t, ct_h)

    # --- the ends of a solve
    def embed(self, ct: State) -> State:
        """A cotangent of y as one of what the loop carries."""
        return ct

    def finish(
        self, t0: Scalar, y0: State, ct: State, acc: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """The vjp of ``start``: cotangents of y0 and t0, and the accumulator."""
        return ct, 0.0, acc

    # --- outputs of the step pulled last
    def result(self) -> State:
        """y at its end."""
        return self.at.y1

    def sources(self) -> State:
        """Cotangents of the inside of a step, zero."""
        return (self.layout.zeros(),) * self.tableau.stages, self.layout.zeros()

    def add_source(self, inside: State, theta: Scalar, h: Scalar, ct: State) -> State:
        """The same with the cotangent ct of y(t + theta h) added."""
        (q, qy), layout = inside, self.layout
        pairs = zip(q, self.tableau.weights(theta), strict=True)
        q = tuple(layout.axpy(x, w / self.tableau.gamma, ct) for x, w in pairs)
        return q, layout.add(qy, ct)


def _at(clock: Any, i: Index, states: Sequence[State]) -> State:
    """The i-th of them."""
    if isinstance(i, int):
        return states[i]
    found = states[0]
    for j, x in enumerate(states[1:], 1):
        found = clock.select(i == j, x, found)
    return found


def _put(clock: Any, i: Index, states: tuple[State, ...], new: State) -> tuple[State, ...]:
    """The same with the i-th replaced."""
    if isinstance(i, int):
        return (*states[:i], new, *states[i + 1 :])
    return tuple(clock.select(i == j, new, x) for j, x in enumerate(states))


class ESDIRK(AbstractSolver):
    """Any method of the family; a subclass is a page with a ``tableau``."""

    tableau: ClassVar[ESDIRKTableau]
    implicit: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.tableau
        cls.order, cls.error_order = tableau.order, tableau.error_order
        cls.stages, cls.degree = tableau.stages, len(tableau.interpolation[0])
        cls.evaluations = 1 + CORRECTIONS_A_STAGE * (tableau.stages - 1)

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        linear, followed = algebra(bk, layout, field), getattr(bk, "followed", False)
        return Stepper(self.tableau, layout, field, linear, scale, followed=followed)

    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
        one_tape: bool = True,
    ) -> StepVJP:
        assert field is not None
        linear = algebra(bk, layout, field)
        return StepVJP(self.tableau, layout, vjp, field, linear, time=time)


CORRECTIONS_A_STAGE = 4
"""Evaluations of f that a stage takes, about: what is counted where they can't be."""


def algebra(bk: AbstractBackend, layout: Layout, field: Field) -> Any:
    """Linear algebra for a bound field."""
    known = getattr(field, "equations", None)
    return bk.linear(layout, None if known is None else known.structure)
