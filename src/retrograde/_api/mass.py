"""Mass matrices: what a solve of ``M y' = f`` is given, and whether it may begin where it does.

Where M is singular some equations have no derivative: a differential-algebraic system, of index 1
if they can be solved for the directions that M does not see. Then y0 must satisfy them. With P and
Q the projections on what M^T and M make 0, and K = M + P J Q, which is regular exactly if the index
is 1, the correction that a start needs is -K^-1 P f (Hairer & Wanner, *Solving ODEs II*, VI.1): the
start is consistent if that is within the tolerances.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from .._autodiff.linearise import prepare_derivatives
from .._autodiff.vector_field import VectorField
from .._backend.protocols import Capability
from .._backend.registry import backend_for
from .._base.errors import InputError
from .._base.types import Array, Inputs, State, Time, Tree, VectorFieldFn
from .._integrate.problem import Problem
from .._solvers import find_solver

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.structure import Structure
    from .._integrate.integrator import Integrator
    from .._solvers import AbstractSolver


def set_mass(bk: AbstractBackend, problem: Problem, solver: AbstractSolver, given: Any) -> None:
    """Note the user's M in the problem; InputError where it or the solver won't do."""
    layout, traced = problem.layout, Capability.TRACED in bk.capabilities
    if not solver.takes_mass:
        raise InputError(
            f"`mass` needs a Rosenbrock method, but `solver` is {solver.name}; pass "
            'solver="rodas5p" or "rosenbrock23".'
        )
    if layout.dtype != layout.real_dtype:
        raise InputError("`mass` takes a real y0, but this one is complex; split it into parts.")
    matrix = given
    if not bk.is_array(matrix):
        rows = getattr(matrix, "tolist", lambda: matrix)()
        matrix = bk.array(rows, layout.real_dtype, layout.device)
    linear: Any = bk.linear(layout, cast("Structure", problem.jac_structure))
    n = linear.n
    if tuple(matrix.shape) != (n, n):
        raise InputError(
            f"`mass` has shape {tuple(matrix.shape)}, but the state has {n} elements; pass an "
            f"array of shape ({n}, {n})."
        )
    if bk.concrete(bk.xp.all(bk.xp.isfinite(matrix))) == 0:
        raise InputError("`mass` holds nan or inf; every element must be finite.")
    if bk.is_array(given) and (
        bk.tracked(given) or (traced and bk.needs_gradient(cast(Inputs, (given,))))
    ):
        raise InputError(
            "`mass` is a constant without a gradient, whose numbers are known when the solve is "
            "called, but this one moves or is traced; detach it, or close over it."
        )
    if bk.concrete(linear.drops(matrix)):
        raise InputError(
            f"`mass` has entries outside of `structure`, {problem.jac_structure!r}, in which c M - "
            "J is kept; widen the structure, or reorder y."
        )
    if not traced:
        found = linear.mass(bk.stop_gradient(matrix))
        problem.mass = lambda: found
        return
    rows = getattr(given, "tolist", lambda: given)()  # constants of each program that has it
    problem.mass_key = repr(rows)
    problem.forget_key()

    def constant() -> Any:
        fresh = bk.array(rows, layout.real_dtype, layout.device)
        return bk.linear(layout, cast("Structure", problem.jac_structure)).mass(fresh)

    problem.mass = constant


def checked_start(loop: Integrator, inputs: Inputs) -> Inputs:
    """The same inputs, of a consistent y0: else InputError, or in traced code nan for y0."""
    bk, problem, layout = loop.bk, loop.problem, loop.layout
    if problem.jac_structure not in (None, "dense"):
        return inputs
    constant = bk.stop_gradient(inputs)
    with bk.quiet():
        start = loop.clock.real(constant.clocked[0])
        correction = correct(problem, constant.params, layout.time(start), constant.y0)
        scale = loop.tolerances(constant)
        off = loop.clock.real(layout.norm2(correction, constant.y0, scale))
        fine = off <= 1.0
    problem.trials += 1
    known = bk.concrete(fine)
    if known is None:
        y0 = bk.map_state(lambda x: bk.nan_unless(fine, x), inputs.y0)
        return inputs._replace(y0=y0)
    if not known:
        what = "no correction makes it so: the index is above 1, or f is not finite there"
        if off < float("inf"):
            what = f"a consistent one is {off**0.5:.3g} tolerances away"
        raise InputError(
            f"`y0` does not satisfy the equations without a derivative (`mass` is singular): {what}"
            ". Pass consistent values, as `rg.consistent_initial_values(...)` finds them."
        )
    return inputs


def correct(problem: Problem, params: Any, time: Array, y: State) -> State:
    """What is to be added to y for it to be consistent, to first order."""
    bk, layout = problem.bk, problem.layout
    linear: Any = bk.linear(layout, None)
    field = problem.bind(params)
    factors, onto = newton(problem, field, time, y)
    row = -bk.matmul(onto, linear.reals.of(layout.own(field(time, y)))[:, None])[:, 0]
    found: State = linear.solve(factors, linear.reals.state(row))
    return found


def newton(problem: Problem, field: Any, time: Array, y: State) -> tuple[Any, Array]:
    """Factors of K at (t, y), and P."""
    bk, layout = problem.bk, problem.layout
    linear: Any = bk.linear(layout, None)
    xp, mass = bk.xp, field.equations.mass[0]
    inverse = xp.linalg.pinv(mass)
    eye = xp.eye(mass.shape[0], dtype=mass.dtype, device=layout.device)
    onto, unseen = eye - bk.matmul(mass, inverse), eye - bk.matmul(inverse, mass)
    (jacobian,) = linear.jacobian(field, time, y)
    factors = linear.factor((mass + bk.matmul(bk.matmul(onto, jacobian), unseen),))
    return factors, onto


def consistent_initial_values(
    f: VectorFieldFn, y0: Tree, t0: Time, args: Tree = None, *, mass: Tree, tolerance: float = 1e-10
) -> Tree:
    """Initial values that satisfy the equations without a derivative of ``M y' = f``.

    Newton's method in the directions that M makes 0; what M sees of y0 stays.

    Parameters
    ----------
    f : callable
        ``f(t, y, args)``.
    y0 : tree of arrays
        Where to begin, and what M sees of the values.
    t0 : float [time]
        When.
    args : tree
        What f takes beside.
    mass : array, shape (n, n)
        As :func:`solve` takes it.
    tolerance : float
        Of the last correction, relative to 1 and the norm of y.

    Returns
    -------
    tree of arrays
        Like y0, without a gradient by it or args.

    Raises
    ------
    InputError
        Where 50 corrections don't lead there: the index is above 1, or y0 is too far.

    Examples
    --------
    A product of two numbers is 1, and one of them decays:

    >>> import numpy as np
    >>> import retrograde as rg
    >>> def f(t, y, args):
    ...     return np.stack([-y[0], y[0] * y[1] - 1.0])
    >>> M = np.diag([1.0, 0.0])
    >>> y0 = rg.consistent_initial_values(f, np.array([2.0, 3.0]), 0.0, mass=M)
    >>> y0.tolist()
    [2.0, 0.5]
    >>> sol = rg.solve(f, y0, 0.0, 1.0, mass=M, solver="rodas5p", rtol=1e-6)
    >>> abs(float(sol.ys[-1, 0] * sol.ys[-1, 1]) - 1.0) < 1e-5
    True
    """
    bk = backend_for(y0)
    if bk is None:
        raise InputError("`y0` must be a tree of arrays of one library.")
    if isinstance(f, VectorField):  # K is dense, whatever J is kept as
        f = dataclasses.replace(f, jac=None, structure=None)
    problem = Problem(bk, f, bk.stop_gradient(y0), bk.stop_gradient(args))
    bk.capture(problem, t0)
    prepare_derivatives(problem, t0, timed=False)
    set_mass(bk, problem, find_solver("rodas5p"), mass)
    layout, y = problem.layout, problem.y0

    def size(x: State) -> float:
        return float(float(layout.inner(x, x)) ** 0.5)

    with bk.quiet():
        for _ in range(50):
            moved = correct(problem, problem.params, layout.time(t0), y)
            y = layout.add(y, moved)
            off = size(moved) / (1.0 + size(y))
            if off <= tolerance:
                return problem.state_tree(y)
            if not off < float("inf"):
                break
    raise InputError(
        "`y0` is not led to consistent values by Newton's method: the index is above 1, f is not "
        "finite on the way, or y0 is too far; pass a nearer y0."
    )
