"""The vector field of a batch whose samples have times of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ..._backend.samples import SampleBackend, SampleLeaves
from ..._base.errors import InputError
from ..._base.types import Array, Leaves, State, Tree, VectorFieldFn
from ..problem import Problem

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._base.types import Field


class PerSample:
    """Marks a leaf (or a tree) of ``args`` whose first axis is that of the samples.

    In f it is an array whose first axis has the samples that still run, as y's has.

    Parameters
    ----------
    value : array, shape (B, *shape), or tree of such
        What f is given of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> import retrograde as rg
    >>> rates = np.array([1.0, 2.0, 3.0])
    >>> f = lambda t, y, k: -k[:, None] * y
    >>> y0 = np.ones((3, 1))
    >>> sol = rg.solve(f, y0, 0.0, 1.0, rg.PerSample(rates), per_sample=True, rtol=1e-6)
    >>> sol.ys.shape, sol.ys[-1, :, 0].round(3).tolist()
    ((1, 3, 1), [0.368, 0.135, 0.05])
    """

    __slots__ = ("value",)

    def __init__(self, value: Tree) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"PerSample({self.value!r})"


class SampleProblem(Problem):
    """A vector field of a batch.

    Parameters
    ----------
    bk : AbstractBackend
    f : callable
        Of a batch of any length.
    y0, args : tree
    marks : sequence of bool
        Which leaves of args belong to samples.
    """

    layout: SampleLeaves

    def __init__(
        self, bk: AbstractBackend, f: VectorFieldFn, y0: Tree, args: Tree, marks: Sequence[bool]
    ) -> None:
        check_batch("y0", bk.flatten(y0)[0], None)
        super().__init__(cast("AbstractBackend", SampleBackend(bk)), f, y0, args)
        self.marked = tuple(marks[i] for i in self.where)
        """Which of ``params`` belong to samples."""
        self.called = [0]
        """Evaluations of f, one for each sample of a call."""
        marked = [x for x, mark in zip(self.params, self.marked, strict=True) if mark]
        check_batch("args", marked, self.layout.samples)

    def of(self, layout: SampleLeaves) -> SampleProblem:
        """The same for the samples of another layout; parameters are bound later."""
        twin = copy.copy(self)
        twin.layout = layout
        return twin

    def some(self, params: Leaves, index: Array) -> Leaves:
        """Parameters of some samples."""
        xp, index = self.bk.xp, self.layout.given(index)
        marked = (*self.marked, *[False] * (len(params) - len(self.marked)))
        return tuple(
            xp.take(x, index, axis=0) if mark else x for x, mark in zip(params, marked, strict=True)
        )

    def bind(self, params: Sequence[Array]) -> Field:
        """``field(t, Y) -> dy/dt`` in the form of states.

        Where y is one array (B, n) there is ``field.rows(t, columns)``, f's result as it is, which
        nobody but f owns.
        """
        if self.single and self.layout.flat and self.derivatives is None:
            return self._bound_rows(params)
        layout, called = self.layout, self.called
        given = layout.given

        def make() -> Field:
            field = self.bind_leaves(params)
            if layout.hosted:  # what is guarded are arrays of f's own library
                field = self.bk.guard(field)

            def bound(t: Array, y: State) -> State:
                called[0] += layout.samples
                return layout.pack(self.checked(field(given(t), layout.unpack(y))))

            return bound if layout.hosted else self.guarded(bound)

        return self._known(make, params, self.state_tree)

    def _bound_rows(self, params: Sequence[Array]) -> Field:
        """The same in one frame: of small batches, frames take as long as f."""
        args, f, layout, called = self.arguments(params), self.call, self.layout, self.called
        call = self.bk.guard(lambda t, y: f(t, y, args))
        given, turned, host, columns = layout.given, layout.rows, layout.host, layout.columns_of
        samples, shape = layout.samples, layout.shapes[0]

        def rows(t: Array, y: Array) -> Array:
            called[0] += samples
            k = call(given(t), turned(y))
            if k.shape != shape:
                self.checked((k,))
            return host(k)

        bound: Field = lambda t, y: columns([rows(t, y[0])])  # noqa: E731
        bound.rows = rows  # type: ignore[attr-defined]
        return bound

    def checked(self, leaves: Leaves) -> Leaves:
        """f's result, whose samples are those that it was given."""
        for x, shape in zip(leaves, self.layout.shapes, strict=True):
            if tuple(x.shape) != shape:
                raise InputError(
                    f"`f` returned the shape {tuple(x.shape)} for y of shape {shape}, the samples "
                    "that still run; hand arrays with a row for each sample in by "
                    "`args`, marked as rg.PerSample(array), and take the length of a batch from y."
                )
        return leaves


def check_batch(name: str, leaves: Sequence[Tree], samples: int | None) -> None:
    """Raise InputError unless leaves have a first axis of samples."""
    for x in leaves:
        shape = tuple(getattr(x, "shape", ()))
        samples = shape[0] if shape and samples is None else samples
        if not shape or shape[0] != samples:
            what = "every leaf of `y0`" if name == "y0" else "what rg.PerSample marks in `args`"
            raise InputError(
                f"`{name}` has a leaf of shape {shape} where `per_sample=True`: {what} needs a "
                f"first axis of the samples{f', {samples}' if samples else ''}."
            )
