"""``solve``, ``solve_vjp`` and ``plan``: normalise, plan, run, wrap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack, overload

from .._adjoints import find_adjoint
from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._base.log import INFO, listener
from .._base.types import Array, Aux, Inputs, Leaves, Plain, Time, Tree, VectorFieldFn, Y
from .._integrate.dense import DENSE, DenseOutput, dense_output
from .._integrate.event_times import moved_rows
from .._integrate.events import Hit
from .._integrate.moving_times import moving_times
from .._integrate.saveat import filled
from .._integrate.solution import Gradients, Solution, Status, check
from .._planner.plan import Plan
from .arguments import prepare
from .options import Keywords, Options, entry
from .solve_program import DifferentiableSolve, Pullback, note_steps


@overload
def solve(
    f: VectorFieldFn, y0: Plain, t0: Time, t1: Time, args: Tree = ..., **keywords: Unpack[Keywords]
) -> Solution[Tree]: ...
@overload
def solve(
    f: VectorFieldFn, y0: Y, t0: Time, t1: Time, args: Tree = ..., **keywords: Unpack[Keywords]
) -> Solution[Y]: ...
@entry
def solve(
    f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree = None, **keywords: Unpack[Keywords]
) -> Solution[Tree]:
    """Solve dy/dt = f(t, y, args) from t0 to t1; the library's own gradients go through it.

    Parameters
    ----------
    f : callable
        ``f(t, y, args) -> dy/dt`` with the tree, shapes and dtype of y. t is a 0-d array of y's
        real dtype: t0 and the time passed since then, added and rounded to it (in float32 a t of
        1e6 has a resolution of 0.06; the steps themselves are exact there, see Notes). A
        ``torch.nn.Module``'s parameters, and tensors or tracers that f closes over, get
        gradients. It must not change y and args in place: NumPy's arrays are read-only in it.
        It may return lists or tuples for y's arrays, and numbers of Python in them.
    y0 : array, number, list of numbers, or tree of these
        Initial state, real or complex, of one array library and device. Leaves of half precision,
        or of several dtypes, are carried in the least dtype that holds them all, float32 at least;
        f and the solution have them in their own. Bools are no state. Numbers, lists of
        numbers and integer arrays become floating arrays of the library that the other arrays
        (of y0, args, t0, t1) are of, of their dtype and device; NumPy's where there are none. A
        tuple of numbers, and a list that holds arrays, are trees.
    t0, t1 : float or array, shape () [time]
        ``t1 < t0`` solves backward. t1 may be ``math.inf`` where an event ends the solve.
    args : tree
        Handed to f; its floating leaves get gradients. Floats of Python are 0-d arrays inside of
        f. Ints and integer arrays stay what they are and have no gradient: they count, index or
        choose. But where args holds numbers alone (``10``, or ``(10, 28, 8 / 3)``) its ints are
        parameters like the others, unless f fails with floats in their place.
    solver : str or AbstractSolver
        The method, ``rg.Tsit5()`` or its name, such as ``"tsit5"``, ``"dopri8"``, ``"rk4"``,
        ``"leapfrog"``. SciPy's names are known: ``"RK45"`` is dopri5, ``"RK23"`` bosh3 and
        ``"DOP853"`` dopri8.
    dt : float [time] or None
        Constant steps of this size; None for adaptive ones.
    rtol, atol : float or tree of arrays
        Tolerances of adaptive steps.
    controller : AbstractController or None
        Overrides dt, rtol and atol.
    saveat : SaveAt, times, a tuple, list or dict of SaveAt, or None
        What to return; times alone are ``SaveAt(ts=times)``. None returns the state at t1, with a
        leading axis of one. Of a tuple, list or dict of SaveAt, ``sol.ts`` and ``sol.ys`` are
        tuples, lists or dicts.
    event : Event, sequence of Event or None
        What happens where a condition crosses zero: it ends the solve (then the row for t1 is that
        of the event, and saved times behind it are padding, inf), resets the state, or is recorded
        (``sol.events``). See :class:`Event`.
    mass : array, shape (n, n), callable or None
        M of ``M y' = f(t, y, args)``, over the n numbers of y, leaf by leaf, of a Rosenbrock method
        (``solver="rodas5p"``, which ``"auto"`` is then). It may be singular: of a
        differential-algebraic system of index 1, whose y0 must be consistent, which is checked
        (:func:`consistent_initial_values`). ``mass(args) -> M`` has a gradient by args; so have
        arrays that require one in PyTorch, or are traced in JAX. Other arrays are constants. With
        ``structure="batch"``, and ``per_sample=True``, it is that of one sample.
    adjoint : str, AbstractAdjoint or Plan
        How the gradient is computed: ``"auto"`` (the planner's choice), ``"backsolve"``,
        ``"direct"``, ``"forward"``, ``"recursive_checkpoint"``, ``"reversible"``, ``"tape"``. A
        plan is followed by a problem of the same library, shapes, dtypes and solver; values, times
        and the number of steps up to its own may differ (see :class:`Plan`).
    memory : str, int [bytes], float or None
        Budget of the gradient: ``"512 MiB"``, bytes, a fraction of the free memory of the device
        below 1; None is half of it.
    max_steps : int or None
        Bound of the number of tries; None: no bound in eager libraries (100,000 where t1 is
        infinite), 4096 in traced ones. A solve that takes long tells the logger ``retrograde`` how
        far it is.
    per_sample : bool
        Whether axis 0 of every leaf of y0 is a batch whose samples have steps, counts and a status
        of their own. f gets t of shape (b,), y and what :class:`PerSample` marks in args with the
        b samples in front that still run. t0 and t1 may have shape (B,), ``SaveAt.ts`` (B, k).
        ``ys`` has leaves (k, B, *shape), ``ts`` shape (k, B); ``status``, ``t_final`` and ``stats``
        shape (B,).
    progress : bool or callable
        True shows a tqdm bar; a callable is given the part done, from 0 to 1: some twenty times
        a second, in JAX where another per cent begins (under ``jit`` and ``grad`` too; of a
        ``vmap`` the least part). There each report takes some 0.1 ms of the program's time. In
        eager libraries a bar shows the reverse pass, too (not that of ``per_sample``); a callable
        is told of the solve alone.
    on_step : callable or None
        ``on_step(t, y, h, accepted)`` is called of every try of a step that the solve makes: its
        start t, the state y there, its size h, and whether it was accepted; t, h and accepted are
        plain numbers. With ``per_sample``, ``on_step(t, y, h, accepted, sample)`` is given arrays
        whose first axis is that of the samples that try, the last one with their numbers.
        In JAX it is a ``jax.debug.callback``, in the same program; a fresh function is a new
        program.
    throw : bool
        Raise SolveFailed where a solve does not reach t1. False, and where the status has no value
        yet (``jax.jit``, ``vmap``): rows of ``ys`` and ``ts`` that were not reached are nan, and so
        are all gradients; ``status`` says why, ``t_final`` where, and ``raise_if_failed()`` of what
        comes out of the trace raises. In eager libraries the row for t1 then holds the state and
        the time where the solve stopped.
    compile : bool
        PyTorch: run every step, and the vjp of every step, as one program of ``torch.compile``.
        The first solve of an f takes seconds more, later ones take a fraction of the time. f must
        be one program: no branch on a tensor's value. Explicit Runge-Kutta methods and Rosenbrock
        methods (dense systems), reverse mode, first derivatives. In JAX a solve is compiled anyway;
        NumPy and CuPy have no such thing.

    Returns
    -------
    Solution
        Its ``ys`` has the tree of y0, with a leading axis of times; ``ts`` are the times, ``stats``
        counts of steps and evaluations, ``status`` how it ended, ``plan`` what gradients follow.

    Raises
    ------
    InputError
        For arguments that can't be used.
    PlanInfeasible
        If no gradient method fits into ``memory``.
    SolveFailed
        If the solve ends early; its ``solution`` holds what was computed.
    UnsupportedByBackend
        For what the library at hand can't do.

    Notes
    -----
    Gradients are those of the discrete solve, with the accepted step sizes as constants.

    Time is counted from t0: a solve from t0 takes the steps of the same solve from 0, whatever the
    size of t0. Differences of t0, t1 and ``SaveAt.ts`` are taken in float64 where they are
    numbers, and in their own dtype where they are traced arrays.

    A time or a threshold that f reads only in comparisons, as ``stop`` in
    ``where(t < stop, rate, 0)``, has the gradient 0: no library sees the jump move. Name it in
    ``PIDController(jump_ts=...)``: then the gradient comes by that.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> rate = np.asarray(0.5)
    >>> sol = rg.solve(lambda t, y, rate: -rate * y, np.asarray([1.0, 2.0]), 0.0, 1.0, rate)
    >>> bool(np.allclose(sol.ys[-1], [0.60653, 1.21306], atol=1e-4))
    True
    """
    options = Options.of("solve", keywords)
    if not isinstance(options.adjoint, Plan):
        find_adjoint(options.adjoint)
    if options.per_sample:
        from .per_sample import solve_samples  # for who wants it

        return solve_samples(solve, f, y0, t0, t1, args, options)
    loop, inputs = prepare(f, y0, t0, t1, args, options)
    bk = loop.bk
    program = DifferentiableSolve(loop, RecursiveCheckpointAdjoint())
    if bk.needs_gradient(inputs):
        from .._planner.choose import choose_plan  # for who wants a gradient

        the_plan = choose_plan(loop, inputs, options.adjoint, options.memory, native=True)
        program = DifferentiableSolve(loop, the_plan.adjoint, the_plan)
    loop.progress, loop.on_step = options.progress, options.on_step
    leaves, aux = bk.differentiate(program, inputs)
    return finished_solution(program, inputs, (leaves, aux), options.throw)


@overload
def solve_vjp(
    f: VectorFieldFn, y0: Plain, t0: Time, t1: Time, args: Tree = ..., **keywords: Unpack[Keywords]
) -> tuple[Solution[Tree], Callable[..., Gradients[Tree]]]: ...
@overload
def solve_vjp(
    f: VectorFieldFn, y0: Y, t0: Time, t1: Time, args: Tree = ..., **keywords: Unpack[Keywords]
) -> tuple[Solution[Y], Callable[..., Gradients[Y]]]: ...
@partial(entry, documented=solve)
def solve_vjp(
    f: VectorFieldFn, y0: Tree, t0: Time, t1: Time, args: Tree = None, **keywords: Unpack[Keywords]
) -> tuple[Solution[Tree], Callable[..., Gradients[Tree]]]:
    """Solve, and a pullback: the gradient on every array library, with autodiff or without.

    Takes what :func:`solve` takes. Where the library has no autodiff, the vjp of f comes from
    ``rg.VectorField(f, vjp=...)`` or from retrograde's own tape.

    Parameters
    ----------
    f : callable
        ``f(t, y, args) -> dy/dt``, as :func:`solve` takes it.
    y0 : array, number, list of numbers, or tree of these
        Initial state.
    t0, t1 : float or array, shape () [time]
        Where it starts and ends.
    args : tree
        Handed to f; every float in it, Python's own too, gets a gradient.
    **keywords
        As :func:`solve` takes them.

    Returns
    -------
    sol : Solution
        As of :func:`solve`.
    pullback : callable
        ``pullback(cotangent of sol.ys) -> Gradients(y0, args, t0, t1, ts, jump_ts)``. The cotangent
        is like ``sol.ys``, or lists of numbers of its shape. ``pullback(ys, ts)`` takes that of
        ``sol.ts`` as well: times of rows move with t0, t1 and the saved times. With dense output
        ``pullback(ys, evaluated=(t, cotangent of sol.evaluate(t)))``; ``ys`` may be None.

    Notes
    -----
    The pullback can be called again; with checkpoints a second call solves once more, since the
    first one uses them up. Do not change y0 and args in place before you call it: it reads them.
    Where f uses t in plain code (``math.cos(t)``, ``np.interp(t, ...)``), the other gradients are
    there all the same; ``t0``, ``t1`` and ``ts`` raise UnsupportedByBackend when they are read.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> rate = np.asarray(0.5)
    >>> sol, pullback = rg.solve_vjp(lambda t, y, k: -k * y, np.asarray([1.0]), 0.0, 1.0, rate)
    >>> g = pullback(np.ones_like(sol.ys))
    >>> bool(np.isclose(g.args, -np.exp(-0.5), rtol=1e-4))
    True
    """
    from .._planner.choose import choose_plan

    options = Options.of("solve_vjp", keywords)
    if options.per_sample:
        from .per_sample import solve_samples_vjp  # for who wants it

        return solve_samples_vjp((solve_vjp, solve), f, y0, t0, t1, args, options)
    loop, inputs = prepare(f, y0, t0, t1, args, options, native=False)
    bk, problem = loop.bk, loop.problem
    problem.notes_untimed = True  # derivatives by times are there for who reads them
    the_plan = choose_plan(loop, inputs, options.adjoint, options.memory, native=False)
    program = DifferentiableSolve(loop, the_plan.adjoint, the_plan)
    loop.progress, loop.on_step = options.progress, options.on_step
    inputs = bk.detach(problem, inputs)
    pullback = Pullback((f, y0, t0, t1, args, options), program, inputs)
    leaves, aux = pullback.forward()
    return finished_solution(program, inputs, (leaves, aux), options.throw, pullback), pullback


@partial(entry, documented=solve)
def plan(
    f: VectorFieldFn,
    y0: Tree,
    t0: Time,
    t1: Time,
    args: Tree = None,
    *,
    calibrate: bool = False,
    **keywords: Unpack[Keywords],
) -> Plan:
    """The plan that ``solve`` with the same arguments would follow.

    It runs f at most twice for constant steps and for an adjoint that is named, and a probe of
    24 tries of a step at most for adaptive ones, whose number it predicts. With ``per_sample`` it
    does so for each of 16 samples at most and counts with the one that takes most steps; bytes are
    those of all samples together.

    Parameters
    ----------
    f : callable
        ``f(t, y, args) -> dy/dt``, as :func:`solve` takes it.
    y0 : array, number, list of numbers, or tree of these
        Initial state.
    t0, t1 : float or array, shape () [time]
        Where it starts and ends.
    args : tree
        Handed to f; see :func:`solve`.
    **keywords
        As :func:`solve` takes them.
    calibrate : bool
        Measure what the vjp of a step costs over the step, on this machine, with this f, solver
        and library, in place of the 2 that is assumed else. This runs some 60 steps and takes
        about a second at most, or three rounds of 8 steps where that is more.

    Returns
    -------
    Plan
        ``print`` it for the table of candidates.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> p = rg.plan(lambda t, y, args: -y, np.ones(4), 0.0, 1.0, dt=0.01, memory="2 KiB")
    >>> p.memory <= p.budget == 2048
    True
    """
    from .._planner.choose import choose_plan

    options = Options.of("plan", keywords)
    if options.per_sample:
        from .per_sample import plan_of_samples  # for who wants it

        single = partial(plan, calibrate=calibrate)
        return plan_of_samples(single, f, y0, t0, t1, args, options)
    loop, inputs = prepare(f, y0, t0, t1, args, options)
    given = options.adjoint, options.memory
    return choose_plan(loop, inputs, *given, native=True, plan_only=True, calibrate=calibrate)


def finished_solution(
    program: DifferentiableSolve,
    inputs: Inputs,
    result: tuple[Leaves, Aux],
    throw: bool,
    pullback: Pullback | None = None,
) -> Solution[Tree]:
    """The solution of what a program told; what its pullback needs of it is noted there."""
    leaves, aux = result
    rows = _rows(program, inputs, leaves, aux)
    if pullback is not None:
        pullback.ts, pullback.ys, pullback.dense, _ = rows
        pullback.steps = aux[1]
        if (events := program.loop.events) is not None:
            pullback.leaves = events.forms(leaves, program.loop.outputs.width)
    return _solution(program, inputs, rows, aux, throw)


def _rows(
    program: DifferentiableSolve, inputs: Inputs, leaves: Leaves, aux: Aux
) -> tuple[list[Array], list[Tree], DenseOutput | None, tuple[Hit, ...]]:
    """Times and rows of each output, dense output, and what the events recorded."""
    loop = program.loop
    bk, out, n = loop.bk, loop.outputs, loop.bk.number(aux[1])
    events, happened = loop.events, leaves[out.width :]
    ts: list[Array] = []
    ys: list[Tree] = []
    dense = None
    for part, at, rows in zip(out.parts, aux[0], out.split(leaves), strict=True):
        if part.saveat is DENSE:
            dense = dense_output(loop, inputs, part, at, rows, n, (happened, aux[-1]))
            continue
        if part.inside == "steps" and isinstance(n, int):  # drop a traced buffer's unused rows
            count = n + part.saveat.t0
            at, rows = at[:count], tuple(x[:count, ...] for x in rows)
        at = moving_times(loop, inputs, part, at, n)
        if events is not None and part.inside == "steps":
            reported = happened, aux[-1]
            at = moved_rows(loop, inputs, at, n, reported, first=part.saveat.t0)
        if events is not None and part.saveat.final:
            at = bk.xp.concat([at[:-1], bk.xp.reshape(happened[-1], (1,))], axis=0)
        ts.append(at)
        own, cast = part.saveat.fn is None, loop.problem.casts
        ys.append(loop.problem.tree(rows) if own else bk.unflatten(part.treedef, rows))
        if own and cast is not None:
            ys[-1] = cast.y.down(ys[-1])
    hits = () if events is None else events.hits(loop.problem, happened, aux[-1])
    return ts, ys, dense, hits


def _solution(
    program: DifferentiableSolve,
    inputs: Inputs,
    rows: tuple[list[Array], list[Tree], DenseOutput | None, tuple[Hit, ...]],
    aux: Aux,
    throw: bool,
) -> Solution[Tree]:
    """Wrap; raise where the status is known and bad."""
    loop, stats = program.loop, program.stats
    bk, out = loop.bk, loop.outputs
    _, n, tries, status, t, inside, calls, happened = aux
    n, tries, t, inside = (bk.number(x) for x in (n, tries, t, inside))
    cuts = bk.number(happened[3]) if happened else 0
    stats.update(
        num_steps=tries,
        num_accepted_steps=n,
        num_rejected_steps=tries - n,
        **loop.statistics(tries, n, inside, calls, cuts),
    )
    if not loop.clock.traced:
        stats["num_trial_f_evals"] = loop.problem.trials
        if loop.problem.stiff_from is not None:
            stats["stiff_from"] = loop.problem.stiff_from
    value = bk.concrete(status)
    status = status if value is None else Status(int(value))
    ts, ys = (filled(out.treedef, part) for part in rows[:2])
    dense, hits = rows[2:]
    ended = bk.number(happened[2]) if happened else -1
    if dense is not None and (loop.clock.traced or status is not Status.converged):
        done = loop.clock.either(status == int(Status.converged), status == int(Status.event))
        dense = dense.spoiled(done)
    solution = Solution(ts, ys, stats, status, t, program.plan, dense, ended, hits)
    if status is Status.converged:
        note_steps(program, inputs, n)
    elif status is not Status.event and not throw and value is not None:
        if log := listener(INFO):
            words = "A solve failed at t = %r after %d tries: %s"
            log.info(words, t, tries, Status(status).message)
    return check(solution) if throw else solution
