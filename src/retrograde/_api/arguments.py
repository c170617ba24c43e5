"""From the arguments of ``solve`` to a loop that is ready to run: checks, defaults, layout.

Every check that needs no step is made here, before anything is computed, so that bad input is
an error at call time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .._backend.clock import step_count
from .._backend.protocols import Capability
from .._backend.registry import backend_beside, backend_for
from .._base.errors import InputError, UnsupportedByBackend
from .._base.plain_input import kind, parameters, refuse, state
from .._base.types import (
    Array,
    Function,
    Inputs,
    Scalar,
    State,
    Table,
    Time,
    Times,
    Tree,
    VectorFieldFn,
)
from .._controllers import (
    AbstractController,
    AcceptedSteps,
    ConstantSteps,
    PIDController,
    StepTo,
)
from .._controllers.norms import error_norm
from .._integrate.dense import DENSE, nodes
from .._integrate.events import Event, Events, wished
from .._integrate.integrator import Integrator
from .._integrate.outputs import Output, Outputs
from .._integrate.problem import Problem, describe
from .._integrate.relative_time import (
    ENDLESS,
    clamped,
    near,
    relative_times,
    resolution,
    spacing,
    unending,
)
from .._integrate.saveat import SaveAt, check_times_form, flattened, is_dense, is_several
from .._solvers import AbstractSolver
from .mass import checked_start, set_mass, solver_of
from .mixed_dtypes import casts
from .signatures import explain_signatures

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .options import Options

TRACED_MAX_STEPS = 4096
"""Bound of the number of tries where a loop is traced and the user gives none."""

ENDLESS_TRIES = 100_000
"""The same in eager libraries of a solve to infinity."""

MOST_COUNTED = 2**31 - 1
"""Steps that the counters of compiled loops can tell."""


def prepare(
    f: VectorFieldFn,
    y0: Tree,
    t0: Time,
    t1: Time,
    args: Tree,
    options: Options,
    *,
    native: bool = True,
    prepared: Function | None = None,
) -> tuple[Integrator, Inputs]:
    """A :class:`Integrator` and its :class:`Inputs`.

    Parameters
    ----------
    options : Options
        The keywords of ``solve``.
    native : bool
        Gradients are the library's own, not those of ``solve_vjp``.
    prepared : callable or None
        What makes them of arrays; None: those of a single solve.
    """
    prepared = prepared or _prepared
    given = t0, t1
    t0, t1 = (float(t) if kind(t) in ("int", "real") else t for t in given)
    saveat = saveats_of(options.saveat)
    bk = backend_beside(y0, args, (t0, t1, *(part.ts for part in saveat[0])))
    eps = resolution(bk, given)
    t1, options = _bounded(bk, t1, options)
    _check_one_library(bk, args, t0, t1, native=native)
    y0 = state(bk, y0, (args, t0, t1))
    *better, last = parameters(bk, args, y0, given=native)
    for one in better:
        try:
            return prepared(bk, (f, y0, t0, t1, one), args, saveat, options, eps)
        except Exception:  # f can't take the numbers in args as arrays, or there is another fault
            continue
    try:
        return prepared(bk, (f, y0, t0, t1, last), args, saveat, options, eps)
    except TypeError as error:
        explain_signatures(f, saveat[0], options, error)
        if last is not args:
            error.add_note(
                "The numbers in `args` are 0-d arrays inside of `f`, so that they get gradients; "
                "let `f` close over those that it needs as numbers of Python."
            )
        raise


def _bounded(bk: AbstractBackend, t1: Scalar, options: Options) -> tuple[Scalar, Options]:
    """An end at infinity, which an event has to forestall, as one that is finite, and a bound of
    the tries."""
    single = isinstance(t1, float) or (bk.is_array(t1) and getattr(t1, "shape", ()) == ())
    value = bk.concrete(t1) if single else None
    if value is None or not math.isinf(value):
        return t1, options
    if not any(isinstance(e, Event) and e.last is not None for e in wished(options.event)):
        raise InputError(
            f"`t1` is {value!r}, and no event ends the solve; pass a finite time, or "
            "`event=rg.Event(condition, terminal=True)`."
        )
    tries = TRACED_MAX_STEPS if Capability.TRACED in bk.capabilities else ENDLESS_TRIES
    tries = tries if options.max_steps is None else options.max_steps
    return math.copysign(ENDLESS, value), replace(options, max_steps=tries)


def dense_nodes(solver: AbstractSolver, options: Options) -> tuple[float, ...]:
    """Where in its steps a solve notes its states for dense output; () where none is asked for."""
    if not is_dense(options.saveat):
        return ()
    if not solver.degree:
        raise InputError(
            f"`saveat.dense` is set, but `solver` {solver.name} does not tell the `degree` of its "
            "interpolant; pass `saveat.ts`, or give its class one."
        )
    return nodes(solver.degree, whole=options.event is not None)


def _prepared(
    bk: AbstractBackend,
    call: tuple[VectorFieldFn, Tree, Time, Time, Tree],
    given: Tree,
    saveat: tuple[list[SaveAt], Tree],
    options: Options,
    eps: float,
) -> tuple[Integrator, Inputs]:
    """The same, of a y0 of arrays and of args as f gets them; they were ``given`` by the user."""
    f, y0, t0, t1, args = call
    problem, saveat, wish = _problem(bk, (f, y0, args), given, saveat, options.event)
    solver, controller = solver_of(options.solver, options.mass), controller_of(options)
    ends = start, end = _ends(bk, controller, t0, t1, eps)
    controller.check(start, end)
    check_solver(solver, controller)
    check_tolerances(problem, controller)
    solver.check(problem)
    if bk.concrete(problem.layout.finite(problem.y0)) == 0:
        raise InputError("`y0` holds nan or inf; every element must be finite.")
    problem.parted = solver.parted
    at = t0 if start is None else start
    bk.capture(problem, at)
    if solver.additive:
        problem.take_apart(at)
    if solver.implicit:
        from .._autodiff.prepare_derivatives import prepare_derivatives

        prepare_derivatives(problem, at, timed=solver.time_derivative, end=end)
    if options.mass is not None:
        set_mass(bk, problem, at, options.mass)
    count = _count(problem, controller, ends, eps)
    ts, values = _saved_times(problem, saveat[0], ends, eps)
    dense = dense_nodes(solver, options)
    events = Events.of(problem, wish, at)
    room = count if events is None or count is None else count + events.capacity
    max_steps = max_steps_of(bk, options.max_steps, room)
    if events is not None:
        count, controller = None, event_controller(bk, controller)
        max_steps = (
            room if max_steps is None and Capability.TRACED in bk.capabilities else max_steps
        )
    outputs = _outputs(problem, saveat, at, (count, max_steps), dense)
    settings = settings_of(problem, controller)
    loop = Integrator(problem, solver, controller, outputs, max_steps, count)
    loop.events, loop.cut = events, events is not None
    norm = getattr(controller, "norm", "rms")
    loop.norm = error_norm(bk, norm, problem.layout.shapes, problem.tree)
    if options.compile:
        _compile(loop)
    given, known = (t0, t1, ts), (start, end, values)
    fixed = controller.adaptive or isinstance(controller, StepTo) or count is not None
    loop.times_checked = fixed and None not in known
    relative, loop.shifted = relative_times(problem, controller, given, known)
    stops, certain = _stops(problem, controller, t0, ends, loop.shifted, eps)
    loop.times_checked = loop.times_checked and certain
    if stops:
        scale = loop.tolerances(Inputs((), (), t0, t1, ts, settings))
        settings = (scale.rtol, scale.atol, *stops)
    inputs = Inputs(problem.y0, problem.params, t0, t1, ts, settings, relative=relative)
    if loop.jumps:
        inputs = inputs._replace(jumps=bk.time_sequence(controller.jump_ts, problem.layout))  # type: ignore[attr-defined]
    return loop, inputs if problem.mass is None else checked_start(loop, inputs)


def _problem(
    bk: AbstractBackend,
    call: tuple[VectorFieldFn, Tree, Tree],
    given: Tree,
    saveat: tuple[list[SaveAt], Tree],
    event: Tree,
) -> tuple[Problem, tuple[list[SaveAt], Tree], Tree]:
    """f of y0 and args, what to save and what to watch, as they see a state of one dtype."""
    f, y0, args = call
    cast = casts(bk, y0, args)
    if cast is None:
        problem = Problem(bk, f, y0, args)
    else:
        problem = Problem(bk, cast.field(f), cast.y.up(y0), cast.args.up(args))
        problem.casts = cast
        saveat, event = ([cast.saveat(one) for one in saveat[0]], saveat[1]), cast.events(event)
    if args is not given:
        leaves = bk.flatten(given)[0]
        numbers = (j for j, i in enumerate(problem.where) if not bk.is_array(leaves[i]))
        problem.numbers = frozenset(numbers)
    return problem, saveat, event


def _ends(
    bk: AbstractBackend, controller: AbstractController, t0: Scalar, t1: Scalar, eps: float
) -> tuple[float | None, float | None]:
    """Start and end where they are known; those of given steps, but for rounding."""
    start, end = _time(bk, "t0", t0), _time(bk, "t1", t1)
    if isinstance(controller, StepTo):
        return near(start, controller.times[0], eps), near(end, controller.times[-1], eps)
    return start, end


def _compile(loop: Integrator) -> None:
    if loop.norm is not None or loop.jumps:
        raise UnsupportedByBackend(
            "`compile` is True, whose steps have the norm 'rms' and know of no jumps; leave out "
            "`compile`, or `norm` and `jump_ts`."
        )
    loop.compile()


def saveats_of(saveat: SaveAt | Times | Tree | None) -> tuple[list[SaveAt], Tree]:
    """The user's wishes, and their tree; times alone are ``SaveAt(ts=times)``."""
    if saveat is None:
        return [SaveAt()], None
    if isinstance(saveat, SaveAt):
        return flattened(saveat)
    if is_several(saveat):
        return flattened(SaveAt(subs=saveat))
    if isinstance(saveat, (list, tuple, range)) or hasattr(saveat, "shape"):
        return [SaveAt(ts=saveat)], None
    raise InputError(f"`saveat` is {saveat!r}; pass rg.SaveAt(...), or the times to save.")


