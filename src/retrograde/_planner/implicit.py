"""What a method that solves equations takes beyond its stages: in bytes, and in calls of f.

A pass back makes the matrices that the solve made, those of one step at a time, and the solve has
let go of its own by then (nothing of it waits for a garbage collector). So matrices are no part of
what a gradient takes *beyond* the solve. On the contrary: while a step is factored there is one
matrix more, W beside its factors, than when linearisations and cotangents are alive, and up to its
size these are hidden beneath what the solve itself took. (Not of a method that switches, whose
solve may have had no matrix.) A compiler that lays out the memory of a program may not find that
room: there nothing is hidden, and ``SPARE`` matrices are counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

from .._backend.linear import storage
from .._backend.protocols import Capability
from .._backend.reals import Reals

if TYPE_CHECKING:
    from .._backend.structure import Structure
    from .._integrate.integrator import Integrator

SPARE = 2
"""Matrices of a compiled pass back that find no room among those of the solve."""

COMPLEX = 7
"""Times the args that a complex step takes beside their sums: complex copies of them, their complex
cotangents as they are made and added up, and the parts that are kept."""

OWN = 4
"""States of a pull beside its stages' cotangents."""


OWN_SECOND = 8
"""States of a product with second derivatives, by a complex step, beside its tapes."""


class ImplicitSize(NamedTuple):
    """What an implicit method takes.

    Attributes
    ----------
    algebra : int [bytes]
        Linear algebra, beyond that of the solve.
    states : int [bytes]
        Cotangents of a step's stages.
    params : int [bytes]
        Cotangents of args, more than their sums.
    second : int [bytes]
        A product with second derivatives, when no other linearisation is alive.
    hidden : int [bytes]
        What the solve took and a pull does not.
    graph : int [bytes]
        A step as autodiff records it, Jacobian and all.
    vjp, again : float [F]
        The vjp of a step, and its stages evaluated once more.
    """

    algebra: int
    states: int
    params: int
    second: int
    hidden: int
    graph: int
    vjp: float
    again: float


def implicit_size(loop: Integrator, tape: int, arguments: int) -> ImplicitSize:
    """What the implicit method of a loop takes.

    Parameters
    ----------
    tape : int [bytes]
        Of one evaluation of f.
    arguments : int [bytes]
        Of what is differentiated beside y0.
    """
    bk, layout, solver = loop.bk, loop.layout, loop.solver
    state, traced = int(layout.nbytes), Capability.TRACED in bk.capabilities
    stored = storage(layout, cast("Structure", loop.problem.jac_structure))
    matrix = math.prod(stored.shape) * int(bk.itemsize(layout.real_dtype))
    products, algebra = stored.products, SPARE * matrix * traced
    without = getattr(solver, "linear_solver", None)
    if without is not None:  # a pull solves to rounding, and keeps more directions for that
        matrix, products, algebra = 0, without.memory, int(without.nbytes(layout))
    second = params = terms = 0
    if solver.second_derivatives:
        terms = min(solver.stages, Reals(layout).size + 1)
        if Capability.AUTODIFF in bk.capabilities:  # the products of all stages are one graph
            second = 2 * (terms + 1) * tape
        else:
            second, params = 4 * tape + OWN_SECOND * state, COMPLEX * arguments
    inside = solver.stages + 2 if loop.outputs.inside or loop.looks_inside else 0
    vjp, again = solver.pull_cost(products, terms)
    return ImplicitSize(
        algebra=algebra,
        states=(2 * solver.stages * (1 + solver.additive) + OWN + inside) * state,
        params=params,
        second=second,
        hidden=0 if traced or solver.switches else matrix,
        graph=solver.evaluations * (tape + state) + 3 * products * tape + 6 * matrix,
        vjp=vjp,
        again=again,
    )
