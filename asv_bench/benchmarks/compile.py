"""Tracing and compiling in JAX: seconds beside diffrax' (row J9), and how often f is traced.

Seconds are those of new functions, JAX itself warm: what is left of the first call's are JAX's own
imports and caches. Once compiled, other numbers in the same shapes must trace nothing.
"""

import dataclasses
import time
from typing import Any

from ._backends import library
from ._peers import Diffrax, peer
from ._problem import Problem
from ._problems import lotka_volterra, neural_ode, toy

PROBLEMS = {"toy": toy, "lotka_volterra": lotka_volterra, "neural_ode": neural_ode}


def fresh(kind: str, problem: Problem, what: str = "derivative") -> Any:
    """A program of new functions, compiled; ``kind`` is ours or diffrax."""
    lib = library("jax") if kind == "ours" else peer(Diffrax)
    made = getattr(lib, what)(problem)
    leaves = (lib if kind == "ours" else lib.lib).inputs(problem)
    return made.lower(*leaves).compile()


def program_bytes(lib: Any, made: Any, problem: Problem) -> int:
    """Bytes of the temporaries of a compiled function, by XLA's account."""
    compiled = made.lower(*lib.inputs(problem)).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def traces(problem: Problem, what: str) -> tuple[int, int]:
    """(Python calls of f by a program's first call, by its second with other numbers)."""
    lib, count = library("jax"), 0
    f = problem.field(lib.xp)

    def counted(t: Any, y: Any, args: Any) -> Any:
        nonlocal count
        count += 1
        return f(t, y, args)

    call = getattr(lib, what)(dataclasses.replace(problem, field=lambda xp: counted))
    inputs = lib.inputs(problem)
    call(*inputs)
    first = count
    call(*(1.01 * x for x in inputs))
    return first, count - first


def compile_seconds(kind: str, problem: Problem, what: str) -> float:
    """Processor time of tracing and compiling."""
    start = time.process_time()
    fresh(kind, problem, what)
    return time.process_time() - start


class Compile:
    """Gradients and solves of the problems in JAX."""

    params = (tuple(PROBLEMS), ("solution", "derivative"))
    param_names = ("problem", "what")
    timeout = 300

    def setup(self, problem: str, what: str) -> None:
        library("jax")
        fresh("ours", PROBLEMS[problem](), what)

    def track_seconds(self, problem: str, what: str) -> float:
        return compile_seconds("ours", PROBLEMS[problem](), what)


class Ratio:
    """diffrax' seconds over ours, one after the other; the report takes medians."""

    params = (tuple(PROBLEMS),)
    param_names = ("problem",)
    timeout = 300

    def setup(self, problem: str) -> None:
        self.problem = PROBLEMS[problem]()
        for kind in ("diffrax", "ours"):
            fresh(kind, self.problem)

    def track_gradient_over_ours(self, problem: str) -> float:
        theirs, mine = (
            compile_seconds(kind, self.problem, "derivative") for kind in ("diffrax", "ours")
        )
        return theirs / mine


class Traces:
    """Calls of f while JAX traces; at most 2 forward and 3 in a gradient."""

    params = (tuple(PROBLEMS), ("solution", "derivative"))
    param_names = ("problem", "what")

    def setup(self, problem: str, what: str) -> None:
        library("jax")

    def track_first_call(self, problem: str, what: str) -> int:
        return traces(PROBLEMS[problem](), what)[0]

    def track_second_call(self, problem: str, what: str) -> int:
        return traces(PROBLEMS[problem](), what)[1]


Compile.track_seconds.unit = "s"  # type: ignore[attr-defined]
Ratio.track_gradient_over_ours.unit = "peer/ours"  # type: ignore[attr-defined]
Traces.track_first_call.unit = "calls"  # type: ignore[attr-defined]
Traces.track_second_call.unit = "calls"  # type: ignore[attr-defined]
