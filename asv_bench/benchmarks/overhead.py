"""Time of a step beside its evaluations of f (row N3): ``f = -y``, the evaluations taken off."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import retrograde as rg

from . import DEVICE
from ._backends import NAMES, library
from ._problems import decay


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Processor time of one call, over a loop of calls; on a GPU, time by the clock."""
    clock = time.process_time if DEVICE == "cpu" else time.perf_counter
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


class Overhead:
    """Adaptive steps of Tsit5, rejected ones included; a compiled f is not taken off."""

    params = (NAMES, (2, 1000))
    param_names = ("backend", "unknowns")

    def setup(self, backend: str, unknowns: int) -> None:
        lib, problem = library(backend), decay(unknowns)
        self.f, (self.y0,) = problem.field(lib.xp), lib.inputs(problem)
        sol = rg.solve(self.f, self.y0, 0.0, problem.t1, **problem.settings)
        self.steps, self.calls = sol.stats["num_steps"], sol.stats["num_f_evals"]
        self.run = lib.forward(problem)
        self.run()

    def track_step(self, backend: str, unknowns: int) -> float:
        f = 0.0
        if backend != "jax":
            f = median(seconds(lambda: self.f(0.0, self.y0, None), 2000) for _ in range(5))
        whole = median(seconds(self.run, 5) for _ in range(9))
        return 1e6 * (whole - int(self.calls) * f) / int(self.steps)


Overhead.track_step.unit = "us"
