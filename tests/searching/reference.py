"""The reference: a plain loop of the solver's steps in extended precision, and its tangents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from retrograde._solvers import find_solver

from .drawing import Inputs, Problem, dtype_of, solver_of, tableau_of
from .fields import FORMS, field_of, output_of, row_leaves


def lifted(problem: Problem) -> Inputs:
    """Inputs rounded to the problem's precision, then in extended precision; times from t0."""

    def lift(x: Any) -> Any:
        x = np.asarray(x, dtype_of(problem, x))
        return x.astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)

    start = np.longdouble(problem.t0)
    ts = None if problem.ts is None else np.asarray(problem.ts, np.longdouble) - start
    params = {name: lift(x) for name, x in problem.params.items()}
    times = np.longdouble(0.0), np.longdouble(problem.t1) - start
    return Inputs([lift(x) for x in problem.leaves], params, *times, ts)


@dataclasses.dataclass
class Reference:
    """Rows of a problem over ``steps``, accepted times from the start [relative to t0]."""

    problem: Problem
    steps: Any

    def offsets(self, x: Inputs) -> Any:
        """Times of the steps from the problem's own t0, for these inputs."""
        moved = self.steps + (0.0 if self.problem.control == "given" else x.t0)
        return np.concatenate([[x.t0], moved[1:-1], [x.t1]])

    def rows(self, x: Inputs) -> list[Any]:
        """Leaves of ``sol.ys``."""
        problem, offsets = self.problem, self.offsets(x)
        make, parts = FORMS[len(problem.leaves)][problem.form]
        f, fn = field_of(problem, lambda y: np), output_of(problem, lambda y: np)
        args, start = {"p": x.params}, np.longdouble(problem.t0)
        shapes = [np.shape(leaf) for leaf in x.y0]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

        def unpack(y: Any) -> Any:
            split = zip(np.split(y, ends), shapes, strict=True)
            return make(*(leaf.reshape(shape) for leaf, shape in split))

        def pack(leaves: Any) -> Any:
            return np.concatenate([np.reshape(leaf, -1) for leaf in leaves])

        def slope(t: Any, y: Any) -> Any:
            return pack(parts(f(start + t, unpack(y), args)))

        def emit(t: Any, y: Any) -> Any:
            tree = unpack(y)
            return row_leaves(problem, tree if fn is None else fn(start + t, tree, args))

        saved, where = self._saved(x)
        method = method_of(problem.solver, slope)
        found = _iterate(method, pack(x.y0), offsets, (saved, where), problem.outputs)
        return [np.stack(leaf) for leaf in zip(*(emit(t, y) for t, y in found), strict=True)]

    def _saved(self, x: Inputs) -> tuple[Any, Any]:
        """Saved times [relative], and the step that each one lies in, whatever is perturbed."""
        if x.ts is None:
            return (), ()
        start, sign = np.longdouble(self.problem.t0), np.sign(self.steps[-1])
        base = np.asarray(self.problem.ts, np.longdouble) - start
        where = np.searchsorted(sign * self.steps[1:-1], sign * base)
        return x.ts, where


def _iterate(
    method: Any, y: Any, offsets: Any, saved: Any, outputs: str
) -> Iterator[tuple[Any, Any]]:
    """(t, y) of every row."""
    if "t0" in outputs:
        yield offsets[0], y
    carry = method.start(offsets[0], y)
    for k, (t, t_new) in enumerate(itertools.pairwise(offsets)):
        due = [at for at, step in zip(*saved, strict=True) if step == k]
        carry, inside = method.step(t, t_new - t, carry, bool(due))
        for at in due:
            yield at, inside((at - t) / (t_new - t))
        if "steps" in outputs:
            yield t_new, method.state(carry)
    if "t1" in outputs:
        yield offsets[-1], method.state(carry)


class RungeKutta:
    """A tableau's steps: Hairer, Norsett, Wanner, *Solving ODEs I*, II.1 and II.6."""

    def __init__(self, tableau: Any, slope: Any) -> None:
        self.tableau, self.slope = tableau, slope

    def start(self, t: Any, y: Any) -> Any:
        return y

    def state(self, carry: Any) -> Any:
        return carry

    def step(self, t: Any, h: Any, y: Any, inside: bool = True) -> Any:
        """y after the step, and y(theta)."""
        tableau, slopes = self.tableau, []
        count = len(tableau.c) if inside else len(tableau.b)
        for c, row in zip(tableau.c[:count], tableau.a[:count], strict=True):
            slopes.append(self.slope(t + c * h, self._sum(h, row, slopes, y)))

        def at(theta: Any) -> Any:
            powers = [
                sum(w * theta**i for i, w in enumerate(row, 1)) for row in tableau.interpolation
            ]
            return self._sum(h, powers, slopes, y)

        return self._sum(h, tableau.b, slopes, y), at

    def _sum(self, h: Any, weights: Any, slopes: Any, y: Any) -> Any:
        return sum((h * w * k for w, k in zip(weights, slopes, strict=False) if w), start=y)


