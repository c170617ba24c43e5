"""The solve of a batch as adapters see it, and its pullback (``per_sample=True``, eager)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from .._adjoints import RecursiveCheckpointAdjoint, find_adjoint
from .._adjoints.per_sample_vjp import SampleGradient
from .._base.types import (
    Array,
    Aux,
    Inputs,
    Leaves,
    Namespace,
    NeedsGradient,
    Residuals,
    Time,
    Tree,
)
from .._integrate.events import Hit
from .._integrate.samples.loop import SampleIntegrator
from .._integrate.solution import Gradients, Solution, Status, without_lost_times
from .._planner.plan import Plan
from .._planner.samples import checked_adjoint, plan_samples
from .sample_solution import SampleSolution, result_leaves
from .single_samples_vjp import checked
from .solve_program import DifferentiableSolve

if TYPE_CHECKING:
    from .._integrate.samples.record import SampleFinal
    from .options import Options


class SampleSolve(DifferentiableSolve):
    """A solve of a batch as the adapters see it."""

    loop: SampleIntegrator

    def __init__(self, loop: SampleIntegrator, options: Options) -> None:
        given = options.adjoint
        named = given.adjoint if isinstance(given, Plan) else find_adjoint(given)
        self.named, self.memory = checked_adjoint(named), options.memory
        self.wanted: NeedsGradient | None = None
        super().__init__(loop, self.named or RecursiveCheckpointAdjoint())

    def of(self, wanted: NeedsGradient) -> SampleSolve:
        """This one, whose forward pass is told what is wanted."""
        self.wanted = wanted
        return self

    def forward(
        self, inputs: Inputs, wanted: NeedsGradient | None = None
    ) -> tuple[Leaves, Aux, Residuals]:
        loop, wanted = self.loop.placed(inputs), wanted or self.wanted
        assert wanted is not None
        final = loop.integrate_samples(inputs, record=True)
        assert final.record is not None
        counts = final.record.counts
        self.plan = plan_samples(loop, inputs, counts, wanted, self.named, self.memory)
        self.adjoint = self.plan.adjoint
        return *self._told(loop, inputs, final), [final.kept()]

    def reverse(
        self, inputs: Inputs, residuals: Residuals, cotangents: Leaves, wanted: NeedsGradient
    ) -> Inputs:
        loop = self.loop.placed(inputs)
        adjoint = cast("RecursiveCheckpointAdjoint", self.adjoint)
        parts = loop, inputs, residuals[0], cotangents, wanted
        g = SampleGradient(*parts, adjoint).run()
        return g._replace(
            t0=_like(loop.bk.xp, g.t0, inputs.t0), t1=_like(loop.bk.xp, g.t1, inputs.t1),
            ts=loop.like_saved(g.ts),
        )  # fmt: skip

    def primal(self, inputs: Inputs) -> tuple[Leaves, Aux]:
        loop = self.loop.placed(inputs)
        return self._told(loop, inputs, loop.integrate_samples(inputs))

    def _told(
        self, loop: SampleIntegrator, inputs: Inputs, final: SampleFinal
    ) -> tuple[Leaves, Aux]:
        return result_leaves(loop, inputs, final), (loop.row_times(inputs, final), final)

    def failed(self, aux: Aux) -> bool:
        return False

    def solution(self, inputs: Inputs, leaves: Leaves, aux: Aux, *, throw: bool) -> Solution[Tree]:
        """What the leaves, and what else the solve told, make."""
        loop, (_, final) = self.loop, aux
        self.stats.update(
            num_steps=final.tries,
            num_accepted_steps=final.n,
            num_rejected_steps=final.tries - final.n,
            num_f_evals=final.calls,
            num_sample_f_evals=loop.problem.called[0],
            num_trial_f_evals=loop.problem.trials,
        )
        if loop.solver.implicit:
            self.stats.update(loop.solver.linear_algebra(final.tries, final.n, traced=True))
        made = SampleSolution(loop.placed(inputs), inputs, leaves, aux)
        solution = made.solution(self.stats, self.plan)
        good = (final.status == int(Status.converged)) | (final.status == int(Status.event))
        failed = throw and not bool(loop.bk.xp.all(good))
        return solution.raise_if_failed() if failed else solution


class SamplePullback:
    """``pullback(cotangent of sol.ys) -> Gradients``.

    It may be pickled: where it arrives, the call is prepared anew.

    Parameters
    ----------
    call : tuple
        f, y0, t0, t1, args and the Options of the solve.
    ready : callable
        ``ready(f, y0, t0, t1, args, options)`` gives the loop and its inputs.
    """

    def __init__(self, call: tuple[Any, ...], ready: Callable[..., Any]) -> None:
        self.call, self.ready = call, ready
        self._prepare()

    def _prepare(self) -> None:
        options = self.call[-1]
        loop, inputs = self.ready(*self.call)
        loop.problem.notes_untimed = True
        loop.progress, loop.on_step = options.progress, options.on_step
        self.program = SampleSolve(cast("SampleIntegrator", loop), options)
        self.inputs = loop.bk.detach(loop.problem, inputs)

    def __getstate__(self) -> dict[str, Tree]:
        names = ("call", "ready", "leaves", "aux", "residuals", "sol")
        return {name: getattr(self, name) for name in names} | {"plan": self.program.plan}

    def __setstate__(self, state: dict[str, Tree]) -> None:
        plan = state.pop("plan")
        vars(self).update(state)
        self._prepare()
        self.program.plan, self.program.adjoint = plan, plan.adjoint

    def forward(self, *, throw: bool) -> Solution[Tree]:
        """Solve."""
        bk, wanted = self.program.loop.bk, self._wanted()
        run = self.program.of(wanted)
        with bk.quiet():
            self.leaves, (times, final), self.residuals = bk.run_forward(run, self.inputs)
        reported = times, final
        self.sol = self.program.solution(self.inputs, self.leaves, reported, throw=throw)
        self.aux = times, final._replace(inside=())
        return self.sol

    def _wanted(self) -> NeedsGradient:
        loop = self.program.loop
        return NeedsGradient(loop.problem.differentiable, True, True, loop.outputs.timed)

    def __call__(
        self,
        cotangent: Tree,
        ts: Tree = None,
        *,
        evaluated: tuple[Tree, Tree] | None = None,
        events: Sequence[Hit | None] | None = None,
    ) -> Gradients[Tree]:
        """Gradients from the cotangents of ``sol.ys``, ``sol.ts``, ``sol.evaluate(t)`` and
        ``sol.events``; None for zero."""
        loop, sol = self.program.loop.placed(self.inputs), self.sol
        bk, problem, xp = loop.bk, loop.problem, loop.bk.xp
        wish = cotangent, ts, evaluated, None if events is None else list(events)
        given = checked(bk.bk, loop.outputs.treedef, sol, wish)
        made = SampleSolution(loop, self.inputs, self.leaves, self.aux)
        cts, moved = made.pulled(given, sol)
        with bk.quiet():
            g = bk.run_reverse(self.program, self.inputs, self.residuals, cts, self._wanted())
        t0 = g.t0 + _like(xp, moved.t0, self.inputs.t0)
        t1 = g.t1 + _like(xp, moved.t1, self.inputs.t1)
        saved = made.saved_gradients(g.ts, moved)
        found = Gradients(problem.state_tree(g.y0), problem.gradient_tree(g.params), t0, t1, saved)
        return without_lost_times(bk.bk, found, problem.untimed)


def _like(xp: Namespace, t: Array, given: Time) -> Array:
    """Cotangents of times of samples, summed where the samples share the time."""
    return t if len(getattr(given, "shape", ())) else xp.sum(t)
