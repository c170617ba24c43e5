"""A solve's arguments in the engine's form: layout, flat parameters, a bound vector field.

What is differentiated is flat: the arrays in ``args`` and those that f closes over
(``captured``). The rest of ``args`` (numbers, strings, None, ...) is kept aside and put back
when f is called. Checks that need f run on its first call only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.plain_input import fitted, integral, matched, refuse
from .._base.types import (
    Array,
    Aux,
    Chosen,
    Equations,
    Function,
    Leaves,
    Scalar,
    State,
    Tree,
    VectorFieldFn,
)

if TYPE_CHECKING:
    from .._api.mixed_dtypes import Casts
    from .._autodiff.linearise import FieldDerivatives
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import FieldProgram, FieldVJP


class Problem:
    """A vector field with everything it is called with.

    Parameters
    ----------
    bk : AbstractBackend
    f : callable
        ``f(t, y, args) -> dy/dt``.
    y0, args : tree
    """

    gathered: list[str]
    """Modules whose parameters are there while f runs alone (an adapter's finding)."""
    draws: list[Aux]
    """What f, and ``SaveAt.fn``, draw by (an adapter's)."""

    # what most problems never have costs a solve nothing
    mass: Callable[[Sequence[Array]], State] | None = None
    """What makes the mass matrix of parameters, as it is kept: for methods that solve equations,"""
    mass_matrix: Callable[[Sequence[Array]], Array] | None = None
    """and as the user gives it;"""
    mass_fn: VectorFieldFn | None = None
    """``(t, y, args) -> M`` where it has a gradient,"""
    mass_key: Hashable = None
    """and its numbers, where programs are kept by them,"""
    mass_rows: Sequence[Sequence[float]] | None = None
    """which are constants of theirs."""
    split: tuple[VectorFieldFn, VectorFieldFn] | None = None
    """Both parts of a field that is a sum (``Split``), where the solver takes them apart."""
    derivatives: FieldDerivatives | None = None
    """How f is linearised, where a solver needs Jacobians."""
    casts: Casts | None = None
    """Casts between what is carried and what f and the user see, where these differ."""
    numbers: frozenset[int] = frozenset()
    """Which of ``params`` came as plain numbers."""
    untimed: Exception | None = None
    """Why there is no derivative of f by its time: f takes it as a plain number."""
    notes_untimed: bool = False
    """Whether that is noted; else a derivative by a time was asked for by name."""
    program: FieldProgram | None = None
    """f as a program, where an adapter traces it; None: f is called as it is."""
    leafwise: Function | None = None
    """``(t, leaves, args) -> leaves``, where the adapter needs f without trees."""
    parted = False
    """Whether the solver drops parts of f's results (see ``AbstractSolver``)."""
    trials = 0
    """Calls of f beside those of the integration: checks, the planner's, integrations begun
    again."""
    stiff_from: float | None = None
    """Where an integration by an explicit method became stiff (``stiffness``)."""
    pullbacks: list[FieldVJP] | None = None
    """Vjps of f that a block makes whose calls are counted."""
    steady = True
    """Whether two calls of f at (t0, y0) returned the same, as far as that was seen."""
    drawn = 0
    """Bytes that each call of f leaves behind, for its random numbers (an adapter's)."""
    _key: tuple[Hashable, ...] | None = None

    def __init__(self, bk: AbstractBackend, f: VectorFieldFn, y0: Tree, args: Tree) -> None:
        if not callable(f):
            raise InputError(f"`f` is {f!r}, which is not callable; pass f(t, y, args) -> dy/dt.")
        self.bk, self.f = bk, f
        self.call = f
        """f as it is called: where it returns lists or plain numbers, they are made arrays."""
        self.jac: VectorFieldFn | None = getattr(f, "jac", None)
        """The user's ``jac(t, y, args)``,"""
        self.jac_structure: object = getattr(f, "structure", None)
        """what he tells of its zeros,"""
        explicit, implicit = getattr(f, "explicit", None), getattr(f, "implicit", None)
        self.halves = (explicit, implicit) if explicit and implicit else None
        """and both parts of a field that is a sum."""
        leaves, self.treedef = bk.flatten(y0)
        self._check_state(leaves)
        self.layout = bk.layout(leaves)
        self.single = len(leaves) == 1 and leaves[0] is y0
        self.y0 = self.layout.pack([bk.view(x) for x in leaves])
        self._args_leaves, self._args_treedef = bk.flatten(args)
        self.where = tuple(i for i, x in enumerate(self._args_leaves) if bk.is_array(x))
        for i in self.where:
            self._args_leaves[i] = bk.view(self._args_leaves[i])
        self.leaf_count = len(self._args_leaves)
        self._check_args()
        self.params = tuple(self._args_leaves[i] for i in self.where)
        self.differentiable = tuple(bool(bk.floating(x)) for x in self.params)
        """Which of ``params`` can have a gradient."""
        if Capability.AUTODIFF not in bk.capabilities:
            self.notes_untimed = True
        self.output_calls: dict[int, VectorFieldFn] = {}
        """``SaveAt.fn`` as it is called, where an adapter stands around it."""
        self.chosen = Chosen()
        """Which method the next step is of (``_solvers.switching``)."""
        self.first: list[Array] = []
        """What f returned at (t0, y0), until a plan has compared it with another call."""

    def key(self) -> tuple[Hashable, ...]:
        """What the structure of this problem depends on, to keep compiled programs by."""
        return self.f, *self.alike()

    def alike(self) -> tuple[Hashable, ...]:
        """The same without f."""
        if self._key is not None:
            return self._key
        static = tuple(None if self.bk.is_array(x) else (type(x), x) for x in self._args_leaves)
        arrays = (*self.layout.unpack(self.y0), *self.params)
        shapes = tuple((tuple(x.shape), x.dtype) for x in arrays)
        self._key = (
            self.treedef,
            self._args_treedef,
            static,
            self.where,
            shapes,
            None if self.program is None else self.program.key(),
            self.mass_key,
        )
        return self._key

    def forget_key(self) -> None:
        """The key is told anew: the problem has changed."""
        self._key = None

    @contextlib.contextmanager
    def counting(self) -> Iterator[dict[str, int]]:
        """For a block that an eager library runs, the calls of f and of its vjp are counted.

        They are there when it has ended, under the names that a solution's statistics have.
        """
        call, calls = self.call, [0]
        counts: dict[str, int] = {}

        def counted(t: Array, y: Tree, args: Tree) -> Tree:
            calls[0] += 1
            return call(t, y, args)

        self.call, self.pullbacks = counted, []
        try:
            yield counts
            vjps = sum(getattr(vjp, "pulls", 0) for vjp in self.pullbacks)
            counts.update(num_reverse_f_evals=calls[0], num_reverse_vjps=vjps)
        finally:
            self.call, self.pullbacks = call, None

    def forget(self) -> None:
        """Drop the arrays, once they are inputs of a program that outlives this call."""
        self.y0, self.params = None, ()
        for i in self.where:
            self._args_leaves[i] = None

    # --- checks
    def _check_state(self, leaves: Sequence[Tree]) -> None:
        bk = self.bk
        if not leaves:
            raise InputError("`y0` is empty; pass an array or a tree of arrays.")
        for leaf in leaves:
            refuse("y0", leaf)
            if not bk.is_array(leaf):
                raise InputError(
                    f"`y0` has a leaf of type {type(leaf).__name__}; make every leaf an array of "
                    f"{bk.name}."
                )
            if not bk.floating(leaf):
                raise InputError(
                    f"`y0` has dtype {leaf.dtype}; convert it to a floating dtype (float32, "
                    "float64 or complex)."
                )
            if 0 in leaf.shape:
                raise InputError(
                    f"`y0` has a leaf of shape {tuple(leaf.shape)}, which is empty; drop it."
                )
        for leaf in leaves[1:]:
            self._check_device("`y0`", leaf, leaves[0])

    def _check_args(self) -> None:
        first = self.bk.flatten(self.layout.unpack(self.y0))[0][0]
        for leaf in self._args_leaves:
            if self.bk.is_array(leaf):
                refuse("args", leaf)
                self._check_device("`y0` and `args`", leaf, first)

    def _check_device(self, name: str, x: Array, y: Array) -> None:
        a, b = self.bk.device_of(x), self.bk.device_of(y)
        if a != b:
            raise InputError(f"{name} mix the devices {b} and {a}; move all arrays to one.")

    # --- the field
    def note_untimed(self, error: Exception) -> None:
        """Note that f can't be differentiated by its time, and what it said."""
        self.untimed = self.untimed or error

    def arguments(self, params: Sequence[Array]) -> Tree:
        """``args`` with its differentiable leaves replaced."""
        leaves = list(self._args_leaves)
        for i, x in zip(self.where, params, strict=False):
            leaves[i] = x
        return self.bk.unflatten(self._args_treedef, leaves)

    def gradient_tree(self, cotangents: Sequence[Array]) -> Tree:
        """Cotangents of ``params`` in the form of ``args``; None where there is none."""
        leaves: list[Array | None] = [None] * len(self._args_leaves)
        for i, x in zip(self.where, cotangents, strict=False):
            leaves[i] = x
        return self.bk.unflatten(self._args_treedef, leaves)

    def structure(self) -> Tree:
        """y0's tree with the number of each leaf in its place."""
        return self.tree(range(len(self.layout.shapes)))

    def state_tree(self, y: State) -> Tree:
        """A state in the form of y0."""
        return self.tree(self.layout.unpack(y))

    def tree(self, leaves: Sequence[Array]) -> Tree:
        """Leaves (perhaps with leading axes) in the form of y0."""
        return leaves[0] if self.single else self.bk.unflatten(self.treedef, leaves)

    def bind(self, params: Sequence[Array]) -> Callable[[Array, State], tuple[Array, ...]]:
        """``field(t, Y) -> leaves of dy/dt`` at these parameters, of a state Y.

        Where the library's arrays can be written into, ``field.fresh`` is the same for states that
        nobody needs afterwards, and may be cheaper. ``field.equations`` is for methods that solve
        some, as is ``field.linearise(reals, t, Y, timed=)`` (``LinearField``).
        """
        return self._known(partial(self._bound, params), params, self.state_tree)

    def _known(self, make: Function, params: Sequence[Array], tree: Function) -> Function:
        """A field bound at these parameters by ``make``, with what is known of it (``Equations``).

        ``tree``: makes y of a state. What is linearised is a twin of the field, which else would
        hold what holds it, directions of the size of a matrix, until the garbage is collected.
        """
        field: Any = make()
        jac, found = self.jac, None
        if jac is not None:
            args = self.arguments(params)
            found = lambda t, y: jac(t, tree(y), args)  # noqa: E731
        parts: tuple[Function, Function] | None = None
        if self.split is not None:
            first, second = (self._part(fn, params, tree) for fn in self.split)
            parts = first, second
        mass = None if self.mass is None else self.mass(params)
        known = Equations(found, self.jac_structure, mass, parts, self.chosen, tree)
        field.equations = known
        if self.derivatives is not None and parts is not None:
            parts[1].equations = known._replace(parts=None)  # type: ignore[attr-defined]
            twin = self._part(self.stiff, params, tree)
            linearise = self.derivatives.bind(params, twin)
            parts[1].linearise = linearise  # type: ignore[attr-defined]
        elif self.derivatives is not None:
            field.linearise = self.derivatives.bind(params, make())
        bound: Function = field
        return bound

    def take_apart(self, t0: Scalar) -> None:
        """Have bound fields tell both parts of a split one; of another, nothing changes."""
        if self.halves is None:
            return
        stiff = self.halves[1]
        self.jac = getattr(stiff, "jac", None)
        self.jac_structure = getattr(stiff, "structure", None)
        for fn in self.halves:
            self.check_part(self.bk.example(self, fn, t0)[0])
        self.split = self.halves

    @property
    def stiff(self) -> VectorFieldFn:
        """What an implicit method solves equations of: f, or its implicit part."""
        return self.f if self.split is None else self.split[1]

    def check_part(self, leaves: Sequence[Array]) -> None:
        """InputError unless a part of f returned what is like y0."""
        found, wanted = [tuple(x.shape) for x in leaves], list(self.layout.shapes)
        if found != wanted:
            raise InputError(
                f"a part of the `Split` returned arrays of shapes {found} where `y0` has {wanted}; "
                "each part must be like `y0`."
            )

    def _part(self, fn: VectorFieldFn, params: Sequence[Array], tree: Function) -> Function:
        """A part of a split field, bound as the field is."""
        call, unpack = self.bind_output(fn, params), self.layout.unpack
        free = tree == self.tree
        return self.guarded(call if free else lambda t, y: call(t, unpack(y)))

    def _bound(self, params: Sequence[Array]) -> Function:
        field, unpack = self.bind_leaves(params), self.layout.unpack
        if self.program is not None:
            return lambda t, y: field(t, unpack(y))
        if self.single:
            args, f = self.arguments(params), self.call
            if self.layout.plain:
                bound = lambda t, y: (f(t, y, args),)  # noqa: E731
            else:
                bound = lambda t, y: (f(t, unpack(y)[0], args),)  # noqa: E731
        else:
            bound = lambda t, y: field(t, unpack(y))  # noqa: E731
        guarded = self.guarded(bound)
        if self.single:  # for stages that save the frame between (``fused``)
            guarded.call = f, args  # type: ignore[attr-defined]
        return guarded

    def bind_free(self, params: Sequence[Array]) -> Function:
        """The same of states that are tuples of leaves, for autodiff to follow."""

        def make() -> Function:
            return self.guarded(self.bind_leaves(params))

        return self._known(make, params, self.tree)

    def guarded(self, field: Function) -> Function:
        """A field whose states f can't change; ``fresh`` is the field itself where that differs."""
        guarded: Function = self.bk.guard(field)
        if guarded is not field:
            guarded.fresh = field  # type: ignore[attr-defined]
        return guarded

    def bind_leaves(self, params: Sequence[Array]) -> Callable[[Array, Leaves], Leaves]:
        """The same of the leaves of y."""
        if self.program is not None:
            return self.program.bind(params)
        args, f = self.arguments(params), self.call
        if self.single:
            return lambda t, leaves: (f(t, leaves[0], args),)
        if self.leafwise is not None:
            call = self.leafwise
            return lambda t, leaves: call(t, leaves, args)
        flatten, unflatten, treedef = self.bk.flatten, self.bk.unflatten, self.treedef
        return lambda t, leaves: tuple(flatten(f(t, unflatten(treedef, leaves), args))[0])

    def add_captured(self, arrays: Sequence[Array], differentiable: Sequence[bool]) -> slice:
        """Note arrays that f (or ``SaveAt.fn``) closes over: they join ``params`` at this place."""
        start = len(self.params)
        self.params = (*self.params, *arrays)
        self.differentiable = (*self.differentiable, *differentiable)
        return slice(start, len(self.params))

    def bind_output(self, fn: VectorFieldFn, params: Sequence[Array]) -> Function:
        """``fn(t, y, args)`` of SaveAt, from leaves to leaves."""
        if self.program is not None:
            return self.program.bind_output(fn, params)
        call = self.output_calls.get(id(fn), fn)
        args, flatten = self.arguments(params), self.bk.flatten
        return lambda t, leaves: tuple(flatten(call(t, self.tree(leaves), args))[0])

    def taken(self, k: Tree) -> Tree:
        """f's first result as it is meant: where it is made arrays of, all later ones are, too."""
        bk = self.bk
        leaves, treedef = bk.flatten(k)
        arrays = treedef == self.treedef and all(map(bk.is_array, leaves))
        dtype = self.layout.dtype  # to write a dtype out takes longer than to compare two
        if arrays and not any(x.dtype != dtype and integral(x) for x in leaves):
            return k
        fit = self.fit(k)
        if fit is None:
            return k
        self._fitted()
        return fit

    def _fitted(self) -> None:
        """Let every result of f be made to fit."""
        f: VectorFieldFn = self.f
        self.call = lambda t, y, args: self.fit(f(t, y, args))

    def wrap(self, make: Callable[[VectorFieldFn], VectorFieldFn]) -> None:
        """Let an adapter stand around f, wherever it is called: f becomes ``make(f)``."""
        fits = self.call is not self.f
        self.f = self.call = make(self.f)
        if fits:
            self._fitted()

    def fit(self, k: Tree) -> Tree | None:
        """A result of f with its lists, numbers and integers as y's arrays; None if it is unlike.

        Derivatives go through.
        """
        bk, layout = self.bk, self.layout
        parts = matched(bk, self.structure(), k)
        if parts is None:
            return None
        leaves = [
            fitted(bk, parts[i], layout.dtype, layout.device) for i in range(len(layout.shapes))
        ]
        for x, shape in zip(leaves, layout.shapes, strict=True):
            if tuple(getattr(x, "shape", (None,))) != shape:
                return None
        return self.tree(leaves)

    def check_result(self, k: Tree, is_array: Callable[[Tree], bool] | None = None) -> Tree:
        """A result of f (or its shapes) as it is meant; InputError unless it is like y0."""
        bk = self.bk
        called = is_array is None  # by an eager library: a traced one has shapes
        if is_array is None:
            k = self.taken(k)
        leaves, treedef = bk.flatten(k)
        if is_array is None:
            is_array = bk.is_array
            for leaf in leaves:
                refuse("f's result", leaf)
        if not all(is_array(leaf) for leaf in leaves) or treedef != self.treedef:
            raise InputError(
                f"`f` returned {describe(bk, k)}; it must return {describe(bk, self._example())}"
                ", the structure of `y0`."
            )
        first = self.layout.unpack(self.y0)[0]
        for leaf, shape in zip(leaves, self.layout.shapes, strict=True):
            if tuple(leaf.shape) != shape:
                raise InputError(
                    f"`f` returned the shape {tuple(leaf.shape)} where `y0` has {shape}; make "
                    "them equal."
                )
            if leaf.dtype != self.layout.dtype:
                raise InputError(
                    f"`f` returned dtype {leaf.dtype} where `y0` has {self.layout.dtype}; convert "
                    "`y0` or the constants in `f`."
                )
            if bk.is_array(leaf):
                self._check_device("`f`'s result and `y0`", leaf, first)
        if called:
            self.trials += 1
            self.first = [bk.stop_gradient(leaf) for leaf in leaves]
        return k

    def compare(self, k: Sequence[Array]) -> None:
        """Note whether f, called again at (t0, y0), returned something else (``steady``)."""
        bk, xp = self.bk, self.bk.xp
        near = 2.0 ** (-4 * bk.itemsize(self.layout.real_dtype))  # half the digits
        first, self.first = self.first, []
        for a, b in zip(first, k, strict=False):
            a, b = xp.abs(a - b), xp.abs(a)
            if bk.concrete(xp.any(a > near * xp.max(b))):
                self.steady = False

    def describe(self) -> str:
        """y0 in a few words, for messages."""
        return describe(self.bk, self._example())

    def _example(self) -> Tree:
        return self.state_tree(self.y0)


def describe(bk: AbstractBackend, tree: Tree) -> str:
    """A tree in a few words, for messages."""
    if hasattr(tree, "shape") and not bk.is_array(tree) and hasattr(tree, "__array_namespace__"):
        return f"an array of {type(tree).__module__.partition('.')[0]}"
    if hasattr(tree, "shape"):
        return f"an array of shape {tuple(tree.shape)}"
    if isinstance(tree, dict):
        return f"a dict with keys {list(tree)}"
    if isinstance(tree, (tuple, list)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return f"a {type(tree).__name__}"
