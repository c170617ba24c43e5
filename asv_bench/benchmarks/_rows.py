"""The rows of the report: some work, how we do it, who else does, and the ratio to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import retrograde as rg

from . import _peers as peers
from . import _problems as problems
from ._backends import Run, library
from .loops import Equinox
from .overhead import seconds

__all__ = ["ROWS", "Case", "Entrant", "Rival"]


@dataclass(frozen=True)
class Entrant:
    """One side of a row.

    Attributes
    ----------
    run : callable
    error : callable
        Relative error of what run returns.
    overhead : callable
        What is compared, from the seconds of a run: the time itself, or a part of it.
    """

    run: Run
    error: Callable[[Any], float]
    overhead: Callable[[float], float] = lambda seconds: seconds


@dataclass(frozen=True)
class Rival:
    """A peer in a row: its row's id, its name, the least ratio, and how to make it."""

    row: str
    name: str
    target: float
    make: Callable[[], Entrant]


@dataclass(frozen=True)
class Case:
    """Some work, how we do it, and who else does."""

    work: str
    ours: Callable[[], Entrant]
    rivals: tuple[Rival, ...]


def ours_forward(backend: str, problem: problems.Problem) -> Entrant:
    lib = library(backend)
    return Entrant(lib.forward(problem), lambda y: problem.error(lib.to_numpy(y)))


def ours_gradient(backend: str, problem: problems.Problem, **keywords: Any) -> Entrant:
    lib = library(backend)
    run = lib.gradient(problem, **keywords)
    return Entrant(run, lambda g: problem.gradient_error([lib.to_numpy(x) for x in g]))


def their_forward(kind: type[peers.Peer], problem: problems.Problem) -> Entrant:
    peer = peers.peer(kind)
    return Entrant(peer.forward(problem), lambda y: problem.error(peer.lib.to_numpy(y)))


def their_gradient(kind: type[peers.Peer], problem: problems.Problem, **keywords: Any) -> Entrant:
    peer = peers.peer(kind)
    run = peer.gradient(problem, **keywords)
    return Entrant(run, lambda g: problem.gradient_error([peer.lib.to_numpy(x) for x in g]))


def without_f(entrant: Entrant, problem: problems.Problem, calls: int, steps: int) -> Entrant:
    """The same, comparing the time of a step less that of its evaluations of f."""
    f = problem.field(np)
    cost = min(seconds(lambda: f(0.0, problem.y0, None), 5000) for _ in range(5))
    return Entrant(entrant.run, entrant.error, lambda t: (t - calls * cost) / steps)


def toy_rows() -> Iterator[Case]:
    """J1 and J2: the seed's toy, 500 Euler steps."""
    toy = problems.toy()
    scan = lambda: their_gradient(peers.Scan, toy)  # noqa: E731
    ten = lambda: their_gradient(peers.Diffrax, toy, checkpoints=10)  # noqa: E731
    segments = rg.RecursiveCheckpointAdjoint(10, 50)
    yield Case(
        "gradient, toy", lambda: ours_gradient("jax", toy), (Rival("J1", "lax.scan", 0.85, scan),)
    )
    yield Case(
        "gradient, toy, 10 slots",
        lambda: ours_gradient("jax", toy, adjoint=segments),
        (
            Rival("J2", "lax.scan", 0.45, scan),
            Rival("J2", "diffrax, 10 slots", 40.0, ten),
        ),
    )


def jax_rows() -> Iterator[Case]:
    """J4 and J5: Lotka-Volterra, adaptive.

    At equal tolerances our controller rejects half as many tries and errs by a third more; ours
    runs at a tighter one, so that what is timed is equal error.
    """
    lv = problems.lotka_volterra()
    tighter = dataclasses.replace(lv, rtol=0.7 * lv.rtol, atol=0.7 * lv.atol)
    yield Case(
        "forward, Lotka-Volterra",
        lambda: ours_forward("jax", tighter),
        (Rival("J4", "diffrax", 5.0, lambda: their_forward(peers.Diffrax, lv)),),
    )
    slots = lambda n: lambda: their_gradient(peers.Diffrax, lv, checkpoints=n)  # noqa: E731
    yield Case(
        "gradient, Lotka-Volterra",
        lambda: ours_gradient("jax", tighter),
        (
            Rival("J5", "diffrax, default", 40.0, slots(None)),
            Rival("J5", "diffrax, 4096 slots", 20.0, slots(4096)),
        ),
    )