def _check_one_library(
    bk: AbstractBackend, args: Tree, t0: Time, t1: Time, *, native: bool
) -> None:
    for name, tree in (("args", args), ("t0", t0), ("t1", t1)):
        for leaf in () if isinstance(tree, (int, float)) else bk.flatten(tree)[0]:
            if kind(leaf):
                continue
            if not native or name != "args":  # else it is a constant of f's
                refuse(name, leaf)
            other = backend_for(leaf)
            if other is not None and other is not bk:
                raise InputError(
                    f"`y0` is an array of {bk.name}, but `{name}` holds one of {other.name}; "
                    "convert them to one library."
                )


def _time(bk: AbstractBackend, name: str, t: Scalar) -> float | None:
    """The value of a time, None if it is traced."""
    if isinstance(t, bool) or not (isinstance(t, (int, float)) or bk.is_array(t)):
        raise InputError(f"`{name}` is {t!r}; pass a number or a 0-d array.")
    if bk.is_array(t) and getattr(t, "shape", ()) != ():
        raise InputError(f"`{name}` has shape {tuple(t.shape)}; pass a number or a 0-d array.")
    value: float | None = bk.concrete(t)
    if value is not None and not math.isfinite(value):
        raise InputError(f"`{name}` is {value!r}; pass a finite time.")
    return value


