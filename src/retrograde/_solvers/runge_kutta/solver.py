"""Explicit Runge-Kutta methods: what a tableau makes of a solver, written once for all.

Steps forward are those of Hairer, Norsett, Wanner, *Solving ODEs I*, II.1. Their exact adjoints
follow the recursion of Hager 2000 (doi:10.1007/s002110000178) and Sanz-Serna 2016
(doi:10.1137/151002769, section 3): only the vjp of f is needed. Output at a time inside a step
is linear in y and the stages, so its cotangents enter the same recursion as sources q_i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from ..._base.types import (
    Array,
    Bool,
    Carry,
    Field,
    Leaves,
    ParamSums,
    Residuals,
    Scalar,
    Scale,
    State,
)
from ..base import AbstractSolver, AbstractStepper, Step, YCarried, made
from .tableau import Tableau

if TYPE_CHECKING:
    from ..._backend.interface import AbstractBackend
    from ..._backend.protocols import FieldVJP, Layout, Pull, StepAdjoint, StepStages


class Stepper(AbstractStepper):
    """Steps over one set of stages.

    Parameters
    ----------
    tableau : Tableau
    space : Stages
        Their errors are formed where it has tolerances, unless ``judged`` is False.
    layout
    field : callable
        ``(t, y) -> leaves``.
    """

    def __init__(
        self,
        tableau: Tableau,
        space: StepStages,
        layout: Layout,
        field: Field,
        *,
        judged: bool = True,
    ) -> None:
        self.space = space
        self.layout = layout
        self.field = field
        self.fsal = tableau.fsal
        self.stages = tableau.stages
        self.inner = tableau.stages - tableau.fsal
        self.judged = judged = judged and space.scale is not None
        self.late = judged and tableau.late and not layout.bk.clock(layout).traced
        """Whether the last stage waits until the error is known to be small enough."""
        self.tells_calls = self.late
        self.extra = tableau.inside - tableau.stages
        self.weights = tableau.weights

    def invert(self, t: Scalar, h: Scalar, y1: State) -> State:
        """A step of -h from the end of the step (t, h): its inverse but for O(h**(order + 1))."""
        return self.step(t + h, -h, y1, None, error=False).y1

    def init(self, t: Scalar, carried: State, slope: Leaves | None = None) -> Leaves | None:
        """f(t, y) for an FSAL method: the first stage of the step from there."""
        if not self.fsal or slope is not None:
            return slope if self.fsal else None
        return tuple(1.0 * k for k in self.field(self.layout.time(t), carried))  # f may reuse them

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: Leaves | None, *, error: bool
    ) -> Step:
        w, field = self.space, self.field
        if not error:
            w.begin(t, h, carried)
            w.put(0, field(w.time(0), carried))
            if self.inner > 1:
                w.evaluate(field, 1, self.inner)
            return made((w.result(), None, None, None, False, None))
        if self.late:
            return self._late(t, h, carried, state)
        kept = w.begin(t, h, carried, state)
        if kept is None:
            w.put(0, field(w.time(0), carried))
        w.evaluate(field, 1, self.inner)
        y1, k1 = w.result(), None
        if self.fsal:
            k1 = field(w.time(self.inner), y1)
            w.put(self.inner, k1)
        return Step(y1, w.error2(y1) if self.judged else None, k1, kept)

    def _late(self, t: Scalar, h: Scalar, y: State, k0: Leaves | None) -> Step:
        """A step whose last stage is evaluated once the error is known to be small enough.

        Where a controller accepts a step all the same, its k1 is None, and so the next one's k0.
        """
        w, field = self.space, self.field
        kept = w.begin(t, h, y, field(self.layout.time(t), y) if k0 is None else k0)
        w.evaluate(field, 1, self.inner)
        y1 = w.result()
        error2, k1 = w.error2(y1), None
        w.whole = bool(error2 <= 1.0)
        if w.whole:
            k1 = field(w.time(self.inner), y1)
            w.put(self.inner, k1)
        calls = self.inner - 1 + (k0 is None) + w.whole
        return Step(y1, error2, k1, kept, False, calls)

    def extra_stages(self, due: Bool = True) -> None:
        """Evaluate the interpolant's own stages of the last step, where ``due``."""
        if not self.extra:
            return
        w, field, layout, low = self.space, self.field, self.layout, self.stages

        def stages() -> tuple[Leaves, ...]:
            if self.late and not w.whole:
                self.untold += 1
                w.put(self.inner, field(w.time(self.inner), w.result()))
            found = []
            for i in range(low, low + self.extra):
                k = field(w.time(i), w.inside(i))
                w.put(i, k)
                found.append(tuple(k))
            return tuple(found)

        if due is True or not layout.bk.clock(layout).traced:
            if due:
                stages()
            return
        # a loop of one trip at most: under JAX's vmap, a branch would always be taken
        start = (due, (layout.zeros(),) * self.extra)
        _, found = layout.bk.while_loop(lambda s: s[0], lambda s: (~s[0], stages()), start)
        for i, k in enumerate(found, low):
            w.put(i, k)

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h) of the last step."""
        return self.space.interpolate(self.weights(theta))


class StepCotangents(NamedTuple):
    """What one step's pull gives: cotangents of y, parameters, t and h."""

    y: State
    params: ParamSums
    t: Scalar
    h: Scalar


Sources: TypeAlias = tuple[State, ParamSums, State, Scalar, Scalar, Carry]
"""What output during a step adds: the cotangent of its end, sums of those of parameters, what
``sources`` and ``add_source`` made of its inside (or None), cotangents of t and h, and the rest."""


class StepVJP(YCarried):
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


class ExplicitRungeKutta(AbstractSolver):
    """Any explicit Runge-Kutta method; a subclass is a page with a ``tableau``.

    Examples
    --------
    A method is a class with a tableau:

    >>> import retrograde as rg
    >>> class ExplicitMidpoint(rg.ExplicitRungeKutta):
    ...     tableau = rg.Tableau(
    ...         c=(0.0, 0.5), a=((), (0.5,)), b=(0.0, 1.0), b_error=(-1.0, 1.0), order=2,
    ...         error_order=2, interpolation=((1.0, -1.0), (0.0, 1.0)), interpolation_order=2,
    ...     )
    >>> sol = rg.solve(lambda t, y, args: -y, [1.0], 0.0, 1.0, solver=ExplicitMidpoint(), dt=0.01)
    >>> round(float(sol.ys[-1, 0]), 4)
    0.3679
    """

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = cls.tableau
        cls.order = tableau.order
        cls.error_order = None if tableau.b_error is None else tableau.error_order
        cls.stages = tableau.stages
        cls.extra = tableau.inside - tableau.stages
        cls.degree = len(tableau.interpolation[0])
        cls.init_evaluations = int(tableau.fsal)
        cls.evaluations = tableau.stages - tableau.fsal

    def stepper(
        self, bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
    ) -> Stepper:
        return Stepper(self.tableau, bk.stages(layout, self.tableau, scale), layout, field)

    def step_vjp(
        self,
        bk: AbstractBackend,
        layout: Layout,
        vjp: FieldVJP,
        *,
        outputs: bool,
        time: bool,
        field: Field | None = None,
    ) -> StepVJP:
        tableau = self.tableau if outputs else self.tableau.bare
        return StepVJP(
            tableau,
            bk.stages(layout, tableau),
            bk.adjoint(layout, tableau),
            layout,
            vjp,
            outputs=outputs,
            time=time,
            field=field,
        )
