"""Loops that store states on the way forward and reverse on what they stored.

Members: ``forward`` (march with checkpoints: known or unknown length), ``reversal`` (one
executor; store-all, segments, binomial and blocks are its settings), ``inversion`` (the same
with steps taken back under guard), ``host`` (the adaptive march by a loop of Python's own, for
speed), ``patience`` (a word about a march that takes long). Written once over the backend's counted
and conditional loops; knows nothing of differential equations.
"""

from .forward import FAR, Slots, Stored, march, march_counted
from .host import Tries, march_on_host
from .inversion import Invertible, Report, reverse_inverting
from .patience import Patience
from .reversal import reverse

__all__ = [
    "FAR",
    "Invertible",
    "Patience",
    "Report",
    "Slots",
    "Stored",
    "Tries",
    "march",
    "march_counted",
    "march_on_host",
    "reverse",
    "reverse_inverting",
]
