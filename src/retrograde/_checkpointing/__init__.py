"""Loops that store states on the way forward and reverse on what they stored.

``forward`` (loops of known and unknown length that store states on the way), ``reverse`` (one
executor; store-all, segments, binomial and blocks are its settings), ``reverse_by_inversion`` (the
same with steps taken back where a guard allows), ``schedules`` (which states, as integers),
``patience`` (a word about a loop that takes long). Written once over the backend's counted and
conditional loops; knows nothing of differential equations.
"""

from .forward import (
    FAR,
    Slots,
    Stored,
    checkpointed_for,
    checkpointed_while,
    while_any,
    write_where,
)
from .patience import Patience
from .reverse import reverse

__all__ = [
    "FAR",
    "Patience",
    "Slots",
    "Stored",
    "checkpointed_for",
    "checkpointed_while",
    "reverse",
    "while_any",
    "write_where",
]
