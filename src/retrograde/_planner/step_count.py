"""How many steps an adaptive solve will take, told before it runs.

By what is known, best first: the count of the last solve of the same problem; a short probe; the
size of the first step; ``max_steps``. A prediction sizes what is reserved and decides between
methods. A wrong one costs time, never bytes (``Plan.limit``) and never exactness.

The probe takes some real steps from t0, but at tolerances ``loose`` times as large, where the same
number of them sees more of the solve: 24 steps of a tolerance of 1e-3 are half an orbit or more
where 24 of 1e-8 are still the start-up. Two rules then give the count:

- an error estimate of order q lets steps grow by ``loose**(1/q)`` (Hairer, Norsett, Wanner,
  *Solving ODEs I*, II.4), all but the first few, which only find the step size;
- beyond the probe, steps grow like ``elapsed**0.15``: between those of a motion that repeats
  itself (0) and of a decay without scale (1). Those of a method for stiff problems follow a decay
  of many scales, and grow like ``elapsed**0.85``.

Measured on 17 problems (oscillators, Lotka-Volterra, Lorenz, van der Pol, Burgers, decays, orbits)
by three solvers at tolerances from 1e-3 to 1e-10: 4 of 5 within a factor of 2, 9 of 10 within 3.
Steps that stability limits at tight tolerances alone are predicted too many (a stiff van der Pol
oscillator: up to 20 times); those of a motion that quickens beyond the probe too few. On seven
stiff problems by three implicit methods: 3 of 4 within a factor of 3.3, all within 14.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .._backend.protocols import Capability
from .._base.types import Array, Index, Inputs, Table
from .._controllers import PIDController
from .._controllers.base import AbstractController, AdaptiveController
from .._integrate.outputs import Output, Outputs
from .._integrate.relative_time import unending
from .._integrate.saveat import SaveAt
from .likeness import Likeness

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator

LOOSE = 1e-3
"""Tolerance of the probe, where that of the solve is tighter."""

TRIES = 24
"""Tries of a probe at loosened tolerances: some per cent of a gradient of 200 steps."""

FEW_TRIES = 12
"""Tries of a probe at the solve's own tolerances, which takes few steps itself."""

GROWTH = 0.15
"""Power of the elapsed time by which steps grow beyond the probe."""

STIFF_GROWTH = 0.85
"""The same of a method for stiff problems."""

FAR = 100_000
"""Steps that are predicted at most: a plan looks at a schedule of so many in half a second."""

FIRST_STEP = 16
"""Later steps over the first one: the median of those 17 problems; it is cautious by design."""

UNKNOWN = 64
"""Steps where nothing tells of them: with half as many slots again, a solve of 4,096 steps replays
less than one pass."""


class Prediction(NamedTuple):
    """A number of steps, and where it comes from."""

    steps: int
    source: str


def predict(
    loop: Integrator, inputs: Inputs, k0: Sequence[Array] | None, *, short_probe: bool
) -> Prediction:
    """Accepted steps of an adaptive solve.

    Parameters
    ----------
    k0 : leaves or None
        f at (t0, y0), where it is known.
    short_probe : bool
        Whether some steps may be taken to tell.
    """
    bk, bound = loop.bk, loop.max_steps
    last = _recall(loop, inputs)
    if last is not None:
        found = Prediction(last, "predicted: as the last solve")
    else:
        far = bk.concrete(inputs.t1)
        if far is not None and unending(far):  # what ends it is an event
            short_probe, k0 = False, None
        steps = _probe(loop, inputs) if short_probe else None
        source = "predicted by a short probe"
        if steps is None and k0 is not None:
            steps, source = _first_step(loop, inputs, k0), "predicted from the first step"
        if steps is None:
            steps, source = UNKNOWN, "unknown: a guess"
        found = Prediction(min(steps, FAR), source)
    return found if bound is None else found._replace(steps=min(bound, found.steps))


# --- the last solve


def remember(loop: Integrator, inputs: Inputs, steps: int, planned: int) -> None:
    """Note how many steps a solve took, for the next of the same f, settings, span and shapes.

    What was planned stands if it was near: plans that follow every step more or less would have
    schedules made anew in each round of an optimiser.
    """
    steps = planned if abs(steps - planned) <= NEAR * planned else steps
    key, alive = _key(loop, inputs)
    if key is None:
        return
    _counts.pop(key, None)
    _counts[key] = alive, steps
    while len(_counts) > MOST:
        _counts.popitem(last=False)


def _recall(loop: Integrator, inputs: Inputs) -> int | None:
    found = _counts.get(_key(loop, inputs)[0])
    return found[1] if found is not None and all(ref() is not None for ref in found[0]) else None


def _key(loop: Integrator, inputs: Inputs) -> tuple[int | None, list[Callable[[], object]]]:
    """A hash, so that nothing is kept alive, and what has to live for it to mean the same.

    None where something is unhashable or traced.
    """
    ends = tuple(loop.bk.concrete(t) for t in (inputs.t0, inputs.t1))
    if None in ends:
        return None, []
    try:
        settings = [(type(x), x) for x in (loop.solver, loop.controller)]  # equal hashes if none
        f = Likeness(loop.bk, loop.problem.f)
        compiled = loop.compiled is not None  # it rounds otherwise
        return hash((f.key, loop.problem.alike(), *settings, compiled, ends)), f.alive
    except TypeError:
        return None, []


_counts: OrderedDict[int | None, tuple[list[Callable[[], object]], int]] = OrderedDict()

