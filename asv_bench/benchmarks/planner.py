"""Planning: what it takes, and how near its predictions come to what is measured."""

from typing import Any

import numpy as np

import retrograde as rg
from retrograde.measure import peak_gradient_bytes

from ._backends import library
from ._problem import Problem
from ._problems import burgers, lotka_volterra

PROBLEMS = {"lotka_volterra": lotka_volterra, "burgers_1000": lambda: burgers(1000)}
BUDGETS = ("64 KiB", "1 MiB")
BACKENDS = ("numpy", "jax", "torch")


def plan(backend: str, problem: Problem, memory: Any) -> Any:
    """The plan that a gradient within so many bytes follows."""
    lib = library(backend)
    y0, *args = lib.inputs(problem)
    f, packed = problem.field(lib.xp), problem.pack(args)
    return rg.plan(f, y0, 0.0, problem.t1, packed, memory=memory, **problem.settings)


def measured_bytes(backend: str, problem: Problem, memory: Any) -> int:
    """What that gradient takes, by the backend's account."""
    lib = library(backend)
    calls = lib.solution(problem), lib.derivative(problem, memory=memory)
    return peak_gradient_bytes(*calls, *lib.inputs(problem)).bytes


class Planner:
    """Plans of gradients within budgets."""

    params = (BACKENDS, tuple(PROBLEMS), BUDGETS)
    param_names = ("backend", "problem", "memory")
    timeout = 300

    def setup(self, backend: str, problem: str, memory: str) -> None:
        self.problem = PROBLEMS[problem]()
        try:
            plan(backend, self.problem, memory)
        except rg.PlanInfeasible as reason:
            raise NotImplementedError(str(reason)) from None

    def time_plan(self, backend: str, problem: str, memory: str) -> None:
        plan(backend, self.problem, memory)

    def track_measured_over_predicted(self, backend: str, problem: str, memory: str) -> float:
        """At most 1, but for what compilers pad and interpreters keep below 64 KiB."""
        predicted = plan(backend, self.problem, memory).memory
        return measured_bytes(backend, self.problem, memory) / predicted


class Prediction:
    """Adaptive steps, predicted from a probe of 24 tries, over those taken."""

    params = (("lotka_volterra", "burgers_1000"),)
    param_names = ("problem",)

    def track_steps(self, name: str) -> float:
        problem = PROBLEMS[name]()
        f, y0, args = problem.field(np), problem.y0, problem.args
        predicted = rg.plan(f, y0, 0.0, problem.t1, args, **problem.settings).steps
        taken = rg.solve(f, y0, 0.0, problem.t1, args, **problem.settings).stats
        return predicted / int(taken["num_accepted_steps"])


Planner.track_measured_over_predicted.unit = "measured/predicted"  # type: ignore[attr-defined]
Prediction.track_steps.unit = "predicted/taken"  # type: ignore[attr-defined]
