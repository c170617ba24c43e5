"""What is solved, and what its gradient is: by plain Python, without any array or adjoint.

The loss is the sum of the final state; its gradient is taken by y0 and args. A reference runs the
steps of an explicit Runge-Kutta method once for each input, times held constant, with an imaginary
step of that input: the imaginary part of the loss is its derivative to rounding (Squire and Trapp
1998, doi:10.1137/S003614459631241X). Over the steps that a solve took it is that solve's exact
discrete gradient; over many small ones, the gradient of the true ODE.
"""

from __future__ import annotations

import cmath
import itertools
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..._base.types import Array, Namespace, Tree, VectorFieldFn
from ..._solvers import Euler, Tableau, Tsit5

Numbers = list[float]

PLAIN = types.SimpleNamespace(stack=list, cos=cmath.cos, sin=cmath.sin)
"""The functions of fields, of plain numbers."""

STEP = 1e-30
"""Imaginary step of a derivative: nothing is subtracted, so it may be as small as it likes."""


@dataclass(frozen=True)
class Problem:
    """An initial value problem and the settings of its solve.

    Attributes
    ----------
    name, title : str
    field : callable
        ``field(xp) -> f(t, y, args)`` in the operations of a namespace.
    y0, args : tuple of float
        No args: an empty tuple.
    t1 : float [time]
        Solves begin at 0.
    steps : int or None
        Constant Euler steps; None solves adaptively with Tsit5.
    rtol, atol : float
    max_steps : int
        Tries allowed of adaptive steps, to us and to peers.
    budgets : tuple of str
        Of ``adjoint="auto"``, beside that of an ample one.
    slots : tuple of int
        Of checkpointing methods, ours and peers'.
    """

    name: str
    title: str
    field: Callable[[Namespace], VectorFieldFn]
    y0: tuple[float, ...]
    args: tuple[float, ...]
    t1: float
    steps: int | None
    budgets: tuple[str, ...]
    slots: tuple[int, ...]
    rtol: float = 1e-6
    atol: float = 1e-9
    max_steps: int = 256

    @property
    def dt(self) -> float | None:
        """Size of constant steps [time]."""
        return None if self.steps is None else self.t1 / self.steps

    @property
    def solver(self) -> str:
        """The method's name."""
        return "tsit5" if self.steps is None else "euler"

    @property
    def leaves(self) -> tuple[tuple[float, ...], ...]:
        """What the gradient is taken of."""
        return (self.y0, self.args) if self.args else (self.y0,)

    def pack(self, leaves: Sequence[Array]) -> Array | None:
        """Args as the field takes them, from the leaves beyond y0."""
        return leaves[0] if leaves else None

    @property
    def settings(self) -> dict[str, Tree]:
        """Keywords of ``retrograde.solve``."""
        if self.dt is not None:
            return {"solver": self.solver, "dt": self.dt}
        keywords = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        return {"solver": self.solver, **keywords}

    def grid(self, steps: int) -> Numbers:
        """Ends of equal steps from 0 to t1."""
        return [self.t1 * i / steps for i in range(steps + 1)]

    def gradient(self, times: Sequence[float], tableau: Tableau | None = None) -> Numbers:
        """The exact gradient of the solve that takes these steps, all leaves in a row."""
        tableau = tableau or (Euler() if self.steps is not None else Tsit5()).tableau
        inputs = (*self.y0, *self.args)
        found: Numbers = []
        for j in range(len(inputs)):
            moved = [x + 1j * STEP * (i == j) for i, x in enumerate(inputs)]
            found.append(math.fsum(x.imag for x in self._end(moved, times, tableau)) / STEP)
        return found

    def _end(
        self, inputs: list[complex], times: Sequence[float], tableau: Tableau
    ) -> list[complex]:
        """The final state, from y0 and args in a row."""
        f, y, p = self.field(PLAIN), inputs[: len(self.y0)], inputs[len(self.y0) :]
        for t, end in itertools.pairwise(times):
            h, ks = end - t, list[list[complex]]()
            for c, row in zip(tableau.c, tableau.a, strict=True):
                ks.append(f(t + c * h, _along(y, h, row, ks), p))
            y = _along(y, h, tableau.b, ks)
        return y

    def true_gradient(self) -> Numbers:
        """The gradient of the true ODE, to 1e-8 or so, by many small steps."""
        return self.gradient(self.grid(4000), Tsit5().tableau)


def _along(
    y: list[complex], h: float, weights: Sequence[float], ks: Sequence[Sequence[complex]]
) -> list[complex]:
    """Y + h sum w k."""
    pairs = [(w, k) for w, k in zip(weights, ks, strict=False) if w]
    return [x + h * sum(w * k[i] for w, k in pairs) for i, x in enumerate(y)]


def relative_error(found: Sequence[float], reference: Sequence[float]) -> float:
    """Largest difference, relative to the largest component; nan where one is nan."""
    apart = [abs(a - b) for a, b in zip(found, reference, strict=True)]
    worst = math.nan if any(map(math.isnan, apart)) else max(apart)
    return worst / max(map(abs, reference))


def toy(steps: int = 500) -> Problem:
    """x' = cos(y) t^2, y' = sin(x) t^2 by Euler, where a continuous adjoint is 300 % wrong."""

    def field(xp: Namespace) -> VectorFieldFn:
        return lambda t, y, args: xp.stack((xp.cos(y[1]) * t**2, xp.sin(y[0]) * t**2))

    title = f"x' = cos(y) t^2, y' = sin(x) t^2 from (1, 1), t = 0..5, {steps} Euler steps"
    return Problem(
        "toy", title, field, (1.0, 1.0), (), 5.0, steps,
        budgets=("1 KiB", "256 B"), slots=(50, 10),
    )  # fmt: skip


def lotka_volterra(t1: float = 10.0) -> Problem:
    """Predator and prey, gradient by the initial state and the four rates."""

    def field(xp: Namespace) -> VectorFieldFn:
        def f(t: Array, y: Array, p: Array) -> Array:
            hare, lynx = y[0], y[1]
            return xp.stack((p[0] * hare - p[1] * hare * lynx, p[3] * hare * lynx - p[2] * lynx))

        return f

    title = f"Lotka-Volterra from (1, 1), rates 1.5, 1, 3, 1, t = 0..{t1:g}, adaptive"
    return Problem(
        "lotka_volterra", title, field, (1.0, 1.0), (1.5, 1.0, 3.0, 1.0), t1,
        None, budgets=("4 KiB", "3 KiB"), slots=(10,),
    )  # fmt: skip


PROBLEMS: dict[str, Callable[[], Problem]] = {"toy": toy, "lotka_volterra": lotka_volterra}
"""The problems by name."""
