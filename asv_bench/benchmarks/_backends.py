"""How each array library runs a problem: arrays, compilation, gradient, and waiting for the end.

A *run* is a callable without arguments that solves once and returns when the device is done.
JAX runs are compiled, with arrays as inputs, so that nothing is folded at compile time.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

import retrograde as rg

from . import DEVICE
from ._problem import Problem

__all__ = ["NAMES", "Library", "Run", "checked_forward", "checked_gradient", "library", "refuse"]

NAMES = ("numpy", "jax", "torch", "cupy")

Run = Callable[[], Any]


class Library(ABC):
    """One array library under retrograde; the default methods are those of an eager one."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.xp = importlib.import_module(self.name)

    @abstractmethod
    def asarray(self, x: Any) -> Any:
        """A NumPy array as one of this library, of the same dtype."""

    @property
    def functions(self) -> Any:
        """The namespace that fields are written in."""
        return self.xp

    def sync(self, x: Any) -> Any:
        """x, when everything that makes it has been computed."""
        return x

    def to_numpy(self, x: Any) -> Any:
        """An array as one of NumPy."""
        return np.asarray(x)

    def inputs(self, problem: Problem) -> tuple[Any, ...]:
        """Leaves of y0 and args."""
        return tuple(self.asarray(x) for x in problem.leaves)

    def solution(self, problem: Problem, **keywords: Any) -> Callable[..., Any]:
        """``solution(*leaves) -> y(t1)``."""
        f, settings = problem.field(self.functions), {**problem.settings, **keywords}

        def call(y0: Any, *args: Any) -> Any:
            start, packed = problem.state(y0), problem.pack(args)
            ys = rg.solve(f, start, 0.0, problem.t1, packed, **settings).ys
            return problem.array(self.xp, (ys[0][-1], ys[1][-1]) if problem.pair else ys[-1])

        return call

    def derivative(self, problem: Problem, **keywords: Any) -> Callable[..., Any]:
        """``derivative(*leaves)``: the gradient of ``sum(y(t1))``."""
        f, settings = problem.field(self.functions), {**problem.settings, **keywords}

        def call(y0: Any, *args: Any) -> list[Any]:
            packed = problem.pack(args)
            sol, pullback = rg.solve_vjp(f, y0, 0.0, problem.t1, packed, **settings)
            found = pullback(self.xp.ones_like(sol.ys))
            return [found.y0, *problem.unpack(found.args)]

        return call

    def forward(self, problem: Problem, **keywords: Any) -> Run:
        """A run that gives y(t1)."""
        return self.run(self.solution(problem, **keywords), self.inputs(problem))

    def gradient(self, problem: Problem, **keywords: Any) -> Run:
        """A run that gives the gradient of ``sum(y(t1))`` by the leaves of y0 and args."""
        return self.run(self.derivative(problem, **keywords), self.inputs(problem))

    def run(self, call: Callable[..., Any], inputs: tuple[Any, ...]) -> Run:
        """A call of these inputs that waits for its end."""
        return lambda: self.sync(call(*inputs))


class NumPy(Library):
    """The reference."""

    name: ClassVar[str] = "numpy"

    def asarray(self, x: Any) -> Any:
        return x


class CuPy(Library):
    """NumPy's form on a GPU."""

    name: ClassVar[str] = "cupy"

    def __init__(self) -> None:
        super().__init__()
        if not self.xp.cuda.is_available():
            raise ImportError("it finds no GPU")

    @property
    def functions(self) -> Any:
        return np  # these go to CuPy's arrays, and record a derivative; CuPy's own can't

    def asarray(self, x: Any) -> Any:
        return self.xp.asarray(x)

    def sync(self, x: Any) -> Any:
        self.xp.cuda.Device().synchronize()
        return x

    def to_numpy(self, x: Any) -> Any:
        return self.xp.asnumpy(x)


