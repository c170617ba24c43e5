"""How other libraries run the same problems: one small class each, imported when made.

A peer gives runs in the sense of ``_backends``: callables without arguments that return when
the result is there. Settings are equal to ours: tolerances, coefficients of the controller
(where the peer has any), precision, one thread. SciPy's RK45 and torchdiffeq's dopri5 are the
pair of Dormand and Prince, the nearest that these have to Tsit5.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

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

    def solution(self, problem: Problem, checkpoints: int | None = None) -> Callable[..., Any]:
        dfx, xp = self.peer, self.lib.xp
        terms, solver = self._method(problem)
        keywords = {
            "adjoint": dfx.RecursiveCheckpointAdjoint(checkpoints),
            "stepsize_controller": self._controller(problem),
            "max_steps": 4096 if problem.dt is None else problem.steps + 1,  # rounding may add one
        }

        def call(y0: Any, *args: Any) -> Any:
            span, packed = (0.0, problem.t1, problem.dt), problem.pack(args)
            sol = dfx.diffeqsolve(terms, solver, *span, problem.state(y0), packed, **keywords)
            return problem.array(xp, self.lib.jax.tree_util.tree_map(lambda y: y[-1], sol.ys))

        return self.lib.jax.jit(call)

    def _method(self, problem: Problem) -> tuple[Any, Any]:
        dfx, f = self.peer, problem.field(self.lib.xp)
        if problem.solver == "euler":
            return dfx.ODETerm(f), dfx.Euler()
        if problem.solver == "tsit5":
            return dfx.ODETerm(f), dfx.Tsit5()
        drift = dfx.ODETerm(lambda t, p, args: f(t, (p, p), args)[0])
        kick = dfx.ODETerm(lambda t, q, args: f(t, (q, q), args)[1])
        return (drift, kick), dfx.SemiImplicitEuler()

    def _controller(self, problem: Problem) -> Any:
        if problem.dt is not None:
            return self.peer.ConstantStepSize()
        return self.peer.PIDController(
            pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol
        )

    def forward(self, problem: Problem) -> Run:
        return self.lib.run(self.solution(problem), self.lib.inputs(problem))

    def derivative(self, problem: Problem, checkpoints: int | None = None) -> Callable[..., Any]:
        """The compiled gradient."""
        return self.lib.gradient_of(self.solution(problem, checkpoints), len(problem.leaves))

    def gradient(self, problem: Problem, checkpoints: int | None = None) -> Run:
        return self.lib.run(self.derivative(problem, checkpoints), self.lib.inputs(problem))

    def steps(self, problem: Problem) -> int:
        """Steps that its solve tries, rejected ones included."""
        terms, solver = self._method(problem)
        y0, *args = self.lib.inputs(problem)
        span, packed = (0.0, problem.t1, problem.dt), problem.pack(args)
        keywords = {"stepsize_controller": self._controller(problem)}
        sol = self.peer.diffeqsolve(terms, solver, *span, y0, packed, **keywords)
        return int(sol.stats["num_steps"])

    def batched(self, problem: Problem) -> Run:
        """A problem's solve under ``vmap``, over the last axis of y0."""
        one = self.solution(problem)
        return self.lib.run(self.lib.mapped(one, problem), self.lib.inputs(problem))


class Torchdiffeq(Peer):
    """dopri5, its gradient by backpropagation or by the continuous adjoint."""

    module: ClassVar[str] = "torchdiffeq"
    backend: ClassVar[str] = "torch"

    def solution(self, problem: Problem, *, adjoint: bool = False) -> Callable[..., Any]:
        torch = self.lib.xp
        f, times = problem.field(torch), self.lib.asarray(np.asarray([0.0, problem.t1]))
        solve = self.peer.odeint_adjoint if adjoint else self.peer.odeint
        keywords = {"rtol": problem.rtol, "atol": problem.atol, "method": "dopri5"}

        def call(y0: Any, *args: Any) -> Any:
            packed = problem.pack(args)
            extra = {"adjoint_params": args} if adjoint else {}
            return solve(lambda t, y: f(t, y, packed), y0, times, **keywords, **extra)[-1]

        return call

    def forward(self, problem: Problem) -> Run:
        call = self.lib.xp.no_grad()(self.solution(problem))
        return self.lib.run(call, self.lib.inputs(problem))

    def gradient(self, problem: Problem, *, adjoint: bool = False) -> Run:
        solution, grad = self.solution(problem, adjoint=adjoint), self.lib.xp.autograd.grad
        call = lambda *leaves: grad(solution(*leaves).sum(), leaves)  # noqa: E731
        return self.lib.run(call, self.lib.inputs(problem))


class Torchode(Peer):
    """Tsit5, eager (its TorchScript form fails with torch 2.13)."""

    module: ClassVar[str] = "torchode"
    backend: ClassVar[str] = "torch"

    def forward(self, problem: Problem) -> Run:
        """As a batch of one."""
        f, (y0, *args) = problem.field(self.lib.xp), self.lib.inputs(problem)
        packed = problem.pack(args)
        call = self._solve(lambda t, y: f(t[0], y[0], packed)[None], y0.detach()[None], problem)
        return lambda: call()[0]

    def batched(self, problem: Problem) -> Run:
        """A batch over the last axis of y0, each sample with steps of its own."""
        f, (y0, *args) = problem.field(self.lib.xp), self.lib.inputs(problem)
        packed = problem.pack(args)
        start = y0.detach().T.contiguous()
        call = self._solve(lambda t, y: f(t, y.T, packed).T, start, problem)
        return lambda: call().T

    def _solve(self, f: Callable[..., Any], start: Any, problem: Problem) -> Callable[[], Any]:
        torch, to = self.lib.xp, self.peer
        term = to.ODETerm(f)
        controller = to.PIDController(
            pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol, term=term
        )
        solver = to.AutoDiffAdjoint(to.Tsit5(term=term), controller)
        ends = (torch.full_like(start[:, 0], t) for t in (0.0, problem.t1))
        case = to.InitialValueProblem(start, *ends)
        return torch.no_grad()(lambda: solver.solve(case).ys[:, -1])


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
