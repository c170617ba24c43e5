"""Random problems: solves and gradients drawn at random, held to what they must be.

A seed and a number make a problem: a vector field, the tree of its state, a dtype, a direction and
a start of time, a solver, steps, outputs, a budget, an adjoint, a library and its way of asking for
gradients. Three things must hold:

- rows are those of a loop of the solver's steps written out here, in extended precision, over the
  same times;
- the gradient along random tangents (of y0, args, t0, t1 and saved times at once) is the central
  difference of that loop. Step sizes are constants of the gradient: an adaptive solve is
  differenced over the steps that it accepted, which move with t0 and end on t1
  (``docs/explanation/adjoints``);
- another adjoint gives the same gradient, to 1e-10 in double precision where both are exact.

A problem is *ok*, a *clear error* (one of retrograde's own), *wrong*, or a *crash*. From the root::

    python tests/random_problems.py --count 10000 --seed 1
    python tests/random_problems.py --seed 1 --only 137        # one of them again, in full

Double precision is held to 1e-9, float32 to what its rounding leaves.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg

if __package__:
    from .searching.drawing import FIELDS, SHARES, Inputs, Problem, draw
    from .searching.libraries import FIND, Answer, Solve, Weights, Wrong, accepted
    from .searching.reference import Reference, dot, lifted, moved, products, tangents
else:  # run as a file
    from searching.drawing import FIELDS, SHARES, Inputs, Problem, draw
    from searching.libraries import FIND, Answer, Solve, Weights, Wrong, accepted
    from searching.reference import Reference, dot, lifted, moved, products, tangents


class Verdict(NamedTuple):
    """What became of a problem, and the CPU time that it took [s]."""

    kind: str
    why: str
    seconds: float


def judge(problem: Problem) -> Verdict:
    """Solve it, differentiate it, hold it to the reference and to another adjoint."""
    start = time.process_time()
    kind, why = "ok", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module="torch")  # of its own parts
            _held(problem)
    except Wrong as error:
        kind, why = "wrong", str(error)
    except rg.RetrogradeError as error:
        kind, why = "clear error", f"{type(error).__name__}: {error}"
    except LookupError:
        raise
    except Exception:
        kind, why = "crash", traceback.format_exc()
    return Verdict(kind, why, time.process_time() - start)


def _held(problem: Problem) -> None:
    side, weights = Solve(problem), Weights(problem)
    answer = side.gradient(problem.adjoint, side.budget(), weights)
    reference = Reference(problem, accepted(problem, answer))
    rng = np.random.default_rng([problem.seed, problem.number, 1])
    x, v = lifted(problem), tangents(problem, rng)
    rows = reference.rows(x)
    bounds = Bounds(problem, reference.steps)
    # where a row passes through 0, what rounding of f's t moves it by is of the state's size
    scale = max(1e-3, *(float(np.max(np.abs(leaf))) for leaf in problem.leaves))
    for i, (got, right) in enumerate(zip(answer.ys, rows, strict=True)):
        if got.shape != right.shape:
            raise Wrong(f"ys {i}: shape {got.shape} for {right.shape}")
        close(f"ys {i}", got, right, bounds.value, scale)
    slope = difference(lambda s: dot(weights(rows), reference.rows(moved(x, v, s))))
    parts = products(answer.g, v)
    size = sum(map(abs, parts.values())) + 1e-3
    if not abs(sum(parts.values()) - slope) <= bounds.slope * size:
        raise Wrong(
            f"the gradient along a tangent is {sum(parts.values()):.12g} "
            f"({', '.join(f'{k} {p:.6g}' for k, p in parts.items())}), differences say {slope:.12g}"
        )
    if not problem.own_steps:
        _agree(problem, answer, weights, bounds)


def difference(along: Callable[[Any], Any]) -> float:
    """The central difference of order 4 at 0."""
    step = np.longdouble(2e-5)
    ends = [along(s * step) - along(-s * step) for s in (1, 2)]
    return float((8 * ends[0] - ends[1]) / (12 * step))


def _agree(problem: Problem, answer: Answer, weights: Weights, bounds: Bounds) -> None:
    """Another adjoint gives the same gradient; in JAX it is NumPy's, which compiles nothing."""
    there = problem
    if problem.traced:
        there = dataclasses.replace(problem, library="numpy", route="solve_vjp", closed="")
    again = Solve(there).gradient(there.other, None, weights)
    tolerance = bounds.adjoints(answer)
    right = problem.only(again.g, lambda x: 0.0 * x)
    size = max(float(np.max(np.abs(x), initial=0.0)) for x, _, _ in _paired(right, right))
    floor = (0.3 if bounds.single else 0.03) * size
    for got, wanted, name in _paired(answer.g, right):
        close(f"gradient by {name} beside {problem.other}", got, wanted, tolerance, floor)


def _paired(a: Inputs, b: Inputs) -> Iterator[tuple[Any, Any, str]]:
    for i, pair in enumerate(zip(a.y0, b.y0, strict=True)):
        yield *pair, f"y0 {i}"
    for name, x in a.params.items():
        yield x, b.params[name], name
    for name in ("t0", "t1", "ts"):
        if getattr(a, name) is not None:
            yield getattr(a, name), getattr(b, name), name


