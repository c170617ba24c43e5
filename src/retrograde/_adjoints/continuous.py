"""The textbook continuous adjoint: the augmented system, solved back from t1 to t0.

What diffrax's ``BacksolveAdjoint``, torchdiffeq's ``odeint_adjoint`` and jax's ``odeint`` do. It
keeps the state at t1 alone (and the rows that were saved anyway), reconstructs y as it goes and
discretises the adjoint equation, which is another thing than the adjoint of the discrete solve.

At a row of time s with cotangent c of the state, a jumps by c. Times, for the flow itself:
dL/ds = c . f(s, y(s)), and dL/dt0 = -a(t0) . f(t0, y0) before the jump of y0's own row. A row of
a step's end moves with t0 (the last with t1), but stands still where the step times were given.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import (
    Bool,
    Index,
    Inputs,
    Leaves,
    NeedsGradient,
    Residuals,
    Scalar,
    State,
    Table,
)
from .._controllers import AcceptedSteps, ConstantSteps
from .._integrate.outputs import Output, Outputs
from .._integrate.saveat import SaveAt
from .._integrate.solution import Status
from .._integrate.stops import Stops
from .._solvers import ExplicitRungeKutta
from .augmented_system import AugmentedField, AugmentedLayout, AugmentedSolver, is_number
from .base import AbstractAdjoint
from .checkpointed import finished
from .output_vjp import OutputVJP

if TYPE_CHECKING:
    from .._backend.protocols import Clock, Layout
    from .._controllers.norms import LeafNorm
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final


@dataclass(frozen=True)
class ContinuousAdjoint(AbstractAdjoint):
    """Solve the adjoint ODE back in time; O(1) memory, gradients of accuracy O(h^p) only.

    Parameters
    ----------
    reset : bool
        Set y to the saved row at every saved time where the row is the state itself (no
        ``SaveAt.fn``), as diffrax, torchdiffeq and jax do. The rows then are residuals.
    seminorm : bool
        Leave the parameters' cotangents out of the error norm of adaptive steps: they feed
        nothing back [2]_.

    Notes
    -----
    Accuracy: that of the solver for the true ODE's gradient, O(h^p) on constant steps and of the
    order of the tolerances on adaptive ones; it is *not* the gradient of the discrete solve. How
    far the reconstructed y(t0) is from y0 does not bound the error of the gradient: we measured
    gradients 8 to 400 times further off, and after 500 Euler steps of two equations one with a
    component of the wrong sign. Where the flow contracts, the way back expands, and what comes
    may be nan or nothing like the gradient, after hundreds of times the steps (so set
    ``max_steps``); ``reset`` at saved times helps. Tolerances apply to y and a alike, so the
    gradient of a loss far below ``atol`` has no accurate digit. It is never chosen automatically.

    Between two rows the way back takes constant steps of the same size, the last one shortened;
    the given times of ``StepTo``; each accepted step where all are saved; or a fresh adaptive
    solve of the same settings, ``max_steps`` bounding each. A step costs one evaluation and one
    vjp of f a stage. Where the solve or the way back fails, all gradients are nan.

    References
    ----------
    .. [1] Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366, algorithm 1.
    .. [2] Kidger, Chen, Lyons 2021, "Hey, that's not an ODE", arXiv:2009.09457.
    """

    reset: bool = True
    seminorm: bool = True
    accuracy: ClassVar[str] = "O(h^p)"

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        if loop.compiled or not isinstance(loop.solver, ExplicitRungeKutta):
            raise UnsupportedByBackend(
                f"`adjoint` is {self.name}, which needs an explicit Runge-Kutta `solver`, but "
                f"`solver` is {loop.solver.name}{' with `compile=True`' * bool(loop.compiled)}; "
                "use adjoint='auto'."
            )
        arrays = loop.adaptive and not all(map(is_number, inputs.settings[:2]))
        if (arrays or loop.norm is not None) and not self.seminorm:
            raise InputError(
                "`seminorm` is False and `rtol` or `atol` is an array for y (or `norm` is one of "
                "y), which says nothing of the parameters; pass numbers, or seminorm=True."
            )
        final = loop.integrate(inputs)
        inside = final.inside if self.reset else loop.outputs.counted(final)
        return final, final._replace(inside=inside)

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        kind = Walk
        if loop.events is not None:
            from .continuous_events import WalkWithEvents  # for who has some

            kind = WalkWithEvents
        walk = kind(loop, inputs, residuals, cotangents, wanted, self)
        there = loop.bk.while_loop(walk.running, walk.leg, walk.start())
        return walk.finish(there)


class WalkCarry(NamedTuple):
    """Where a walk back is, and the cotangents so far.

    So many of each output's rows inside the loop (``row``) are still to come; ``mark`` steps, where
    they were given; ``hit`` hits of events.
    """

    t: Scalar
    row: tuple[Index, ...]
    mark: Scalar
    y: State
    a: State
    g: Leaves
    t0: Scalar
    t1: Scalar
    ts: Table
    ok: Bool
    hit: Index = ()


def _larger(clock: Clock, norm: LeafNorm, count: int, leaves: Leaves) -> Scalar:
    """The larger norm of y's ratios and a's; nan where one of them is."""
    y, a = clock.real(norm(leaves[:count])), clock.real(norm(leaves[count:]))
    return clock.maximum(y, a) + 0.0 * (y + a)


class Walk:
    """The way back of one solve, leg by leg from row to row.

    Parameters
    ----------
    loop : Integrator
    inputs : Inputs
    final : Final
        Where the forward integration ended.
    cotangents : leaves of shape (k, *shape)
        Of the output rows.
    wanted : NeedsGradient
    adjoint : ContinuousAdjoint
    """

    def __init__(
        self,
        loop: Integrator,
        inputs: Inputs,
        final: Final,
        cotangents: Leaves,
        wanted: NeedsGradient,
        adjoint: ContinuousAdjoint,
    ) -> None:
        self.loop, self.bk, self.inputs, self.wanted = loop, loop.bk, inputs, wanted
        self.clock, self.own, self.out = loop.clock, loop.layout, loop.outputs
        self.final = final
        problem, params = loop.problem, inputs.params
        chosen = [x for x, w in zip(params, wanted.params, strict=True) if w]
        self.layout = AugmentedLayout(self.own, inputs.y0, chosen, adjoint.seminorm)
        self.augmented = AugmentedField(problem, params, wanted, self.layout)
        self.solver = AugmentedSolver(
            cast("ExplicitRungeKutta", loop.solver), self.layout, self.augmented
        )
        self.field = problem.bind(params)
        parts = zip(self.out.parts, self.out.split(cotangents), strict=True)
        self.parts = [OutputVJP(loop, inputs, wanted, *part) for part in parts]
        kinds = [part.inside if part.count != 0 else "" for part in self.out.parts]
        self.inside = [k for k, kind in enumerate(kinds) if kind]
        self.stepped = "steps" in kinds
        self.saved = {
            k: final.inside[k][1]
            for k in self.inside
            if adjoint.reset and self.out.parts[k].saveat.fn is None
        }
        self.grid = self._grid()
        self.given = not loop.adaptive and not self.grid.shifts
        self.single = not loop.adaptive and (self.given or self.stepped)
        self.t0, self.t1 = (self.clock.real(t) for t in inputs.clocked[:2])
        if self.given:  # traced t0 and t1 may round elsewhere
            self.t0, self.t1 = self.grid.step(0)[0], self.grid.end(self.grid.whole - 1)
        self.twin = self._twin()

    def _grid(self) -> Any:
        """The forward solve's steps, if the way back needs them."""
        needed = not self.loop.adaptive or self.stepped
        return self.loop.grid(self.inputs, self.final) if needed else None

    def _twin(self) -> Any:
        """The forward loop, made one of the augmented system on its way back."""
        loop, layout = self.loop, self.layout
        twin: Any = copy.copy(loop)  # steps of another kind, over states of another
        twin.layout = twin.carried = layout
        augmented = self.augmented  # not self: a cycle would keep its states for the collector
        twin.solver, twin.bind = self.solver, lambda params: augmented
        nothing = Output(self.bk, SaveAt(), cast("Layout", layout), None)
        twin.outputs = Outputs(self.bk, [nothing])
        twin.count, twin.progress, twin.watch, twin.times_checked = None, False, None, True
        twin.on_step, twin.events, twin.cut = None, None, False
        if (norm := loop.norm) is not None:
            twin.norm = partial(_larger, self.clock, norm, layout.count)
        settings = self.inputs.settings
        if loop.adaptive:
            twin.settings = tuple(layout.tolerance(x) for x in settings[:2]) + settings[2:]
            if loop.stops is not None:
                twin.stops = Stops(loop, self.inputs, back=True)
                augmented.vjp = twin.stops.sided_vjp(augmented.vjp)
            if isinstance(loop.controller, AcceptedSteps):
                twin.controller = dataclasses.replace(loop.controller, dt=-loop.controller.dt)
                return twin
            first = getattr(loop.controller, "dt0", None)
            if first is not None:
                controller: Any = loop.controller
                twin.controller = dataclasses.replace(controller, dt0=-first)
            return twin
        twin.max_steps, twin.settings = None, ()
        if isinstance(loop.controller, ConstantSteps):
            twin.settings = (-(settings[0] if settings else loop.controller.dt),)
        return twin

    # --- the walk
    def start(self) -> WalkCarry:
        """At t1, with the cotangents of its rows."""
        if self.wanted.jumps:
            raise InputError(
                "`jump_ts` is differentiated, which a continuous adjoint does not pass; use "
                "adjoint='auto'."
            )
        final, clock, bk, own = self.final, self.clock, self.bk, self.own
        zero, rows = clock.real(0.0), [clock.count(0) for _ in self.parts]
        for k in self.inside:
            part = self.out.parts[k]
            many = part.inside == "steps"
            rows[k] = final.n * len(part.nodes) if many else clock.count(part.count)
        ts: Table = ()
        if self.wanted.ts and self.out.timed:
            ts = bk.reals(len(self.inputs.ts), own)
        mark = clock.count(self.grid.whole) if self.given else ()
        ok = final.status == int(Status.converged)
        a, g, t1 = own.zeros(), tuple(bk.zeros_like(x) for x in self.layout.params), zero
        for rows_of, inside in zip(self.parts, self.out.rows_inside(final), strict=True):
            if rows_of.out.saveat.final:
                ct, ct_t, g = rows_of.at_end(final, inside, g)
                a, t1 = own.add(a, ct), t1 + ct_t + self._rate(self.t1, final.y, ct)
        c = WalkCarry(self.t1, tuple(rows), mark, final.y, a, g, zero, t1, ts, ok)
        ends = [self.out.parts[k].inside == "steps" for k in self.inside]
        return self._rows_here(c, ends)

    def running(self, c: WalkCarry) -> Bool:
        """Whether there is a leg to go."""
        clock = self.clock
        left = c.t != self.t0
        for k in self.inside:
            left = clock.either(left, c.row[k] > 0)
        return clock.both(c.ok, left)

    def leg(self, c: WalkCarry) -> WalkCarry:
        """Back to the next row (or given time, or t0), and the jumps there."""
        clock, layout = self.clock, self.layout
        stop, mark = self._next(c), c.mark
        ends = [clock.where(c.row[k] > 0, self._time(k, c.row[k]), self.t0) for k in self.inside]
        for at in ends:  # traced saved times may be nan: then so is where it stops
            stop = clock.where(clock.beyond(stop, at, self.t1 - self.t0), stop, at)
        if self.given:
            at = self.grid.step(self.bk.pick(mark > 0, mark - 1, 0))[0]
            stop = clock.where(clock.beyond(stop, at, self.t1 - self.t0), stop, at)
            mark = self.bk.pick(stop == at, mark - 1, mark)
        state = layout.join(c.y, c.a, c.g)
        if self.single:
            stepper = self.solver.stepper(self.bk, layout, None)
            state, ok = stepper.step(c.t, stop - c.t, state, None, error=False).y1, c.ok
        else:
            state, ok = self._integrate(state, c.t, stop)
        # traced saved times may be nan, and no walk gets there
        ok = clock.both(ok, stop == stop)
        y, a, g = layout.split(state)
        c = self._hits_here(c._replace(t=stop, mark=mark, y=y, a=a, g=g, ok=ok))
        return self._rows_here(c, [at == stop for at in ends])

    def _next(self, c: WalkCarry) -> Scalar:
        """Where there is something but rows: t0."""
        return self.t0

    def _hits_here(self, c: WalkCarry) -> WalkCarry:
        """Jumps of the events of this time."""
        return c

    def _integrate(self, state: State, t: Scalar, stop: Scalar) -> tuple[State, Bool]:
        """A solve of the augmented system, and whether it got there."""
        twin = self.twin
        if self.stepped and hasattr(twin.controller, "dt0"):
            twin = copy.copy(twin)  # one step of the accepted size, unless its error forbids
            twin.controller = dataclasses.replace(twin.controller, dt0=stop - t)
        final = twin.integrate(Inputs(state, self.inputs.params, t, stop, (), twin.settings))
        return final.y, final.status == int(Status.converged)

    def finish(self, c: WalkCarry) -> Inputs:
        """Cotangents of the inputs; nan unless every leg got to its end."""
        bk, layout, y0 = self.bk, self.layout, self.inputs.y0
        ok = bk.both(c.ok, layout.finite(layout.join(c.y, c.a, c.g)))
        a, g = c.a, c.g
        t0 = c.t0 - self._rate(self.t0, y0, a)
        for part in self.parts:
            if part.out.saveat.t0:
                ct = part.out.layout.row(part.cts, 0)
                ct, ct_t, g = part.absorb(self.t0, y0, ct, g)
                a, t0 = self.own.add(a, ct), t0 + ct_t
        params = self.augmented.vjp.finish(list(g))
        return finished(bk, ok, Inputs(a, params, t0, c.t1, c.ts))

    # --- rows
    def _time(self, k: int, row: Index) -> Scalar:
        """Time of the row of output k before ``row``."""
        j, part = self.bk.pick(row > 0, row - 1, 0), self.out.parts[k]
        if part.inside == "ts":
            return self.bk.table_get(self.inputs.clocked[2], part.first + j)
        nodes = len(part.nodes)
        if nodes == 1:
            return self.grid.end(j)
        t, h = self.grid.step(j // nodes)
        at = self.grid.end(j // nodes)
        for i, theta in enumerate(part.nodes[:-1]):
            at = self.clock.where(j % nodes == i, t + theta * h, at)
        return at

    def _rows_here(self, c: WalkCarry, ends: Sequence[Bool]) -> WalkCarry:
        """Jumps of all rows of this time; ``ends``: whether an output's next row is one."""
        for k, first in zip(self.inside, ends, strict=True):
            c = self._rows_of(k, c, first)
        return c

    def _rows_of(self, k: int, c: WalkCarry, first: Bool) -> WalkCarry:
        """Those of output k."""
        left = self.bk.pick(c.row[k] > 0, c.row[k] - 1, 0)
        both, either = self.clock.both, self.clock.either

        def here(c: WalkCarry) -> Bool:
            # a traced end of a step may round elsewhere the next time, but there is one row each
            due = both(first, c.row[k] > left)
            if self.out.parts[k].inside == "ts":
                due = either(due, self._time(k, c.row[k]) == c.t)
            return both(c.row[k] > 0, due)

        return self.bk.while_loop(here, lambda c: self._jump(k, c), c)  # type: ignore[no-any-return]

    def _jump(self, k: int, c: WalkCarry) -> WalkCarry:
        """The jump of a at one row of output k; y goes on from what was saved."""
        part, where = self.parts[k], self.clock.where
        out, nodes, j = part.out, len(part.out.nodes), c.row[k] - 1
        y = self.bk.read(self.saved[k], j) if k in self.saved else c.y
        ct, ct_t, g = part.absorb(c.t, y, part.row(j), c.g)
        t0, t1, ts = c.t0, c.t1, c.ts
        if self.wanted.time:
            ct_t = ct_t + self._rate(c.t, y, ct)
            if out.inside == "steps":
                last = c.row[k] == self.final.n * nodes
                t1 = t1 + where(last, ct_t, 0.0)
                moves = not self.given
                if self.loop.stops is not None:
                    moves = self.clock.beyond(self.loop.stops.first, c.t, self.t1 - self.t0)
                t0 = t0 + where(moves, where(last, 0.0, ct_t), 0.0)
            elif self.wanted.ts:
                ts = self.bk.table_set(ts, out.first + j, ct_t)
        rows = (*c.row[:k], j, *c.row[k + 1 :])
        return c._replace(row=rows, y=y, a=self.own.add(c.a, ct), g=g, t0=t0, t1=t1, ts=ts)

    def _rate(self, t: Scalar, y: State, ct: State) -> Scalar:
        """ct . f(t, y), where a derivative by a time is wanted."""
        if not self.wanted.time:
            return 0.0
        return self.own.inner(ct, self.own.pack(self.field(self.own.time(t), y)))