NEAR = 0.25
"""How far a count may be from the planned one, as a part of it, and leave it as it is."""

MOST = 256
"""Counts kept; the oldest goes first."""


# --- a short probe


def _probe(loop: Integrator, inputs: Inputs) -> int | None:
    """Steps by extrapolation of a few real ones; None where they tell nothing."""
    bk = loop.bk
    if Capability.TRACED in bk.capabilities and bk.needs_gradient(inputs):
        return None  # nothing has a value yet
    loose = _looseness(loop.controller)
    twin = _Short(loop, loose)
    constant = bk.stop_gradient(inputs)
    try:
        with bk.quiet():
            times, n = bk.run_forward(twin, constant)
        start, end = (float(t) for t in constant.clocked[:2])
        n, span = int(bk.number(n)), end - start
        known = times.tolist()[: n + 1]
    except Exception:
        return None  # what fails here by a step too large may not fail in the solve, or will there
    if not n:
        return None if span else 1
    order = loop.solver.error_order
    assert order is not None
    scale = loose ** (1.0 / order)
    growth = STIFF_GROWTH if loop.solver.implicit else GROWTH
    steps = extrapolate(known, span, scale, growth)
    return max(1, math.ceil(steps)) if math.isfinite(steps) else None


def extrapolate(times: Sequence[float], span: float, scale: float, power: float = GROWTH) -> float:
    """Steps of the whole solve from the times of the first ones.

    Parameters
    ----------
    times : sequence of float [time]
        t0 and the ends of the steps taken.
    span : float [time]
        t1 - t0.
    scale : float
        Number of steps of the solve over that of the probe.
    power : float
        Of the elapsed time, by which steps grow beyond the probe.

    Examples
    --------
    >>> extrapolate([0.0, 0.5, 1.0], 1.0, 1.0)  # at the end: counted
    2.0
    >>> 150 < extrapolate([0.0, 1.0, 2.0, 3.0], 300.0, 1.0) < 300
    True
    """
    sizes = [abs(b - a) for a, b in pairwise(times)]
    elapsed, span = abs(times[-1] - times[0]), abs(span)
    found = float(len(sizes))
    start = 0  # steps that more than double only find the step size
    while start + 1 < len(sizes) and sizes[start + 1] > 2 * sizes[start]:
        start += 1
    if elapsed < span:
        mean = sum(sizes[-_TAIL:]) / len(sizes[-_TAIL:])
        growth = (span / elapsed) ** (1 - power) - 1
        found += elapsed / mean * growth / (1 - power)
    elif scale > 1 and len(sizes) > 1:
        found += min(1.0, sizes[-1] / sizes[-2]) - 1  # the last one only ends on t1
    return start + (found - start) * scale


_TAIL = 4
"""Steps whose mean size the extrapolation starts from."""


def _looseness(controller: AbstractController) -> float:
    """How much larger than the solve's the tolerances of the probe are."""
    if not isinstance(controller, PIDController):
        return 1.0
    rtol, atol = controller.rtol, controller.atol
    if not all(isinstance(x, (int, float)) for x in (rtol, atol)) or rtol == 0:
        return 1.0
    return max(1.0, LOOSE / max(float(rtol), float(atol)))


def _loosened(c: Any, loose: float) -> AbstractController:
    found: AbstractController = dataclasses.replace(c, rtol=c.rtol * loose, atol=c.atol * loose)
    return found


class _Short:
    """The start of a solve at loose tolerances, as adapters run programs."""

    def __init__(self, loop: Integrator, loose: float) -> None:
        self.loop = twin = copy.copy(loop)
        tries = TRIES if loose > 1 else FEW_TRIES
        twin.max_steps = tries if loop.max_steps is None else min(tries, loop.max_steps)
        twin.events, twin.cut = None, False
        twin.outputs = Outputs(loop.bk, [Output(loop.bk, SaveAt(), loop.layout, None)])
        if loose > 1:
            twin.controller = _loosened(loop.controller, loose)

    def key(self) -> Hashable:
        """What a compiled form depends on."""
        loop = self.loop
        parts = loop.problem.key(), loop.solver, loop.controller, loop.max_steps, loop.shifted
        return "measure_problem", *parts

    def forget(self) -> None:
        """Drop the arrays of the problem."""
        self.loop.problem.forget()

    def forward(self, inputs: Inputs) -> tuple[Table, Index]:
        """Record of times, and accepted steps."""
        final = self.loop.placed(inputs).integrate(inputs, None, record=True)
        self.loop.problem.trials += self.loop.called(final)
        return final.times, final.n


# --- the first step


def _first_step(loop: Integrator, inputs: Inputs, k0: Sequence[Array]) -> int:
    """Steps from the size of the first one; one call of f."""
    loop = loop.placed(inputs)
    clock, problem = loop.clock, loop.problem
    controller, order = loop.controller, loop.solver.error_order
    assert isinstance(controller, AdaptiveController)
    assert order is not None
    problem.trials += not clock.traced and controller.dt0 is None
    t0, t1 = (clock.real(t) for t in inputs.clocked[:2])
    h = controller.first_step(
        clock,
        loop.layout,
        problem.bind(inputs.params),
        loop.tolerances(inputs),
        (t0, t1, inputs.y0, tuple(k0)),
        order,
    )
    return max(1, math.ceil(abs(t1 - t0) / abs(h) / FIRST_STEP)) if h else 1
