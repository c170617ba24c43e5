"""A vector field of two parts, one of them stiff; its vjp, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._base.types import (
    EVERYWHERE,
    Array,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Tree,
    VectorFieldFn,
)

if TYPE_CHECKING:
    from .._backend.protocols import FieldVJP, Layout, Pull
    from .._loops.loop import LeafLayout
    from .linearise import FieldDerivatives


@dataclass(frozen=True)
class Split:
    """A vector field that is a sum: one part to be taken explicitly, one implicitly.

    ``KenCarp3``, ``KenCarp4`` and ``KenCarp5`` solve equations of the implicit part alone, so what
    is dear to solve for and not stiff (advection, a nonlinear reaction) costs its evaluations. Any
    other solver takes the sum.

    Parameters
    ----------
    explicit, implicit : callable
        ``(t, y, args) -> part of dy/dt``, of the structure of y. ``implicit`` may be a
        ``VectorField`` that knows its Jacobian.

    Examples
    --------
    A slow rotation with a fast decay:

    >>> import numpy as np
    >>> import retrograde as rg
    >>> turn = lambda t, y, rate: np.stack([y[1], -y[0]])
    >>> decay = lambda t, y, rate: -rate * y
    >>> f, rate = rg.Split(turn, decay), np.asarray(1e3)
    >>> sol = rg.solve(f, [1.0, 0.0], 0.0, 1e-3, rate, solver="kencarp4", rtol=1e-6, atol=1e-8)
    >>> [round(float(x), 4) for x in sol.ys[-1]]
    [0.3679, -0.0004]
    """

    explicit: VectorFieldFn
    implicit: VectorFieldFn

    def __call__(self, t: Array, y: Tree, args: Tree = None) -> Tree:
        from .._backend.registry import backend_of

        first, second = self.explicit(t, y, args), self.implicit(t, y, args)
        if not isinstance(first, (tuple, list, dict)) and hasattr(first, "shape"):
            return first + second
        bk = backend_of(y)
        (a, treedef), (b, _) = bk.flatten(first), bk.flatten(second)
        return bk.unflatten(treedef, [x + z for x, z in zip(a, b, strict=True)])


class SplitPullback:
    """The vjps of both parts, whose cotangents of parameters are summed up together."""

    derivatives: FieldDerivatives | None = None
    mass: FieldVJP | None = None
    sides: tuple[Scalar, Scalar] = EVERYWHERE

    def __init__(self, explicit: FieldVJP, implicit: FieldVJP, wanted: NeedsGradient) -> None:
        self.explicit, self.implicit, self.time = explicit, implicit, wanted.time

    @property
    def layout(self) -> Layout | LeafLayout:
        """That of the states."""
        return self.implicit.layout

    def __call__(self, t: Array, y: State) -> tuple[Sequence[Array], Pull]:
        """Leaves of the sum, and its pull."""
        (k, first), (more, second) = self.explicit(t, y), self.implicit(t, y)

        def pull(ct: Sequence[Array], acc: ParamSums) -> tuple[Leaves, Scalar, ParamSums]:
            mu, ct_t, acc = first(ct, acc)
            other, more_t, acc = second(ct, acc)
            mu = tuple(a + b for a, b in zip(mu, other, strict=True))
            return mu, None if ct_t is None else ct_t + more_t, acc

        return [a + b for a, b in zip(k, more, strict=True)], pull

    def zero(self) -> ParamSums:
        """Sums of nothing."""
        return self.implicit.zero()

    def finish(self, acc: ParamSums) -> tuple[Array | None, ...]:
        """Cotangents of all parameters."""
        return self.implicit.finish(acc)

    def second(self, *_: object) -> tuple[Leaves, Scalar, ParamSums]:
        """No method of this field asks for it."""
        raise NotImplementedError
