"""Batches of 1,000 and 10,000 Lotka-Volterra systems.

Two ways: ``vmap`` over solves in JAX, each with steps of its own, and a state (2, size) in NumPy
and PyTorch that takes one step for all. Steps for each sample in eager libraries are
row B1p of the report (``_rows_samples``). torchode has them, torchdiffeq takes one step for all.
"""

import statistics
from collections.abc import Callable
from typing import Any

from ._backends import Run, library, refuse
from ._peers import Diffrax, Torchdiffeq, Torchode, peer
from ._problem import Problem
from ._problems import batch
from .overhead import seconds

SIZES = (1000, 10_000)


def common(backend: str, problem: Problem) -> Run:
    """Ours, one step for all."""
    lib = library(backend)
    run = lib.forward(problem)
    return lambda: lib.to_numpy(run())


def mapped(kind: str, problem: Problem) -> Run:
    """``vmap`` of ours or of diffrax."""
    if kind == "diffrax":
        return peer(Diffrax).batched(problem)
    lib = library("jax")
    return lib.run(lib.mapped(lib.solution(problem), problem), lib.inputs(problem))


def torchdiffeq_batch(problem: Problem) -> Run:
    """torchdiffeq, one step for all."""
    return peer(Torchdiffeq).forward(problem)


def torchode_batch(problem: Problem) -> Run:
    """torchode, steps for each."""
    return peer(Torchode).batched(problem)


WAYS: dict[str, tuple[Callable[..., Run], tuple[Callable[..., Run], ...]]] = {
    "JAX, vmap": (lambda p: mapped("ours", p), (lambda p: mapped("diffrax", p),)),
    "torch, one step for all": (lambda p: common("torch", p), (torchdiffeq_batch, torchode_batch)),
    "NumPy, one step for all": (lambda p: common("numpy", p), ()),
}


def checked(make: Callable[..., Run], problem: Problem) -> Run:
    """A warm run that is accurate."""
    run: Any = make(problem)
    refuse(problem, "the solution", problem.error(run()))
    return run


class Batch:
    """Forward solves."""

    params = (tuple(WAYS), SIZES)
    param_names = ("way", "size")
    timeout = 300

    def setup(self, way: str, size: int) -> None:
        self.run = checked(WAYS[way][0], batch(size))

    def time_solve(self, way: str, size: int) -> None:
        self.run()


class Ratio:
    """The fastest peer's time over ours."""

    params = (("JAX, vmap", "torch, one step for all"), SIZES)
    param_names = ("way", "size")
    timeout = 300

    def setup(self, way: str, size: int) -> None:
        ours, theirs = WAYS[way]
        self.runs = [checked(make, batch(size)) for make in (ours, *theirs)]

    def track_over_ours(self, way: str, size: int) -> float:
        turns = [[seconds(run, 1) for run in self.runs] for _ in range(5)]
        return statistics.median(min(others) / mine for mine, *others in turns)


Ratio.track_over_ours.unit = "peer/ours"  # type: ignore[attr-defined]
