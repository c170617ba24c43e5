"""Gradients of ``sum(y(t1))``: time, and evaluations of the vector field."""

from typing import Any

import numpy as np

import retrograde as rg

from ._backends import NAMES, checked_gradient
from ._problems import PROBLEMS

ADJOINTS = {
    "everything": {"adjoint": rg.RecursiveCheckpointAdjoint()},
    "8 slots": {"adjoint": rg.RecursiveCheckpointAdjoint(8)},
}


class Gradient:
    """One gradient (solve and reverse) from warm, device drained."""

    params = (NAMES, tuple(PROBLEMS), tuple(ADJOINTS))
    param_names = ("backend", "problem", "adjoint")

    def setup(self, backend: str, problem: str, adjoint: str) -> None:
        self.run = checked_gradient(backend, PROBLEMS[problem](), **ADJOINTS[adjoint])

    def time_gradient(self, backend: str, problem: str, adjoint: str) -> None:
        self.run()


class Work:
    """Evaluations of f, those that the tape records included."""

    params = (tuple(PROBLEMS), tuple(ADJOINTS))
    param_names = ("problem", "adjoint")

    def track_f_calls(self, problem: str, adjoint: str) -> int:
        case = PROBLEMS[problem]()
        f, calls = case.field(np), 0

        def counted(t: Any, y: Any, args: Any) -> Any:
            nonlocal calls
            calls += 1
            return f(t, y, args)

        settings = {**case.settings, **ADJOINTS[adjoint]}
        sol, pullback = rg.solve_vjp(counted, case.y0, 0.0, case.t1, case.args, **settings)
        pullback(sol.ys)
        return calls


Work.track_f_calls.unit = "calls"
