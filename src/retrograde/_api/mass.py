"""Mass matrices: what a solve of ``M y' = f`` is given, and whether it may begin where it does.

Where M is singular some equations have no derivative: a differential-algebraic system, of index 1
if they can be solved for the directions that M does not see. Then y0 must satisfy them. With P and
Q the projections on what M^T and M make 0, and K = M + P J Q, which is regular exactly if the index
is 1, the correction that a start needs is -K^-1 P f (Hairer & Wanner, *Solving ODEs II*, VI.1): the
start is consistent if that is within the tolerances. Of a diagonal M, K has the structure of J.

An M with a gradient is a function of the parameters, as ``SaveAt.fn`` is one: it is found anew
wherever the field is bound, so that autodiff follows it, and a step's exact vjp hands on its
cotangent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .._backend.protocols import Capability
from .._backend.registry import backend_for
from .._base.errors import InputError
from .._base.types import Array, Inputs, Scalar, Scale, State, Time, Tree, VectorFieldFn
from .._integrate.problem import Problem
from .._solvers import find_solver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._backend.interface import AbstractBackend
    from .._backend.linear import Linear, Matrix
    from .._backend.protocols import LinearField
    from .._backend.structure import Structure
    from .._integrate.integrator import Integrator
    from .._solvers import AbstractSolver


def solver_of(given: AbstractSolver | str, mass: Tree) -> AbstractSolver:
    """The user's solver; of one that switches, the method that takes an M."""
    solver = find_solver(given)
    if mass is None or solver.takes_mass:
        return solver
    stiff: AbstractSolver | None = getattr(solver, "stiff", None)
    if stiff is not None and stiff.takes_mass:
        return stiff
    raise InputError(
        f"`mass` needs a Rosenbrock method, but `solver` is {solver.name}; pass "
        'solver="rodas5p", "rosenbrock23" or "auto" (which is rodas5p then).'
    )


def set_mass(bk: AbstractBackend, problem: Problem, t0: Scalar, given: Any) -> None:
    """Note the user's M in the problem; InputError where it won't do."""
    layout, structure = problem.layout, cast("Structure", problem.jac_structure)
    if layout.dtype != layout.real_dtype:
        raise InputError("`mass` takes a real y0, but this one is complex; split it into parts.")
    traced = Capability.TRACED in bk.capabilities
    moves = bk.is_array(given) and (
        bk.tracked(given) or (traced and bk.needs_gradient(cast(Inputs, (given,))))
    )
    if "complex" in str(getattr(given, "dtype", "")):
        raise InputError("`mass` is complex, but the numbers of y are real; pass a real matrix.")
    if callable(given) or moves:
        matrix = _function(bk, problem, t0, given)
    else:
        rows = given if bk.is_array(given) else getattr(given, "tolist", lambda: given)()
        try:
            matrix = bk.stop_gradient(bk.array(rows, layout.real_dtype, layout.device))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"`mass` is {given!r}; pass a matrix of numbers, or a function of `args` that "
                "gives one."
            ) from error
        _constant(bk, problem, matrix, rows)
    linear: Linear = bk.linear(layout, structure)
    if tuple(matrix.shape) != (linear.n, linear.n):
        raise InputError(
            f"`mass` has shape {tuple(matrix.shape)}, but the state has {linear.n} elements; pass "
            f"an array of shape ({linear.n}, {linear.n}), or a function of `args` that gives one."
        )
    if bk.concrete(bk.xp.all(bk.xp.isfinite(matrix))) == 0:
        raise InputError("`mass` holds nan or inf; every element must be finite.")
    if bk.concrete(linear.drops(matrix)):
        raise InputError(
            f"`mass` has entries outside of `structure`, {structure!r}, in which c M - J is kept; "
            "widen the structure, or reorder y."
        )
    problem.forget_key()


