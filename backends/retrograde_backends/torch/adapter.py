"""PyTorch: an eager library with autograd; a solve is one node of the user's graph.

Integrations run under ``no_grad`` (not ``inference_mode``: it breaks fields that call autograd
themselves) on flat states; what is recorded is one stage or step at a time, by another call of f,
which must be deterministic. Gradients flow to all inputs and to the tensors that f closes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from array_api_compat import torch as namespace
from torch import Tensor

from retrograde._adjoints import DirectAdjoint, TooManySteps
from retrograde._autodiff import VectorField
from retrograde._backend.clock import HostClock
from retrograde._backend.specialise import Steps, generic
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import Inputs, NeedsGradient
from retrograde._solvers.runge_kutta.solver import ExplicitRungeKutta
from retrograde.backend import Capability, MemoryInfo

from ..flat.adapter import FlatBackend
from ..flat.stages import FlatLayout
from .captured import captured_tensors
from .compiled.solver import compiled_steps
from .device import on_host, uploaded
from .distributed import gathered_modules, refuse_replays, spread, whole
from .field_vjp import RecordedStepVJP, TorchPullback, pull_bytes, tape_bytes
from .flat import TorchLayout, product, stages, timer
from .forward_mode import (
    ForwardHooks,
    dual,
    item,
    moving,
    moving_forward,
    nan_tangent,
    refuse_duals,
    transformed,
    unwrapped,
)
from .function import (
    TrackedTimes,
    autodiff_vjp,
    constant,
    refuse_captured,
    solve_with_gradient,
    tensors_of,
    without_gradient,
)
from .modes import (
    normal,
    outside,
    placed,
    recording,
    uncompiled,
    unplaced,
    unrecorded,
    written,
)
from .overwritten import changed, guarded, watch
from .random_draws import begin, held, hold, undrawn
from .recorded_stages import DirectHooks, TorchDirectLayout
from .user_loops import IterationHooks

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout
    from retrograde._backend.specialise import StepRequest
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver

__all__ = ["TorchBackend", "backend"]

WHOLE = 1 << 14
"""Steps of states of fewer numbers are recorded whole, where no one is replayed."""


class TorchClock(HostClock):
    """Times may come as tensors with a history."""

    def real(self, x: Any) -> float:
        return float(x.detach() if isinstance(x, torch.Tensor) else x)


class TorchBackend(DirectHooks, IterationHooks, ForwardHooks, FlatBackend):
    """The adapter of PyTorch."""

    name: ClassVar[str] = "torch"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.AUTODIFF,
            Capability.NATIVE_GRADIENT,
            Capability.HIGHER_ORDER,
            Capability.DIRECT,
        }
    )
    counts_changes: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(namespace)

    # --- arrays and trees
    def is_array(self, x: object) -> bool:
        return isinstance(x, torch.Tensor)

    def floating(self, x: Any) -> str:
        return "real" if x.dtype.is_floating_point else "complex" if x.dtype.is_complex else ""

    def real_dtype(self, x: Any) -> Any:
        return x.dtype.to_real()

    def itemsize(self, dtype: Any) -> int:
        return int(dtype.itemsize)

    def nbytes(self, x: Any) -> int:
        return int(x.numel()) * int(x.dtype.itemsize)

    def concrete(self, x: Any) -> float | None:
        return float(self.number(x))

    def tracked(self, x: Any) -> bool:
        return bool(moving(x))

    def number(self, x: Any) -> Any:
        return item(x.detach()) if isinstance(x, torch.Tensor) else x

    def scalar(self, x: Any) -> Any:
        return item(x)

    def both(self, a: Any, b: Any) -> Any:
        pair = (whole(unwrapped(x)).all() if isinstance(x, torch.Tensor) else x for x in (a, b))
        return all(map(bool, pair))

    def scalar_array(self, t: Any, layout: Any) -> Any:
        if isinstance(t, torch.Tensor):
            return t.to(layout.device, layout.real_dtype)
        return torch.scalar_tensor(t, dtype=layout.real_dtype, device=layout.device)

    def array(self, values: Any, dtype: Any, device: Any) -> Any:
        return torch.as_tensor(values, dtype=dtype, device=device)

    def real_array(self, x: Any, layout: Any) -> Any:
        return torch.as_tensor(x, dtype=layout.real_dtype, device=layout.device).detach()

    def concrete_times(self, ts: Any) -> list[float] | None:
        if isinstance(ts, torch.Tensor):
            return [float(t) for t in unwrapped(ts.detach()).tolist()]
        return [float(self.number(t)) for t in ts]

    def time_sequence(self, ts: Any, layout: Any) -> Any:
        tensors = [ts] if isinstance(ts, torch.Tensor) else ts
        if not any(isinstance(t, torch.Tensor) and moving(t) for t in tensors):
            return self.concrete_times(ts)
        if not isinstance(ts, torch.Tensor):
            ts = torch.stack([torch.as_tensor(t, device=layout.device) for t in ts])
        return TrackedTimes(ts)

    def stop_gradient(self, x: Any) -> Any:
        return constant(x)

    def held(self, x: Any) -> Any:
        return item(x) if on_host(x.device) else x

    # --- stages and clock
    def layout(self, leaves: Sequence[Tensor]) -> Layout:
        if generic():
            return TorchDirectLayout(self, leaves, spread=spread(leaves[0]))
        return self.flat_layout(leaves)

    def flat_layout(self, leaves: Sequence[Tensor]) -> FlatLayout:
        return TorchLayout(self, leaves)

    flat_stages = staticmethod(stages)  # type: ignore[assignment]

    def specialise(
        self, solver: AbstractSolver, problem: Problem, request: StepRequest
    ) -> Steps | None:
        if request.compile:
            return compiled_steps(problem, solver, dense=request.dense)
        found = super().specialise(solver, problem, request)
        whole = request.stored and not (request.one_tape or request.outputs or request.time)
        if not (whole and isinstance(solver, ExplicitRungeKutta)):
            return found
        if problem.layout.size >= WHOLE or getattr(problem.f, "vjp", None) is not None:
            return found
        stepper = solver.stepper if found is None else found.stepper
        return Steps(stepper, partial(RecordedStepVJP, solver.tableau))

    def clock(self, layout: Any) -> Any:
        return TorchClock()

    def apart(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return uncompiled(fn)  # type: ignore[no-any-return]

    def quiet(self) -> Any:
        return unrecorded()

    # --- what the flat form is made of
    def matrix(self, rows: int, columns: int, dtype: Any, device: Any) -> Any:
        return torch.zeros((rows, columns), dtype=dtype, device=device)

    def zeros(self, shape: Any, dtype: Any, device: Any) -> Any:
        return torch.zeros(shape, dtype=dtype, device=device)

    def concat(self, arrays: Sequence[Any]) -> Any:
        return torch.cat(list(arrays))

    def stack(self, arrays: Sequence[Any]) -> Any:
        return torch.stack(list(arrays))

    def coefficients(self, values: Any, dtype: Any, device: Any) -> Any:
        if isinstance(values, torch.Tensor):
            return values.to(device, dtype)
        return uploaded(values, dtype, device)

    product = staticmethod(product)

    def dot(self, row: Any, rows: Any) -> Any:
        return torch.mv(rows.T, row)

    def timer(self, layout: Any) -> Any:
        return timer(layout.real_dtype, layout.device, layout.origin)

    def scale_into(self, table: Any, h: float, out: Any) -> None:
        torch.mul(table, h, out=out)

    def add_scaled(self, a: Any, w: Any, x: Any) -> Any:
        return a + w * x if isinstance(w, torch.Tensor) else torch.add(a, x, alpha=w)

    def flat_inner(self, x: Any, y: Any) -> Any:
        x, y = (v if isinstance(v, torch.Tensor) else _flat(v) for v in (x, y))
        return torch.vdot(x, y).real

    # --- derivatives
    def capture(self, problem: Any, t0: Any) -> None:
        problem.y0, problem.params = normal(problem.y0), tuple(map(normal, problem.params))
        problem.wrap(lambda f: placed(f, problem.layout.dtype))
        before = [x.detach() for x in problem.layout.unpack(problem.y0)]
        copies = [x.clone() for x in before]
        args = problem.arguments(constant(problem.params))
        time, y, f = problem.layout.time(t0), problem.tree(copies), problem.f
        table_get = watch(problem.params, "`f` changed its argument `args`")
        problem.gathered = []

        def run() -> list[Any]:
            result = f(time, y, args)
            leaves = self.flatten(problem.check_result(result))[0]
            refuse_duals(leaves)
            return leaves

        with outside(), gathered_modules(problem.gathered), undrawn(problem.layout) as moved:
            if transformed() or not recording():  # torch.func follows what f closes over
                run()
                found = []
            else:
                found = captured_tensors(unplaced(f), run)
        if moved:
            hold(problem)
        if found and isinstance(f, VectorField) and f.vjp is not None:
            raise InputError(
                "`f` closes over tensors that require a gradient, which its own `vjp` does "
                "not give; pass them through `args`."
            )
        problem.add_captured(found, (True,) * len(found))
        if any(map(written, copies, before)):
            raise changed()
        table_get()

    def example(self, problem: Any, fn: Callable[..., Any], t0: Any) -> tuple[list[Any], Any]:
        count = len(problem.where)
        args = problem.arguments(constant(problem.params))
        y = problem.tree([x.detach() for x in problem.layout.unpack(problem.y0)])
        time, call = problem.layout.time(t0), placed(fn, problem.layout.dtype)
        results: list[Any] = []

        def run() -> list[Any]:
            results[:] = self.flatten(call(time, y, args))
            refuse_duals([x for x in results[0] if self.is_array(x)])
            return [x for x in results[0] if self.is_array(x)]

        found = []
        with outside(), gathered_modules(problem.gathered), undrawn(problem.layout) as moved:
            if transformed() or not recording():
                run()
            else:
                known = {id(x) for x in problem.params[count:]}
                found = [x for x in captured_tensors(fn, run) if id(x) not in known]
        problem.add_captured(found, (True,) * len(found))
        if call is not fn:
            problem.output_call = call
        if moved:
            hold(problem, fn)
        return results[0], results[1]

    guard = staticmethod(guarded)
    watch = staticmethod(watch)

    def lent(self, leaves: Sequence[Any]) -> Sequence[Any]:
        return leaves

    def accumulate(self, total: Any, x: Any) -> Any:
        return total.add_(x)

    def poison_gradient(self, ok: Any, x: Any) -> Any:
        if not ok and x.requires_grad:
            x.register_hook(lambda g: None if g is None else g * float("nan"))
        return x if ok else nan_tangent(x)

    def zeros_like(self, x: Any) -> Any:
        return torch.zeros_like(x, requires_grad=False)

    def pullback(self, layout: Any, bind: Any, params: Any, wanted: NeedsGradient) -> Any:
        return TorchPullback(layout, bind, params, wanted)

    def needs_gradient(self, inputs: Any) -> bool:
        tensors = tensors_of(inputs)
        if recording() and any(x.requires_grad for x in tensors):
            return True
        return transformed() or any(map(dual, tensors))  # not `moving`: under no_grad none does

    def likely(self, loop: Any, inputs: Any) -> tuple[bool, ...]:
        can = loop.problem.differentiable
        if not self.needs_gradient(inputs):  # a plan made beforehand
            return tuple(can)
        return tuple(c and x.requires_grad for c, x in zip(can, inputs.params, strict=True))

    def differentiate(self, program: Any, inputs: Any) -> Any:
        table_get = watch(inputs.params[: program.given], "`f` changed its argument `args`")
        result = held(program, lambda: self._differentiated(program, inputs))
        table_get()
        return result

    def _differentiated(self, program: Any, inputs: Any) -> Any:
        loop, adjoint = program.loop, program.adjoint
        if not self.needs_gradient(inputs):
            inputs = constant(inputs)
            if spread(inputs.y0):  # in sums of leaves, as integrations are recorded
                program.adjoint = DirectAdjoint()
                inputs = inputs._replace(t0=self.number(inputs.t0), t1=self.number(inputs.t1))
            with self.quiet():
                return program.primal(inputs)
        inputs = inputs._replace(t0=normal(inputs.t0), t1=normal(inputs.t1))
        if adjoint.differentiable or self.must_follow(adjoint, inputs):
            try:
                with outside(recorded=True):
                    leaves, aux = program.primal(inputs)
                if program.failed(aux) and not moving_forward():
                    leaves = without_gradient(leaves, tensors_of(inputs))
                return leaves, aux
            except TooManySteps:
                _given_up(loop, adjoint.limit)
                adjoint = program.adjoint = program.fallback
        refuse_replays(loop, adjoint)
        with outside():
            return solve_with_gradient(program, inputs)

    def detach(self, problem: Any, inputs: Any) -> Any:
        refuse_captured(problem)
        if spread(inputs.y0):
            raise UnsupportedByBackend(
                "`y0` is a DTensor, for which solve_vjp has no form; use solve and loss.backward()."
            )
        return constant(inputs)

    # what a core that knows no modes runs
    def run_forward(self, program: Any, inputs: Any) -> Any:
        with outside(vjp=True):
            return held(program, lambda: program.forward(inputs))

    def run_reverse(
        self, program: Any, inputs: Any, residuals: Any, cotangents: Any, wanted: NeedsGradient
    ) -> Any:
        with outside(vjp=True):
            return program.reverse(inputs, residuals, cotangents, wanted)

    def autodiff_vjp(self, program: Any, inputs: Any) -> tuple[Any, Any, Callable[..., Inputs]]:
        with outside(recorded=True, vjp=True):
            return autodiff_vjp(program, inputs)

    def tape_bytes(self, vjp: Any, t: Any, y: Any) -> tuple[int, int, Any]:
        with outside(vjp=True):
            return tape_bytes(vjp, normal(t), y)

    def pull_bytes(self, vjp: Any, k: Any, pull: Any) -> int | None:
        return pull_bytes(vjp, k, pull)

    def devices(self) -> list[str]:
        return ["cpu", *map("cuda:{}".format, range(torch.cuda.device_count()))]

    def synchronize(self, x: Any) -> None:
        tensors = [t for t in self.flatten(x)[0] if isinstance(t, torch.Tensor)]
        for device in {t.device for t in tensors if t.device.type == "cuda"}:
            torch.cuda.synchronize(device)

    def memory(self, like: Any = None) -> MemoryInfo:
        if like is None or like.device.type != "cuda":
            return super().memory(like)
        free, total = torch.cuda.mem_get_info(like.device)
        kept = torch.cuda.memory_reserved(like.device) - torch.cuda.memory_allocated(like.device)
        return MemoryInfo(free + kept, total, f"memory of {like.device}")


def _given_up(loop: Any, tries: int) -> None:
    """Note f's calls of an integration that found no room for its record; what it drew comes
    again."""
    if hasattr(loop, "problem"):
        begin(loop.problem)
        loop.problem.trials += int(loop.evaluations(tries, 0))


def _flat(leaves: Sequence[Any]) -> Any:
    return torch.cat([x.reshape(-1) for x in leaves])


backend = TorchBackend()
