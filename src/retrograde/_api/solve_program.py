"""One solve as an adapter sees it: a function, with a forward and a reverse for its gradient; and
as its user holds it, whose ``Pullback`` can be called, copied and sent elsewhere.

A pullback is kept as the call that it belongs to and what the forward pass left. Where it arrives,
the call is prepared anew: functions and structures that a library makes of f (traces, compiled
programs) stay where they are. What the library's own autodiff recorded stays as well: there the
solve is run once more.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .._base.errors import InputError
from .._base.log import INFO, listener
from .._base.plain_input import cotangent_leaf
from .._base.types import (
    Array,
    Aux,
    Function,
    Index,
    Inputs,
    Leaves,
    Namespace,
    NeedsGradient,
    Residuals,
    Scalar,
    Table,
    Tree,
)
from .._integrate.dense import knot_rates
from .._integrate.event_times import knot_sources, pulled_knots, row_sources
from .._integrate.events import Hit
from .._integrate.moving_times import Moving, rates
from .._integrate.outputs import cotangent_leaves, output_times
from .._integrate.saveat import filled, parted
from .._integrate.solution import Gradients, Status, without_lost_times
from .arguments import prepare

if TYPE_CHECKING:
    from .._adjoints import AbstractAdjoint
    from .._integrate.dense import DenseOutput
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final
    from .._planner.plan import Plan


class _Moved(NamedTuple):
    """Cotangents of t0, t1, of the times of events and of the end, and of jumps (None: of none)."""

    t0: Scalar
    t1: Scalar
    ends: Leaves = ()
    jumps: Array | None = None


class DifferentiableSolve:
    """One solve as the adapters see it: a primal, and a forward and reverse for its gradient.

    Attributes
    ----------
    loop : Integrator
    adjoint : AbstractAdjoint
    fallback : AbstractAdjoint
        What takes over where the adjoint finds that it has no room (``TooManySteps``).
    stats : dict
        The solution's statistics; a reverse pass adds its own when it has run.
    plan : Plan or None
        Whose limit of steps is kept.
    """

    def __init__(
        self, loop: Integrator, adjoint: AbstractAdjoint, plan: Plan | None = None
    ) -> None:
        self.loop = loop
        self.adjoint = adjoint
        self.fallback = (plan and plan.fallback) or adjoint
        self.plan = plan
        self.stats: dict[str, Scalar] = {}
        self._bounded_loop = loop

    def key(self) -> Hashable:
        """What a compiled form of this program depends on; unhashable where it can't be kept."""
        loop = self.loop
        problem = loop.problem
        return (
            problem.key(),
            loop.solver,
            _static(loop.controller),
            loop.max_steps,
            loop.count,
            loop.shifted,
            tuple(part.key() for part in loop.outputs.parts),
            loop.times_checked,
            loop.progress,
            loop.on_step,
            None if loop.events is None else loop.events.key(),
            self.adjoint,
        )

    @property
    def given(self) -> int:
        """How many parameters are arguments of the user's, not found in closures."""
        return len(self.loop.problem.where)

    def forget(self) -> None:
        """Drop the arrays, once they are inputs of a program that outlives this call."""
        self.loop.problem.forget()

    def jvp_path(self, forward: bool) -> Callable[[Inputs], Leaves]:
        """Output leaves by operations that autodiff follows; ``forward``: in forward mode alone."""
        from .._adjoints.direct import DirectAdjoint, check_followed
        from .._adjoints.forward_mode import ForwardMode

        check_followed(self.loop)
        adjoint = ForwardMode() if forward else DirectAdjoint()
        loop = self.loop.silent()
        return lambda inputs: tuple(adjoint.primal(loop.placed(inputs), inputs)[0])

    def primal(self, inputs: Inputs) -> tuple[Leaves, Aux]:
        """(output leaves, what else the solve tells)."""
        leaves, final = self.adjoint.primal(self.loop.placed(inputs), inputs)
        return leaves, self._aux(inputs, final)

    def forward(
        self, inputs: Inputs, wanted: NeedsGradient | None = None
    ) -> tuple[Leaves, Aux, Residuals]:
        """The same, and what the reverse needs (of what is ``wanted``, where that is known)."""
        leaves, final, residuals = self._forward_within_limits(inputs, wanted)
        return leaves, self._aux(inputs, final), residuals

    def reverse(
        self, inputs: Inputs, residuals: Residuals, cotangents: Leaves, wanted: NeedsGradient
    ) -> Inputs:
        """Cotangents of the inputs."""
        loop = self._bounded_loop.silent().placed(inputs)
        if loop.clock.traced or loop.compiled:
            return self.adjoint.reverse(loop, inputs, residuals, cotangents, wanted)
        with loop.problem.counting() as counts, loop.bar_back(inputs, self.loop.progress):
            cts = self.adjoint.reverse(loop, inputs, residuals, cotangents, wanted)
        return cts._replace(stats={**(cts.stats or {}), **counts})

    def resume(self) -> int | None:
        """Take the plan's limit of steps, which is returned: for an integration, or after one."""
        limit = None if self.plan is None else self.plan.limit
        self._bounded_loop = self.loop
        if limit is not None:
            self._bounded_loop = copy.copy(self.loop)
            self._bounded_loop.max_steps = limit
        return limit

    def _forward_within_limits(
        self, inputs: Inputs, wanted: NeedsGradient | None
    ) -> tuple[Leaves, Final, Residuals]:
        """Begun again by a plan for more steps where the solve outgrows its plan.

        Never in a traced library: its records and buffers have their size before it runs.
        """
        while True:
            limit = self.resume()
            loop = self._bounded_loop.placed(inputs)
            leaves, final, residuals = self.adjoint.forward_for(loop, inputs, wanted)
            if self.plan is None or limit is None or final.status != int(Status.max_steps):
                return leaves, final, residuals
            self.loop.problem.trials += self._bounded_loop.called(final)
            del leaves, final, residuals
            from .._planner.rules import widened

            self.plan = widened(self.plan)
            self.adjoint = self.plan.adjoint
            if log := listener(INFO):
                words = (
                    "A solve took more than %d steps, the room of its plan, and begins again: %s."
                )
                log.info(words, limit, self.plan.summary)

    def failed(self, aux: Aux) -> bool:
        """Whether a run whose status is known did not reach its end, by what it told."""
        return aux[3] not in (int(Status.converged), int(Status.event))

    def tell(self, cotangents: Inputs) -> None:
        """Note what a finished reverse pass tells of itself."""
        for name, value in (cotangents.stats or {}).items():
            self.stats[name] = self.loop.bk.number(value)

    def _aux(self, inputs: Inputs, final: Final) -> Aux:
        times, t = output_times(self.loop, inputs, final), self.loop.user_time(inputs, final.t)
        inside, n = self.loop.taken(final), self.loop.outputs.steps(final)
        happened: Aux = ()
        if self.loop.events is not None:
            happened = self.loop.events.aux(final, traced=self.loop.clock.traced)
        return times, n, final.tries, final.status, t, inside, final.calls, happened


