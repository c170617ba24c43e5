"""Steps known beforehand: a constant size, or given times.

Times are computed from the index, t_i = t0 + i dt, never by summation: n steps are n steps
whatever the rounding (T18), and the last one ends on t1 exactly. (Unless t0 is 0, the clock counts
from it, and the t0 of the formula is 0: ``_integrate.relative_time``.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from .._base.errors import InputError
from .._base.types import Bool, Index, Scalar, Table, Times
from .base import AbstractController, AdaptiveController, Grid

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Clock
    from .base import Adapt


@dataclass(frozen=True)
class ConstantSteps(AbstractController):
    """Steps of one size; the last is shortened to end on t1.

    Parameters
    ----------
    dt : float [time]
        Step size, of the sign of ``t1 - t0``.

    Examples
    --------
    >>> import retrograde as rg
    >>> steps = rg.ConstantSteps(0.3)
    >>> sol = rg.solve(
    ...     lambda t, y, args: -y, [1.0], 0.0, 1.0, controller=steps, saveat=rg.SaveAt(steps=True)
    ... )
    >>> [round(float(t), 1) for t in sol.ts]
    [0.3, 0.6, 0.9, 1.0]
    """

    dt: Scalar
    adaptive: ClassVar[bool] = False

    def check(self, t0: float | None, t1: float | None) -> None:
        if not isinstance(self.dt, (int, float)) and getattr(self.dt, "shape", None) != ():
            raise InputError(f"`dt` is {self.dt!r}; pass a number or a 0-d array.")
        if isinstance(self.dt, (int, float)):
            if not math.isfinite(self.dt) or self.dt == 0:
                raise InputError(f"`dt` is {self.dt!r}; pass a finite step size other than 0.")
            if t0 is not None and t1 is not None and (t1 - t0) * self.dt < 0:
                raise InputError(
                    f"`dt` is {self.dt!r}, but t1 - t0 is {t1 - t0:g}: pass dt={-self.dt!r} or "
                    "swap `t0` and `t1`."
                )


@dataclass(frozen=True)
class AcceptedSteps(AdaptiveController):
    """Constant steps whose number is not known beforehand, for an event may cut any of them.

    They are tries that are accepted if they are finite.

    Parameters
    ----------
    dt : float [time]
    """

    dt: float
    rtol: float = 0.0
    atol: float = 0.0
    judges: ClassVar[bool] = False

    @property
    def dt0(self) -> float:  # type: ignore[override]
        """The first step is like all others."""
        return self.dt

    @property
    def floor(self) -> float:
        return 0.0

    def check(self, t0: float | None, t1: float | None) -> None:
        ConstantSteps(self.dt).check(t0, t1)

    def init(self, clock: Clock) -> tuple[Scalar, ...]:
        return ()

    def adapter(self, clock: Clock, order: int) -> Adapt:
        dt, where = clock.real(self.dt), clock.where

        def adapt(
            error2: Scalar, h: Scalar, memory: tuple[Scalar, ...]
        ) -> tuple[Bool, Scalar, tuple[Scalar, ...]]:
            ok = error2 <= 1.0
            return ok, where(ok, dt, 0.0 * dt), memory  # a size of 0 ends the solve

        return adapt

    def first_step(self, clock: Clock, *_: object) -> Scalar:
        return clock.real(self.dt)


@dataclass(frozen=True)
class StepTo(AbstractController):
    """Steps from each given time to the next.

    Parameters
    ----------
    ts : sequence of float, or array, shape (k,) [time]
        Strictly monotone, from t0 to t1.

    Examples
    --------
    >>> import retrograde as rg
    >>> steps = rg.StepTo([0.0, 0.1, 0.4, 1.0])
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver="rk4", controller=steps)
    >>> sol.stats["num_steps"]
    3
    """

    ts: Times
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        ts: Table = self.ts
        try:
            # of an array at once: under jit, iteration makes tracers of what is known
            ts = tuple(float(t) for t in (ts.tolist() if hasattr(ts, "tolist") else ts))
        except (TypeError, RuntimeError) as error:
            raise InputError(
                "`controller=StepTo(ts)` takes numbers or a 1-D array whose values are known, but "
                f"`ts` is {type(ts).__name__}, or holds one, that has none yet (an argument of a "
                "traced function); close over the times as a NumPy array, or pass constant steps "
                "and `saveat=rg.SaveAt(ts=...)`, which may be traced."
            ) from error
        object.__setattr__(self, "ts", ts)

    @property
    def times(self) -> tuple[float, ...]:
        """``ts``, as numbers."""
        return self.ts  # type: ignore[return-value]  # since ``__post_init__``

    def check(self, t0: float | None, t1: float | None) -> None:
        ts = self.times
        steps = [b - a for a, b in pairwise(ts)]
        if len(ts) < 2 or not (all(h > 0 for h in steps) or all(h < 0 for h in steps)):
            raise InputError(
                "`controller=StepTo(ts)`: `ts` must be strictly monotone with at least two times; "
                "sort it and drop repeated times."
            )
        for name, t, end in (("t0", t0, ts[0]), ("t1", t1, ts[-1])):
            if t is not None and t != end:
                raise InputError(
                    f"`controller=StepTo(ts)` must run from t0 to t1, but `{name}` is {t!r} and "
                    f"`ts` has {end!r}; make them equal."
                )


class ConstantGrid(Grid):
    """t_i = t0 + i dt; the last of all steps ends on t1, if ``count`` goes as far as that."""

    shifts = True

    def __init__(
        self, clock: Clock, span: tuple[Scalar, Scalar], dt: Scalar, whole: Index, count: Index
    ) -> None:
        self.clock, (self.t0, self.t1), self.dt = clock, span, dt
        self.whole, self.count = whole, count

    def step(self, i: Index) -> tuple[Scalar, Scalar]:
        t = self.t0 + i * self.dt
        return t, self.clock.where(i + 1 == self.whole, self.t1 - t, self.dt)

    def end(self, i: Index) -> Scalar:
        return self.clock.where(i + 1 == self.whole, self.t1, self.t0 + (i + 1) * self.dt)


class GivenGrid(Grid):
    """Steps between given (or recorded) times; their first and last are t0 and t1.

    Parameters
    ----------
    sizes : table or ()
        Behind a 0, the sizes of steps that do not go from a time to the next: one that was cut
        short keeps the size it was computed with, at which its inside is told.
    fixed : scalar [time] or None
        The first time on which steps end whatever t0 is (``_integrate.stops``).
    stiff : table or ()
        Behind a 0, which steps are those of the stiff method, of a solver that switches.
    """

    def __init__(
        self,
        bk: AbstractBackend,
        times: Table,
        whole: Index,
        count: Index = None,
        *,
        shifts: bool,
        sizes: Table | tuple[()] = (),
        fixed: Scalar | None = None,
        stiff: Table | tuple[()] = (),
    ) -> None:
        self.fixed, self.marks = fixed, stiff
        self.table_get, self.times, self.shifts = bk.table_get, times, shifts
        self.sizes, self.sized = sizes, not isinstance(sizes, tuple)
        self.whole, self.count = whole, whole if count is None else count

    def moves(self, i: Index, last: Bool, t: Scalar, h: Scalar) -> tuple[Bool, Bool, Bool]:
        if self.fixed is None:
            return super().moves(i, last, t, h)
        rest = self.fixed - t
        before = (rest > 0) == (h > 0)
        return before, before & (h == rest), before & (h != rest)

    def step(self, i: Index) -> tuple[Scalar, Scalar]:
        t = self.table_get(self.times, i)
        if self.sized:
            return t, self.table_get(self.sizes, i + 1)
        return t, self.table_get(self.times, i + 1) - t

    def stiff(self, i: Index) -> Bool:
        return self.table_get(self.marks, i + 1) > 0.5

    def end(self, i: Index) -> Scalar:
        return self.table_get(self.times, i + 1)
