"""Timed rows of the report on NumPy and PyTorch: N1, N3, T1p to T4p, G1p, I1, batches."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import retrograde as rg

from . import _peers as peers
from . import _problems as problems
from ._cases import (
    Case,
    Entrant,
    Rival,
    Skipped,
    ours_forward,
    ours_gradient,
    their_forward,
    their_gradient,
    tighter,
)
from ._problem import Problem
from .batch import SIZES, common, mapped, torchdiffeq_batch, torchode_batch
from .import_time import import_seconds
from .overhead import seconds

__all__ = ["EAGER"]

SAME_ERROR = {"neural_ode": 4.0, "lotka_volterra": 8.0, "lorenz": 2.0, "burgers": 2.0}
"""Multiples of our tolerances at which our errors are still no larger than those of SciPy's RK45
and torchdiffeq's dopri5 (the report looks). Rows at equal tolerances are what targets are for."""


def same_error(case: Case, row: str, ours: Any, problem: Problem) -> Case:
    """A row's case once more, at looser tolerances of ours and the peer's error; not judged."""
    factor = SAME_ERROR[problem.name.partition("_1")[0]]
    rivals = [dataclasses.replace(r, target=0.0) for r in case.rivals if r.row == row]
    work = f"{case.work}, {factor:g} x tolerances"
    return Case(work, partial(ours, tolerance=factor), tuple(rivals))


ORDER_8 = (1.0, 0.8, 1.8, 1.8)
"""Of the tolerances, ours in N2: at equal ones SciPy, whose controller has no memory, errs twice as
much on Burgers and a tenth less on Lorenz; what is timed is an error of ours below its."""


def four() -> tuple[Problem, ...]:
    """The forward problems of rows N1, T1p and T2p; small vectors taken apart the cheapest way."""
    return (
        problems.lotka_volterra(scalar=True),
        problems.lorenz(scalar=True),
        problems.burgers(1000),
        problems.burgers(100_000),
    )


def numpy_rows() -> Iterator[Case | Skipped]:
    """N1 and N2: forward solves in NumPy; N3: a step without f."""
    for problem, target in zip(four(), (2.2, 2.4, 1.8, 1.4), strict=True):
        rival = Rival("N1", "SciPy RK45", target, partial(their_forward, peers.SciPy, problem))
        quick, work = problem.y0.size < 1000, f"forward, {problem.name}"
        ours = partial(ours_forward, "numpy", problem)
        case = Case(work, ours, (rival,), quick)
        yield from (case, same_error(case, "N1", ours, problem))
    for problem, tolerance in zip(four(), ORDER_8, strict=True):
        hard = dataclasses.replace(problem, rtol=1e-9, atol=1e-12, solver="dopri8")
        theirs = partial(scipy_dop853, hard)
        ours = partial(ours_forward, "numpy", hard, tolerance=tolerance)
        work = f"forward at 1e-9, {problem.name}"
        yield Case(work, ours, (Rival("N2", "SciPy DOP853", 2.0, theirs),))
    yield Case(
        "a step without f, n = 2", ours_step, (Rival("N3", "SciPy RK45", 35 / 12, scipy_step),),
        quick=True,
    )  # fmt: skip


def scipy_dop853(problem: Problem) -> Entrant:
    """SciPy's solve of order 8."""
    peer = peers.peer(peers.SciPy)
    return Entrant(peer.forward(problem, "DOP853"), problem.error)


def without_f(entrant: Entrant, problem: Problem, calls: int, steps: int) -> Entrant:
    """The same, comparing the time of a step less that of its evaluations of f."""
    f = problem.field(np)
    cost = min(seconds(lambda: f(0.0, problem.y0, None), 5000) for _ in range(5))
    return dataclasses.replace(entrant, part=lambda t: (t - calls * cost) / steps)


def ours_step() -> Entrant:
    """N3, ours."""
    problem = problems.decay()
    f = problem.field(np)
    stats = rg.solve(f, problem.y0, 0.0, problem.t1, **problem.settings).stats
    calls, steps = stats["num_f_evals"], stats["num_steps"]
    return without_f(ours_forward("numpy", problem), problem, calls, steps)


