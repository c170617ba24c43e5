"""The exact vjp of a Rosenbrock step: transposed solves, and one second-order product.

With lam_i = W^-T Ubar_i, from the last stage to the first (the notation is that of ``tableau``)::

    ybar += f_y(Y_i)^T lam_i = mu_i,   Ubar_j += a_ij mu_i + (C_ij / h) M^T lam_i

and in the end once the cotangent of ``sum_i <lam_i, J U_i + h d_i df/dt>`` by (t, y, args), for J
and df/dt are functions of these: that of f's derivative along the tangents (h d_i, U_i). Nothing
else depends on where the step starts, so this is the gradient of the step to rounding. Discrete
adjoints of Rosenbrock methods: Sandu, Daescu & Carmichael 2003, doi:10.1016/j.atmosenv.2003.08.019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..._base.types import Array, Field, ParamSums, Scalar, State
from ..base import YCarried
from ..runge_kutta.solver import StepCotangents
from .step import Stepper

if TYPE_CHECKING:
    from ..._backend.protocols import FieldVJP, Pull
    from ..runge_kutta.solver import Sources
    from .step import Stages


class StepVJP(YCarried):
    """Exact vjps of steps.

    Parameters
    ----------
    stages : Stages
    vjp : FieldVJP
    one_tape : bool
        Stages are evaluated first and linearised when their turn comes: one evaluation of f a stage
        more, and one tape alive in place of the step's.

    Notes
    -----
    Costs a Jacobian, a factorisation, and of each stage an evaluation, a vjp of f and two solves;
    and the second-order product.
    """

    extra = 0

    def __init__(
        self, stages: Stages, vjp: FieldVJP, *, outputs: bool, time: bool, one_tape: bool
    ) -> None:
        self.stages, self.vjp, self.time, self.one_tape = stages, vjp, time, one_tape
        self.layout, self.tableau = stages.layout, stages.tableau
        self.count = self.tableau.stages if outputs else self.tableau.inner
        self.doubtful = stages.doubtful(vjp)
        self.h: Scalar = 0.0
        self.y1: State = None

    def replay(self, field: Field) -> Stepper:
        """Steps forward over the same stages (a pull and a replay never interleave)."""
        return Stepper(self.stages)

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

        ``outputs`` and ``size`` are those of ``runge_kutta.solver.StepVJP.pull``.
        """
        pulls, self.h = self._linearise(t, h, y), h
        inside, ct_t, ct_h, extra = None, 0.0, 0.0, None
        if outputs is not None:
            g, acc, inside, ct_t, ct_h, extra = outputs(self, g, acc)
        step = self._transpose((t, h, y), g, acc, pulls, inside, size=size and self.time)
        return step._replace(t=step.t + ct_t, h=step.h + ct_h), extra

    def _linearise(self, t: Scalar, h: Scalar, y: State) -> list[Pull]:
        """All stages, and the pull of each (none of one tape)."""
        stages, layout, c = self.stages, self.layout, self.tableau.c
        stages.release()  # of a pull before, or a replay
        pulls: list[Pull] = []
        for i in range(self.count):
            argument = y if i == 0 else stages.argument(i)
            k: Sequence[Array]
            if self.one_tape:
                k = stages.field(layout.time(t + c[i] * h), argument)
            else:
                k, pull = self.vjp(layout.time(t + c[i] * h), argument)
                pulls.append(pull)
            slope = layout.own(k)
            if i == 0:
                stages.factor(h, y, stages.linearise(t, y, slope))
            stages.add(i, h, slope)
        return pulls

    def _transpose(
        self,
        step: tuple[Scalar, Scalar, State],
        g: State,
        acc: ParamSums,
        pulls: list[Pull],
        inside: State,
        *,
        size: bool,
    ) -> StepCotangents:
        """The recursion above; ``inside``: cotangents of the interpolant's basis."""
        (t, h, y), tableau, layout, stages = step, self.tableau, self.layout, self.stages
        linear, mass, d, zero = stages.linear, stages.mass, tableau.d, 0.0
        terms = [self._sources(i, g, inside) for i in range(self.count)]
        total = [(1.0, g)] if inside is None else [(1.0, g), (1.0, inside[-1])]
        ct_t: Scalar = zero
        ct_h: Scalar = zero
        lams: list[State] = []
        for i in reversed(range(self.count)):
            lam = linear.solve_transposed(stages.factors, layout.weighted(terms[i]))
            lams.insert(0, lam)
            if self.one_tape:
                argument = y if i == 0 else stages.argument(i)
                pulls.append(self.vjp(layout.time(t + tableau.c[i] * h), argument)[1])
            cotangents, ct, acc = pulls.pop()(layout.unpack(lam), acc)
            mu = layout.own(cotangents)
            if i == 0 and self.doubtful:
                place = layout.time(t), y
                mu = linear.confirmed(stages.start.jacobian, place, lam, mu)
            total.append((1.0, mu))
            through = lam
            if i and mass is not None:
                through = linear.mass_product_transposed(mass, lam)
            for j in range(i):
                if tableau.a[i][j]:
                    terms[j].append((tableau.a[i][j], mu))
                if tableau.coupling[i][j]:
                    terms[j].append((tableau.coupling[i][j] / h, through))
            if self.time:
                ct_t = ct_t + ct
                if size:
                    ct_h = ct_h + tableau.c[i] * ct + layout.inner(lam, self._by_size(i, h))
        if self.vjp.mass is not None:
            acc = self._pull_mass(self.vjp.mass, (layout.time(t), y), h, lams, acc)
        taus = [h * x for x in d[: self.count]] if stages.start.by_time is not None else None
        place = layout.time(t), y
        cotangents, ct, acc = self.vjp.second(*place, stages.u[: self.count], lams, acc, taus)
        total.append((1.0, layout.own(cotangents)))
        if self.time:
            ct_t = ct_t + ct
        return StepCotangents(layout.weighted(total), acc, ct_t, ct_h)

    def _pull_mass(
        self, vjp: FieldVJP, place: tuple[Array, State], h: Scalar, lams: list[State],
        acc: ParamSums,
    ) -> ParamSums:  # fmt: skip
        """Pull the cotangent of M, which stands left of U_i and right of those before it."""
        tableau, layout, u = self.tableau, self.layout, self.stages.u
        seen = []
        for i in range(self.count):
            pairs = zip(tableau.coupling[i], u, strict=False)
            terms = [(-1.0 / (h * tableau.gamma), u[i]), *((c / h, x) for c, x in pairs if c)]
            seen.append(layout.weighted(terms))
        return vjp(*place)[1]((self.stages.linear.outer(lams, seen),), acc)[2]

    def _by_size(self, i: int, h: Scalar) -> State:
        """The derivative by h of what stands right of W U_i, less W's times U_i."""
        tableau, layout, stages = self.tableau, self.layout, self.stages
        scale = 1.0 / (h * h)
        terms = [(scale / tableau.gamma, stages.u[i])]
        pairs = zip(tableau.coupling[i], stages.u, strict=False)
        terms += [(-scale * c, u) for c, u in pairs if c]
        change = layout.weighted(terms)
        if stages.mass is not None:
            change = stages.linear.mass_product(stages.mass, change)
        if tableau.d[i] and stages.start.by_time is not None:
            change = layout.axpy(change, tableau.d[i], stages.start.by_time)
        return change

    def _sources(self, i: int, g: State, inside: State) -> list[tuple[Scalar, State]]:
        """The terms of U_i's cotangent that come of y1 and of the inside."""
        columns = (self.tableau.b, *self.tableau.interpolation)
        terms = [(columns[0][i], g)]
        if inside is not None:
            terms += [(row[i], q) for row, q in zip(columns, inside, strict=False)]
        return [(w, x) for w, x in terms if w] or [(0.0, g)]

    # --- outputs of the step linearised last
    def extra_stages(self, due: Any = True) -> None:
        """There are none."""

    def result(self) -> State:
        """y at its end."""
        return self.stages.result()

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h)."""
        return self.stages.combined(self.tableau.weights(theta))

    def slope(self, theta: Scalar) -> State:
        """The interpolant's derivative with respect to time."""
        weights = [w / self.h for w in self.tableau.weight_derivatives(theta)]
        return self.stages.combined(weights, inside=False)

    def sources(self) -> State:
        """Cotangents of the inside of a step, zero: of the stages' combinations by the basis of the
        interpolant, and of y."""
        return (self.layout.zeros(),) * (self.tableau.degree + 1)

    def add_source(self, inside: State, theta: Scalar, h: Scalar, ct: State) -> State:
        """The same with the cotangent ct of y(t + theta h) added."""
        basis = (*self.tableau.basis(theta), 1.0)
        axpy = self.layout.axpy
        return tuple(axpy(q, w, ct) for q, w in zip(inside, basis, strict=True))
