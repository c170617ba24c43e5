"""What an array library's adapter supplies beyond the array API standard.

Hooks state semantics (differentiable or not, traced or not, whether a value is read back to the
host); names of libraries stay in the adapters. Each stands once, with its generic form, in
``array_hooks``, ``gradient_hooks`` and ``iteration_hooks``. A hook that a library can't honour is
absent from ``capabilities`` and raises :class:`~retrograde.UnsupportedByBackend`. The types of what
they take and give are in ``protocols``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .gradient_hooks import GradientHooks
from .iteration_hooks import IterationHooks
from .protocols import Capability

if TYPE_CHECKING:
    from .._base.types import Namespace

__all__ = ["AbstractBackend", "Capability", "EagerBackend"]


class AbstractBackend(GradientHooks, IterationHooks):
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
        Whether an adaptive integration may be a loop of Python's own, over numbers of the host.
    counts_changes : bool
        Whether arrays count what is written into them, so that ``watch`` costs next to nothing.

    Examples
    --------
    >>> from retrograde.backend import AbstractBackend, EagerBackend
    >>> issubclass(EagerBackend, AbstractBackend)
    True
    """

    capabilities: ClassVar[frozenset[Capability]]
    slots_by_reference: ClassVar[bool]
    array_overhead: ClassVar[int]
    python_loops: ClassVar[bool]
    counts_changes: ClassVar[bool]


class EagerBackend(AbstractBackend):
    """Every hook in plain array API and Python control flow: correct for any eager library.

    Parameters
    ----------
    xp : module
        The library's array-API namespace.

    Examples
    --------
    >>> import numpy as np
    >>> from retrograde.backend import EagerBackend
    >>> class Mine(EagerBackend):
    ...     name = "mine"
    >>> Mine(np).floating(np.ones(2))
    'real'
    """

    name: ClassVar[str] = "generic"
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    slots_by_reference: ClassVar[bool] = True
    array_overhead: ClassVar[int] = 0
    python_loops: ClassVar[bool] = True
    counts_changes: ClassVar[bool] = False

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
