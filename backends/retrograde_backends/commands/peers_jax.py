"""The comparison on JAX: our solves and those of its peers, compiled; what they keep.

Peers have our settings: tolerances, coefficients of the controller, bound of the steps. Loops
written by hand need a number of steps, so they run where steps are constant.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import retrograde as rg
from retrograde._commands.compare.rows import PACKAGES, Entrant, Peer

__all__ = ["Bench"]

Solution = Callable[..., Any]
"""``solution(*leaves) -> y(t1)``."""


class Bench:
    """A problem on JAX, double precision being switched on by the caller.

    Parameters
    ----------
    problem : Problem
    library : str

    Attributes
    ----------
    device : str
    """

    def __init__(self, problem: Any, library: str) -> None:
        self.problem = problem
        self.leaves = tuple(jnp.asarray(x) for x in problem.leaves)
        self.f = problem.field(jnp)
        self.device = jax.devices()[0].platform
        self._alone: dict[str, Any] = {}
        _wait(jax.jit(jax.grad(self._warm_up))(*self.leaves))

    def _warm_up(self, y0: Any, *args: Any) -> Any:
        """What the first compiled program would else pay for."""
        return jnp.sum(self.f(jnp.asarray(0.5), y0, *args or (None,)))

    def call(self, y0: Any, *args: Any) -> tuple[Any, ...]:
        """Arguments of ``solve``."""
        return self.f, y0, 0.0, self.problem.t1, *args

    def ours(self, keywords: dict[str, Any]) -> Entrant:
        """Our method with these keywords of ``solve``."""
        settings = {**self.problem.settings, **keywords}
        solution: Solution = lambda *x: rg.solve(*self.call(*x), **settings).ys[-1]  # noqa: E731
        return self.entrant("retrograde", solution)

    def entrant(self, program: str, solution: Solution) -> Entrant:
        """A solution, compiled with its gradient.

        Parameters
        ----------
        program : str
            Methods of one name are one program where no gradient is taken.
        solution : callable
        """
        leaves, loss = self.leaves, jax.jit(lambda *x: jnp.sum(solution(*x)))
        kept: list[int] = []

        def gradient(*x: Any) -> Any:
            value, pull = jax.vjp(loss, *x)
            kept.append(residual_bytes(pull))
            return pull(jnp.ones_like(value))

        start = time.perf_counter()
        compiled = jax.jit(gradient).lower(*leaves).compile()
        seconds = time.perf_counter() - start
        if program not in self._alone:
            self._alone[program] = jax.jit(solution).lower(*leaves).compile()
        alone = self._alone[program]
        return Entrant(alone, compiled, leaves, lambda: kept[0], _wait, seconds)

    def peers(self) -> list[Peer]:
        """Methods of diffrax, of loops by hand, and of equinox' loops."""
        found = [("diffrax", method, solution) for method, solution in self._diffrax().items()]
        if self.problem.steps is not None:
            loops = _Loops(self.f, self.problem)
            found += [("jax", method, solution) for method, solution in loops.plain().items()]
            found += [("equinox", method, solution) for method, solution in loops.equinox().items()]
        return [
            Peer(package, method, functools.partial(self.entrant, _program(method), solution))
            for package, method, solution in found
            if package not in PACKAGES["jax"] or importlib.util.find_spec(package)
        ]

    def _diffrax(self) -> dict[str, Solution]:
        adjoints: dict[str, tuple[str, tuple[int, ...]]] = {
            "Recursive (default)": ("RecursiveCheckpointAdjoint", ()),
            **{
                f"Recursive, {c} checkpoints": ("RecursiveCheckpointAdjoint", (c,))
                for c in self.problem.slots
            },
            "Backsolve": ("BacksolveAdjoint", ()),
            "Direct": ("DirectAdjoint", ()),
        }
        return {
            method: lambda *x, which=which: self._diffeqsolve(which, *x)
            for method, which in adjoints.items()
        }

    def _diffeqsolve(self, which: tuple[str, tuple[int, ...]], y0: Any, *args: Any) -> Any:
        dfx, problem = importlib.import_module("diffrax"), self.problem
        if problem.dt is not None:
            solver, controller = dfx.Euler(), dfx.ConstantStepSize()
            bound = problem.steps + 1  # rounding may add a step
        else:
            solver, bound = dfx.Tsit5(), problem.max_steps
            controller = dfx.PIDController(
                pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol
            )
        name, arguments = which
        return dfx.diffeqsolve(
            dfx.ODETerm(self.f), solver, 0.0, problem.t1, problem.dt, y0, *args,
            stepsize_controller=controller, max_steps=bound,
            adjoint=getattr(dfx, name)(*arguments),
        ).ys[-1]  # fmt: skip


class _Loops:
    """Euler's method as users of JAX write it.

    Parameters
    ----------
    f : callable
    problem : Problem
    """

    def __init__(self, f: Callable[..., Any], problem: Any) -> None:
        self.f, self.dt, self.steps = f, problem.dt, problem.steps
        # the inner loop's length: the divisor of the steps next to their square root
        divisors = [k for k in range(1, self.steps + 1) if self.steps % k == 0]
        self.inner = min(divisors, key=lambda k: abs(math.log(k * k / self.steps)))

    def step(self, y: Any, i: Any, *args: Any) -> Any:
        """One step; i is a float."""
        return y + self.dt * self.f(i * self.dt, y, *args or (None,))

    def plain(self) -> dict[str, Solution]:
        """``lax.scan``."""

        def scan(y0: Any, *args: Any, remat: bool = False) -> Any:
            step = lambda y, i: (self.step(y, i, *args), None)  # noqa: E731
            body = jax.checkpoint(step) if remat else step
            return jax.lax.scan(body, y0, jnp.arange(float(self.steps)))[0]

        def nested(y0: Any, *args: Any) -> Any:
            def part(y: Any, first: Any) -> Any:
                step = lambda y, i: (self.step(y, first + i, *args), None)  # noqa: E731
                return jax.lax.scan(step, y, jnp.arange(float(self.inner)))

            starts = jnp.arange(0.0, self.steps, self.inner)
            return jax.lax.scan(jax.checkpoint(part), y0, starts)[0]

        return {
            "lax.scan": scan,
            "scan, checkpoint each step": lambda *x: scan(*x, remat=True),
            f"scan, checkpoint {self.steps // self.inner} x {self.inner}": nested,
        }

    def equinox(self) -> dict[str, Solution]:
        """``equinox.internal.while_loop``."""

        def loop(kind: str, y0: Any, *args: Any) -> Any:
            loops: Any = importlib.import_module("equinox.internal")
            return loops.while_loop(
                lambda s: s[0] < self.steps,
                lambda s: (s[0] + 1, self.step(s[1], s[0] * 1.0, *args)),
                (jnp.asarray(0), y0),
                max_steps=self.steps,
                kind=kind,
            )[1]

        kinds = ("checkpointed", "bounded")
        return {f"while_loop, {k}": lambda *x, kind=k: loop(kind, *x) for k in kinds}


def _wait(x: Any) -> Any:
    return jax.block_until_ready(x)  # type: ignore[no-untyped-call]


def _program(method: str) -> str:
    """diffrax' number of checkpoints makes no other program where no gradient is taken."""
    return "Recursive" if method.startswith("Recursive") else method


def residual_bytes(pull: Any) -> int:
    """Bytes of the distinct arrays in the closure of a ``jax.vjp``, traced or not."""
    arrays = {id(x): x for x in jax.tree_util.tree_leaves(pull)}.values()
    return sum(x.size * x.dtype.itemsize for x in arrays)
