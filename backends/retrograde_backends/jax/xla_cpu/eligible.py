"""JAX on the CPU: which programs can be one kernel (``kernel``), judged by their operations.

What XLA's emitter of such kernels can't do fails to compile, in the user's program. Every operation
that is not on the list of those that work rules a program out, and so do large sums and products.
:func:`allowed` is the one flag of this folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jax.interpreters import mlir

from retrograde._backend.specialise import generic
from retrograde._base.types import Array, Leaves

from ..mesh import layers, mesh_note
from ..types import Eqn, Ref, Var

UNCACHED: Any = (
    {"cacheable": False} if "cacheable" in signature(mlir.register_lowering).parameters else {}
)
"""How a lowering is registered that sees the calls around it; nothing where JAX has no such."""


MOST = 256
"""Numbers of a state beyond which there is nothing to gain."""

SUMMED = 2048
"""Elements that a sum or product may go over; from 4,096 on XLA uses library calls."""

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
     "custom_jvp_call_jaxpr", "retrograde_kernel"}
)  # fmt: skip

CONTAINERS = CALLS | {"while", "cond", "scan", "remat", "checkpoint"}

ELEMENTWISE = frozenset(
    {"abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "convert_element_type",
     "copy", "copy_p", "cos", "cosh", "div", "eq", "erf", "exp", "exp2", "expm1", "floor", "ge",
     "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul",
     "ne", "neg", "nextafter", "not", "one_minus_square", "or", "pow", "rem", "round", "rsqrt",
     "select_n", "shift_left", "shift_right_arithmetic", "sign", "sin", "sinh", "sqrt", "square",
     "stop_gradient", "sub", "tan", "tanh", "xor"}
)  # fmt: skip

SHAPES = frozenset(
    {"broadcast_in_dim", "concatenate", "dynamic_slice", "dynamic_update_slice", "empty2",
     "expand_dims", "iota", "pad", "reshape", "rev", "slice", "split", "squeeze", "stack",
     "transpose", "unstack"}
)  # fmt: skip

ALLOWED = ELEMENTWISE | SHAPES

JOINING = frozenset({"concatenate", "pad", "scatter", "stack", "dynamic_update_slice"})
"""Operations whose results have elements of several origins."""

TRANSCENDENTAL = frozenset(
    {"acos", "asin", "atan2", "cbrt", "cos", "cosh", "erf", "exp", "exp2", "expm1", "log", "log1p",
     "logistic", "pow", "sin", "sinh", "tan", "tanh"}
)  # fmt: skip
"""Operations that take as long as tens of the others."""

MANY = 8
"""Numbers that a field gets by them from which its stages are a loop."""

SUMS = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod", "cumsum",
     "argmax", "argmin"}
)  # fmt: skip


def fits(jaxpr: Jaxpr) -> bool:
    """Whether all that a program does can be in one kernel."""
    return not jaxpr.effects and all(map(_allowed, equations_of(jaxpr)))


def programs_in(eqn: Eqn) -> Iterator[Var]:
    """The programs of an equation's calls, loops and branches."""
    for x in jax.tree_util.tree_leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(x):
            yield getattr(x, "jaxpr", x)


