"""Solves as users of JAX write them by hand: ``lax.scan``, and equinox's checkpointed scan.

Steps are constant and ours in every coefficient. An adaptive loop by hand is a controller, too,
which is a library's work: that is compared with diffrax alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import retrograde as rg

from ._backends import Run
from ._peers import Peer
from ._problem import Problem

__all__ = ["EquinoxLoop", "Scan"]


def step_of(xp: Any, problem: Problem) -> Callable[..., Any]:
    """``step(y, t, args)`` of constant size by the problem's method; y as f takes it."""
    f, dt = problem.field(xp), problem.dt
    if problem.solver == "euler":
        return lambda y, t, args: y + dt * f(t, y, args)
    if problem.solver == "semi_implicit_euler":
        return lambda y, t, args: _kick_and_drift(f, dt, y, t, args)
    tableau = rg.Tsit5().tableau
    stages = len(tableau.b) - (tableau.b[-1] == 0.0)  # the last is for the error alone
    nodes, rows, weights = (x[:stages] for x in (tableau.c, tableau.a, tableau.b))

    def step(y: Any, t: Any, args: Any) -> Any:
        k: list[Any] = []
        for node, row in zip(nodes, rows, strict=True):
            stage = y + dt * sum(a * x for a, x in zip(row, k, strict=False)) if k else y
            k.append(f(t + node * dt, stage, args))
        return y + dt * sum(b * x for b, x in zip(weights, k, strict=True) if b)

    return step


def _kick_and_drift(f: Any, dt: Any, y: Any, t: Any, args: Any) -> Any:
    q = y[0] + dt * f(t, y, args)[0]
    return q, y[1] + dt * f(t, (q, y[1]), args)[1]


class Scan(Peer):
    """Constant steps under ``lax.scan``, and its plain gradient."""

    module: ClassVar[str] = "jax"
    backend: ClassVar[str] = "jax"

    def solution(self, problem: Problem, *, checkpoint: bool = False) -> Callable[..., Any]:
        step = step_of(self.lib.xp, problem)
        times = self.lib.xp.arange(float(problem.steps)) * problem.dt

        def call(y0: Any, *args: Any) -> Any:
            packed = problem.pack(args)
            body = lambda y, t: (step(y, t, packed), None)  # noqa: E731
            body = self.peer.checkpoint(body) if checkpoint else body
            end = self.loop(body, problem.state(y0), times)
            return problem.array(self.lib.xp, end)

        return call

    def loop(self, body: Callable[..., Any], y: Any, times: Any) -> Any:
        """The last carry."""
        return self.peer.lax.scan(body, y, times)[0]

    def forward(self, problem: Problem) -> Run:
        return self.lib.run(self.lib.jax.jit(self.solution(problem)), self.lib.inputs(problem))

    def derivative(self, problem: Problem, *, checkpoint: bool = False) -> Callable[..., Any]:
        """The compiled gradient."""
        call = self.solution(problem, checkpoint=checkpoint)
        return self.lib.gradient_of(call, len(problem.leaves))

    def gradient(self, problem: Problem, *, checkpoint: bool = False) -> Run:
        call = self.derivative(problem, checkpoint=checkpoint)
        return self.lib.run(call, self.lib.inputs(problem))


class EquinoxLoop(Scan):
    """The same steps under equinox's checkpointed scan with its default slots."""

    module: ClassVar[str] = "equinox.internal"

    def __init__(self) -> None:
        super().__init__()
        self.loops, self.peer = self.peer, importlib.import_module("jax")

    def loop(self, body: Callable[..., Any], y: Any, times: Any) -> Any:
        return self.loops.scan(body, y, times, kind="checkpointed")[0]
