"""Progress of a solve: a tqdm bar, or the user's callable.

A :class:`Watch` tells how much is done: in eager libraries some twenty times a second, in compiled
programs, which have no clock, where another per cent begins (the adapter's
``report_from_program``). It tells of one integration; replays are none of its business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._base.errors import InputError
from .._base.types import Bool, Scalar

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import Clock

PERIOD = 0.05
"""Seconds between two reports: a report at every step took a quarter of the time of cheap ones."""


class Reporter:
    """What is told the part done, from 0 to 1: one bar after the other, or the user's callable.

    Parameters
    ----------
    wish : True or callable
        As ``solve(progress=wish)`` has it.
    label : str
        What the bar begins with.

    Raises
    ------
    InputError
        If a bar is asked for and tqdm is missing, or the wish is neither True nor callable.
    """

    def __init__(self, wish: bool | Callable[[float], object], label: str = "") -> None:
        self.wish, self.label = wish, label
        self.bar: Any = None
        if callable(wish):
            return
        if wish is not True:
            raise InputError(f"`progress` is {wish!r}; pass True for a bar, or a callable.")
        try:
            import tqdm  # noqa: F401 - is it there?
        except ImportError:
            raise InputError(
                "`progress` is True, which needs tqdm: install it, or pass a callable."
            ) from None

    def report(self, part: Scalar) -> None:
        """So much is done; nan where nobody looked."""
        part = float(part)
        if part != part:
            return
        if callable(self.wish):
            self.wish(part)
            return
        if self.bar is None or part < self.bar.n:  # a program that runs again
            from tqdm import tqdm

            self.close()
            self.bar = tqdm(
                total=1.0,
                bar_format=self.label + "{percentage:3.0f}% |{bar}| {elapsed} < {remaining}",
            )
        self.bar.update(max(0.0, min(1.0, part) - self.bar.n))

    def end(self, part: Scalar) -> None:
        """The solve has ended there."""
        self.report(part)
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


class Watch:
    """Tells a :class:`Reporter` of the steps of one integration.

    Parameters
    ----------
    bk : AbstractBackend
    clock : Clock
    reporter : Reporter
    ends : tuple of scalar [time]
        t0 and t1, by the clock.

    Attributes
    ----------
    stop : int
        The number of tries at which to :meth:`look` next, where the library is eager.
    """

    def __init__(
        self, bk: AbstractBackend, clock: Clock, reporter: Reporter, ends: tuple[Scalar, Scalar]
    ) -> None:
        self.bk, self.clock, self.reporter = bk, clock, reporter
        self.start, self.end = (clock.real(t) for t in ends)
        self.stop, self.spacing, self.seen = 0, 1, time.monotonic()

    def _part(self, t: Scalar) -> Scalar:
        span = self.end - self.start
        where = self.clock.where
        return where(span != 0, (t - self.start) / where(span != 0, span, 1.0), 1.0)

    def look(self, t: Scalar, tries: int) -> int:
        """Report that so many tries led to t; the next ``stop``, about a ``PERIOD`` from now."""
        self.reporter.report(self._part(t))
        now = time.monotonic()
        passed, self.seen = now - self.seen, now
        if tries:
            room = int(self.spacing * PERIOD / passed) if passed > 0 else 2 * self.spacing
            self.spacing = max(1, min(2 * self.spacing, room))
        self.stop = tries + self.spacing
        return self.stop

    def step(self, t: Scalar, t_new: Scalar, first: Bool) -> None:
        """In a program: a try from t led to t_new; it was the first, or not."""
        parts = self._part(t), self._part(t_new)
        self.bk.report_from_program(self.reporter.report, *parts, first)

    def ended(self, t: Scalar) -> None:
        """The integration ended there."""
        if not self.clock.traced:
            self.reporter.end(self._part(t))
            return
        self.bk.report_from_program(self.reporter.end, self._part(t), None, True)
