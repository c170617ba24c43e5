"""Gradient methods; they receive the integrator as an argument, and never import it.

``base`` is the one abstract class (:class:`AbstractAdjoint`). Exact ones: ``checkpointed``
(:class:`RecursiveCheckpointAdjoint`), ``inversion`` (:class:`BacksolveAdjoint` and
:class:`ReversibleAdjoint`, which take steps back, checked by ``projection_guard``), ``stored_vjp``
(:class:`TapeAdjoint`), ``direct`` (:class:`DirectAdjoint`, the library's own autodiff, often
through steps that are ``retaken``) and ``forward_mode`` (:class:`ForwardMode`). ``continuous`` is
backsolve's other mode, on the system of ``augmented_system``. ``step_vjp`` is the vjp of one step,
shared by the first three; ``replay_with_controller`` replays steps where times are not recorded. To
add one: a file with ``forward`` and ``reverse`` (or ``primal``), its cost in ``_planner.costs`` and
its row in ``_planner.rules``, a line in ``PAGES``.
"""

from __future__ import annotations

from importlib import import_module
from sys import modules
from typing import TYPE_CHECKING, Any

from .._base.errors import InputError
from .base import AbstractAdjoint

if TYPE_CHECKING:
    from .checkpointed import RecursiveCheckpointAdjoint
    from .direct import DirectAdjoint
    from .forward_mode import ForwardMode
    from .inversion import BacksolveAdjoint, ReversibleAdjoint
    from .stored_vjp import TapeAdjoint

__all__ = [
    "AbstractAdjoint",
    "BacksolveAdjoint",
    "DirectAdjoint",
    "ForwardMode",
    "RecursiveCheckpointAdjoint",
    "ReversibleAdjoint",
    "TapeAdjoint",
    "find_adjoint",
]

PAGES = {
    "BacksolveAdjoint": "inversion",
    "DirectAdjoint": "direct",
    "ForwardMode": "forward_mode",
    "RecursiveCheckpointAdjoint": "checkpointed",
    "ReversibleAdjoint": "inversion",
    "TapeAdjoint": "stored_vjp",
}
"""Loaded when they are used: a solve without a gradient needs one of them."""

BY_NAME = {
    "backsolve": "BacksolveAdjoint",
    "direct": "DirectAdjoint",
    "forward": "ForwardMode",
    "recursive_checkpoint": "RecursiveCheckpointAdjoint",
    "reversible": "ReversibleAdjoint",
    "tape": "TapeAdjoint",
}


def __getattr__(name: str) -> Any:
    if name not in PAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{PAGES[name]}", __name__), name)
    return found


def find_adjoint(adjoint: object) -> AbstractAdjoint | None:
    """An adjoint from its name or itself; None for ``"auto"``.

    Raises
    ------
    InputError
        For anything else.
    """
    if isinstance(adjoint, AbstractAdjoint):
        return adjoint
    if adjoint == "auto":
        return None
    if isinstance(adjoint, str) and adjoint.lower() in BY_NAME:
        found: AbstractAdjoint = getattr(modules[__name__], BY_NAME[adjoint.lower()])()
        return found
    if isinstance(adjoint, type) and issubclass(adjoint, AbstractAdjoint):
        raise InputError(f"`adjoint` is the class {adjoint.__name__}; pass an instance of it.")
    raise InputError(
        f"`adjoint` is {adjoint!r}; pass 'auto', one of {', '.join(sorted(BY_NAME))}, an "
        "AbstractAdjoint or a Plan."
    )
