"""How other libraries run the same problems: one small class each, imported when made.

A peer gives runs in the sense of ``_backends``: callables without arguments that return when
the result is there. They are called as ``retrograde compare`` calls them
(``retrograde_backends.commands``): settings are equal to ours, tolerances, coefficients of the
controller (where the peer has any), precision, one thread. SciPy's RK45 and torchdiffeq's dopri5
are the pair of Dormand and Prince, the nearest that these have to Tsit5.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

from . import DEVICE
from ._backends import Run, library
from ._problem import Problem

__all__ = ["Diffrax", "Peer", "SciPy", "Torchdiffeq", "Torchode", "peer"]


class Peer:
    """A library to be compared with.

    Raises
    ------
    ImportError
        If it is not installed.
    """

    module: ClassVar[str]
    backend: ClassVar[str]

    def __init__(self) -> None:
        self.lib: Any = library(self.backend)
        self.peer: Any = importlib.import_module(self.module)


class SciPy(Peer):
    """``solve_ivp`` with RK45 or DOP853."""

    module: ClassVar[str] = "scipy.integrate"
    backend: ClassVar[str] = "numpy"

    def solve(self, problem: Problem, method: str = "RK45") -> Any:
        """SciPy's result object."""
        f, args = problem.field(self.lib.xp), problem.args
        return self.peer.solve_ivp(
            lambda t, y: f(t, y, args), (0.0, problem.t1), problem.y0, method,
            t_eval=(problem.t1,), rtol=problem.rtol, atol=problem.atol,
        )  # fmt: skip

    def forward(self, problem: Problem, method: str = "RK45") -> Run:
        return lambda: self.solve(problem, method).y[:, -1]


class Diffrax(Peer):
    """Compiled ``diffeqsolve`` by the problem's method, with our controller's coefficients."""

    module: ClassVar[str] = "diffrax"
    backend: ClassVar[str] = "jax"

    def solver(self, problem: Problem, *checkpoints: int | None) -> Callable[..., Any]:
        """``solve(y0, args)``, which gives diffrax' own object."""
        call = importlib.import_module("retrograde_backends.commands.peers_jax").diffrax
        return call(problem.field(self.lib.xp), problem, "RecursiveCheckpointAdjoint", *checkpoints)

    def solution(self, problem: Problem, checkpoints: int | None = None) -> Callable[..., Any]:
        solve = self.solver(problem, checkpoints)

        def call(y0: Any, *args: Any) -> Any:
            ys = solve(problem.state(y0), problem.pack(args)).ys
            end = tuple(y[-1] for y in ys) if problem.pair else ys[-1]
            return problem.array(self.lib.xp, end)

        return self.lib.jax.jit(call)

    def forward(self, problem: Problem) -> Run:
        return self.lib.run(self.solution(problem), self.lib.inputs(problem))

    def derivative(self, problem: Problem, checkpoints: int | None = None) -> Callable[..., Any]:
        """The compiled gradient."""
        return self.lib.gradient_of(self.solution(problem, checkpoints), len(problem.leaves))

    def gradient(self, problem: Problem, checkpoints: int | None = None) -> Run:
        return self.lib.run(self.derivative(problem, checkpoints), self.lib.inputs(problem))

    def steps(self, problem: Problem) -> int:
        """Steps that its solve tries, rejected ones included."""
        y0, *args = self.lib.inputs(problem)
        return int(self.solver(problem)(y0, problem.pack(args)).stats["num_steps"])

    def batched(self, problem: Problem) -> Run:
        """A problem's solve under ``vmap``, over the last axis of y0."""
        one = self.solution(problem)
        return self.lib.run(self.lib.mapped(one, problem), self.lib.inputs(problem))


class Torchdiffeq(Peer):
    """dopri5, its gradient by backpropagation or by the continuous adjoint."""

    module: ClassVar[str] = "torchdiffeq"
    backend: ClassVar[str] = "torch"

    def solution(self, problem: Problem, *, adjoint: bool = False) -> Callable[..., Any]:
        call = importlib.import_module("retrograde_backends.commands.peers_torch").torchdiffeq
        return call(problem.field(self.lib.xp), problem, adjoint=adjoint, device=DEVICE)

    def forward(self, problem: Problem) -> Run:
        call = self.lib.xp.no_grad()(self.solution(problem))
        return self.lib.run(call, self.lib.inputs(problem))

    def gradient(self, problem: Problem, *, adjoint: bool = False) -> Run:
        solution, grad = self.solution(problem, adjoint=adjoint), self.lib.xp.autograd.grad
        call = lambda *leaves: grad(solution(*leaves).sum(), leaves)  # noqa: E731
        return self.lib.run(call, self.lib.inputs(problem))


class Torchode(Peer):
    """Tsit5, eager."""

    module: ClassVar[str] = "torchode"
    backend: ClassVar[str] = "torch"

    def forward(self, problem: Problem) -> Run:
        """As a batch of one."""
        return self._run(problem, lambda y: y[None], lambda ys: ys[0], lambda t: t[0])

    def batched(self, problem: Problem) -> Run:
        """A batch over the last axis of y0, each sample with steps of its own."""
        return self._run(problem, lambda y: y.T, lambda ys: ys.T, lambda t: t)

    def _run(self, problem: Problem, into: Any, out: Any, time: Any) -> Run:
        """A run of a batch, samples first, from a state and back."""
        f, (y0, *args) = problem.field(self.lib.xp), self.lib.inputs(problem)
        packed, start = problem.pack(args), into(y0.detach()).contiguous()
        call = importlib.import_module("retrograde_backends.commands.peers_torch").torchode
        solve = call(lambda t, y: into(f(time(t), out(y), packed)), problem)
        return self.lib.run(self.lib.xp.no_grad()(lambda y: out(solve(y))), (start,))


def peer(kind: type[Peer]) -> Any:
    """A peer.

    Raises
    ------
    NotImplementedError
        If it or its array library is not installed.
    """
    try:
        return kind()
    except ImportError as absent:
        raise NotImplementedError(f"{kind.__name__}: {absent}") from None
