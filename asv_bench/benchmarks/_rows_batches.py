"""Rows of the report on ``vmap`` in JAX, V1 to V5: gradients of batches whose lanes step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import retrograde as rg

from . import _peers as peers
from . import _problems as problems
from ._backends import library
from ._cases import Case, Entrant, Fact, Rival, tighter
from ._problem import Problem
from .compile import program_bytes

__all__ = ["batch_facts", "batch_rows"]

TIGHTER = 0.5
"""Of the tolerances, ours in gradients of Lotka-Volterra systems: what is timed is equal error."""

TIMES = np.linspace(0.0, 10.0, 400)

Lane = Callable[..., Any]
"""What a lane's loss is made of: ``lane(y0, t1, args)``."""


def batch_rows() -> Iterator[Case]:
    """V1 to V3: 1,000 and 10,000 Lotka-Volterra systems, 256 heat equations of 64 unknowns."""
    rows = (
        ("V1", problems.batch(1000), 6.0, TIGHTER),
        ("V2", problems.batch(10_000), 3.0, TIGHTER),
        ("V3", problems.heat_batch(256), 3.0, 1.0),
    )
    for row, problem, least, tolerance in rows:
        rival = Rival(row, "diffrax", least, partial(entrant, problem, theirs))
        ours = partial(entrant, problem, partial(mine, tolerance))
        yield Case(f"gradient, {problem.name}", ours, (rival,))
    for row, work, kind in (
        ("V4", "gradient, lanes of constant steps to ends of their own", ends),
        ("V5", "gradient, 400 saved times of 1,000 lanes", saved),
    ):
        rival = Rival(row, "diffrax", 2.0, partial(of_lanes, kind, "diffrax"))
        yield Case(work, partial(of_lanes, kind, "ours"), (rival,))


def batch_facts() -> Iterator[Fact]:
    """V1: bytes, against diffrax and for a bound of steps that is 100 times as large."""
    problem = problems.batch(1000)
    work = f"bytes, {problem.name}"
    beside = lambda: (taken(problem, mine(1.0, problem)), taken(problem, theirs(problem)))  # noqa: E731
    yield Fact("V1", work, "B", 0.5, beside, "diffrax, default")

    def bounds() -> tuple[float, float]:
        large, small = (mine(1.0, problem, max_steps=n) for n in (409_600, 4096))
        return taken(problem, large), taken(problem, small)

    yield Fact("V1", f"{work}, a bound x 100", "B", 1.05, bounds, "of bound 4096")


def mine(tolerance: float, problem: Problem, **keywords: Any) -> Lane:
    """Our solve of a lane."""
    return library("jax").solution(tighter(problem, tolerance), **keywords)


def theirs(problem: Problem) -> Lane:
    """diffrax'."""
    return peers.peer(peers.Diffrax).solution(problem)  # type: ignore[no-any-return]


def gradient(problem: Problem, one: Lane) -> Callable[..., Any]:
    """The compiled gradient of a batch."""
    lib = library("jax")
    return lib.gradient_of(lib.mapped(one, problem), len(problem.leaves))


def taken(problem: Problem, one: Lane) -> float:
    """Its temporaries, by XLA's account."""
    return program_bytes(library("jax"), gradient(problem, one), problem)


def entrant(problem: Problem, make: Callable[[Problem], Lane]) -> Entrant:
    """Its run, held to the problem's reference."""
    lib = library("jax")
    run = lib.run(gradient(problem, make(problem)), lib.inputs(problem))
    return Entrant(run, lambda g: problem.gradient_error([lib.to_numpy(x) for x in g]))


def ends(kind: str) -> Lane:
    """Constant steps, to t1 = 1 to 10."""
    if kind == "ours":
        return lambda f, y, t1, a: rg.solve(f, y, 0.0, t1, a, dt=0.05, max_steps=4096).ys
    diffrax = peers.peer(peers.Diffrax).peer

    def solve(f: Any, y: Any, t1: Any, a: Any) -> Any:
        term, steps = diffrax.ODETerm(f), diffrax.ConstantStepSize()
        return diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, t1, 0.05, y, a, stepsize_controller=steps, max_steps=4096
        ).ys

    return solve


def saved(kind: str) -> Lane:
    """Adaptive steps to t1 = 10, at 400 times."""
    near = {"rtol": 1e-6, "atol": 1e-6}
    if kind == "ours":
        return lambda f, y, _, a: rg.solve(f, y, 0.0, 10.0, a, **near, saveat=TIMES).ys
    diffrax = peers.peer(peers.Diffrax).peer

    def solve(f: Any, y: Any, _: Any, a: Any) -> Any:
        term, saveat = diffrax.ODETerm(f), diffrax.SaveAt(ts=TIMES)
        steps = diffrax.PIDController(**near, pcoeff=0.2, icoeff=0.65)
        return diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, 10.0, None, y, a, stepsize_controller=steps, saveat=saveat
        ).ys

    return solve


def of_lanes(kind: Callable[[str], Lane], whose: str) -> Entrant:
    """The gradient of a batch of 1,000 by y0 and args; its error is the distance from that of
    lanes one by one."""
    lib, problem, solve = library("jax"), problems.batch(1000), kind(whose)
    f = problem.field(lib.xp)
    starts, args = lib.asarray(problem.y0.T), lib.asarray(problem.args)
    stops = lib.asarray(np.linspace(1.0, 10.0, len(starts)))

    def one(y: Any, t1: Any, args: Any) -> Any:
        return lib.xp.sin(solve(f, y, t1, args)).sum()

    def total(y: Any, args: Any) -> Any:
        return lib.jax.vmap(one, in_axes=(0, 0, None))(y, stops, args).sum()

    def alone(args: Any) -> Any:
        each = lib.jax.grad(one, argnums=(0, 2))
        g, by_args = lib.jax.lax.map(lambda x: each(*x, args), (starts, stops))
        return g, by_args.sum(0)

    run = lib.run(lib.jax.jit(lib.jax.grad(total, argnums=(0, 1))), (starts, args))
    right = lib.jax.jit(alone)(args)

    def error(found: Any) -> float:
        pairs = zip(found, right, strict=True)
        return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)

    return Entrant(run, error)
