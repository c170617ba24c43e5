"""The comparison on JAX: our solves and those of its peers, compiled; what they keep.

Peers have our settings: tolerances, coefficients of the controller, bound of the steps. Loops
written by hand need a number of steps, so they run where steps are constant. ``diffrax`` is how the
benchmarks call it, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from retrograde._base.types import Array, Function, Tree, VectorFieldFn
from retrograde._commands.compare import rows
from retrograde._commands.compare.problem import Problem
from retrograde._commands.compare.rows import Entrant, Peer, Solution


class Bench(rows.Bench):
    """A problem on JAX, double precision being switched on by the caller."""

    def __init__(self, problem: Problem, library: str) -> None:
        leaves = tuple(jnp.asarray(x) for x in problem.leaves)
        super().__init__(problem, problem.field(jnp), leaves, jax.devices()[0].platform)
        self._alone: dict[str, Solution] = {}
        _wait(jax.jit(jax.grad(self._warm_up))(*leaves))

    def _warm_up(self, y0: Array, *args: Array) -> Array:
        """What the first compiled program would else pay for."""
        return jnp.sum(self.f(jnp.asarray(0.5), y0, self.problem.pack(args)))

    def entrant(self, program: str, solution: Solution) -> Entrant:
        leaves, loss = self.leaves, jax.jit(lambda *x: jnp.sum(solution(*x)))
        kept: list[int] = []

        def gradient(*x: Array) -> tuple[Array, ...]:
            value, pull = jax.vjp(loss, *x)
            kept.append(residual_bytes(pull))
            return tuple(pull(jnp.ones_like(value)))

        start = time.perf_counter()
        compiled = jax.jit(gradient).lower(*leaves).compile()
        seconds = time.perf_counter() - start
        if program not in self._alone:
            self._alone[program] = jax.jit(solution).lower(*leaves).compile()
        return Entrant(self._alone[program], compiled, leaves, lambda: kept[0], _wait, seconds)

    def peers(self) -> list[Peer]:
        """Methods of diffrax, of loops by hand, and of equinox' loops."""
        found = [*self._diffrax()]
        if self.problem.steps is not None:
            found += [
                Peer(package, method, partial(self.entrant, method, solution))
                for package, method, solution in _by_hand(self.f, self.problem, self.problem.steps)
            ]
        return [peer for peer in found if importlib.util.find_spec(peer.package)]

    def _diffrax(self) -> Iterator[Peer]:
        recursive = "RecursiveCheckpointAdjoint"
        adjoints: dict[str, tuple[str, tuple[int, ...]]] = {
            "Recursive (default)": (recursive, ()),
            **{f"Recursive, {c} checkpoints": (recursive, (c,)) for c in self.problem.slots},
            "Backsolve": ("BacksolveAdjoint", ()),
            "Direct": ("DirectAdjoint", ()),
        }
        for method, (adjoint, arguments) in adjoints.items():

            def solution(y0: Array, *args: Array, which: Tree = (adjoint, *arguments)) -> Array:
                solved = diffrax(self.f, self.problem, *which)(y0, self.problem.pack(args))
                return solved.ys[-1]

            yield Peer("diffrax", method, partial(self.entrant, adjoint, solution))


def diffrax(
    f: VectorFieldFn,
    problem: Problem,
    adjoint: str = "RecursiveCheckpointAdjoint",
    *arguments: Tree,
) -> Callable[[Tree, Tree], Tree]:
    """diffrax' solve by the problem's method, with our controller's coefficients.

    Parameters
    ----------
    f : callable
    problem : object
        With ``solver``, ``t1``, ``dt``, ``steps``, ``rtol``, ``atol`` and ``max_steps``.
    adjoint : str
        Name of its class.
    *arguments
        Of the class.

    Returns
    -------
    callable
        ``solve(y0, args)`` gives diffrax' solution object.
    """
    dfx = importlib.import_module("diffrax")
    terms, solver = dfx.ODETerm(f), dfx.Euler if problem.solver == "euler" else dfx.Tsit5
    if problem.solver == "semi_implicit_euler":
        drift = dfx.ODETerm(lambda t, p, args: f(t, (p, p), args)[0])
        kick = dfx.ODETerm(lambda t, q, args: f(t, (q, q), args)[1])
        terms, solver = (drift, kick), dfx.SemiImplicitEuler
    if problem.dt is not None:
        controller, bound = (
            dfx.ConstantStepSize(),
            (problem.steps or 0) + 1,
        )  # rounding may add a step
    else:
        bound = problem.max_steps
        controller = dfx.PIDController(
            pcoeff=0.2, icoeff=0.65, dcoeff=0.0, rtol=problem.rtol, atol=problem.atol
        )
    return lambda y0, args: dfx.diffeqsolve(
        terms, solver(), 0.0, problem.t1, problem.dt, y0, args, stepsize_controller=controller,
        max_steps=bound, adjoint=getattr(dfx, adjoint)(*arguments),
    )  # fmt: skip


def _by_hand(f: VectorFieldFn, problem: Problem, n: int) -> Iterator[tuple[str, str, Solution]]:
    """Euler's method as users of JAX write it: packages, methods, solutions."""
    dt = problem.t1 / n
    # the inner loop's length: the divisor of the steps next to their square root
    inner = min((k for k in range(1, n + 1) if n % k == 0), key=lambda k: abs(math.log(k * k / n)))

    def step(y: Array, i: Array, args: tuple[Array, ...]) -> Array:
        return y + dt * f(i * dt, y, problem.pack(args))

    def scan(y0: Array, *args: Array, wrap: Function = lambda body: body) -> Array:
        body = wrap(lambda y, i: (step(y, i, args), None))
        return jax.lax.scan(body, y0, jnp.arange(float(n)))[0]

    def nested(y0: Array, *args: Array) -> Array:
        def part(y: Array, first: Array) -> tuple[Array, None]:
            body = lambda y, i: (step(y, first + i, args), None)  # noqa: E731
            return jax.lax.scan(body, y, jnp.arange(float(inner)))

        return jax.lax.scan(jax.checkpoint(part), y0, jnp.arange(0.0, n, inner))[0]

    def loop(y0: Array, *args: Array, kind: str) -> Array:
        return importlib.import_module("equinox.internal").while_loop(
            lambda s: s[0] < n,
            lambda s: (s[0] + 1, step(s[1], s[0] * 1.0, args)),
            (jnp.asarray(0), y0),
            max_steps=n,
            kind=kind,
        )[1]

    yield "jax", "lax.scan", scan
    yield "jax", "scan, checkpoint each step", partial(scan, wrap=jax.checkpoint)
    yield "jax", f"scan, checkpoint {n // inner} x {inner}", nested
    for kind in ("checkpointed", "bounded"):
        yield "equinox", f"while_loop, {kind}", partial(loop, kind=kind)


def _wait(x: Tree) -> Tree:
    return jax.block_until_ready(x)  # type: ignore[no-untyped-call]


def residual_bytes(pull: object) -> int:
    """Bytes of the distinct arrays in the closure of a ``jax.vjp``, traced or not."""
    arrays = {id(x): x for x in jax.tree_util.tree_leaves(pull)}.values()
    return sum(x.size * x.dtype.itemsize for x in arrays)
