"""PyTorch: functions of tensors through ``torch.compile``, and calls of them that cost little.

Dynamo's guards make sure that the program it found still belongs to the Python it was found in
(which f, what f closes over, which settings). Evaluating them takes as long as a step of a small
system. So a pass evaluates them once, at its first step: that call notes which inputs of the
program are the step's own, and the later steps run the same program on new ones. Nothing that
the guards look at can change between two steps of one pass but by f itself, and what f changes
in Python is not part of a compiled program anyway.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import Array, Function, Leaves, Tree

from ..types import Graph

BACKEND = "inductor"
"""Compiler of ``torch.compile`` by its name; tests that only count take a cheaper one."""

MOST = 128
"""Kernels kept; the one not used for the longest time goes first."""

SETTINGS = {
    "trace_autograd_ops": True,  # a program may hold the gradient of its own step
    "specialize_float": True,  # coefficients are constants; found out later, it traces twice
}
"""Of torch._dynamo, while a kernel is looked up or made."""

_noted = threading.local()
"""What a kernel ran last: the way from inside a compiled function to its caller."""

_kernels: OrderedDict[Hashable, Kernel] = OrderedDict()


def kernel(key: Hashable, make: Callable[[], Function]) -> Kernel:
    """The kernel of a key, made where there is none yet."""
    key = (BACKEND, key)
    found = _kernels.pop(key, None) or Kernel(make())
    _kernels[key] = found
    while len(_kernels) > MOST:
        _kernels.popitem(last=False)
    return found


class Kernel:
    """One compiled function ``fn(fixed, *moving) -> tuple of tensor (or None)``.

    Attributes
    ----------
    compilations : int
        Programs that were made for it: one, and one more whenever the guards failed.
    """

    def __init__(self, fn: Function) -> None:
        # dynamo keeps and bounds programs by code object: kernels must not share one
        own = types.FunctionType(
            fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
        )
        self.compilations = 0
        self.fn = torch.compile(own, backend=self._compile, fullgraph=True, dynamic=False)

    def _compile(self, graph: Graph, example: Sequence[Array]) -> Function:
        program = _program(graph, example)
        self.compilations += 1

        def call(*flat: Any) -> Tree:
            out = program(*flat)
            _noted.run = program, flat, out
            return out

        return call

    def guarded(self, fixed: Tree, moving: Sequence[Array]) -> tuple[Leaves, Leaves]:
        """(results, what ran: the program, its inputs and its outputs)."""
        _noted.run = None
        try:
            results = self._call(fixed, moving)
        except _failures() as error:
            raise UnsupportedByBackend(_why(error)) from error
        run, _noted.run = _noted.run, None
        return results, run

    def _call(self, fixed: Tree, moving: Sequence[Array]) -> Tree:
        if self.compilations:  # settings and filters matter to a new program only, and take time
            with contextlib.suppress(*_failures()):
                return self.fn(fixed, *moving)
        with warnings.catch_warnings(), torch._dynamo.config.patch(SETTINGS):
            warnings.simplefilter("ignore")  # those of the compiler about itself
            return self.fn(fixed, *moving)


class Run:
    """Calls of one kernel within one pass, where all but the ``moving`` inputs stay.

    Parameters
    ----------
    kernel : Kernel
    fixed : tree
        What stays: functions, parameters, tolerances.
    check : callable or None
        Given the inputs of the program when they are known.
    """

    def __init__(
        self, kernel: Kernel, fixed: Tree, check: Callable[[Sequence[Array]], None] | None = None
    ) -> None:
        self.kernel, self.fixed, self.check = kernel, fixed, check
        self.program: Function | None = None
        self.flat: list[Array] = []
        self.places: list[tuple[int, int]] = []
        self.order: list[int] | None = None

    def __call__(self, *moving: Any) -> Sequence[Array]:
        """The kernel's results."""
        program, flat = self.program, self.flat
        if program is None:
            return self._first(moving)
        for place, i in self.places:
            flat[place] = moving[i]
        out: Sequence[Array] = program(*flat)
        return out if self.order is None else [_at(out, flat, i) for i in self.order]

    def _first(self, moving: Sequence[Array]) -> Sequence[Array]:
        # two inputs that are one tensor would be one input of the program
        moving = [x.clone() if x is not None and not x.requires_grad else x for x in moving]
        results, seen = self.kernel.guarded(self.fixed, moving)
        if seen is None:
            return results
        program, flat, out = seen
        if self.check is not None:
            self.check(flat)
        index = {id(x): i for i, x in enumerate(moving) if x is not None}
        where = {id(x): -2 - i for i, x in enumerate(flat)}
        where |= {id(x): i for i, x in enumerate(out)}
        order = [-1 if x is None else where.get(id(x)) for x in results]
        if len(index) == len([x for x in moving if x is not None]) and None not in order:
            self.program, self.flat = program, list(flat)
            self.places = [(i, index[id(x)]) for i, x in enumerate(flat) if id(x) in index]
            straight = len(out) == len(order) and order == list(range(len(order)))
            self.order = None if straight else order  # type: ignore[assignment]
        return results


def _at(out: Sequence[Array], flat: Sequence[Array], i: int) -> Tree:
    """A result: an output of the program, one of its inputs, or None."""
    return out[i] if i >= 0 else None if i == -1 else flat[-2 - i]


def _program(graph: Graph, example: Sequence[Array]) -> Function:
    compile_graph: Any = torch._dynamo.lookup_backend(BACKEND)
    on_gpu = any(isinstance(x, torch.Tensor) and x.is_cuda for x in example)
    # a recorded integration keeps what it saved for backward in the memory that the next step
    # reuses
    if BACKEND != "inductor" or not on_gpu or torch.is_grad_enabled():
        program: Function = compile_graph(graph, example)
        return program
    # mode="reduce-overhead", by the option behind it; not tried on a GPU yet
    graphed = compile_graph(graph, example, config_patches={"triton.cudagraphs": True})

    def replay(*flat: Any) -> list[Array]:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # states outlive the replay, whose results the next one overwrites
        return [x.clone() if isinstance(x, torch.Tensor) else x for x in graphed(*flat)]

    return replay


@functools.cache
def _failures() -> tuple[type[BaseException], ...]:
    """What torch.compile raises where it can't; the modules are loaded when first needed."""
    dynamo, inductor = torch._dynamo.exc, importlib.import_module("torch._inductor.exc")
    return (
        dynamo.TorchDynamoException,
        dynamo.FailOnRecompileLimitHit,
        inductor.InductorError,
        *_no_compiler(),
    )


def _no_compiler() -> tuple[type[BaseException], ...]:
    inductor = importlib.import_module("torch._inductor.exc")
    return inductor.InvalidCxxCompiler, inductor.CppCompileError


def _why(error: BaseException) -> str:
    """What failed, and what to do."""
    if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
        return (
            "`compile` is True, but the step was compiled anew again and again: `f` reads a Python "
            "number or object that differs from solve to solve. Pass it through `args` as a "
            "tensor, or leave `compile` out."
        )
    inner = getattr(error, "inner_exception", error)
    said = f"{type(inner).__name__}: {(str(inner).strip().splitlines() or [''])[0]}"
    if isinstance(inner, _no_compiler()):
        return (
            f"`compile` is True, but no C++ compiler works here ({said}); install one (g++), or "
            "leave `compile` out."
        )
    return (
        f"`compile` is True, but torch.compile can't make one program of `f` ({said}). Write `f` "
        "in operations of tensors alone, or leave `compile` out."
    )
