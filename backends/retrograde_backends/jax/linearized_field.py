"""JAX: what is kept of one evaluation of f for its vjp, as rows of buffers.

``jax.vjp`` keeps every array that its pull reads. Of those, a row has what takes long to
compute: the state that f was given, and the results of transcendental operations and products that
the rest can be had from again (of tanh: its value, not one less its value, too). Arrays of the
parameters alone are formed once, outside the loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from retrograde._base.types import Array, Leaves, Scalar

from .types import Eqn, Jaxpr, Var
from .xla_cpu.eligible import TRANSCENDENTAL, names
from .xla_cpu.kernel import inlined

if TYPE_CHECKING:
    from retrograde._backend.stages import ListLayout

    from .field_vjp import Pullback

__all__ = ["Tape"]

KEPT = TRANSCENDENTAL | {"dot_general", "retrograde_product", "while", "scan", "cond"}
"""What is not computed again from a row."""


class Tape:
    """The linearisation of f in two parts: one forward that gives a row, one back from a row.

    Parameters
    ----------
    layout
    vjp : Pullback
        What is to be linearised, and by what.
    """

    def __init__(self, layout: ListLayout, vjp: Pullback) -> None:
        self.vjp = vjp
        start = layout.time(0.0), *layout.zeros()
        with inlined():
            closed = jax.make_jaxpr(self._flat)(*start)
        whole, self.consts = closed.jaxpr, closed.consts
        slopes, self.leaves = whole.outvars[: len(start) - 1], whole.outvars[len(start) - 1 :]
        moving = _moving(whole)
        needed = _once(v for v in self.leaves if id(v) in moving)
        kept, eqns = _cut(whole, needed, moving)
        if _numbers(kept) >= _numbers(needed):
            kept, eqns = needed, []
        read = [v for eqn in eqns for v in eqn.invars]
        still = _once(v for v in (*read, *self.leaves) if _named(v) and id(v) not in moving)
        self.like = [v.aval for v in kept]
        self.first = whole.replace(outvars=[*slopes, *kept])
        self.again = whole.replace(
            constvars=[], invars=[*kept, *still], eqns=eqns, outvars=[*needed, *still]
        )
        self.known = [id(v) for v in self.again.outvars]
        fixed = [e for e in whole.eqns if not (e.effects or _touches(e, moving))]
        program = whole.replace(eqns=fixed, outvars=still)
        self.still = jax.core.eval_jaxpr(program, self.consts, *start)

    def rows(self, count: int) -> Leaves:
        """Room for so many stages."""
        return tuple(jnp.zeros((count, *x.shape), x.dtype) for x in self.like)

    def linearise(self, t: Scalar, y: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """f, and what goes into a row."""
        found = jax.core.eval_jaxpr(self.first, self.consts, t, *y)
        return found[: len(y)], found[len(y) :]

    def recall(self, row: Sequence[Array]) -> list[Array]:
        """What a pull reads, at the stage of that row."""
        values = jax.core.eval_jaxpr(self.again, (), *row, *self.still)
        found = dict(zip(self.known, values, strict=True))
        return [found[id(v)] if _named(v) else v.val for v in self.leaves]

    def pull(self, read: Sequence[Array], ct: Sequence[Array]) -> Leaves:
        """The vjp at that stage: cotangents of t (where it is wanted), y, parameters."""
        pulled: Leaves = jax.tree_util.tree_unflatten(self.structure, read)(ct)
        return pulled

    def _flat(self, t: Scalar, *y: Array) -> list[Array]:
        k, pull = self.vjp.linearise(t, y)
        leaves, self.structure = jax.tree_util.tree_flatten(pull)
        return [*k, *leaves]


def _moving(program: Jaxpr) -> set[int]:
    """Variables that depend on what is given, by id."""
    found = {id(v) for v in program.invars}
    for eqn in program.eqns:
        if any(id(v) in found for v in eqn.invars):
            found.update(map(id, eqn.outvars))
    return found


def _touches(eqn: Eqn, variables: set[int]) -> bool:
    return any(id(v) in variables for v in (*eqn.invars, *eqn.outvars))


def _cut(
    program: Jaxpr, needed: Sequence[Array], moving: set[int]
) -> tuple[list[Array], list[Array]]:
    """What to keep of a program so that the rest of what is needed is cheap, and that rest."""
    want = {id(v) for v in needed}
    kept, rest = [], []
    for eqn in reversed(program.eqns):
        found = [v for v in eqn.outvars if id(v) in want and id(v) in moving]
        if found and names(eqn) & KEPT:
            kept += found
        elif found:
            rest.append(eqn)
            want.update(id(v) for v in eqn.invars)
    return [*kept, *(v for v in program.invars if id(v) in want)], rest[::-1]


def _named(v: Var) -> bool:
    """Whether v is a variable, no number."""
    return not hasattr(v, "val")


def _once(variables: Iterable[Var]) -> list[Array]:
    return list({id(v): v for v in variables}.values())


def _numbers(variables: Iterable[Var]) -> int:
    return sum(v.aval.size for v in variables)
