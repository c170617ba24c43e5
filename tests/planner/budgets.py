"""Solves that are differentiated within budgets, and the bytes and the work that it takes.

Not tests: what ``test_many_budgets`` judges. Run as a program, ``python tests/planner/budgets.py``,
it prints the table; libraries, cases and exponents make it shorter: ``... numpy tree -3 0``.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import sys
import tracemalloc
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg
from retrograde._backend.registry import adapter
from retrograde.measure import peak_gradient_bytes

LIBRARIES = ("numpy", "torch", "jax")
CONTROLS = ("constant", "adaptive")
EXPONENTS = range(-6, 7)
if __package__:
    from .solves import CASES, keywords_of
else:  # run as a program
    from solves import CASES, keywords_of  # type: ignore[no-redef]

ARRAYS_ONLY = 64 * 1024
"""Budgets up to this count the bytes of the arrays kept (adjoints.md 11)."""


# --- what is measured


class Row(NamedTuple):
    """One gradient within one budget."""

    budget: int
    predicted: int
    measured: int
    work: float
    steps: int
    adjoint: Any

    @property
    def slots(self) -> int:
        """State slots; more than any solve has steps where everything is stored."""
        return getattr(self.adjoint, "checkpoints", None) or 2**30


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
        """The plan of a gradient; under ``jit`` that of the traced solve, which sees no value."""
        p = self.problem
        if self.library == "jax" and not more:
            return self._traced_plan(budget)
        return rg.plan(p.field, p.y0, 0.0, p.t1, p.rate, memory=budget, **self.keywords, **more)

    def _traced_plan(self, budget: int) -> Any:
        jax = importlib.import_module("jax")
        found = []

        def solve(y0: Any, rate: Any) -> Any:
            solution = self._solve(budget, y0, rate)
            found.append(solution.plan)
            return solution.ys

        jax.eval_shape(solve, self.problem.y0, self.problem.rate)
        return found[0]

    def needed(self) -> int:
        """Bytes that storing every state takes."""
        plan = self.plan(2**50)
        if isinstance(plan.adjoint, rg.DirectAdjoint):
            plan = self.plan(2**50, adjoint=rg.RecursiveCheckpointAdjoint())
        return int(plan.memory)

    def state(self) -> int:
        """Bytes of a state."""
        return sum(self.bk.nbytes(x) for x in self.bk.flatten(self.problem.y0)[0])

    def taken(self) -> int:
        """Accepted steps."""
        p = self.problem
        solution = rg.solve(p.field, p.y0, 0.0, p.t1, p.rate, **self.keywords)
        return int(solution.stats["num_accepted_steps"])

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

    def _residuals(self, budget: int) -> int:
        """Bytes of the arrays that a JAX gradient keeps from its forward to its reverse pass."""
        jax = importlib.import_module("jax")
        p = self.problem

        def pullback(y0: Any, rate: Any) -> Any:
            return jax.vjp(lambda *a: self._solve(budget, *a).ys, y0, rate)[1]

        kept = jax.tree_util.tree_leaves(jax.jit(pullback)(p.y0, p.rate))
        inputs = self.state() + 8
        return int(sum(x.nbytes for x in kept)) - inputs

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

    def row(self, budget: int, before: Row | None = None) -> Row | None:
        """None where nothing fits; ``before``: of less, whose plan may be the same."""
        try:
            plan = self.plan(budget)
        except rg.PlanInfeasible:
            return None
        if before is not None and before.budget > ARRAYS_ONLY:
            if (before.predicted, before.adjoint) == (plan.memory, plan.adjoint):
                return before._replace(budget=budget)  # what is run is the same
        measured = self.measured(budget)
        work = self.work(self.gradient(budget)) / self._forward_calls()
        return Row(budget, plan.memory, measured, work, plan.steps, plan.adjoint)

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
        if self.library == "jax" and budget <= ARRAYS_ONLY:
            return self._residuals(budget)
        if self.library == "numpy" and budget <= ARRAYS_ONLY:
            return array_peak(self, self.gradient(budget)) - array_peak(self, self.forward)
        size = peak_gradient_bytes(self.forward, self.gradient(budget), p.y0, p.rate)
        return int(size.bytes)


def array_peak(subject: Subject, fn: Any) -> int:
    """Highest bytes of NumPy's arrays, looked at in calls of f."""
    domain = np.lib.tracemalloc_domain
    p, plain = subject.problem, subject.problem.field
    count, best = [0], [0]

    def arrays() -> int:
        return sum(x.size for x in tracemalloc.take_snapshot().traces if x.domain == domain)

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


