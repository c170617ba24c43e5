"""The vjp of a function written in the array API, for libraries that have no autodiff.

Members: ``tape`` (``vjp`` and its ``Pullback``; loaded when it is needed), ``variable`` (the array
that records, with ``writing`` and ``numpy_protocol``), ``recording`` (the tape's entries),
``namespace`` (the functions that record), the rules (``elementwise``, ``shaping``,
``products``, ``composed``, ``fitting``), ``vector_field`` (a field with its own vjp) and
``pullback`` (what the reverse pass calls).

To add a rule, write ``rule(xp, x, ...) -> (out, back, ...)`` in array API, put it into the
table of its module, and its cases into ``tests/derivative/cases.py``: the suite fails for a
rule without one.
"""

from .field_vjp import TapePullback, UserPullback
from .vector_field import VectorField, check_vjp

__all__ = ["TapePullback", "UserPullback", "VectorField", "check_vjp"]