def _static(controller: Any) -> Hashable:
    """A controller without the settings that are inputs of a program (``Inputs.settings``)."""
    numbers = (int, float, str, bool, tuple, type(None))
    given = {f.name: getattr(controller, f.name) for f in dataclasses.fields(controller)}
    stops = ("step_ts", "jump_ts")  # inputs even where they are tuples
    dropped = {
        name: None
        for name, value in given.items()
        if not (isinstance(value, numbers) or callable(value))
        or (name in stops and value is not None)
    }
    return dataclasses.replace(controller, **dropped), tuple(dropped)


class Pullback:
    """``pullback(cotangent of sol.ys) -> Gradients``.

    Parameters
    ----------
    call : tuple
        f, y0, t0, t1, args and the Options of the solve.
    program : DifferentiableSolve
    inputs : Inputs
    """

    def __init__(
        self, call: tuple[Tree, ...], program: DifferentiableSolve, inputs: Inputs
    ) -> None:
        self.call, self.program, self.inputs = call, program, inputs
        self.residuals: Residuals = None
        self.ys: list[Tree] = []
        """The rows of each output, and
        """
        self.ts: list[Array] = []
        """their times."""
        self.dense: DenseOutput | None = None
        self.steps: Index = 0
        self.happened: Aux = ()

    def forward(self) -> Aux:
        """Solve; (output leaves, what else the solve tells)."""
        bk, program = self.program.loop.bk, self.program
        self.recorded: Function | None = None
        if program.adjoint.differentiable:
            self.leaves, aux, self.recorded = bk.autodiff_vjp(program, self.inputs)
        else:
            with bk.quiet():
                self.leaves, aux, self.residuals = bk.run_forward(program, self.inputs)
        self.happened = aux[-1]
        return self.leaves, aux

    def __call__(
        self,
        cotangent: Tree,
        ts: Tree = None,
        *,
        evaluated: tuple[Tree, Tree] | None = None,
        events: Sequence[Hit | None] | None = None,
    ) -> Gradients:
        """Gradients from the cotangents of ``sol.ys``, ``sol.ts``, ``sol.evaluate(t)`` and
        ``sol.events`` (for each event a Hit of cotangents, None for zero).
        """
        if all(x is None for x in (cotangent, ts, evaluated, events)):
            raise InputError("the cotangent holds None; pass an array or a tree like `sol.ys`.")
        loop = self.program.loop
        bk, problem, layout, out = loop.bk, loop.problem, loop.problem.layout, loop.outputs
        split, cast = out.split(self.leaves), problem.casts
        leaves: list[Leaves] = []
        if cotangent is not None:
            parts = parted(out.treedef, cotangent, "the cotangent")
            for one, *rows in zip(out.parts, split, self.ys, parts, strict=False):
                own, ys, ct = rows
                if cast is not None and one.saveat.fn is None:
                    ys, ct = cast.y.up(ys), cast.y.up(ct)
                leaves.append(cotangent_leaves(bk, own, ys, ct))
        rest = split[len(leaves) : len(split) - (evaluated is not None)]
        leaves += [tuple(map(bk.zeros_like, part)) for part in rest]
        moved: _Moved | None = None
        if evaluated is not None:
            found, moved = self._pull_dense(*evaluated)
            leaves.append(cotangent_leaves(bk, split[-1], found, found))
        flat = tuple(x for part in leaves for x in part)
        if loop.events is not None:
            own = self._event_cotangents(ts, events)
            moved = moved if ts is None else self._pull_step_times(ts, moved)
            if moved is not None:
                last = zip(own[-2:], moved.ends, strict=True)
                own = (*own[:-2], *(x + more for x, more in last))
            flat += own
        cts = self._pull(flat)
        if moved is not None:
            t0, t1 = (bk.scalar_array(t, layout) for t in cts[2:4])
            cts = cts._replace(t0=t0 + moved.t0, t1=t1 + moved.t1)
            if loop.events is not None:
                cts = cts._replace(jumps=())  # not told
            elif moved.jumps is not None:
                cts = self._with_jumps(cts, moved.jumps)
        if ts is not None:
            cts = self._pull_times(cts, parted(out.treedef, ts, "`ts`"))
        time = partial(bk.scalar_array, layout=layout)
        g = Gradients(
            problem.state_tree(cts.y0), problem.gradient_tree(cts.params), time(cts.t0),
            time(cts.t1), self._saved(cts.ts), self._jumps(cts.jumps),
        )  # fmt: skip
        g = g if cast is None else cast.gradients(g)
        return without_lost_times(bk, g, problem.untimed)

    def _pull_dense(self, t: Tree, cotangent: Tree) -> tuple[list[Array], _Moved]:
        """Cotangents of dense output's rows, of t0, t1 and of the times of events and the end, from
        that of y at t."""
        loop, dense = self.program.loop, self.dense
        if dense is None:
            raise InputError("`evaluated` needs dense output; pass `saveat=rg.SaveAt(dense=True)`.")
        bk, xp = loop.bk, loop.bk.xp
        ys = dense.evaluate(t)
        own = cotangent_leaves(bk, tuple(bk.flatten(ys)[0]), ys, cotangent, "sol.evaluate(t)")
        rows, knots, sizes, origin = dense.pull(t, own)
        end = xp.zeros_like(knots[:1])
        if loop.events is not None:
            return rows, self._pull_knots(knots, sizes, origin)
        if int(sizes.shape[0]):  # sizes are spans between knots
            knots = knots + xp.concat([end, sizes], axis=0) - xp.concat([sizes, end], axis=0)
        by = knot_rates(loop, self.inputs, loop.outputs.parts[-1], dense.knots, self.steps)
        t0 = xp.sum(by.t0 * knots) + (origin if loop.shifted else 0.0)
        return rows, _Moved(t0, xp.sum(by.t1 * knots), jumps=_by_jumps(by, knots, xp))

    def _pull_knots(self, knots: Array, sizes: Array, origin: Scalar) -> _Moved:
        """Cotangents of t0, t1, times of events and end from those of knots, sizes and origin."""
        loop, dense = self.program.loop, self.dense
        bk, xp = loop.bk, loop.bk.xp
        assert dense is not None
        end, happened = xp.zeros_like(knots[:1]), self.leaves[loop.outputs.width :]
        start = bk.stop_gradient(dense.origin)
        grid = (dense.knots + start, dense.sizes), self.steps, happened, self.happened
        place, starts, ends = knot_sources(loop, self.inputs, *grid)
        total = knots + xp.concat([end, ends * sizes], axis=0)
        total = total - xp.concat([starts * sizes, end], axis=0)
        by = pulled_knots(loop, place, happened, total)
        t0 = by[0] + (origin - xp.sum(knots) if loop.shifted else 0.0)
        return _Moved(t0, 0.0, (by[1:-1], xp.reshape(by[-1], ())))

    def _pull_step_times(self, ts: Tree, moved: _Moved | None) -> _Moved | None:
        """``moved`` with what comes of the times of rows at steps' ends, cotangents ``ts``."""
        loop, bk, xp = self.program.loop, self.program.loop.bk, self.program.loop.bk.xp
        happened, layout = self.leaves[loop.outputs.width :], self.program.loop.problem.layout
        given = parted(loop.outputs.treedef, ts, "`ts`")
        for part, times, ct in zip(loop.outputs.parts, self.ts, given, strict=False):
            if ct is None or part.inside != "steps":
                continue
            first = part.saveat.t0
            reported = happened, self.happened
            place = row_sources(loop, self.inputs, times, self.steps, reported, first=first)
            ct = bk.array(ct, layout.real_dtype, layout.device)[int(first) :]
            by = pulled_knots(loop, place, happened, ct)
            more = _Moved(by[0], 0.0, (by[1:-1], xp.reshape(by[-1], ())))
            if moved is None:
                moved = more
            else:
                ends = (a + b for a, b in zip(moved.ends, more.ends, strict=True))
                moved = _Moved(moved.t0 + more.t0, moved.t1, tuple(ends))
        return moved

    def _event_cotangents(self, ts: Tree, events: Sequence[Hit | None] | None) -> Leaves:
        """Cotangents of what the events tell, the time of the end among it."""
        loop = self.program.loop
        assert loop.events is not None
        ends = [] if ts is None else parted(loop.outputs.treedef, ts, "`ts`")
        pairs = zip(loop.outputs.parts, ends, strict=False)
        ends = [ct for part, ct in pairs if part.saveat.final and ct is not None]
        leaves = self.leaves[loop.outputs.width :]
        return loop.events.cotangents(loop.problem, leaves, self.happened, events, ends)

    def _saved(self, ts: Table) -> Tree:
        """Cotangents of the saved times of each output that has some."""
        loop = self.program.loop
        if not loop.outputs.timed:
            return None
        ts = loop.bk.times_array(ts, loop.problem.layout)
        found = [
            ts[part.first : part.last + 1] if part.inside == "ts" else None
            for part in loop.outputs.parts
        ]
        return filled(loop.outputs.treedef, found)

    def _with_jumps(self, cts: Inputs, more: Array) -> Inputs:
        """The same with cotangents of jumps added, where they are told."""
        if not len(cts.jumps):
            return cts
        return cts._replace(
            jumps=self.program.loop.bk.times_array(cts.jumps, self.program.loop.layout) + more
        )

    def _jumps(self, jumps: Table) -> Array | None:
        """Cotangents of the times of jumps."""
        loop = self.program.loop
        return loop.bk.times_array(jumps, loop.problem.layout) if len(jumps) else None

    def _pull_times(self, cts: Inputs, given: Sequence[Tree]) -> Inputs:
        """The same with cotangents of the rows' times added."""
        loop = self.program.loop
        bk, layout, xp = loop.bk, loop.problem.layout, loop.bk.xp
        t0, t1 = (bk.scalar_array(t, layout) for t in cts[2:4])
        own = [bk.times_array(cts.ts, layout)] if loop.outputs.timed else []
        for part, times, ct in zip(loop.outputs.parts, self.ts, given, strict=False):
            if ct is None:
                continue
            ct = cotangent_leaf(bk, ct, times)
            if tuple(ct.shape) != tuple(times.shape):
                raise InputError(
                    f"`ts` has the shape {tuple(ct.shape)} where `sol.ts` has "
                    f"{tuple(times.shape)}; make them equal."
                )
            by = rates(loop, self.inputs, part, times, self.steps)
            t0, t1 = t0 + xp.sum(by.t0 * ct), t1 + xp.sum(by.t1 * ct)
            if (more := _by_jumps(by, ct, xp)) is not None:
                cts = self._with_jumps(cts, more)
            if part.inside == "ts":
                first, last, start = part.first, part.last + 1, int(part.saveat.t0)
                mine = own[0][first:last] + ct[start : start + last - first]
                own = [xp.concat([own[0][:first], mine, own[0][last:]], axis=0)]
        return cts._replace(t0=t0, t1=t1, ts=own[0] if own else cts.ts)

    def _pull(self, cotangents: Leaves) -> Inputs:
        program, loop = self.program, self.program.loop
        if self.recorded is not None:
            found: Inputs = self.recorded(cotangents)
            return found
        wanted = NeedsGradient(
            loop.problem.differentiable, True, True, loop.outputs.timed,
            jumps=len(self.inputs.jumps) > 0 and program.adjoint.kind in ("exact", "guarded"),
        )  # fmt: skip
        with loop.bk.quiet():
            cts: Inputs = loop.bk.run_reverse(
                program, self.inputs, self.residuals, cotangents, wanted
            )
        program.tell(cts)
        return cts

    # --- elsewhere
    def __getstate__(self) -> dict[str, Any]:
        names = ("call", "leaves", "residuals", "ys", "ts", "dense", "steps", "happened")
        return {name: getattr(self, name) for name in names} | {"plan": self.program.plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        plan = state.pop("plan")
        self.__dict__.update(state)
        f, y0, t0, t1, args, options = self.call
        loop, inputs = prepare(f, y0, t0, t1, args, options, native=False)
        loop.problem.notes_untimed = True
        self.inputs = loop.bk.detach(loop.problem, inputs)
        self.program = DifferentiableSolve(loop, plan.adjoint, plan)
        self.recorded = None
        if plan.adjoint.differentiable:
            self.forward()
        else:
            self.program.resume()


def _by_jumps(by: Moving, cotangents: Array, xp: Namespace) -> Array | None:
    """Cotangents of jumps from those of times that move with them."""
    return None if by.jumps is None else xp.sum(by.jumps * cotangents[:, None], axis=0)


def note_steps(program: DifferentiableSolve, inputs: Inputs, n: Index) -> None:
    """Let the next plan of the same adaptive problem know how many steps this one took."""
    count = program.loop.bk.concrete(n)
    if program.plan is not None and program.loop.adaptive and count is not None:
        from .._planner.step_count import remember

        remember(program.loop, inputs, int(count), program.plan.steps)