def close(what: str, got: Any, right: Any, tolerance: float, floor: float = 1e-3) -> None:
    """Raise Wrong where an error is larger than ``tolerance`` of the largest entry or floor."""
    error = float(np.max(np.abs(got - right), initial=0.0))
    size = max(float(np.max(np.abs(right), initial=0.0)), floor)
    if not error <= tolerance * size:
        raise Wrong(f"{what}: off by {error / size:.1e} of its size, allowed {tolerance:.1e}")


class Bounds:
    """Tolerances, from what rounding leaves of times and states."""

    def __init__(self, problem: Problem, steps: Any) -> None:
        single = problem.dtype == "float32"
        eps = float(np.finfo(np.float32 if single else np.float64).eps)
        # times count from t0: far from 0, f's own t is rounded, and so are the times of steps that
        # are read from a solution
        field = 10.0 if FIELDS[problem.field].timed or problem.fn == "tree" else 0.0
        read = 1.0 / min(float(np.min(np.abs(np.diff(steps)))), 0.1)
        far = eps * (abs(problem.t0) + abs(problem.t1))
        of_time = far * (read if problem.control == "adaptive" else field)
        self.problem, self.single, self.of_time = problem, single, of_time
        self.value = (5e3 if single else 2e4) * eps + 4 * of_time
        self.slope = (1e-4 if single else 1e-9) + 100 * of_time
        # errors near rounding choose steps that differ, by less than the tolerance of the solve
        self.steps = (
            1e-6 if (problem.many_ways or problem.traced) and problem.control == "adaptive" else 0.0
        )
        self.value += self.steps
        self.slope += self.steps
        self.guarded = "Backsolve" in problem.adjoint or "Reversible" in problem.adjoint
        self.guarded |= problem.adjoint in ("'backsolve'", "'reversible'")
        self.guarded |= problem.memory in ("tight", "tiny") or problem.adjoint == "'plan'"
        if self.guarded:
            self.slope = max(self.slope, 1e-5 if not single else 3e-3)

    def adjoints(self, answer: Answer) -> float:
        """Of two adjoints."""
        if self.guarded:
            return 3e-3 if self.single else 1e-5
        if self.single:
            return 5e-4 + self.of_time
        return 1e-10 + self.steps + self.of_time


# --- the command
def sought(
    seed: int, numbers: Any, libraries: tuple[str, ...], processes: int = 1
) -> Iterator[tuple[Problem, Verdict]]:
    """Problems with their verdicts."""
    tasks = [(seed, number, libraries) for number in numbers]
    if processes == 1:
        for task in tasks:
            yield _task(task)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, maxtasksperchild=500) as pool:
        yield from pool.imap(_task, tasks, chunksize=10)


def _task(task: tuple[int, int, tuple[str, ...]]) -> tuple[Problem, Verdict]:
    problem = draw(*task)
    return problem, judge(problem)


def installed(names: Any) -> tuple[str, ...]:
    """Those of the libraries that are here."""
    return tuple(name for name in names if not isinstance(FIND(name), str))


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 if a number was wrong or a problem crashed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first problem")
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    parser.add_argument("--only", type=int, help="this problem alone, with all that it says")
    parser.add_argument("--library", default="numpy,torch,strict", help=", ".join(SHARES))
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(argv)
    libraries = installed(options.library.split(","))
    if options.only is not None:
        problem = draw(options.seed, options.only, libraries)
        verdict = judge(problem)
        print(problem.words, *verdict[:2], sep="\n")
        return int(verdict.kind in ("wrong", "crash"))
    numbers = range(options.first, options.first + options.count)
    print(f"seed {options.seed}, problems {numbers[0]} to {numbers[-1]}, {', '.join(libraries)}")
    found: list[tuple[Problem, Verdict]] = []
    for problem, verdict in sought(options.seed, numbers, libraries, options.processes):
        found.append((problem, verdict))
        if len(found) % 500 == 0:
            print(f"{len(found)} done", file=sys.stderr, flush=True)
        if verdict.kind != "ok":
            print(
                f"{verdict.kind}: {problem.words}\n  {verdict.why.strip()}\n  {problem.command}",
                flush=True,
            )
    print(summary(found))
    return int(any(verdict.kind in ("wrong", "crash") for _, verdict in found))


def summary(found: list[tuple[Problem, Verdict]]) -> str:
    """Counts by library and kind."""
    kinds = collections.Counter(verdict.kind for _, verdict in found)
    lines = [f"{len(found)} problems: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())]
    for library in SHARES:
        of = collections.Counter(v.kind for p, v in found if p.library == library)
        if of:
            seconds = sum(v.seconds for p, v in found if p.library == library)
            each = ", ".join(f"{n} {kind}" for kind, n in of.items())
            lines.append(f"  {library}: {sum(of.values())} in {seconds:.0f} s: {each}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
