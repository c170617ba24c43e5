"""The end of an integration, and its rows: states, times and cotangents, in the order t0, inside,
t1.

A row that the solve did not reach is nan, states and time; the padding of ``SaveAt.steps`` behind
a solve that reached t1 is inf. In eager libraries, whose solves raise, the row for t1 holds the
state and the time where the solve stopped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import InputError
from .._base.plain_input import cotangent_leaf, matched
from .._base.types import Array, Index, Inputs, Leaves, Scalar, State, Table, Tree
from .solution import Status

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .integrator import Integrator

__all__ = ["Final", "cotangent_leaves", "output_leaves", "output_times"]


class Final(NamedTuple):
    """Where an integration ended.

    Attributes
    ----------
    y : state
        What the solver carries: ``loop.state`` gives the y of it.
    t : scalar [time]
    n, tries : int or traced scalar
        Accepted steps and all of them.
    status : Status value
    inside : carry
        Carry of the outputs collected inside the loop.
    times : table or None
        Record of accepted times, or None.
    stored : Stored or None
    noted : table or None
        What a guard noted of the states.
    trips : int or traced scalar or None
        Turns by which states are stored, where these are not the accepted steps: in a batch, the
        tries of the sample that takes most.
    calls : int or traced scalar or tuple
        Evaluations of f in the tries, where steps tell them; else ().
    """

    y: State
    t: Scalar
    n: Index
    tries: Index
    status: Index
    inside: State
    times: Table
    stored: Table
    noted: Table = None
    trips: Index = None
    calls: Index | tuple[()] = ()


def output_leaves(loop: Integrator, inputs: Inputs, final: Final) -> tuple[Array, ...]:
    """All rows, as leaves of shape (k, *shape)."""
    out, bk = loop.outputs, loop.bk
    emit = out.emitter(loop.problem, loop.layout, inputs.params)
    parts = []
    if out.saveat.t0:
        parts.append(out.layout.stack([emit(loop.clock.real(inputs.clocked[0]), inputs.y0)]))
    if out.inside:
        n, fill = loop.rows_inside(final), _fill(loop, final)
        parts.append(bk.rows(out.layout, final.inside[1], n, final.inside[0], fill))
    if out.saveat.final:
        ok = final.status == int(Status.converged)
        row = out.layout.stack([emit(final.t, loop.state(final.y))])
        parts.append(tuple(bk.nan_unless(ok, x) for x in row) if loop.clock.traced else row)
    if len(parts) == 1:
        return parts[0]
    xp = bk.xp
    return tuple(xp.concat(leaves, axis=0) for leaves in zip(*parts, strict=True))


def output_times(loop: Integrator, inputs: Inputs, final: Final) -> Array:
    """Times of the rows, shape (k,)."""
    out, clock, bk = loop.outputs, loop.clock, loop.bk

    def array(times: Table) -> Array:
        return bk.times_array(times, loop.layout)

    arrays = [array([clock.real(inputs.t0)])] if out.saveat.t0 else []
    if out.inside == "ts":
        arrays += bk.blank((array(inputs.ts),), final.inside[0], _fill(loop, final))
    elif out.inside:
        n = loop.rows_inside(final)
        times = final.times if loop.adaptive else bk.grid_times(loop.grid(inputs), n)
        times = bk.accepted_times(times, n, final.inside[0], _fill(loop, final))
        if loop.clock.traced or not inputs.relative:
            times = loop.user_time(inputs, times)
        else:
            times = [loop.user_time(inputs, t) for t in times]
        arrays.append(array(times))
    if out.saveat.final:
        ok = final.status == int(Status.converged)
        t = loop.user_time(inputs, final.t)
        arrays.append(array([clock.where(ok, t, math.nan) if clock.traced else t]))
    return arrays[0] if len(arrays) == 1 else bk.xp.concat(arrays, axis=0)


def _fill(loop: Integrator, final: Final) -> Scalar:
    """What stands in rows that the solve has not filled."""
    ok = final.status == int(Status.converged)
    return loop.clock.where(ok, math.inf, math.nan)


def cotangent_leaves(
    bk: AbstractBackend, leaves: Leaves, ys: Tree, cotangent: Tree
) -> tuple[Array, ...]:
    """Leaves of a cotangent, checked against ``ys`` and as long as the program's rows."""
    xp = bk.xp
    own, treedef = bk.flatten(ys)
    parts = matched(bk, bk.unflatten(treedef, range(len(own))), cotangent)
    given = bk.flatten(cotangent)[0]
    if parts is not None:
        given = [cotangent_leaf(bk, parts[i], x) for i, x in enumerate(own)]
    shapes = [tuple(getattr(x, "shape", ())) for x in given]
    if shapes != [tuple(x.shape) for x in own]:
        raise InputError(
            f"the cotangent has leaves of shape {shapes}, but `sol.ys` has "
            f"{[tuple(x.shape) for x in own]}; make them equal."
        )

    def pad(x: Array, full: Array) -> Array:
        missing = full.shape[0] - x.shape[0]
        return xp.concat([x, xp.zeros_like(full[:missing])], axis=0) if missing else x

    return tuple(pad(x, full) for x, full in zip(given, leaves, strict=True))
