"""The shape of a solve: bytes of a state and of a tape, number of steps.

f is called twice at most, and for adaptive steps in a short probe (``step_count``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .._adjoints.direct import constant_times
from .._adjoints.projection_guard import guard_bytes, guard_width
from .._autodiff.field_vjp import TapePullback, UserPullback, field_pullback
from .._autodiff.tape import object_bytes
from .._backend.protocols import Capability
from .._base.types import Array, Inputs, NeedsGradient, Scalar, State
from .._controllers import AcceptedSteps
from .._controllers.base import AdaptiveController
from .._integrate.relative_time import unending
from .._solvers import ExplicitRungeKutta
from .implicit import ImplicitSize, implicit_size
from .shape import CHEAP, CHEAP_BYTES, PYTHON_OBJECTS, RECORD, UNLIMITED, Shape
from .step_count import Prediction, predict

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import FieldVJP, Pull
    from .._integrate.integrator import Integrator
    from .._integrate.problem import Problem

DRAWN = "times of random numbers"
"""The item of what each call of f leaves behind where it draws."""

GROWING_TIME = 9
"""8 bytes a time, and the sixteenth that Python's array keeps beyond its length."""

AMPLE = 1024
"""Multiple of state and args from which a bound of what a pull takes does as well as a measure."""

JUDGING = 4
"""States that an adaptive solve holds for its norm of errors, which is real; a reverse pass has
their room."""

EVENT_ROW = 5 * 8
"""Bytes of an event's entry in a table of reals."""

REAL = 8
"""Bytes of a coefficient."""

SLOT_OBJECTS = 80
"""Python objects of a slot: its entries in dicts and lists of positions, and their numbers."""

TRACED_TABLES = 24
"""The same in int32 tables: position, order, their copy, and what sorting them takes."""

PASS_OBJECTS = 8 * 1024
"""Python objects of a reverse pass: views, bound products, tables (measured on NumPy; twice as many
of methods that solve equations)."""


