"""The promises of the planner over the whole range of budgets, measured.

Budgets run from 1/64 to 64 times what storing every state takes, for four kinds of state, constant
and adaptive steps, on every library that keeps an account of its memory. Held to: measured peak
<= budget; predicted bytes as measured; most of the budget used where anything is recomputed;
work (calls of f, not seconds) that never rises with the budget and never jumps.

The table that these tests judge is printed by ``python tests/planner/test_budget_sweep.py
[library ...]``, with ``--fast`` for the part that every run of the suite looks at.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import sys
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg
from retrograde._measure import peak_gradient_bytes
from retrograde._registry import adapter

EXPONENTS = range(-6, 7)
ARRAYS_ONLY = 64 * 1024
"""Budgets up to this count the bytes of the arrays kept (adjoints.md 11)."""


# --- the solves


class Case(NamedTuple):
    """One vector field with its state; ``xp`` is the library's namespace."""

    field: Any
    y0: Any
    rate: Any
    t1: float


def oscillator(xp: Any, real: Any) -> Case:
    """Two unknowns."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        return xp.stack([y[1], -rate * y[0]])

    return Case(field, real([1.0, 0.5]), real(1.3), 20.0)


def large(xp: Any, real: Any) -> Case:
    """A hundred thousand unknowns."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        return xp.cos(3.0 * t) - rate * y * y

    return Case(field, real(np.linspace(0.1, 1.0, 100_000)), real(0.5), 8.0)


def tree(xp: Any, real: Any) -> Case:
    """Oscillators in a tree of two matrices."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        return {"x": y["v"], "v": -rate * xp.sin(y["x"])}

    x = np.linspace(0.1, 2.0, 1200).reshape(40, 30)
    return Case(field, {"x": real(x), "v": real(0 * x)}, real(1.3), 10.0)


def batch(xp: Any, real: Any) -> Case:
    """Lotka-Volterra from 256 starts, a batch axis in y."""

    def field(t: Any, y: Any, rate: Any) -> Any:
        hare, lynx = y[:, 0], y[:, 1]
        return xp.stack([hare * (rate - lynx), lynx * (hare - 1.0)], 1)

    starts = np.stack([np.linspace(0.5, 1.5, 256), np.linspace(1.5, 0.5, 256)], 1)
    return Case(field, real(starts), real(0.9), 10.0)


CASES = {make.__name__: make for make in (oscillator, large, tree, batch)}
STEPS = {"oscillator": 300, "large": 40, "tree": 100, "batch": 120}


def keywords_of(case: str, control: str, t1: float) -> dict[str, Any]:
    if control == "constant":
        return {"solver": "rk4", "dt": t1 / STEPS[case]}
    return {"rtol": 1e-5, "atol": 1e-7}


# --- what is measured


class Row(NamedTuple):
    """One gradient within one budget."""

    budget: int
    predicted: int
    measured: int
    work: float
    exact: bool
    adjoint: Any

    @property
    def recomputes(self) -> bool:
        return getattr(self.adjoint, "checkpoints", None) is not None and self.work > 2.1


class Subject:
    """A solve on one library, ready to be differentiated within any budget."""

    def __init__(self, library: str, case: str, control: str, **more: Any) -> None:
        self.bk: Any = adapter(library)
        self.library, self.case, self.control = library, case, control
        xp: Any = self.bk.xp
        if library == "jax":
            importlib.import_module("jax").config.update("jax_enable_x64", True)

        def real(x: Any) -> Any:
            return xp.asarray(x, dtype=xp.float64)

        self.problem = CASES[case](xp, real)
        self.keywords = {**keywords_of(case, control, self.problem.t1), **more}
        self.calls = 0

    @property
    def field(self) -> Any:
        """A new function each time, so that no compiled program is met again."""

        def field(t: Any, y: Any, rate: Any) -> Any:
            self.calls += 1
            return self.problem.field(t, y, rate)

        return field

    def plan(self, budget: int, **more: Any) -> Any:
        p = self.problem
        return rg.plan(p.field, p.y0, 0.0, p.t1, p.rate, memory=budget, **self.keywords, **more)

    def needed(self) -> int:
        """Bytes that storing every state takes."""
        plan = self.plan(2**50)
        if isinstance(plan.adjoint, rg.DirectAdjoint):
            plan = self.plan(2**50, adjoint=rg.RecursiveCheckpointAdjoint())
        return int(plan.memory)

    def forward(self, y0: Any, rate: Any) -> Any:
        return rg.solve(self.field, y0, 0.0, self.problem.t1, rate, **self.keywords).ys

    def gradient(self, budget: int) -> Any:
        """The gradient of the sum of y(t1) as a user of the library asks for it."""
        return getattr(self, f"_{self.library}")(budget)

    def _solve(self, budget: int, y0: Any, rate: Any) -> Any:
        keywords = {**self.keywords, "memory": budget}
        return rg.solve(self.field, y0, 0.0, self.problem.t1, rate, **keywords)

    def _numpy(self, budget: int) -> Any:
        def run(y0: Any, rate: Any) -> Any:
            keywords = {**self.keywords, "memory": budget}
            sol, pull = rg.solve_vjp(self.field, y0, 0.0, self.problem.t1, rate, **keywords)
            leaves, treedef = self.bk.flatten(sol.ys)
            return pull(self.bk.unflatten(treedef, [np.ones_like(x) for x in leaves]))

        return run

    def _torch(self, budget: int) -> Any:
        def run(y0: Any, rate: Any) -> None:
            leaves, treedef = self.bk.flatten((y0, rate))
            leaves = [x.detach().requires_grad_() for x in leaves]
            ys = self._solve(budget, *self.bk.unflatten(treedef, leaves)).ys
            grads = self.bk.xp.autograd.grad(sum(x.sum() for x in self.bk.flatten(ys)[0]), leaves)
            del ys, grads

        return run

    def _jax(self, budget: int) -> Any:
        jax = importlib.import_module("jax")

        def loss(y0: Any, rate: Any) -> Any:
            return sum(x.sum() for x in jax.tree_util.tree_leaves(self._solve(budget, y0, rate).ys))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))

    def work(self, fn: Any) -> int:
        """Calls of f by one gradient or solve, those inside vjps included."""
        p, plain = self.problem, self.problem.field
        if self.library != "jax":
            self.calls = 0
            fn(p.y0, p.rate)
            return self.calls
        jax = importlib.import_module("jax")
        count = [0]

        def tick() -> None:
            count[0] += 1

        def counted(t: Any, y: Any, rate: Any) -> Any:
            jax.debug.callback(tick)
            return plain(t, y, rate)

        self.problem = p._replace(field=counted)
        try:
            jax.block_until_ready(fn(p.y0, p.rate))
            jax.effects_barrier()
        finally:
            self.problem = p
        return count[0]

    def row(self, budget: int) -> Row | None:
        """None where nothing fits."""
        p = self.problem
        try:
            plan = self.plan(budget)
        except rg.PlanInfeasible as error:
            assert "the smallest plan needs" in str(error)
            return None
        measured = self.measured(budget)
        forward = self._forward_calls()
        work = self.work(self.gradient(budget)) / forward
        del p
        return Row(budget, plan.memory, measured, work, plan.known, plan.adjoint)

    def _forward_calls(self) -> int:
        if not hasattr(self, "_calls"):
            fn = self.forward
            if self.library == "jax":
                jax = importlib.import_module("jax")
                fn = jax.jit(lambda *a: self.forward(*a))
            self._calls = self.work(fn)
        return self._calls

    def measured(self, budget: int) -> int:
        p = self.problem
        gc.collect()
        if self.library == "numpy" and budget <= ARRAYS_ONLY:
            return array_peak(self, self.gradient(budget)) - array_peak(self, self.forward)
        size = peak_gradient_bytes(self.bk, self.forward, self.gradient(budget), p.y0, p.rate)
        return int(size.bytes)


def array_peak(subject: Subject, fn: Any) -> int:
    """Highest bytes of NumPy's arrays, looked at in calls of f."""
    import tracemalloc

    domain = np.lib.tracemalloc_domain
    p, plain = subject.problem, subject.problem.field
    count, best = [0], [0]

    def arrays() -> int:
        sizes = [x.size for x in tracemalloc.take_snapshot().traces if x.domain == domain]
        return sum(sizes)

    def watched(t: Any, y: Any, rate: Any) -> Any:
        count[0] += 1
        if count[0] % 97 == 0 and tracemalloc.is_tracing():
            best[0] = max(best[0], arrays() - before)
        return plain(t, y, rate)

    subject.problem = p._replace(field=watched)
    fn(p.y0, p.rate)
    tracemalloc.start()
    try:
        before = arrays()
        fn(p.y0, p.rate)
    finally:
        tracemalloc.stop()
        subject.problem = p
    return best[0]


