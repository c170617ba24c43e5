"""Step-size controllers.

Members: :class:`AbstractController` (the abstract class), :class:`ConstantSteps` and
:class:`StepTo` (steps known beforehand), :class:`AdaptiveController` (what an adaptive one has) and
:class:`PIDController`. To add one: a file with a frozen dataclass, a line here.
"""

from .base import AbstractController, AdaptiveController, Grid
from .constant import AcceptedSteps, ConstantGrid, ConstantSteps, GivenGrid, StepTo
from .pid import PIDController

__all__ = [
    "AbstractController",
    "AcceptedSteps",
    "AdaptiveController",
    "ConstantGrid",
    "ConstantSteps",
    "GivenGrid",
    "Grid",
    "PIDController",
    "StepTo",
]
