"""Rows of the report on a GPU: D1j in JAX, D1t in PyTorch, D1c in CuPy; none runs on a CPU.

Work that fills a device: Burgers of a million cells, 100,000 Lorenz systems, a network on a batch
of 4,096. Times are of the clock, to the end of the device's work; both sides are warm and compute
in one precision. CuPy has no peer of its own: torchdiffeq's time stands beside it, not judged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import retrograde as rg

from . import _peers as peers
from . import _problems as problems
from ._backends import library
from ._cases import (
    EQUAL_ERROR,
    Case,
    Entrant,
    Fact,
    Rival,
    ours_forward,
    ours_gradient,
    their_forward,
    their_gradient,
    tighter,
)
from ._problem import Problem

__all__ = ["DEVICE_ROWS", "cupy_rows", "jax_rows", "torch_rows"]

ROUNDS = 9

DIFFRAX, TORCHDIFFEQ, TORCHODE = peers.Diffrax, peers.Torchdiffeq, peers.Torchode


def work(shrink: int) -> tuple[Problem, Problem, Problem]:
    """Burgers, Lorenz and the network, or something smaller to try a row on a CPU."""
    return (
        problems.burgers(1_000_000 // shrink),
        problems.lorenz_batch(100_000 // shrink),
        problems.neural_ode(batch=max(64, 4096 // shrink)),
    )


def jax_rows(shrink: int = 1) -> Iterator[Case]:
    """D1j: forward and gradient; each of the Lorenz systems has steps of its own, by ``vmap``."""
    burgers, lorenz, net = work(shrink)
    for problem, tolerance in ((net, 0.4), (burgers, 1.0)):
        rival = Rival("D1j", "diffrax", 2.0, partial(their_forward, DIFFRAX, problem))
        ours = partial(ours_forward, "jax", problem, tolerance=tolerance)
        yield Case(f"forward, jax, {problem.name}", ours, (rival,), rounds=ROUNDS)
        rival = Rival("D1j", "diffrax", 2.0, partial(their_gradient, DIFFRAX, problem))
        ours = partial(ours_gradient, "jax", problem)
        yield Case(f"gradient, jax, {problem.name}", ours, (rival,), rounds=ROUNDS)
    for what, make in (("forward", mapped), ("gradient", mapped_gradient)):
        rival = Rival("D1j", "diffrax", 2.0, partial(make, DIFFRAX, lorenz))
        ours = partial(make, None, tighter(lorenz, EQUAL_ERROR))
        yield Case(f"{what}, jax, vmap, {lorenz.name}", ours, (rival,), rounds=ROUNDS)


def mapped(kind: type[Any] | None, problem: Problem) -> Entrant:
    """A peer's solve under ``vmap``, or ours."""
    lib = library("jax")
    run = lib.run(_mapped(kind, problem), lib.inputs(problem))
    return Entrant(run, lambda y: problem.error(lib.to_numpy(y)))


def mapped_gradient(kind: type[Any] | None, problem: Problem) -> Entrant:
    """The gradient of that by all starts and the shared parameters."""
    lib = library("jax")
    call = lib.gradient_of(_mapped(kind, problem), len(problem.leaves))
    run = lib.run(call, lib.inputs(problem))
    return Entrant(run, lambda g: problem.gradient_error([lib.to_numpy(x) for x in g]))


def _mapped(kind: type[Any] | None, problem: Problem) -> Any:
    side = library("jax") if kind is None else peers.peer(kind)
    return library("jax").mapped(side.solution(problem), problem)


def torch_rows(shrink: int = 1) -> Iterator[Case | Fact]:
    """D1t: reads of a step by the host, forward, gradient; one step for all Lorenz systems."""
    burgers, lorenz, net = work(shrink)
    for name, problem, most in (("adaptive", lorenz, 1.0), ("constant", problems.toy(), 0.0)):
        reads = partial(reads_a_step, problem)
        yield Fact("D1t", f"reads a step by the host, torch, {name}", "", most, reads)
    for problem in (net, burgers, lorenz):
        rival = Rival("D1t", "torchdiffeq", 2.0, partial(their_forward, TORCHDIFFEQ, problem))
        rivals = (rival,)
        if problem is burgers:
            theirs = partial(their_forward, TORCHODE, problem)
            rivals = (rival, Rival("D1t", "torchode", 2.0, theirs))
        ours = partial(ours_forward, "torch", problem)
        yield Case(f"forward, torch, {problem.name}", ours, rivals, rounds=ROUNDS)
        rival = Rival("D1t", "torchdiffeq", 2.0, partial(their_gradient, TORCHDIFFEQ, problem))
        ours = partial(ours_gradient, "torch", problem)
        yield Case(f"gradient, torch, {problem.name}", ours, (rival,), rounds=ROUNDS)
    # torchode's samples have steps of their own, and so a smaller error
    ours = partial(ours_forward, "torch", lorenz, tolerance=0.2)
    ode = Rival("D1t", "torchode", 2.0, partial(each_by_torchode, lorenz))
    yield Case(f"forward, torch, {lorenz.name}, 0.2 x tolerances", ours, (ode,), rounds=ROUNDS)
    tdq = Rival("D1t", "torchdiffeq", 0.0, partial(their_forward, TORCHDIFFEQ, net))
    ours = partial(ours_forward, "torch", net, compile=True)
    yield Case(f"forward, torch, compiled, {net.name}", ours, (tdq,), rounds=ROUNDS)


def each_by_torchode(problem: Problem) -> Entrant:
    """torchode's solve, steps for each sample."""
    other = peers.peer(TORCHODE)
    return Entrant(other.batched(problem), lambda y: problem.error(other.lib.to_numpy(y)))


def reads_a_step(problem: Problem) -> float:
    """How often a step waits for the device, by PyTorch's own account."""
    lib = library("torch")
    f, (y0, *args) = problem.field(lib.xp), [x.detach() for x in lib.inputs(problem)]
    counts: list[tuple[int, int]] = []
    for t1 in (problem.t1 / 2, problem.t1):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            lib.xp.cuda.set_sync_debug_mode("warn")
            try:
                sol = rg.solve(f, y0, 0.0, t1, problem.pack(args), **problem.settings)
            finally:
                lib.xp.cuda.set_sync_debug_mode("default")
        reads = sum("synchronizing" in str(warning.message) for warning in said)
        counts.append((reads, int(sol.stats["num_steps"])))
    (few, short), (many, long) = counts
    return (many - few) / (long - short)


def cupy_rows(shrink: int = 1) -> Iterator[Case]:
    """D1c: forward, and gradients by the tape."""
    for problem in work(shrink)[::-1]:
        rival = Rival("D1c", "torchdiffeq", 0.0, partial(their_forward, TORCHDIFFEQ, problem))
        ours = partial(ours_forward, "cupy", problem)
        yield Case(f"forward, cupy, {problem.name}", ours, (rival,), rounds=ROUNDS)
        rival = Rival("D1c", "torchdiffeq", 0.0, partial(their_gradient, TORCHDIFFEQ, problem))
        ours = partial(ours_gradient, "cupy", problem)
        yield Case(f"gradient, cupy, {problem.name}", ours, (rival,), rounds=ROUNDS)


DEVICE_ROWS = (torch_rows, cupy_rows, jax_rows)
