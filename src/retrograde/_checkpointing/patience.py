"""A word about an adaptive integration that takes long, and what it may take in all.

It bounds nothing: whoever wants a bound passes ``max_steps``. It looks at the clock of the computer
after 16, 32, 64, ... tries, and after each thousand later on, so that no try costs more for it. The
first 16 are not counted: the first try may wait for a compiler.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .._base.log import warning

SECONDS, TRIES = 10.0, 100_000
"""After whichever comes first it says a word, and again whenever ten times as much has passed."""

FIRST, SPACING = 16, 1024


class Patience:
    """Tells the logger ``retrograde`` where an integration is that takes long.

    Parameters
    ----------
    t1 : float [time]
        Its end.
    user_time : callable
        A time as the user counts it.

    Attributes
    ----------
    stop : int
        The number of tries at which to :meth:`look` next.
    """

    def __init__(self, t1: float, user_time: Callable[[float], float] = float) -> None:
        self.t1, self.user_time = t1, user_time
        self.began, self.stop = 0.0, FIRST
        self.seconds, self.tries = SECONDS, TRIES

    def look(self, t: float, h: float, count: int) -> int:
        """Say a word if it is time to: the integration is at t after so many tries; the next
        ``stop``."""
        self.stop = count + min(count, SPACING)
        if count == FIRST:
            self.began = time.monotonic()
            return self.stop
        passed = time.monotonic() - self.began
        if passed >= self.seconds or count >= self.tries:
            while passed >= self.seconds or count >= self.tries:
                self.seconds, self.tries = 10 * self.seconds, 10 * self.tries
            self._tell(t, h, count, passed)
        return self.stop

    def _tell(self, t: float, h: float, count: int, passed: float) -> None:
        left = abs(self.t1 - t) / abs(h) if h else float("inf")
        total = (count + left) / (count - FIRST) * passed
        warning(
            "A solve is at t = %.6g after %d tries of a step (%.3g s, without the first few). With "
            "steps of %.2g, as now, it takes some %.2g more to t1 = %.6g, %.2g s in all. It may be "
            "stiff, or tolerances may be tighter than needed; `max_steps` bounds the tries.",
            self.user_time(t), count, passed, abs(h), left, self.user_time(self.t1), total,
        )  # fmt: skip
