"""The comparison on PyTorch: our solves and those of torchdiffeq and torchode; what they keep.

Peers have our settings: tolerances, bound of the steps, and coefficients of the controller where
they have any. torchdiffeq's dopri5 is the pair of Dormand and Prince, its nearest to Tsit5.
``torchdiffeq`` and ``torchode`` are how the benchmarks call them, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from retrograde._base.types import Device, Tree, VectorFieldFn
from retrograde._commands.compare import rows
from retrograde._commands.compare.problem import Problem
from retrograde._commands.compare.rows import Entrant, Peer, Solution

from .peers_arrays import kept_bytes


class Bench(rows.Bench):
    """A problem on PyTorch."""

    def __init__(self, problem: Problem, library: str) -> None:
        tensors = [torch.tensor(x, dtype=torch.float64) for x in problem.leaves]
        leaves = tuple(torch.nn.Parameter(x) for x in tensors)  # torchode asks for these
        super().__init__(problem, problem.field(torch), leaves, str(leaves[0].device))
        self._alone: dict[str, Solution] = {}

    def entrant(self, program: str, solution: Solution) -> Entrant:
        leaves = self.leaves
        alone = self._alone.setdefault(program, torch.no_grad()(solution))

        def gradient(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(solution(*leaves).sum(), leaves)

        return Entrant(alone, gradient, leaves, lambda: residual_bytes(solution, leaves))

    def peers(self) -> list[Peer]:
        """Methods of torchdiffeq and torchode."""
        methods: list[tuple[str, str, Callable[[], Solution]]] = [
            ("torchdiffeq", "odeint", partial(torchdiffeq, self.f, self.problem)),
            (
                "torchdiffeq",
                "odeint_adjoint",
                partial(torchdiffeq, self.f, self.problem, adjoint=True),
            ),
            ("torchode", "AutoDiffAdjoint", lambda: partial(self._torchode, "AutoDiffAdjoint")),
            ("torchode", "BacksolveAdjoint", lambda: partial(self._torchode, "BacksolveAdjoint")),
        ]
        return [
            Peer(package, method, lambda p=package, make=make: self.entrant(p, make()))  # type: ignore[misc]
            for package, method, make in methods
            if importlib.util.find_spec(package)
        ]

    def _torchode(self, name: str, y0: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        return torchode(_Field(self.f, *args), self.problem, name)(y0[None])[0]


def torchdiffeq(
    f: VectorFieldFn, problem: Problem, *, adjoint: bool = False, device: Device = None
) -> Solution:
    """torchdiffeq's solve; its gradient is by backpropagation, or by the continuous adjoint.

    ``problem`` has ``pack``, ``t1``, ``dt``, ``rtol`` and ``atol``.
    """
    package = importlib.import_module("torchdiffeq")
    odeint = package.odeint_adjoint if adjoint else package.odeint
    times = torch.tensor([0.0, problem.t1], dtype=torch.float64, device=device)
    if problem.dt is not None:
        keywords: dict[str, Tree] = {"method": "euler", "options": {"step_size": problem.dt}}
    else:
        keywords = {"method": "dopri5", "rtol": problem.rtol, "atol": problem.atol}

    def solution(y0: torch.Tensor, *leaves: torch.Tensor) -> torch.Tensor:
        args = problem.pack(leaves)
        more = {"adjoint_params": leaves} if adjoint else {}
        found: torch.Tensor = odeint(lambda t, y: f(t, y, args), y0, times, **keywords, **more)
        return found[-1]

    return solution


def torchode(
    f: Callable[..., torch.Tensor], problem: Problem, adjoint: str = "AutoDiffAdjoint"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """torchode's solve of a batch, samples first; it is eager (TorchScript fails with torch 2.13).

    ``problem`` has ``t1``, ``dt``, ``rtol`` and ``atol``; ``f(t, y)`` is of the batch.
    """
    to: Any = importlib.import_module("torchode")
    term = to.ODETerm(f)
    if problem.dt is not None:
        method, controller = to.Euler(term=term), to.FixedStepController()
    else:
        method = to.Tsit5(term=term)
        controller = to.PIDController(
            pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol, term=term
        )
    first = (term,) if adjoint == "BacksolveAdjoint" else ()
    solver = getattr(to, adjoint)(*first, method, controller)

    def solve(start: torch.Tensor) -> torch.Tensor:
        each = partial(start.new_full, start.shape[:1])
        case = to.InitialValueProblem(y0=start, t_start=each(0.0), t_end=each(problem.t1))
        dt0 = None if problem.dt is None else each(problem.dt)
        found: torch.Tensor = solver.solve(case, dt0=dt0).ys
        return found[:, -1]

    return solve


class _Field(torch.nn.Module):
    """A vector field over a batch of one or (torchode's adjoint) none, args as parameters."""

    def __init__(self, f: VectorFieldFn, p: torch.Tensor | None = None) -> None:
        super().__init__()
        self.f, self.p = f, p

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.f(t.reshape(()), y.reshape(-1), self.p)
        return found.reshape(y.shape)


class _Saved:
    """A tensor that a node saves; it lives as long as the node does."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x.detach()


def residual_bytes(solution: Solution, leaves: tuple[torch.Tensor, ...]) -> int:
    """Bytes of the distinct storages that the graph of a solution keeps.

    Counted are the tensors that autograd saves, and those that the nodes written in Python hold
    beside; inputs count where a method keeps them. What was saved for a part of the graph that
    is gone, a rejected step's say, does not.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(x: torch.Tensor) -> _Saved:
        box = _Saved(x)
        saved.add(box)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.x):
        y1 = solution(*leaves)
    nodes, left = {}, [y1.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in nodes:
            nodes[node] = getattr(node, "__dict__", {})
            left += [following for following, _ in node.next_functions]
    tensors = [box.x for box in saved]
    result = {_storage(y1)[0]} - {_storage(x)[0] for x in tensors}
    return kept_bytes([*nodes.values(), tensors], torch.Tensor, _storage, result)


def _storage(x: torch.Tensor) -> tuple[int, int]:
    storage = x.untyped_storage()
    return storage._cdata, storage.nbytes()
