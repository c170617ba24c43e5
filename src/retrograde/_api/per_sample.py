"""``per_sample=True``: checks of a batch's arguments, and the solve of it, eager or traced.

Eager libraries run one loop for all samples (``_integrate.samples``). Traced ones map single
solves over the samples, by the batching rule of their adapter; and what the loop does not serve is
solved sample by sample (``single_samples``).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from .._adjoints import RecursiveCheckpointAdjoint, find_adjoint
from .._autodiff.prepare_derivatives import prepare_derivatives
from .._autodiff.sample_derivatives import NotTogether, SampleDerivatives
from .._backend.protocols import Capability
from .._backend.registry import backend_beside
from .._base.errors import InputError
from .._base.log import INFO, listener
from .._base.plain_input import state
from .._base.types import (
    Array,
    Function,
    Inputs,
    Namespace,
    NeedsGradient,
    Table,
    Time,
    Tree,
    VectorFieldFn,
)
from .._controllers import AbstractController, ConstantSteps, StepTo
from .._integrate.dense import DENSE
from .._integrate.events import Events
from .._integrate.outputs import Output, Outputs
from .._integrate.problem import Problem
from .._integrate.relative_time import resolution
from .._integrate.samples.loop import SampleIntegrator, SampleTimes
from .._integrate.samples.problem import PerSample, SampleProblem
from .._integrate.saveat import SaveAt, check_times_form
from .._integrate.solution import Gradients, Solution
from .._planner.plan import Plan
from .._planner.samples import plan_samples
from .._solvers import ExplicitRungeKutta, Rosenbrock, find_solver
from .arguments import (
    check_solver,
    check_tolerances,
    controller_of,
    dense_nodes,
    event_controller,
    max_steps_of,
    output_of,
    prepare,
    saveats_of,
    settings_of,
)
from .mixed_dtypes import casts
from .sample_program import SamplePullback, SampleSolve
from .single_samples import SingleSolves, of_all
from .single_samples_vjp import single_samples_vjp

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._integrate.integrator import Integrator
    from .options import Options


TOGETHER = (ExplicitRungeKutta, Rosenbrock)
"""Methods that the loop over all samples serves."""

PROBED = 16
"""Samples of a batch whose steps a plan predicts; f has few evaluations in each."""


def solve_samples(
    single: Function, f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree, options: Options
) -> Solution[Tree]:
    """``solve(..., per_sample=True)``; ``single`` is ``solve``."""
    bk, args, marks = _unmarked(y0, (t0, t1), args, options)
    alone = SingleSolves(single, bk, (f, marks), options)
    if _singly(bk, y0, args, options) or _jacobians(alone, y0, t0, t1, args):
        return alone.solution(y0, t0, t1, args)
    loop, inputs = prepare(f, y0, t0, t1, args, options, prepared=partial(_prepared, marks))
    loop.progress, loop.on_step = options.progress, options.on_step
    program = SampleSolve(cast("SampleIntegrator", loop), options)
    try:
        leaves, aux = bk.differentiate(program, inputs)
    except NotTogether:
        return alone.solution(y0, t0, t1, args)
    return program.solution(inputs, leaves, aux, throw=options.throw)


def solve_samples_vjp(
    singles: tuple[Function, Function], f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree,
    options: Options,
) -> tuple[Solution[Tree], Callable[..., Gradients[Tree]]]:  # fmt: skip
    """``solve_vjp(..., per_sample=True)``; ``singles`` are ``solve_vjp`` and ``solve``."""
    bk, args, marks = _unmarked(y0, (t0, t1), args, options)
    traced = Capability.TRACED in bk.capabilities
    alone = SingleSolves(singles[traced], bk, (f, marks), options)
    if not (_singly(bk, y0, args, options) or _jacobians(alone, y0, t0, t1, args, gradient=True)):
        ready = partial(prepare, native=False, prepared=partial(_prepared, marks))
        pullback = SamplePullback((f, y0, t0, t1, args, options), ready)
        with contextlib.suppress(NotTogether):
            return pullback.forward(throw=options.throw), pullback
    return single_samples_vjp(alone, (y0, t0, t1, args))


def plan_of_samples(
    single: Function, f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree, options: Options
) -> Plan:
    """``plan(..., per_sample=True)``; ``single`` is ``plan``.

    The steps are those predicted of the sample that takes most, of ``PROBED`` throughout the batch.
    """
    bk, args, marks = _unmarked(y0, (t0, t1), args, options)
    alone = SingleSolves(single, bk, (f, marks), options)
    singly = _singly(bk, y0, args, options) or _jacobians(alone, y0, t0, t1, args, gradient=True)
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
    if options.compile:
        raise InputError("`compile` is no part of `per_sample=True`; leave it out.")
    problem = SampleProblem(bk, f, y0, args, marks)
    solver, controller = find_solver(options.solver), controller_of(options)
    check_solver(solver, controller)
    check_tolerances(problem, controller)
    solver.check(problem)
    bk = problem.bk
    begin = _times(problem, "t0", t0)
    times = _sample_times(problem, (begin, _times(problem, "t1", t1)), saveats[0], eps)
    controller.check(None, None)
    _check_direction(bk.xp, controller, times)
    problem.layout = problem.layout.of(problem.layout.samples, times.origin)
    bk.capture(problem, 0.0)
    if solver.implicit:
        library = Capability.AUTODIFF in bk.capabilities
        kind = "library" if library else "complex step"
        problem.derivatives = SampleDerivatives(weakref.ref(problem), kind, 0.0)
    if problem.drawn:
        raise InputError(
            "`f` draws random numbers, which `per_sample=True` can't hold for samples whose times "
            "differ; draw them before the solve and hand them in by `args`."
        )
    max_steps = max_steps_of(bk, options.max_steps, None)
    events = Events.of(problem, options.event, 0.0, problem.layout.samples)
    if events is not None:
        controller = event_controller(bk, controller)
    outputs = _outputs(problem, saveats, max_steps, dense_nodes(solver, options))
    settings = settings_of(problem, controller)
    if isinstance(controller, ConstantSteps):
        settings = ()
    loop = SampleIntegrator(problem, solver, controller, outputs, max_steps, None)
    loop.rounding, loop.events = eps, events
    loop.forms = [len(getattr(one.ts, "shape", ())) == 2 for one in saveats[0]]
    given = [one.ts for one in saveats[0] if one.ts is not None]
    ts = _given_times(problem, given)
    inputs = Inputs(problem.y0, problem.params, t0, t1, ts, settings, relative=times)
    return loop, inputs


def _outputs(
    problem: SampleProblem,
    saveats: tuple[list[SaveAt], Tree],
    max_steps: int | None,
    nodes: tuple[float, ...],
) -> Outputs:
    """All outputs; ``nodes`` of dense output, if any."""
    bk, bounds, first, parts = problem.bk, (None, max_steps), 0, []
    for one in saveats[0]:
        if one.ts is not None:  # of which an output needs the number alone
            one = replace(one, ts=range(check_times_form("saveat.ts", one.ts, 2)))
        parts.append(output_of(problem, one, 0.0, bounds, first))
        first += (parts[-1].count or 0) if one.ts is not None else 0
    if nodes:
        parts.append(Output(bk, DENSE, problem.layout, None, 0, nodes))
    return Outputs(bk, parts, saveats[1], dense=bool(nodes))


def _given_times(problem: SampleProblem, given: list[Table]) -> Table:
    """Saved times as they were given, whose derivatives may be asked for: those of several in a
    row."""
    bk, xp = problem.bk, problem.bk.xp
    if len(given) <= 1:
        ts: Table = given[0] if given else ()
        return bk.time_sequence(ts, problem.layout) if bk.is_array(ts) and bk.tracked(ts) else ts
    shape, rows = (problem.layout.samples,), []
    for ts in given:
        ts = ts if bk.is_array(ts) else bk.times_array(bk.concrete_times(ts), problem.layout)
        ts = ts if len(ts.shape) == 2 else xp.broadcast_to(ts[None, :], (*shape, ts.shape[0]))
        rows.append(xp.astype(ts, problem.layout.real_dtype))
    return xp.concat(rows, axis=1)


def _jacobians(
    alone: SingleSolves, y0: Tree, t0: Time, t1: Time, args: Tree, *, gradient: bool = False
) -> bool:
    """Whether a method needs Jacobians that do not come of all samples at once, as seen of one."""
    bk, options = alone.bk, alone.options
    solver = find_solver(options.solver)
    if not solver.implicit:
        return False
    batch = alone.batch(y0, t0, t1, args)
    one = Problem(bk, *alone.of_one(batch, 0))
    if one.jac is not None or one.jac_structure not in (None, "dense"):
        return True
    if one.layout.dtype != one.layout.real_dtype:
        return True
    if Capability.AUTODIFF in bk.capabilities:
        return getattr(one.f, "vjp", None) is not None
    given: tuple[Tree, Tree] = t0, t1
    start, end = (t[0] if getattr(t, "shape", ()) else t for t in given)
    prepare_derivatives(one, start, timed=solver.time_derivative, end=float(end))
    assert one.derivatives is not None
    if gradient and one.derivatives.second != "complex step":
        return True
    return one.derivatives.kind != "complex step"


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
    adjoint = options.adjoint.adjoint if isinstance(options.adjoint, Plan) else options.adjoint
    named = find_adjoint(adjoint)
    reasons = {
        "mass": options.mass is not None,
        "solver": not isinstance(solver, TOGETHER),
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
    problem: SampleProblem, span: tuple[Array, Array], saveats: Sequence[SaveAt], eps: float
) -> SampleTimes:
    """Times as the clock counts them."""
    bk, clock, (begin, end) = problem.bk, problem.layout.clock, span
    xp = bk.xp
    shifted = bool(xp.any(begin != 0))
    found: list[Array] = []
    for saveat in saveats:
        given: Table = saveat.ts
        if given is None:
            continue
        rounding = max(eps, resolution(bk, (given,)))
        if not bk.is_array(given):  # numbers, in the precision of Python's
            given = bk.concrete_times(given)
        array = bk.stop_gradient(given) if bk.is_array(given) else given
        ts = _saved_times(problem, clock.array(array), span, rounding)
        found.append(ts - begin if shifted else ts)
    ts = (found[0] if len(found) == 1 else xp.concat(found, axis=0)) if found else ()
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
