"""Events of a solve: what users ask for, and what is recorded and handed out.

:class:`Event` is the wish, :class:`Hit` what it recorded. ``Events`` are those of one solve: their
place among its results, and the cotangents of these. ``event_detection`` finds them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import InputError
from .._base.types import (
    Array,
    Aux,
    Bool,
    Buffer,
    Function,
    Index,
    Inputs,
    Leaves,
    Scalar,
    Table,
    Time,
    Tree,
    VectorFieldFn,
)
from .solution import Status

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .integrator import Integrator
    from .outputs import Final
    from .problem import Problem

CAPACITY = 64
"""Rows of an event in traced code, where the user gives none."""


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happens where a condition crosses zero in a solve.

    Parameters
    ----------
    condition : callable
        ``condition(t, y, args)`` is a real scalar that crosses zero, or a boolean, which fires at
        the end of the step where it turns true.
    direction : {-1, 0, 1}
        Which crossings count: 1 rising (or turning true), -1 falling (or turning false), 0 both
        (of a boolean: turning true).
    terminal : bool or int
        True ends the solve, an int k does so at the k-th time; False records and goes on. With a
        ``reset``, True goes on too: give a number.
    reset : callable or None
        ``reset(t, y, args) -> y`` is the state from which the solve goes on.
    capacity : int or None
        How many are recorded at most in traced code (``jax.jit``); more end the solve with the
        status ``too_many_events``. None: 64, or as many as can be. Eager libraries record all.

    Notes
    -----
    Gradients go through the time of an event, the state at it, ``reset`` and all that comes
    behind, by y0, t0, args and what the functions close over (Corner & others 2020,
    arXiv:2011.03902; the implicit function theorem, on the discrete solve's own interpolant). Of a
    condition that only touches zero, the time has no derivative: an error, in traced code nan.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> fall = lambda t, y, args: np.stack([y[1], -9.81 + 0.0 * y[0]])
    >>> ground = rg.Event(lambda t, y, args: y[0], direction=-1)
    >>> sol = rg.solve(fall, np.array([10.0, 0.0]), 0.0, 5.0, event=ground)
    >>> sol.status.name, sol.event, round(float(sol.ts[-1]), 4)
    ('event', 0, 1.4278)

    A ball that bounces, and what was recorded:

    >>> bounce = lambda t, y, args: np.stack([0.0 * y[0], -0.8 * y[1]])
    >>> ball = rg.Event(lambda t, y, args: y[0], direction=-1, reset=bounce)
    >>> sol = rg.solve(fall, np.array([10.0, 0.0]), 0.0, 5.0, event=ball)
    >>> sol.events[0].ts.round(3).tolist()
    [1.428, 3.712]
    """

    condition: VectorFieldFn
    direction: int = 0
    terminal: bool | int = True
    reset: VectorFieldFn | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        for name, fn in (("condition", self.condition), ("reset", self.reset)):
            if not callable(fn) and not (name == "reset" and fn is None):
                raise InputError(f"`Event.{name}` is {fn!r}; pass {name}(t, y, args).")
        if self.direction not in (-1, 0, 1):
            raise InputError(
                f"`Event.direction` is {self.direction!r}; pass 1 for rising, -1 for falling, or 0 "
                "for both."
            )
        for name in ("terminal", "capacity"):
            value = getattr(self, name)
            whole = isinstance(value, int) and (isinstance(value, bool) or value >= 1)
            if not whole and not (name == "capacity" and value is None):
                kinds = "True, False or a number of at least 1" * (name == "terminal")
                raise InputError(
                    f"`Event.{name}` is {value!r}; pass {kinds or 'a number of at least 1'}."
                )

    @property
    def last(self) -> int | None:
        """At which of its hits the solve ends."""
        if isinstance(self.terminal, bool):
            return 1 if self.terminal and self.reset is None else None
        return self.terminal

    @property
    def rows(self) -> int:
        """Rows for its hits in traced code."""
        return self.last or self.capacity or CAPACITY

    def key(self) -> Hashable:
        """What a compiled form depends on."""
        return self.condition, self.reset, self.direction, self.last, self.rows


@dataclass(frozen=True)
class Hit:
    """What an event recorded.

    Attributes
    ----------
    ts : array, shape (k,) [time]
        When it happened. In traced code as many rows as its ``capacity``, those not used inf.
    ys : tree of arrays, shape (k, *shape)
        The states there, before a reset.
    after : tree of arrays, shape (k, *shape), or None
        Those after it; None without a reset.
    count : int or array
        How many there were.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> swing = lambda t, y, args: np.stack([y[1], -np.sin(y[0])])
    >>> bottom = rg.Event(lambda t, y, args: y[0], terminal=False)
    >>> sol = rg.solve(swing, np.array([0.5, 0.0]), 0.0, 8.0, rtol=1e-8, event=bottom)
    >>> sol.events[0].count, sol.events[0].ts.round(2).tolist()
    (3, [1.6, 4.79, 7.98])
    """

    ts: Array
    ys: Tree
    after: Tree
    count: Index


