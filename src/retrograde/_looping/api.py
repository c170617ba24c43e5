"""``while_loop``, ``scan`` and ``loop_vjp``: normalise, choose a schedule, run, wrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._adjoints import DirectAdjoint, RecursiveCheckpointAdjoint
from .._errors import InputError, SolveFailed
from .._types import Inputs, Tree, Wanted
from ..backend import Capability
from .body import Loop
from .program import LoopProgram
from .schedule import choose

__all__ = ["loop_vjp", "scan", "while_loop"]

KINDS = ("checkpointed", "bounded", "lax")


def while_loop(
    cond: Callable[[Any], Any],
    body: Callable[[Any], Any],
    init: Tree,
    *,
    max_steps: int | None = None,
    kind: str = "checkpointed",
    checkpoints: int | None = None,
    memory: Any = None,
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
    In traced libraries with neither ``checkpoints`` nor ``memory`` 64 states are stored.

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
    program, inputs = _while(cond, body, init, max_steps, kind, throw)
    return _run(program, inputs, kind, checkpoints, memory)[0]


def scan(
    body: Callable[[Any, Any], Any],
    init: Tree,
    xs: Tree = None,
    length: int | None = None,
    *,
    kind: str = "checkpointed",
    checkpoints: int | None = None,
    memory: Any = None,
    reverse: bool = False,
) -> tuple[Tree, Tree]:
    """``carry, y = body(carry, x)`` over the rows of xs; the ys are stacked.

    Parameters
    ----------
    body : callable
        ``body(carry, x) -> (carry, y)``; see :func:`while_loop`.
    init : tree
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
    program, inputs = _scan(body, init, xs, length, kind, reverse)
    return _run(program, inputs, kind, checkpoints, memory)


def loop_vjp(
    loop: Callable[..., Any], *arguments: Any, **keywords: Any
) -> tuple[Any, Callable[..., Any]]:
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
        for a cotangent of zeros, and where there is no derivative.

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
    if loop is while_loop:
        parts = _while_arguments(*arguments, **keywords)
    elif loop is scan:
        parts = _scan_arguments(*arguments, **keywords)
    else:
        raise InputError(f"`loop` is {loop!r}; pass rg.while_loop or rg.scan.")
    program, inputs, kind, checkpoints, memory = parts
    if kind == "lax":
        raise InputError('`kind` is "lax", which has no pullback; use "checkpointed".')
    the_loop = program.loop
    bk = the_loop.bk
    wanted = Wanted(tuple(bool(bk.floating(x)) for x in inputs.params), False, False, False)
    program.adjoint = RecursiveCheckpointAdjoint()
    if kind == "checkpointed":
        first, again = choose(the_loop, checkpoints, memory, wanted)
        program.adjoint = again or first
    inputs = bk.detach_loop(the_loop, inputs)
    with bk.quiet():
        floats, aux, residuals = bk.run_forward(program, inputs)

    def pullback(cotangent: Any) -> Any:
        cts = _cotangents(the_loop, floats, cotangent)
        with bk.quiet():
            found = bk.run_reverse(program, inputs, residuals, cts, wanted).params
        leaves: list[Any] = [None] * len(the_loop.template)
        for i, x in zip(the_loop.where, found, strict=False):
            leaves[i] = x
        init = bk.unflatten(the_loop.treedef, leaves)
        if not the_loop.scans:
            return init
        rows = found[len(the_loop.where) : the_loop.given]
        return init, bk.unflatten(the_loop.xs_treedef, rows)

    result = _wrapped(program, floats, aux)
    return (result if the_loop.scans else result[0]), pullback


# --- arguments


def _while_arguments(
    cond: Any,
    body: Any,
    init: Any,
    *,
    max_steps: Any = None,
    kind: str = "checkpointed",
    checkpoints: Any = None,
    memory: Any = None,
    throw: bool = True,
) -> Any:
    return *_while(cond, body, init, max_steps, kind, throw), kind, checkpoints, memory


def _scan_arguments(
    body: Any,
    init: Any,
    xs: Any = None,
    length: Any = None,
    *,
    kind: str = "checkpointed",
    checkpoints: Any = None,
    memory: Any = None,
    reverse: bool = False,
) -> Any:
    return *_scan(body, init, xs, length, kind, reverse), kind, checkpoints, memory


def _while(
    cond: Any, body: Any, init: Any, max_steps: Any, kind: str, throw: bool
) -> tuple[LoopProgram, Inputs]:
    _callable("cond", cond)
    if max_steps is not None and (isinstance(max_steps, bool) or not isinstance(max_steps, int)
                                  or max_steps < 0):  # fmt: skip
        raise InputError(f"`max_steps` is {max_steps!r}; pass a whole number, or None.")
    loop = Loop(cond, body, init, None, count=None, max_steps=max_steps)
    return _prepared(loop, kind, throw)


