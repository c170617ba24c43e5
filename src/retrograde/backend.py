"""For adapter authors: what an array library must supply, and how to add one.

The core computes with hooks at the level "layout, stages, clock, counted loop". An
adapter is one module with one object ``backend`` (an :class:`AbstractBackend`), announced by
one entry point in the group ``retrograde.backends``. :class:`EagerBackend` has every hook in
plain array API: subclass it, set ``name`` and ``xp``, and override for speed what a profile
shows. The conformance tests (``tests/backend``) hold every override to the generic answer.

Nothing degrades in silence: what a library can't do is absent from ``capabilities`` and raises.
"""

from ._backend.interface import AbstractBackend, Capability, EagerBackend
from ._base.memory import MemoryInfo

__all__ = ["AbstractBackend", "Capability", "EagerBackend", "MemoryInfo"]
