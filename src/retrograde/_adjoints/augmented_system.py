"""The augmented system of the continuous adjoint: state, its cotangent, parameters' quadratures.

    y' = f(t, y, p),   a' = -f_y^T a,   g' = -f_p^T a

(Cao, Li, Petzold, Serban 2003, doi:10.1137/S1064827501380630; Chen et al. 2018,
arXiv:1806.07366, eq. 4-5). A state here is ``(z, g)``: z holds y and a in one layout of the
library's own, g the leaves of the parameters wanted, each of its own dtype. g feeds nothing back,
so its slopes are summed as the stages come: two sums in place of one slope a stage. Known limit:
explicit Runge-Kutta methods only, for the weights of those sums are the tableau's.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._autodiff.field_vjp import field_pullback
from .._backend.stages import joint
from .._base.types import (
    Array,
    Bool,
    Field,
    Index,
    Leaves,
    Namespace,
    NeedsGradient,
    Scalar,
    Scale,
    State,
)
from .._solvers.base import AbstractStepper, SolverState, Step

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._backend.protocols import AbstractStepVJP, Layout
    from .._integrate.problem import Problem
    from .._solvers import ExplicitRungeKutta


class AugmentedLayout:
    """States ``(z, g)``, in the form that an integration asks of a layout.

    Parameters
    ----------
    layout
        Layout of y.
    like : state
        Any y.
    params : sequence of array
        The parameters whose cotangents are integrated.
    seminorm : bool
        Whether norms leave g out.
    """

    plain = False

    def __init__(
        self, layout: Layout, like: State, params: Sequence[Array], seminorm: bool
    ) -> None:
        self.bk, self.own, self.params = layout.bk, layout, params
        leaves = layout.unpack(like)
        self.count = len(leaves)
        pair = self.bk.layout([*leaves, *leaves])
        self.pair = pair if layout.origin is None else pair.at(layout.origin)
        self.clock = self.bk.clock(layout)
        self.normed = () if seminorm else tuple(params)
        sizes = [self.bk.nbytes(x) // self.bk.itemsize(x.dtype) for x in self.normed]
        self.size = self.pair.size + sum(sizes)

    # --- what is in a state
    def join(self, y: State, a: State, g: Sequence[Array]) -> State:
        """The state of y, a and the parameters' cotangents g."""
        return self.pair.pack([*self.own.unpack(y), *self.own.unpack(a)]), tuple(g)

    def split(self, state: State) -> tuple[State, State, Leaves]:
        """y, a and g."""
        leaves, n = self.pair.unpack(state[0]), self.count
        return self.own.pack(leaves[:n]), self.own.pack(leaves[n:]), state[1]

    def tolerance(self, value: Scalar) -> Scalar:
        """A tolerance of y as one of y and a."""
        if is_number(value):
            return value
        leaves = self.own.unpack(value)
        return self.pair.pack([*leaves, *leaves])

    # --- an integration's layout
    def pack(self, leaves: Sequence[Array]) -> State:
        n = 2 * self.count
        return self.pair.pack(leaves[:n]), tuple(leaves[n:])

    def time(self, t: Scalar) -> Array:
        return self.own.time(t)

    def axpy(self, x: State, h: Scalar, k: State) -> State:
        return self.pair.axpy(x[0], h, k[0]), self.moved(x[1], h, k[1])

    def moved(self, g: Sequence[Array], h: Scalar, slopes: Sequence[Array]) -> Leaves:
        """``g + h * slopes``; a traced h may be of a wider dtype than a parameter."""
        add = self.bk.add_scaled
        pairs = zip(g, slopes, strict=True)
        return tuple(_like(add(x, h, k), x, self.bk.xp) for x, k in pairs)

    def norm2(self, x: State, y: State, scale: Scale) -> Scalar:
        mean = self.pair.norm2(x[0], y[0], scale)
        if not self.normed:
            return mean
        return self.mean(mean, self.square(x[1], [self.bk.xp.abs(v) for v in y[1]], scale))

    def norm(self, x: State, y: State, scale: Scale) -> Scalar:
        if not self.normed:
            return self.pair.norm(x[0], y[0], scale)  # type: ignore[attr-defined]
        return self.clock.root(self.norm2(x, y, scale), 1.0)

    def mean(self, mean: Scalar, square: Scalar) -> Scalar:
        """The mean square over z and g, from that over z and the sum over g."""
        return (mean * self.pair.size + square) / self.size

    def square(self, e: Sequence[Array], sizes: Sequence[Array], s: Scale) -> Scalar:
        """The sum of squares over g."""
        xp, real, total = self.bk.xp, self.clock.real, self.clock.real(0.0)
        for x, size in zip(e, sizes, strict=True):
            ratio = xp.abs(x) / (s.atol + s.rtol * size)
            total = total + real(self.bk.scalar(xp.sum(ratio * ratio)))
        return total

    def finite(self, state: State) -> Bool:
        result: Bool = self.pair.finite(state[0])
        for x in state[1]:
            result = self.bk.both(result, self.bk.xp.all(self.bk.xp.isfinite(x)))
        return result


