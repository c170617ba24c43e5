"""What a solve hands back."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from .._base.errors import InputError, SolveFailed, UnsupportedByBackend
from .._base.types import Array, Index, Scalar, Time, Times, Tree, Y

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._planner.plan import Plan
    from .dense import DenseOutput
    from .events import Hit


class Status(enum.IntEnum):
    """How a solve ended; 0 is success.

    Examples
    --------
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, max_steps=2, throw=False)
    >>> sol.status is rg.Status.max_steps, rg.Status.converged.message
    (True, 'the solve reached t1.')
    """

    converged = 0
    max_steps = 1
    dt_min = 2
    non_finite = 3
    event = 4
    bad_times = 5
    too_many_events = 6
    unsolved = 7

    @property
    def message(self) -> str:
        """One sentence for a person."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.converged: "the solve reached t1.",
    Status.max_steps: "the number of tries reached `max_steps`; raise it, loosen the tolerances, "
    "or, if the problem is stiff, take solver='auto' or 'rodas5p'.",
    Status.dt_min: "the step size fell below its floor (`dtmin`, or the resolution of t); the "
    "problem may be stiff (solver='auto', 'rodas5p') or singular there.",
    Status.non_finite: "`f` or the state became nan or inf there, or the equations of an implicit "
    "step of constant size had no solution; check `f`, `y0`, the domain of the functions that it "
    "calls, and `dt`.",
    Status.event: "an event ended the solve.",
    Status.bad_times: "the solve was not begun: `saveat.ts` leave t0 to t1 or are out of order, a "
    "time is nan or infinite, or the steps lead away from `t1`; sort and clip the times.",
    Status.too_many_events: "an event happened more often than there were rows for; raise "
    "`Event.capacity`.",
    Status.unsolved: "the equations of an implicit step were not solved there: Newton's iteration "
    "did not converge, or its matrix was singular or nan. Where `dt` is constant, take a smaller "
    "one; else `f` may jump there, its Jacobian be wrong (`rg.check_jac`), or equations without a "
    "derivative (`mass`) be lost.",
}


ADVICE = 'The problem looks stiff from t = %.6g on; try solver="auto" or solver="rodas5p".'
"""Of an integration by an explicit method that its stability holds to small steps."""


class Gradients(NamedTuple, Generic[Y]):
    """Cotangents of the inputs of a solve.

    Attributes
    ----------
    y0, args : tree
        As given; leaves without a derivative (integers, None, strings) hold None.
    t0, t1 : array, shape ()
        Cotangents of the times that the solve starts and ends at.
    ts : array, shape (k,) or None
        Cotangents of the saved times, where times were given; of several SaveAt, one of each in
        their structure (None for those without ``ts``).
    jump_ts : array, shape (k,) or None
        Cotangents of the times at which f jumps (``PIDController(jump_ts=...)``), in the order in
        which they were given; None without any, and where it is not told (a continuous adjoint,
        and cotangents of the times of steps or of dense output in a solve with events).

    Notes
    -----
    Where f takes its time as a plain number, reading those of times raises.

    Examples
    --------
    >>> import retrograde as rg
    >>> sol, pullback = rg.solve_vjp(lambda t, y, a: -a["k"] * y, [1.0], 0.0, 1.0, {"k": 0.5})
    >>> g = pullback([[1.0]])
    >>> round(float(g.args["k"]), 3), round(float(g.t1), 3)
    (-0.607, -0.303)
    """

    y0: Y
    args: Tree
    t0: Array
    t1: Array
    ts: Array | None = None
    jump_ts: Array | None = None


class _Untimed(Gradients[Y]):
    """Gradients where f takes its time as a plain number: those of times raise when read."""

    def _read(self, place: int) -> Array:
        name = self._fields[place]
        if name not in vars(self).get("lost", ()):
            return self[place]
        raise UnsupportedByBackend(
            f"`{name}` has no gradient: `f` (or `saveat.fn`) uses t in plain code, such as "
            "`math.cos(t)` or `np.interp(t, ...)`, which has no derivative here. Use functions of "
            "the array library on t, or give the derivative with `rg.VectorField(f, vjp=...)`; "
            "the gradients of `y0` and `args` need neither."
        ) from vars(self)["why"]

    @property
    def t0(self) -> Array:
        return self._read(2)

    @property
    def t1(self) -> Array:
        return self._read(3)

    @property
    def ts(self) -> Array | None:
        return self._read(4)

    @property
    def jump_ts(self) -> Array | None:
        return self._read(5)


def without_times(g: Gradients[Y], lost: Collection[str], why: Exception) -> Gradients[Y]:
    """The same gradients without those of some times, which raise when they are read."""
    times = (None if k in lost else x for k, x in zip(g._fields[2:], g[2:], strict=True))
    found: Gradients[Y] = _Untimed(g.y0, g.args, *times)
    vars(found).update(lost=frozenset(lost), why=why)
    return found