def scipy_step() -> Entrant:
    """N3, SciPy's: two calls to begin, six a step."""
    problem = problems.decay()
    calls = peers.peer(peers.SciPy).solve(problem).nfev
    return without_f(their_forward(peers.SciPy, problem), problem, calls, (calls - 2) // 6)


def torch_rows() -> Iterator[Case]:
    """T1p and T2p: forward solves in eager PyTorch."""
    targets = ((6.5, 5.7, 1.0), (6.5, 5.0, 1.0), (4.5, 3.0, 0.8), (7.5, 1.8, 0.8))
    for problem, (tdq, ode, tolerance) in zip(four(), targets, strict=True):
        rivals = (
            Rival("T1p", "torchdiffeq", tdq, partial(their_forward, peers.Torchdiffeq, problem)),
            Rival("T2p", "torchode", ode, partial(their_forward, peers.Torchode, problem)),
        )
        quick, work = problem.name == "lotka_volterra", f"forward, torch, {problem.name}"
        ours = partial(ours_forward, "torch", problem)
        case = Case(work, partial(ours, tolerance=tolerance), rivals, quick)
        yield from (case, same_error(case, "T1p", ours, problem))


def compiled_rows() -> Iterator[Case | Skipped]:
    """T3p: our steps compiled; compiled once per field, so warm-up takes seconds."""
    if "compile" not in inspect.signature(rg.solve).parameters:
        yield Skipped("T3p", "compiled steps, torch", "solve() has no keyword `compile` yet")
        return
    cases = (
        (problems.lotka_volterra(), 15.0), (problems.lorenz(), 15.0), (problems.neural_ode(), 3.3),
    )  # fmt: skip
    for problem, target in cases:
        theirs = partial(their_forward, peers.Torchdiffeq, problem)
        ours = partial(ours_forward, "torch", problem, compile=True)
        rival = Rival("T3p", "torchdiffeq", target, theirs)
        case = Case(f"forward, torch, compiled, {problem.name}", ours, (rival,))
        yield case
        if problem.name == "neural_ode":
            yield same_error(case, "T3p", ours, problem)


def gradient_rows() -> Iterator[Case]:
    """T4p: gradients in eager PyTorch, states stored; G1p: in NumPy, by the tape."""
    stored = {"adjoint": rg.RecursiveCheckpointAdjoint()}
    lv = problems.lotka_volterra(scalar=True)
    for problem, least, most in ((lv, 2.0, 5.6), (problems.neural_ode(), 1.4, 4.7)):
        peer = partial(their_gradient, peers.Torchdiffeq, problem)
        rivals = (
            Rival("T4p", "torchdiffeq", least, partial(peer, adjoint=False)),
            Rival("T4p", "odeint_adjoint", most, partial(peer, adjoint=True)),
        )
        ours = partial(ours_gradient, "torch", problem)
        work = f"gradient, torch, {problem.name}"
        chosen = Case(f"{work}, the plan's choice", ours, rivals[:1])
        case = Case(work, partial(ours, **stored), rivals)
        yield from (case, chosen)
        if problem.name == "neural_ode":
            yield same_error(case, "T4p", case.ours, problem)
            yield same_error(chosen, "T4p", ours, problem)
    theirs = partial(their_gradient, peers.Torchdiffeq, lv)
    ours = partial(ours_gradient, "numpy", problems.lotka_volterra(), **stored)
    rival = Rival("G1p", "torchdiffeq", 6.0, theirs)
    yield Case("gradient, NumPy's tape, lotka_volterra", ours, (rival,), quick=True)


def batch_rows() -> Iterator[Case]:
    """Batches of Lotka-Volterra: one step for all, or ``vmap``; no targets but parity."""
    for size in SIZES:
        problem = problems.batch(size)

        def entrant(make: Any, tolerance: float = 1.0, problem: Problem = problem) -> Entrant:
            run, error = make(tighter(problem, tolerance)), problem.error
            return Entrant(run, lambda y: error(np.asarray(y)))

        rival = Rival("batch", "diffrax, vmap", 1.0, partial(entrant, partial(mapped, "diffrax")))
        work = f"forward, JAX, vmap over {size}"
        yield Case(work, partial(entrant, partial(mapped, "ours")), (rival,))
        tdq = Rival("batch", "torchdiffeq", 1.0, partial(entrant, torchdiffeq_batch))
        ode = Rival("batch", "torchode", 1.0, partial(entrant, torchode_batch))
        for backend in ("torch", "numpy"):
            work = f"forward, {backend}, one step for {size}"
            ours = partial(entrant, partial(common, backend))
            yield Case(work, ours, (tdq,))
            # torchode's samples have steps of their own, and so a smaller error
            yield Case(f"{work}, 0.2 x tolerances", partial(ours, tolerance=0.2), (ode,))


def import_rows() -> Iterator[Case]:
    """I1: the import, against its bound of 0.15 s."""
    bound = Rival("I1", "bound", 1.0, lambda: _seconds(lambda: 0.15))
    yield Case("import retrograde", lambda: _seconds(import_seconds), (bound,), quick=True)


def _seconds(measure: Any) -> Entrant:
    """An entrant whose run measures itself, in another process."""
    found = [0.0]

    def run() -> float:
        found[0] = measure()
        return found[0]

    return Entrant(run, lambda seconds: 0.0, lambda seconds: found[0], repeats=1)


EAGER = (
    numpy_rows, torch_rows, compiled_rows, gradient_rows, batch_rows, import_rows,
)  # fmt: skip