class EventState(NamedTuple):
    """What goes from try to try.

    Attributes
    ----------
    values : tuple of scalar
        Of each condition, the last that was not zero; 0: none yet, or none since a reset.
    counts : tuple of int
        Hits of each event.
    number, cuts : int
        Hits of all, and those that cut a step.
    ended : int
        The event that ended the solve, -1: none.
    full : bool
        Whether one found no row.
    table : table of reals
        Of each hit: theta, time, event, step and kind (see ``RECORDED``).
    left, right : buffer
        States before and after it; right () where nothing resets.
    starts : buffer
        What was carried to the step that it cut, where that is kept; else ().
    """

    values: tuple[Scalar, ...]
    counts: tuple[Index, ...]
    number: Index
    cuts: Index
    ended: Index
    full: Bool
    table: Table
    left: Buffer
    right: Buffer
    starts: Buffer = ()

    def kept(self) -> EventState:
        """What a reverse pass needs of it."""
        return self._replace(values=(), left=(), right=())


THETA, TIME, EVENT, STEP, KIND = range(5)
"""Columns of the table of hits."""

RECORDED, RESET, ENDED = range(3)
"""Kinds of hits; the last two cut their step."""


def wished(event: Event | Sequence[Event] | None) -> list[Event]:
    """The events of ``solve``'s argument."""
    if isinstance(event, Event):
        return [event]
    if not (event is None or isinstance(event, (list, tuple))):
        raise InputError(f"`event` is {event!r}; pass rg.Event(...) or a list of them.")
    return list(event or ())


