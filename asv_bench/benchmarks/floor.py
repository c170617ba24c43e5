"""How far solves are from their floor: calls of f alone, and one pass over memory for each.

The floor of a solve runs as many ``y + h f(t, y)`` as the solve calls f; that of a gradient that
stores every state runs those and as many vjps of f. Both in a plain loop: a compiled one in JAX.
No Runge-Kutta solve can do with less, for a stage reads several slopes, and most take as much as
these are many times over.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import retrograde as rg

from ._backends import Run, library
from ._problem import Problem
from ._problems import burgers, lotka_volterra, neural_ode
from .overhead import seconds

H = 1e-9
"""Steps that leave y where it is [time]."""

PROBLEMS = {
    "lotka_volterra": lambda: lotka_volterra(scalar=True),
    "burgers_1000": lambda: burgers(1000),
    "burgers_100000": lambda: burgers(100_000),
    "neural_ode": lambda: neural_ode("float64"),
}


def problem_for(backend: str, name: str, *, gradient: bool = False) -> Problem:
    """Small vectors are taken apart the cheapest way; JAX compiles the plain form."""
    if name == "lotka_volterra" and (backend == "jax" or (backend == "numpy" and gradient)):
        return lotka_volterra()
    return PROBLEMS[name]()


def f_calls(lib: Any, problem: Problem) -> int:
    """Evaluations of f in a solve."""
    y0, *args = lib.inputs(problem)
    f, packed = problem.field(lib.xp), problem.pack(args)
    sol = rg.solve(f, y0, 0.0, problem.t1, packed, **problem.settings)
    return int(sol.stats["num_f_evals"])


def forward_floor(lib: Any, problem: Problem, calls: int) -> Run:
    """As many evaluations of f, a pass over memory after each."""
    f = problem.field(lib.xp)

    def step(y: Any, args: Any) -> Any:
        return y + H * f(0.0, y, problem.pack(args))

    return _loop(lib, step, lib.inputs(problem), calls)


def reverse_floor(lib: Any, problem: Problem, calls: int) -> Run:
    """As many vjps of f by y and args; JAX and PyTorch."""
    f, inputs = problem.field(lib.xp), lib.inputs(problem)

    def pulled_by_jax(y: Any, args: Any) -> Any:
        k, pull = lib.jax.vjp(lambda y, *args: f(0.0, y, problem.pack(args)), y, *args)
        return sum(lib.xp.sum(g) for g in pull(k)) * H + y  # every cotangent is needed

    def pulled_by_torch(y: Any, args: Any) -> Any:
        with lib.xp.enable_grad():
            y = y.detach().requires_grad_()
            k = f(0.0, y, problem.pack(args))
        return lib.xp.autograd.grad(k, (y, *args), k.detach(), allow_unused=True)[0]

    return _loop(lib, pulled_by_jax if lib.name == "jax" else pulled_by_torch, inputs, calls)


def _loop(lib: Any, step: Callable[..., Any], inputs: Any, calls: int) -> Run:
    y0, *args = inputs
    if lib.name == "jax":
        body = lambda i, c: (step(c[0], c[1]), c[1])  # noqa: E731
        program = lib.jax.jit(lambda y, a: lib.jax.lax.fori_loop(0, calls, body, (y, a))[0])
        return lib.run(program, (y0, args))

    def run() -> Any:
        y = y0
        for _ in range(calls):
            y = step(y, args)
        return y

    return lib.xp.no_grad()(run) if lib.name == "torch" else run


def over(ours: Run, *floors: Run) -> float:
    """Median ratio of our time to the sum of the floors', in turn."""
    runs = (ours, *floors)
    for run in runs:
        run()
    turns = [[seconds(run, 1) for run in runs] for _ in range(5)]
    return median(mine / sum(rest) for mine, *rest in turns)


class Forward:
    """Time of a solve over its floor."""

    params = (("numpy", "jax", "torch"), tuple(PROBLEMS))
    param_names = ("backend", "problem")
    timeout = 300

    def setup(self, backend: str, problem: str) -> None:
        library(backend)

    def track_over_floor(self, backend: str, problem: str) -> float:
        lib, case = library(backend), problem_for(backend, problem)
        return over(lib.forward(case), forward_floor(lib, case, f_calls(lib, case)))


class Gradient:
    """Time of a gradient, every state stored, over its floor."""

    params = (("jax", "torch"), ("lotka_volterra", "burgers_1000", "neural_ode"))
    param_names = ("backend", "problem")
    timeout = 300

    def setup(self, backend: str, problem: str) -> None:
        library(backend)

    def track_over_floor(self, backend: str, problem: str) -> float:
        lib, case = library(backend), problem_for(backend, problem, gradient=True)
        calls = f_calls(lib, case)
        ours = lib.gradient(case, adjoint=rg.RecursiveCheckpointAdjoint())
        return over(ours, forward_floor(lib, case, calls), reverse_floor(lib, case, calls))


Forward.track_over_floor.unit = "ours/floor"  # type: ignore[attr-defined]
Gradient.track_over_floor.unit = "ours/floor"  # type: ignore[attr-defined]