def controller_of(options: Options) -> AbstractController:
    controller = options.controller
    if controller is not None:
        if not isinstance(controller, AbstractController):
            raise InputError(
                f"`controller` is {controller!r}; pass an AbstractController such as "
                "rg.PIDController() or rg.ConstantSteps(dt)."
            )
        return controller
    if options.dt is not None:
        return ConstantSteps(options.dt)
    return PIDController(rtol=options.rtol, atol=options.atol)


def event_controller(bk: AbstractBackend, controller: AbstractController) -> AbstractController:
    """The controller of a solve with events, which may cut any step."""
    if isinstance(controller, StepTo):
        raise InputError(
            "`controller` is StepTo, but `event` may end a step elsewhere; pass `dt=` or a "
            "PIDController, whose steps go on from there."
        )
    if not isinstance(controller, ConstantSteps):
        return controller
    dt = bk.concrete(controller.dt)
    if dt is None:
        raise InputError("`dt` is traced, but with `event` it must be a number; close over it.")
    return AcceptedSteps(float(dt))


def check_solver(solver: AbstractSolver, controller: AbstractController) -> None:
    if solver.switches and not controller.adaptive:
        raise InputError(
            f"`solver` is {solver.name}, which tells by the errors of adaptive steps where a "
            "problem is stiff; pass 'rodas5p' or 'tsit5' for given steps, or leave out `dt` "
            "(`rg.StepTo`)."
        )
    if controller.adaptive and solver.error_order is None:
        raise InputError(
            f"`solver` {type(solver).__name__} has no error estimate for adaptive steps; pass "
            "`dt=` for constant steps, or a solver with one (heun, bosh3, dopri5, tsit5)."
        )


