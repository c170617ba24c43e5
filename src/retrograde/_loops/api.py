"""``while_loop``, ``scan`` and ``loop_vjp``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, TypeAlias

from .._adjoints.checkpointed import RecursiveCheckpointAdjoint
from .._backend.registry import opaque
from .._base.errors import InputError
from .._base.types import Bool, Function, Memory, NeedsGradient, Tree
from .arguments import cotangents, run, scan_program, while_program, wrapped
from .checkpoints import check, choose

Kind: TypeAlias = Literal["checkpointed", "bounded", "lax"]


@opaque
def while_loop(
    cond: Callable[[Tree], Bool],
    body: Callable[[Tree], Tree],
    init: Tree,
    *,
    max_steps: int | None = None,
    kind: Kind = "checkpointed",
    checkpoints: int | None = None,
    memory: Memory | None = None,
    throw: bool = True,
) -> Tree:
    """``while cond(carry): carry = body(carry)``, with a gradient that fits into memory.

    Parameters
    ----------
    cond : callable
        ``cond(carry) -> bool`` or a 0-d boolean array.
    body : callable
        ``body(carry) -> carry`` of the same tree, shapes and dtypes. Arrays that it closes over
        get gradients in JAX and PyTorch. It must not change its argument in place.
    init : tree
        Floating arrays are differentiated; integers, booleans and plain numbers go through.
    max_steps : int or None
        Bound of the number of steps.
    kind : str
        ``"checkpointed"``: reverse mode by recursive checkpointing, in any memory.
        ``"bounded"``: the library's own autodiff follows the steps: forward and reverse mode, any
        order; every step's tape is kept (in JAX recomputed in blocks, and ``max_steps`` is
        needed). ``"lax"``: the library's plain loop; in JAX it has forward mode alone.
    checkpoints : int or None
        States stored, of "checkpointed".
    memory : str, int [bytes], float or None
        Budget of the gradient in place of ``checkpoints``: as in :func:`~retrograde.solve`.
    throw : bool
        Whether ``max_steps`` is a failure: SolveFailed, whose ``solution`` is the carry reached,
        where that is known; in traced programs floats of the result, and gradients, are nan.
        False: the loop takes at most ``max_steps`` steps.

    Returns
    -------
    tree
        The carry that ``cond`` rejected.

    Raises
    ------
    InputError
        For arguments that can't be used.
    PlanInfeasible
        If no schedule fits into ``memory``.
    SolveFailed
        If ``max_steps`` ended the loop.

    Notes
    -----
    Calls of the body by a gradient: n, plus n inside the vjps, plus the replays: for c
    checkpoints at most n while ``n + 1 <= (c + 1) (c + 2) / 2``. Where n is not known beforehand
    the states are placed online, within 5 % of the optimum from 5 checkpoints on.
    In traced libraries with neither ``checkpoints`` nor ``memory`` 64 states are stored. A body
    is called again on the same carry, so it must return the same: random numbers are drawn from a
    key or generator state in the carry, not from a global one.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> root = rg.while_loop(
    ...     lambda x: abs(x * x - 2) > 1e-12, lambda x: (x + 2 / x) / 2, np.asarray(1.0)
    ... )
    >>> bool(np.isclose(root, 2**0.5))
    True
    """
    program, inputs = while_program(cond, body, init, max_steps, kind, throw)
    return run(program, inputs, kind, checkpoints, memory)[0]


@opaque
def scan(
    body: Callable[[Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    xs: Tree = None,
    length: int | None = None,
    *,
    kind: Kind = "checkpointed",
    checkpoints: int | None = None,
    memory: Memory | None = None,
    reverse: bool = False,
) -> tuple[Tree, Tree]:
    """``carry, y = body(carry, x)`` over the rows of xs; the ys are stacked.

    Parameters
    ----------
    body : callable
        ``body(carry, x) -> (carry, y)``; see :func:`while_loop`.
    init : tree
        The first carry; as of :func:`while_loop`.
    xs : tree of array, shapes (length, ...)
        None: the body is given None.
    length : int or None
        Needed where ``xs`` has no arrays.
    kind, checkpoints, memory
        As in :func:`while_loop`.
    reverse : bool
        Whether to go from the last row to the first; rows of ys stand where those of xs do.

    Returns
    -------
    carry : tree
    ys : tree of array, shapes (length, ...)

    Raises
    ------
    InputError
        For arguments that can't be used.
    PlanInfeasible
        If no schedule fits into ``memory``.

    Notes
    -----
    Replays are the binomial optimum for the states stored (Griewank & Walther 2000,
    doi:10.1145/347837.347846). Rows of xs are read, and rows of ys and of the cotangents of xs
    written, once a step each: no step costs more because they are many.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> total, sums = rg.scan(lambda c, x: (c + x, c + x), np.asarray(0.0), np.arange(4.0))
    >>> sums.tolist()
    [0.0, 1.0, 3.0, 6.0]
    """
    program, inputs = scan_program(body, init, xs, length, kind, reverse)
    return run(program, inputs, kind, checkpoints, memory)


@opaque
def loop_vjp(
    loop: Function, *arguments: Tree, **keywords: Tree
) -> tuple[Tree, Callable[[Tree], Tree]]:
    """A loop, and its pullback: the gradient on every array library, with autodiff or without.

    Parameters
    ----------
    loop : callable
        ``rg.while_loop`` or ``rg.scan``.
    *arguments, **keywords
        As that takes them.

    Returns
    -------
    result
        What the loop returns.
    pullback : callable
        For ``while_loop`` ``pullback(cotangent of the carry) -> cotangent of init``; for ``scan``
        ``pullback((cotangent of the carry, cotangent of ys)) -> (of init, of xs)``. None stands
        for a cotangent of zeros, in place of a tree or of a leaf, and where there is no derivative.

    Raises
    ------
    InputError
        For another loop, or kind "lax".

    Notes
    -----
    Parameters go into the carry: what the body hands on as it is takes no memory. Where the
    library has no autodiff, the body is differentiated by retrograde's own tape. The pullback can
    be called again; with checkpoints a second call runs the loop once more.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> x, pullback = rg.loop_vjp(
    ...     rg.while_loop, lambda x: x < 100, lambda x: x * x, np.asarray(3.0)
    ... )
    >>> float(x), float(pullback(np.asarray(1.0)))
    (6561.0, 17496.0)
    """
    if loop not in (while_loop, scan):
        raise InputError(f"`loop` is {loop!r}; pass rg.while_loop or rg.scan.")
    call = inspect.signature(loop).bind(*arguments, **keywords)
    call.apply_defaults()
    settings = call.arguments
    checkpoints, memory = settings.pop("checkpoints"), settings.pop("memory")
    program, inputs = (while_program if loop is while_loop else scan_program)(**settings)
    kind = settings["kind"]
    check(program.loop, kind, checkpoints, memory)
    if kind == "lax":
        raise InputError('`kind` is "lax", which has no pullback; use "checkpointed".')
    the_loop = program.loop
    bk = the_loop.bk
    wanted = NeedsGradient(tuple(bool(bk.floating(x)) for x in inputs.params), False, False, False)
    program.adjoint = RecursiveCheckpointAdjoint()
    if kind == "checkpointed":
        first, again = choose(the_loop, checkpoints, memory, wanted)
        program.adjoint = again or first
    inputs = bk.detach_loop(the_loop, inputs)
    with bk.quiet():
        floats, aux, residuals = bk.run_forward(program, inputs)

    def pullback(cotangent: Tree) -> Tree:
        cts = cotangents(the_loop, floats, cotangent)
        with bk.quiet():
            found = bk.run_reverse(program, inputs, residuals, cts, wanted).params
        leaves: list[Tree] = [None] * len(the_loop.template)
        for i, x in zip(the_loop.where, found, strict=False):
            leaves[i] = x
        init = bk.unflatten(the_loop.treedef, leaves)
        if not the_loop.scans:
            return init
        rows = found[len(the_loop.where) : the_loop.given]
        return init, bk.unflatten(the_loop.xs_treedef, rows)

    result = wrapped(program, floats, aux)
    return (result if the_loop.scans else result[0]), pullback
