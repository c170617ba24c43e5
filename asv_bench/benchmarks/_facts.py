"""Exact rows of the report: bytes, executed steps, counts of traces, accuracy, imports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from functools import partial
from typing import Any

import retrograde as rg

from . import _peers as peers
from . import _problems as problems
from . import loops  # not its classes: asv would find them here again
from ._backends import library
from ._by_hand import EquinoxLoop, Scan
from ._cases import Fact, tighter
from ._problem import Problem
from ._rows_batches import batch_facts
from ._rows_jax import half_of_diffrax
from ._rows_samples import sample_facts
from .compile import program_bytes, traces
from .import_time import imported
from .memory import backprop_bytes, residual_bytes, saved_bytes
from .planner import measured_bytes
from .precision import disagreement
from .schedule import SLOTS, executed_over_optimum

__all__ = ["FACTS"]

STORED = rg.RecursiveCheckpointAdjoint()
SEGMENTS = rg.RecursiveCheckpointAdjoint(10, 50)


def toy_facts() -> Iterator[Fact]:
    """J1 to J3: what the toy's gradients keep between forward and reverse, and that they are right.

    Peers are measured in the same way: leaves of ``jax.vjp``, inputs left out.
    """
    toy = problems.toy()
    kinds: tuple[tuple[str, str, float, dict[str, Any]], ...] = (
        ("J1", "every state", 16_000, {"adjoint": STORED}),
        ("J2", "10 slots", 256, {"adjoint": SEGMENTS}),
        ("J3", "recursive", 240, {"adjoint": SEGMENTS}),
        ("J3", "backsolve", 156, {"memory": 156}),
    )
    for row, name, limit, keywords in kinds:
        saved = partial(_saved, toy, keywords)
        yield Fact(row, f"residual, toy, {name}", "B", limit, saved)
        right = partial(_gradient_error, "jax", toy, keywords)
        yield Fact(row, f"error, toy, {name}", "", 1e-7, right)
    for name, kind, keywords in (
        ("lax.scan", Scan, {}),
        ("scan, checkpointed body", Scan, {"checkpoint": True}),
        ("equinox", EquinoxLoop, {}),
        ("diffrax, 10 slots", peers.Diffrax, {"checkpoints": 10}),
    ):
        both = partial(_saved_beside, toy, kind, keywords)
        yield Fact("J3", "residual, toy, recursive", "B", 1.0, both, name)


def _saved(problem: Problem, keywords: dict[str, Any]) -> float:
    return saved_bytes(library("jax"), problem, **keywords)


def _saved_beside(problem: Problem, kind: Any, keywords: dict[str, Any]) -> tuple[float, float]:
    other = peers.peer(kind)
    theirs = residual_bytes(other.lib, other.solution(problem, **keywords), problem)
    return _saved(problem, {"adjoint": SEGMENTS}), theirs


def _gradient_error(backend: str, problem: Problem, keywords: dict[str, Any]) -> float:
    lib = library(backend)
    found = lib.gradient(problem, **keywords)()
    return problem.gradient_error([lib.to_numpy(x) for x in found])


def program_facts() -> Iterator[Fact]:
    """J6 to J8: temporaries of compiled gradients, by XLA's account."""
    net = problems.neural_ode("float64")
    ours = functools.cache(partial(_ours, net))
    for name, theirs in (("diffrax, default", _by_diffrax), ("lax.scan", _by_scan)):
        beside = lambda theirs=theirs: (ours(), theirs(net))  # noqa: E731
        yield Fact("J6", "bytes, neural ODE", "B", 1.0, beside, name)
    for problem in (problems.burgers(10_000), problems.heat(9600, 40.0), problems.wave()):
        work, half = f"bytes, {problem.name}", partial(_within_half, problem)
        yield Fact("J7", work, "B", 0.6, half, "diffrax, default")
    vdp = tighter(problems.van_der_pol(), 0.7)
    for slots in (8, 32):
        beside = partial(_in_slots, vdp, slots)
        work, name = f"bytes, van der Pol, {slots} slots", f"diffrax, {slots} slots"
        yield Fact("J8", work, "B", 1.0, beside, name)


def _ours(problem: Problem, **keywords: Any) -> float:
    lib = library("jax")
    return program_bytes(lib, lib.derivative(problem, **keywords), problem)


def _by_diffrax(problem: Problem, slots: int | None = None) -> float:
    other = peers.peer(peers.Diffrax)
    return program_bytes(other.lib, other.derivative(problem, slots), problem)


def _by_scan(problem: Problem) -> float:
    other = peers.peer(Scan)
    program = other.derivative(dataclasses.replace(problem, dt=problem.t1 / 7))
    return program_bytes(other.lib, program, problem)


