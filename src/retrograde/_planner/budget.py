"""From ``memory=`` to bytes: as given, as a fraction, or half of what the device has free.

A budget is charged with what passes, and with the record of an adaptive solve's times. The number
of adaptive steps is a prediction, and a record of times grows with it. So slots are bought with
what is left after room for more times than predicted, and a plan tells how many steps it holds
(:func:`limit`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._adjoints.base import AbstractAdjoint
from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._base.errors import InputError
from .._base.memory import format_bytes, parse_bytes
from .._base.types import Array, Memory
from .costs import as_compiled, slot_bytes, with_tapes
from .shape import ARRAYS_ONLY, RECORD, UNLIMITED, Shape

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend

__all__ = [
    "ARRAYS_ONLY",
    "budget_bytes",
    "charged",
    "limit",
    "reserved",
]


DEFAULT_FRACTION = 0.5


def budget_bytes(memory: Memory | None, bk: AbstractBackend, like: Array) -> tuple[int, str]:
    """Bytes that a gradient may take, and where the number comes from.

    Parameters
    ----------
    memory : str, int [bytes], float in (0, 1), or None
        None means half of the free memory of the device of ``like``.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(memory, str):
        return parse_bytes(memory), f"`memory` = {memory!r}"
    if isinstance(memory, bool) or not isinstance(memory, (int, float, type(None))):
        raise InputError(
            f"`memory` is {memory!r}; pass bytes as an int or like '64 MiB', a fraction of the "
            "free memory between 0 and 1, or None."
        )
    if memory is not None and memory >= 1 and memory == int(memory):
        return int(memory), f"`memory` = {format_bytes(memory)}"
    fraction = DEFAULT_FRACTION if memory is None else float(memory)
    if not 0 < fraction < 1:
        raise InputError(
            f"`memory` is {memory!r}; pass a positive number of bytes or a fraction between 0 "
            "and 1."
        )
    free = bk.memory(like)
    size = int(free.free * fraction)
    return size, f"{fraction:g} of {format_bytes(free.free)} free ({free.source})"


def charged(shape: Shape, budget: int) -> Shape:
    """The shape with what is no array among its items, in full from budgets of 64 KiB on.

    Below, arrays alone are counted: allocators pad, and interpreters keep what is free. Charged at
    once, objects and headers would leave a budget of 65 KiB fewer slots than one of 63, so the
    charge grows as far as 64 KiB.
    """
    total = sum(shape.passing.values())
    fixed, room = dict(shape.fixed), max(0, min(total, budget - max(0, ARRAYS_ONLY - total)))
    for name, size in shape.passing.items():
        fixed[name] = min(size, room)
        room -= fixed[name]
    header = shape.header * min(budget, ARRAYS_ONLY) // ARRAYS_ONLY
    half = ARRAYS_ONLY // 2
    part = max(0, min(budget, ARRAYS_ONLY) - half)
    tables = shape.tables * (part if shape.free_slot else half + part) // half
    tables = tables if shape.free_slot else tables // 2
    shape = shape._replace(fixed=fixed, state=shape.state + header, tables=tables)
    return as_compiled(shape, budget) if ARRAYS_ONLY < budget < UNLIMITED else shape


def reserved(shape: Shape, budget: int) -> Shape:
    """The shape with room for the times of more steps than predicted.

    At least of as many as states fit, or of twice the predicted ones, but not of more than half
    of the room: slots are sized by what is left.
    """
    if not shape.growing:
        return shape
    room = max(0, budget - _sum_without_record(shape))
    steps = max(_HEADROOM * shape.steps, room // (shape.state + shape.growing))
    steps = max(shape.steps, min(steps, room // (2 * shape.growing)))
    steps = steps if shape.bound is None else min(steps, shape.bound)
    return shape._replace(fixed={**shape.fixed, RECORD: shape.growing * (steps + 1)})


def limit(
    shape: Shape,
    adjoint: AbstractAdjoint,
    fitting: RecursiveCheckpointAdjoint | None,
    budget: int,
) -> int | None:
    """Steps whose states and times fit; None where every number does that may come."""
    used = adjoint if isinstance(adjoint, RecursiveCheckpointAdjoint) else fitting
    if not shape.growing or used is None:
        return None
    shape = with_tapes(shape, one=used.one_tape)
    room = budget - _sum_without_record(shape) - shape.growing
    most = (room + shape.free_slot * shape.state) // (shape.state + shape.growing)
    if used.checkpoints is not None:
        full = slot_bytes(shape._replace(steps=max(used.checkpoints, shape.steps)), used)
        most = max(most, (room - full) // shape.growing)
    return None if shape.bound is not None and most >= shape.bound else most


def _sum_without_record(shape: Shape) -> int:
    return sum(shape.fixed.values()) - shape.fixed.get(RECORD, 0)


_HEADROOM = 2
"""Steps that there are times for over the predicted ones, where states take most of the room."""
