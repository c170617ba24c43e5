"""A loop in normal form: flat leaves in, flat leaves out, whatever trees the user carries.

The carry is flattened once; its arrays of floating dtypes are differentiated, other leaves
(counters, booleans, plain numbers) go through untouched. Leaves that an adapter knows the body to
hand on as they are (loop invariants) are no part of the state: nothing of them is stored.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from .._backend.registry import backend_of
from .._base.errors import InputError
from .._base.types import Array, Aux, Bool, Function, Index, State, Tree, TreeDef

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend


class LeafLayout:
    """Layout of a state that is a tuple of leaves of any kind, for buffers and pullbacks."""

    def __init__(self, bk: AbstractBackend, like: Sequence[Tree]) -> None:
        self.bk, self.xp = bk, bk.xp
        arrays = [x for x in like if hasattr(x, "dtype")]
        self.shapes = tuple(tuple(x.shape) for x in arrays)
        self.dtypes = tuple(x.dtype for x in arrays)
        self.nbytes = sum(bk.nbytes(x) for x in arrays)

    def unpack(self, y: Array) -> State:
        """The state itself."""
        return y


class LoopSpec:
    """``while_loop`` or ``scan``, ready to run from any arrays.

    Parameters
    ----------
    cond : callable or None
        None: the number of steps is known.
    body : callable
        ``carry -> carry``, or ``(carry, x) -> (carry, y)`` where ``scans``.
    init, xs : tree
    count : int or None
        Number of steps where it is known.
    max_steps : int or None
    reverse : bool
        Whether a scan goes from the last row to the first.

    Attributes
    ----------
    params : tuple of array
        The arrays of ``init``, then those of ``xs``, then what body and cond close over.
    still : frozenset of int
        Carry leaves that every step hands on as they are.
    """

    gathered: list[str]
    """Modules whose parameters are there while the body runs alone (an adapter's finding)."""

    def __init__(
        self,
        cond: Function | None,
        body: Function,
        init: Tree,
        xs: Tree,
        *,
        count: int | None,
        max_steps: int | None = None,
        reverse: bool = False,
    ) -> None:
        self.bk = backend_of(init, xs, names=("init", "xs"))
        self.cond, self.body, self.scans = cond, body, cond is None
        self.count, self.max_steps, self.reverse = count, max_steps, reverse
        bk = self.bk
        leaves, self.treedef = bk.flatten(init)
        self.template = list(bk.carry_leaves(leaves))
        self.xs_leaves, self.xs_treedef = bk.flatten(xs)
        self.ys_treedef: TreeDef = None
        self.ys_like: list[Tree] | None = None
        self.checked = False
        self.small = False
        """Whether it may be one kernel of the device (an adapter's)."""
        self.still: frozenset[int] = frozenset()
        self._call: Function | None = None
        self._test: Function | None = None
        self.notes: tuple[Hashable, ...] = ()
        self.jaxprs: tuple[Aux, ...] = ()
        self.template_like: list[Tree] = []
        self.describe()

    def describe(self) -> None:
        """What follows from the leaves of the carry."""
        bk = self.bk
        self.where = tuple(i for i, x in enumerate(self.template) if bk.is_array(x))
        self.floating = tuple(i for i in self.where if bk.floating(self.template[i]))
        self.params = (*(self.template[i] for i in self.where), *self.xs_leaves)
        self.given = len(self.params)
        self.first_cond = self.given

    def capture(self) -> None:
        """Let the adapter find what body and cond close over, and check what they return."""
        self.bk.capture_loop(self)
        self.moving = tuple(i for i in range(len(self.template)) if i not in self.still)
        self.varying = tuple(i for i in self.moving if i in set(self.floating))
        self.layout = LeafLayout(self.bk, [self.template[i] for i in self.moving])
        self.single = [self.bk.row_like(x) for x in self.xs_leaves]

    def hoisted(
        self,
        call: Function | None,
        captured: Sequence[Array],
        test: Function | None,
        noticed: Sequence[Array],
    ) -> None:
        """The adapter's finding: ``call(captured, leaves, x)`` and ``test(captured, leaves)``."""
        self._call, self._test = call, test
        self.first_cond = self.given + len(captured)
        self.params = (*self.params, *captured, *noticed)

    def forget(self) -> None:
        """Drop the arrays, once they are inputs of a program that outlives this call."""
        for i in self.where:
            self.template[i] = None
        self.params, self.xs_leaves = (), [None] * len(self.xs_leaves)

    def key(self) -> Hashable:
        """What the structure of this loop depends on, to keep compiled programs by."""
        return (self.cond, self.body, self.treedef, self.xs_treedef, self.count, self.max_steps,
                self.reverse, self.notes)  # fmt: skip

    # --- states
    def initial(self, params: Sequence[Array]) -> tuple[Tree, ...]:
        """All leaves of the carry before the first step."""
        leaves = list(self.template)
        for i, x in zip(self.where, params, strict=False):
            leaves[i] = x
        return tuple(leaves)

    def state(self, leaves: Sequence[Tree]) -> tuple[Tree, ...]:
        """What of the carry a step can change."""
        return tuple(leaves[i] for i in self.moving)

    def carry(self, state: Sequence[Tree], params: Sequence[Array]) -> list[Tree]:
        """All leaves of the carry."""
        if not self.still:
            return list(state)
        leaves = list(self.initial(params))
        for i, x in zip(self.moving, state, strict=True):
            leaves[i] = x
        return leaves

    def rows(self, params: Sequence[Array]) -> Sequence[Array]:
        """Leaves of xs."""
        return params[len(self.where) : self.given]

    def place(self, i: Index) -> Index:
        """The row of xs and ys that step i is about."""
        return self.count - 1 - i if self.reverse else i  # type: ignore[operator]

    # --- one step, and whether there is one
    def step(
        self, leaves: Sequence[Tree], x: Sequence[Tree], params: Sequence[Array]
    ) -> tuple[list[Tree], list[Tree]]:
        """(leaves of the carry, leaves of y) after a step."""
        if self._call is not None:
            found: tuple[list[Tree], list[Tree]]
            found = self._call(params[self.given : self.first_cond], leaves, x)
            return found
        return self.raw(leaves, x)

    def raw(self, leaves: Sequence[Tree], x: Sequence[Tree]) -> tuple[list[Tree], list[Tree]]:
        """The same by the user's own body, whose result is checked."""
        bk = self.bk
        given: tuple[Tree, ...] = (bk.unflatten(self.treedef, leaves),)
        if self.scans:
            given = (*given, bk.unflatten(self.xs_treedef, x))
        try:
            result = self.body(*given)
        except ValueError as error:
            bk.explain(error, "`body` changed its argument")
            raise
        if not self.scans:
            new, y = result, None
        else:
            if not isinstance(result, tuple) or len(result) != 2:
                raise InputError(
                    f"`body` returned {type(result).__name__}; return the pair (carry, y)."
                )
            new, y = result
        found, treedef = bk.flatten(new)
        if treedef != self.treedef:
            raise InputError(
                f"`body` returned a carry of the structure {treedef}, but `init` has "
                f"{self.treedef}; return the structure of `init`."
            )
        ys, ys_treedef = bk.flatten(y)
        if self.ys_treedef is not None and ys_treedef != self.ys_treedef:
            raise InputError(
                f"`body` returned a y of the structure {ys_treedef}, in a step before it was "
                f"{self.ys_treedef}; return the same one always."
            )
        self.ys_treedef = ys_treedef
        return found, [bk.xp.asarray(y) if isinstance(y, (bool, int, float)) else y for y in ys]

    def goes_on(self, leaves: Sequence[Tree], params: Sequence[Array]) -> Bool:
        """Whether to take another step: what cond says, of a batch for any of its samples."""
        return self.test(leaves, params)

    def test(self, leaves: Sequence[Tree], params: Sequence[Array]) -> Bool:
        """What cond says of a carry: a predicate as the adapter's loops take it."""
        if self._test is not None:
            return self._test(params[self.first_cond :], leaves)
        assert self.cond is not None
        bk, leaves = self.bk, self.bk.lent(leaves)
        watch = bk.watch(leaves, "`cond` changed its argument") if bk.counts_changes else None
        try:
            result = self.cond(bk.unflatten(self.treedef, leaves))
        except ValueError as error:
            bk.explain(error, "`cond` changed its argument")
            raise
        if watch is not None:
            watch()
        return self.truth(result)

    def truth(self, result: Tree) -> Bool:
        """A condition's result, checked: one bool."""
        if isinstance(result, bool):
            return result
        shape = getattr(result, "shape", None)
        if shape is None or tuple(shape) != ():
            what = type(result).__name__ if shape is None else f"an array of shape {tuple(shape)}"
            raise InputError(
                f"`cond` returned {what}; return one bool (a 0-d array), with `any` or `all` of "
                "what it looks at."
            )
        return self.bk.predicate(result)

    def check(self, old: Sequence[Tree], new: Sequence[Tree]) -> None:
        """Raise InputError unless a step kept all shapes and dtypes."""
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if not self.bk.is_array(a):
                if self.bk.is_array(b) or isinstance(b, bool) != isinstance(a, bool):
                    raise InputError(
                        f"`body` returned {type(b).__name__} for leaf {i} of the carry, which is "
                        f"the {type(a).__name__} {a!r} in `init`; make it an array there, or keep "
                        "it a number."
                    )
                continue
            shape, dtype = getattr(b, "shape", None), getattr(b, "dtype", None)
            if shape is None or tuple(shape) != tuple(a.shape) or dtype != a.dtype:
                got = type(b).__name__ if shape is None else f"{dtype} of shape {tuple(shape)}"
                raise InputError(
                    f"`body` returned {got} for leaf {i} of the carry, which is {a.dtype} of shape "
                    f"{tuple(a.shape)} in `init`; return the same shape and dtype, or change "
                    "`init`."
                )