def _constant(bk: AbstractBackend, problem: Problem, matrix: Array, given: Any) -> None:
    """An M without a gradient."""
    layout, structure = problem.layout, cast("Structure", problem.jac_structure)
    problem.mass_matrix = lambda params: matrix
    if Capability.TRACED not in bk.capabilities:
        found: list[Matrix] = []

        def kept(params: Any) -> Matrix:
            if not found:
                found.append(bk.linear(layout, structure).mass(matrix))
            return found[0]

        problem.mass = kept
        return
    rows = getattr(given, "tolist", lambda: given)()  # constants of each program that has it
    problem.mass_key, problem.mass_rows = repr(rows), rows

    def constant(params: Any) -> Matrix:
        fresh = bk.array(rows, layout.real_dtype, layout.device)
        made: Matrix = bk.linear(layout, structure).mass(fresh)
        return made

    problem.mass = constant


def _function(bk: AbstractBackend, problem: Problem, t0: Scalar, given: Any) -> Array:
    """An M that is a function of ``args``, or an array with a gradient; it as it is now."""
    layout, structure = problem.layout, cast("Structure", problem.jac_structure)
    fn: VectorFieldFn
    if callable(given):
        fn = lambda t, y, args: given(args)  # noqa: E731
    else:
        fn = lambda t, y, args: 1.0 * given  # noqa: E731
    leaves, _ = bk.example(problem, fn, t0)
    if len(leaves) != 1:
        raise InputError("`mass` returned a tree; return one array of shape (n, n).")

    def matrix(params: Any) -> Array:
        nothing = layout.unpack(layout.zeros())
        (found,) = problem.bind_output(fn, params)(layout.time(0.0), nothing)
        return bk.array(found, layout.real_dtype, layout.device)

    def stored(params: Any) -> Matrix:
        made: Matrix = bk.linear(layout, structure).mass(matrix(params))
        return made

    problem.mass_fn, problem.mass_matrix, problem.mass = fn, matrix, stored
    problem.mass_key = "of the parameters"
    return matrix(problem.params)


def checked_start(loop: Integrator, inputs: Inputs) -> Inputs:
    """The same inputs, of a consistent y0: else InputError, or in traced code nan for y0."""
    bk, problem, layout = loop.bk, loop.problem, loop.layout
    constant = bk.stop_gradient(inputs)
    with bk.quiet():
        start = loop.clock.real(constant.clocked[0])
        correct = corrector(problem, constant.params, layout.time(start), constant.y0)
        if correct is None:
            return inputs
        correction = correct(constant.y0)
        # steps of a given size have no tolerances
        scale = loop.tolerances(constant) if loop.controller.adaptive else Scale(1e-4, 1e-6)
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


class Kernels(NamedTuple):
    """What a singular M does not see.

    Attributes
    ----------
    structure
        That of K.
    onto : Matrix
        P, as the structure keeps it.
    system : callable
        ``system(J) -> K``, of what is kept.
    """

    structure: Structure
    onto: Matrix
    system: Callable[[Matrix], Matrix]


def _kernels(problem: Problem, matrix: Array) -> Kernels | None:
    """Those of M; None where it is seen to be regular."""
    bk, xp, layout = problem.bk, problem.bk.xp, problem.layout
    structure = cast("Structure", problem.jac_structure)
    eye = xp.eye(matrix.shape[0], dtype=layout.real_dtype, device=layout.device)
    diagonal = xp.sum(matrix * eye, axis=0)
    if problem.mass_rows is None:
        alone = bk.concrete(xp.all(matrix * eye == matrix))
        regular = bk.concrete(xp.all(diagonal != 0))
    else:  # in a trace, where nothing is concrete
        alone, regular = _is_diagonal(problem.mass_rows)
    if alone:
        if regular:
            return None
        linear: Linear = bk.linear(layout, structure)
        unseen = xp.astype(diagonal == 0, layout.real_dtype)
        mass, onto = linear.mass(matrix), linear.mass(eye * unseen)
        mask = linear.of_matrix(unseen[:, None] * unseen[None, :])
        return Kernels(structure, onto, lambda j: (mass[0] + mask * j[0],))
    if structure != "batch":
        structure = None
    linear, inverse = bk.linear(layout, structure), xp.linalg.pinv(matrix)
    mass, left = linear.mass(matrix), eye - bk.matmul(matrix, inverse)
    right = eye - bk.matmul(inverse, matrix)
    mul = bk.matmul
    return Kernels(structure, linear.mass(left), lambda j: (mass[0] + mul(mul(left, j[0]), right),))


