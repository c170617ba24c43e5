"""Gradient methods; they receive the integrator as an argument, and never import it.

``base`` is the one abstract class (:class:`AbstractAdjoint`). Exact ones: ``checkpointed``
(:class:`RecursiveCheckpointAdjoint`), ``inversion`` (:class:`BacksolveAdjoint` and
:class:`ReversibleAdjoint`, which take steps back, checked by ``projection_guard``), ``stored_vjp``
(:class:`TapeAdjoint`), ``direct`` (:class:`DirectAdjoint`, the library's own autodiff, often
through steps that are ``retaken``) and ``forward_mode`` (:class:`ForwardMode`). ``continuous`` is
backsolve's other mode, on the system of ``augmented_system``. ``step_vjp`` is the vjp of one step,
shared by the first three; ``replay_with_controller`` replays steps where times are not recorded. To
add one: a file with ``forward`` and ``reverse`` (or ``primal``), its cost in ``_planner.costs`` and
its row in ``_planner.rules``, a line here.
"""

from .._base.errors import InputError
from .base import AbstractAdjoint
from .checkpointed import RecursiveCheckpointAdjoint
from .direct import DirectAdjoint, check_followed, constant_times
from .forward_mode import ForwardMode
from .inversion import BacksolveAdjoint, InvertingAdjoint, ReversibleAdjoint
from .retaken import TooManySteps
from .stored_vjp import TapeAdjoint

__all__ = [
    "AbstractAdjoint",
    "BacksolveAdjoint",
    "DirectAdjoint",
    "ForwardMode",
    "InvertingAdjoint",
    "RecursiveCheckpointAdjoint",
    "ReversibleAdjoint",
    "TapeAdjoint",
    "TooManySteps",
    "check_followed",
    "constant_times",
    "find_adjoint",
]

BY_NAME: dict[str, type[AbstractAdjoint]] = {
    "backsolve": BacksolveAdjoint,
    "direct": DirectAdjoint,
    "forward": ForwardMode,
    "recursive_checkpoint": RecursiveCheckpointAdjoint,
    "reversible": ReversibleAdjoint,
    "tape": TapeAdjoint,
}


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
        return BY_NAME[adjoint.lower()]()
    if isinstance(adjoint, type) and issubclass(adjoint, AbstractAdjoint):
        raise InputError(f"`adjoint` is the class {adjoint.__name__}; pass an instance of it.")
    raise InputError(
        f"`adjoint` is {adjoint!r}; pass 'auto', one of {', '.join(sorted(BY_NAME))}, an "
        "AbstractAdjoint or a Plan."
    )
