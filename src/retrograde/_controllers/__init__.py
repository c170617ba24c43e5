"""Step-size controllers.

Members: :class:`AbstractController` (the abstract class), :class:`ConstantSteps` and
:class:`StepTo` (steps known beforehand), :class:`PIDController` (adaptive). To add one: a file
with a frozen dataclass, a line here.
"""

from .base import AbstractController, Grid
from .constant import ConstantGrid, ConstantSteps, GivenGrid, StepTo
from .pid import PIDController

__all__ = [
    "AbstractController",
    "ConstantGrid",
    "ConstantSteps",
    "GivenGrid",
    "Grid",
    "PIDController",
    "StepTo",
]
