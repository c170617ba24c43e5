"""ESDIRK methods: what a tableau makes of a solver for stiff problems, written once for all.

What a step is made of are increments ``z_i = gamma h k_i``: an error in one is an error in y, where
one in a slope is as much larger as the problem is stiff. The exact adjoint needs first derivatives
alone: with ``lam_i`` the cotangent of stage i, ``(I / (gamma h) - J_i)^T lam_i = w_i``, where
``w_i`` is what the stages behind it and the result make of z_i, one vjp of f at stage i pulls
``lam_i`` to y, args and time (implicit function theorem; Hager 2000, doi:10.1007/s002110000178). It
is the gradient of stages that are solved, which ``newton`` does to rounding.

Of a split field the explicit part has increments ``e_i = gamma h k_i`` of its own, evaluated once a
stage, at its solution; they stand behind the z_i in all sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from ..base import AbstractSolver, AbstractStepper, Calls, SolverState, Step, YCarried, made
from ..runge_kutta.solver import Sources, StepCotangents
from .newton import StageEquations, untrue
from .tableau import ESDIRKTableau

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.krylov import GMRES
    from ..._backend.protocols import FieldVJP, Layout


class Increments(NamedTuple):
    """One step: where it began, its increments, and whether its stages were solved, or were not
    where f is finite."""

    t: Scalar
    h: Scalar
    y: State
    z: tuple[State, ...]
    y1: State
    ok: Bool
    failed: Bool
    calls: Calls
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
        self.tableau, self.layout, self.linear = tableau, layout, linear
        self.bk, self.clock = layout.bk, layout.bk.clock(layout)
        self.s, self.gamma = tableau.stages, tableau.gamma
        self.explicit, self.field = parts_of(tableau, field)
        self.width = self.s if self.explicit is None else 2 * self.s
        self.a = _joined(tableau, split=self.explicit is not None)
        self.rows = Rows(layout, self.a, self.width)
        self.guesses = Rows(layout, tableau.guesses, self.width)
        self.equations = StageEquations(layout, linear, self.field)
        self.followed = followed

    def shift(self, h: Scalar) -> Scalar:
        """``c`` of ``c I - J``."""
        return 1.0 / (self.gamma * h)

    def time(self, i: Index, t: Scalar, h: Scalar) -> Array:
        """That of stage i, as f is given it."""
        return self.layout.time(t + self.node(i) * h)

    def node(self, i: Index) -> Scalar:
        """``c_i``."""
        if isinstance(i, int):
            return self.tableau.c[i]
        return self.bk.table_get(self.bk.time_sequence(self.tableau.c, self.layout), i)

    def begin(self, i: Index, y: State, z: Sequence[State]) -> State:
        """``psi_i``, stage i without its own increment."""
        return self.layout.weighted([(1.0, y), *self.rows.terms(i, z)])

    def weighed(self, weights: Sequence[Scalar], z: Sequence[State]) -> list[tuple[Scalar, State]]:
        """Terms of a sum of slopes with weights, times h, in increments."""
        both = (*weights, *weights) if self.explicit is not None else weights
        return [(w / self.gamma, x) for w, x in zip(both, z, strict=True)]

    def run(self, t: Scalar, h: Scalar, y: State, known: Any = None) -> Increments:
        """All stages; ``known``: slope and Jacobian at the start, of a try before."""
        if not self.followed:
            return self._run(t, h, y, known)
        with self.bk.quiet():
            still = self.bk.stop_gradient((t, h, y))
            found = self._run(still[0], still[1], still[2], None)
            z, ok, failed = self.bk.stop_gradient((found.z, found.ok, found.failed))
        c, start = self.shift(h), self.layout.time(t)

        def stage(i: Index, z: Carry) -> tuple[Carry, Leaves]:
            i, at = i + 1, self.time(i + 1, t, h)
            psi = self.begin(i, y, z)
            found = self.equations.followed(at, psi, _at(self.clock, i, z), c)
            return self._noted(i, z, found, at, self.layout.add(psi, found), h), ()

        first = self._increment(self.field, start, y, h)
        z = self._noted(0, z, first, start, y, h)
        z, _ = self.bk.followed_scan(stage, z, self.s - 1, False)
        y1 = self._poisoned(ok, self._result(y, z))
        return found._replace(t=t, h=h, y=y, z=z, y1=y1, failed=failed)

    def _run(self, t: Scalar, h: Scalar, y: State, known: Any) -> Increments:
        layout, clock, bk, start = self.layout, self.clock, self.bk, self.layout.time(t)
        count, fresh = clock.count, 0 if known else 1
        if known is None:
            known = layout.own(self.field(start, y)), self.linear.jacobian(self.field, start, y)
        slope, jacobian = known
        c = self.shift(h)
        factors, scale = self.equations.begin(y, c, jacobian)
        first = layout.weighted([(self.gamma * h, slope)])
        z = self._noted(0, (layout.zeros(),) * self.width, first, start, y, h)

        def stage(i: Index, s: Carry) -> Carry:
            z, factors, ok, calls = s
            psi, guess = self.begin(i, y, z), layout.weighted(self.guesses.terms(i, z))
            at = self.time(i, t, h)
            found = self.equations.solve(at, y, psi, guess, c, scale, factors)
            z = self._noted(i, z, found.z, at, layout.add(psi, found.z), h)
            return z, found.factors, clock.both(ok, found.ok), calls + found.calls

        calls = Calls(count(fresh), count(fresh), count(1))
        begun = z, factors, clock.real(0.0) == 0.0, calls
        z, factors, ok, calls = bk.for_loop(1, self.s, stage, begun)
        if self.explicit is not None:
            calls = calls + self.s
        y1, failed = self._result(y, z), untrue(ok)
        if failed is not False:  # f was finite as long as corrections were, where W is regular
            singular = untrue(self.linear.ok(factors))
            failed = clock.both(failed, clock.either(singular, layout.finite(y1)))
        return Increments(t, h, y, z, self._poisoned(ok, y1), ok, failed, calls, known)

    def _increment(self, field: Field, t: Array, y: State, h: Scalar) -> State:
        """``gamma h f(t, y)``."""
        return self.layout.weighted([(self.gamma * h, self.layout.own(field(t, y)))])

    def _noted(
        self, i: Index, z: tuple[State, ...], found: State, t: Array, y: State, h: Scalar
    ) -> tuple[State, ...]:
        """The increments with those of stage i, which is y at t."""
        z = _put(self.clock, i, z, found)
        if self.explicit is None:
            return z
        return _put(self.clock, self.s + i, z, self._increment(self.explicit, t, y, h))

    def _result(self, y: State, z: Sequence[State]) -> State:
        """y1."""
        terms = [(w, x) for w, x in self.weighed(self.tableau.b, z) if w]
        return self.layout.weighted([(1.0, y), *terms])

    def _poisoned(self, ok: Bool, y: State) -> State:
        """y, nan where the stages were not solved."""
        if ok is True:
            return y
        return self.layout.weighted([(self.clock.where(ok, 1.0, float("nan")), y)])


class Rows:
    """Rows of weights of increments, that a loop may count through."""

    def __init__(self, layout: Layout, rows: Sequence[Sequence[float]], width: int) -> None:
        self.bk, self.layout = layout.bk, layout
        self.sparse = [[(j, w) for j, w in enumerate(row) if w] for row in rows]
        padded = [[*row, *[0.0] * (width - len(row))] for row in rows]
        self.columns = list(zip(*padded, strict=True))

    def terms(self, i: Index, z: Sequence[State]) -> list[tuple[Scalar, State]]:
        """(weight, increment) of row i."""
        if isinstance(i, int):
            return [(w, z[j]) for j, w in self.sparse[i]]
        # tables are made where they are read: a stepper may outlive the loop it was made in
        tables = [self.bk.time_sequence(w, self.layout) for w in self.columns]
        return [(self.bk.table_get(w, i), x) for w, x in zip(tables, z, strict=True)]


class Inside:
    """y inside the step at hand."""

    tableau: ESDIRKTableau
    layout: Layout
    stages: Stages
    at: Increments
    extra = 0

    def extra_stages(self, due: Bool = True) -> None:
        """Nothing: the interpolant lies in the stages."""
        return

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h) of the last step."""
        terms = self.stages.weighed(self.tableau.weights(theta), self.at.z)
        return self.layout.weighted([(1.0, self.at.y), *terms])

    def slope(self, theta: Scalar) -> State:
        """Its derivative with respect to time."""
        terms = self.stages.weighed(self.tableau.weight_derivatives(theta), self.at.z)
        return self.layout.weighted([(w / self.at.h, z) for w, z in terms])


