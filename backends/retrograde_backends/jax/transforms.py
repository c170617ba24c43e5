"""JAX: the derivatives that will be asked for, as its tracers tell, and how far they reach.

What is visible: only where every value is known: under ``jit`` (and in the bodies of loops) the
transforms around a solve are hidden, and nothing is said.

How far they reach: a body or a field may do what JAX can't differentiate (``jax.pure_callback``, a
loop of unknown length) with arrays that no derivative is asked for. Under ``jax.grad`` of the same
written out, nothing is asked of them either. So a reverse pass differentiates what depends on what
is differentiated, and no more; and where a plan is made before that is known (under ``jit``), it
counts on what can be differentiated at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.interpreters import ad
from jax.interpreters.ad import JVPTracer

from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import Array, Function, Inputs, RequestedTransforms

from .types import Eqn, Jaxpr, Var
from .xla_cpu.eligible import CALLS, programs_in

if TYPE_CHECKING:
    from retrograde._integrate.problem import Problem


class TransformHooks:
    """What is asked of a solve, and whether f has a forward mode."""

    def requested(self, inputs: Inputs) -> RequestedTransforms:
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
        return RequestedTransforms(
            scalars=None if "forward" in kinds or "batch" in kinds else numbers
        )

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


_CUT = frozenset({"stop_gradient"})

_DOUBTED = frozenset({"while", "pure_callback", "io_callback"})
"""What has a rule, which raises an error."""

_FOLLOWED = CALLS | {"remat", "checkpoint"}


def reached(jaxpr: Jaxpr, inputs: Sequence[bool], *, tangents: bool = True) -> list[bool]:
    """Which results of a program can have a tangent, where the marked inputs have one.

    ``inputs``: of its constants, then of its arguments. Loops and branches count as one operation.
    Without ``tangents``: which results depend on them.
    """
    moves = _inexact if tangents else lambda v: True
    pairs = zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True)
    marked = {v for v, m in pairs if m and moves(v)}

    def depends(v: Var) -> bool:
        return not hasattr(v, "val") and v in marked

    for eqn in jaxpr.eqns:
        given = [*map(depends, eqn.invars)]
        if any(given) and not (tangents and eqn.primitive.name in _CUT):
            pairs = zip(eqn.outvars, _through(eqn, given, tangents), strict=True)
            marked.update(v for v, m in pairs if m and moves(v))
    return [*map(depends, jaxpr.outvars)]


def _through(eqn: Eqn, given: Sequence[bool], tangents: bool) -> list[bool]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if eqn.primitive.name in _FOLLOWED and len(getattr(inner, "invars", ())) == len(given):
        return reached(inner, [*(False for _ in inner.constvars), *given], tangents=tangents)
    return [True] * len(eqn.outvars)


def _inexact(v: Var) -> bool:
    return hasattr(v.aval, "dtype") and bool(jnp.issubdtype(v.aval.dtype, jnp.inexact))


def doubtful(jaxpr: Jaxpr) -> bool:
    """Whether a program holds anything that may have no derivative in reverse mode."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name.startswith("custom_") or not any(map(_inexact, eqn.invars)):
            continue
        if name in _DOUBTED or not (eqn.primitive in ad.primitive_jvps or name in _FOLLOWED):
            return True
        if any(map(doubtful, programs_in(eqn))):
            return True
    return False


def works(fn: Function, *arrays: Array) -> bool:
    """Whether a function of arrays (their shapes are enough) can be traced."""
    try:
        jax.eval_shape(fn, *arrays)
    except Exception:  # of whatever kind the operation raises that has no derivative
        return False
    return True
