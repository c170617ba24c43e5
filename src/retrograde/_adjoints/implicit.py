"""ImplicitAdjoint: the gradient of a steady state by the implicit function theorem.

Where f(y, args) = 0, dy = -J^-1 f_args dargs, whatever way led there. So nothing of the solve is
kept but its end: one linear system J^T lam = -ct, and one vjp of f by args. The system is solved by
BiCGStab (van der Vorst 1992, doi:10.1137/0913035) on vjps of f, with a few states of memory. The
gradient by y0 is zero.

Known limits: real states; a singular J (a line of steady states) has no such derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._autodiff.field_vjp import field_pullback
from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.types import Bool, Carry, Inputs, Leaves, NeedsGradient, Residuals, Scalar, State
from .._integrate.events import reached
from .base import AbstractAdjoint
from .checkpointed import finished

if TYPE_CHECKING:
    from .._integrate.integrator import Integrator
    from .._integrate.outputs import Final


@dataclass(frozen=True)
class ImplicitAdjoint(AbstractAdjoint):
    """The gradient of a steady state, which depends on args alone (``rg.steady_state`` takes it).

    Parameters
    ----------
    rtol : float
        Of the linear system's residual.
    max_turns : int
        Two vjps each; a system that takes more has no result.

    Examples
    --------
    >>> import retrograde as rg
    >>> rg.steady_state(lambda t, y, k: k - y, [0.0], [2.0]).ys.round(4).tolist()
    [[2.0]]
    """

    rtol: float = 1e-10
    max_turns: int = 1000
    accuracy: ClassVar[str] = "implicit"
    passes_events: ClassVar[bool] = True

    def forward(self, loop: Integrator, inputs: Inputs) -> tuple[Final, Residuals]:
        final = loop.integrate(inputs)
        return final, final._replace(events=final.events.kept(), inside=(), times=(), sizes=())

    def reverse(
        self,
        loop: Integrator,
        inputs: Inputs,
        residuals: Residuals,
        cotangents: Leaves,
        wanted: NeedsGradient,
    ) -> Inputs:
        bk, clock, layout, problem, final = (
            loop.bk, loop.clock, loop.layout, loop.problem, residuals,
        )  # fmt: skip
        if layout.dtype != layout.real_dtype:
            raise InputError(
                "the gradient of a steady state needs a real `y0`; split complex ones."
            )
        y, t = loop.state(final.y), layout.time(final.t)
        bare = wanted
        if Capability.AUTODIFF in bk.capabilities:  # a tape needs all that f is called with
            bare = wanted._replace(params=(False,) * len(wanted.params))
        vjp = field_pullback(problem, inputs.params, bare, prepared=False)

        def transposed(x: State) -> State:
            _, pull = vjp(t, y)
            return layout.pack(pull(layout.unpack(x), vjp.zero())[0])

        ct = layout.row(cotangents[: loop.outputs.width], 0)
        lam, solved = self._solution(loop, transposed, ct)
        vjp = field_pullback(problem, inputs.params, wanted, prepared=False)
        _, pull = vjp(t, y)
        minus = layout.axpy(layout.zeros(), -1.0, lam)
        sums = pull(layout.unpack(minus), vjp.zero())[2]
        ok = clock.both(reached(loop, final), solved)
        if not clock.traced and not solved:
            raise InputError(
                f"the gradient of the steady state was not found in {self.max_turns} turns: the "
                "Jacobian of `f` there is singular, or very ill-conditioned."
            )
        ts = bk.reals(0, layout)
        zero = clock.real(0.0)
        found = Inputs(layout.zeros(), vjp.finish(sums), zero, zero, ts)
        return finished(bk, ok, found)

    def _solution(
        self, loop: Integrator, matrix: Callable[[State], State], b: State
    ) -> tuple[State, Bool]:
        """x with ``matrix(x)`` = b by BiCGStab, and whether it was found."""
        bk, clock, layout = loop.bk, loop.clock, loop.layout
        inner, axpy, where = layout.inner, layout.axpy, clock.where
        least = (self.rtol * max(1.0, clock.eps / 2.0**-52)) ** 2 * inner(b, b)

        def ratio(a: Scalar, b: Scalar) -> Scalar:
            return where(b == 0, math.nan, a / where(b == 0, 1.0, b))  # nan ends it

        def running(s: Carry) -> Bool:
            return clock.both(s[5] > least, s[6] < self.max_turns)

        def turn(s: Carry) -> Carry:
            x, r, p, v, (rho, alpha, omega), _, n = s
            now = inner(b, r)
            beta = ratio(now, rho) * ratio(alpha, omega)
            p = axpy(r, beta, axpy(p, -omega, v))
            v = matrix(p)
            alpha = ratio(now, inner(b, v))
            half = axpy(r, -alpha, v)
            image = matrix(half)
            size = inner(image, image)
            omega = where(size > 0, ratio(inner(image, half), size), 1.0)
            x = axpy(axpy(x, alpha, p), omega, half)
            r = axpy(half, -omega, image)
            return x, r, p, v, (now, alpha, omega), inner(r, r), n + 1

        one, zeros = clock.real(1.0), layout.zeros()
        start = (zeros, b, zeros, zeros, (one, one, one), inner(b, b), clock.count(0))
        found = bk.while_loop(running, turn, start)
        return found[0], found[5] <= least