class Programmed:
    """The steps of a reversible solver, by the lists that it states (``_solvers``' programs)."""

    def __init__(self, solver: Any, slope: Any) -> None:
        self.lists, self.slope = solver.programs(), slope
        self.parts = len(self.lists.dense)

    def start(self, t: Any, y: Any) -> Any:
        parts = np.split(y, self.parts)
        lists = self.lists
        return parts if lists.start is None else self._run(lists.start, t, 0.0, parts)[0]

    def state(self, carry: Any) -> Any:
        return np.concatenate(carry[: self.parts])

    def step(self, t: Any, h: Any, carry: Any, inside: bool = True) -> Any:
        """What is carried on, and y(theta)."""
        program = self.lists.step
        program = program._replace(body=program.body + self.lists.inside)
        new, r, within = self._run(program, t, h, carry)

        def at(theta: Any) -> Any:
            dense = self.lists.dense
            parts = [
                sum(sum(a * theta**i for i, a in enumerate(powers)) * r[x] for x, powers in terms)
                for terms in dense
            ]
            return np.concatenate(parts) + (0.0 if within is None else within(theta))

        return new, at

    def _run(self, program: Any, t: Any, h: Any, carry: Any) -> Any:
        r, within = dict(zip(program.inputs, carry, strict=True)), None
        for line in program.body:
            if hasattr(line, "terms"):
                r[line.out] = sum((a + b * h) * r[x] for x, a, b in line.terms)
            elif hasattr(line, "base"):
                base = RungeKutta(line.base.tableau, self.slope)
                r[line.out], at = base.step(t + line.start * h, line.sign * h, r[line.arg])
                within = at if line.inside else within
            else:
                k = self.slope(t + line.c * h, np.concatenate([r[x] for x in line.arg]))
                r.update(zip(line.out, np.split(k, len(line.out)), strict=True))
        return [r[name] for name in program.outputs], r, within


def method_of(solver: str, slope: Any) -> Any:
    """A plain loop's steps."""
    tableau = tableau_of(solver)
    if tableau is not None:
        return RungeKutta(tableau, slope)
    return Programmed(find_solver(solver_of(solver)), slope)


def tangents(problem: Problem, rng: np.random.Generator) -> Inputs:
    """A random direction of what is wanted; saved times at an end move with it."""

    def like(x: Any) -> Any:
        real = rng.normal(size=np.shape(x))
        return real + 1j * rng.normal(size=np.shape(x)) if np.iscomplexobj(x) else real

    t0, t1 = rng.normal(size=2)
    ts = None
    if problem.ts is not None:
        free = rng.normal(size=len(problem.ts))
        ts = np.where(problem.ts == problem.t0, t0, np.where(problem.ts == problem.t1, t1, free))
    params = {name: like(x) for name, x in problem.params.items()}
    found = Inputs([like(x) for x in problem.leaves], params, t0, t1, ts)
    return problem.only(found, lambda x: 0.0 * x)


def moved(x: Inputs, v: Inputs, by: Any) -> Inputs:
    """x + by v."""
    return Inputs(
        [a + by * b for a, b in zip(x.y0, v.y0, strict=True)],
        {k: a + by * v.params[k] for k, a in x.params.items()},
        x.t0 + by * v.t0,
        x.t1 + by * v.t1,
        None if x.ts is None else x.ts + by * v.ts,
    )


def dot(a: Any, b: Any) -> Any:
    """Re <a, b> of lists of arrays."""
    pairs = zip(a, b, strict=True)
    return sum(np.sum((np.conj(np.asarray(x)) * y).real) for x, y in pairs)


def products(g: Inputs, v: Inputs) -> dict[str, Any]:
    """The directional derivative, by input."""
    found = {"y0": dot(g.y0, v.y0), "t0": dot([g.t0], [v.t0]), "t1": dot([g.t1], [v.t1])}
    found |= {f"args {k}": dot([x], [v.params[k]]) for k, x in g.params.items()}
    return found if v.ts is None else {**found, "ts": dot([g.ts], [v.ts])}
