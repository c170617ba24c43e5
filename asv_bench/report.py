"""Ratios to other libraries, row by row, from one process: ``python asv_bench/report.py``.

Entrants of a row run in turn, round after round, on one thread; what counts is processor time,
warm-up excluded, and the median over rounds of the ratio within a round, so that a busy machine
slows both sides alike. Before anything is timed, each entrant's error is taken against a
reference from outside (``_problems``): a row is missed if ours is larger than the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from benchmarks import _peers as peers  # sets one thread; before any array library
from benchmarks import _problems as problems
from benchmarks._backends import Run, library

import retrograde as rg

ROUNDING = 1e-7
"""Relative errors below this are those of the reference: no row is lost by them."""


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


@dataclass(frozen=True)
class Line:
    """A line of the report; times in seconds."""

    row: str
    work: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    target: float
    error: float
    peer_error: float

    @property
    def verdict(self) -> str:
        """'pass', or why not."""
        if self.error > max(1.02 * self.peer_error, ROUNDING):
            return "MISS: less accurate"
        return "pass" if self.ratio >= self.target else "MISS"


# --- entrants


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


# --- rows


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
    """J4 and J5: Lotka-Volterra, adaptive."""
    lv = problems.lotka_volterra()
    yield Case(
        "forward, Lotka-Volterra",
        lambda: ours_forward("jax", lv),
        (Rival("J4", "diffrax", 5.0, lambda: their_forward(peers.Diffrax, lv)),),
    )
    slots = lambda n: lambda: their_gradient(peers.Diffrax, lv, checkpoints=n)  # noqa: E731
    yield Case(
        "gradient, Lotka-Volterra",
        lambda: ours_gradient("jax", lv),
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
    for problem, (tdq, ode) in zip(four(scalar=False), targets, strict=True):
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
    cases = (problems.lotka_volterra(), 2.0, 5.6), (problems.neural_ode(), 1.4, 4.7)
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


ROWS = (toy_rows, jax_rows, numpy_rows, torch_rows, torch_gradient_rows)


# --- measuring


def seconds(run: Run, repeats: int) -> float:
    """Processor time of one call, over a loop of calls."""
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def interleaved(entrants: Sequence[Entrant], rounds: int, slice_: float) -> Any:
    """What each entrant is compared by, shape (rounds, entrants); slow work gets 5 rounds."""
    repeats = [max(1, round(slice_ / max(seconds(e.run, 1), 1e-6))) for e in entrants]
    turns: list[list[float]] = []
    end = time.monotonic() + rounds * slice_ * len(entrants) * 2
    while len(turns) < 5 or (len(turns) < rounds and time.monotonic() < end):
        pairs = zip(entrants, repeats, strict=True)
        turns.append([e.overhead(seconds(e.run, n)) for e, n in pairs])
    return np.asarray(turns)


def lines(case: Case, rows: set[str] | None, rounds: int, slice_: float) -> Iterator[Line]:
    """Run the wanted rivals of a case; none of them, no work."""
    rivals = [r for r in case.rivals if rows is None or r.row in rows]
    if not rivals:
        return
    print(f"{rivals[0].row}: {case.work}", file=sys.stderr, flush=True)
    entrants = [case.ours(), *(rival.make() for rival in rivals)]
    errors = [e.error(e.run()) for e in entrants]
    table = interleaved(entrants, rounds, slice_)
    middle = np.median(table, axis=0)
    for j, rival in enumerate(rivals, start=1):
        ratio = float(np.median(table[:, j] / table[:, 0]))
        yield Line(
            rival.row, case.work, float(middle[0]), rival.name, float(middle[j]), ratio,
            rival.target, errors[0], errors[j],
        )  # fmt: skip


def render(found: Sequence[Line]) -> str:
    """The lines as one table."""
    head = ("row", "work", "ours", "peer", "ratio", "target", "error", "peer's", "verdict")
    cells = [head]
    for x in found:
        cells.append(
            (x.row, x.work, duration(x.ours), f"{x.peer} {duration(x.theirs)}", f"{x.ratio:.2f}",
             f"{x.target:.2f}", f"{x.error:.1e}", f"{x.peer_error:.1e}", x.verdict)
        )  # fmt: skip
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def duration(t: float) -> str:
    """Seconds in a unit that suits them."""
    return f"{t * 1e6:.1f} us" if t < 1e-3 else f"{t * 1e3:.2f} ms"


def main() -> int:
    """Print the table; the exit status counts the lines that missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="ids, with commas: J1,N1; all if left out")
    parser.add_argument("--quick", action="store_true", help="few short rounds: a smoke test")
    parser.add_argument("--json", metavar="FILE", help="write the lines there, too")
    options = parser.parse_args()
    rows = set(options.rows.split(",")) if options.rows else None
    rounds, slice_ = (5, 0.01) if options.quick else (21, 0.05)
    warnings.simplefilter("ignore")  # of the peers
    found: list[Line] = []
    for make in ROWS:
        for case in make():
            try:
                found += lines(case, rows, rounds, slice_)
            except NotImplementedError as absent:
                print(f"{case.work}: skipped, {absent}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n{render(found)}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{**asdict(x), "verdict": x.verdict} for x in found], file, indent=1)
    return sum(x.verdict != "pass" for x in found)


if __name__ == "__main__":
    raise SystemExit(main())
