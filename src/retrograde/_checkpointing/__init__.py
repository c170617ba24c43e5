"""Loops that store states on the way forward and reverse on what they stored.

Members: ``forward`` (integration with checkpoints: known or unknown length), ``reversal`` (one
executor; store-all, segments, binomial and blocks are its settings), ``inversion`` (the same with
steps taken back under guard), ``host`` (the adaptive integration by a loop of Python's own, for
speed), ``patience`` (a word about an integration that takes long). Written once over the backend's
counted and conditional loops; knows nothing of differential equations.
"""

from .forward import FAR, Slots, Stored, Tries, checkpointed_for, checkpointed_while, host_while
from .patience import Patience
from .reverse import reverse
from .reverse_by_inversion import Invertible, Report, reverse_inverting

__all__ = [
    "FAR",
    "Invertible",
    "Patience",
    "Report",
    "Slots",
    "Stored",
    "Tries",
    "checkpointed_for",
    "checkpointed_while",
    "host_while",
    "reverse",
    "reverse_inverting",
]