class Torch(Library):
    """Eager PyTorch; gradients by its own autograd."""

    name: ClassVar[str] = "torch"

    def __init__(self) -> None:
        super().__init__()
        importlib.import_module("retrograde_backends.torch.adapter")  # absent: no benchmark
        if DEVICE == "cuda" and not self.xp.cuda.is_available():
            raise ImportError("it finds no GPU")
        self.xp.set_num_threads(1)

    def asarray(self, x: Any) -> Any:
        return self.xp.tensor(x, device=DEVICE)

    def sync(self, x: Any) -> Any:
        if DEVICE == "cuda":
            self.xp.cuda.synchronize()
        return x

    def to_numpy(self, x: Any) -> Any:
        return x.detach().cpu().numpy()

    def inputs(self, problem: Problem) -> tuple[Any, ...]:
        return tuple(x.requires_grad_() for x in super().inputs(problem))

    def solution(self, problem: Problem, **keywords: Any) -> Callable[..., Any]:
        return self.xp.no_grad()(super().solution(problem, **keywords))

    def derivative(self, problem: Problem, **keywords: Any) -> Callable[..., Any]:
        solution = super().solution(problem, **keywords)
        return lambda *leaves: self.xp.autograd.grad(solution(*leaves).sum(), leaves)


class Jax(Library):
    """JAX in double precision; every run is one compiled call."""

    name: ClassVar[str] = "jax"

    def __init__(self) -> None:
        super().__init__()
        self.jax = self.xp
        self.jax.config.update("jax_enable_x64", True)
        if DEVICE == "cuda":
            try:
                self.jax.devices(DEVICE)
            except RuntimeError as absent:
                raise ImportError(" ".join(str(absent).split())) from None
            self.jax.config.update("jax_default_matmul_precision", "highest")  # no TF32
        self.xp = importlib.import_module("jax.numpy")

    def asarray(self, x: Any) -> Any:
        return self.xp.asarray(x)

    def sync(self, x: Any) -> Any:
        return self.jax.block_until_ready(x)

    def solution(self, problem: Problem, **keywords: Any) -> Callable[..., Any]:
        return self.jax.jit(super().solution(problem, **keywords))

    def derivative(self, problem: Problem, **keywords: Any) -> Callable[..., Any]:
        return self.gradient_of(self.solution(problem, **keywords), len(problem.leaves))

    def mapped(self, solution: Callable[..., Any], problem: Problem) -> Callable[..., Any]:
        """A solution under ``vmap`` over the last axis of y0."""
        axes = (-1, *(None for _ in problem.leaves[1:]))
        return self.jax.jit(self.jax.vmap(solution, in_axes=axes, out_axes=-1))

    def gradient_of(self, solution: Callable[..., Any], inputs: int) -> Callable[..., Any]:
        """The compiled gradient of the sum of any solution by its inputs."""
        loss = lambda *leaves: solution(*leaves).sum()  # noqa: E731
        return self.jax.jit(self.jax.grad(loss, argnums=tuple(range(inputs))))


_CLASSES: dict[str, type[Library]] = {c.name: c for c in (NumPy, Jax, Torch, CuPy)}


def library(name: str) -> Library:
    """A library by name.

    Raises
    ------
    NotImplementedError
        If it, its adapter or its device is absent: asv shows n/a then.
    """
    try:
        return _CLASSES[name]()
    except ImportError as absent:
        raise NotImplementedError(f"{name}: {absent}") from None


def checked_forward(name: str, problem: Problem, **keywords: Any) -> Run:
    """A forward run, warm and accurate.

    Raises
    ------
    ArithmeticError
        If the solution misses the problem's target.
    """
    lib = library(name)
    run = lib.forward(problem, **keywords)
    refuse(problem, "the solution", problem.error(lib.to_numpy(run())))
    return run


def checked_gradient(name: str, problem: Problem, **keywords: Any) -> Run:
    """A gradient run, warm and accurate; raises as :func:`checked_forward` does."""
    lib = library(name)
    run = lib.gradient(problem, **keywords)
    found = [lib.to_numpy(x) for x in run()]
    refuse(problem, "the gradient", problem.gradient_error(found))
    return run


def refuse(problem: Problem, what: str, error: float) -> None:
    """Raise if an error misses the problem's target: what is wrong has no time."""
    if not error <= problem.target:
        raise ArithmeticError(
            f"{what} of {problem.name} has a relative error of {error:.1e}, above its target of "
            f"{problem.target:.0e}: not timed."
        )