class Events:
    """The events of one solve.

    Parameters
    ----------
    bk : AbstractBackend
    given : sequence of Event
    boolean : sequence of bool
        Which conditions have boolean values.
    """

    def __init__(
        self, bk: AbstractBackend, given: Sequence[Event], boolean: Sequence[bool]
    ) -> None:
        self.bk, self.given, self.boolean = bk, tuple(given), tuple(boolean)
        self.resets = any(event.reset is not None for event in given)
        self.capacity = sum(event.rows for event in given)
        self.terminal = any(event.last is not None for event in given)
        self.keeps_starts = False
        """Whether the starts of steps that are cut are kept."""

    @classmethod
    def of(
        cls,
        problem: Problem,
        wish: Event | Sequence[Event] | None,
        t0: Time,
        samples: int | None = None,
    ) -> Events | None:
        """From ``solve``'s argument, checked by a call of each function; None for no events.

        ``samples``: of a batch, whose conditions have a number for each.
        """
        given = wished(wish)
        if not given:
            return None
        boolean = []
        for i, event in enumerate(given):
            if not isinstance(event, Event):
                raise InputError(f"`event` holds {event!r}; pass rg.Event(...) or a list of them.")
            name = f"`event[{i}].condition`"
            boolean.append(_check_condition(problem, event.condition, t0, name, samples))
            if event.reset is not None:
                _check_reset(problem, event.reset, t0, f"`event[{i}].reset`")
        return cls(problem.bk, given, boolean)

    def key(self) -> Hashable:
        """What a compiled form depends on."""
        return tuple(event.key() for event in self.given)

    def keeping_starts(self) -> Events:
        """The same, for a way back that takes steps back: none leads back over a cut."""
        twin = copy.copy(self)
        twin.keeps_starts = True
        return twin

    # --- what a solve hands out
    def leaves(self, loop: Integrator, inputs: Inputs, final: Final) -> Leaves:
        """Its differentiable results, behind the rows: states before and after each hit, its
        time, and the time at which the solve ended."""
        bk, s, traced = self.bk, final.events, loop.clock.traced
        rows = self.capacity if traced else s.number
        ok = reached(loop, final)
        fill = loop.clock.where(ok, math.inf, math.nan)
        found = bk.rows(loop.layout, s.left, rows, s.number, fill)
        if self.resets:
            found = (*found, *bk.rows(loop.layout, s.right, rows, s.number, fill))
        times = bk.times_array(self.times(loop, inputs, s), loop.layout)
        end = bk.scalar_array(loop.user_time(inputs, final.t), loop.layout)
        times, end = (bk.stop_gradient(x) for x in (times, end))
        if traced:
            (times,) = bk.blank((times,), s.number, fill)
            end = bk.nan_unless(ok, end)
        return (*found, times, end)

    def times(self, loop: Integrator, inputs: Inputs, s: EventState) -> Table:
        """When the hits were, as the user counts time."""
        if loop.clock.traced:
            return loop.user_time(inputs, s.table[: self.capacity, TIME])
        return [loop.user_time(inputs, s.table[k][TIME]) for k in range(s.number)]

    def aux(self, final: Final, *, traced: bool) -> Aux:
        """What else it tells: the event of each hit, how many of each, which ended the solve."""
        s = final.events
        if traced:
            return s.table[: self.capacity, EVENT], s.counts, s.ended, s.cuts
        return [s.table[k][EVENT] for k in range(s.number)], s.counts, s.ended, s.cuts

    def hits(self, problem: Problem, leaves: Leaves, aux: Aux) -> tuple[Hit, ...]:
        """What each event recorded, of its leaves."""
        bk = self.bk
        width = len(problem.layout.shapes)
        left, right, times = leaves[:width], leaves[width:-2], leaves[-2]
        found = []
        for j, event in enumerate(self.given):
            pick = _picker(bk, self.rows_of(j, aux), aux[1][j])
            rows = [left, right] if event.reset is not None else [left]
            trees = [problem.tree(tuple(map(pick, leaves))) for leaves in rows]
            if problem.casts is not None:
                trees = [problem.casts.y.down(x) for x in trees]
            after = trees[1] if event.reset is not None else None
            found.append(Hit(pick(times), trees[0], after, bk.number(aux[1][j])))
        return tuple(found)

    def cotangents(
        self,
        problem: Problem,
        leaves: Leaves,
        aux: Aux,
        given: Sequence[Hit | None] | None,
        ends: Sequence[Array],
    ) -> Leaves:
        """Cotangents of its leaves from those of ``Solution.events``, and of the time of the end
        (the last of each of ``ends``)."""
        bk, layout, width = self.bk, problem.layout, len(problem.layout.shapes)
        given = (None,) * len(self.given) if given is None else given
        if len(given) != len(self.given):
            raise InputError(
                f"`events` has {len(given)} entries; give one for each of the {len(self.given)} "
                "events, None for zero."
            )
        found = [self._nothing(like) for like in leaves[:-1]]
        for j, hit in enumerate(given):
            if hit is None:
                continue
            if hit.after is not None and self.given[j].reset is None:
                raise InputError(f"`events[{j}].after` is given, but event {j} has no `reset`.")
            parts = [([len(leaves) - 2], hit.ts), (range(width), hit.ys)]
            parts.append((range(width, 2 * width), hit.after))
            rows = self.rows_of(j, aux)
            count = len(rows) if isinstance(rows, list) else int(rows.shape[0])
            for places, ct in parts:
                for i, x in zip(places, [] if ct is None else bk.flatten(ct)[0], strict=False):
                    like = leaves[i]
                    x = bk.array(x, like.dtype, layout.device)
                    if tuple(x.shape) != (count, *like.shape[1:]):
                        raise InputError(
                            f"`events[{j}]` has a cotangent of shape {tuple(x.shape)}, but "
                            f"`sol.events[{j}]` {(count, *like.shape[1:])}; make them equal."
                        )
                    if count:
                        found[i] = found[i] + self._placed(j, rows, aux, x, like)
        end = bk.zeros_like(leaves[-1])
        for ct in ends:
            end = end + bk.array(ct, end.dtype, layout.device)[-1]
        return (*found, end)

    def forms(self, leaves: Leaves, width: int) -> Leaves:
        """What a pullback needs of a program's leaves, ``width`` of them rows: of the states at
        hits their shapes, for the solution has copies of them."""
        return (*leaves[:width], *map(self._nothing, leaves[width:-2]), *leaves[-2:])

    def _nothing(self, like: Array) -> Array:
        """Zeros that take no memory: most hits have no cotangent."""
        shape = tuple(like.shape)
        if not shape or 0 in shape:
            return self.bk.zeros_like(like)
        one = self.bk.zeros_like(self.bk.xp.reshape(like, (-1,))[:1])
        return self.bk.xp.broadcast_to(one, shape)

    def _placed(self, j: int, rows: list[int] | Array, aux: Aux, x: Array, like: Array) -> Array:
        """Event j's ``rows`` at their places among those of all hits, zeros at the others'."""
        xp, zero = self.bk.xp, self.bk.zeros_like(like[0, ...])
        if isinstance(rows, list):
            own = dict(zip(rows, range(len(rows)), strict=True))
            at = range(like.shape[0])
            return xp.stack([x[own[k], ...] if k in own else zero for k in at])
        mine = (aux[0] == j) & (xp.arange(self.capacity) < sum(aux[1]))
        place = xp.cumulative_sum(xp.astype(mine, rows.dtype)) - 1
        taken = xp.take(x, xp.where(mine, place, 0), axis=0)
        return xp.where(xp.reshape(mine, (-1, *[1] * zero.ndim)), taken, zero)

    def rows_of(self, j: int, aux: Aux) -> list[int] | Array:
        """Places of event j's hits among all: a list where they are known, else an array."""
        bk, (column, counts, _, _) = self.bk, aux
        count = bk.concrete(counts[j])
        if count is not None:
            known = [int(bk.number(x)) for x in column]
            return [k for k, e in enumerate(known) if e == j][: int(count)]
        xp = bk.xp
        places = xp.arange(self.capacity)
        total = sum(counts)
        mine = (column == j) & (places < total)
        return xp.argsort(xp.where(mine, places, self.capacity))[: self.given[j].rows]


