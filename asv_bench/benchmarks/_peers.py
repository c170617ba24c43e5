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

from ._backends import Run, library
from ._problems import Problem

__all__ = ["Diffrax", "Peer", "Scan", "SciPy", "Torchdiffeq", "Torchode", "peer"]


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


class Scan(Peer):
    """Euler's method as a user of JAX writes it: ``lax.scan`` and its plain gradient."""

    module: ClassVar[str] = "jax"
    backend: ClassVar[str] = "jax"

    def solution(self, problem: Problem) -> Callable[..., Any]:
        f, dt = problem.field(self.lib.xp), problem.dt
        steps = self.lib.xp.arange(float(round(problem.t1 / dt)))

        def call(y0: Any, *args: Any) -> Any:
            packed = problem.pack(args)
            step = lambda y, i: (y + dt * f(i * dt, y, packed), None)  # noqa: E731
            return self.peer.lax.scan(step, y0, steps)[0]

        return call

    def gradient(self, problem: Problem) -> Run:
        call = self.lib.gradient_of(self.solution(problem), len(problem.leaves))
        return self.lib.run(call, self.lib.inputs(problem))


class Diffrax(Peer):
    """Compiled ``diffeqsolve`` with Euler or Tsit5 and our controller's coefficients."""

    module: ClassVar[str] = "diffrax"
    backend: ClassVar[str] = "jax"

    def solution(self, problem: Problem, checkpoints: int | None = None) -> Callable[..., Any]:
        dfx = self.peer
        term = dfx.ODETerm(problem.field(self.lib.xp))
        keywords = {
            "adjoint": dfx.RecursiveCheckpointAdjoint(checkpoints),
            "stepsize_controller": self._controller(problem),
            "max_steps": 4096 if problem.dt is None else round(problem.t1 / problem.dt) + 1,
        }
        solver = dfx.Tsit5() if problem.dt is None else dfx.Euler()

        def call(y0: Any, *args: Any) -> Any:
            packed = problem.pack(args)
            span = 0.0, problem.t1, problem.dt
            return dfx.diffeqsolve(term, solver, *span, y0, packed, **keywords).ys[-1]

        return self.lib.jax.jit(call)

    def _controller(self, problem: Problem) -> Any:
        if problem.dt is not None:
            return self.peer.ConstantStepSize()
        return self.peer.PIDController(
            pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol
        )

    def forward(self, problem: Problem) -> Run:
        return self.lib.run(self.solution(problem), self.lib.inputs(problem))

    def gradient(self, problem: Problem, checkpoints: int | None = None) -> Run:
        call = self.lib.gradient_of(self.solution(problem, checkpoints), len(problem.leaves))
        return self.lib.run(call, self.lib.inputs(problem))


class Torchdiffeq(Peer):
    """dopri5, its gradient by backpropagation or by the continuous adjoint."""

    module: ClassVar[str] = "torchdiffeq"
    backend: ClassVar[str] = "torch"

    def solution(self, problem: Problem, *, adjoint: bool = False) -> Callable[..., Any]:
        torch = self.lib.xp
        f, times = problem.field(torch), torch.tensor([0.0, problem.t1], dtype=torch.float64)
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
    """Tsit5 over a batch of one, eager (its TorchScript form fails with torch 2.13)."""

    module: ClassVar[str] = "torchode"
    backend: ClassVar[str] = "torch"

    def forward(self, problem: Problem) -> Run:
        torch, to = self.lib.xp, self.peer
        f, (y0, *args) = problem.field(torch), self.lib.inputs(problem)
        packed, start = problem.pack(args), y0.detach()[None]
        term = to.ODETerm(lambda t, y: f(t[0], y[0], packed)[None])
        controller = to.PIDController(
            pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol, term=term
        )
        solver = to.AutoDiffAdjoint(to.Tsit5(term=term), controller)
        ends = torch.zeros(1, dtype=y0.dtype), torch.full((1,), problem.t1, dtype=y0.dtype)
        case = to.InitialValueProblem(y0=start, t_start=ends[0], t_end=ends[1])
        return torch.no_grad()(lambda: solver.solve(case).ys[0, -1])


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
