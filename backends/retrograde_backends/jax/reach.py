"""JAX: how far derivatives reach: what depends on what is differentiated, and what can.

A body or a field may do what JAX can't differentiate (``jax.pure_callback``, a loop of unknown
length) with arrays that no derivative is asked for. Under ``jax.grad`` of the same written out,
nothing is asked of them either. So a reverse pass differentiates what depends on what is
differentiated, and no more; and where a plan is made before that is known (under ``jit``), it
counts on what can be differentiated at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from retrograde._base.types import Array, Function

from .types import Eqn, Jaxpr, Var
from .xla_cpu.eligible import CALLS, programs_in

__all__ = ["doubtful", "reached", "works"]

_CUT = frozenset({"stop_gradient"})

_DOUBTED = frozenset({"while", "pure_callback", "io_callback"})
"""What has a rule, which raises an error."""

_FOLLOWED = CALLS | {"remat", "checkpoint"}


def reached(jaxpr: Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    """Which results of a program can have a tangent, where the marked inputs have one.

    ``inputs``: of its constants, then of its arguments. Loops and branches count as one operation.
    """
    pairs = zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True)
    marked = {v for v, m in pairs if m and _inexact(v)}

    def moves(v: Var) -> bool:
        return not hasattr(v, "val") and v in marked

    for eqn in jaxpr.eqns:
        given = [*map(moves, eqn.invars)]
        if any(given) and eqn.primitive.name not in _CUT:
            pairs = zip(eqn.outvars, _through(eqn, given), strict=True)
            marked.update(v for v, m in pairs if m and _inexact(v))
    return [*map(moves, jaxpr.outvars)]


def _through(eqn: Eqn, given: Sequence[bool]) -> list[bool]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if eqn.primitive.name in _FOLLOWED and len(getattr(inner, "invars", ())) == len(given):
        return reached(inner, [*(False for _ in inner.constvars), *given])
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
