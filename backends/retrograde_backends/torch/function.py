"""A whole solve as one ``torch.autograd.Function``, and saved times that carry gradients.

Its inputs are the state, the parameters (args' and captured ones) and the times that are
tensors; inside everything is detached. A second derivative through it is an error, whichever way
it is asked for: the gradients that it hands out under ``create_graph`` hang on a node that only
raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import Array, Aux, Inputs, Leaves, NeedsGradient, State, Tree

from .field_vjp import without_hooks
from .memory import held
from .modes import outside
from .types import Ctx

if TYPE_CHECKING:
    from retrograde._api.solve_program import DifferentiableSolve
    from retrograde._backend.protocols import Program
    from retrograde._integrate.problem import Problem
    from retrograde._loops.loop import LoopSpec


class TrackedTimes:
    """Saved times that require a gradient; iterates over their values."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, i: int) -> Array:
        return self.tensor[i]

    def __iter__(self) -> Iterator[float]:
        return iter(self.tensor.detach().tolist())


def constant(x: Array) -> Tree:
    """x (a tensor, saved times, or tuples of such) without its history."""
    if isinstance(x, torch.Tensor):
        return x.detach()
    if isinstance(x, TrackedTimes):
        return list(x)
    if isinstance(x, tuple):
        parts = [constant(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def _tensors(inputs: Inputs) -> list[Array]:
    """y0, the parameters, t0, t1, ts and jumps; None for what is no tensor (a loop has none of
    these)."""
    lists = (inputs.ts, inputs.jumps)
    tables = [ts.tensor if isinstance(ts, TrackedTimes) else None for ts in lists]
    times = [t if isinstance(t, torch.Tensor) else None for t in (inputs.t0, inputs.t1)]
    return [*_states(inputs.y0), *inputs.params, *times, *tables]


def _states(y0: State) -> list[Array]:
    """y0's tensors: one where states are flat, its leaves in generic form; None of a loop."""
    if isinstance(y0, tuple) and y0:
        return list(y0)
    return [y0 if isinstance(y0, torch.Tensor) else None]


def tensors_of(inputs: Inputs) -> list[Array]:
    """All tensors that may be differentiated."""
    return [x for x in _tensors(inputs) if x is not None]


def solve_with_gradient(program: Program, inputs: Inputs) -> tuple[Tree, Tree]:
    """(output leaves that are part of the user's graph, what else the solve tells)."""
    tensors = _tensors(inputs)
    call = _Call(program, inputs)
    node: Tree = _Solve
    leaves = node.apply(call, *tensors)
    return leaves, call.aux


class _Call:
    """One solve: what its node keeps from forward to backward."""

    def __init__(self, program: Program, inputs: Inputs) -> None:
        self.program = program
        count = program.given
        args, captured = inputs.params[:count], inputs.params[count:]
        self.states = len(_states(inputs.y0))  # the first inputs of the node
        self.first_captured = self.states + count
        # captured tensors stay themselves, for f goes on using them
        self.inputs = constant(inputs)._replace(params=(*constant(args), *captured))
        self.captured = captured
        needs = [x is not None and x.requires_grad for x in _tensors(inputs)]
        self.wanted = self._wanted(needs)
        self.versions = [x._version for x in captured]
        self.residuals: Tree = None
        self.aux: Tree = None

    def _wanted(self, needs: Sequence[bool]) -> NeedsGradient:
        """From y0, the parameters, t0, t1, ts and jumps."""
        n = self.states
        *params, t0, t1, ts, jumps = needs[n:]
        return NeedsGradient(tuple(params), t0, t1, ts, any(needs[:n]), jumps)

    def forward(self) -> Aux:
        """Output leaves."""
        leaves, self.aux, self.residuals = self.program.forward(self.inputs, self.wanted)
        return leaves

    def reverse(self, cotangents: Leaves, needs: Sequence[bool]) -> Inputs:
        """Cotangents of the inputs, of those parameters and times that need one."""
        wanted = self._wanted(needs)
        with outside(vjp=True), without_hooks(self.captured):
            g = self.program.reverse(self.inputs, self.residuals, cotangents, wanted)
        self.program.tell(g)
        count = len(self.inputs.params) - len(self.captured)
        for x, version, ct in zip(self.captured, self.versions, g.params[count:], strict=True):
            if ct is not None and x._version != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(x.shape)} that `f` closes over was modified by an "
                    "inplace operation after the solve, whose gradient needs its old value; call "
                    "`backward` before changing it."
                )
        return g


class _Solve(torch.autograd.Function):
    """The node of a solve."""

    @staticmethod
    def forward(ctx: Ctx, call: _Call, *tensors: Array) -> Aux:
        # captured ones that this solve never reaches may change; _Call looks at the others
        count = call.first_captured
        end = count + len(call.captured)
        ctx.save_for_backward(*tensors[:count], *tensors[end:])
        ctx.call = call
        ctx.set_materialize_grads(False)  # what nobody differentiates takes no memory
        leaves = tuple(call.forward())
        ctx.like = [(x.shape, x.dtype, x.device) for x in leaves]
        return leaves

    @staticmethod
    def backward(ctx: Ctx, *cotangents: Array) -> Tree:
        call = ctx.call
        cotangents = tuple(map(_whole, cotangents, ctx.like))
        saved = ctx.saved_tensors  # raises where one was changed in place
        needs = ctx.needs_input_grad[1:]
        with torch.no_grad():
            g = call.reverse(cotangents, needs)
            four = zip((g.t0, g.t1, g.ts, g.jumps), saved[-4:], needs[-4:], strict=True)
            times = [_like(x, t) if need else None for x, t, need in four]
        states = g.y0 if isinstance(g.y0, tuple) and g.y0 else (g.y0,)
        y0 = (x if need else None for x, need in zip(states, needs, strict=False))
        grads = (*y0, *g.params, *times)
        if torch.is_grad_enabled():
            grads = _refuse_second_derivative(grads, (*saved, *call.captured, *cotangents))
        return (None, *grads)


