"""``steady_state``: where a solve comes to rest, and the gradient of that by a linear system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Unpack

from .._adjoints.implicit import ImplicitAdjoint
from .._backend.registry import backend_beside
from .._base.errors import SolveFailed
from .._base.types import Array, Bool, Tree, VectorFieldFn
from .._integrate.events import Event
from .._integrate.solution import Gradients, Solution, Status
from .arguments import prepare
from .options import Options, RestKeywords, RestOptions, entry
from .solve import finished_solution
from .solve_program import DifferentiableSolve, Pullback


@partial(entry, options=RestOptions)
def steady_state(
    f: VectorFieldFn, y0: Tree, args: Tree = None, **keywords: Unpack[RestKeywords]
) -> Solution[Tree]:
    """Solve dy/dt = f(t, y, args) from 0 until it rests, with the gradient of the steady state.

    Parameters
    ----------
    f : callable
        ``f(t, y, args) -> dy/dt``, which comes to rest.
    y0 : array, number, list of numbers, or tree of these
        Where it starts: it decides which steady state is found, and has the gradient zero.
    args : tree
        Handed to f; its floating leaves, and what f closes over, get gradients.
    t1 : float [time]
        When it has to rest; inf: whenever it does, within ``max_steps``.
    solver : str or AbstractSolver
        The method, or its name.
    rtol, atol : float
        Tolerances of the steps; f counts as zero where its root mean square, in units of
        ``atol + rtol |y|``, is below 1.
    max_steps : int or None
        Bound of the number of tries; None: 100,000 in eager libraries, 4096 in traced ones.
    throw : bool
        Raise SolveFailed where it does not rest by t1.

    Returns
    -------
    Solution
        ``sol.ys`` with a leading axis of one, ``sol.ts`` when it rested. Its status is ``event``.

    Raises
    ------
    SolveFailed
        Where f is not small at t1, or the steps are more than ``max_steps``.

    Notes
    -----
    The gradient is by the implicit function theorem (``f = 0`` there): one linear system in the
    Jacobian of f, solved with vjps, whatever the length of the solve, in a few states of memory.
    It is as exact as the state is steady. Reverse mode, first derivatives; real states.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> grow = lambda t, y, args: args[0] * y * (1.0 - y / args[1])
    >>> sol = rg.steady_state(grow, np.array([0.1]), np.array([2.0, 3.0]))
    >>> sol.ys.round(6).tolist(), sol.status.name
    ([[3.0]], 'event')
    """
    wish = RestOptions.of("steady_state", keywords)
    options, throw = _options(f, y0, args, wish), wish.throw
    loop, inputs = prepare(f, y0, 0.0, wish.t1, args, options)
    program = DifferentiableSolve(loop, ImplicitAdjoint())
    leaves, aux = loop.bk.differentiate(program, inputs)
    return _rested(program, finished_solution(program, inputs, (leaves, aux), throw), throw)


@partial(entry, documented=steady_state, options=RestOptions)
def steady_state_vjp(
    f: VectorFieldFn, y0: Tree, args: Tree = None, **keywords: Unpack[RestKeywords]
) -> tuple[Solution[Tree], Callable[[Tree], Gradients[Tree]]]:
    """The same, and a pullback: its gradient on every array library.

    Parameters
    ----------
    f : callable
        ``f(t, y, args) -> dy/dt``, as :func:`steady_state` takes it.
    y0 : array, number, list of numbers, or tree of these
        Where it starts.
    args : tree
        Handed to f.
    **keywords
        As :func:`steady_state` takes them.

    Returns
    -------
    sol : Solution
    pullback : callable
        ``pullback(cotangent of sol.ys) -> Gradients``, of which those of args matter.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> grow = lambda t, y, args: args[0] * y * (1.0 - y / args[1])
    >>> sol, pullback = rg.steady_state_vjp(grow, np.array([0.1]), np.array([2.0, 3.0]))
    >>> pullback(np.ones((1, 1))).args.round(6).tolist()
    [0.0, 1.0]
    """
    wish = RestOptions.of("steady_state_vjp", keywords)
    options, throw = _options(f, y0, args, wish), wish.throw
    loop, inputs = prepare(f, y0, 0.0, wish.t1, args, options, native=False)
    loop.problem.notes_untimed = True
    program = DifferentiableSolve(loop, ImplicitAdjoint())
    inputs = loop.bk.detach(loop.problem, inputs)
    pullback = Pullback((f, y0, 0.0, wish.t1, args, options), program, inputs)
    leaves, aux = pullback.forward()
    solution = finished_solution(program, inputs, (leaves, aux), throw, pullback)
    return _rested(program, solution, throw), partial(_pulled, pullback)


def _options(f: VectorFieldFn, y0: Tree, args: Tree, wish: RestOptions) -> Options:
    """Those of a solve that ends where f is small."""
    bk, rtol, atol = backend_beside(y0, args, ()), wish.rtol, wish.atol

    def rests(t: Array, y: Tree, args: Tree) -> Bool:
        xp, total, count = bk.xp, 0.0, 0
        for k, x in zip(bk.flatten(f(t, y, args))[0], bk.flatten(y)[0], strict=True):
            part = xp.abs(k) / (atol + rtol * xp.abs(x))
            total, count = total + xp.sum(part * part), count + _size(x)
        return (total < count) & (t > 0.0)

    return Options(
        solver=wish.solver, rtol=rtol, atol=atol, event=Event(rests), max_steps=wish.max_steps,
        throw=wish.throw,
    )  # fmt: skip


def _pulled(pullback: Pullback, cotangent: Tree) -> Gradients[Tree]:
    return pullback(cotangent)


def _size(x: Array) -> int:
    found = 1
    for n in x.shape:
        found *= int(n)
    return found


def _rested(program: DifferentiableSolve, solution: Solution[Tree], throw: bool) -> Solution[Tree]:
    """The state at rest: when that was depends on the steps, and has no derivative.

    A solve that got to t1 first has failed.
    """
    bk, ys = program.loop.bk, solution.ys
    if solution.status is Status.converged and throw:
        raise SolveFailed(
            f"`f` is not small at t1 = {solution.t_final!r}: raise `t1`, loosen `rtol` and `atol`, "
            "or look whether it comes to rest at all.",
            solution,
        )
    if program.loop.clock.traced:
        leaves, treedef = bk.flatten(ys)
        rests = solution.status == int(Status.event)
        ys = bk.unflatten(treedef, [bk.nan_unless(rests, x) for x in leaves])
    return replace(solution, ts=bk.stop_gradient(solution.ts), ys=ys, events=())
