"""ForwardMode: tangents carried along the accepted steps; nothing is stored for a reverse pass.

A tangent dy of the state takes the steps that y takes: with the step sizes as constants it is
the exact derivative of the discrete solve, and costs one jvp of f a stage. Asked for a jvp, the
library's own forward mode follows the integration once. Asked for a gradient, the tangents of the
output rows by every differentiated real number are formed on the way forward, and the cotangents
meet them in reverse: 1 + 1.5 m steps' work for m numbers, and m states (Griewank & Walther,
*Evaluating Derivatives*, 2nd ed. 2008, sections 3.1 and 4.5).

A library without forward mode has none here: the tape's forward twin would need a tape of the
tape, so it is an error that names the adjoints that work.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.types import Array, Carry, Inputs, Leaves, NeedsGradient, Residuals, Scalar
from .._controllers import GivenGrid
from .._integrate.outputs import output_leaves
from .._integrate.solution import Status
from .._integrate.stops import Stops
from .base import AbstractAdjoint
from .direct import DirectAdjoint, check_followed

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._controllers.base import Grid
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final

FEW = 4
"""Numbers up to which the tangents by all of them are formed with the solve itself."""


@dataclass(frozen=True)
class ForwardMode(AbstractAdjoint):
    """Tangents along the steps, for jvp and for gradients by a few numbers.

    Notes
    -----
    Memory: one state for each tangent, and the rows of each in gradients. Where autodiff follows
    Python loops, gradients take one integration for each number; there a tangent of t0, t1 or ts
    keeps the states of all steps, and with events any tangent does so in every library. ``f``
    itself is differentiated: it must not bring its own ``vjp``, and its operations need a forward
    mode.

    Examples
    --------
    Gradients by one or a few numbers, where the library has a jvp: ``jax.grad`` by a rate with
    ``adjoint=rg.ForwardMode()``, or ``jax.jvp``. The planner chooses it there by itself.

    >>> import retrograde as rg
    >>> rg.ForwardMode().name
    'ForwardMode'
    """

    accuracy: ClassVar[str] = "exact"
    forward_depends_on_wanted: ClassVar[bool] = True
    follows_solve: ClassVar[bool] = True
    passes_events: ClassVar[bool] = True

    def primal(self, loop: Integrator, inputs: Inputs) -> tuple[Leaves, Final]:
        """(output leaves, where the integration ended), by operations that a jvp can follow."""
        check_followed(loop, self.name)
        bk = loop.bk
        if Capability.TRACED not in bk.capabilities or loop.events is not None:
            return DirectAdjoint().primal(loop, inputs)
        twin = copy.copy(loop)
        constant = bk.stop_gradient(inputs)
        grid = lambda i, final=None: _moved(loop.grid(i, final), bk, inputs, constant)  # noqa: E731
        vars(twin).update(grid=grid, rows_in_steps=True)
        moving = inputs
        if inputs.relative:  # zeros that carry the derivatives
            times = zip(inputs.relative, inputs[2:5], constant[2:5], strict=True)
            moving = inputs._replace(relative=tuple(_carrying(*three) for three in times))
        if len(inputs.jumps):  # the first of the stops (``_stops``)
            stops, jumps, given = inputs.settings[2:]
            count, zeros = len(inputs.jumps), inputs.jumps - constant.jumps
            stops = bk.xp.concat([stops[:count] + zeros, stops[count:]])
            settings = *inputs.settings[:2], stops, jumps + zeros, given
            moving = moving._replace(settings=settings)
            twin.stops = Stops(twin, moving)
        final = twin.integrate(moving)
        final = final._replace(y=_slope_without_steps(loop, inputs, constant, final))
        leaves = output_leaves(twin, moving, final)
        ok = final.status == int(Status.converged)
        times = bk.stop_gradient((final.t, final.times))
        final = final._replace(t=times[0], times=times[1])
        return tuple(bk.poison_gradient(ok, x) for x in leaves), final

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        check_followed(loop, self.name)
        return loop.integrate(inputs), None

    def forward_for(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient | None
    ) -> tuple[Leaves, Final, Residuals]:
        if wanted is None or _Chosen(loop, inputs, wanted).count > FEW:
            return super().forward_for(loop, inputs, wanted)
        return self._columns(loop, inputs, wanted)

    def _columns(
        self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient
    ) -> tuple[Leaves, Final, Residuals]:
        """Output leaves, where the integration ended, and the leaves' tangents by all that is
        wanted."""
        chosen = _Chosen(loop, inputs, wanted)

        def run(arrays: Sequence[Array]) -> tuple[Leaves, Final]:
            return self.primal(loop, chosen.put(arrays))

        (leaves, final), columns = loop.bk.columns(run, chosen.arrays)
        return leaves, final, columns

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        chosen, bk, columns = _Chosen(loop, inputs, wanted), loop.bk, residuals
        if columns is None or len(columns) != len(chosen.arrays):  # fewer are asked for now
            columns = self._columns(loop, inputs, wanted)[2]
        cts = [
            _pulled(bk, x, column, cotangents)
            for x, column in zip(chosen.arrays, columns, strict=True)
        ]
        return chosen.cotangents(cts)

    def push(self, loop: Integrator, residuals: Residuals, tangents: Inputs) -> Leaves | None:
        """Tangents of the rows from those of the inputs (None: constant), or None if unknown.

        ``residuals`` are what ``forward_for`` kept, which had the same inputs in mind.
        """
        if residuals is None:
            return None
        y0 = tangents.y0 if isinstance(tangents.y0, tuple) else (tangents.y0,)
        moved = any(x is not None for x in y0)
        times = (tangents.t0, tangents.t1, tangents.ts, tangents.jumps)
        rest = [x for x in (*tangents.params, *times) if not _absent(x)]
        total: list[Scalar] = [0.0] * len(residuals[0])
        for x, column in zip([*(y0 if moved else ()), *rest], residuals, strict=True):
            if x is not None:
                parts = _pushed(loop.bk, x, column)
                total = [a + b for a, b in zip(total, parts, strict=True)]
        return tuple(total)


def _carrying(t: Scalar, given: Scalar, constant: Scalar) -> Scalar:
    """Times of the clock with the derivatives of those given; no saved times are ()."""
    return t if isinstance(t, tuple) else t + (given - constant)


def _absent(x: Array) -> bool:
    return x is None or isinstance(x, (tuple, list))


class _Chosen:
    """The inputs that are differentiated as one list of arrays, and the way back."""

    def __init__(self, loop: Integrator, inputs: Inputs, wanted: NeedsGradient) -> None:
        self.loop, self.inputs, self.wanted = loop, inputs, wanted
        bk, layout, problem = loop.bk, loop.layout, loop.problem
        if problem.program is None and any(wanted.params[len(problem.where) :]):
            raise InputError(
                "`adjoint` is ForwardMode, but `f` closes over arrays that require a gradient, "
                "which can't be replaced by others with tangents; pass them through `args`."
            )
        self.whole = isinstance(inputs.y0, tuple)
        y0 = inputs.y0 if self.whole else (inputs.y0,)
        self.states = len(y0) if wanted.y0 else 0
        self.arrays = list(y0[: self.states])
        self.arrays += [x for x, w in zip(inputs.params, wanted.params, strict=True) if w]
        for t, w in ((inputs.t0, wanted.t0), (inputs.t1, wanted.t1)):
            self.arrays += [bk.scalar_array(t, layout)] if w else []
        for ts, w in ((inputs.ts, wanted.ts), (inputs.jumps, wanted.jumps)):
            self.arrays += [bk.times_array(ts, layout)] if w else []
        self.count = sum(_directions(bk, x) for x in self.arrays)

    def put(self, arrays: Sequence[Array]) -> Inputs:
        """The inputs with the chosen ones replaced."""
        new = self._named(arrays, self.inputs)
        table = self.loop.bk.time_sequence
        if self.wanted.ts:
            new = new._replace(ts=table(new.ts, self.loop.layout))
        if self.wanted.jumps:
            new = new._replace(jumps=table(new.jumps, self.loop.layout))
        return new

    def cotangents(self, arrays: Sequence[Array]) -> Inputs:
        """Cotangents of all inputs; zero or None for those that are not wanted."""
        blank = Inputs(self.loop.layout.zeros(), (None,) * len(self.inputs.params), 0.0, 0.0, ())
        return self._named(arrays, blank)

    def _named(self, arrays: Sequence[Array], rest: Inputs) -> Inputs:
        it, wanted = iter(arrays), self.wanted
        y0 = rest.y0
        if self.states:
            leaves = tuple(next(it) for _ in range(self.states))
            y0 = leaves if self.whole else leaves[0]
        params = tuple(
            next(it) if w else x for x, w in zip(rest.params, wanted.params, strict=True)
        )
        t0 = next(it) if wanted.t0 else rest.t0
        t1 = next(it) if wanted.t1 else rest.t1
        ts = next(it) if wanted.ts else rest.ts
        jumps = next(it) if wanted.jumps else rest.jumps
        return Inputs(y0, params, t0, t1, ts, rest.settings, relative=rest.relative, jumps=jumps)


def _directions(bk: AbstractBackend, x: Array) -> int:
    """Real numbers in an array."""
    size = 1
    for d in x.shape:
        size *= int(d)
    return 2 * size if bk.floating(x) == "complex" else size


def _pulled(
    bk: AbstractBackend, x: Array, column: Sequence[Array], cotangents: Sequence[Array]
) -> Array:
    """The cotangent of x: the rows' cotangents paired with the rows' tangents by its numbers."""
    xp = bk.xp
    total: Scalar = 0.0
    for ct, rows in zip(cotangents, column, strict=True):
        pairs = bk.pair(ct[None, ...], rows)
        total = total + xp.sum(xp.reshape(pairs, (rows.shape[0], -1)), axis=1)
    if bk.floating(x) != "complex":
        return xp.astype(xp.reshape(total, x.shape), x.dtype)
    half = column[0].shape[0] // 2
    real, imag = (xp.reshape(part, x.shape) for part in (total[:half], total[half:]))
    unit = xp.zeros_like(x) + 1j
    return real + 1j * bk.pair(unit, unit) * imag  # the sign of the library's own pairing


def _pushed(bk: AbstractBackend, x: Array, column: Sequence[Array]) -> list[Array]:
    """The tangent of the rows that comes of the tangent x of one array."""
    xp = bk.xp
    parts = [xp.real(x), xp.imag(x)] if bk.floating(x) == "complex" else [x]
    v = xp.concat([xp.reshape(part, (-1,)) for part in parts])
    found = []
    for rows in column:
        flat = xp.reshape(rows, (rows.shape[0], -1))
        found.append(xp.reshape(bk.matmul(xp.astype(v, rows.dtype), flat), rows.shape[1:]))
    return found


def _moved(grid: Grid, bk: AbstractBackend, inputs: Inputs, constant: Inputs) -> Grid:
    """A grid of given times whose ends move with t0 and t1; others do so themselves."""
    if not isinstance(grid, GivenGrid) or grid.shifts:
        return grid
    times = bk.table_set(grid.times, 0, grid.times[0] + (inputs.t0 - constant.t0))
    last = times.shape[0] - 1
    grid.times = bk.table_set(times, last, times[last] + (inputs.t1 - constant.t1))
    return grid


def _slope_without_steps(loop: Integrator, inputs: Inputs, constant: Inputs, final: Final) -> Carry:
    """The last state, which moves with t0 and t1 even where they are equal: by dy/dt = f."""
    if isinstance(loop.count, int) and loop.count > 0:
        return final.y
    span = (inputs.t1 - constant.t1) - (inputs.t0 - constant.t0)
    moved = loop.clock.where(final.n == 0, span, 0.0)
    t0, layout = loop.clock.real(constant.clocked[0]), loop.layout
    slope = loop.problem.bind(constant.params)(layout.time(t0), constant.y0)
    return layout.axpy(final.y, moved, layout.pack(slope))
