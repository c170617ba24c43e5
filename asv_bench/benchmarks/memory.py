"""Bytes of a gradient: what is kept between forward and reverse, and the peak under a budget."""

import gc
import types
from collections.abc import Callable, Iterator
from typing import Any

import retrograde as rg
from retrograde.measure import peak_gradient_bytes

from ._backends import NAMES, Jax, Library, library
from ._problem import Problem
from ._problems import PROBLEMS
from .gradient import ADJOINTS


def saved_bytes(lib: Library, problem: Problem, **keywords: Any) -> int:
    """Bytes of the arrays that a gradient keeps between forward and reverse.

    Inputs and outputs of the solve don't count. JAX: residuals of ``jax.vjp``; else the arrays
    that the pullback reaches.
    """
    if isinstance(lib, Jax):
        return _saved_by_jax(lib, problem, **keywords)
    y0, *args = lib.inputs(problem)
    f, settings = problem.field(lib.xp), {**problem.settings, **keywords}
    sol, pullback = rg.solve_vjp(f, y0, 0.0, problem.t1, problem.pack(args), **settings)
    given = {id(x) for x in _arrays((f, y0, args, sol.ys, sol.ts), type(y0))}
    kept = [x for x in _arrays(pullback, type(y0)) if id(x) not in given]
    return sum(int(x.nbytes) for x in kept)


def _saved_by_jax(lib: Jax, problem: Problem, **keywords: Any) -> int:
    return residual_bytes(lib, lib.solution(problem, **keywords), problem)


def residual_bytes(lib: Jax, solution: Callable[..., Any], problem: Problem) -> int:
    """Bytes of the residuals of any solution in JAX, ours or a peer's."""
    jax, inputs = lib.jax, lib.inputs(problem)
    pullback = jax.eval_shape(lambda *x: jax.vjp(solution, *x)[1], *inputs)
    kept = jax.tree_util.tree_leaves(pullback)
    return sum(x.size * x.dtype.itemsize for x in kept) - sum(x.nbytes for x in inputs)


def backprop_bytes(torch: Any, solution: Callable[..., Any], inputs: Any) -> int:
    """Bytes of the storages that PyTorch's autograd saves in a solve, inputs left out."""
    given, kept = {x.untyped_storage().data_ptr() for x in inputs}, {}

    def pack(x: Any) -> Any:
        storage = x.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage  # alive, so that no other one gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        solution(*inputs).sum()
    return sum(storage.nbytes() for storage in kept.values())


def _arrays(root: Any, kind: type) -> Iterator[Any]:
    """Arrays that an object refers to, through containers, closures and instances."""
    seen, stack = set(), [root]
    while stack:
        x = stack.pop()
        if id(x) in seen or isinstance(x, (type, types.ModuleType)):
            continue
        seen.add(id(x))
        if isinstance(x, kind):
            yield x
        elif isinstance(x, types.FunctionType):  # its globals are not its own
            stack += [*(x.__closure__ or ()), *(x.__defaults__ or ())]
        else:
            stack += gc.get_referents(x)


class Saved:
    """Arrays kept between forward and reverse (rows J3 and T4p)."""

    params = (NAMES, tuple(PROBLEMS), tuple(ADJOINTS))
    param_names = ("backend", "problem", "adjoint")

    def setup(self, backend: str, problem: str, adjoint: str) -> None:
        self.lib = library(backend)

    def track_saved(self, backend: str, problem: str, adjoint: str) -> int:
        return saved_bytes(self.lib, PROBLEMS[problem](), **ADJOINTS[adjoint])


class Budget:
    """Measured peak over the budget that was given (row M1p: at most 1)."""

    params = (NAMES, ("4 KiB", "16 KiB", "64 KiB"))
    param_names = ("backend", "memory")

    def setup(self, backend: str, memory: str) -> None:
        self.lib = library(backend)

    def track_peak_over_budget(self, backend: str, memory: str) -> float:
        lib, problem = self.lib, PROBLEMS["toy"]()
        budget = int(memory.removesuffix(" KiB")) * 1024
        calls = lib.solution(problem), lib.derivative(problem, memory=budget)
        peak = peak_gradient_bytes(*calls, *lib.inputs(problem))
        return peak.bytes / budget


Saved.track_saved.unit = "bytes"
Budget.track_peak_over_budget.unit = "peak/budget"