def _scan(
    body: Any, init: Any, xs: Any, length: Any, kind: str, reverse: bool
) -> tuple[LoopProgram, Inputs]:
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)
                               or length < 0):  # fmt: skip
        raise InputError(f"`length` is {length!r}; pass a whole number, or None.")
    loop = Loop(None, body, init, xs, count=length, reverse=bool(reverse))
    for x in loop.xs_leaves:
        if not loop.bk.is_array(x) or not x.shape:
            what = f"shape {tuple(x.shape)}" if loop.bk.is_array(x) else f"type {type(x).__name__}"
            raise InputError(
                f"`xs` has a leaf of {what}; make every leaf an array of shape (length, ...)."
            )
        if loop.count is None:
            loop.count = int(x.shape[0])
        elif loop.count != x.shape[0]:
            raise InputError(
                f"`xs` has a leaf of {x.shape[0]} rows where {loop.count} are expected (`length`, "
                "or the rows of another leaf); make them equal."
            )
    if loop.count is None:
        raise InputError("`length` is None and `xs` has no arrays; pass one of them.")
    return _prepared(loop, kind, True)


def _prepared(loop: Loop, kind: str, throw: bool) -> tuple[LoopProgram, Inputs]:
    _callable("body", loop.body)
    if kind not in KINDS:
        raise InputError(f"`kind` is {kind!r}; pass one of {', '.join(map(repr, KINDS))}.")
    loop.capture()
    inputs = Inputs((), tuple(loop.params), None, None, ())
    return LoopProgram(loop, DirectAdjoint(), throw=throw), inputs


def _callable(name: str, fn: Any) -> None:
    if not callable(fn):
        raise InputError(f"`{name}` is {fn!r}, which is not callable.")


# --- running


def _run(
    program: LoopProgram, inputs: Inputs, kind: str, checkpoints: Any, memory: Any
) -> tuple[Any, Any]:
    loop = program.loop
    bk = loop.bk
    if kind == "checkpointed" and bk.needs_gradient(inputs):
        asked = bk.asked(inputs)
        if Capability.TRACED in bk.capabilities or not (asked.forward or asked.again):
            wanted = Wanted(tuple(map(bk.tracked_leaf, inputs.params)), False, False, False)
            program.adjoint, again = choose(loop, checkpoints, memory, wanted)
            program.fallback = again or program.adjoint
    elif kind == "checkpointed" or (kind == "lax" and _plain(loop)):
        program.adjoint = RecursiveCheckpointAdjoint(checkpoints)
    floats, aux = bk.differentiate_loop(program, inputs, kind)
    return _wrapped(program, floats, aux)


def _plain(loop: Loop) -> bool:
    """Whether the library has a loop of its own for a number of steps that is not known."""
    return loop.count is None and Capability.TRACED in loop.bk.capabilities


def _wrapped(program: LoopProgram, floats: Any, aux: Any) -> tuple[Any, Any]:
    """The result's trees; SolveFailed where the bound is known to have ended the loop."""
    rest, _, ok = aux
    loop = program.loop
    bk = loop.bk
    if not program.throw or loop.max_steps is None:
        return program.joined(floats, rest)
    ended = bk.concrete(ok)
    if ended is None:  # known when the program runs
        return program.joined([bk.poison(ok, x) for x in floats], rest)
    result = program.joined(floats, rest)
    if not ended:
        raise SolveFailed(
            f"while_loop took `max_steps` = {loop.max_steps} steps and `cond` still holds; raise "
            "`max_steps`, or pass throw=False for at most so many steps. The carry reached is the "
            "`solution` of this error.",
            result[0],
        )
    return result


def _cotangents(loop: Loop, floats: Any, cotangent: Any) -> tuple[Any, ...]:
    """Cotangents of a result's floating leaves."""
    bk = loop.bk
    carry, ys = cotangent, None
    if loop.scans:
        pair = (None, None) if cotangent is None else cotangent
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(
                f"the cotangent of a scan is {type(cotangent).__name__}; pass the pair (of the "
                "carry, of ys)."
            )
        carry, ys = pair
    count = len(loop.template)
    like = loop.ys_like or []
    out = []
    leaves = _matching(bk, carry, loop.treedef, count, "the carry")
    floating = set(loop.floating)
    out += [x for i, x in enumerate(leaves) if i in floating]
    if loop.scans:
        rows = _matching(bk, ys, loop.ys_treedef, len(like), "ys")
        inexact = [bool(bk.floating(y)) for y in like]
        out += [x for x, ok in zip(rows, inexact, strict=True) if ok]
    for k, (x, y) in enumerate(zip(out, floats, strict=True)):
        if x is None:
            out[k] = bk.xp.zeros_like(y)
        elif not bk.is_array(x) or tuple(x.shape) != tuple(y.shape):
            got = f"shape {tuple(x.shape)}" if bk.is_array(x) else f"type {type(x).__name__}"
            raise InputError(
                f"a cotangent has {got}, its result has shape {tuple(y.shape)}; make them alike."
            )
    return tuple(out)


def _matching(bk: Any, tree: Any, treedef: Any, count: int, name: str) -> list[Any]:
    """Leaves of a cotangent in the places of the result's; None for zeros."""
    if tree is None:
        return [None] * count
    leaves, found = bk.flatten(tree)
    if found == treedef:
        return list(leaves)
    raise InputError(
        f"the cotangent of {name} has the structure {found}, the result {treedef}; pass zeros for "
        "what has none, or None for all of it."
    )
