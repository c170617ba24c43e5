"""DirectAdjoint: the library's own autodiff through the accepted steps.

Where autodiff follows Python, the integration is recorded as it runs. Elsewhere the loop first runs
on constants and records its accepted times; then the same steps are taken again over the recorded
times by a loop that autodiff can follow. Either way the gradient has the same meaning as every
exact method's (step sizes are constants), by an independent route, and it can be differentiated
again: jvp, Hessians, gradients of gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from .._backend.protocols import Capability
from .._base.errors import InputError, UnsupportedByBackend
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
from .._integrate.outputs import Outputs, output_leaves
from .._integrate.solution import Status
from .base import AbstractAdjoint

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Layout, StepStages
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final, Output
    from .._solvers.base import AbstractStepper
    from .._solvers.runge_kutta.tableau import Tableau


class TooManySteps(Exception):
    """An integration took more steps than there is room to record; its graph is dropped."""


@dataclass(frozen=True)
class DirectAdjoint(AbstractAdjoint):
    """Plain autodiff through the steps; stores a tape of each.

    Parameters
    ----------
    limit : int or None
        Steps that there is room for. The planner sets it: an integration that takes more is begun
        again with checkpoints, so that a wrong prediction costs time and never bytes.

    Notes
    -----
    Where autodiff follows Python loops and no derivative by t0, t1 or ts is asked for, the steps
    are recorded as they are taken. Otherwise they are taken again, which costs one more forward
    pass, and one more step for each saved time inside the solve; in traced libraries memory
    then is that of max_steps tapes.

    Examples
    --------
    For derivatives of derivatives, where the library has autodiff::

        jax.hessian(lambda k: rg.solve(f, y0, 0.0, 1.0, k, dt=0.1, adjoint="direct").ys[-1, 0])

    >>> import retrograde as rg
    >>> rg.DirectAdjoint().differentiable, rg.RecursiveCheckpointAdjoint().differentiable
    (True, False)
    """

    limit: int | None = None
    accuracy: ClassVar[str] = "exact"
    differentiable: ClassVar[bool] = True
    follows_solve: ClassVar[bool] = True

    def primal(self, loop: Integrator, inputs: Inputs) -> tuple[Leaves, Final]:
        """(output leaves, where the integration ended), by differentiable operations alone."""
        bk = loop.bk
        check_followed(loop, self.name)
        if Capability.TRACED not in bk.capabilities and constant_times(inputs):
            leaves, final = _recorded(loop, inputs, self.limit)
        else:
            constant = bk.stop_gradient(inputs)
            with bk.quiet():  # f may close over what requires a gradient
                final = loop.integrate(constant, None, record=loop.adaptive)
                values = output_leaves(loop, constant, final)
            again = _Retaken(loop, inputs, constant, final).rows()
            # the integration's own numbers, bit for bit (v - x is exact), and nan where it did not
            # get
            pairs = zip(again, values, strict=True)
            leaves = tuple(x + bk.stop_gradient(v - x) for x, v in pairs)
        ok = final.status == int(Status.converged)
        return tuple(bk.poison_gradient(ok, x) for x in leaves), final


def check_followed(loop: Integrator, name: str | None = None) -> None:
    """Raise unless the library's autodiff can follow an integration of this loop.

    ``name``: the adjoint that the user named; None if a derivative asks for it that no reverse
    pass gives.
    """
    bk = loop.bk
    if loop.events is not None:
        raise UnsupportedByBackend(
            "forward mode (a jvp) and derivatives of derivatives don't pass the events of a solve; "
            "ask for one reverse-mode derivative."
        )
    if getattr(loop.problem.f, "vjp", None) is not None:
        who, remedy = f"`adjoint` is {name}, which differentiates", "use adjoint='auto'"
        if name is None:
            who = "forward mode and second derivatives differentiate"
            remedy = "ask for one reverse-mode derivative"
        raise InputError(
            f"{who} `f` itself, but `f` brings its own `vjp`; {remedy}, or pass the plain function."
        )
    if Capability.DIRECT not in bk.capabilities:
        raise UnsupportedByBackend(
            f"`adjoint` is {name}, but {bk.name} has no autodiff; use adjoint='auto' "
            "or RecursiveCheckpointAdjoint()."
        )


def constant_times(inputs: Inputs) -> bool:
    """Whether no derivative by a time can be asked for: all are plain numbers."""
    plain = isinstance(inputs.t0, (int, float)) and isinstance(inputs.t1, (int, float))
    return plain and isinstance(inputs.ts, (list, tuple))


def _recorded(loop: Integrator, inputs: Inputs, limit: int | None) -> tuple[Leaves, Final]:
    """The integration itself under autodiff, with states as tuples of leaves."""
    bk = loop.bk
    twin = copy.copy(loop)
    twin.bk = cast("AbstractBackend", _ListForms(bk, limit))
    twin.layout = bk.direct_layout(loop.layout)
    twin.carried = loop.solver.carried(twin.bk, twin.layout)
    twin.bind = loop.problem.bind_free
    parts = []
    for out in loop.outputs.parts:
        own = out.layout is loop.problem.layout
        parts.append(out.like(twin.layout if own else bk.direct_layout(out.layout)))
    twin.outputs = Outputs(bk, parts)
    settings = inputs.settings
    if loop.adaptive:
        settings = (*(_as_leaves(loop.layout, x) for x in settings[:2]), *settings[2:])
    inputs = inputs._replace(y0=tuple(loop.layout.unpack(inputs.y0)), settings=settings)
    final = twin.integrate(inputs)
    return output_leaves(twin, inputs, final), final


def _as_leaves(layout: Layout, tolerance: Scalar) -> State:
    return tolerance if isinstance(tolerance, float) else tuple(layout.unpack(tolerance))


class _Retaken:
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
        self.start, self.end = inputs.t0, inputs.t1
        if inputs.relative:
            self.start, self.end = inputs.relative[0] + self.t0, inputs.relative[1] + self.t1

    def rows(self) -> Leaves:
        """All output rows."""
        bk = self.bk
        start = self._stepper().start(self.start, self.leaves)
        final, states = bk.scan_states(self.final.n, self.loop.max_steps, self._advance, start)
        parts, rows = self.loop.outputs.parts, self.loop.outputs.rows_inside(self.final)
        found = [self._rows_of(*part, states, final) for part in zip(parts, rows, strict=True)]
        return tuple(x for leaves in found for x in leaves)

    def _rows_of(self, out: Output, count: Index, states: Buffer, final: State) -> Leaves:
        """Those of one output, with so many inside the loop."""
        bk, emit = self.bk, self._emitter(out)
        blocks = [_stack(bk, [emit(self.start, self.leaves)])] if out.saveat.t0 else []
        if out.inside == "ts":
            blocks.append(bk.map_rows(lambda j: self._at(out.first + j, states, emit), count))
        elif out.inside:
            blocks.append(self._step_rows(out, count, states, final))
        if out.saveat.final:
            blocks.append(_stack(bk, [emit(self.end, self._state(final))]))
        if len(blocks) == 1:
            return blocks[0]
        return tuple(bk.xp.concat(leaves, axis=0) for leaves in zip(*blocks, strict=True))

    def _step(self, i: Index) -> tuple[Scalar, Scalar]:
        """Start and size of step i, with their derivatives."""
        t, h = self.grid.step(i)
        where, last = self.loop.clock.where, i + 1 == self.final.n
        begins, moved, _ = self.grid.moves(i, last, t, h)
        start, size = where(begins, self.t0, 0.0), where(moved, self.t0, 0.0)
        return t + start, h - size + where(last, self.t1, 0.0)

    def _stepper(self) -> AbstractStepper:
        forms = _ListForms(self.bk)
        return self.loop.steps().stepper(forms, self.layout, self.field)

    def _state(self, carried: State) -> State:
        return self.loop.solver.state(self.layout, carried)

    def _advance(self, i: Index, y: State) -> State:
        return self._stepper().step(*self._step(i), y, None, error=False).y1

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
        t, h = self._step(i)
        stepper = self._stepper()
        y = self.bk.look_state(states, i)
        stepper.step(t, h, y, stepper.init(t, y), error=True)
        stepper.extra_stages()
        return t, h, stepper

    def _step_rows(self, out: Output, count: Index, states: Buffer, final: State) -> Leaves:
        """Rows of the steps' ends: the state before the next step, and the last; and those at
        fixed parts of each step."""
        bk, n, emit, nodes = self.bk, self.final.n, self._emitter(out), len(out.nodes)

        def end(i: Index) -> Leaves:
            t, h = self._step(i)
            y = self._state(bk.look_state(states, i + 1, n, final))
            return emit(t + h, y)  # type: ignore[no-any-return]

        def all_nodes(i: Index) -> Leaves:
            t, h, stepper = self._again(i, states)
            inside = out.nodes if out.whole else out.nodes[:-1]
            rows = [emit(t + x * h, stepper.interpolate(x)) for x in inside]
            return _stack(bk, rows if out.whole else [*rows, end(i)])

        if nodes == 1:
            return bk.blank(bk.map_rows(end, count), n, 0.0)
        steps = bk.map_rows(all_nodes, count // nodes)
        rows = tuple(bk.xp.reshape(x, (-1, *x.shape[2:])) for x in steps)
        return bk.blank(rows, n * nodes, 0.0)


class _ListForms:
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


def _stack(bk: AbstractBackend, rows: Sequence[Sequence[Array]]) -> Leaves:
    return tuple(bk.xp.stack([row[i] for row in rows]) for i in range(len(rows[0])))
