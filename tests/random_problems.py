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
import itertools
import multiprocessing
import runpy
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg
from retrograde._solvers import find_solver

FIND = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["_find"]
SHARES = {"numpy": 10, "torch": 8, "strict": 1, "jax": 1, "jax:jit": 5}
"""How often a library comes up among those asked for."""

SEPARABLE = ("semi_implicit_euler", "velocity_verlet")


# --- fields: written once, (xp, t, leaves of y, parameters by name) -> leaves of dy/dt
class Field(NamedTuple):
    """A vector field with the shapes that it takes.

    ``make(rng) -> (leaves, params)`` draws a state and parameters.
    """

    call: Callable[..., Any]
    make: Callable[[np.random.Generator], Any]
    timed: bool = False


def linear(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    around = [ls[-1], *ls[:-1]]
    return [-p["k"] * x + 0.3 * p["c"] * xp.sum(z) for x, z in zip(ls, around, strict=True)]


def product(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    return [p["a"] @ ls[0] - 0.5 * ls[0]]


def lotka_volterra(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y, r = ls[0], p["r"]
    meals = y[0, ...] * y[1, ...]
    return [xp.stack([r[0] * y[0, ...] - r[1] * meals, r[3] * meals - r[2] * y[1, ...]])]


def forced(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    return [-p["k"] * x + p["a"] * xp.sin(3.0 * (t - p["phase"]) + x) for x in ls]


def varying(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    s = t - p["start"]
    rate = p["r"][0] + p["r"][1] * s + p["r"][2] * xp.cos(2.0 * s)
    return [rate * x / (1.0 + x * x) for x in ls]


def network(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y = ls[0]
    return [xp.tanh(y @ p["w1"] + p["b1"]) @ p["w2"] - 0.1 * y]


def rotation(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    return [1j * (p["w"] * x) - 0.2 * x + 0.1 * x * x for x in ls]


def separable(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    q, v = ls
    return [v * p["m"], -p["k"] * xp.sin(q) + 0.3 * xp.cos(t - p["phase"])]


def ring(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y = ls[0]
    return [(xp.roll(y, -1) - xp.roll(y, 2)) * xp.roll(y, 1) * p["c"] - y + p["force"]]


def pieces(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y, z = ls
    push = p["s"] * (y[1] - y[0])
    whole = xp.stack([push, y[0] * (p["r"] - y[2]) - y[1], y[0] * y[1] - 0.5 * y[2]])
    return [whole * 0.5, xp.exp(-z * z) * y[2] - 0.2 * z]


def logistic(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    total = sum(xp.sum(x**2) for x in ls)
    return [p["r"] * x * (1.0 - x / p["cap"]) / xp.sqrt(1.0 + total) for x in ls]


SHAPES = ((), (1,), (3,), (2, 3), (5,), (2, 1, 2))


def _shapes(rng: np.random.Generator, most: int = 3) -> list[tuple[int, ...]]:
    return [SHAPES[rng.integers(len(SHAPES))] for _ in range(rng.integers(1, most + 1))]


def _like(rng: np.random.Generator, shapes: Any, scale: float = 1.0) -> list[Any]:
    return [np.asarray(scale * rng.uniform(-1.0, 1.0, shape)) for shape in shapes]


def _network(rng: np.random.Generator) -> Any:
    n, m, batch = rng.integers(1, 5), rng.integers(1, 7), ((), (3,))[rng.integers(2)]
    w = {"w1": rng.normal(size=(n, m)), "b1": rng.normal(size=(m,)), "w2": rng.normal(size=(m, n))}
    return _like(rng, [(*batch, n)]), {k: 0.7 * x for k, x in w.items()}


def _product(rng: np.random.Generator) -> Any:
    n, rest = rng.integers(1, 6), ((), (2,))[rng.integers(2)]
    return _like(rng, [(n, *rest)]), {"a": rng.uniform(-1, 1, (n, n))}


def _lotka_volterra(rng: np.random.Generator) -> Any:
    y = rng.uniform(0.5, 1.5, (2, *((), (3,), (2, 2))[rng.integers(3)]))
    return [y], {"r": rng.uniform(0.5, 1.5, 4)}


def _rotation(rng: np.random.Generator) -> Any:
    shapes = _shapes(rng)
    pairs = zip(_like(rng, shapes), _like(rng, shapes), strict=True)
    w = rng.uniform(0.5, 2.0) + (1j * rng.uniform(-0.3, 0.3) if rng.integers(2) else 0.0)
    return [x + 1j * y for x, y in pairs], {"w": np.asarray(w)}


def _separable(rng: np.random.Generator) -> Any:
    shape = SHAPES[rng.integers(len(SHAPES))]
    return _like(rng, [shape] * 2), _numbers(rng, m=1.0, k=1.2, phase=0.0)


def _numbers(rng: np.random.Generator, **about: float) -> dict[str, Any]:
    return {name: np.asarray(x + 0.3 * rng.uniform(-1, 1)) for name, x in about.items()}


FIELDS = {
    "linear": Field(linear, lambda r: (_like(r, _shapes(r)), _numbers(r, k=0.8, c=0.5))),
    "product": Field(product, _product),
    "lotka_volterra": Field(lotka_volterra, _lotka_volterra),
    "forced": Field(
        forced, lambda r: (_like(r, _shapes(r)), _numbers(r, k=0.7, a=1.0, phase=0.0)), True
    ),
    "varying": Field(
        varying,
        lambda r: (_like(r, _shapes(r)), {**_numbers(r, start=0.0), "r": r.uniform(-1, 1, 3)}),
        True,
    ),
    "network": Field(network, _network),
    "rotation": Field(rotation, _rotation),
    "separable": Field(separable, _separable, True),
    "ring": Field(ring, lambda r: (_like(r, [(r.integers(3, 7),)]), _numbers(r, c=0.7, force=1.0))),
    "pieces": Field(pieces, lambda r: (_like(r, [(3,), (2,)]), _numbers(r, s=1.5, r=2.0))),
    "logistic": Field(logistic, lambda r: (_like(r, _shapes(r), 0.5), _numbers(r, r=1.0, cap=2.0))),
}


# --- trees
class Pair(NamedTuple):
    """A tree of two."""

    a: Any
    b: Any


FORMS: dict[int, dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]]] = {
    1: {
        "array": (lambda a: a, lambda y: [y]),
        "tuple": (lambda a: (a,), list),
        "dict": (lambda a: {"y": a}, lambda y: [y["y"]]),
        "nested": (lambda a: [{"y": (a,)}], lambda y: [y[0]["y"][0]]),
    },
    2: {
        "tuple": (lambda a, b: (a, b), list),
        "list": (lambda a, b: [a, b], list),
        "dict": (lambda a, b: {"z": a, "a": b}, lambda y: [y["z"], y["a"]]),
        "nested": (lambda a, b: ((a,), {"b": b}), lambda y: [y[0][0], y[1]["b"]]),
        "namedtuple": (Pair, list),
    },
    3: {
        "tuple": (lambda a, b, c: (a, b, c), list),
        "nested": (
            lambda a, b, c: {"q": [a, (b,)], "p": Pair(c, None)},
            lambda y: [y["q"][0], y["q"][1][0], y["p"].a],
        ),
    },
}


# --- what is drawn
@dataclasses.dataclass
class Problem:
    """Everything that a solve is called with, in NumPy; what is printed of it is ``words``."""

    seed: int
    number: int
    libraries: tuple[str, ...]
    library: str
    route: str
    field: str
    form: str
    dtype: str
    solver: str
    control: str
    keywords: dict[str, Any]
    outputs: str
    fn: str
    adjoint: str
    memory: str
    other: str
    closed: str
    t0: float
    t1: float
    leaves: list[Any]
    params: dict[str, Any]
    ts: Any

    @property
    def words(self) -> str:
        """One line."""
        shapes = " ".join(str(x.shape) for x in self.leaves)
        names = ("library", "route", "field", "form", "dtype", "solver", "control", "outputs", "fn")
        parts = [getattr(self, name) for name in names]
        parts += [self.adjoint, f"memory {self.memory}", f"and {self.other}"]
        parts += [f"closes over {self.closed}"] if self.closed else []
        steps = ", ".join(f"{k}={v!r}" for k, v in self.keywords.items())
        return f"{' | '.join(parts)} | {self.t0:g} to {self.t1:g} | {shapes} | {steps}"

    @property
    def command(self) -> str:
        """What runs this problem again."""
        drawn = f"--seed {self.seed} --library {','.join(self.libraries)} --only {self.number}"
        return f"python tests/random_problems.py {drawn}"

    @property
    def traced(self) -> bool:
        """Whether a program is compiled."""
        return self.library.startswith("jax")


def draw(seed: int, number: int, libraries: tuple[str, ...]) -> Problem:
    """Problem ``number`` of a seed: the same whatever was drawn before it."""
    rng = np.random.default_rng([seed, number])

    def one(options: Any) -> Any:
        return options[rng.integers(len(options))]

    library = one([name for name in libraries for _ in range(SHARES[name])])
    traced = library.startswith("jax")
    name = one(list(FIELDS))
    leaves, params = FIELDS[name].make(rng)
    form = one(list(FORMS[len(leaves)]))
    control = one(["constant", "constant", "given", "adaptive", "adaptive"])
    solver = _solver(rng, one, name, control, traced)
    dtype = "complex128" if name == "rotation" else one(["float64"] * 5 + ["float32"])
    if dtype == "float32" and control == "adaptive" and traced:
        dtype = "float64"  # its steps are read from NumPy's solve, whose rounding is another
    sign = one([1.0, 1.0, -1.0])
    t0 = one([0.0, 0.0, -1.5, 0.7, 10.0, 1e3] + ([2.46e6] if dtype != "float32" else []))
    t0, span = float(t0), float(np.round(rng.uniform(0.3, 2.0), 2))
    for when in ("phase", "start"):
        if when in params:
            params[when] = params[when] + t0
    t1 = t0 + sign * span
    if name == "separable" and solver in (*SEPARABLE, "leapfrog"):
        form = "tuple"
    keywords = _keywords(rng, one, control, (t0, t1), solver, dtype)
    if traced:
        keywords["max_steps"] = 128
    outputs = one(["t1", "t1", "t0 t1", "ts", "ts", "t0 ts t1", "steps", "t0 steps"])
    if "steps" in outputs and traced:
        outputs = "t0 t1"
    ts = _saved(rng, one, t0, t1) if "ts" in outputs else None
    adjoint, memory, other = _adjoints(rng, one, control, solver, library)
    route = one(["own", "own", "solve_vjp"]) if traced or library == "torch" else "solve_vjp"
    closed = one(sorted(params)) if route == "own" and rng.random() < 0.3 else ""
    fn = one(["", "", "", "sums", "tree"])
    return Problem(
        seed, number, libraries, library, route, name, form, dtype, solver, control, keywords,
        outputs, fn, adjoint, memory, other, closed, t0, t1, leaves, params, ts,
    )  # fmt: skip


def _solver(rng: Any, one: Any, field: str, control: str, traced: bool) -> str:
    """A name, or ``Reversible(name)``."""
    steps = ("heun", "midpoint", "ralston", "bosh3", "dopri5", "tsit5", "tsit5", "dopri8")
    fixed = ("euler", "rk4", "rk4")
    wrapped = [f"Reversible({x})" for x in ("tsit5", "bosh3", "heun")]
    found = [*steps, "reversible_heun", wrapped[rng.integers(3)]]
    if control != "adaptive":
        found += [*fixed, "alf", "Reversible(rk4)"]
        found += [*SEPARABLE, *SEPARABLE, "leapfrog"] if field == "separable" else []
    if traced:  # programs that compile in less than a second
        found = [x for x in found if x not in ("dopri8", "Reversible(tsit5)", "dopri5")]
    return one(found)


def _keywords(rng: Any, one: Any, control: str, span: Any, solver: str, dtype: str) -> Any:
    """How steps are found."""
    t0, t1 = span
    if control == "constant":
        n = int(one([1, 2, 3, 7, 16, 40]))
        even = rng.random() < 0.4 and dtype != "float32"  # whose t1 is not quite n steps away
        share = n if even else n - rng.uniform(0.05, 0.95)
        return {"dt": float((t1 - t0) / share)}
    if control == "given":
        n = int(one([1, 2, 5, 12, 30]))
        inner = np.sort(rng.uniform(0.02, 0.98, n - 1)) * (t1 - t0) + t0
        return {"controller": rg.StepTo([t0, *np.unique(inner)[:: 1 if t1 > t0 else -1], t1])}
    low = {"dopri8": 9, "tsit5": 7, "dopri5": 7, "bosh3": 5}.get(_base(solver), 3)
    low = min(low, 4) if dtype == "float32" else low
    rtol = float(10.0 ** -rng.integers(2, low + 1))
    more: dict[str, Any] = {}
    if rng.random() < 0.3:
        more["dt0"] = float((t1 - t0) * rng.uniform(0.01, 0.5))
    if rng.random() < 0.2:
        more["dtmax"] = float(abs(t1 - t0) * rng.uniform(0.1, 0.5))
    if more:
        return {"controller": rg.PIDController(rtol=rtol, atol=rtol / 10, **more)}
    return {"rtol": rtol, "atol": rtol / 10}


def _saved(rng: Any, one: Any, t0: float, t1: float) -> Any:
    """Times inside, and sometimes both ends; some twice."""
    k = int(one([1, 3, 8]))
    parts = (np.arange(k) + rng.uniform(0.1, 0.9, k)) / k
    if rng.random() < 0.15:
        parts = np.repeat(parts, 2)
    if rng.random() < 0.3:
        parts = np.concatenate([[0.0], parts])
    if rng.random() < 0.3:
        parts = np.concatenate([parts, [1.0]])
    return np.where(parts == 1.0, t1, t0 + parts * (t1 - t0))


def _base(solver: str) -> str:
    return solver.removeprefix("Reversible(").removesuffix(")")


def _adjoints(rng: Any, one: Any, control: str, solver: str, library: str) -> tuple[str, str, str]:
    """What to ask for, in what budget, and what to hold it to."""
    inverse = not _tableau(solver)
    c = int(rng.integers(1, 7))
    names = [f"rg.RecursiveCheckpointAdjoint({c})", "rg.RecursiveCheckpointAdjoint()"]
    names += [f"rg.BacksolveAdjoint({c})", f"rg.ReversibleAdjoint({c})"] * 2 if inverse else []
    names += [f"rg.BacksolveAdjoint({c})", "'backsolve'"] if not inverse else []
    names += ["'recursive_checkpoint'", f"rg.RecursiveCheckpointAdjoint({c}, one_tape=True)"]
    if library == "torch" or library.startswith("jax"):
        names += ["'direct'"]
    if library.startswith("jax"):
        names += ["'tape'"] if not inverse else []
        names += [f"rg.RecursiveCheckpointAdjoint({c}, record=False)"] * (control == "adaptive")
    adjoint = "'auto'" if rng.random() < 0.6 else one(names)
    memory = one(["none", "ample", "tight", "tight", "tiny"]) if adjoint == "'auto'" else "none"
    others = ["rg.RecursiveCheckpointAdjoint()", "rg.RecursiveCheckpointAdjoint(2)"]
    others += ["'direct'"] if library == "torch" else []
    return adjoint, memory, one(others)


def _tableau(solver: str) -> Any:
    """Its numbers, of a Runge-Kutta method."""
    cls = {name.lower(): name for name in rg.__all__}.get(solver)
    return getattr(getattr(rg, cls), "tableau", None) if cls else None


def solver_of(solver: str) -> Any:
    """What ``solve`` takes."""
    if not solver.startswith("Reversible("):
        return solver
    base = {name.lower(): name for name in rg.__all__}[_base(solver)]
    return rg.Reversible(getattr(rg, base)())


# --- the reference: a plain loop in extended precision
class Inputs(NamedTuple):
    """What is differentiated; tangents and gradients have the same form."""

    y0: list[Any]
    params: dict[str, Any]
    t0: Any
    t1: Any
    ts: Any


def lifted(problem: Problem) -> Inputs:
    """Inputs rounded to the problem's precision, then in extended precision."""

    def lift(x: Any) -> Any:
        x = np.asarray(x, _dtype(problem, x))
        return x.astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)

    ts = None if problem.ts is None else np.asarray(problem.ts, np.longdouble)
    params = {name: lift(x) for name, x in problem.params.items()}
    times = np.longdouble(problem.t0), np.longdouble(problem.t1)
    return Inputs([lift(x) for x in problem.leaves], params, *times, ts)


def _dtype(problem: Problem, x: Any) -> str:
    """Of y0's leaves and of parameters, which are real where their values are."""
    if problem.dtype != "complex128":
        return problem.dtype
    return "complex128" if np.iscomplexobj(x) else "float64"


def field_of(
    problem: Problem, namespace: Callable[[Any], Any], closed: Any = None
) -> Callable[..., Any]:
    """``f(t, y, args)``; ``closed`` is the parameter that it closes over."""
    call = FIELDS[problem.field].call
    make, parts = FORMS[len(problem.leaves)][problem.form]

    def f(t: Any, y: Any, args: Any) -> Any:
        p = args["p"] if closed is None else {**args["p"], problem.closed: closed}
        ls = parts(y)
        return make(*call(namespace(ls[0]), t, ls, p))

    return f


def output_of(
    problem: Problem, namespace: Callable[[Any], Any], closed: Any = None
) -> Callable[..., Any] | None:
    """``SaveAt.fn``, which closes over the same."""
    _, parts = FORMS[len(problem.leaves)][problem.form]

    def sums(t: Any, y: Any, args: Any) -> Any:
        ls = parts(y)
        return sum(namespace(x).sum(x * x) for x in ls)

    def tree(t: Any, y: Any, args: Any) -> Any:
        ls = parts(y)
        p = args["p"] if closed is None else {**args["p"], problem.closed: closed}
        factor = sum((namespace(ls[0]).sum(p[name]) for name in problem.params), start=1.0)
        return {"b": ls[0] * factor + 0.1 * (t - problem.t0), "a": (ls[-1],)}

    return {"": None, "sums": sums, "tree": tree}[problem.fn]


def row_leaves(problem: Problem, ys: Any) -> list[Any]:
    """Leaves of ``sol.ys`` or of one row."""
    if problem.fn == "sums":
        return [ys]
    if problem.fn == "tree":
        return [ys["b"], *ys["a"]]
    return FORMS[len(problem.leaves)][problem.form][1](ys)


@dataclasses.dataclass
class Reference:
    """Rows of a problem over ``steps``, accepted times from the start [relative to t0]."""

    problem: Problem
    steps: Any

    def offsets(self, x: Inputs) -> Any:
        """Times of the steps from the problem's own t0, for these inputs."""
        start, end = x.t0 - np.longdouble(self.problem.t0), x.t1 - np.longdouble(self.problem.t0)
        moved = self.steps + (0.0 if self.problem.control == "given" else start)
        return np.concatenate([[start], moved[1:-1], [end]])

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
        found = _march(method, pack(x.y0), offsets, (saved, where), problem.outputs)
        return [np.stack(leaf) for leaf in zip(*(emit(t, y) for t, y in found), strict=True)]

    def _saved(self, x: Inputs) -> tuple[Any, Any]:
        """Saved times [relative], and the step that each one lies in, whatever is perturbed."""
        if x.ts is None:
            return (), ()
        start, sign = np.longdouble(self.problem.t0), np.sign(self.steps[-1])
        base = np.asarray(self.problem.ts, np.longdouble) - start
        where = np.searchsorted(sign * self.steps[1:-1], sign * base)
        return x.ts - start, where


def _march(
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
        new, r, within = self._run(self.lists.step, t, h, carry)

        def at(theta: Any) -> Any:
            dense = self.lists.dense
            parts = [sum((a + b * theta) * r[x] for x, a, b in terms) for terms in dense]
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
    tableau = _tableau(solver)
    if tableau is not None:
        return RungeKutta(tableau, slope)
    return Programmed(find_solver(solver_of(solver)), slope)


def save_at(problem: Problem, ts: Any, fn: Any) -> rg.SaveAt:
    """What is asked for."""
    words = problem.outputs.split()
    return rg.SaveAt(t0="t0" in words, t1="t1" in words, ts=ts, steps="steps" in words, fn=fn)


def tangents(problem: Problem, rng: np.random.Generator) -> Inputs:
    """A random direction; saved times at an end move with it."""

    def like(x: Any) -> Any:
        real = rng.normal(size=np.shape(x))
        return real + 1j * rng.normal(size=np.shape(x)) if np.iscomplexobj(x) else real

    t0, t1 = rng.normal(size=2)
    ts = None
    if problem.ts is not None:
        free = rng.normal(size=len(problem.ts))
        ts = np.where(problem.ts == problem.t0, t0, np.where(problem.ts == problem.t1, t1, free))
    params = {name: like(x) for name, x in problem.params.items()}
    return Inputs([like(x) for x in problem.leaves], params, t0, t1, ts)


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


# --- the library's side
class Answer(NamedTuple):
    """Rows and gradients as NumPy arrays."""

    ys: list[Any]
    g: Inputs
    sol: Any


class Solve:
    """A problem on its library."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.h = FIND(problem.library)
        if isinstance(self.h, str):
            raise LookupError(self.h)
        self.real = "float32" if problem.dtype == "float32" else "float64"
        y0 = [self.array(x) for x in problem.leaves]
        params = {name: self.array(x) for name, x in problem.params.items()}
        ts = None if problem.ts is None else self.h.array(problem.ts, self.real)
        own = problem.route == "own"
        times = [self.h.array(t, self.real) if own else t for t in (problem.t0, problem.t1)]
        self.inputs = Inputs(y0, params, *times, ts if own else problem.ts)

    def array(self, x: Any) -> Any:
        return self.h.array(x, _dtype(self.problem, x))

    def call(self, x: Inputs, adjoint: str, memory: Any, **more: Any) -> tuple[Any, Any]:
        """Arguments and keywords of ``solve``."""
        problem = self.problem
        closed = x.params[problem.closed] if problem.closed else None
        f = field_of(problem, self.h.namespace, closed)
        y0 = FORMS[len(problem.leaves)][problem.form][0](*x.y0)
        args = {
            "p": {k: v for k, v in x.params.items() if k != problem.closed},
            "spare": [None, 3, "text"],
            "count": self.h.array([1, 2], "int64"),
            "unread": self.array(np.ones(2)),
        }
        saveat = save_at(problem, x.ts, output_of(problem, self.h.namespace, closed))
        keywords = {"solver": solver_of(problem.solver), "saveat": saveat, **problem.keywords}
        keywords |= {"adjoint": eval(adjoint), "memory": memory, **more}
        return (f, y0, x.t0, x.t1, args), keywords

    def budget(self) -> Any:
        """Bytes to give, from what the candidates of the plan take."""
        kind = self.problem.memory
        if kind in ("none", "ample"):
            return {"none": None, "ample": "1 GiB"}[kind]
        args, keywords = self.call(self.followed(), "'auto'", "1 GiB")
        plan = rg.plan(*args, **keywords)
        known = [c for c in plan.candidates if not c.verdict.startswith("not available")]
        sizes = [c.bytes for c in known if c.accuracy in ("exact", "guarded")] or [plan.memory]
        low, high = min(sizes), max(sizes)
        share = np.random.default_rng([self.problem.seed, self.problem.number, 2]).random()
        return int(low + share * (high - low)) if kind == "tight" else low + 64

    def followed(self) -> Inputs:
        """Inputs that a gradient is asked for by."""
        if self.problem.route == "own" and self.problem.library == "torch":
            return self.h.bk.unflatten(
                self.h.bk.flatten(self.inputs)[1],
                [x.detach().clone().requires_grad_() for x in self.h.bk.flatten(self.inputs)[0]],
            )
        return self.inputs

    def gradient(self, adjoint: str, memory: Any, weights: list[Any]) -> Answer:
        """Rows, and the gradient of Re <weights, rows>."""
        if self.problem.route == "solve_vjp":
            return self._pulled(adjoint, memory, weights)
        if self.problem.library == "torch":
            return self._backward(adjoint, memory, weights)
        return self._jax(adjoint, memory, weights)

    def _pulled(self, adjoint: str, memory: Any, weights: list[Any]) -> Answer:
        h = self.h
        args, keywords = self.call(self.inputs, adjoint, memory)
        sol, pullback = rg.solve_vjp(*args, **keywords)
        _, treedef = h.bk.flatten(sol.ys)
        cotangent = h.bk.unflatten(treedef, self._ordered(sol.ys, weights))
        g = pullback(h.map(h._flip, cotangent))
        flipped = [h.map(h._flip, tree) for tree in (g.y0, g.args)]
        y0 = FORMS[len(self.problem.leaves)][self.problem.form][1](flipped[0])
        assert type(flipped[0]) is type(args[1]), "the gradient by y0 has another tree"
        _alike(h, h.bk.flatten(args[4]["p"])[0], h.bk.flatten(flipped[1]["p"])[0])
        _alike(h, self.inputs.y0, y0)
        params = flipped[1]["p"]
        assert not np.any(h.one_to_numpy(flipped[1]["unread"])), "a gradient by what is not read"
        found = Inputs(y0, params, g.t0, g.t1, g.ts)
        return Answer(self._rows(sol), self._numpy(found), sol)

    def _backward(self, adjoint: str, memory: Any, weights: list[Any]) -> Answer:
        x = self.followed()
        args, keywords = self.call(x, adjoint, memory)
        sol = rg.solve(*args, **keywords)
        assert type(sol.ys) is type(args[1]) or keywords["saveat"].fn, "ys has another tree"
        rows, xp = row_leaves(self.problem, sol.ys), self.h.xp
        pairs = [(self._weight(w, r), r) for w, r in zip(weights, rows, strict=True)]
        sum(xp.sum(xp.real(xp.conj(w) * r)) for w, r in pairs).backward()
        leaves, treedef = self.h.bk.flatten(x)
        # None is autograd's word for a zero: differences tell whether it is one
        grads = [xp.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        _alike(self.h, leaves, grads)
        found = self.h.bk.unflatten(treedef, grads)
        return Answer(self._rows(sol), self._numpy(found), sol)

    def _jax(self, adjoint: str, memory: Any, weights: list[Any]) -> Answer:
        import jax

        def loss(x: Inputs) -> Any:
            args, keywords = self.call(x, adjoint, memory)
            rows = row_leaves(self.problem, (sol := rg.solve(*args, **keywords)).ys)
            pairs = [(self._weight(w, r), r) for w, r in zip(weights, rows, strict=True)]
            value = sum(self.h.xp.sum(self.h.xp.real(self.h.xp.conj(w) * r)) for w, r in pairs)
            return value, (rows, sol.ts)

        pull = self.h.compiled(jax.value_and_grad(loss, has_aux=True))
        (_, (rows, ts)), g = pull(self.inputs)
        leaves, treedef = jax.tree.flatten(g)
        _alike(self.h, jax.tree.leaves(self.inputs), leaves)
        found = jax.tree.unflatten(treedef, [self.h._flip(leaf) for leaf in leaves])
        return Answer([np.asarray(r) for r in rows], self._numpy(found), ts)

    def _weight(self, w: Any, row: Any) -> Any:
        return self.h.array(w, str(row.dtype).rpartition(".")[-1])

    def _ordered(self, ys: Any, weights: list[Any]) -> list[Any]:
        """Weights of ``row_leaves`` in the order in which the tree flattens."""
        rows = row_leaves(self.problem, ys)
        by_id = {id(r): self._weight(w, r) for w, r in zip(weights, rows, strict=True)}
        return [by_id[id(leaf)] for leaf in self.h.bk.flatten(ys)[0]]

    def _rows(self, sol: Any) -> list[Any]:
        return [self.h.one_to_numpy(x) for x in row_leaves(self.problem, sol.ys)]

    def _numpy(self, x: Inputs) -> Inputs:
        one = self.h.one_to_numpy
        params = {k: one(v) for k, v in x.params.items()}
        ts = None if x.ts is None else one(x.ts)
        return Inputs([one(v) for v in x.y0], params, one(x.t0), one(x.t1), ts)


def _alike(h: Any, inputs: Any, gradients: Any) -> None:
    """Gradients are like their inputs."""
    for x, g in zip(inputs, gradients, strict=True):
        assert h.bk.is_array(g), f"a gradient is {g!r}"
        assert tuple(x.shape) == tuple(g.shape), "a gradient has another shape than its input"
        assert x.dtype == g.dtype, "a gradient has another dtype than its input"


def accepted(problem: Problem) -> Any:
    """Ends of the accepted steps, of the solve itself [relative to t0]; n + 1 of them."""
    if problem.control == "given":
        times = problem.keywords["controller"].ts
        return np.asarray(times, np.longdouble) - np.longdouble(problem.t0)
    if problem.control == "constant":
        dt, span = problem.keywords["dt"], problem.t1 - problem.t0
        n = max(int(np.ceil(span / dt - 1e-9)), 1)
        return np.asarray([*(i * np.longdouble(dt) for i in range(n)), np.longdouble(span)])
    numpy = dataclasses.replace(problem, library="numpy", route="solve_vjp", closed="")
    side = Solve(numpy if problem.traced else dataclasses.replace(problem, route="solve_vjp"))
    args, keywords = side.call(side.inputs, "'auto'", None)
    keywords |= {"saveat": rg.SaveAt(t0=True, steps=True)}
    ts = np.asarray(side.h.one_to_numpy(rg.solve(*args, **keywords).ts), np.longdouble)
    return ts - np.longdouble(problem.t0)


# --- the verdict
class Verdict(NamedTuple):
    """What became of a problem, and the CPU time that it took [s]."""

    kind: str
    why: str
    seconds: float


class Wrong(Exception):
    """A number is not what it must be."""


def judge(problem: Problem) -> Verdict:
    """Solve it, differentiate it, hold it to the reference and to another adjoint."""
    start = time.process_time()
    kind, why = "ok", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
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
    side = Solve(problem)
    reference = Reference(problem, accepted(problem))
    rng = np.random.default_rng([problem.seed, problem.number, 1])
    x, v = lifted(problem), tangents(problem, rng)
    rows = reference.rows(x)
    weights = [
        rng.normal(size=r.shape) + (1j * rng.normal(size=r.shape) if np.iscomplexobj(r) else 0.0)
        for r in rows
    ]
    answer = side.gradient(problem.adjoint, side.budget(), weights)
    bounds = Bounds(problem, reference.steps)
    for i, (got, right) in enumerate(zip(answer.ys, rows, strict=True)):
        if got.shape != right.shape:
            raise Wrong(f"ys {i}: shape {got.shape} for {right.shape}")
        close(f"ys {i}", got, right, bounds.value)
    slope = difference(lambda s: dot(weights, reference.rows(moved(x, v, s))))
    parts = products(answer.g, v)
    size = sum(map(abs, parts.values())) + 1e-3
    if not abs(sum(parts.values()) - slope) <= bounds.slope * size:
        raise Wrong(
            f"the gradient along a tangent is {sum(parts.values()):.12g} "
            f"({', '.join(f'{k} {p:.6g}' for k, p in parts.items())}), differences say {slope:.12g}"
        )
    _agree(problem, answer, weights, bounds)


def difference(along: Callable[[Any], Any]) -> float:
    """The central difference of order 4 at 0."""
    step = np.longdouble(1e-4)
    ends = [along(s * step) - along(-s * step) for s in (1, 2)]
    return float((8 * ends[0] - ends[1]) / (12 * step))


def _agree(problem: Problem, answer: Answer, weights: list[Any], bounds: Bounds) -> None:
    """Another adjoint gives the same gradient; in JAX it is NumPy's, which compiles nothing."""
    there = problem
    if problem.traced:
        there = dataclasses.replace(problem, library="numpy", route="solve_vjp", closed="")
    again = Solve(there).gradient(there.other, None, weights)
    tolerance = bounds.adjoints(answer)
    for got, right, name in _paired(answer.g, again.g):
        size = max(float(np.max(np.abs(x), initial=0.0)) for x, _, _ in _paired(again.g, again.g))
        close(f"gradient by {name} beside {problem.other}", got, right, tolerance, 0.03 * size)


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
        shortest = float(np.min(np.abs(np.diff(steps))))
        of_time = eps * (abs(problem.t0) + abs(problem.t1)) / shortest
        self.problem, self.single, self.of_time = problem, single, of_time
        self.value = 1e3 * eps + 4 * of_time
        self.slope = (1e-4 if single else 1e-9) + 100 * of_time
        self.guarded = "Backsolve" in problem.adjoint or "Reversible" in problem.adjoint
        self.guarded |= problem.adjoint in ("'backsolve'", "'reversible'")
        self.guarded |= problem.memory in ("tight", "tiny")
        if self.guarded:
            self.slope = max(self.slope, 1e-5 if not single else 3e-3)

    def adjoints(self, answer: Answer) -> float:
        """Of two adjoints."""
        if self.guarded:
            return 3e-3 if self.single else 1e-5
        if self.single:
            return 5e-4 + self.of_time
        own_steps = not (self.problem.traced and self.problem.control == "adaptive")
        return (1e-10 if own_steps else 1e-7) + self.of_time


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
