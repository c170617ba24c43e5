"""PyTorch: an eager library with autograd; a solve is one node of the user's graph.

Integrations run under ``no_grad`` (not ``inference_mode``: it breaks fields that call autograd
themselves) on flat states; what is recorded is one stage or step at a time, by another call of f,
which must be deterministic. Gradients flow to all inputs and to the tensors that f closes over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from array_api_compat import torch as namespace
from torch import Tensor

from retrograde._adjoints.direct import DirectAdjoint
from retrograde._adjoints.retaken import TooManySteps
from retrograde._autodiff import VectorField
from retrograde._backend.clock import HostClock
from retrograde._backend.linear import Linear, linear_algebra
from retrograde._backend.specialise import Steps, generic
from retrograde._backend.structure import Structure
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.log import INFO, listener
from retrograde._base.types import (
    Array,
    Aux,
    Bind,
    Bool,
    Device,
    DType,
    Function,
    Inputs,
    Leaves,
    Namespace,
    NeedsGradient,
    Residuals,
    Scalar,
    State,
    Table,
    Tree,
    TreeDef,
)
from retrograde._solvers.rosenbrock.solver import Rosenbrock
from retrograde._solvers.runge_kutta.solver import ExplicitRungeKutta
from retrograde.backend import Capability, MemoryInfo

from ..flat.adapter import FlatBackend
from ..flat.stages import FlatLayout
from .captured import captured_tensors, changed, guarded, watch
from .compiled.solver import compiled_steps
from .distributed import gathered_modules, refuse_replays, spread, whole
from .field_vjp import RecordedStepVJP, TorchPullback, pull_bytes, tape_bytes
from .flat import SHARED, TorchLayout, near, product, shared, stages, timer
from .forward_mode import (
    ForwardHooks,
    decided_by_batch,
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
from .host_rosenbrock import host_steps
from .linear import TorchBand, TorchLinear, TorchLinearisation, check_by_time
from .memory import on_host, shares, uploaded
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
from .random_draws import begin, held, hold, undrawn
from .recorded_stages import DirectHooks, TorchDirectLayout
from .user_loops import IterationHooks

if TYPE_CHECKING:
    from retrograde._api.solve_program import DifferentiableSolve
    from retrograde._backend.protocols import Clock, FieldVJP, Layout, Program, Pull, Runnable
    from retrograde._backend.specialise import StepRequest
    from retrograde._integrate.integrator import Integrator
    from retrograde._integrate.problem import Problem
    from retrograde._loops.loop import LeafLayout
    from retrograde._solvers.base import AbstractSolver

HOSTED = 1 << 17
"""Batches of so many numbers are solved in NumPy's arithmetic: PyTorch shares larger ones out over
threads."""

PLAIN = (Tensor, torch.nn.Parameter)

WHOLE = 1 << 14
"""Steps of states of fewer numbers are recorded whole, where no one is replayed."""


class TorchClock(HostClock):
    """Times may come as tensors with a history."""

    def real(self, x: Scalar) -> float:
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

    def floating(self, x: Array) -> str:
        return "real" if x.dtype.is_floating_point else "complex" if x.dtype.is_complex else ""

    def real_dtype(self, x: Array) -> DType:
        return x.dtype.to_real()

    def itemsize(self, dtype: DType) -> int:
        return int(dtype.itemsize)

    def nbytes(self, x: Array) -> int:
        return int(x.numel()) * int(x.dtype.itemsize)

    def concrete(self, x: Array) -> float | None:
        return float(self.number(x))

    def tracked(self, x: Array) -> bool:
        return bool(moving(x))

    def number(self, x: Array) -> Scalar:
        return item(x.detach()) if isinstance(x, torch.Tensor) else x

    def on_host(self, x: Array) -> Array:
        x = x.detach().cpu()
        x = x.float() if x.dtype is torch.bfloat16 else x  # which NumPy has not
        return x.resolve_conj().resolve_neg().numpy()

    def scalar(self, x: Array) -> Scalar:
        return item(x)

    def both(self, a: Array, b: Array) -> Bool:
        pair = (whole(unwrapped(x)).all() if isinstance(x, torch.Tensor) else x for x in (a, b))
        return all(map(bool, pair))

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        if isinstance(t, torch.Tensor):
            return t.to(layout.device, layout.real_dtype)
        return torch.scalar_tensor(t, dtype=layout.real_dtype, device=layout.device)

    def array(self, values: Sequence[Scalar] | Scalar, dtype: DType, device: Device) -> Array:
        return torch.as_tensor(values, dtype=dtype, device=device)

    def real_array(self, x: Array, layout: Layout) -> Array:
        return torch.as_tensor(x, dtype=layout.real_dtype, device=layout.device).detach()

    def concrete_times(self, ts: Table) -> list[float] | None:
        if isinstance(ts, torch.Tensor):
            return [float(t) for t in unwrapped(ts.detach()).tolist()]
        return [float(self.number(t)) for t in ts]

    def time_sequence(self, ts: Table, layout: Layout) -> Table:
        tensors = [ts] if isinstance(ts, torch.Tensor) else ts
        if not any(isinstance(t, torch.Tensor) and moving(t) for t in tensors):
            return self.concrete_times(ts)
        if not isinstance(ts, torch.Tensor):
            ts = torch.stack([torch.as_tensor(t, device=layout.device) for t in ts])
        return TrackedTimes(ts)

    def times_array(self, ts: Table, layout: Layout) -> Array:
        if isinstance(ts, TrackedTimes):
            return ts.tensor.to(layout.device, layout.real_dtype)
        return super().times_array(ts, layout)

    def stop_gradient(self, x: Array) -> State:
        return constant(x)

    def held(self, x: Array) -> Scalar:
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
        if isinstance(solver, Rosenbrock) and found is not None:
            return host_steps(found, solver.tableau)
        whole = request.stored and not (request.one_tape or request.outputs or request.time)
        if not (whole and isinstance(solver, ExplicitRungeKutta)):
            return found
        if problem.layout.size >= WHOLE or getattr(problem.f, "vjp", None) is not None:
            return found
        stepper = solver.stepper if found is None else found.stepper
        return Steps(stepper, partial(RecordedStepVJP, solver.tableau))

    def linear(self, layout: Layout, structure: Structure = None) -> Linear:
        return linear_algebra(layout, structure, dense=TorchLinear, band=TorchBand)

    linearise = staticmethod(TorchLinearisation)
    check_by_time = staticmethod(check_by_time)

    def clock(self, layout: Layout) -> Clock:
        return TorchClock()

    def apart(self, fn: Function) -> Function:
        return uncompiled(fn)

    def quiet(self) -> contextlib.AbstractContextManager[object]:
        return unrecorded()

    # --- what the flat form is made of
    def zeros(self, shape: int | tuple[int, ...], dtype: DType, device: Device) -> Tree:
        return torch.zeros(shape, dtype=dtype, device=device)

    def concat(self, arrays: Sequence[Array]) -> Tree:
        return torch.cat(list(arrays))

    def stack(self, arrays: Sequence[Array]) -> Array:
        return torch.stack(list(arrays))

    def coefficients(
        self,
        values: float | Sequence[float] | Sequence[Sequence[float]] | Array,
        dtype: DType,
        device: Device,
    ) -> Tree:
        if isinstance(values, torch.Tensor):
            return values.to(device, dtype)
        return uploaded(values, dtype, device)

    product = staticmethod(product)

    def dot(self, row: Array, rows: Array) -> Tree:
        return torch.mv(rows.T, row)

    def timer(self, layout: Layout) -> Tree:
        return timer(layout.real_dtype, layout.device, layout.origin)

    def scale_into(self, table: Array, h: float, out: Tree) -> None:
        torch.mul(table, h, out=out)

    def sample_product(self, row: Array, rows: Array) -> Callable[[], Array]:
        if shares(rows.device) and rows.dtype in SHARED:
            dot = partial(shared(row).dot, shared(rows))
            return lambda: torch.from_numpy(dot())
        return partial(torch.mv, rows.T, row)

    def times_into(self, x: Array, w: Array, out: Tree) -> None:
        torch.mul(x, w, out=out)

    def sample_rows(self, columns: Array) -> Tree:
        return columns.T.contiguous()  # f may ask for a view of it

    def sample_columns(self, parts: Sequence[Array]) -> Tree:
        columns = [x.T for x in parts]
        return columns[0].contiguous() if len(columns) == 1 else torch.cat(columns)

    def sample_host(self, like: Array) -> str:
        own = type(like) in PLAIN and like.dtype in SHARED and shares(like.device)
        # what is recorded, or has a tangent, is PyTorch's alone
        follows = recording() or moving_forward()
        return "numpy" if own and not follows and like.numel() <= HOSTED else ""

    def host(self, layout: Layout) -> Namespace | None:
        if not isinstance(layout, TorchLayout) or layout.spread:
            return None
        return np if near(layout.device, layout.dtype, layout.size) else None

    def hosts_now(self) -> bool:
        return not (torch.is_grad_enabled() or moving_forward())

    def to_host(self, x: Array) -> Array:
        return shared(x)

    def from_host(self, x: Array) -> Tree:
        # f may ask for a view of it, and PyTorch has no tensors that are read-only
        own = x.flags.c_contiguous and x.flags.writeable
        return torch.from_numpy(x if own else np.array(x, order="C"))

    def add_scaled(self, a: Array, w: Scalar, x: Array) -> Array:
        return a + w * x if isinstance(w, torch.Tensor) else torch.add(a, x, alpha=w)

    # --- derivatives
    def capture(self, problem: Problem, t0: Scalar) -> None:
        problem.y0 = self.map_state(normal, problem.y0)
        problem.params = tuple(map(normal, problem.params))
        problem.wrap(lambda f: placed(f, problem.layout.dtype))
        before = [x.detach() for x in problem.layout.unpack(problem.y0)]
        copies = [x.clone() for x in before]
        args = problem.arguments(constant(problem.params))
        time, y, f = problem.layout.time(t0), problem.tree(copies), problem.f
        compare = watch(problem.params, "`f` changed its argument `args`")
        problem.gathered = []

        def run() -> list[Array]:
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
        compare()

    def example(self, problem: Problem, fn: Function, t0: Scalar) -> tuple[list[Array], TreeDef]:
        count = len(problem.where)
        args = problem.arguments(constant(problem.params))
        y = problem.tree([x.detach() for x in problem.layout.unpack(problem.y0)])
        time, call = problem.layout.time(t0), placed(fn, problem.layout.dtype)
        results: list[Array] = []

        def run() -> list[Array]:
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
            problem.output_calls[id(fn)] = call
        if moved:
            hold(problem, fn)
        return results[0], results[1]

    guard = staticmethod(guarded)
    watch = staticmethod(watch)

    def lent(self, leaves: Sequence[Tree]) -> Sequence[Tree]:
        return leaves

    def accumulate(self, total: Array, x: Array) -> Array:
        return total.add_(x)

    def poison_gradient(self, ok: Bool, x: Array) -> Array:
        if not ok and x.requires_grad:
            x.register_hook(lambda g: None if g is None else g * float("nan"))
        return x if ok else nan_tangent(x)

    def zeros_like(self, x: Array) -> Array:
        return torch.zeros_like(x, requires_grad=False)

    def pullback(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> FieldVJP:
        return TorchPullback(layout, bind, params, wanted)

    def needs_gradient(self, inputs: Inputs) -> bool:
        tensors = tensors_of(inputs)
        if recording() and any(x.requires_grad for x in tensors):
            return True
        return transformed() or any(map(dual, tensors))  # not `moving`: under no_grad none does

    def likely(self, loop: Integrator, inputs: Inputs) -> tuple[bool, ...]:
        can = loop.problem.differentiable
        if not self.needs_gradient(inputs):  # a plan made beforehand
            return tuple(can)
        return tuple(c and x.requires_grad for c, x in zip(can, inputs.params, strict=True))

    def differentiate(self, program: DifferentiableSolve, inputs: Inputs) -> tuple[Leaves, Aux]:
        compare = watch(inputs.params[: program.given], "`f` changed its argument `args`")
        result: tuple[Leaves, Aux] = held(program, lambda: self._differentiated(program, inputs))
        compare()
        return result

    def _differentiated(self, program: Program, inputs: Inputs) -> Tree:
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
                with outside(recorded=True), decided_by_batch():
                    leaves, aux = program.primal(inputs)
                if program.failed(aux) and not moving_forward():
                    leaves = without_gradient(leaves, tensors_of(inputs))
                return leaves, aux
            except TooManySteps:
                _given_up(cast("Integrator", loop), cast(DirectAdjoint, adjoint).limit or 0)
                adjoint = program.adjoint = program.fallback
                if log := listener(INFO):
                    log.info("Recording a solve found no room; it begins again: %s.", adjoint)
        refuse_replays(loop, adjoint)
        with outside():
            return solve_with_gradient(program, inputs)

    def detach(self, problem: Problem, inputs: Inputs) -> Inputs:
        refuse_captured(problem)
        if spread(inputs.y0):
            raise UnsupportedByBackend(
                "`y0` is a DTensor, for which solve_vjp has no form; use solve and loss.backward()."
            )
        found: Inputs = constant(inputs)
        return found

    # what a core that knows no modes runs
    def run_forward(self, program: Runnable, inputs: Inputs) -> Aux:
        with outside(vjp=True):
            return held(cast("Program", program), lambda: program.forward(inputs))

    def run_reverse(
        self,
        program: Program,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        with outside(vjp=True):
            return program.reverse(inputs, residuals, cotangents, wanted)

    def autodiff_vjp(
        self, program: DifferentiableSolve, inputs: Inputs
    ) -> tuple[Leaves, Aux, Callable[[Leaves], Inputs]]:
        with outside(recorded=True, vjp=True):
            return autodiff_vjp(program, inputs)

    def tape_bytes(
        self, vjp: FieldVJP, t: Array, y: State
    ) -> tuple[int, int, Sequence[Array] | None]:
        with outside(vjp=True):
            return tape_bytes(cast(TorchPullback, vjp), normal(t), y)

    def pull_bytes(self, vjp: FieldVJP, k: Sequence[Array], pull: Pull) -> int | None:
        return pull_bytes(cast(TorchPullback, vjp), k, pull)

    def devices(self) -> list[str]:
        return ["cpu", *map("cuda:{}".format, range(torch.cuda.device_count()))]

    def synchronize(self, x: Array) -> None:
        tensors = [t for t in self.flatten(x)[0] if isinstance(t, torch.Tensor)]
        for device in {t.device for t in tensors if t.device.type == "cuda"}:
            torch.cuda.synchronize(device)

    def memory(self, like: Array | None = None) -> MemoryInfo:
        if like is None or like.device.type != "cuda":
            return super().memory(like)
        free, total = torch.cuda.mem_get_info(like.device)
        kept = torch.cuda.memory_reserved(like.device) - torch.cuda.memory_allocated(like.device)
        return MemoryInfo(free + kept, total, f"memory of {like.device}")


def _given_up(loop: Integrator, tries: int) -> None:
    """Note f's calls of an integration that found no room for its record; what it drew comes
    again."""
    if hasattr(loop, "problem"):
        begin(loop.problem)
        loop.problem.trials += int(loop.evaluations(tries, 0))


backend = TorchBackend()
