"""Exact adjoints of explicit Runge-Kutta steps, written once for every tableau.

The recursion of Hager 2000 (doi:10.1007/s002110000178) and Sanz-Serna 2016
(doi:10.1137/151002769, section 3): only the vjp of f is needed. Output at a time inside a step
is linear in y and the stages, so its cotangents enter the same recursion as sources q_i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..._base.types import Array, Bool, Carry, Field, ParamSums, Residuals, Scalar, State
from .step import Stepper
from .tableau import Tableau

if TYPE_CHECKING:
    from ..._backend.protocols import FieldVJP, Layout, Pull, StepAdjoint, StepStages

__all__ = ["Sources", "StepCotangents", "StepVJP"]


class StepCotangents(NamedTuple):
    """What one step's pull gives: cotangents of y, parameters, t and h."""

    y: State
    params: ParamSums
    t: Scalar
    h: Scalar


Sources: TypeAlias = tuple[State, ParamSums, State, Scalar, Scalar, Carry]
"""What output during a step adds: the cotangent of its end, sums of those of parameters, what
``sources`` and ``add_source`` made of its inside (or None), cotangents of t and h, and the rest."""


class StepVJP:
    """Exact vjps of steps over one stages and one stage cotangents.

    Parameters
    ----------
    field : callable or None
        If given, a step's stages are evaluated by it, and each is linearised when its turn
        comes: one evaluation of f a stage more, and one tape alive in place of the step's.

    Notes
    -----
    Costs one evaluation and one vjp of f a stage; holds the tapes of one step's stages.
    """

    def __init__(
        self,
        tableau: Tableau,
        space: StepStages,
        adjoint: StepAdjoint,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
    ) -> None:
        self.field = field
        self.tableau = tableau
        self.space = space
        self.adjoint = adjoint
        self.layout = layout
        self.vjp = vjp
        self.c = tableau.c
        self.time = time
        self.weights = tableau.weights
        self.weight_derivatives = tableau.weight_derivatives
        self.last = tableau.stages - 1 if tableau.fsal else None
        self.inner = tableau.stages - tableau.fsal
        self.total = tableau.inside
        self.extra = tableau.inside - tableau.stages if outputs else 0
        # with stages of the interpolant's own, even the last waits until an output asks for it
        self.count = tableau.stages if outputs and not self.extra else self.inner
        self.known = self.pulled = self.count
        self.pulls: list[Pull] = []

    def replay(self, field: Field) -> Stepper:
        """Steps forward over the same stages (a pull and a replay never interleave)."""
        return Stepper(self.tableau, self.space, self.layout, field)

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of y1 (and those of outputs inside the step) back to y.

        ``outputs(step_vjp, g, acc)`` is called when all stages are known and returns a
        :class:`Sources` with what output during the step adds. ``size`` asks for the cotangent
        of h, which costs a pairing a stage.
        """
        pulls = self.linearise(t, h, y)
        if outputs is None:
            return self.transpose(h, y, g, acc, pulls, size=size), None
        g, acc, inside, ct_t, ct_h, extra = outputs(self, g, acc)
        step = self.transpose(h, y, g, acc, pulls, inside, size=size)
        y, acc, t, h = step  # no _replace: its tuples fill the interpreter's lists of free ones
        return StepCotangents(y, acc, t + ct_t, h + ct_h), extra

    def transpose(
        self,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        pulls: Residuals,
        inside: State = None,
        *,
        size: bool,
    ) -> StepCotangents:
        """The adjoint recursion of the step linearised last; ``inside``: cotangents there."""
        q, qy = inside or (None, None)
        ct_t: Scalar = 0.0
        ct_h: Scalar = 0.0
        adjoint, inner = self.adjoint, self.layout.inner
        if self.known < self.pulled:
            adjoint.forget(self.known)
        self.pulled = self.known
        adjoint.begin(h, g, q)
        for i in reversed(range(self.known)):
            lam = adjoint.lam(i)
            pull = pulls.pop() if self.field is None else self._stage(i, y)[1]
            mu, ct, acc = pull(lam, acc)
            if self.time:
                ct_t = ct_t + ct
                if size:
                    ct_h = ct_h + self.c[i] * ct + inner(lam, self.space.derivative(i)) / h
            adjoint.push(i, mu)
        g = adjoint.total()
        if qy is not None:
            g = self.layout.add(g, qy)
        return StepCotangents(g, acc, ct_t, ct_h)

    # --- the ends of a solve
    def embed(self, ct: State) -> State:
        """A cotangent of y as one of what the loop carries."""
        return ct

    def finish(
        self, t0: Scalar, y0: State, ct: State, acc: ParamSums
    ) -> tuple[State, Scalar, ParamSums]:
        """The vjp of ``start``: cotangents of y0 and t0, and the accumulator."""
        return ct, 0.0, acc

    # --- outputs of the step linearised last
    def extra_stages(self, due: Bool) -> None:
        """Linearise what the interpolant needs beyond the step, where ``due``.

        A traced pass does so whether it is due or not: tapes can't leave a branch.
        """
        if not self.extra or not (self.layout.bk.clock(self.layout).traced or due):
            return
        w = self.space
        for i in range(self.known, self.total):
            if self.field is None:
                k, pull = self._stage(i, None)
                self.pulls.append(pull)
            else:
                k = self.field(w.time(i), self._argument(i, None))
            w.put(i, k)
        self.known = self.total

    def result(self) -> State:
        """y at its end."""
        return self.space.result()

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h)."""
        return self.space.interpolate(self.weights(theta))

    def slope(self, theta: Scalar) -> State:
        """The interpolant's derivative with respect to time."""
        return self.space.slope(self.weight_derivatives(theta))

    def sources(self) -> State:
        """Cotangents of the inside of a step, zero."""
        return self.adjoint.sources(), self.layout.zeros()

    def add_source(self, inside: State, theta: Scalar, h: Scalar, ct: State) -> State:
        """The same with the cotangent ct of y(t + theta h) added."""
        q, qy = inside
        q = self.adjoint.add_source(q, [h * x for x in self.weights(theta)], ct)
        return q, self.layout.add(qy, ct)

    def linearise(self, t: Scalar, h: Scalar, y: State) -> list[Pull]:
        """All stages, and the pull of each (none of one tape at a time)."""
        w, field, self.known = self.space, self.field, self.count
        pulls = self.pulls = []
        w.begin(t, h, y)
        if field is not None:
            w.put(0, field(w.time(0), y))
            w.evaluate(field, 1, self.inner)
            if self.count > self.inner:
                w.put(self.inner, field(w.time(self.inner), w.result()))
            return []
        for i in range(self.count):
            k, pull = self._stage(i, y)
            w.put(i, k)
            pulls.append(pull)
        return pulls

    def _stage(self, i: int, y: State) -> tuple[Sequence[Array], Pull]:
        """f at stage i, linearised; the stages before it are known."""
        return self.vjp(self.space.time(i), self._argument(i, y))

    def _argument(self, i: int, y: State) -> State:
        w = self.space
        if i == 0:
            return y
        if i == self.last:
            return w.result()
        return w.combine(i) if i < self.tableau.stages else w.inside(i)
