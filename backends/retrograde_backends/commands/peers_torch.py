"""The comparison on PyTorch: our solves and those of torchdiffeq and torchode; what they keep.

Peers have our settings: tolerances, bound of the steps, and coefficients of the controller where
they have any. torchdiffeq's dopri5 is the pair of Dormand and Prince, its nearest to Tsit5.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import weakref
from collections.abc import Callable
from typing import Any

import torch

import retrograde as rg
from retrograde._commands.compare.rows import Entrant, Peer

from .peers_arrays import kept_bytes

__all__ = ["Bench"]


class Bench:
    """A problem on PyTorch.

    Parameters
    ----------
    problem : Problem
    library : str

    Attributes
    ----------
    device : str
    """

    def __init__(self, problem: Any, library: str) -> None:
        self.problem = problem
        tensors = [torch.tensor(x, dtype=torch.float64) for x in problem.leaves]
        self.leaves = tuple(torch.nn.Parameter(x) for x in tensors)  # torchode asks for these
        self.f = problem.field(torch)
        self.device = str(self.leaves[0].device)
        self._alone: dict[str, Any] = {}

    def call(self, y0: Any, *args: Any) -> tuple[Any, ...]:
        """Arguments of ``solve``."""
        return self.f, y0, 0.0, self.problem.t1, *args

    def ours(self, keywords: dict[str, Any]) -> Entrant:
        """Our method with these keywords of ``solve``."""
        settings = {**self.problem.settings, **keywords}
        solution = lambda *x: rg.solve(*self.call(*x), **settings).ys[-1]  # noqa: E731
        return self.entrant("retrograde", solution)

    def entrant(self, package: str, solution: Callable[..., Any]) -> Entrant:
        """A solution with its gradient by autograd; without one, a package has one solve."""
        leaves = self.leaves
        alone = self._alone.setdefault(package, torch.no_grad()(solution))

        def gradient(*leaves: Any) -> Any:
            return torch.autograd.grad(solution(*leaves).sum(), leaves)

        kept = lambda: residual_bytes(solution, leaves)  # noqa: E731
        return Entrant(alone, gradient, leaves, kept, lambda x: x)

    def peers(self) -> list[Peer]:
        """Methods of torchdiffeq and torchode."""
        methods: list[tuple[str, str, Callable[..., Any]]] = [
            ("torchdiffeq", "odeint", lambda *x: self._torchdiffeq("odeint", *x)),
            ("torchdiffeq", "odeint_adjoint", lambda *x: self._torchdiffeq("odeint_adjoint", *x)),
            ("torchode", "AutoDiffAdjoint", lambda *x: self._torchode("AutoDiffAdjoint", *x)),
            ("torchode", "BacksolveAdjoint", lambda *x: self._torchode("BacksolveAdjoint", *x)),
        ]
        return [
            Peer(package, method, functools.partial(self.entrant, package, solution))
            for package, method, solution in methods
            if importlib.util.find_spec(package)
        ]

    def _torchdiffeq(self, name: str, y0: Any, *args: Any) -> Any:
        solve = getattr(importlib.import_module("torchdiffeq"), name)
        problem, keywords = self.problem, {}
        if problem.dt is not None:
            keywords = {"method": "euler", "options": {"step_size": problem.dt}}
        else:
            keywords = {"method": "dopri5", "rtol": problem.rtol, "atol": problem.atol}
        if name == "odeint_adjoint":
            keywords["adjoint_params"] = args
        p = args[0] if args else None
        times = torch.tensor([0.0, problem.t1], dtype=y0.dtype)
        return solve(lambda t, y: self.f(t, y, p), y0, times, **keywords)[-1]

    def _torchode(self, name: str, y0: Any, *args: Any) -> Any:
        to: Any = importlib.import_module("torchode")
        problem = self.problem
        term = to.ODETerm(_Field(self.f, *args))
        ends = (torch.zeros(1, dtype=y0.dtype), torch.full((1,), problem.t1, dtype=y0.dtype))
        case = to.InitialValueProblem(y0=y0[None], t_start=ends[0], t_end=ends[1])
        if problem.dt is not None:
            method, controller = to.Euler(term=term), to.FixedStepController()
            dt0 = torch.full((1,), problem.dt, dtype=y0.dtype)
        else:
            method, dt0 = to.Tsit5(term=term), None
            controller = to.PIDController(
                pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol, term=term
            )
        first = (term,) if name == "BacksolveAdjoint" else ()
        solver = getattr(to, name)(*first, method, controller)
        return solver.solve(case, dt0=dt0).ys[0, -1]


class _Field(torch.nn.Module):
    """A vector field over a batch of one or (torchode's adjoint) none, args as parameters."""

    def __init__(self, f: Callable[..., Any], p: Any = None) -> None:
        super().__init__()
        self.f, self.p = f, p

    def forward(self, t: Any, y: Any) -> Any:
        return self.f(t.reshape(()), y.reshape(-1), self.p).reshape(y.shape)


class _Saved:
    """A tensor that a node saves; it lives as long as the node does."""

    def __init__(self, x: Any) -> None:
        self.x = x.detach()


def residual_bytes(solution: Callable[..., Any], leaves: tuple[Any, ...]) -> int:
    """Bytes of the distinct storages that the graph of a solution keeps.

    Counted are the tensors that autograd saves, and those that the nodes written in Python hold
    beside; inputs count where a method keeps them. What was saved for a part of the graph that
    is gone, a rejected step's say, does not.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(x: Any) -> _Saved:
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


def _storage(x: Any) -> tuple[int, int]:
    storage = x.untyped_storage()
    return storage._cdata, storage.nbytes()