def check_tolerances(problem: Problem, controller: AbstractController) -> None:
    """Raise InputError where numbers of y's dtype can't tell what the tolerances ask for."""
    rtol, atol = (getattr(controller, name, None) for name in ("rtol", "atol"))
    if not (isinstance(rtol, (int, float)) and isinstance(atol, (int, float))):
        return
    if not 0 < rtol < 1e-6 or atol > rtol or getattr(controller, "force_dtmin", False):
        return
    dtype = problem.layout.real_dtype
    eps = float(problem.bk.xp.finfo(dtype).eps)
    if rtol < eps:
        raise InputError(
            f"`rtol` is {rtol!r}, but numbers of {dtype} are rounded by {eps:.1g} of their size; "
            f"pass an rtol of {10 * eps:.0e} or more, or y0 (and args) in a wider dtype."
        )


def max_steps_of(bk: AbstractBackend, max_steps: int | None, count: int | None) -> int | None:
    if max_steps is None:
        bounded = Capability.TRACED in bk.capabilities and count is None
        return TRACED_MAX_STEPS if bounded else None
    if kind(max_steps) != "int" or max_steps < 1:
        raise InputError(f"`max_steps` is {max_steps!r}; pass a whole number of at least 1.")
    return int(max_steps)


def _count(
    problem: Problem,
    controller: AbstractController,
    ends: tuple[float | None, float | None],
    eps: float,
) -> int | None:
    """Number of steps where the host knows it; ``eps``: the relative rounding of its ends."""
    start, end = ends
    bk = problem.bk
    if isinstance(controller, StepTo):
        return len(controller.times) - 1
    if isinstance(controller, ConstantSteps) and start is not None and end is not None:
        dt = bk.concrete(controller.dt)
        if dt is not None:
            ConstantSteps(dt).check(start, end)
            if unending(end):
                return None
            _check_size(problem, dt, end - start)
            return step_count(start, end, dt, eps)
    return None


def _check_size(problem: Problem, dt: float, span: float) -> None:
    """Raise InputError for steps so small that sums round them away, or that nothing counts."""
    layout, traced = problem.layout, Capability.TRACED in problem.bk.capabilities
    least = spacing(problem.bk.itemsize(layout.real_dtype)) / 2 * abs(span)
    if abs(dt) <= least:
        raise InputError(
            f"`dt` = {dt!r}: t + dt == t in {layout.dtype} at the end of a span of {abs(span):g}; "
            f"pass a `dt` above {least:.1g}."
        )
    if traced and abs(span / dt) >= MOST_COUNTED:
        raise InputError(
            f"`dt` = {dt!r} makes {abs(span / dt):.3g} steps, and a compiled loop counts to "
            f"{MOST_COUNTED}; pass a larger `dt`, or solve in parts."
        )


