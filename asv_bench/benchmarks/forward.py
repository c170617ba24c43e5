"""Forward solves: time, and evaluations of the vector field."""

import retrograde as rg

from ._backends import NAMES, checked_forward, library
from ._problems import PROBLEMS


class Forward:
    """One solve from warm, device drained."""

    params = (NAMES, tuple(PROBLEMS))
    param_names = ("backend", "problem")

    def setup(self, backend: str, problem: str) -> None:
        self.run = checked_forward(backend, PROBLEMS[problem]())

    def time_solve(self, backend: str, problem: str) -> None:
        self.run()


class Work:
    """What a solve costs whatever the machine."""

    params = (NAMES, tuple(PROBLEMS))
    param_names = ("backend", "problem")

    def setup(self, backend: str, problem: str) -> None:
        lib, case = library(backend), PROBLEMS[problem]()
        y0, *args = lib.inputs(case)
        f = case.field(lib.xp)
        self.sol = rg.solve(f, y0, 0.0, case.t1, case.pack(args), **case.settings)

    def track_f_calls(self, backend: str, problem: str) -> int:
        return int(self.sol.stats["num_f_evals"])

    def track_rejected_steps(self, backend: str, problem: str) -> int:
        return int(self.sol.stats["num_rejected_steps"])


Work.track_f_calls.unit = "calls"
Work.track_rejected_steps.unit = "steps"
