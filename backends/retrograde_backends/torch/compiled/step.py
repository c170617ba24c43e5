"""PyTorch: what ``compile=True`` compiles: one step, and the vjp of one, as functions of tensors.

The step is the library's own (``runge_kutta.solver.Stepper``) over sums of tensors
(``Stages``); here it only gets its arguments one by one. Each ``*_step(step, ...)`` returns a
function for one kernel; what it closes over never changes.

States are flat where the layout is (one leaf, the vector), else tuples of leaves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from retrograde._backend.stages import ListLayout, Stages
from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import (
    Array,
    Bool,
    Device,
    DType,
    Function,
    Leaves,
    Scalar,
    Scale,
    State,
    Tree,
    TreeDef,
    VectorFieldFn,
)
from retrograde._solvers.runge_kutta.solver import Stepper

from ..flat import TorchLayout

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout
    from retrograde._solvers.runge_kutta.tableau import Tableau

StepProgram = Callable[..., Leaves]


class Forms:
    """What sums of tensors ask of a backend, where numbers are 0-d tensors."""

    xp, traced = torch, True

    def add_scaled(self, a: Array, w: Scalar, x: Array) -> Array:
        return a + w * x

    def scalar(self, x: Array) -> Scalar:
        return x

    def scalar_array(self, t: Scalar, layout: Layout) -> Array:
        return t.to(layout.real_dtype)

    def real_dtype(self, x: Array) -> DType:
        return x.dtype.to_real()

    def device_of(self, x: Array) -> Device:
        return x.device

    def itemsize(self, dtype: DType) -> int:
        return int(dtype.itemsize)

    def clock(self, layout: Layout) -> Forms:
        return self

    def where(self, ok: Bool, a: Array, b: Array) -> Array:
        return torch.where(ok, a, b)


class _Stages(Stages):
    """Sums weighted in y's precision, at times of the clock's."""

    def begin(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None = None) -> Leaves | None:
        self.size = h
        return super().begin(t, h.to(self.layout.real_dtype), y, k0)

    def time(self, i: int) -> Array:
        return self.layout.time(self.t + self.c[i] * self.size)

    def error2(self, y1: State) -> Scalar:
        with torch.no_grad():  # step sizes are constants of the gradient
            return super().error2(y1)


class ProgramStep:
    """The parts of an explicit step that all programs share."""

    forms: ClassVar[type[Forms]] = Forms
    implicit: ClassVar[bool] = False
    """Whether steps solve equations, and tell whether they could not."""

    def __init__(self, tableau: Tableau, layout: Layout) -> None:
        # its own: a guard would ask whether the kernel's layout is that of the field, or another
        self.tableau, self.layout = tableau, copy.copy(layout)
        self.flat = isinstance(layout, TorchLayout)
        shapes = ((layout.size,),) if self.flat else layout.shapes
        like = [torch.empty(s, dtype=layout.dtype, device="meta") for s in shapes]
        self.leaves = ListLayout(cast(Any, self.forms()), like)
        self.width = len(shapes)

    def stepper(self, field: Function, scale: Scale | None = None) -> Stepper:
        """Steps of a field over tuples of leaves."""
        space = _Stages(self.leaves, self.tableau, scale)
        return Stepper(self.tableau, space, self.leaves, field)

    def of_state(self, field: Function) -> Tree:
        """A field of states, as an integration binds it, over leaves.

        Unguarded: without branches, f writes into its argument from the first call on, or never.
        """
        pack, field = self.layout.pack, getattr(field, "fresh", field)
        return (lambda t, y: (pack(field(t, y[0])),)) if self.flat else field

    def of_leaves(self, field: Function) -> Tree:
        """A field of the user's leaves, as a vjp binds it, over a flat state."""
        pack, unpack = self.layout.pack, self.layout.unpack
        return lambda t, y: (pack(field(t, unpack(y[0]))),)

    def slopes(self, stepper: Stepper) -> Leaves:
        """All stages of the step taken last that are known, stacked leaf by leaf."""
        known = [k for k in cast(Stages, stepper.space).k if k is not None]
        return tuple(torch.stack([k[i] for k in known]) for i in range(self.width))


def whole_step(step: ProgramStep, judged: bool, dense: bool) -> StepProgram:
    """``(y1, last slope of an FSAL method, squared error, whether it failed, slopes)``.

    Squared error and slopes where asked for, whether it failed of an implicit step.
    """
    n = step.width

    def whole(fixed: Leaves, clock: Array, *states: Array) -> Leaves:
        field, scale = fixed
        stepper = step.stepper(step.of_state(field), Scale(*scale) if judged else None)
        y, k0 = states[:n], states[n:] or None
        y1, e2, k1, _, failed, _ = stepper.step(clock[0], clock[1], y, k0, error=True)
        told = (failed,) if step.implicit else ()
        out = (*y1, *(k1 or ()), *((e2,) if judged else ()), *told)
        return (*out, *step.slopes(stepper)) if dense else out

    return whole