def _saved_times(
    problem: Problem,
    saveats: Sequence[SaveAt],
    known: tuple[float | None, float | None],
    eps: float,
) -> tuple[Table, list[float] | None]:
    """Saved times of all outputs in a row as the loops take them, and their values; None where
    they are traced."""
    bk, (start, end) = problem.bk, known
    tables: list[Table] = []
    found: list[float] | None = []
    for saveat in saveats:
        ts = saveat.ts
        if ts is None:
            continue
        shape = tuple(getattr(ts, "shape", ()))
        if len(shape) == 2:
            raise InputError(
                f"`saveat.ts` has shape {shape}, a row for each sample of a batch, which "
                "`per_sample=True` takes; pass times of shape (k,)."
            )
        values = bk.concrete_times(ts)
        if values is not None and start is not None and end is not None:
            values = clamped(values, start, end, max(eps, resolution(bk, (ts,))))
            saveat.check_times(values, start, end)
        tables.append(bk.time_sequence(ts, problem.layout))
        found = None if values is None or found is None else found + values
    if len(tables) <= 1:
        return tables[0] if tables else (), found
    if all(isinstance(ts, list) for ts in tables):
        return [t for ts in tables for t in ts], found
    arrays = [bk.times_array(ts, problem.layout) for ts in tables]
    return bk.time_sequence(bk.xp.concat(arrays, axis=0), problem.layout), found


def _outputs(
    problem: Problem,
    saveat: tuple[list[SaveAt], Tree],
    t0: Time,
    bounds: tuple[int | None, int | None],
    dense: tuple[float, ...],
) -> Outputs:
    """All outputs; ``bounds`` of the number of steps: known, and of the tries; ``dense``: the
    nodes of dense output, if any."""
    parts: list[Output] = []
    first = 0
    for one in saveat[0]:
        parts.append(output_of(problem, one, t0, bounds, first))
        first += parts[-1].count or 0 if parts[-1].inside == "ts" else 0
    if dense:
        most = _most_steps(problem.bk, bounds)
        rows = None if most is None else most * len(dense)
        parts.append(Output(problem.bk, DENSE, problem.layout, rows, 0, dense))
    return Outputs(problem.bk, parts, saveat[1], dense=bool(dense))


def output_of(
    problem: Problem, saveat: SaveAt, t0: Time, bounds: tuple[int | None, int | None], first: int
) -> Output:
    """One of them; its times begin at ``first`` among all."""
    bk = problem.bk
    rows: int | None = None
    if saveat.ts is not None:
        times: Table = saveat.ts
        rows = int(times.shape[0]) if hasattr(times, "shape") else len(times)
    elif saveat.steps:
        rows = _most_steps(bk, bounds)
    if saveat.fn is None:
        return Output(bk, saveat, problem.layout, rows, first)
    like, treedef = bk.example(problem, saveat.fn, t0)
    if not like or not all(bk.is_array(x) and bk.floating(x) for x in like):
        raise InputError("`saveat.fn` must return floating arrays (a tree of them).")
    if len({x.dtype for x in like}) > 1:
        raise InputError(
            f"`saveat.fn` returned leaves of the dtypes {', '.join(str(x.dtype) for x in like)}; "
            "convert them to one."
        )
    output = Output(bk, saveat, bk.layout(like), rows, first)
    output.treedef = treedef
    return output


def _most_steps(bk: AbstractBackend, bounds: tuple[int | None, int | None]) -> int | None:
    """Rows to make room for where every step has one; None where a list grows."""
    known = [n for n in bounds if n is not None]
    return min(known) if known and Capability.TRACED in bk.capabilities else None


def settings_of(problem: Problem, controller: AbstractController) -> tuple[State, ...]:
    """Step size or tolerances where they come as arrays: they may be traced, so are inputs."""
    bk = problem.bk
    names = ("rtol", "atol") if controller.adaptive else ("dt",)
    values = [getattr(controller, name, None) for name in names]
    if all(isinstance(value, (int, float, type(None))) for value in values):
        return ()
    for name, value in zip(names, values, strict=True):
        if any(bk.is_array(x) and bk.tracked(x) for x in bk.flatten(value)[0]):
            raise InputError(
                f"`{name}` requires a gradient, but step sizes are constants of the gradient; "
                "detach it."
            )
    if not controller.adaptive:
        return (values[0],) if bk.is_array(values[0]) else ()
    return tuple(_tolerance(problem, *pair) for pair in zip(names, values, strict=True))