class AugmentedField:
    """Slopes of the augmented system: one evaluation and one vjp of f a call.

    Parameters
    ----------
    problem : Problem
    params : sequence of array
        All of the problem's.
    wanted : NeedsGradient
    layout : AugmentedLayout
    """

    def __init__(
        self,
        problem: Problem,
        params: Sequence[Array],
        wanted: NeedsGradient,
        layout: AugmentedLayout,
    ) -> None:
        timeless = wanted._replace(t0=False, t1=False, ts=False)
        self.vjp = field_pullback(problem, params, timeless, prepared=False)
        self.layout = layout
        self.zeros_like = problem.bk.zeros_like

    def __call__(self, t: Array, state: State) -> Leaves:
        """Leaves of the slope of a state."""
        slopes, quadratures = self.slopes(t, state[0])
        return (*slopes, *quadratures)

    def slopes(self, t: Array, z: State) -> tuple[Leaves, Leaves]:
        """Leaves of z' and g'."""
        layout = self.layout
        leaves, n = layout.pair.unpack(z), layout.count
        k, pull = self.vjp(t, layout.own.pack(leaves[:n]))
        mu, _, acc = pull(tuple(-x for x in leaves[n:]), self.vjp.zero())
        pairs = zip(acc, layout.params, strict=True)
        return (*k, *mu), tuple(self.zeros_like(p) if x is None else x for x, p in pairs)


class AugmentedSolver:
    """A solver's steps on the augmented system, as an integration asks for them.

    Parameters
    ----------
    solver : ExplicitRungeKutta
    layout : AugmentedLayout
    field : AugmentedField
    """

    extra = 0  # no walk has saved times inside its steps
    implicit = switches = False

    def __init__(
        self, solver: ExplicitRungeKutta, layout: AugmentedLayout, field: AugmentedField
    ) -> None:
        self.solver, self.layout, self.field = solver, layout, field
        self.error_order = solver.error_order
        self._made: AbstractStepper | None = None

    def calls(self, steps: Index, *, full: bool) -> Index:
        """None: statistics count those of the solve, and are told before a walk back begins."""
        return 0

    def step_vjp(self, *_: object, **__: object) -> AbstractStepVJP:
        """No walk back is pulled back itself."""
        raise AssertionError("the adjoint system has no adjoint")

    def stepper(
        self,
        bk: AbstractBackend,
        layout: AugmentedLayout,
        field: Field | None,
        scale: Scale | None = None,
    ) -> AbstractStepper:
        """The pass, made once: all legs of a walk back share its stages."""
        if self._made is None:
            self._made = _Stepper(self.solver, self.layout, self.field, scale)
        return self._made


class _Stepper(AbstractStepper):
    """Steps of the augmented system: those of z by the solver's own pass, sums for g."""

    def __init__(
        self,
        solver: ExplicitRungeKutta,
        layout: AugmentedLayout,
        slopes: AugmentedField,
        scale: Scale | None,
    ) -> None:
        tableau, self.bk = solver.tableau, layout.bk
        self.layout, self.field, self.scale = layout, slopes, scale
        stage = weakref.WeakMethod(self._stage)  # no cycle: nothing waits for the collector

        def field(t: Array, z: State) -> Leaves:
            return stage()(t, z)  # type: ignore[misc]

        self.stepper = solver.stepper(self.bk, layout.pair, field, scale)
        errors = (tableau.b_error, tableau.b_coarse) if layout.normed and scale is not None else ()
        self.weights = (tableau.b, *(row for row in errors if row is not None))
        self.sums: list[State] = []
        self.stage = 0
        self.slopes: Leaves = ()

    def init(self, t: Scalar, carried: State, slope: Leaves | None = None) -> SolverState:
        """The state of z's own steps, and the slopes of g."""
        if slope is None:
            slope = self.field(self.layout.time(t), carried)
        n = 2 * self.layout.count
        z = self.stepper.init(t, carried[0], slope[:n])
        return z, None if z is None else tuple(slope[n:])

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: SolverState, *, error: bool
    ) -> Step:
        self.sums, self.stage = [None] * len(self.weights), 0
        k0, slopes = state or (None, None)
        if slopes is not None:
            self._add(slopes)
        (z, g), layout = carried, self.layout
        z1, e2, k1, kept, _, _ = self.stepper.step(t, h, z, k0, error=error)
        g1 = layout.moved(g, h, self.sums[0])
        if not error:
            return Step((z1, g1), None, None, None)
        if layout.normed and e2 is not None:
            e2 = layout.mean(e2, self._square(h, g, g1))
        after = (k1, None if k1 is None else self.slopes)
        return Step((z1, g1), e2, after, (kept, slopes))

    def interpolate(self, theta: Scalar) -> State:
        raise NotImplementedError  # no walk has saved times inside its steps

    def _square(self, h: Scalar, g: Sequence[Array], g1: Sequence[Array]) -> Scalar:
        """The sum of squares over g of the error of the last step."""
        layout, xp, scale = self.layout, self.bk.xp, self.scale
        assert scale is not None
        sizes = [xp.maximum(xp.abs(x), xp.abs(y)) for x, y in zip(g, g1, strict=True)]
        square, *coarse = (
            layout.square([_like(h * x, x, xp) for x in row], sizes, scale) for row in self.sums[1:]
        )
        if coarse:  # two estimates are made one over z and over g, each by itself
            square = joint(square, coarse[0], layout.clock.where)
        return square

    def _stage(self, t: Array, z: State) -> Leaves:
        """z' for the solver's own pass; g' goes into the sums."""
        k, self.slopes = self.field.slopes(t, z)
        self._add(self.slopes)
        return k

    def _add(self, slopes: Leaves) -> None:
        add = self.bk.add_scaled
        for r, weights in enumerate(self.weights):
            w, total = weights[self.stage], self.sums[r]
            if w and total is None:
                self.sums[r] = tuple(w * x for x in slopes)
            elif w:
                self.sums[r] = tuple(add(s, w, x) for s, x in zip(total, slopes, strict=True))
        self.stage += 1


def is_number(tolerance: Scalar) -> bool:
    """Whether a tolerance is one number for all; compiled programs have them as 0-d arrays."""
    return isinstance(tolerance, float) or getattr(tolerance, "shape", None) == ()


def _like(x: Array, y: Array, xp: Namespace) -> Array:
    """x in the dtype of y."""
    return x if x.dtype == y.dtype else xp.astype(x, y.dtype)
