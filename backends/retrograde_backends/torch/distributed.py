"""PyTorch: parameters and states that lie spread over processes (FSDP, DTensor).

FSDP gathers a module's parameters for each call and drops them after it, by hooks that run when
autograd goes through that call. So an integration that autograd records has right gradients, and a
step that is taken again for its gradient has none. A state that is a DTensor is integrated in sums
of leaves; numbers that steer a solve are read from the whole of it, so that every process takes the
same steps. Its states can't be stored in flat rows, so it is recorded too.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import Array, Leaves, Tree

from .types import Ref

if TYPE_CHECKING:
    from retrograde._adjoints.base import AbstractAdjoint
    from retrograde._integrate.integrator import Integrator
    from retrograde._loops.loop import LoopSpec


def spread(x: Array) -> bool:
    """Whether x, or the first leaf of a state, is a DTensor."""
    x = x[0] if isinstance(x, tuple) and x else x
    return type(x) is not torch.Tensor and hasattr(x, "full_tensor")


def whole(x: Array) -> Array:
    """x as every process sees it whole."""
    return x.full_tensor() if spread(x) else x


def gathered_modules(found: list[str]) -> Tree:
    """A context that notes the modules called within whose parameters FSDP gathers for a call."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    names = ("FSDPModule", "FullyShardedDataParallel")
    kinds = tuple(getattr(fsdp, name) for name in names if hasattr(fsdp, name))
    if not (kinds and torch.distributed.is_initialized()):
        return contextlib.nullcontext()
    return _noted(kinds, found)


@contextlib.contextmanager
def _noted(kinds: Leaves, found: list[str]) -> Iterator[None]:
    thread = threading.get_ident()

    def look(module: Ref, args: Tree) -> None:
        if isinstance(module, kinds) and threading.get_ident() == thread:
            found.append(type(module).__name__)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def refuse_replays(loop: Integrator | LoopSpec, adjoint: AbstractAdjoint) -> None:
    """Raise UnsupportedByBackend where this loop has no gradient but by recorded steps."""
    owner: Tree = getattr(loop, "problem", loop)
    solve = owner is not loop
    name, record = ("f", "adjoint='direct'") if solve else ("body", "kind='bounded'")
    if owner.gathered:
        raise UnsupportedByBackend(
            f"`{name}` calls a module whose parameters FSDP shards ({owner.gathered[0]}): they are "
            f"gathered for each call and dropped after it, so {adjoint.name} can't take steps "
            f"again for their gradient. Record every step ({record}, with a `memory` that holds "
            "them), or replicate the module (torch.nn.parallel.DistributedDataParallel)."
        )
    if solve and spread(owner.y0):
        raise UnsupportedByBackend(
            f"`y0` is a DTensor, which {adjoint.name} can't store. Record every step "
            f"({record}, with a `memory` that holds them), or solve each process' part "
            "(`y0.to_local()`) where `f` acts on the parts alone."
        )
