"""The planner: which adjoint, from how many bytes.

Members: ``hardware`` (a budget in bytes from what the user or the device says), ``probe`` (the
shape of a solve, from at most two calls of f), ``predict`` (the number of adaptive steps),
``calibrate`` (what a vjp costs on this machine), ``costs`` and ``inversion`` (what each method
takes), ``charges`` (what a budget is charged with), ``asked`` (what is visibly asked for, and the
switch to an adjoint that has it), ``rules`` (the choice), ``candidates`` (the rows of its table),
``plan`` (what was chosen), ``report`` (its text, data and picture). To add a method: its row in
``candidates`` and a rule.
"""

from .budget import ARRAYS_ONLY, budget_bytes
from .measure_vjp import measured_vjp
from .plan import UNLIMITED, Candidate, MadeFor, Plan
from .problem_size import measure_problem
from .requested import method_override, unmeasured_plan
from .rules import make_plan, widened
from .step_count import remember

__all__ = [
    "ARRAYS_ONLY",
    "UNLIMITED",
    "Candidate",
    "MadeFor",
    "Plan",
    "budget_bytes",
    "make_plan",
    "measure_problem",
    "measured_vjp",
    "method_override",
    "remember",
    "unmeasured_plan",
    "widened",
]
