"""PyTorch: forward mode, and what torch.func's transforms ask of a solve.

Dual tensors of ``torch.autograd.forward_ad`` and the wrappers of torch.func are followed by the
integration itself, in sums of tensors (``DirectAdjoint``); no node of our own could be in their
way. Under ``vmap`` a batched number can't steer a loop: steps of a constant size only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._C import _functorch as functorch

from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import (
    Array,
    Aux,
    Function,
    Inputs,
    Leaves,
    RequestedTransforms,
    Scalar,
    Tree,
)

from .distributed import whole
from .function import tensors_of

_forward: Any = torch.autograd.forward_ad


class ForwardHooks:
    """What is asked of a solve, and tangents by forward mode."""

    def requested(self, inputs: Inputs) -> RequestedTransforms:
        tensors = tensors_of(inputs)
        recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if transformed():
            kinds = {level.key() for level in functorch.get_interpreter_stack()}
            reverse = recorded or functorch.TransformType.Grad in kinds
            return RequestedTransforms(forward=not reverse, again=reverse, measurable=False)
        if any(map(dual, tensors)):
            return RequestedTransforms(forward=not recorded, again=recorded)
        return RequestedTransforms(scalars=sum(_numbers(x) for x in tensors if x.requires_grad))

    def columns(
        self, run: Callable[[Sequence[Array]], tuple[Leaves, Aux]], arrays: Sequence[Array]
    ) -> tuple[tuple[Leaves, Aux], list[Leaves]]:
        arrays = [x.detach() for x in arrays]
        out: Any = None
        found = []
        with torch.no_grad():
            for i, x in enumerate(arrays):
                rows = []
                for unit in _units(x):
                    out, tangents = _along(run, arrays, i, unit)
                    rows.append(tangents)
                found.append(tuple(torch.stack(part) for part in zip(*rows, strict=True)))
            if out is None:
                out = run(arrays)
        return out, found

    def must_follow(self, adjoint: Any, inputs: Inputs) -> bool:
        """Whether forward mode or a transform needs the integration itself followed."""
        requested = self.requested(inputs)
        if not (requested.forward or requested.again):
            return False
        if not adjoint.follows_solve:
            raise UnsupportedByBackend(
                f"`adjoint` is {adjoint.name}, which has reverse mode alone; for forward-mode "
                "derivatives and torch.func transforms pass adjoint='auto', 'direct' or 'forward' "
                "(per_sample=True and rg.steady_state have none of these: use loss.backward() or "
                "torch.autograd.grad there, and the batch's axis in place of vmap)."
            )
        return True


def transformed() -> bool:
    """Whether this runs under a transform of torch.func."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def dual(x: Array) -> bool:
    """Whether x carries a tangent of ``torch.autograd.forward_ad``."""
    if _forward._current_level < 0:
        return False
    return _forward.unpack_dual(x).tangent is not None


def moving(x: Array) -> bool:
    """Whether x is differentiated, in whichever way."""
    if x.requires_grad or dual(x):
        return True
    return transformed() and functorch.is_functorch_wrapped_tensor(x)


def moving_forward() -> bool:
    """Whether a level of forward mode or a transform of torch.func is open."""
    return transformed() or _forward._current_level >= 0


def refuse_duals(results: Sequence[Array]) -> None:
    """Raise InputError if a function of constants has a tangent: it closes over a dual tensor."""
    if any(map(dual, results)):
        raise InputError(
            "`f` (or `saveat.fn`) closes over a dual tensor, which the integration can't see; "
            "pass it through `args`."
        )


def unwrapped(x: Array) -> Array:
    """The tensor in the wrappers of torch.func; a batch has its axes in front or elsewhere."""
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def item(x: Array) -> Scalar:
    """The number in a tensor of one element."""
    try:
        return whole(x).item()
    except RuntimeError:
        if not transformed():
            raise
    raise UnsupportedByBackend(BATCH)


BATCH = (
    "a solve under torch.func.vmap can't choose its steps, find events or pivot: these are one "
    "decision for the whole batch. Put the batch into an axis of `y0` with per_sample=True, or, "
    "with an explicit solver and no event, pass `dt=` for constant steps and plain numbers for the "
    "times."
)


@contextlib.contextmanager
def decided_by_batch() -> Iterator[None]:
    """Where a batch of ``vmap`` would have to steer what PyTorch can't, that is said."""
    try:
        yield
    except RuntimeError as error:
        if not (transformed() and "vmap" in str(error)):
            raise
        raise UnsupportedByBackend(BATCH) from error


def _numbers(x: Array) -> int:
    return int(x.numel()) * (2 if x.dtype.is_complex else 1)


def nan_tangent(x: Array) -> Array:
    """x with a tangent of nan, if it has one."""
    if not dual(x):
        return x
    value, tangent = _forward.unpack_dual(x)
    return _forward.make_dual(value, tangent * float("nan"))


def _units(x: Array) -> Iterator[Array]:
    """Directions of all real numbers of x."""
    numbers: Tree = (1.0, 1j) if x.dtype.is_complex else (1.0,)
    for number in numbers:
        for i in range(x.numel()):
            unit = torch.zeros_like(x, memory_format=torch.contiguous_format)
            unit.view(-1)[i] = number
            yield unit


def _along(run: Function, arrays: Sequence[Array], i: int, unit: Any) -> tuple[Tree, list[Array]]:
    # a custom Function's forward, where this runs, has forward mode switched off
    with _forward._set_fwd_grad_enabled(True), _forward.dual_level():
        duals = list(arrays)
        duals[i] = _forward.make_dual(arrays[i], unit)
        leaves, rest = run(duals)
        pairs = [_forward.unpack_dual(x) for x in leaves]
        tangents = [torch.zeros_like(p) if d is None else d for p, d in pairs]
    return (tuple(p for p, _ in pairs), rest), tangents