def sweep(library: str, case: str, control: str, exponents: Any = EXPONENTS) -> list[Row]:
    subject = Subject(library, case, control)
    needed = subject.needed()
    rows = [subject.row(int(needed * 2.0**k)) for k in exponents]
    return [row for row in rows if row is not None]


def print_table(libraries: Any, cases: Any = CASES, exponents: Any = EXPONENTS) -> None:
    for library, case, control in itertools.product(libraries, cases, ("constant", "adaptive")):
        print(f"{library} {case} {control}")
        for row in sweep(library, case, control, exponents):
            flags = ""
            flags += " OVER" if row.measured > row.budget else ""
            used = row.measured / row.budget
            flags += " UNUSED" if row.recomputes and used < 0.7 else ""
            off = row.measured / row.predicted
            flags += " OFF" if row.budget > ARRAYS_ONLY and not 0.87 <= off <= 1.15 else ""
            print(
                f"  {row.budget:>12,} predicted {row.predicted:>12,} measured {row.measured:>12,}"
                f"  used {used:5.2f}  m/p {off:5.2f}  work {row.work:6.3f}  {row.adjoint}{flags}",
                flush=True,
            )


if __name__ == "__main__":
    args = sys.argv[1:]
    libraries = [a for a in args if a in ("numpy", "torch", "jax")] or ["numpy", "torch", "jax"]
    ks = [int(a) for a in args if a.lstrip("-").isdigit()]
    print_table(libraries, [a for a in args if a in CASES] or list(CASES), ks or EXPONENTS)