def equations_of(jaxpr: Jaxpr) -> Iterator[Var]:
    """All equations, those of loops, branches and calls included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for program in programs_in(eqn):
            yield from equations_of(program)


def names(eqn: Eqn) -> set[str]:
    """What an equation does, and what those do that it calls."""
    found = {eqn.primitive.name}
    for program in programs_in(eqn):
        found.update(e.primitive.name for e in equations_of(program))
    return found


def _is_jaxpr(x: Array) -> bool:
    return hasattr(getattr(x, "jaxpr", x), "eqns")


def _allowed(eqn: Eqn) -> bool:
    name = eqn.primitive.name
    if name in ALLOWED or name in CONTAINERS:
        return True
    if name in SUMS:
        return all(v.aval.size <= SUMMED for v in eqn.invars)
    if name == "dot_general":  # matrix-vector products alone
        sizes = [v.aval.size for v in eqn.invars]
        ranks = sorted(v.aval.ndim for v in eqn.invars)
        return bool(ranks[0] <= 1 and ranks[1] <= 2 and max(sizes) <= SUMMED)
    if name == "retrograde_product":  # the same (``matvec``)
        return bool(eqn.invars[0].aval.size <= SUMMED)
    if name == "bitcast_convert_type":  # of numbers as wide
        return bool(eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape)
    if name == "scatter":  # ``x.at[i].set(v)`` of one index
        return bool(eqn.invars[1].aval.size <= 1)
    return False


def allowed() -> bool:
    """Whether the environment lets this folder do anything: the one flag of all workarounds.

    ``RETROGRADE_XLA_CPU=0`` switches them off, and so does ``RETROGRADE_GENERIC=1``.
    """
    return not generic() and os.environ.get("RETROGRADE_XLA_CPU", "1") != "0"


def enabled() -> bool:
    """Whether that is so, this JAX can mark calls, and one CPU alone does the work.

    A program that is no kernel in the end is better off without what kernels ask for: loops of
    stages, orders found turn by turn.
    """
    return allowed() and bool(UNCACHED) and platforms_of(_arrays.get()) == ("cpu",)


def platforms_of(arrays: Sequence[Array]) -> tuple[str, ...]:
    """The platform of each device that works on these arrays.

    Where they hide (in the tracers of a ``jit``, or in a mesh), those that JAX would take.
    """
    mesh = mesh_note()
    if mesh is not None and mesh.size > 1:
        return ("mesh",) * int(mesh.size)
    values = [value(x) for x in arrays]
    known = [x for x in values if x is not None]
    if not known or len(known) < len(values):
        return (default_device().platform,)
    unfused_sum = [x for x in known if getattr(x, "committed", True)] or known
    return tuple(d.platform for d in {d for x in unfused_sum for d in x.devices()})


def value(x: Array) -> Array:
    """The array behind an array or a tracer, None where it is not known."""
    found = [*layers(x)]
    return None if not found or isinstance(found[-1], jax.core.Tracer) else found[-1]


def default_device() -> Ref:
    """Where JAX computes if no array says otherwise."""
    config: Any = jax.config
    device = config.jax_default_device
    if device is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=device)[0] if isinstance(device, str) else device


@contextmanager
def working_on(arrays: Sequence[Array]) -> Iterator[None]:
    """For a block, programs are judged for the devices that these arrays are on."""
    token = _arrays.set(tuple(arrays))
    try:
        yield
    finally:
        _arrays.reset(token)


_arrays: ContextVar[Leaves] = ContextVar("arrays", default=())


def small(jaxpr: Jaxpr, size: int) -> bool:
    """Whether solves of this field, with states of this size, may become kernels."""
    return size <= MOST and enabled() and fits(jaxpr)


def separate(jaxpr: Jaxpr, size: int) -> bool:
    """Whether a field is one that gains by ``outlined``.

    It joins arrays, has no products (which no fusion goes over) and, since an outlined field is
    computed once more where it is pulled, no loops, unless all is one kernel.
    """
    names = {eqn.primitive.name for eqn in equations_of(jaxpr)}
    if not enabled() or "dot_general" in names or names.isdisjoint(JOINING):
        return False
    return small(jaxpr, size) if size <= MOST else names <= ALLOWED | SUMS | CALLS


def transcendental(jaxpr: Jaxpr) -> bool:
    """Whether most of a small field's time goes to exponentials, powers, sines and their like.

    Its parameters are part of what a loop over stages carries: they have to be few.
    """
    given = sum(_numbers(v) for v in (*jaxpr.constvars, *jaxpr.invars))
    eqns = (e for e in equations_of(jaxpr) if e.primitive.name in TRANSCENDENTAL)
    return given <= MOST and sum(_numbers(e.outvars[0]) for e in eqns) >= MANY


def _numbers(v: Var) -> int:
    return int(v.aval.size)


def long(jaxpr: Jaxpr) -> bool:
    """Whether copies of a field's vjp, one for each stage, take long to compile.

    A loop over the stages takes a tenth longer to run where there are matrices: cotangents of
    parameters are added up once a stage, and not once a step.
    """
    return sum(1 for _ in equations_of(jaxpr)) >= LONG


LONG = 12
"""Operations of a field from which the stages of its reversed steps are a loop."""