class Stepper(Inside, AbstractStepper):
    """Steps forward."""

    tells_calls = tells_algebra = True

    def __init__(
        self, tableau: ESDIRKTableau, layout: Layout, field: Field, linear: Any,
        scale: Scale | None = None, *, followed: bool = False,
    ) -> None:  # fmt: skip
        self.tableau, self.layout, self.scale = tableau, layout, scale
        self.stages = Stages(tableau, layout, field, linear, followed=followed)
        self.traced = self.stages.clock.traced

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        found = self.stages.run(t, h, carried, state)
        if not error:  # nobody asks for its inside
            return made((found.y1, None, None, None, found.failed, found.calls))
        self.at = found._replace(known=None)  # its Jacobian goes with the step
        error2 = None
        if self.scale is not None:
            e = self.layout.weighted(self.stages.weighed(self.tableau.b_error, found.z))
            error2 = self.layout.error2(e, found.y, found.y1, self.scale)
        # a step that is taken again begins with the same slope and Jacobian
        kept = None if self.traced else found.known
        return made((found.y1, error2, None, kept, found.failed, found.calls))


class StepVJP(YCarried, Inside):
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
        self.tableau, self.layout, self.linear, self.time = tableau, layout, linear, time
        self.stages = stages = Stages(tableau, layout, field, linear)
        self.vjp, self.explicit = vjp, None
        if stages.explicit is not None:
            parts: Any = vjp
            self.vjp, self.explicit = parts.implicit, parts.explicit
        if hasattr(linear, "vjp"):
            linear.vjp = self.vjp
        known, by = getattr(stages.field, "equations", None), self.vjp.derivatives
        self.doubtful = hasattr(linear, "confirmed") and (
            (known is not None and known.jac is not None)
            or (by is not None and by.kind == "complex step")
        )
        """Whether the Jacobian may be another than that of f's vjp."""
        s, gamma = tableau.stages, tableau.gamma
        padded = [[*row, *[0.0] * (stages.width - len(row))] for row in stages.a]
        self.behind = Rows(layout, [list(x) for x in zip(*padded, strict=True)], s)
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
        self.at = self.stages.run(t, h, y)._replace(known=None)
        inside, ct_t, ct_h, extra = None, 0.0, 0.0, None
        if outputs is not None:
            g, acc, inside, ct_t, ct_h, extra = outputs(self, g, acc)
        step = self._transposed(g, acc, inside, size=size and self.time)
        return StepCotangents(step.y, step.params, step.t + ct_t, step.h + ct_h), extra

    def _transposed(self, g: State, acc: ParamSums, inside: State, *, size: bool) -> StepCotangents:
        layout, stages, at = self.layout, self.stages, self.at
        clock, s, c = stages.clock, stages.s, stages.shift(at.h)
        q, qy = inside or (None, None)

        def own(i: Index, which: Index, p: tuple[State, ...]) -> list[tuple[Scalar, State]]:
            """What the result and the stages behind make of an increment of stage i."""
            terms = [*self.last.terms(i, (g,)), *self.behind.terms(which, p)]
            return terms if q is None else [*terms, (1.0, _at(clock, i, q))]

        def pulled(
            vjp: FieldVJP, i: Index, lam: State, y: State, which: Index, sums: Carry
        ) -> tuple[State, Carry]:
            """The pull of a part of f at stage i."""
            acc, ct_t, ct_h = sums
            _, pull = vjp(stages.time(i, at.t, at.h), y)
            mu, ct, acc = pull(layout.unpack(lam), acc)
            if self.time:
                ct_t = ct_t + ct
                if size:
                    node = stages.node(i)
                    slope = layout.inner(lam, _at(clock, which, at.z)) * (c / at.h)
                    ct_h = ct_h + node * ct + slope
            return layout.own(mu), (acc, ct_t, ct_h)

        def explicit(
            i: Index, y: State, p: tuple[State, ...], sums: Carry
        ) -> tuple[list[tuple[Scalar, State]], Carry]:
            """The cotangent of stage i by the explicit part there."""
            if self.explicit is None:
                return [], sums
            w = layout.weighted([(1.0 / c * a, x) for a, x in own(i, s + i, p)])
            mu, sums = pulled(self.explicit, i, w, y, s + i, sums)
            return [(1.0, mu)], sums

        def stage(j: Index, carry: Carry) -> Carry:
            p, total, sums = carry
            i = s - 1 - j
            value = layout.add(stages.begin(i, at.y, at.z), _at(clock, i, at.z))
            there, sums = explicit(i, value, p, sums)
            w = layout.weighted([*own(i, i, p), *there])
            point = stages.time(i, at.t, at.h), value
            lam, jacobian = self._solved(*point, c, w)
            mu, sums = pulled(self.vjp, i, lam, value, i, sums)
            through = [(-1.0, w), (c, lam)]  # J^T lam, as mu is, and nearer to it
            if self.doubtful:
                held = self.linear.confirmed(jacobian, point, lam, mu)
                through += [(0.0, held)] if clock.traced else []  # nan where it is not
            new = layout.weighted([*through, *there])
            return _put(clock, i, p, new), layout.add(total, new), sums

        zero = clock.real(0.0)
        begun = (layout.zeros(),) * s, g, (acc, zero, zero)
        p, total, sums = stages.bk.for_loop(0, s - 1, stage, begun)
        # the first stage is explicit, at y
        there, sums = explicit(0, at.y, p, sums)
        lam = layout.weighted([(1.0 / c * a, x) for a, x in own(0, 0, p)])
        mu, (acc, ct_t, ct_h) = pulled(self.vjp, 0, lam, at.y, 0, sums)
        end = [(1.0, total), (1.0, mu), *there, *([] if qy is None else [(1.0, qy)])]
        return StepCotangents(layout.weighted(end), acc, ct_t, ct_h)

    def _solved(self, t: Array, y: State, c: Scalar, w: State) -> tuple[State, Any]:
        """lam of ``(c I - J)^T lam = w``, and J at (t, y)."""
        linear = self.linear
        jacobian = linear.jacobian(self.stages.field, t, y)
        factors = linear.factor(linear.shifted(jacobian, c))
        return linear.solve_transposed(factors, w), jacobian

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


