"""The seam: the hooks that an array library's adapter supplies beyond the array API standard.

Hooks state semantics (differentiable or not, traced or not, whether a value is read back to the
host); names of libraries stay in the adapters. A hook that a library can't honour is absent
from ``capabilities`` and raises :class:`~retrograde.UnsupportedByBackend`.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

from ._seam_arrays import ArrayHooks
from ._seam_gradients import GradientHooks
from ._seam_iteration import IterationHooks
from ._seam_loops import LoopHooks

__all__ = ["AbstractBackend", "Capability"]


class Capability(enum.StrEnum):
    """What an adapter can do; planner, tests and documentation read this one set.

    Examples
    --------
    >>> from retrograde.backend import Capability, EagerBackend
    >>> Capability.TRACED in EagerBackend.capabilities
    False
    """

    AUTODIFF = "autodiff"
    """The library differentiates functions of its arrays itself."""
    NATIVE_GRADIENT = "native-gradient"
    """``solve`` takes part in the library's own gradients (``jax.grad``, ``backward``)."""
    HIGHER_ORDER = "higher-order"
    """DirectAdjoint can be differentiated again, in forward and reverse mode."""
    TRACED = "traced"
    """Loops are compiled; no value is read back to the host inside one."""
    DIRECT = "direct"
    """A loop of known length can be differentiated by the library's (or the tape's) autodiff."""


class AbstractBackend(ArrayHooks, LoopHooks, GradientHooks, IterationHooks):
    """An array library as the core sees it.

    Attributes
    ----------
    name : str
    capabilities : frozenset of Capability
    xp : module
        The library's array-API namespace.
    slots_by_reference : bool
        Whether storing a state keeps a reference (then y0's slot costs nothing).
    array_overhead : int [bytes]
        What an array takes beside its elements.
    python_loops : bool
        Whether an adaptive march may be a loop of Python's own, over numbers of the host.
    counts_changes : bool
        Whether arrays count what is written into them, so that ``watch`` costs next to nothing.

    Examples
    --------
    >>> from retrograde.backend import AbstractBackend, EagerBackend
    >>> issubclass(EagerBackend, AbstractBackend)
    True
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    xp: Any
    slots_by_reference: ClassVar[bool]
    array_overhead: ClassVar[int]
    python_loops: ClassVar[bool]
    counts_changes: ClassVar[bool]