def four(*, scalar: bool) -> tuple[problems.Problem, ...]:
    """The forward problems of rows N1 and T1p."""
    return (
        problems.lotka_volterra(scalar=scalar),
        problems.lorenz(scalar=scalar),
        problems.burgers(1000),
        problems.burgers(100_000),
    )


def numpy_rows() -> Iterator[Case]:
    """N1: forward solves in NumPy; N3: a step without f."""
    for problem, target in zip(four(scalar=True), (2.2, 2.4, 1.8, 1.4), strict=True):
        yield Case(
            f"forward, {problem.name}",
            lambda p=problem: ours_forward("numpy", p),
            (Rival("N1", "SciPy RK45", target, lambda p=problem: their_forward(peers.SciPy, p)),),
        )
    problem = problems.decay()

    def ours() -> Entrant:
        f = problem.field(np)
        stats = rg.solve(f, problem.y0, 0.0, problem.t1, **problem.settings).stats
        entrant = ours_forward("numpy", problem)
        return without_f(entrant, problem, stats["num_f_evals"], stats["num_steps"])

    def theirs() -> Entrant:
        calls = peers.peer(peers.SciPy).solve(problem).nfev
        entrant = their_forward(peers.SciPy, problem)
        return without_f(entrant, problem, calls, (calls - 2) // 6)

    yield Case("a step without f, n = 2", ours, (Rival("N3", "SciPy RK45", 35 / 12, theirs),))


def torch_rows() -> Iterator[Case]:
    """T1p and T2p: forward solves in eager PyTorch."""
    targets = ((6.5, 5.7), (6.5, 5.0), (4.5, 3.0), (7.5, 1.8))
    for problem, (tdq, ode) in zip(four(scalar=True), targets, strict=True):
        yield Case(
            f"forward, {problem.name}",
            lambda p=problem: ours_forward("torch", p),
            (
                Rival("T1p", "torchdiffeq", tdq, lambda p=problem: _forward_torchdiffeq(p)),
                Rival("T2p", "torchode", ode, lambda p=problem: their_forward(peers.Torchode, p)),
            ),
        )


def _forward_torchdiffeq(problem: problems.Problem) -> Entrant:
    return their_forward(peers.Torchdiffeq, problem)


def torch_gradient_rows() -> Iterator[Case]:
    """T4p: gradients in eager PyTorch."""
    lv = problems.lotka_volterra(scalar=True)
    cases = (lv, 2.0, 5.6), (problems.neural_ode(), 1.4, 4.7)
    for problem, backprop, adjoint in cases:
        peer = lambda a, p=problem: their_gradient(peers.Torchdiffeq, p, adjoint=a)  # noqa: E731
        yield Case(
            f"gradient, {problem.name}",
            lambda p=problem: ours_gradient("torch", p),
            (
                Rival("T4p", "torchdiffeq", backprop, lambda peer=peer: peer(False)),
                Rival("T4p", "odeint_adjoint", adjoint, lambda peer=peer: peer(True)),
            ),
        )


def loop_rows() -> Iterator[Case]:
    """E1: gradients of public loops in JAX, with as many checkpoints as the peer."""
    targets = {
        "scalar, n = 1000": 10.0, "scalar, n = 10000": 10.0, "scalar, n = 100000": 10.0,
        "100,000 elements": 1.5, "256 x 256 network": 1.0,
    }  # fmt: skip
    for name, target in targets.items():
        mine, theirs = (lambda who=who, name=name: _loop(name, who) for who in ("ours", "equinox"))
        yield Case(f"gradient, loop: {name}", mine, (Rival("E1", "equinox", target, theirs),))


def _loop(name: str, who: str) -> Entrant:
    bench = Equinox()
    bench.setup(name, "scan")
    program = bench.compiled[who == "equinox"]
    reference = bench.plain()

    def error(found: Any) -> float:
        pairs = zip(found, reference, strict=True)
        return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)

    return Entrant(lambda: bench.run(program), error)


ROWS = (toy_rows, jax_rows, numpy_rows, torch_rows, torch_gradient_rows, loop_rows)