def without_lost_times(bk: AbstractBackend, g: Gradients[Y], why: Exception | None) -> Gradients[Y]:
    """The same without what is nan as f could not be differentiated by its time, for ``why``."""
    if why is None:
        return g
    lost = []
    for name, tree in zip(g._fields[2:], g[2:], strict=True):
        leaves = [x for x in bk.flatten(tree)[0] if x is not None]
        if any(bk.concrete(bk.xp.any(x != x)) for x in leaves):
            lost.append(name)
    return without_times(g, lost, why)


@dataclass(frozen=True)
class Solution(Generic[Y]):
    """Result of :func:`retrograde.solve`; in JAX a pytree, whose ``plan`` is static.

    Attributes
    ----------
    ts : array, shape (k,) [time]
        Times of the rows. They have gradients too: by t0, t1 and the saved times.
    ys : tree of arrays, shape (k, *shape)
        Time first. Rows that the solve did not reach are nan, in ``ts`` too. Of several SaveAt,
        ``ts`` and ``ys`` have their structure.
    stats : dict of int
        num_steps (tries), num_accepted_steps, num_rejected_steps; num_f_evals, the calls of f by
        the integration, counted where a step iterates; of implicit methods num_jac_evals, Jacobians
        (what f is called for them is not in num_f_evals; of Rosenbrock methods one an accepted
        step, in JAX one a try), and num_factorizations; in eager libraries num_trial_f_evals,
        those beside it (what f returns is looked at, the planner's probe, an integration begun
        again for want of room, the search for where constant steps became nan, looks for
        stiffness), and stiff_from, the time from which on an explicit method was held to small
        steps by its stability (only where it was: it is looked for once in hundreds of tries). Once
        a reverse pass has run, of the last one: in eager libraries num_reverse_f_evals, the calls
        of f by it, and num_reverse_vjps, vjps of f (not with ``compile=True``, nor where the
        library's autodiff recorded the solve);
        of one that inverts steps (not under ``jax.jit``) inverted, replayed, and max_guard_error,
        the largest error that the guard let pass.
    status : Status or array of int
        A Status where its value is known, else (traced) its number.
    t_final : float or array [time]
        Time that the solve reached; nan where constant steps in JAX met nan or inf and no rows
        inside the solve were saved, for then no state on the way is looked at.
    plan : Plan or None
        What the gradient follows.
    dense : DenseOutput or None
        What ``evaluate`` and ``derivative`` read, of ``SaveAt(dense=True)``.
    event : int or array of int
        Which event ended the solve; -1: none did.
    events : tuple of Hit
        What each event recorded.

    Examples
    --------
    >>> import retrograde as rg
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0, 2.0], 0.0, 1.0, saveat=[0.0, 0.5, 1.0])
    >>> sol.ys.shape, sol.ts.tolist(), sol.status.name
    ((3, 2), [0.0, 0.5, 1.0], 'converged')
    """

    ts: Array
    ys: Y
    stats: dict[str, Scalar]
    status: Status | Array
    t_final: Scalar
    plan: Plan | None = field(default=None, repr=False)
    dense: DenseOutput | None = field(default=None, repr=False)
    event: Index = -1
    events: tuple[Hit, ...] = ()

    def raise_if_failed(self) -> Solution[Y]:
        """Raise SolveFailed unless the solve (all of a batch) reached t1 or an event.

        For what comes out of ``jax.jit`` or ``vmap``, where a solve can't raise by itself.

        Returns
        -------
        Solution
            This one.

        Raises
        ------
        SolveFailed
            It names the first sample that failed, the time and the reason.
        InputError
            Inside of the trace, where the status has no value.

        Examples
        --------
        >>> import numpy as np
        >>> import retrograde as rg
        >>> sol = rg.solve(lambda t, y, args: -y, np.ones(2), 0.0, 1.0, max_steps=2, throw=False)
        >>> sol.raise_if_failed()
        Traceback (most recent call last):
        ...
        retrograde._base.errors.SolveFailed: ... the number of tries reached `max_steps`; ...
        """
        found = list(_samples(_values(self.status)))
        failed = [(where, n) for where, n in found if n not in (Status.converged, Status.event)]
        if not failed:
            return self
        where, n = failed[0]
        t, tries = (_at(_values(x), where) for x in (self.t_final, self.stats.get("num_steps")))
        who = ""
        if where:
            name = where[0] if len(where) == 1 else where
            who = f"Sample {name} ({len(failed)} of {len(found)} failed): "
        story = _story(t, tries, Status(n))
        if "stiff_from" in self.stats:
            story += " " + ADVICE % self.stats["stiff_from"]
        raise SolveFailed(who + story, self)

    def __repr__(self) -> str:
        from . import show  # what is never shown needs no words

        return show.as_text(self)

    def _repr_html_(self) -> str:
        from . import show

        return show.as_html(self)

    def plot(self, path: str | None = None, ax: Any = None) -> Any:
        """Draw every number of ``ys`` over ``ts``; of complex ones the imaginary part dashed.

        Rows that the solve did not reach are left out; dotted lines stand where events were.

        Parameters
        ----------
        path : str, path or None
            Where to write the picture; the ending names the format.
        ax : matplotlib.axes.Axes or None
            Where to draw; None makes a figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        RetrogradeError
            Without matplotlib (``pip install "retrograde[plot]"``).
        InputError
            For a batch of solutions, and inside of a traced function.
        """
        from . import show

        return show.draw(self, path, ax)

    def to_xarray(self) -> Any:
        """The rows as arrays of xarray, over the coordinate ``time``.

        Rows that the solve did not reach are left out; status and statistics are attributes.

        Returns
        -------
        xarray.DataArray or xarray.Dataset
            Of a y that is one array, a DataArray ``y`` of dimensions ``time, dim_0, ...``; of a
            tree a Dataset with a variable for each leaf, of dimensions ``time, NAME_0, ...``.

        Raises
        ------
        RetrogradeError
            Without xarray (``pip install "retrograde[xarray]"``).
        InputError
            For a batch of solutions, and inside of a traced function.
        """
        from . import show

        return show.as_xarray(self)

    def evaluate(self, t: Time | Times) -> Y:
        """y at any time between t0 and t1, by dense output.

        Parameters
        ----------
        t : float or array, shape () or (k,) [time]
            In any order.

        Returns
        -------
        tree of arrays, shape (k, *shape) or (*shape)
            At the solver's own order; at the end of a step its state to the last bit. It has
            gradients by y0, args, t0, t1 and t. nan after a solve that failed, and in traced code
            outside t0 to t1.

        Raises
        ------
        InputError
            Without ``SaveAt(dense=True)``, or for a time outside t0 to t1 whose value is known.

        Examples
        --------
        >>> import retrograde as rg
        >>> dense = rg.SaveAt(dense=True)
        >>> sol = rg.solve(lambda t, y, args: -y, [1.0, 2.0], 0.0, 1.0, saveat=dense)
        >>> sol.evaluate([0.25, 0.5]).round(3).tolist(), sol.evaluate(0.5).shape
        ([[0.779, 1.558], [0.607, 1.213]], (2,))
        >>> sol.derivative(0.5).round(2).tolist()
        [-0.61, -1.21]
        """
        found: Y = self._dense("evaluate").evaluate(t)
        return found

    def derivative(self, t: Time | Times) -> Y:
        """dy/dt at any time between t0 and t1: the derivative of :meth:`evaluate` itself.

        Parameters, results and errors are those of :meth:`evaluate`. It differs from f(t, y) by the
        error of the interpolant, and jumps by as much where steps meet.
        """
        found: Y = self._dense("derivative").evaluate(t, derivative=True)
        return found

    def _dense(self, name: str) -> DenseOutput:
        if self.dense is None:
            raise InputError(
                f"`{name}` needs dense output, which this solve did not keep; pass "
                "`saveat=rg.SaveAt(dense=True)`, or ask for times with `rg.SaveAt(ts=[...])`."
            )
        return self.dense