def bare_step(step: ProgramStep) -> StepProgram:
    """``y1``; and whether an implicit step failed."""

    def bare(field: Function, clock: Array, *y: Array) -> Leaves:
        stepper = step.stepper(step.of_state(field))
        y1, _, _, _, failed, _ = stepper.step(clock[0], clock[1], y, None, error=False)
        return (*y1, failed) if step.implicit else tuple(y1)

    return bare


def inside_step(step: ProgramStep) -> StepProgram:
    """Slopes of an attempt to those with the interpolant's own."""
    n = step.width

    def inside(field: Function, clock: Array, *states: Array) -> Leaves:
        stepper = step.stepper(step.of_state(field))
        stepper.space.begin(clock[0], clock[1], states[:n])
        for i, k in enumerate(zip(*(x.unbind() for x in states[n:]), strict=True)):
            stepper.space.put(i, k)
        stepper.extra_stages()
        return step.slopes(stepper)

    return inside


def slopes_step(step: ProgramStep) -> StepProgram:
    """``(y1, slopes)`` of flat states, by a field of leaves."""

    def slopes(field: Function, clock: Array, y: Array) -> Leaves:
        stepper = step.stepper(step.of_leaves(field))
        y1 = _all_stages(stepper, clock, (y,))
        return (*y1, *step.slopes(stepper))

    return slopes


def _all_stages(stepper: Stepper, clock: Array, y: Array) -> State:
    t, h = clock[0], clock[1]
    y1 = stepper.step(t, h, y, stepper.init(t, y), error=True).y1
    stepper.extra_stages()
    return y1


def pull_step(step: ProgramStep, timed: bool, sources: bool) -> StepProgram:
    """The vjp of a step of flat states: cotangents of y, of (t, h) if asked, of what is wanted.

    ``sources``: the slopes have cotangents too.
    """

    def pull(fixed: Leaves, clock: Array, y: Array, g: Array, q: Array = None) -> Leaves:
        field, wanted = fixed
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            if timed:
                clock = clock.detach().requires_grad_()
            stepper = step.stepper(step.of_leaves(field))
            results: Leaves
            cotangents: Leaves
            if sources:
                y1 = _all_stages(stepper, clock, (y,))
                # q holds a factor h, by which a row inside the step depends on h once more
                h = clock[1].to(step.leaves.real_dtype)
                results = (*y1, h * step.slopes(stepper)[0])
                cotangents = (g, q / h.detach())
            else:
                results = stepper.step(clock[0], clock[1], (y,), None, error=False).y1
                cotangents = (g,)
            by = (y, clock, *wanted) if timed else (y, *wanted)
            return torch.autograd.grad(results, by, cotangents, allow_unused=True)

    return pull


def leafwise(f: VectorFieldFn, structure: TreeDef) -> Callable[..., Leaves]:
    """f from leaves to leaves, in Python that can be compiled (a tree library's code can't).

    ``structure``: y0's tree with the number of each leaf in its place.
    """
    _check(structure)
    count = _count(structure)

    def call(t: Scalar, leaves: Sequence[Array], args: Tree) -> Leaves:
        found: list[Array] = [None] * count
        _take(f(t, _put(structure, leaves), args), structure, found)
        return tuple(found)

    return call


def _parts(node: TreeDef) -> list[Array]:
    """Children of a container."""
    return list(node.values()) if isinstance(node, dict) else list(node)


def _check(node: TreeDef) -> None:
    if isinstance(node, int) or node is None:
        return
    if type(node) not in (dict, tuple, list) and not hasattr(node, "_fields"):
        raise UnsupportedByBackend(
            f"`compile` is True, but `y0` holds a {type(node).__name__}; make it a tree of dicts, "
            "tuples, named tuples and lists, or leave `compile` out."
        )
    for part in _parts(node):
        _check(part)


def _count(node: TreeDef) -> int:
    if isinstance(node, int):
        return 1
    return 0 if node is None else sum(_count(part) for part in _parts(node))


def _put(node: TreeDef, leaves: Sequence[Array]) -> Tree:
    """The tree of the leaves."""
    if isinstance(node, int):
        return leaves[node]
    if node is None:
        return None
    if isinstance(node, dict):
        return {key: _put(part, leaves) for key, part in node.items()}
    parts = [_put(part, leaves) for part in node]
    if hasattr(node, "_fields"):
        return type(node)(*parts)
    return tuple(parts) if isinstance(node, tuple) else parts


def _take(tree: Tree, node: TreeDef, found: list[Array]) -> None:
    """Put the leaves of a tree like ``node`` into their places."""
    if isinstance(node, int):
        found[node] = tree
    elif isinstance(node, dict):
        for key, part in node.items():
            _take(tree[key], part, found)
    elif node is not None:
        for i, part in enumerate(node):
            _take(tree[i], part, found)
