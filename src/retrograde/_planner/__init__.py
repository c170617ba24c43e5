"""The planner: which adjoint, from how many bytes.

``plan`` (what was chosen), ``rules`` (the choice and the rows of its table), ``costs`` (what each
method takes), ``budget`` (a budget in bytes from what the user or the device says, and what it is
charged with), ``problem_size`` (the shape of a solve, from at most two calls of f), ``step_count``
and ``likeness`` (the number of adaptive steps), ``measure_vjp`` (what a vjp costs on this machine),
``requested`` (what is visibly asked for, and the override that has it), ``report`` (a plan's text,
data and picture), ``shape`` (what costs depend on). To add a method: its row and its rule in
``rules``, its cost in ``costs``.
"""

from .budget import budget_bytes
from .measure_vjp import measured_vjp
from .plan import Candidate, MadeFor, Plan
from .problem_size import measure_problem
from .requested import method_override, unmeasured_plan
from .rules import make_plan, widened
from .shape import ARRAYS_ONLY, UNLIMITED, Shape
from .step_count import remember

__all__ = [
    "ARRAYS_ONLY",
    "UNLIMITED",
    "Candidate",
    "MadeFor",
    "Plan",
    "Shape",
    "budget_bytes",
    "make_plan",
    "measure_problem",
    "measured_vjp",
    "method_override",
    "remember",
    "unmeasured_plan",
    "widened",
]