@dataclass(frozen=True)
class ESDIRK(AbstractSolver):
    """Any method of the family; a subclass is a page with a ``tableau``.

    Parameters
    ----------
    linear_solver : GMRES, optional
        How linear systems are solved without a matrix; default: by a factorisation, in the form of
        the field's ``structure``.
    """

    linear_solver: GMRES | None = None

    tableau: ClassVar[ESDIRKTableau]
    implicit: ClassVar[bool] = True
    time_derivative: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.tableau
        cls.additive = tableau.explicit is not None
        cls.order, cls.error_order = tableau.order, tableau.error_order
        cls.stages, cls.degree = tableau.stages, len(tableau.interpolation[0])
        cls.evaluations = 1 + CORRECTIONS_A_STAGE * (tableau.stages - 1)

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def linearised(self) -> int:
        return 1

    def pull_cost(self, products: int, terms: int) -> tuple[float, float]:
        # a step makes about two Jacobians, its pull one at each stage but the first
        inner = self.stages - 1
        back = 3 * (self.stages + self.stages * self.additive) + inner * products
        return back / (self.evaluations + 2 * products), 0.0

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        linear, followed = self._algebra(bk, layout, field), getattr(bk, "followed", False)
        return Stepper(self.tableau, layout, field, linear, scale, followed=followed)

    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        time: bool,
        field: Field | None = None,
        **_: bool,
    ) -> StepVJP:
        assert field is not None
        linear = self._algebra(bk, layout, field)
        return StepVJP(self.tableau, layout, vjp, field, linear, time=time)

    def _algebra(self, bk: AbstractBackend, layout: Layout, field: Field) -> Any:
        """Linear algebra for a bound field."""
        if self.linear_solver is not None:
            return self.linear_solver.algebra(layout)
        known = getattr(field, "equations", None)
        return bk.linear(layout, None if known is None else known.structure)


CORRECTIONS_A_STAGE = 4
"""Evaluations of f that a stage takes, about: what is counted where they can't be."""


def parts_of(tableau: ESDIRKTableau, field: Field) -> tuple[Field | None, Field]:
    """The explicit part of a bound field, where there is one, and the implicit one."""
    known = getattr(field, "equations", None)
    parts = known and known.parts
    return parts if parts and tableau.explicit is not None else (None, field)


def _joined(tableau: ESDIRKTableau, *, split: bool) -> list[list[float]]:
    """Rows of weights of all increments in ``psi_i``: the z_j, and behind them the e_j."""
    gamma, s = tableau.gamma, tableau.stages
    rows = [[w / gamma for w in row] for row in tableau.a]
    if not split or tableau.explicit is None:
        return rows
    pairs = zip(rows, tableau.explicit, strict=True)
    return [[*row, *[0.0] * (s - len(row)), *[w / gamma for w in more]] for row, more in pairs]
