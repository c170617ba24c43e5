"""Row B1p of the report: batches of Lotka-Volterra systems, each with steps of its own.

Even batches, and batches in which one in a hundred is ten times as fast; NumPy and PyTorch against
torchode (steps of its own for each sample, none dropped), diffrax (the same by ``vmap``, compiled)
and torchdiffeq (one step for all); and how often f is evaluated, sample by sample, over what the
solves need one by one.

Equal error is that of the median sample, for at these tolerances some lose the phase. One step for
all has a norm of the whole batch, which hides its hard samples: against torchdiffeq it is the
largest error, at tolerances of its own where that is no smaller than ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

import retrograde as rg

from . import _peers as peers
from ._backends import library
from ._cases import Case, Entrant, Fact, Rival

__all__ = ["sample_facts", "sample_rows"]

SIZES = (1000, 10_000)
END, NEAR = 20.0, {"rtol": 1e-6, "atol": 1e-6}
SHARED = {"even": 1e-7, "mixed": 3e-8}
"""Tolerances of one step for all."""


def starts(size: int) -> np.ndarray:
    """Starts of a wide spread: the hardest takes twice the steps of the median."""
    return 0.5 + 2.5 * np.random.default_rng(0).random((size, 2))


def speeds(size: int, kind: str) -> np.ndarray:
    """1, and in mixed batches 10 for one in a hundred."""
    found = np.ones(size)
    found[:: 100 if kind == "mixed" else size + 1] = 10.0 if kind == "mixed" else 1.0
    return found


@cache
def field(backend: str) -> Callable[[Any, Any, Any], Any]:
    """``f(t, y, speed)`` of a batch, samples first."""
    stack = np.stack if backend == "numpy" else library(backend).xp.stack

    def f(t: Any, y: Any, speed: Any) -> Any:
        prey, hunters = y[:, 0], y[:, 1]
        meet = prey * hunters
        return stack([1.5 * prey - meet, meet - 3.0 * hunters], 1) * speed[:, None]

    return f


@cache
def right(size: int, kind: str) -> np.ndarray:
    """End states to compare with."""
    near, args = {"rtol": 1e-11, "atol": 1e-11}, rg.PerSample(speeds(size, kind))
    end: np.ndarray = rg.solve(
        field("numpy"), starts(size), 0.0, END, args, per_sample=True, solver="dopri8", **near
    ).ys[-1]
    return end


def solved(backend: str, size: int, kind: str) -> Callable[[], Any]:
    """Our solve of a batch."""
    lib = library(backend)
    y0, speed = lib.asarray(starts(size)), rg.PerSample(lib.asarray(speeds(size, kind)))
    f = field(backend)
    return lambda: rg.solve(f, y0, 0.0, END, speed, per_sample=True, **NEAR)


def entrant(run: Callable[[], Any], size: int, kind: str, of: Any = np.median) -> Entrant:
    """A run, held to the error of the median sample, or another of all."""

    def error(found: Any) -> float:
        return float(of(np.abs(np.asarray(found) - right(size, kind)).max(axis=1)))

    return Entrant(run, error)


def ours(backend: str, size: int, kind: str, of: Any = np.median) -> Entrant:
    run = solved(backend, size, kind)
    return entrant(lambda: run().ys[-1], size, kind, of)


def torchode(size: int, kind: str) -> Entrant:
    """torchode's, whose f is given all samples until the last has ended."""
    lib, to = library("torch"), peers.peer(peers.Torchode).peer
    y0, speed = lib.asarray(starts(size)), lib.asarray(speeds(size, kind))
    f = field("torch")
    term = to.ODETerm(lambda t, y: f(t, y, speed))
    steps = to.PIDController(pcoeff=0.2, icoeff=0.65, dcoeff=0.0, term=term, **NEAR)
    solver, each = to.AutoDiffAdjoint(to.Tsit5(term=term), steps), partial(y0.new_full, (size,))

    def run() -> Any:
        with lib.xp.no_grad():
            problem = to.InitialValueProblem(y0=y0, t_start=each(0.0), t_end=each(END))
            return solver.solve(problem).ys[:, -1]

    return entrant(run, size, kind)


def torchdiffeq(size: int, kind: str) -> Entrant:
    """torchdiffeq's dopri5, one step for all."""
    lib, odeint = library("torch"), peers.peer(peers.Torchdiffeq).peer.odeint
    y0, speed = lib.asarray(starts(size)), lib.asarray(speeds(size, kind))
    f, times, tolerance = field("torch"), lib.asarray(np.asarray([0.0, END])), SHARED[kind]

    def run() -> Any:
        with lib.xp.no_grad():
            keywords = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
            return odeint(lambda t, y: f(t, y, speed), y0, times, **keywords)[-1]

    return entrant(run, size, kind, np.max)


def diffrax(size: int, kind: str) -> Entrant:
    """diffrax' Tsit5 under ``vmap``, compiled; f is of one sample."""
    lib = peers.peer(peers.Diffrax).lib
    call = importlib.import_module("retrograde_backends.commands.peers_jax").diffrax
    settings = SimpleNamespace(solver="tsit5", t1=END, dt=None, steps=None, max_steps=4096, **NEAR)

    def f(t: Any, y: Any, speed: Any) -> Any:
        meet = y[0] * y[1]
        return lib.xp.stack([1.5 * y[0] - meet, meet - 3.0 * y[1]]) * speed

    solve = call(f, settings)
    batch = lib.jax.jit(lib.jax.vmap(lambda y0, speed: solve(y0, speed).ys[-1]))
    given = lib.asarray(starts(size)), lib.asarray(speeds(size, kind))
    return entrant(lambda: batch(*given).block_until_ready(), size, kind)


def sample_rows() -> Iterator[Case]:
    """B1p: time. Against a compiled vmap and one step for all it has no target."""
    for size in SIZES:
        for kind in ("even", "mixed"):
            for backend, least in (("numpy", 6.0), ("torch", 3.0)):
                rivals = (
                    Rival("B1p", "torchode", least, partial(torchode, size, kind)),
                    Rival("B1p", "diffrax, vmap", 0.0, partial(diffrax, size, kind)),
                )
                work = f"forward, {backend}, {size} {kind} samples with steps of their own"
                yield Case(work, partial(ours, backend, size, kind), rivals)
                one = Rival("B1p", "torchdiffeq, a step", 0.0, partial(torchdiffeq, size, kind))
                mine = partial(ours, backend, size, kind, np.max)
                yield Case(f"{work}, largest error", mine, (one,))


def evaluations(size: int, kind: str) -> tuple[float, float]:
    """Evaluations of f, sample by sample: done, and needed by the solves one by one."""
    stats = solved("numpy", size, kind)().stats
    return float(stats["num_sample_f_evals"]), float(stats["num_f_evals"].sum())


def sample_facts() -> Iterator[Fact]:
    """B1p: evaluations of f over those of single solves."""
    for kind in ("even", "mixed"):
        done = partial(evaluations, 1000, kind)
        yield Fact("B1p", f"evaluations, 1000 {kind} samples", "", 1.1, done, "of single solves")