def _picker(bk: AbstractBackend, rows: list[int] | Array, count: Index) -> Callable[[Array], Array]:
    """Rows of an array, those beyond ``count`` inf where that is not known."""
    xp = bk.xp
    if isinstance(rows, list):

        def known(x: Array) -> Array:
            if not rows:
                return x[:0, ...]
            return xp.stack([x[k, ...] for k in rows])

        return known

    def traced(x: Array) -> Array:
        taken = xp.take(x, rows, axis=0)
        used = xp.arange(rows.shape[0]) < count
        failed = xp.any(xp.isnan(x))
        used = xp.reshape(used, (-1, *(1 for _ in x.shape[1:])))
        return xp.where(used, taken, xp.where(failed, math.nan, math.inf))

    return traced


def reached(loop: Integrator, final: Final) -> Bool:
    """Whether a solve got to its end: t1, or an event."""
    status = final.status
    done = status == int(Status.converged)
    if loop.events is None:
        return done
    return loop.clock.either(done, status == int(Status.event))


# --- checks


def _check_condition(
    problem: Problem, fn: VectorFieldFn, t0: Time, name: str, samples: int | None
) -> bool:
    """Whether a condition is boolean; InputError unless it is one real scalar (of each sample)."""
    bk = problem.bk
    leaves, _ = bk.example(problem, fn, t0)
    x: Array = leaves[0] if len(leaves) == 1 else None
    shape = () if samples is None else (samples,)
    if x is None or not bk.is_array(x) or tuple(x.shape) != shape:
        what = f"shape {tuple(x.shape)}" if hasattr(x, "shape") else f"{leaves!r:.40}"
        how = "index or sum the state, as in `y[0]`"
        if samples is not None:
            how = "a number for each sample, as in `y[:, 0]`"
        raise InputError(
            f"{name} returned {what}; return one array of shape {shape}, real or boolean ({how})."
        )
    if bk.floating(x) == "real":
        return False
    if "bool" in str(x.dtype):
        return True
    raise InputError(f"{name} returned dtype {x.dtype}; return real or boolean numbers.")


def _check_reset(problem: Problem, fn: VectorFieldFn, t0: Time, name: str) -> None:
    """InputError unless a reset returns a state like y0."""
    bk, layout = problem.bk, problem.layout
    leaves, _ = bk.example(problem, fn, t0)
    shapes = [tuple(getattr(x, "shape", (None,))) for x in leaves]
    if shapes != [tuple(shape) for shape in layout.shapes] or not all(map(bk.is_array, leaves)):
        raise InputError(
            f"{name} returned leaves of shape {shapes}; return a state like `y0`, with arrays of "
            f"shape {[tuple(shape) for shape in layout.shapes]}."
        )
    if any(x.dtype != layout.dtype for x in leaves):
        found = [str(x.dtype) for x in leaves]
        raise InputError(f"{name} returned dtypes {found} where `y0` has {layout.dtype}; convert.")


def bound_event(
    loop: Integrator, fn: VectorFieldFn, inputs: Inputs, *, scalar: bool = False
) -> Function:
    """A condition or reset as ``call(t, y) -> leaves``, of a time of the clock and a state;
    ``scalar``: to its one leaf."""
    layout, problem = loop.layout, loop.problem
    call = problem.bind_output(fn, inputs.params)
    if scalar and problem.program is None:  # once a part of a step: no tree is taken apart
        plain, args = problem.output_calls.get(id(fn), fn), problem.arguments(inputs.params)
        safe = loop.bk.guard(lambda t, y: plain(t, problem.tree(layout.unpack(y)), args))
    elif scalar:
        safe = loop.bk.guard(lambda t, y: call(t, layout.unpack(y))[0])
    else:
        safe = loop.bk.guard(lambda t, y: call(t, layout.unpack(y)))
    return lambda t, y: safe(layout.time(t), y)