def _whole(cotangent: Array, like: tuple[Any, ...]) -> Array:
    """A cotangent, zeros where there is none."""
    if cotangent is not None:
        return cotangent
    shape, dtype, device = like
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def without_gradient(leaves: Sequence[Array], tensors: Sequence[Array]) -> Leaves:
    """Rows of a failed solve: their gradient by every tensor is nan, even where they don't depend
    on it because the solve did not get so far."""
    node: Tree = _Failed
    return tuple(node.apply(len(leaves), *leaves, *tensors))


class _Failed(torch.autograd.Function):
    """The node of a failed solve."""

    @staticmethod
    def forward(ctx: Ctx, count: int, *tensors: Array) -> Aux:
        ctx.count = count
        ctx.save_for_backward(*tensors[count:])
        return tuple(x.detach() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Ctx, *cotangents: Array) -> Tree:
        needs = ctx.needs_input_grad[1 + ctx.count :]
        pairs = zip(ctx.saved_tensors, needs, strict=True)
        grads = (x * float("nan") if need else None for x, need in pairs)
        return None, *[None] * ctx.count, *grads


def _like(value: Array, time: Any) -> Array:
    """A cotangent of times (numbers, or 0-d tensors that were never read) as a tensor like them."""
    if isinstance(value, list) and any(isinstance(x, torch.Tensor) for x in value):
        value = torch.stack([torch.as_tensor(x, device=time.device) for x in value])
    return torch.as_tensor(value, dtype=time.dtype, device=time.device)


def _refuse_second_derivative(grads: Sequence[Array], sources: Sequence[Array]) -> Leaves:
    there = [g for g in grads if g is not None]
    tensors = [x for x in sources if x is not None and x.requires_grad]
    node: Tree = _Once
    marked = iter(node.apply(len(there), *there, *tensors))
    return tuple(None if g is None else next(marked) for g in grads)


class _Once(torch.autograd.Function):
    """Gradients, tied to all they depend on by a node that raises."""

    @staticmethod
    def forward(ctx: Ctx, count: int, *tensors: Array) -> Aux:
        return tuple(x.detach() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Ctx, *cotangents: Array) -> Tree:
        raise UnsupportedByBackend(
            'this solve (or loop) can be differentiated once only; pass `adjoint="direct"` (to a '
            'loop `kind="bounded"`) for second derivatives.'
        )


def refuse_captured(problem: Problem) -> None:
    """Raise InputError if f closes over tensors whose gradients ``solve_vjp`` can't give."""
    if len(problem.params) > len(problem.where):
        raise InputError(
            "solve_vjp gives gradients of y0, args, t0, t1 and ts only, but `f` closes over "
            "tensors that require one; pass them through `args`, or use solve and "
            "loss.backward() (or torch.no_grad() around solve_vjp to hold them constant)."
        )


def refuse_loop_captured(loop: LoopSpec) -> None:
    """Raise InputError if a body closes over tensors whose gradients ``loop_vjp`` can't give."""
    if len(loop.params) > loop.given:
        raise InputError(
            "loop_vjp gives gradients of `init` and `xs` only, but `body` closes over tensors that "
            "require one; put them into the carry, or use the loop itself and loss.backward() (or "
            "torch.no_grad() around loop_vjp to hold them constant)."
        )


def autodiff_vjp(
    program: DifferentiableSolve, inputs: Inputs
) -> tuple[Leaves, Aux, Callable[[Leaves], Inputs]]:
    """A differentiable program's output leaves, what else it tells, and its pullback."""
    bk, layout = program.loop.bk, program.loop.layout
    t0, t1 = (bk.scalar_array(t, layout).detach().requires_grad_() for t in inputs[2:4])
    ts, jumps = inputs.ts, inputs.jumps
    if program.loop.outputs.timed:
        ts = TrackedTimes(bk.times_array(ts, layout).requires_grad_())
    if len(jumps):
        jumps = TrackedTimes(bk.times_array(jumps, layout).requires_grad_())
    where = program.loop.problem.differentiable
    params = tuple(
        x.detach().requires_grad_() if d else x for x, d in zip(inputs.params, where, strict=True)
    )
    states = [x.detach().requires_grad_() for x in _states(inputs.y0)]
    y0 = tuple(states) if isinstance(inputs.y0, tuple) else states[0]
    traced = inputs._replace(y0=y0, params=params, t0=t0, t1=t1, ts=ts, jumps=jumps)
    with torch.enable_grad():
        leaves, aux = program.primal(traced)
    sources = [x for x in _tensors(traced) if x is not None and x.requires_grad]
    roots = [i for i, x in enumerate(leaves) if x.requires_grad]

    def pull(cotangents: Leaves) -> Inputs:
        grads = iter(
            torch.autograd.grad(
                [leaves[i] for i in roots],
                sources,
                [cotangents[i] for i in roots],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        found = [next(grads) for _ in states]
        y0 = tuple(found) if isinstance(inputs.y0, tuple) else found[0]
        params = tuple(next(grads) if d else None for d in where)
        t0, t1 = held(next(grads)), held(next(grads))
        lists = [[held(g) for g in next(grads)] if len(x) else [] for x in (ts, jumps)]
        return Inputs(y0, params, t0, t1, lists[0], jumps=lists[1])

    return tuple(x.detach() for x in leaves), aux, pull