def _is_diagonal(rows: Sequence[Sequence[float]]) -> tuple[bool, bool]:
    """Whether entries stand on the diagonal alone, and whether it has no zeros."""
    own = [row[i] for i, row in enumerate(rows)]
    others = any(any(row[:i]) or any(row[i + 1 :]) for i, row in enumerate(rows))
    return not others, all(own)


def corrector(
    problem: Problem, params: Any, time: Array, y: State
) -> Callable[[State], State] | None:
    """What is to be added to states near y for them to be consistent, to first order: ``-K^-1 P f``
    with K at y. None where M is regular."""
    assert problem.mass_matrix is not None
    bk, layout = problem.bk, problem.layout
    kernels = _kernels(problem, problem.mass_matrix(params))
    if kernels is None:
        return None
    linear: Linear = bk.linear(layout, kernels.structure)
    field = cast("LinearField", problem.bind(params))
    found = field.linearise(linear.reals, time, y, timed=False)
    if kernels.structure != problem.jac_structure:
        found.matrix = None  # the user's is kept otherwise
    factors = linear.factor(kernels.system(linear.of_products(found)))

    def correct(y: State) -> State:
        off = linear.product(kernels.onto, layout.own(field(time, y)))
        return linear.solve(factors, layout.weighted([(-1.0, off)]))

    return correct


def consistent_initial_values(
    f: VectorFieldFn, y0: Tree, t0: Time, args: Tree = None, *, mass: Tree, tolerance: float = 1e-10
) -> Tree:
    """Initial values that satisfy the equations without a derivative of ``M y' = f``.

    Newton's method in the directions that M makes 0; what M sees of y0 stays. A correction is
    halved until the one behind it is smaller (Deuflhard, *Newton Methods for Nonlinear Problems*,
    2004, 3.3).

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
    mass : array, shape (n, n), or callable
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
        Where 200 corrections don't lead there: the index is above 1, or y0 is too far.

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
    from .._autodiff.prepare_derivatives import prepare_derivatives

    bk = backend_for(y0)
    if bk is None:
        raise InputError("`y0` must be a tree of arrays of one library.")
    problem = Problem(bk, f, bk.stop_gradient(y0), bk.stop_gradient(args))
    bk.capture(problem, t0)
    prepare_derivatives(problem, t0, timed=False)
    set_mass(bk, problem, t0, mass)
    layout, y = problem.layout, problem.y0

    def size(x: State) -> float:
        return float(float(layout.inner(x, x)) ** 0.5)

    time = layout.time(t0)
    with bk.quiet():
        for _ in range(200):
            correct = corrector(problem, problem.params, time, y)
            if correct is None:
                return y0
            moved = correct(y)
            whole = size(moved)
            if whole <= tolerance * (1.0 + size(y)):
                return problem.state_tree(layout.add(y, moved))
            for part in (2.0**-k for k in range(13)):
                tried = layout.weighted([(1.0, y), (part, moved)])
                if size(correct(tried)) <= (1.0 - part / 4) * whole:
                    break
            else:  # nan, too
                break
            y = tried
    raise InputError(
        "`y0` is not led to consistent values by Newton's method: the index is above 1, f is not "
        "finite on the way, or y0 is too far; pass a nearer y0."
    )