def measure_problem(
    loop: Integrator,
    inputs: Inputs,
    *,
    native: bool,
    short_probe: bool = True,
    budget: int = UNLIMITED,
) -> Shape:
    """What the cost of a gradient of this loop depends on.

    ``native``: the library's own gradients are asked for (not ``solve_vjp``), so that an
    integration may be recorded by its autodiff. ``short_probe``: some adaptive steps may be taken
    to predict their number. ``budget``: where it is no large multiple of the state and args, a pull
    of f is measured too.
    """
    bk, layout, solver, problem = loop.bk, loop.layout, loop.solver, loop.problem
    traced, carried = Capability.TRACED in bk.capabilities, loop.carried.nbytes
    chosen = bk.likely(loop, inputs) if native else problem.differentiable
    tapes = Capability.AUTODIFF not in bk.capabilities  # those have the derivative by t, too
    wanted = NeedsGradient(chosen, tapes, False, False)
    arguments = _differentiable_bytes(problem, inputs.params)
    with bk.quiet():
        small = budget < AMPLE * (layout.nbytes + arguments)
        call = _called_once(loop, inputs, wanted, small=small)
        steps, source = _steps(loop, inputs, call.k0, short_probe=short_probe)
    growing = GROWING_TIME * (1 + loop.cut) if loop.adaptive and not traced else 0
    stages = _stages(loop)[0]
    counted = bk.array_overhead > 0  # an account that sees array headers sees all objects
    judges = isinstance(solver, ExplicitRungeKutta) and loop.adaptive and not traced
    spared = 1 + judges * (JUDGING if layout.dtype == layout.real_dtype else JUDGING // 2)
    pull, args = _pull(bk, loop, arguments, call)
    step = max(0, (stages - spared) * layout.nbytes + 2 * carried)
    own = PASS_OBJECTS * (2 if solver.implicit else 1)
    held, more = stages if loop.outputs.inside else solver.evaluations, None
    if solver.implicit:
        more = implicit_size(loop, call.tape, arguments)
        held, step, args = solver.linearised, more.states, args + more.params
    fixed = _fixed(loop, steps, growing, step=step, pull=pull, args=args)
    recorded_now = native and _followed(loop, call) and constant_times(inputs)
    recorded = max(layout.nbytes, solver.evaluations * call.kept) + carried - layout.nbytes
    outputs = _outputs(loop, steps)
    compiled = (lambda one: bk.compiled_bytes(loop, inputs, wanted, one)) if traced else None
    shape = Shape(
        recorded=recorded if recorded_now else 0,
        joint=2 * arguments if recorded_now else 0,
        **(_tapes(loop, inputs, wanted, steps) if native and loop.events is None else {}),
        state=carried,
        header=bk.array_overhead,
        steps=max(1, steps),
        known=loop.count is not None,
        bound=loop.max_steps,
        tape=call.tape,
        # the norms of an adaptive solve have room for it, and NumPy's working set
        stale=0 if traced or tapes or judges or more else call.tape + 2 * layout.nbytes,
        stages=held,
        fixed=fixed,
        free_slot=bk.slots_by_reference,
        windows=traced and loop.carried.size <= CHEAP,
        passing={PYTHON_OBJECTS: (own + held * call.objects) * counted},
        stiff=solver.implicit,
        source=source,
        growing=growing,
        reversible=solver.reversible,
        noted=guard_width(loop.carried) * bk.itemsize(layout.real_dtype),
        vectors=guard_bytes(loop.carried),
        starts=_starts(loop, steps),
        returning=carried + arguments,
        outputs=outputs,
        beside=_beside(loop, outputs, call.tape, judges),
        compiled=compiled,
        tables=TRACED_TABLES if traced else SLOT_OBJECTS if counted else 0,
        clock=_clock_bytes(loop) if traced and loop.adaptive and loop.events is None else 0,
    )
    return shape if more is None else _of_equations(shape, loop, more)


def _followed(loop: Integrator, call: _Call) -> bool:
    """Whether the library's autodiff may follow the integration itself."""
    capabilities = loop.bk.capabilities
    if Capability.TRACED in capabilities or Capability.DIRECT not in capabilities:
        return False
    # Jacobians as parts of a graph take ten times what all else does (measured on PyTorch)
    own = loop.compiled or call.users_own or loop.solver.implicit
    return not own and loop.events is None


def _of_equations(shape: Shape, loop: Integrator, more: ImplicitSize) -> Shape:
    """The shape of a solve by a method that solves equations."""
    problem, derivatives = loop.problem, loop.problem.derivatives
    accuracy = "exact"
    if loop.solver.second_derivatives and derivatives is not None:
        with problem.counting() as counts:  # how these come about is seen by some calls of f
            accuracy = derivatives.accuracy
        problem.trials += counts["num_reverse_f_evals"]
    fixed = {**shape.fixed, "linear algebra of a step": more.algebra}
    tapes = max(shape.stages * shape.tape, more.second)
    left = max(0, more.hidden - tapes)
    objects = {name: max(0, size - left) for name, size in shape.passing.items()}
    return shape._replace(
        fixed=fixed, passing=objects, second=more.second, hidden=more.hidden, graph=more.graph,
        accuracy=accuracy, vjp=more.vjp, again=more.again,
    )  # fmt: skip


class _Call(NamedTuple):
    """What one call of f and its vjp told.

    Attributes
    ----------
    tape, kept : int [bytes]
        Its tape, and what the library's own autodiff would keep of it.
    k0 : leaves or None
        f at (t0, y0), where it has a value.
    objects : int [bytes]
        Python objects of a tape.
    pulled : int [bytes] or None
        Cotangents in a pull, where they could be measured.
    users_own : bool
        The vjp is the user's.
    """

    tape: int
    kept: int
    k0: Sequence[Array] | None
    objects: int
    pulled: int | None
    users_own: bool


def _called_once(loop: Integrator, inputs: Inputs, wanted: NeedsGradient, *, small: bool) -> _Call:
    """``small``: the budget is no large multiple of what a pull takes, which is measured then."""
    problem = loop.problem
    vjp = field_pullback(problem, inputs.params, wanted)
    whole = [vjp] if problem.split is None else [vjp.explicit, vjp.implicit]  # type: ignore[attr-defined]
    parts = [_looked_at(loop, inputs, part, small=small) for part in whole]
    found = max(parts, key=lambda part: part.tape)
    k0 = found.k0
    if len(parts) > 1 and k0 is not None:
        k0 = [sum(leaves) for leaves in zip(*(part.k0 or () for part in parts), strict=True)]
    if k0 is not None:
        problem.trials += 1
        problem.compare(k0)
    return found._replace(k0=k0)


def _looked_at(loop: Integrator, inputs: Inputs, vjp: FieldVJP, *, small: bool) -> _Call:
    """What one call of a vjp told: of f's, or that of a part which is linearised alone."""
    bk = loop.bk
    objects: list[int] = []
    pulled: list[int | None] = []

    def watched(t: Scalar, y: State) -> tuple[Sequence[Array], Pull]:
        k, pull = vjp(t, y)
        if isinstance(vjp, TapePullback):
            objects.append(object_bytes(pull))
        pulled.append(bk.pull_bytes(vjp, k, pull))
        return k, pull

    call = vjp
    if isinstance(vjp, TapePullback) or (small and not loop.compiled):
        watched.layout = vjp.layout  # type: ignore[attr-defined]
        call = cast("FieldVJP", watched)
    if isinstance(vjp, TapePullback):
        vjp.account = True
    start = loop.layout.time(loop.clock.real(inputs.t0)), inputs.y0
    tape, kept, k0 = bk.tape_bytes(call, *start)
    size = next((size for size in pulled if size is not None), None)
    return _Call(tape, kept, k0, sum(objects), size, isinstance(vjp, UserPullback))


def _fixed(
    loop: Integrator, steps: int, growing: int, *, step: int, pull: int, args: int
) -> dict[str, int]:
    """Bytes that every way back needs; ``step``, ``pull`` and ``args`` are of cotangents."""
    bk, layout, carried = loop.bk, loop.layout, loop.carried.nbytes
    traced, bound = Capability.TRACED in bk.capabilities, loop.max_steps
    stages, rows = _stages(loop)
    record = (bound if traced and bound is not None else steps) + 1
    fixed = {
        "cotangents of a step": step,
        # more than the y0 that the caller holds
        "state at t0": carried if carried > layout.nbytes and bk.slots_by_reference else 0,
        "cotangents of saved times": rows * layout.nbytes,
        "cotangents of a pull": pull,
        "tables of coefficients": 0 if traced else 2 * stages**2 * REAL,
        "cotangents of args": args,
        RECORD: (growing or 8 * (1 + loop.cut)) * record if loop.adaptive else 0,
    }
    if loop.events is not None and traced:
        fixed["record of events"] = (loop.events.capacity + 1) * EVENT_ROW
    if loop.problem.drawn:
        fixed[DRAWN] = loop.problem.drawn * stages * steps
    return fixed


def _tapes(loop: Integrator, inputs: Inputs, wanted: NeedsGradient, steps: int) -> dict[str, Any]:
    """Bytes of a step's tapes, and whether those of all are kept without being asked for."""
    size, gains = loop.bk.kept_bytes(loop, inputs, wanted)
    known = loop.count is not None
    rows = steps if known else loop.max_steps
    most = MOST_KEPT if known else CHEAP_BYTES
    return {"kept": size, "taping": gains and rows is not None and size * rows <= most}


MOST_KEPT = 2**25
"""Bytes of tapes beyond which fresh pages of memory cost what they save (measured on JAX's CPU:
per step, three bodies 2.1 us to 2.9 with states up to 9 MB, 2.7 to 2.9 at 35)."""


def _stages(loop: Integrator) -> tuple[int, int]:
    """Stages of a step, those of its interpolant included, and how many get cotangents of rows."""
    saved = loop.outputs.interpolates or loop.looks_inside
    stages = loop.solver.stages + (loop.solver.extra if saved else 0)
    return stages, stages if saved else 0


def _steps(
    loop: Integrator, inputs: Inputs, k0: Sequence[Array] | None, *, short_probe: bool
) -> Prediction:
    """Steps: counted on a grid, else predicted."""
    count, bound = loop.count, loop.max_steps
    if count is not None:
        return Prediction(count if bound is None else min(bound, count), "exact")
    if not loop.adaptive:  # a grid whose ends are traced
        return Prediction(bound or CHEAP, "at most" if bound else "unknown")
    if isinstance(loop.controller, AcceptedSteps):  # events may cut them, or end them early
        span = _span(loop, inputs)
        steps = CHEAP if span is None else max(1, math.ceil(abs(span / loop.controller.dt)))
        return Prediction(
            steps if bound is None else min(bound, steps), "predicted: but for events"
        )
    return predict(loop, inputs, k0, short_probe=short_probe)


def _span(loop: Integrator, inputs: Inputs) -> float | None:
    """t1 - t0, where it is known, and finite."""
    start, end = (loop.bk.concrete(t) for t in inputs.clocked[:2])
    return None if start is None or end is None or unending(end) else end - start


def _outputs(loop: Integrator, steps: int) -> dict[str, int]:
    """Bytes of the rows asked for."""
    saved = count = 0
    for out in loop.outputs.parts:
        inside = 0
        if out.inside:
            inside = steps * len(out.nodes) if out.count is None else out.count
        rows = out.saveat.t0 + inside + out.saveat.final
        saved, count = saved + rows * out.layout.nbytes, count + rows
    found = {"saved states": saved, "their times": count * 8}
    events = loop.events
    if events is not None and Capability.TRACED in loop.bk.capabilities:
        found["states at events"] = events.capacity * (1 + events.resets) * int(loop.layout.nbytes)
    return found


def _starts(loop: Integrator, steps: int) -> int:
    """Bytes of the starts of steps that events cut, which a way back by inverted steps keeps."""
    events, size = loop.events, int(loop.carried.nbytes)
    if events is None:
        return 0
    if Capability.TRACED in loop.bk.capabilities:
        return (events.capacity + 1) * size
    cuts = sum(e.rows if e.reset is not None else e.last is not None for e in events.given)
    return min(cuts, steps) * size


def _beside(loop: Integrator, outputs: dict[str, int], tape: int, judges: bool) -> dict[str, int]:
    """Bytes of the cotangents of rows, and about those of the solve itself.

    Stages, and the states at both ends of a step, of a stage, and of its slope; what f makes on the
    way is taken to be as large as its tape.
    """
    stages = loop.solver.stages + loop.solver.extra
    states = stages + WORKING + JUDGING * judges
    return {
        "cotangents of saved states": outputs["saved states"] + outputs.get("states at events", 0),
        "working set of the solve": states * int(loop.carried.nbytes) + tape,
    }


WORKING = 4
"""States of a step beside its stages."""


def _clock_bytes(loop: Integrator) -> int:
    """Time, step and the controller's memory; 0 where the record is an output anyway."""
    if loop.outputs.stepped:
        return 0
    controller = loop.controller
    assert isinstance(controller, AdaptiveController)
    count = 2 + len(loop.memory())
    return count * int(loop.bk.itemsize(loop.carried.dtype))


def _pull(bk: AbstractBackend, loop: Integrator, arguments: int, call: _Call) -> tuple[int, int]:
    """Bytes of cotangents in a pull, and of those of args; measured where they could be.

    Beside them: the state that the step starts from, the total that leaves it, and where times are
    saved the cotangents of rows and of the inside of the step.
    """
    if Capability.TRACED in bk.capabilities:
        return 0, 2 * arguments
    nbytes, carried = loop.layout.nbytes, loop.carried.nbytes
    if call.pulled is not None:
        rows = 1 if loop.outputs.inside else -1  # a solve holds a slope, too
        numbers = 2 * (loop.solver.stages + loop.solver.extra + 1) * REAL  # times and weights
        return max(0, call.pulled - arguments) + rows * nbytes + numbers, arguments
    # an autodiff of its own makes gradients of whole arguments, and sums of two of them
    sums = 4 if Capability.AUTODIFF in bk.capabilities else 2
    return call.tape + 2 * (nbytes + carried), sums * arguments


def _differentiable_bytes(problem: Problem, params: Sequence[Array]) -> int:
    # not problem.params: a compiled probe has made the problem forget its arrays
    pairs = zip(params, problem.differentiable, strict=True)
    return sum(problem.bk.nbytes(p) for p, wanted in pairs if wanted)
