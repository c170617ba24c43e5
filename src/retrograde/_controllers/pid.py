"""PID control of the step size from local error estimates.

Soderlind 2003 (doi:10.1145/641876.641877) in the notation h' = h * safety * r_n^(b1/k)
r_(n-1)^(b2/k) r_(n-2)^(b3/k) with r = 1/error, k the order of the error estimate, b1 = p + i + d,
b2 = -(p + 2 d), b3 = d. The default (p, i) = (0.2, 0.65) gives for k = 5 the exponents 0.17 and
0.04 of Hairer & Wanner's PI controller (*Solving ODEs II*, IV.2): in our measurements it rejects
0-6 % of its tries where an integral controller rejects up to 26 %.
First step: Hairer, Norsett, Wanner, *Solving ODEs I*, II.4, but for an aim of 0.1 in place of 0.01:
as many calls of f at equal error over 22 problems (``asv_bench``, ``work_precision``), and a step
less of a short solve.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._base.errors import InputError
from .._base.types import Array, Bool, Field, Scalar, Scale, State, Times, Tree
from .base import AdaptiveController
from .norms import ErrorNorm

if TYPE_CHECKING:
    from .._backend.protocols import Clock, Layout
    from .base import Adapt

LEAST = sys.float_info.min
"""Smaller steps are subnormal: implicit methods divide by them, and their fractions are 0."""

COEFFICIENTS = {
    "I": (0.0, 1.0, 0.0, 0.0),
    "PI33": (1 / 3, 1 / 3, 0.0, 0.0),
    "PI34": (0.4, 0.3, 0.0, 0.0),
    "PI42": (0.2, 0.4, 0.0, 0.0),
    "H211PI": (-1 / 6, 1 / 3, 0.0, 0.0),
    "H211b": (-1 / 4, 1 / 2, 0.0, 1 / 4),
    "H312PID": (-2 / 9, 2 / 9, 1 / 18, 0.0),
}
"""p, i, d, and the exponent of the ratio of the last two steps. I: Hairer, Norsett, Wanner,
*Solving ODEs I*, II.4. The others: Soderlind 2003, table III, where k b1 = p + i + d,
k b2 = -(p + 2 d), k b3 = d, a2 the last; PI34 and PI33 are Gustafsson's, PI42 is PI.4.2, H211b has
b = 4. OrdinaryDiffEq.jl has the same names."""

SMALLEST_ERROR2 = 1e-16
"""Squared errors below this count as this."""

_SQUARES = (1e-10, 1e-30, 1e-2, 0.5, 1e300)
"""Of the first step, for squares of norms: what is small, and none at all; the aim; the power of a
square that is a power of the size; the largest."""

_SIZES = (1e-5, 1e-15, 1e-1, 1.0, 1e35)
"""The same for norms themselves; the aim over the largest is a normal number of float32."""


@dataclass(frozen=True)
class PIDController(AdaptiveController):
    """Adaptive steps, accepted where the scaled error estimate is at most 1.

    Parameters
    ----------
    rtol, atol : float or tree of arrays
        Tolerances; arrays broadcast against the leaves of y0.
    pcoeff, icoeff, dcoeff : float
        Proportional, integral and derivative coefficients.
    coefficients : str or None
        A set of coefficients by its name, in place of those: ``"I"``, ``"PI33"``, ``"PI34"``,
        ``"PI42"``, ``"H211PI"``, ``"H211b"``, ``"H312PID"``.
    norm : str or callable
        What a try's error is, out of the ratios ``abs(e) / (atol + rtol * size)`` of every
        element, where size is the larger of ``abs(y)`` at both ends. ``"rms"`` is the root of the
        mean square, ``"max"`` the largest. ``"worst_sample"`` is the largest root mean square of a
        sample, where axis 0 of every leaf is a batch: no sample hides behind the others. A callable
        is given the ratios as a tree like y0 and returns a number or a 0-d array; so it may leave
        leaves out.
    step_ts : list or array, shape (k,) [time] or None
        Times on which steps end, in any order; those outside of t0 to t1 have no effect. It may be
        traced, and has no gradient.
    jump_ts : list or array, shape (k,) [time] or None
        Times at which f jumps. Steps end there; up to the end of such a step f is asked for times
        below the jump, from then on for times above it, by one number of y's dtype at least. It
        has a gradient (of the discrete solve; ``Gradients.jump_ts`` of a pullback): what a solution
        gains where f jumps later.
    dt0 : float [time] or None
        First step; None chooses it from f.
    dtmin, dtmax : float [time] or None
        Bounds of the size of a step.
    force_dtmin : bool
        Accept a step of size dtmin whatever its error, unless that is nan or inf: then the solve
        ends with the status ``non_finite``. Where not forced, it ends with the status
        ``dt_min``.
    safety, factormin, factormax : float
        Factor on the step, and bounds of its change from one try to the next.

    Examples
    --------
    >>> import retrograde as rg
    >>> controller = rg.PIDController(rtol=1e-6, atol=1e-9, dtmax=0.1)
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, controller=controller)
    >>> sol.stats["num_accepted_steps"] >= 10
    True
    """

    rtol: float | Tree = 1e-4
    atol: float | Tree = 1e-6
    pcoeff: float = 0.2
    icoeff: float = 0.65
    dcoeff: float = 0.0
    dt0: float | None = None
    dtmin: float | None = None
    dtmax: float | None = None
    force_dtmin: bool = False
    safety: float = 0.9
    factormin: float = 0.2
    factormax: float = 10.0
    coefficients: str | None = None
    norm: ErrorNorm = "rms"
    step_ts: Times | None = None
    jump_ts: Times | None = None
    adaptive: ClassVar[bool] = True

    @property
    def _gains(self) -> tuple[float, float, float, float]:
        """p, i, d, and the exponent of the last ratio of steps."""
        if self.coefficients is None:
            return self.pcoeff, self.icoeff, self.dcoeff, 0.0
        return COEFFICIENTS[self.coefficients]

    def check(self, t0: float | None, t1: float | None) -> None:
        if self.coefficients is not None and self.coefficients not in COEFFICIENTS:
            raise InputError(
                f"`coefficients` is {self.coefficients!r}; choose one of "
                f"{', '.join(map(repr, COEFFICIENTS))}, or pass pcoeff, icoeff and dcoeff."
            )
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            number = isinstance(value, (int, float))
            if isinstance(value, str) or (number and not 0 <= value < math.inf):
                raise InputError(f"`{name}` is {value!r}; pass a finite tolerance of 0 or more.")
        if isinstance(self.rtol, (int, float)) and isinstance(self.atol, (int, float)):
            if self.rtol == 0 and self.atol == 0:
                raise InputError("`rtol` and `atol` are both 0; make one of them positive.")
        for name in ("dt0", "dtmin", "dtmax"):
            value = getattr(self, name)
            if value is not None and not (abs(value) if name == "dt0" else value) > 0:
                raise InputError(f"`{name}` is {value!r}; pass a positive step size or None.")
        if self.dtmin is not None and self.dtmax is not None and self.dtmin > self.dtmax:
            raise InputError(f"`dtmin` is {self.dtmin!r}, above `dtmax` = {self.dtmax!r}; swap.")
        if not 0 < self.factormin < 1 < self.factormax or not 0 < self.safety <= 1:
            raise InputError("`factormin` < 1 < `factormax` and 0 < `safety` <= 1 must hold.")
        if self.dt0 is not None and t0 is not None and t1 is not None and (t1 - t0) * self.dt0 < 0:
            raise InputError(f"`dt0` is {self.dt0!r}; give it the sign of t1 - t0 = {t1 - t0:g}.")

    @property
    def floor(self) -> float:
        """Steps below this size end the solve [time]."""
        if self.dtmin is None or self.force_dtmin:
            return LEAST
        return self.dtmin * (1 - 1e-6)

    def init(self, clock: Clock) -> tuple[Scalar, ...]:
        """What is carried from try to try: powers of the errors of the last accepted steps, and of
        the last ratio of steps."""
        _, _, d, ratio = self._gains
        return (clock.real(1.0),) * ((3 if d else 1) + bool(ratio))

    def _exponents(self, order: int) -> tuple[float, ...]:
        """Of the squares of the last errors, in a factor on the step."""
        p, i, d, _ = self._gains
        return tuple(-b / (2 * order) for b in (p + i + d, -(p + 2 * d), d)[: 3 if d else 2])

    def adapter(self, clock: Clock, order: int) -> Adapt:
        """``adapt(error2, h, memory) -> (accepted, next h, memory)`` for one solve.

        The powers that the next steps need of an error are taken with its first.
        """
        safety, low, high = self.safety, self.factormin, self.factormax
        d, ratio = self._gains[2:]
        exponents, clip, where = self._exponents(order), clock.clip, clock.where
        dtmin = self.dtmin if self.force_dtmin else None
        if not (clock.traced or d or ratio) and dtmin is None and self.dtmax is None:
            now, later = exponents
            return _plain_adapter(now, later, safety, low, high)
        limit = self._limit(clock)

        def adapt(
            error2: Scalar, h: Scalar, memory: tuple[Scalar, ...]
        ) -> tuple[Bool, Scalar, tuple[Scalar, ...]]:
            ok = error2 <= 1.0
            forced: Bool = None
            if dtmin is not None:
                forced = abs(h) <= dtmin * (1 + 1e-6)
                ok = clock.either(ok, clock.both(clock.is_finite(error2), forced))
            now, *later = clock.powers(clock.maximum(error2, SMALLEST_ERROR2), exponents)
            factor = safety * now * memory[0]
            factor = factor * memory[2] if d else factor
            factor = factor * memory[-1] if ratio else factor
            factor = clip(factor, low, where(ok, high, safety))
            kept = (*later, memory[1]) if d else tuple(later)
            kept = (*kept, clock.power(factor, -ratio)) if ratio else kept
            new = limit(h * factor)
            if forced is not None:  # a smallest step of nan: there is none to go on with
                stuck = clock.both(forced, clock.where(ok, False, True))
                new = clock.where(stuck, 0.0 * h, new)
            return ok, new, clock.select(ok, kept, memory)

        return adapt

    def _limit(self, clock: Clock) -> Callable[[Scalar], Scalar]:
        """Bounds on |h| that keep its sign."""
        low = self.dtmin if self.force_dtmin else None
        high = self.dtmax
        if low is None and high is None:
            return lambda h: h

        def limit(h: Scalar) -> Scalar:
            size = abs(h)
            new = size if low is None else clock.maximum(size, low)
            new = new if high is None else clock.minimum(new, high)
            return clock.where(h < 0, -new, new)

        return limit

    def first_step(
        self,
        clock: Clock,
        layout: Layout,
        field: Field,
        scale: Scale,
        start: tuple[Scalar, Scalar, State, Sequence[Array]],
        order: int,
    ) -> Scalar:
        """Size and sign of the first step from (t0, t1, y0, k0); one evaluation of f."""
        t0, t1, y0, k0 = start
        span = t1 - t0
        if self.dt0 is not None:
            return self._limit(clock)(clock.real(self.dt0))
        f0, sign = layout.pack(k0), clock.where(span < 0, -1.0, 1.0)
        where, top, least = clock.where, clock.maximum, clock.minimum
        # squares of sizes; the sizes where the clock has no room for squares
        squared = clock.holds_squares
        root = clock.root if squared else _quotient
        # clocks of narrow scalars go with layouts in list form
        norm = layout.norm2 if squared else layout.norm  # type: ignore[attr-defined]
        small, none, aim, power, huge = _SQUARES if squared else _SIZES
        d0, d1 = norm(y0, y0, scale), least(norm(f0, y0, scale), huge)
        flat = clock.either(d0 < small, d1 < small)
        h0 = where(flat, 1e-6, 0.01 * root(d0, top(d1, none)))
        h0 = least(abs(span), h0)
        k1 = field(layout.time(t0 + sign * h0), layout.axpy(y0, sign * h0, f0))
        change = layout.axpy(layout.pack(k1), -1.0, f0)
        size = top(h0 * h0, 1e-60) if squared else top(h0, 1e-30)
        most = least(top(d1, norm(change, y0, scale) / size), huge)
        # nan compares false: a field that fails right there starts with the cautious size
        guess = clock.power(aim / top(most, none), power / order)
        guess = where(most > none, guess, 1e-3 * h0)
        guess = where(most <= none, top(1e-6, 1e-3 * h0), guess)
        h = least(least(100.0 * h0, guess), abs(span))
        return self._limit(clock)(sign * h)


def _quotient(a: Scalar, b: Scalar) -> Scalar:
    return a / b


def _plain_adapter(
    now: float, later: float, safety: float, low: float, high: float
) -> Callable[..., tuple[bool, float, tuple[float]]]:
    """The same of Python floats without bounds, in one frame: once a try, it has to be quick."""

    def adapt(error2: float, h: float, memory: tuple[float]) -> tuple[bool, float, tuple[float]]:
        size = SMALLEST_ERROR2 if error2 < SMALLEST_ERROR2 else error2
        factor = safety * size**now * memory[0]
        if not factor > low:  # nan, too
            factor = low
        if error2 <= 1.0:
            return True, h * (high if factor > high else factor), (size**later,)
        return False, h * (safety if factor > safety else factor), memory

    return adapt