def _in_slots(problem: Problem, slots: int) -> tuple[float, float]:
    ours = _ours(problem, adjoint=rg.RecursiveCheckpointAdjoint(slots, record=False))
    return ours, _by_diffrax(problem, slots)


def _within_half(problem: Problem) -> tuple[float, float]:
    half = half_of_diffrax(problem)
    return _ours(problem, memory=half), 2 * half


def trace_facts() -> Iterator[Fact]:
    """J9: calls of f while JAX traces, and none once a program is there."""
    for problem in (problems.toy(), problems.lotka_volterra()):
        for what, limit in (("solution", 2), ("derivative", 3)):
            work = f"{problem.name}, {what}"
            counts = functools.cache(partial(traces, problem, what))
            first, again = (lambda i=i, counts=counts: counts()[i] for i in (0, 1))
            yield Fact("J9", f"traces of f, {work}", "", limit, first)
            yield Fact("J9", f"traces of f, second call, {work}", "", 0, again)


def torch_facts() -> Iterator[Fact]:
    """T4p: what is kept between forward and reverse, against all that autograd saves."""
    for problem in (problems.lotka_volterra(scalar=True), problems.neural_ode()):
        both = partial(_torch_saved, problem)
        yield Fact("T4p", f"saved bytes, torch, {problem.name}", "B", 0.125, both, "torchdiffeq")


def _torch_saved(problem: Problem) -> tuple[float, float]:
    other = peers.peer(peers.Torchdiffeq)
    theirs = backprop_bytes(other.lib.xp, other.solution(problem), other.lib.inputs(problem))
    return saved_bytes(library("torch"), problem, adjoint=STORED), theirs


def length_facts() -> Iterator[Fact]:
    """L1p: bytes do not grow with the number of steps, nor with its bound; they are as planned."""
    wide = problems.heat(9600)
    slots = {"adjoint": rg.RecursiveCheckpointAdjoint(16, 8)}

    def at(steps: int) -> float:
        return _ours(dataclasses.replace(wide, t1=0.1 * steps, dt=0.1), **slots)

    yield Fact("L1p", "bytes, 256 steps in 16 slots", "B", 1.05, lambda: (at(256), at(128)),
               "of 128 steps")  # fmt: skip
    yield Fact("L1p", "bytes, a loop's bound x 100", "B", 1.05, _bounded, "of bound 1,000")
    clocked = {"adjoint": rg.RecursiveCheckpointAdjoint(16, 8, record=False)}
    bound = lambda: (_ours(wide, max_steps=409_600, **clocked), _ours(wide, **clocked))  # noqa: E731
    yield Fact("L1p", "bytes, a solve's bound x 100", "B", 1.05, bound, "of bound 4096")
    for backend in ("numpy", "jax", "torch"):
        planned = partial(_as_planned, backend)
        yield Fact("M1p", f"peak, {backend}, burgers_1000", "B", 1.0, planned, "budget of 1 MiB")


def _bounded() -> tuple[float, float]:
    bench = loops.Bound()
    bench.setup("checkpointed", 10_000)
    small, large = (p.memory_analysis().temp_size_in_bytes for p in bench.compiled)
    return large, small


def _as_planned(backend: str) -> tuple[float, float]:
    return measured_bytes(backend, problems.burgers(1000), "1 MiB"), 2.0**20


def schedule_facts() -> Iterator[Fact]:
    """M2p: executed steps over the binomial optimum."""
    for slots in SLOTS:
        known = partial(executed_over_optimum, slots, dt=0.02)
        yield Fact("M2p", f"steps over optimum, n known, c = {slots}", "", 1.0, known)
        if slots >= 5:
            online = partial(executed_over_optimum, slots, rtol=1e-5, atol=1e-8)
            yield Fact("M2p", f"steps over optimum, n unknown, c = {slots}", "", 1.06, online)


def other_facts() -> Iterator[Fact]:
    """I1: nothing dear comes with the import; and backends agree on gradients."""
    yield Fact("I1", "array libraries imported", "", 0, lambda: len(imported()[1]))
    cases = problems.lotka_volterra(), problems.neural_ode("float64")
    for backend in ("jax", "torch"):
        for problem in cases:
            apart = partial(disagreement, backend, problem)
            work = f"gradient, {backend} against NumPy, {problem.name}"
            yield Fact("exact", work, "", 1e-10, apart)


FACTS = (
    toy_facts, program_facts, batch_facts, trace_facts, torch_facts, length_facts, schedule_facts,
    other_facts, sample_facts,
)  # fmt: skip
