"""What a random problem is, and how one is drawn: everything in NumPy, from a seed and a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg

from .fields import FIELDS, FORMS

SHARES = {"numpy": 10, "torch": 8, "strict": 1, "jax": 1, "jax:jit": 5}
"""How often a library comes up among those asked for."""

SEPARABLE = ("semi_implicit_euler", "velocity_verlet", "mclachlan4")


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
    wanted: str
    spread: bool
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
        parts += [f"by {self.wanted} alone"] if self.wanted else []
        parts += ["tolerances are arrays"] if self.spread else []
        steps = ", ".join(f"{k}={v!r}" for k, v in self.keywords.items())
        return f"{' | '.join(parts)} | {self.t0:g} to {self.t1:g} | {shapes} | {steps}"

    @property
    def command(self) -> str:
        """What runs this problem again."""
        drawn = f"--seed {self.seed} --library {','.join(self.libraries)} --only {self.number}"
        return f"python tests/random_problems.py {drawn}"

    def only(self, x: Inputs, put: Callable[[Any], Any]) -> Inputs:
        """Inputs with ``put(input)`` for those that no gradient is wanted by."""
        found = x
        if self.wanted not in ("", "y0"):
            found = found._replace(y0=[put(leaf) for leaf in x.y0])
        if self.wanted not in ("", "params"):
            found = found._replace(params={k: put(leaf) for k, leaf in x.params.items()})
        if self.wanted not in ("", "times"):
            ts = None if x.ts is None else put(x.ts)
            found = found._replace(t0=put(x.t0), t1=put(x.t1), ts=ts)
        return found

    @property
    def own_steps(self) -> bool:
        """Whether another adjoint may take other steps: errors near rounding tell it nothing."""
        return self.many_ways and (self.dtype == "float32" or "steps" in self.outputs)

    @property
    def many_ways(self) -> bool:
        """Whether a solve's arithmetic hangs on its adjoint, and so do its adaptive steps."""
        return self.library == "torch" and self.control == "adaptive"

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
    twisted = name in ("linear", "product", "forced") and rng.random() < 0.2
    if twisted:
        leaves = [x + 0.5j * rng.uniform(-1.0, 1.0, x.shape) for x in leaves]
        params = {k: x + 0j if k == "a" and name == "product" else x for k, x in params.items()}
    control = one(["constant", "constant", "given", "adaptive", "adaptive"])
    solver = _solver(rng, one, name, control, traced)
    dtype = "complex128" if name == "rotation" or twisted else one(["float64"] * 5 + ["float32"])
    if dtype == "float32" and control == "adaptive" and traced:
        dtype = "float64"  # its steps are read from NumPy's solve, whose rounding is another
    sign = one([1.0, 1.0, -1.0])
    t0 = one([0.0, 0.0, -1.5, 0.7, 10.0, 1e3] + ([2.46e6] if dtype != "float32" else []))
    t0, span = float(t0), float(np.round(rng.uniform(0.3, 2.0), 2))
    for when in ("phase", "start"):
        if when in params:
            params[when] = params[when] + t0
    t1 = t0 + sign * span
    if dtype == "float32":
        t0, t1 = (float(np.float32(t)) for t in (t0, t1))  # the same as numbers and as arrays
    if name == "separable" and solver in (*SEPARABLE, "leapfrog"):
        form = "tuple"
    keywords = _keywords(rng, one, control, (t0, t1), solver, dtype)
    if traced:
        keywords["max_steps"] = 128
    outputs = one(["t1", "t1", "t0 t1", "ts", "ts", "t0 ts t1", "steps", "t0 steps"])
    if "steps" in outputs and traced:
        outputs = "t0 t1"
    if library == "torch" and control == "adaptive" and (dtype == "float32" or "steps" in outputs):
        outputs = "t0 steps"  # they tell the times
    ts = _saved(rng, one, t0, t1) if "ts" in outputs else None
    ts = ts.astype(np.float32).astype(float) if ts is not None and dtype == "float32" else ts
    adjoint, memory, other = _adjoints(rng, one, control, solver, library)
    route = one(["own", "own", "solve_vjp"]) if traced or library == "torch" else "solve_vjp"
    closed = one(sorted(params)) if route == "own" and rng.random() < 0.3 else ""
    closed = "" if adjoint == "'forward'" else closed  # which says that it takes none
    fn = one(["", "", "", "sums", "tree"])
    wanted = one(["", "", "y0", "params", "times"]) if route == "own" else ""
    spread = control == "adaptive" and "rtol" in keywords and rng.random() < 0.2
    return Problem(
        seed, number, libraries, library, route, name, form, dtype, solver, control, keywords,
        outputs, fn, adjoint, memory, other, closed, wanted, spread, t0, t1, leaves, params, ts,
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
        n = int(one([1, 2, 3, 7, 7, 16, 16, 40, 40, 120]))
        share = n if rng.random() < 0.4 else n - rng.uniform(0.05, 0.95)
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
    inverse = not tableau_of(solver)
    c = int(rng.integers(1, 7))
    names = [f"rg.RecursiveCheckpointAdjoint({c})", "rg.RecursiveCheckpointAdjoint()"]
    inverting = ("BacksolveAdjoint", "ReversibleAdjoint") if inverse else ("BacksolveAdjoint",)
    names += [f"rg.{own}({c})" for own in inverting] * 2
    names += [f"rg.RecursiveCheckpointAdjoint({c}, window={1 + c % 3})"]
    names += [f"rg.{own}({c}, guard={g})" for own in inverting for g in (2, 3)]
    names += ["'plan'"] if not library.startswith("jax") else []
    names += ["'forward'"] if library == "torch" else []
    names += ["'recursive_checkpoint'", f"rg.RecursiveCheckpointAdjoint({c}, one_tape=True)"]
    if library == "torch" or library.startswith("jax"):
        names += ["'direct'"]
    if library.startswith("jax"):
        names += ["'tape'"] if not inverse else []
        names += [f"rg.RecursiveCheckpointAdjoint({c}, record=False)"] * (control == "adaptive")
    adjoint = "'auto'" if rng.random() < 0.6 else one(names)
    memory = "none"
    if adjoint in ("'auto'", "'plan'"):
        memory = one(["none", "ample", "tight", "tight", "tiny"])
    others = ["rg.RecursiveCheckpointAdjoint()", "rg.RecursiveCheckpointAdjoint(2)"]
    others += ["'direct'"] if library == "torch" else []
    return adjoint, memory, one(others)


def tableau_of(solver: str) -> Any:
    """Its numbers, of a Runge-Kutta method."""
    cls = {name.lower(): name for name in rg.__all__}.get(solver)
    return getattr(getattr(rg, cls), "tableau", None) if cls else None


def solver_of(solver: str) -> Any:
    """What ``solve`` takes."""
    if not solver.startswith("Reversible("):
        return solver
    base = {name.lower(): name for name in rg.__all__}[_base(solver)]
    return rg.Reversible(getattr(rg, base)())


class Inputs(NamedTuple):
    """What is differentiated; tangents and gradients have the same form."""

    y0: list[Any]
    params: dict[str, Any]
    t0: Any
    t1: Any
    ts: Any


def dtype_of(problem: Problem, x: Any) -> str:
    """Of y0's leaves and of parameters, which are real where their values are."""
    if problem.dtype != "complex128":
        return problem.dtype
    return "complex128" if np.iscomplexobj(x) else "float64"


def save_at(problem: Problem, ts: Any, fn: Any) -> rg.SaveAt:
    """What is asked for."""
    words = problem.outputs.split()
    return rg.SaveAt(t0="t0" in words, t1="t1" in words, ts=ts, steps="steps" in words, fn=fn)
