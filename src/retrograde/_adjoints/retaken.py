"""The accepted steps of a finished integration, taken again by operations that autodiff follows.

Their times and sizes are those recorded; t0 and t1 move the ends. Steps that events cut or end are
``retaken_events``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._base.types import (
    Array,
    Body,
    Buffer,
    Carry,
    Condition,
    CountedBody,
    Function,
    Index,
    Inputs,
    Leaves,
    Scalar,
    Scale,
    State,
)
from .._integrate.moving_times import zero_of

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout, StepStages
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final, Output
    from .._solvers.base import AbstractStepper
    from .._solvers.runge_kutta.tableau import Tableau


class TooManySteps(Exception):
    """An integration took more steps than there is room to record; its graph is dropped."""


class Retaken:
    """The accepted steps of a finished integration, taken again under autodiff."""

    def __init__(self, loop: Integrator, inputs: Inputs, constant: Inputs, final: Final) -> None:
        self.loop, self.bk, self.inputs, self.final = loop, loop.bk, inputs, final
        self.grid = loop.grid(constant, final)
        self.layout = self.bk.direct_layout(loop.layout)
        self.leaves = tuple(loop.layout.unpack(inputs.y0))
        self.field = loop.problem.bind_free(inputs.params)
        # zeros that carry the derivatives of t0 and t1
        self.t0 = inputs.t0 - constant.t0
        self.t1 = inputs.t1 - constant.t1
        self.jumps = None
        if len(inputs.jumps):
            self.jumps = self.bk.times_array(inputs.jumps, loop.layout)
            self.jumps = zero_of(self.bk, self.jumps)
        self.start, self.end = inputs.t0, inputs.t1
        if inputs.relative:
            self.start, self.end = inputs.relative[0] + self.t0, inputs.relative[1] + self.t1

    def rows(self) -> Leaves:
        """All output rows."""
        bk = self.bk
        final, states = bk.scan_states(
            self.final.n, self.loop.max_steps, self._advance, self._begin()
        )
        parts, rows = self.loop.outputs.parts, self.loop.outputs.rows_inside(self.final)
        found = [self._rows_of(*part, states, final) for part in zip(parts, rows, strict=True)]
        return tuple(x for leaves in found for x in leaves)

    def _begin(self) -> State:
        """What is carried to the first step."""
        return self._stepper().start(self.start, self.leaves)

    def _rows_of(self, out: Output, count: Index, states: Buffer, final: State) -> Leaves:
        """Those of one output, with so many inside the loop."""
        bk, emit = self.bk, self._emitter(out)
        blocks = [stacked(bk, [emit(self.start, self.leaves)])] if out.saveat.t0 else []
        if out.inside == "ts":
            blocks.append(bk.map_rows(lambda j: self._at(out.first + j, states, emit), count))
        elif out.inside:
            blocks.append(self._step_rows(out, count, states, final))
        if out.saveat.final:
            blocks.append(stacked(bk, [emit(self.end, self._state(final))]))
        if len(blocks) == 1:
            return blocks[0]
        return tuple(bk.xp.concat(leaves, axis=0) for leaves in zip(*blocks, strict=True))

    def _step(self, i: Index, before: State) -> tuple[Scalar, Scalar]:
        """Start and size of step i, with their derivatives; ``before``: what was carried to it."""
        t, h = self.loop.step_again(self.grid, i)
        where, last = self.loop.clock.where, i + 1 == self.final.n
        begins, moved, _ = self.grid.moves(i, last, t, h)
        start, size = where(begins, self.t0, 0.0), where(moved, self.t0, 0.0)
        end = where(last, self.t1, 0.0)
        if self.jumps is not None:
            behind, ahead = self._of_jumps(t, h)
            lands = self.loop.stops.lands(t, h)[0]  # type: ignore[union-attr]
            start, size, end = start + behind, size + where(lands, behind, 0.0), end + ahead
        return t + start, h - size + end

    def _of_jumps(self, t: Scalar, h: Scalar) -> tuple[Scalar, Scalar]:
        """Zeros with the derivatives of the jump that a step moves with, and of that it ends on."""
        stops, where = self.loop.stops, self.loop.clock.where
        assert stops is not None
        assert self.jumps is not None
        (i, behind), (j, ahead) = stops.jump_behind(t), stops.jump_at(stops.after(t, stops.t1))
        ahead = self.loop.clock.both(ahead, stops.lands(t, h)[1])
        return where(behind, self.jumps[i], 0.0), where(ahead, self.jumps[j], 0.0)

    def _stepper(self) -> AbstractStepper:
        forms = ListForms(self.bk)
        return self.loop.steps().stepper(forms, self.layout, self.field)

    def _carried(self, before: State) -> State:
        """What the solver carries, of all that is carried from step to step."""
        return before

    def _state(self, before: State) -> State:
        return self.loop.solver.state(self.layout, self._carried(before))

    def _advance(self, i: Index, y: State) -> State:
        return self._stepper().step(*self._step(i, y), y, None, error=False).y1

    def _emitter(self, out: Output) -> Function:
        fn = out.saveat.fn
        if fn is None:
            return lambda t, leaves: tuple(leaves)
        call = self.bk.guard(self.loop.problem.bind_output(fn, self.inputs.params))
        return lambda t, leaves: tuple(call(self.layout.time(t), leaves))

    def _at(self, j: Index, states: Buffer, emit: Function) -> Leaves:
        """The row of saved time j: its step once more, then the interpolant."""
        bk = self.bk
        at = bk.table_get(self.inputs.ts, j)
        if self.inputs.relative:
            at = bk.table_get(self.inputs.relative[2], j) + (at - bk.stop_gradient(at))
        i = bk.step_of(self.grid, self.final.n, bk.stop_gradient(at))
        t, h, stepper = self._again(i, states)
        return emit(at, stepper.interpolate((at - t) / h))  # type: ignore[no-any-return]

    def _again(self, i: Index, states: Buffer) -> tuple[Scalar, Scalar, AbstractStepper]:
        """Step i once more, for its inside: its start, size, and the stepper."""
        before = self.bk.look_state(states, i)
        t, h = self._step(i, before)
        stepper = self._taken(t, h, self._carried(before))[0]
        stepper.extra_stages()
        return t, h, stepper

    def _taken(self, t: Scalar, h: Scalar, y: State) -> tuple[AbstractStepper, State]:
        """The stepper of a step whose inside may be looked at, and the step's end."""
        stepper = self._stepper()
        return stepper, stepper.step(t, h, y, stepper.init(t, y), error=True).y1

    def _end(self, i: Index, states: Buffer, final: State) -> tuple[Scalar, State]:
        """Where step i ends, and y there."""
        t, h = self._step(i, self.bk.look_state(states, i))
        y = self._state(self.bk.look_state(states, i + 1, self.final.n, final))
        return t + h, y

    def _step_rows(self, out: Output, count: Index, states: Buffer, final: State) -> Leaves:
        """Rows of the steps' ends: the state before the next step, and the last; and those at
        fixed parts of each step."""
        bk, n, emit, nodes = self.bk, self.final.n, self._emitter(out), len(out.nodes)

        def end(i: Index) -> Leaves:
            return emit(*self._end(i, states, final))  # type: ignore[no-any-return]

        def all_nodes(i: Index) -> Leaves:
            t, h, stepper = self._again(i, states)
            inside = out.nodes if out.whole else out.nodes[:-1]
            rows = [emit(t + x * h, stepper.interpolate(x)) for x in inside]
            return stacked(bk, rows if out.whole else [*rows, end(i)])

        if nodes == 1:
            return bk.blank(bk.map_rows(end, count), n, 0.0)
        steps = bk.map_rows(all_nodes, count // nodes)
        rows = tuple(bk.xp.reshape(x, (-1, *x.shape[2:])) for x in steps)
        return bk.blank(rows, n * nodes, 0.0)


class ListForms:
    """A backend whose stages are sums of arrays, which any autodiff can follow."""

    python_loops = False  # each turn is counted
    followed = True
    """Autodiff follows what is run."""

    def __init__(self, bk: AbstractBackend, limit: int | None = None) -> None:
        self.bk = bk
        self.left = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bk, name)

    def stages(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> StepStages:
        return self.bk.direct_stages(layout, tableau, scale)

    def while_loop(self, cond: Condition, body: Body, s: Carry) -> Carry:
        return self.bk.while_loop(cond, self._counted(body), s)

    def for_loop(self, low: Index, high: Index, body: CountedBody, s: Carry) -> Carry:
        count = self._counted(lambda x: body(*x))
        return self.bk.for_loop(low, high, lambda i, s: count((i, s)), s)

    def _counted(self, body: Body) -> Body:
        def counted(s: Carry) -> Carry:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise TooManySteps
            return body(s)

        return counted


def stacked(bk: AbstractBackend, rows: Sequence[Sequence[Array]]) -> Leaves:
    """Rows of leaves as leaves with a leading axis."""
    return tuple(bk.xp.stack([row[i] for row in rows]) for i in range(len(rows[0])))