def _stops(
    problem: Problem,
    controller: AbstractController,
    t0: Scalar,
    known: tuple[float | None, float | None],
    shifted: bool,
    eps: float,
) -> tuple[tuple[Table, ...], bool]:
    """Times that steps end on, the jumps among them, and these as f counts; whether all are
    known. () where there are none."""
    bk, layout, (start, end) = problem.bk, problem.layout, known
    names, certain = ("step_ts", "jump_ts"), True
    found: list[tuple[Table, Table]] = []
    given = [getattr(controller, name, None) for name in names]
    if all(ts is None for ts in given):
        return (), True
    for name, ts in zip(names, given, strict=True):
        ts = () if ts is None else ts
        if check_times_form(name, ts) == 0:
            found.append(([], []))
            continue
        moving = any(bk.is_array(t) and bk.tracked(t) for t in _listed(ts))
        if moving and name == "step_ts":
            raise InputError(
                "`step_ts` requires a gradient, which times of steps do not have; detach it. The "
                "derivative by the time of a jump comes by `jump_ts`."
            )
        values = bk.concrete_times(ts)
        if values is None or start is None:
            certain = False
            own = bk.time_sequence(ts, layout)
            own = bk.stop_gradient(own) if name == "jump_ts" else own
            found.append((own - bk.stop_gradient(t0) if shifted else own, own))
            continue
        if not all(map(math.isfinite, values)):
            raise InputError(f"`{name}` holds nan or inf; pass finite times.")
        slack = max(eps, resolution(bk, (ts,)))
        values = [near(near(t, start, slack), end or start, slack) for t in values]  # type: ignore[misc]
        own = [t - start for t in values] if shifted else values
        if name == "step_ts" and bk.is_array(ts) and Capability.TRACED in bk.capabilities:
            # zeros with the tangents of what is known, but differentiated: they are refused
            own = bk.time_sequence(own, layout) + (ts - bk.stop_gradient(ts))
        found.append((own, values))
    (steps, _), (jumps, own) = found
    # jumps in front: where a step has to end on one, no other stop is found in its place
    if isinstance(steps, list) and isinstance(jumps, list):
        every = bk.time_sequence(jumps + steps, layout)
    else:
        every = bk.xp.concat([bk.time_sequence(ts, layout) for ts in (jumps, steps)])
    return (every, *(bk.time_sequence(ts, layout) for ts in (jumps, own))), certain


def _listed(ts: Times) -> list[Array]:
    return list(ts) if isinstance(ts, (list, tuple)) else [ts]


def _tolerance(problem: Problem, name: str, value: float | Array) -> Scalar:
    bk, layout = problem.bk, problem.layout
    if isinstance(value, (int, float)):
        return float(value)
    leaves, treedef = bk.flatten(value)
    if problem.single and isinstance(value, (list, tuple)) and all(map(kind, value)):
        leaves = [[float(x) for x in value]]  # one for each element, as in SciPy
    if len(leaves) not in (1, len(layout.shapes)):
        raise InputError(
            f"`{name}` has {len(leaves)} leaves where `y0` has {len(layout.shapes)}; give one for "
            "each, or a number."
        )
    if len(leaves) > 1 and treedef != problem.treedef and not isinstance(value, (list, tuple)):
        raise InputError(
            f"`{name}` is {describe(bk, value)} where `y0` is {problem.describe()}; give it the "
            "tree of `y0`, or a number."
        )
    leaves = leaves * (len(layout.shapes) if len(leaves) == 1 else 1)
    try:
        spread = [
            bk.xp.broadcast_to(bk.real_array(x, layout), shape)
            for x, shape in zip(leaves, layout.shapes, strict=True)
        ]
    except (ValueError, RuntimeError) as error:
        raise InputError(f"`{name}` does not broadcast against `y0`: {error}.") from None
    if bk.concrete(bk.xp.all(bk.xp.stack([bk.xp.all(x >= 0) for x in spread]))) == 0:
        raise InputError(
            f"`{name}` has negative entries or nan; pass tolerances of 0 or more (inf leaves an "
            "element out)."
        )
    return layout.pack(spread)