def check(solution: Solution[Y]) -> Solution[Y]:
    """The solution of an eager call, unless its status is known and bad."""
    return solution.raise_if_failed() if isinstance(solution.status, Status) else solution


def _values(x: Array) -> Tree:
    """Numbers of an array, as (nested lists of) Python's."""
    try:
        if hasattr(x, "tolist") or not getattr(x, "shape", ()):
            return x.tolist() if hasattr(x, "tolist") else x
        return [_values(x[i, ...]) for i in range(x.shape[0])]
    except TypeError as error:  # a tracer's
        raise InputError(
            "`raise_if_failed()` was called inside of a traced function, where the status has no "
            "value yet; return the solution and call it on what comes out."
        ) from error


def _samples(values: Tree, where: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], int]]:
    """Numbers of nested lists with their indices."""
    if not isinstance(values, list):
        yield where, int(values)
        return
    for i, x in enumerate(values):
        yield from _samples(x, (*where, i))


def _at(values: Tree, where: tuple[int, ...]) -> Scalar:
    """The number at an index, or the one for all."""
    for i in where:
        values = values[i] if isinstance(values, list) else values
    return values


def _story(t: Scalar, tries: Index, status: Status) -> str:
    """When a solve ended, and why."""
    when = f"At t = {t!r}" if t == t else "At a time that was not looked at (see `t_final`)"
    return f"{when} after {tries} steps: {status.message}"
