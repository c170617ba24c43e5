"""The vjp of a function written in the array API, for libraries that have no autodiff.

``vjp`` (``vjp`` and its ``Pullback``; loaded when it is needed), ``variable`` (the array that
records), ``numpy_protocol`` and ``namespace`` (functions that record), ``tape`` (what is recorded),
``rules`` (the derivatives), ``vector_field`` (a field with its own vjp), ``split`` (one of
two parts), ``field_vjp`` (what the
reverse pass calls). To add a rule, write ``rule(xp, x, ...) -> (out, back, ...)`` in array API, put
it into the table of its module in ``rules``, and its cases into ``tests/derivative/cases.py``: the
suite fails for a rule without one.
"""

from .split import Split
from .vector_field import VectorField, check_vjp

__all__ = ["Split", "VectorField", "check_vjp"]
