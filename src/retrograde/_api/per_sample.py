"""``per_sample=True``: checks of a batch's arguments, and the solve of it, eager or traced.

Eager libraries run one loop for all samples (``_integrate.samples``). Traced ones map single
solves over the samples, by the batching rule of their adapter; and what the loop does not serve is
solved sample by sample (``single_samples``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .._adjoints import RecursiveCheckpointAdjoint, find_adjoint
from .._adjoints.per_sample_vjp import SampleGradient
from .._backend.protocols import Capability
from .._backend.registry import backend_beside
from .._base.errors import InputError
from .._base.log import INFO, listener
from .._base.plain_input import cotangent_leaf, state
from .._base.types import (
    Array,
    Aux,
    Function,
    Inputs,
    Leaves,
    Namespace,
    NeedsGradient,
    Residuals,
    Table,
    Time,
    Tree,
    VectorFieldFn,
)
from .._controllers import AbstractController, ConstantSteps, StepTo
from .._integrate.moving_times import moves, zero_of
from .._integrate.outputs import Outputs, cotangent_leaves
from .._integrate.relative_time import resolution
from .._integrate.samples.loop import SampleIntegrator, SampleTimes
from .._integrate.samples.problem import PerSample, SampleProblem
from .._integrate.samples.record import SampleFinal
from .._integrate.saveat import SaveAt
from .._integrate.solution import Gradients, Solution, Status, without_times
from .._planner.plan import Plan
from .._planner.samples import checked_adjoint, plan_samples
from .._solvers import ExplicitRungeKutta, find_solver
from .arguments import (
    check_solver,
    check_tolerances,
    controller_of,
    max_steps_of,
    output_of,
    prepare,
    saveats_of,
    settings_of,
)
from .mixed_dtypes import casts
from .single_samples import SingleSolves, of_all
from .single_samples_vjp import single_samples_vjp
from .solve_program import DifferentiableSolve

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._integrate.integrator import Integrator
    from .options import Options


PROBED = 16
"""Samples of a batch whose steps a plan predicts; f has few evaluations in each."""


def solve_samples(
    single: Function, f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree, options: Options
) -> Solution[Tree]:
    """``solve(..., per_sample=True)``; ``single`` is ``solve``."""
    bk, args, marks = _unmarked(y0, (t0, t1), args, options)
    if _singly(bk, y0, args, options):
        return SingleSolves(single, bk, (f, marks), options).solution(y0, t0, t1, args)
    loop, inputs = prepare(f, y0, t0, t1, args, options, prepared=partial(_prepared, marks))
    loop.progress, loop.on_step = options.progress, options.on_step
    program = SampleSolve(cast("SampleIntegrator", loop), options)
    leaves, aux = bk.differentiate(program, inputs)
    given = t0, t1, saveats_of(options.saveat)[0][0].ts
    return _solution(program, leaves, aux, given=given, throw=options.throw)


def solve_samples_vjp(
    singles: tuple[Function, Function], f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree,
    options: Options,
) -> tuple[Solution[Tree], Callable[..., Gradients[Tree]]]:  # fmt: skip
    """``solve_vjp(..., per_sample=True)``; ``singles`` are ``solve_vjp`` and ``solve``."""
    bk, args, marks = _unmarked(y0, (t0, t1), args, options)
    if _singly(bk, y0, args, options):
        traced = Capability.TRACED in bk.capabilities
        solves = SingleSolves(singles[traced], bk, (f, marks), options)
        return single_samples_vjp(solves, (y0, t0, t1, args))
    pullback = SamplePullback((f, y0, t0, t1, args, options), marks)
    program = pullback.program
    solution = _solution(program, *pullback.forward(), throw=options.throw)
    pullback.ys, pullback.ts = solution.ys, solution.ts
    return solution, pullback


def plan_of_samples(
    single: Function, f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree, options: Options
) -> Plan:
    """``plan(..., per_sample=True)``; ``single`` is ``plan``.

    The steps are those predicted of the sample that takes most, of ``PROBED`` throughout the batch.
    """
    bk, args, marks = _unmarked(y0, (t0, t1), args, options)
    singly = _singly(bk, y0, args, options)
    probe = options if singly else replace(options, memory=None)  # asked for its steps alone
    solves = SingleSolves(single, bk, (f, marks), probe)
    batch = solves.batch(y0, t0, t1, args)
    every = -(-batch.samples // PROBED)
    plans = [solves.of_sample(batch, i) for i in range(0, batch.samples, every)]
    most: Plan = max(plans, key=lambda plan: plan.steps or 0)
    if singly:
        return of_all([most] * batch.samples)
    loop, inputs = prepare(f, y0, t0, t1, args, options, prepared=partial(_prepared, marks))
    batched = cast("SampleIntegrator", loop)
    program = SampleSolve(batched, options)
    wanted = NeedsGradient(loop.problem.differentiable, True, True, loop.outputs.timed)
    counts = [batch.samples] * (most.steps or 0)
    parts = batched.placed(inputs), inputs, counts, wanted, program.named, options.memory
    return plan_samples(*parts, known=False)


class SamplePullback:
    """``pullback(cotangent of sol.ys) -> Gradients``.

    It may be pickled: where it arrives, the call is prepared anew.

    Parameters
    ----------
    call : tuple
        f, y0, t0, t1, args and the Options of the solve.
    marks : sequence of bool
        Which leaves of args belong to samples.
    """

    def __init__(self, call: tuple[Any, ...], marks: Sequence[bool]) -> None:
        self.call, self.marks = call, marks
        self.ys: Tree = None
        self.ts: Array = None
        self._prepare()

    def _prepare(self) -> None:
        f, y0, t0, t1, args, options = self.call
        ready = partial(_prepared, self.marks)
        loop, inputs = prepare(f, y0, t0, t1, args, options, native=False, prepared=ready)
        loop.problem.notice = loop.problem.note_untimed
        loop.progress, loop.on_step = options.progress, options.on_step
        self.program = SampleSolve(cast("SampleIntegrator", loop), options)
        self.inputs = loop.bk.detach(loop.problem, inputs)

    def __getstate__(self) -> dict[str, Tree]:
        names = ("call", "marks", "ys", "ts", "leaves", "residuals")
        return {name: getattr(self, name) for name in names} | {"plan": self.program.plan}

    def __setstate__(self, state: dict[str, Tree]) -> None:
        plan = state.pop("plan")
        vars(self).update(state)
        self._prepare()
        self.program.plan, self.program.adjoint = plan, plan.adjoint

    def forward(self) -> tuple[Leaves, Aux]:
        """Solve; (output leaves, what else the solve tells)."""
        bk, wanted = self.program.loop.bk, self._wanted()
        run = self.program.of(wanted)
        with bk.quiet():
            self.leaves, aux, self.residuals = bk.run_forward(run, self.inputs)
        return self.leaves, aux

    def _wanted(self) -> NeedsGradient:
        loop = self.program.loop
        return NeedsGradient(loop.problem.differentiable, True, True, loop.outputs.timed)

    def __call__(self, cotangent: Tree, ts: Tree = None) -> Gradients[Tree]:
        """Gradients from the cotangents of ``sol.ys`` and ``sol.ts``; one of them may be None."""
        loop = self.program.loop
        bk, problem, out = loop.bk, loop.problem, loop.output
        if cotangent is None and ts is None:
            raise InputError("the cotangent holds None; pass an array or a tree like `sol.ys`.")
        cts = tuple(map(bk.zeros_like, self.leaves))
        if cotangent is not None:
            cts = cotangent_leaves(cast("AbstractBackend", bk), self.leaves, self.ys, cotangent)
        with bk.quiet():
            g = bk.run_reverse(self.program, self.inputs, self.residuals, cts, self._wanted())
        if ts is not None:
            g = self._with_times(g, cotangent_leaf(cast("AbstractBackend", bk), ts, self.ts))
        ts = g.ts if out.inside else None
        found = Gradients(problem.state_tree(g.y0), problem.gradient_tree(g.params), g.t0, g.t1, ts)
        if problem.untimed is None:
            return found
        times = zip(found._fields[2:], found[2:], strict=True)
        lost = [k for k, x in times if x is not None and bool(bk.xp.any(x != x))]
        return without_times(found, lost, problem.untimed)

    def _with_times(self, g: Inputs, ct: Array) -> Inputs:
        """The same with cotangents of the times of rows, which are those that were given."""
        if tuple(ct.shape) != tuple(self.ts.shape):
            raise InputError(
                f"`ts` has the shape {tuple(ct.shape)} where `sol.ts` has {tuple(self.ts.shape)}; "
                "make them equal."
            )
        loop, wish, inputs = self.program.loop, self.program.loop.output.saveat, self.inputs
        xp = loop.bk.xp
        if wish.t0:
            g = g._replace(t0=g.t0 + _like(xp, ct[0, :], inputs.t0))
        if wish.final:
            g = g._replace(t1=g.t1 + _like(xp, ct[-1, :], inputs.t1))
        if loop.output.inside:
            own = ct[int(wish.t0) : ct.shape[0] - int(wish.final), :]
            g = g._replace(ts=g.ts + loop.like_saved(own))
        return g


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
        return *self._rows(loop, inputs, final), [final]

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
        return self._rows(loop, inputs, loop.integrate_samples(inputs))

    def _rows(
        self, loop: SampleIntegrator, inputs: Inputs, final: SampleFinal
    ) -> tuple[Leaves, Aux]:
        times, t = loop.row_times(inputs, final), loop.user_times(inputs, final.t)
        return loop.row_leaves(inputs, final), (times, final, t)

    def failed(self, aux: Aux) -> bool:
        return False


def _like(xp: Namespace, t: Array, given: Time) -> Array:
    """Cotangents of times of samples, summed where the samples share the time."""
    return t if len(getattr(given, "shape", ())) else xp.sum(t)


# --- arguments
def _unmarked(
    y0: Tree, times: tuple[Time, Time], args: Tree, options: Options
) -> tuple[AbstractBackend, Tree, list[bool]]:
    """The library, args without marks, and which of its leaves had one."""
    bk = backend_beside(y0, args, (*times, *(part.ts for part in saveats_of(options.saveat)[0])))
    leaves, treedef = bk.flatten(args)
    values, marks = [], []
    for leaf in leaves:
        mark = isinstance(leaf, PerSample)
        value = leaf.value if mark else leaf
        value = state(bk, value, (y0,)) if mark and isinstance(value, list) else value
        values.append(value)
        marks += [mark] * len(bk.flatten(value)[0])
    return bk, bk.unflatten(treedef, values), marks


def _prepared(
    marks: Sequence[bool],
    bk: AbstractBackend,
    call: tuple[VectorFieldFn, Tree, Time, Time, Tree],
    given: Tree,
    saveats: tuple[list[SaveAt], Tree],
    options: Options,
    eps: float,
) -> tuple[Integrator, Inputs]:
    """The loop of a batch and its inputs."""
    f, y0, t0, t1, args = call
    saveat = saveats[0][0]
    saveat_ts = saveat.ts
    if options.compile:
        raise InputError("`compile` is no part of `per_sample=True`; leave it out.")
    problem = SampleProblem(bk, f, y0, args, marks)
    solver, controller = find_solver(options.solver), controller_of(options)
    check_solver(solver, controller)
    check_tolerances(problem, controller)
    solver.check(problem)
    bk = problem.bk
    begin = _times(problem, "t0", t0)
    times = _sample_times(problem, (begin, _times(problem, "t1", t1)), saveat, eps)
    controller.check(None, None)
    _check_direction(bk.xp, controller, times)
    problem.layout = problem.layout.of(problem.layout.samples, times.origin)
    bk.capture(problem, 0.0)
    if problem.drawn:
        raise InputError(
            "`f` draws random numbers, which `per_sample=True` can't hold for samples whose times "
            "differ; draw them before the solve and hand them in by `args`."
        )
    max_steps = max_steps_of(bk, options.max_steps, None)
    if saveat.ts is not None:  # of which an output needs the number alone
        saveat = replace(saveat, ts=range(int(times.ts.shape[0])))
    outputs = Outputs(bk, [output_of(problem, saveat, 0.0, (None, max_steps), 0)])
    settings = settings_of(problem, controller)
    if isinstance(controller, ConstantSteps):
        settings = ()
    loop = SampleIntegrator(problem, solver, controller, outputs, max_steps, None)
    loop.rounding = eps
    loop.times_by_sample = len(getattr(saveat_ts, "shape", ())) == 2
    ts: Table = () if saveat_ts is None else saveat_ts
    if bk.is_array(ts) and bk.tracked(ts):
        ts = bk.time_sequence(ts, problem.layout)
    inputs = Inputs(problem.y0, problem.params, t0, t1, ts, settings, relative=times)
    return loop, inputs


def _singly(bk: AbstractBackend, y0: Tree, args: Tree, options: Options) -> str:
    """What of a batch the loop over all samples at once does not serve, so that each is solved by
    itself; "" where it serves all."""
    solver, controller = find_solver(options.solver), controller_of(options)
    if isinstance(controller, StepTo):
        raise InputError(
            "`controller=StepTo(...)` gives all samples the same steps; leave `per_sample` out."
        )
    if getattr(controller, "norm", "rms") == "worst_sample":
        raise InputError(
            "`norm` is 'worst_sample', but each sample has steps of its own; choose 'rms' or 'max'."
        )
    if Capability.TRACED in bk.capabilities:
        return bk.name
    saveats, places = saveats_of(options.saveat)
    adjoint = options.adjoint.adjoint if isinstance(options.adjoint, Plan) else options.adjoint
    named = find_adjoint(adjoint)
    reasons = {
        "event": options.event,
        "saveat": places is not None or saveats[0].dense or saveats[0].steps,
        "solver": not isinstance(solver, ExplicitRungeKutta),
        "adjoint": not (named is None or isinstance(named, RecursiveCheckpointAdjoint)),
        "norm": getattr(controller, "norm", "rms") != "rms",
        "step_ts": getattr(controller, "step_ts", None) is not None,
        "jump_ts": getattr(controller, "jump_ts", None) is not None,
        "dtypes": casts(bk, state(bk, y0, (args,)), args) is not None,
    }
    found = next((name for name, value in reasons.items() if value), "")
    if found and (log := listener(INFO)):
        log.info("A batch is solved sample by sample, for the sake of its `%s`.", found)
    return found


def _check_direction(xp: Namespace, controller: AbstractController, times: SampleTimes) -> None:
    """Raise InputError where a step leads away from the end of its sample."""
    for name in ("dt", "dt0"):
        step = getattr(controller, name, None)
        if step is not None and bool(xp.any(times.end * float(step) < 0)):
            raise InputError(
                f"`{name}` is {float(step)!r}, but t1 - t0 of some samples has the other sign; "
                "solve those that run forward and those that run backward in two batches."
            )


def _times(problem: SampleProblem, name: str, t: Time) -> Array:
    """Times of the samples, shape (B,), from a number or an array."""
    layout, bk = problem.layout, problem.bk
    found = layout.clock.array(bk.stop_gradient(t) if bk.is_array(t) else t)
    shape = tuple(found.shape)
    if shape not in ((), (layout.samples,)):
        raise InputError(
            f"`{name}` has shape {shape}; pass a number, or one for each sample, shape "
            f"({layout.samples},)."
        )
    found = layout.clock.real(found)
    if not bool(bk.xp.all(bk.xp.isfinite(found))):
        raise InputError(f"`{name}` holds nan or inf; pass finite times.")
    return found


def _sample_times(
    problem: SampleProblem, span: tuple[Array, Array], saveat: SaveAt, eps: float
) -> SampleTimes:
    """Times as the clock counts them."""
    bk, clock, (begin, end) = problem.bk, problem.layout.clock, span
    xp = bk.xp
    shifted = bool(xp.any(begin != 0))
    ts: Array = ()
    if saveat.ts is not None:
        given: Table = saveat.ts
        rounding = max(eps, resolution(bk, (given,)))
        if not bk.is_array(given):  # numbers, in the precision of Python's
            given = bk.concrete_times(given)
        array = bk.stop_gradient(given) if bk.is_array(given) else given
        ts = _saved_times(problem, clock.array(array), span, rounding)
        ts = ts - begin if shifted else ts
    return SampleTimes(end - begin if shifted else end, ts, begin if shifted else None)


def _saved_times(problem: SampleProblem, ts: Array, span: tuple[Array, Array], eps: float) -> Array:
    """Saved times of all samples, (k, B), those beyond an end by rounding alone set to it."""
    xp, (begin, end), samples = problem.bk.xp, span, problem.layout.samples
    shape = tuple(ts.shape)
    if len(shape) == 2 and shape[0] != samples:
        raise InputError(
            f"`saveat.ts` has shape {shape}; pass (k,), or a row for each sample, ({samples}, k)."
        )
    ts = xp.permute_dims(ts, (1, 0)) if len(shape) == 2 else ts[:, None]
    ts = xp.broadcast_to(ts, (ts.shape[0], samples)) + xp.zeros_like(end)
    low, high = xp.minimum(begin, end), xp.maximum(begin, end)
    inside = xp.minimum(xp.maximum(ts, low), high)
    slack = 2 * eps * xp.maximum(xp.abs(begin), xp.abs(end))
    if not bool(xp.all(xp.abs(ts - inside) <= slack)):
        raise InputError(
            "`saveat.ts` holds a time outside of t0 to t1 of its sample, or one that is not "
            "finite; drop it, or extend the solve."
        )
    ahead = (inside[1:, :] - inside[:-1, :]) * xp.sign(end - begin)
    if not bool(xp.all(ahead >= 0)):
        raise InputError("`saveat.ts` is out of order; sort it in the direction of the solve.")
    return inside


# --- the solution
def _moving(loop: SampleIntegrator, given: tuple[Tree, ...], times: Array) -> Array:
    """Zeros like the times of rows, with the derivatives of the times that were given."""
    bk, out = cast("AbstractBackend", loop.bk), loop.output
    t0, t1, ts = given
    rows = [t0] * out.saveat.t0 + [ts] * bool(out.inside) + [t1] * out.saveat.final
    found, first = [], 0
    for x in rows:
        count = times.shape[0] - out.saveat.t0 - out.saveat.final if x is ts else 1
        zero = bk.xp.zeros_like(times[first : first + count, :])
        first += count
        if bk.is_array(x) and moves(bk, x):
            moved = zero_of(bk, bk.xp.astype(x, times.dtype))
            if x is ts:
                by_sample = len(moved.shape) == 2
                moved = bk.xp.permute_dims(moved, (1, 0)) if by_sample else moved[:, None]
            zero = zero + moved
        found.append(zero)
    return bk.xp.concat(found, axis=0)


def _solution(
    program: SampleSolve,
    leaves: Leaves,
    aux: Aux,
    *,
    given: tuple[Tree, ...] = (),
    throw: bool,
) -> Solution[Tree]:
    """Wrap; ``given``: t0, t1 and saved times, whose derivatives the times of rows have."""
    loop = program.loop
    bk, out, problem = loop.bk, loop.output, loop.problem
    times, final, t = aux
    if any(bk.is_array(x) and moves(cast("AbstractBackend", bk), x) for x in given):
        times = times + _moving(loop, given, times)
    ys = problem.tree(leaves) if out.saveat.fn is None else bk.unflatten(out.treedef, leaves)
    program.stats.update(
        num_steps=final.tries,
        num_accepted_steps=final.n,
        num_rejected_steps=final.tries - final.n,
        num_f_evals=final.calls,
        num_sample_f_evals=problem.called[0],
        num_trial_f_evals=problem.trials,
    )
    solution = Solution(times, ys, program.stats, final.status, t, program.plan)
    failed = throw and bool(bk.xp.any(final.status != int(Status.converged)))
    return solution.raise_if_failed() if failed else solution
