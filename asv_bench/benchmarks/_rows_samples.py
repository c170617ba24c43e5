"""Row B1p of the report: batches of Lotka-Volterra systems, each with steps of its own.

Even batches, and batches in which one in a hundred is ten times as fast; NumPy and PyTorch against
torchode (steps of its own for each sample, none dropped) and torchdiffeq (one step for all); and
how often f is evaluated, sample by sample, over what the solves need one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np

import retrograde as rg

from . import _peers as peers
from ._backends import library
from ._cases import Case, Entrant, Fact, Rival

__all__ = ["sample_facts", "sample_rows"]

SIZES = (1000, 10_000)
END, NEAR = 20.0, {"rtol": 1e-6, "atol": 1e-6}


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


def entrant(run: Callable[[], Any], size: int, kind: str) -> Entrant:
    """A run, held to the median error: of some samples the phase is lost at these tolerances."""

    def error(found: Any) -> float:
        apart = np.abs(np.asarray(found) - right(size, kind)).max(axis=1)
        return float(np.median(apart))

    return Entrant(run, error)


def ours(backend: str, size: int, kind: str) -> Entrant:
    run = solved(backend, size, kind)
    return entrant(lambda: run().ys[-1], size, kind)


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


def sample_rows() -> Iterator[Case]:
    """B1p: time."""
    for size in SIZES:
        for kind in ("even", "mixed"):
            for backend, least in (("numpy", 6.0), ("torch", 3.0)):
                rival = Rival("B1p", "torchode", least, partial(torchode, size, kind))
                work = f"forward, {backend}, {size} {kind} samples with steps of their own"
                yield Case(work, partial(ours, backend, size, kind), (rival,))


def evaluations(size: int, kind: str) -> tuple[float, float]:
    """Evaluations of f, sample by sample: done, and needed by the solves one by one."""
    stats = solved("numpy", size, kind)().stats
    return float(stats["num_sample_f_evals"]), float(stats["num_f_evals"].sum())


def sample_facts() -> Iterator[Fact]:
    """B1p: evaluations of f over those of single solves."""
    for kind in ("even", "mixed"):
        done = partial(evaluations, 1000, kind)
        yield Fact("B1p", f"evaluations, 1000 {kind} samples", "", 1.1, done, "of single solves")
