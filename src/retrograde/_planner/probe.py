"""The shape of a solve: bytes of a state and of a tape, number of steps; two calls of f at most.

The number of adaptive steps is a prediction from the size of the first one. A wrong prediction
costs time, never exactness.
"""

from __future__ import annotations

import math
from typing import Any

from .._adjoints import Shape, constant_times, field_pullback
from .._derivative import TapePullback, UserPullback
from .._derivative.footprint import object_bytes
from .._types import Inputs, Wanted
from ..backend import Capability

__all__ = ["RECORD", "probe"]

CHEAP = 1024
"""States of at most this many elements make steps that cost less than a loop's bookkeeping."""

RECORD = "record of times"
"""The item that a plan can do without."""

GUESS = 64
"""Steps of an adaptive solve of which nothing can be known yet: with half as many slots again, a
solve of 4,096 steps replays less than one sweep."""

REAL = 8
"""Bytes of a coefficient."""

SLOT_OBJECTS = 80
"""Python objects of a slot: its entries in dicts and lists of positions, and their numbers."""

TRACED_TABLES = 24
"""The same in int32 tables: position, order, their copy, and what sorting them takes."""

SWEEP_OBJECTS = 8 * 1024
"""Python objects of a reverse sweep: views, bound products, tables (measured on NumPy)."""


def probe(loop: Any, inputs: Inputs, *, native: bool) -> Shape:
    """What the cost of a gradient of this loop depends on.

    ``native``: the library's own gradients are asked for (not ``solve_vjp``), so that a march
    may be recorded by its autodiff.
    """
    bk, layout, solver, problem = loop.bk, loop.layout, loop.solver, loop.problem
    traced = Capability.TRACED in bk.capabilities
    wanted = Wanted(problem.differentiable, False, False, False)
    vjp = field_pullback(problem, inputs.params, wanted)
    taped = isinstance(vjp, TapePullback)
    vjp, pulls = _watched(vjp) if taped else (vjp, [])
    with bk.quiet():
        tape, kept, k0 = bk.tape_bytes(vjp, layout.time(loop.clock.real(inputs.t0)), inputs.y0)
        steps, bound = loop.count, loop.max_steps
        if steps is None:
            steps = _predict(loop, inputs, k0) if k0 is not None else GUESS
    if bound is not None:
        steps = min(bound, steps)
    record = (bound if traced and bound is not None else steps) + 1
    rows = solver.stages if loop.outputs.inside == "ts" else 0
    objects = SWEEP_OBJECTS + solver.stages * sum(object_bytes(pull) for pull in pulls)
    counted = bk.array_overhead > 0  # an account that sees array headers sees all objects
    fixed = {
        "cotangents of a step": (solver.stages + 1) * layout.nbytes,
        "cotangents of saved times": rows * layout.nbytes,
        # beside them: the state that the step starts from, and the total that leaves it
        "cotangents of a pull": 0 if traced else tape + 4 * layout.nbytes,
        "tables of coefficients": 0 if traced else 2 * solver.stages**2 * REAL,
        "cotangents of args": 2 * _differentiable_bytes(problem),
        RECORD: 8 * record if loop.adaptive else 0,
    }
    own = isinstance(vjp, UserPullback)
    record_steps = native and not (traced or own) and Capability.DIRECT in bk.capabilities
    if not (record_steps and constant_times(inputs)):
        kept = 0
    else:
        kept = max(layout.nbytes, solver.evaluations * kept)
    compiled = (lambda one: bk.compiled_bytes(loop, inputs, wanted, one)) if traced else None
    return Shape(
        recorded=max(layout.nbytes, solver.evaluations * kept)
        if record_steps and constant_times(inputs)
        else 0,
        state=layout.nbytes + bk.array_overhead,
        steps=max(1, steps),
        known=loop.count is not None,
        bound=bound,
        tape=tape,
        stages=solver.stages if loop.outputs.inside else solver.evaluations,
        fixed=fixed,
        free_slot=bk.slots_by_reference,
        windows=traced and layout.size <= CHEAP,
        passing={"Python objects": objects if counted else 0},
        compiled=compiled,
        tables=TRACED_TABLES if traced else SLOT_OBJECTS if counted else 0,
        clock=_clock_bytes(loop) if traced and loop.adaptive else 0,
    )


def _clock_bytes(loop: Any) -> int:
    """Time, step and the controller's memory; 0 where the record is an output anyway."""
    if loop.outputs.inside == "steps":
        return 0
    count = 2 + len(loop.controller.init(loop.clock))
    return count * int(loop.bk.itemsize(loop.layout.dtype))


def _watched(vjp: Any) -> tuple[Any, list[Any]]:
    """The same vjp, and a list that its pullbacks are put into."""
    pulls: list[Any] = []

    def watched(t: Any, y: Any) -> tuple[Any, Any]:
        k, pull = vjp(t, y)
        pulls.append(pull)
        return k, pull

    watched.layout = vjp.layout  # type: ignore[attr-defined]
    return watched, pulls


def _predict(loop: Any, inputs: Inputs, k0: Any) -> int:
    """Steps of an adaptive solve, were all as long as the first."""
    clock, problem = loop.clock, loop.problem
    t0, t1 = clock.real(inputs.t0), clock.real(inputs.t1)
    h = loop.controller.first_step(
        clock,
        loop.layout,
        problem.bind(inputs.params),
        loop.tolerances(inputs),
        (t0, t1, inputs.y0, tuple(k0)),
        loop.solver.error_order,
    )
    return math.ceil(abs(t1 - t0) / abs(h)) if h else 1


def _differentiable_bytes(problem: Any) -> int:
    pairs = zip(problem.params, problem.differentiable, strict=True)
    return sum(problem.bk.nbytes(p) for p, wanted in pairs if wanted)
