"""Accuracy: error beside work, single against double precision, and how backends agree."""

import dataclasses
from typing import Any

import numpy as np

import retrograde as rg

from ._backends import NAMES, library
from ._problem import Problem
from ._problems import lorenz, lotka_volterra, neural_ode

PROBLEMS = {
    "lotka_volterra": lotka_volterra, "lorenz": lorenz,
    "neural_ode": lambda: neural_ode("float64"),
}  # fmt: skip

STORED = {"adjoint": rg.RecursiveCheckpointAdjoint()}
SLOTS = {"adjoint": rg.RecursiveCheckpointAdjoint(8)}


def single(problem: Problem) -> Problem:
    """The problem in single precision, at a tolerance that suits it."""
    args = [np.asarray(x, dtype=np.float32) for x in problem.unpack(problem.args)]
    y0 = problem.y0.astype(np.float32)
    return dataclasses.replace(problem, y0=y0, args=problem.pack(args), rtol=1e-5, atol=1e-6)


def gradient(backend: str, problem: Problem, **keywords: Any) -> list[Any]:
    """A gradient, in NumPy."""
    lib = library(backend)
    return [lib.to_numpy(x) for x in lib.gradient(problem, **keywords)()]


def distance(found: list[Any], other: list[Any]) -> float:
    """Largest difference, relative to the largest element."""
    largest = max(float(np.max(np.abs(x))) for x in other)
    pairs = zip(found, other, strict=True)
    return max(float(np.max(np.abs(a - b))) for a, b in pairs) / largest


def disagreement(backend: str, problem: Problem) -> float:
    """How far a backend's gradient, from slots, is from NumPy's with every state stored."""
    return distance(gradient(backend, problem, **SLOTS), gradient("numpy", problem, **STORED))


class Accuracy:
    """Of each backend, against references from outside and against NumPy."""

    params = (NAMES, tuple(PROBLEMS))
    param_names = ("backend", "problem")
    timeout = 300

    def setup(self, backend: str, problem: str) -> None:
        library(backend)
        self.problem = PROBLEMS[problem]()

    def track_gradient_error(self, backend: str, problem: str) -> float:
        return self.problem.gradient_error(gradient(backend, self.problem, **STORED))

    def track_disagreement(self, backend: str, problem: str) -> float:
        return disagreement(backend, self.problem)

    def track_single_precision(self, backend: str, problem: str) -> float:
        """The gradient in single precision against that in double, same tolerances."""
        rough = dataclasses.replace(self.problem, rtol=1e-5, atol=1e-6)
        doubles = gradient(backend, rough, **STORED)
        return distance(gradient(backend, single(self.problem), **STORED), doubles)


class ErrorAndWork:
    """Error of the solution, and evaluations of f that it took, over tolerances."""

    params = (("bosh3", "dopri5", "tsit5"), (1e-4, 1e-6, 1e-8))
    param_names = ("solver", "rtol")

    def setup(self, solver: str, rtol: float) -> None:
        problem = lotka_volterra()
        self.problem = dataclasses.replace(problem, solver=solver, rtol=rtol, atol=1e-3 * rtol)
        f = self.problem.field(np)
        self.sol = rg.solve(f, problem.y0, 0.0, problem.t1, problem.args, **self.problem.settings)

    def track_error(self, solver: str, rtol: float) -> float:
        return self.problem.error(self.sol.ys[-1])

    def track_f_calls(self, solver: str, rtol: float) -> int:
        return int(self.sol.stats["num_f_evals"])


Accuracy.track_gradient_error.unit = "relative"  # type: ignore[attr-defined]
Accuracy.track_disagreement.unit = "relative"  # type: ignore[attr-defined]
Accuracy.track_single_precision.unit = "relative"  # type: ignore[attr-defined]
ErrorAndWork.track_error.unit = "relative"  # type: ignore[attr-defined]
ErrorAndWork.track_f_calls.unit = "calls"  # type: ignore[attr-defined]