def over_budgets(library: str, case: str, control: str, exponents: Any = EXPONENTS) -> OverBudgets:
    """Rows for budgets of 2**k times what storing every state takes."""
    subject = Subject(library, case, control)
    needed = subject.needed()
    rows: list[Row] = []
    for k in exponents:
        row = subject.row(int(needed * 2.0**k), rows[-1] if rows else None)
        rows += [] if row is None else [row]
    return OverBudgets(subject.taken(), subject.state(), rows)


class OverBudgets(NamedTuple):
    """The rows of one solve, the steps that it takes, and the bytes of a state."""

    steps: int
    state: int
    rows: list[Row]


def faults(library: str, found: OverBudgets) -> list[str]:
    """What breaks a promise, in words."""
    out = []
    for row in found.rows:
        kept, name = row.slots < found.steps, f"{row.budget:,} B, {row.adjoint}"
        if row.measured > row.budget:
            out.append(f"{name}: over, {row.measured:,} B")
        # of JAX's small ones only what lies between the passes is measured: the plan has the rest
        residuals = library == "jax" and row.budget <= ARRAYS_ONLY
        spare = row.budget - (row.predicted if residuals else row.measured)
        headers = library != "torch" and row.budget <= ARRAYS_ONLY and found.state < 1024
        if kept and spare > max(0.3 * row.budget, 3 * found.state) and not headers:
            out.append(f"{name}: {row.measured / row.budget:.2f} used")
        foreseen = abs(row.steps - found.steps) <= 0.1 * found.steps or library == "jax"
        few = 0.8 if row.slots < 16 else 0.85
        foreseen = foreseen and row.budget < 8 * row.predicted  # beyond, an upper bound will do
        if foreseen and min(row.budget, row.predicted) > ARRAYS_ONLY:
            if not few <= row.measured / row.predicted <= 1.15:
                out.append(f"{name}: predicted {row.predicted:,} B, measured {row.measured:,} B")
    for a, b in itertools.pairwise(found.rows):
        if b.work > 1.05 * a.work:
            out.append(f"{b.budget:,} B: work {b.work:.2f} after {a.work:.2f}")
        near = b.budget < 2.5 * a.budget and a.slots >= 4
        once = isinstance(b.adjoint, rg.DirectAdjoint)  # halves the calls of f, not the time
        if near and not once and a.work > 2 * b.work + 0.01:
            out.append(f"{b.budget:,} B: work falls from {a.work:.2f} to {b.work:.2f}")
    return out


# --- the table


def print_table(libraries: Any, cases: Any, exponents: Any) -> None:
    """The rows and what breaks a promise, for people."""
    for library, case, control in itertools.product(libraries, cases, CONTROLS):
        found = over_budgets(library, case, control, exponents)
        print(f"{library} {case} {control}: {found.steps} steps, a state of {found.state:,} B")
        for row in found.rows:
            print(
                f"  {row.budget:>14,} predicted {row.predicted:>13,} measured {row.measured:>13,}"
                f"  used {row.measured / row.budget:5.2f}  m/p {row.measured / row.predicted:5.2f}"
                f"  work {row.work:6.3f}  {row.adjoint}"
            )
        print(*(f"  FAULT {fault}" for fault in faults(library, found)), sep="\n", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    powers = [int(a) for a in given if a.lstrip("-").isdigit()]
    print_table(
        [a for a in given if a in LIBRARIES] or LIBRARIES,
        [a for a in given if a in CASES] or CASES,
        powers or EXPONENTS,
    )
