"""The planner: which adjoint, from how many bytes.

Members: ``hardware`` (a budget in bytes from what the user or the device says), ``probe`` (the
shape of a solve, from at most two calls of f), ``costs`` (what each method takes), ``plan`` (the
choice, its reasons, and the table), ``asked`` (what is visibly asked for, and the switch to an
adjoint that has it). To add a method: its row in ``costs``.
"""

from .asked import switch, unmeasured_plan
from .hardware import budget_bytes
from .plan import UNLIMITED, Candidate, Plan, make_plan
from .probe import probe

__all__ = [
    "UNLIMITED",
    "Candidate",
    "Plan",
    "budget_bytes",
    "make_plan",
    "probe",
    "switch",
    "unmeasured_plan",
]
