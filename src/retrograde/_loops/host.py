"""The adaptive march where times are Python floats: one ``while`` over local variables.

The same tries, decisions and rows as the conditional march that ``_integrate`` hands to
``march``, bit for bit (a test holds them to each other); what it saves are the calls between
them. For eager libraries whose steps are cheap, those cost as much as the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .._clocks import TINY
from .forward import Slots, Stored
from .patience import Patience

__all__ = ["Tries", "march_on_host"]


class Tries(NamedTuple):
    """What a march is made of.

    Attributes
    ----------
    attempt : callable
        ``attempt(t, h, y, k0) -> (y1, k1, kept, error2)``.
    adapt : callable
        ``adapt(error2, h, memory) -> (accepted, next h, memory)``.
    note : callable or None
        ``note(times, n, t_new, True) -> times`` records an accepted time.
    collect : callable or None
        ``collect(rows, (t, t_new, h, y1), n) -> rows`` of an accepted step.
    t1 : float [time]
    floor : float [time]
        Least step.
    least : float
        Least step relative to the time.
    limit : int or None
        Bound of the number of tries.
    patience : Patience
        Looked at now and then.
    """

    attempt: Callable[..., Any]
    adapt: Callable[..., Any]
    note: Callable[..., Any] | None
    collect: Callable[..., Any] | None
    t1: float
    floor: float
    least: float
    limit: int | None
    patience: Patience


def march_on_host(
    bk: Any, start: tuple[Any, ...], tries: Tries, slots: Slots | None, layout: Any
) -> tuple[tuple[Any, ...], Stored | None]:
    """March from ``start``, the carry of the conditional march, to its end.

    ``slots``: None, or those that store every state.
    """
    t, h, e2, memory, y, k0, n, count, times, rows = start
    attempt, adapt, note, collect, t1, floor, least, limit, patience = tries
    buffer = None if slots is None else slots.new_buffer(bk, layout)
    write, nearly = bk.write, 1.0 - TINY
    stop = patience.stop if limit is None else min(patience.stop, limit)
    while True:
        while t != t1 and count != stop and abs(h) > floor + least * abs(t):
            if buffer is not None:
                buffer = write(buffer, n, y)
            rest = t1 - t
            if abs(h) >= abs(rest) * nearly:
                t_new, step = t1, rest
            else:
                t_new = t + h
                step = t_new - t
            y1, k1, kept, e2 = attempt(t, step, y, k0)
            # (t + h) - t may be above h by rounding: then a forced smallest step is still one (T16)
            if abs(step) < abs(h):
                h = step
            ok, h, memory = adapt(e2, h, memory)
            count += 1
            if not ok:
                k0 = kept
                continue
            if note is not None:
                times = note(times, n, t_new, True)
            if collect is not None:
                rows = collect(rows, (t, t_new, step, y1), n)
            t, y, k0 = t_new, y1, k1
            n += 1
        if t == t1 or count == limit or count != stop:
            break
        stop = patience.look(t, h, count)
        stop = stop if limit is None else min(stop, limit)
    stored = None if buffer is None else Stored(buffer, None)
    return (t, h, e2, memory, y, k0, n, count, times, rows), stored
