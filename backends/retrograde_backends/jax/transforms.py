"""JAX: what the tracers among a solve's inputs tell of the derivatives that will be asked for.

Only where every value is known: under ``jit`` (and in the bodies of loops) the transforms
around a solve are hidden, and nothing is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
from jax.interpreters.ad import JVPTracer

from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import Array, Inputs, RequestedTransforms

if TYPE_CHECKING:
    from retrograde._integrate.problem import Problem

__all__ = ["TransformHooks", "forward_mode", "has_batch"]


class TransformHooks:
    """What is asked of a solve, and whether f has a forward mode."""

    def requested(self, inputs: Inputs) -> RequestedTransforms:
        return _requested(inputs)

    def has_forward_mode(self, problem: Problem) -> bool:
        return "custom_vjp_call" not in str(problem.program and problem.program.key())


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """A place where f's jvp is taken: what has none is told by name."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise UnsupportedByBackend(
            "`f` calls a jax.custom_vjp function, which has no jvp: forward mode and "
            "forward-over-reverse need jax.custom_jvp there; jax.grad works as it is."
        ) from error


def has_batch(arrays: Sequence[Array]) -> bool:
    """Whether a ``vmap`` can be seen around these; none can outside of a ``jit``."""
    return any("batch" in _kinds(x) for x in jax.tree_util.tree_leaves(arrays))


def _requested(inputs: Inputs) -> RequestedTransforms:
    """Forward mode, or the number of differentiated scalars, where all can be seen."""
    kinds, numbers = set(), 0
    for x in jax.tree_util.tree_leaves(inputs):
        found = _kinds(x)
        kinds |= found
        if "reverse" in found:
            numbers += 2 * x.size if jax.numpy.iscomplexobj(x) else x.size
    if "hidden" in kinds or not kinds:
        return RequestedTransforms()
    if "reverse" not in kinds:
        return RequestedTransforms(forward="forward" in kinds)
    return RequestedTransforms(scalars=None if "forward" in kinds or "batch" in kinds else numbers)


def _kinds(x: Array) -> set[str]:
    """The transforms that an array is under."""
    if not isinstance(x, jax.core.Tracer):
        return set()
    if isinstance(x, JVPTracer):
        return {"forward"} | _kinds(x.primal) | _kinds(x.tangent)
    name = type(x).__name__
    if name == "LinearizeTracer":
        return {"reverse"} | _kinds(x.primal)
    if name == "BatchTracer":
        return {"batch"} | _kinds(x.val)
    return {"hidden"}
