"""Every call of f is counted: by the integration, beside it, and on the way back.

In eager libraries real calls are compared with what the solution tells of them; in JAX calls of the
running program, once.
"""

from __future__ import annotations

import pytest

import retrograde as rg
from retrograde._autodiff import prepare_derivatives

SOLVERS = ["euler", "heun", "bosh3", "rk4", "tsit5", "dopri5", "dopri8", "velocity_verlet"]
STEPS = {
    "constant": {"dt": 0.13},
    "given": {"controller": rg.StepTo([0.0, 0.1, 0.5, 1.7, 2.0])},
    "adaptive": {"rtol": 1e-5},
    "first size": {"controller": rg.PIDController(1e-5, 1e-7, dt0=1.5)},  # which is rejected
    "accepts all": {"controller": rg.PIDController(1e-12, 1e-12, dtmin=0.2, force_dtmin=True)},
}
ROWS = {
    "end": None,
    "times": [0.0, 0.31, 0.32, 1.2, 2.0],
    "steps": rg.SaveAt(steps=True),
    "start": rg.SaveAt(t0=True, t1=True),
}
ENDS = {"whole": {}, "tries": {"max_steps": 3}, "nan": {}}
SOME = [
    ("adaptive", "times", "whole"), ("constant", "steps", "nan"), ("first size", "end", "tries"),
    ("accepts all", "times", "tries"), ("given", "start", "whole"),
]  # fmt: skip
FEW = {"strict": SOME[:3], "torch": SOME, "jax": [], "jax:jit": []}


def oscillator(end, calls):
    """x'' = -x, nan from t = 1.1 on at the end ``nan``; calls are noted."""

    def f(t, y, k):
        calls.append(1)
        q, p = y
        return k * p, -k * q + (float("nan") if end == "nan" and t > 1.1 else 0.0)

    return f


def keywords_of(solver, steps, rows, end):
    """None where a solver has no such steps, or no failure: steps accepted whatever they give."""
    adaptive = steps in ("adaptive", "first size", "accepts all")
    if adaptive and solver in ("euler", "rk4", "velocity_verlet"):
        return None
    if steps == "accepts all" and end == "nan":
        return None
    return {"solver": solver, "saveat": ROWS[rows], "throw": False, **STEPS[steps], **ENDS[end]}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.settings(steps=STEPS, rows=ROWS, end=ENDS, few=FEW)
def test_calls_of_the_integration_and_beside_it(backend, steps, rows, end):
    for solver in SOLVERS:
        keywords, calls = keywords_of(solver, steps, rows, end), []
        if keywords is None:
            continue
        y0 = backend.array([1.0, 0.5]), backend.array([0.0, 0.0])
        f = oscillator(end, calls)
        sol = rg.solve(f, y0, 0.0, 2.0, backend.array(3.0), **keywords)
        counted = sol.stats["num_f_evals"], sol.stats["num_trial_f_evals"]
        assert (solver, sum(counted)) == (solver, len(calls)), counted
        assert (sol.status is rg.Status.converged) == (end == "whole")


ADJOINTS = {
    "auto": "auto",
    "every state": rg.RecursiveCheckpointAdjoint(),
    "slots": rg.RecursiveCheckpointAdjoint(3),
    "one tape": rg.RecursiveCheckpointAdjoint(3, one_tape=True),
    "no record": rg.RecursiveCheckpointAdjoint(3, record=False),
    "backsolve": rg.BacksolveAdjoint(checkpoints=2),
    "continuous": rg.BacksolveAdjoint(mode="continuous"),
}


FEW_BACK = {
    "strict": [("slots", "adaptive", "times"), ("continuous", "constant", "end")],
    "torch": [(name, "adaptive", "times") for name in ADJOINTS],
    "jax": [],
    "jax:jit": [],
}


@pytest.mark.settings(
    adjoint=ADJOINTS,
    steps=["constant", "adaptive"],
    rows=["end", "times"],
    few=FEW_BACK,
)
def test_calls_on_the_way_back(backend, adjoint, steps, rows):
    """Of f, and of the vjp that comes with it; the pull again, too."""
    calls, vjps = [], []
    f = oscillator("whole", calls)

    def vjp(t, y, k, ct):
        vjps.append(1)
        return 0.0 * t, (-k * ct[1], k * ct[0]), backend.xp.sum(ct[0] * y[1] - ct[1] * y[0])

    y0 = backend.array([1.0, 0.5]), backend.array([0.0, 0.0])
    keywords = {"adjoint": ADJOINTS[adjoint], "saveat": ROWS[rows], **STEPS[steps]}
    for field in (f, rg.VectorField(f, vjp=vjp)):
        calls.clear()
        sol, pullback = rg.solve_vjp(field, y0, 0.0, 2.0, backend.array(3.0), **keywords)
        assert sol.stats["num_f_evals"] + sol.stats["num_trial_f_evals"] == len(calls)
        for _ in range(2):
            calls.clear()
            vjps.clear()
            pullback(backend.map(backend.xp.ones_like, sol.ys))
            assert sol.stats["num_reverse_f_evals"] == len(calls)
        assert sol.stats["num_reverse_vjps"] == len(vjps) or field is f
        assert sol.stats["num_reverse_vjps"] > 0


def test_calls_of_a_backward_in_torch():
    torch = pytest.importorskip("torch")
    calls, k = [], torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(3, dtype=torch.float64)

    def f(t, y, args):
        calls.append(1)
        return -k * torch.sin(y)

    for adjoint, reverse in (("recursive_checkpoint", True), ("direct", False)):
        calls.clear()
        sol = rg.solve(f, y0, 0.0, 1.0, dt=0.1, adjoint=adjoint)
        assert sol.stats["num_f_evals"] + sol.stats["num_trial_f_evals"] == len(calls)
        calls.clear()
        sol.ys.sum().backward()
        assert len(calls) == sol.stats.get("num_reverse_f_evals", 0)
        assert bool(calls) == reverse
        assert sol.stats.get("num_reverse_vjps", 60) == 60


@pytest.mark.libraries("jax:jit")
def test_calls_of_a_running_program(backend):
    """JAX tells by formula; f itself tells when it runs."""
    import jax

    calls = []

    def f(t, y, k):
        jax.debug.callback(lambda: calls.append(1))
        return -k * y

    solve = jax.jit(lambda y, k: rg.solve(f, y, 0.0, 1.0, k, rtol=1e-6, saveat=[0.3, 0.8]))
    sol = solve(backend.array([1.0, 2.0]), backend.array(8.0))
    jax.effects_barrier()
    assert len(calls) == int(sol.stats["num_f_evals"])


WAYS = {
    "adaptive": {"rtol": 1e-4, "saveat": [0.5, 1.3]},
    "jump": {"controller": rg.PIDController(1e-4, 1e-6, jump_ts=[0.7])},
    "constant": {"dt": 0.1},
    "rows": {"dt": 0.1, "saveat": [0.5, 1.05]},
    "tries": {"rtol": 1e-4, "max_steps": 5, "throw": False},
}
FEW_STIFF = {
    "strict": [("kvaerno3", "rows")], "torch": [("kencarp4", "constant"), ("auto", "adaptive")],
    "jax": [], "jax:jit": [("kvaerno3", "adaptive")],
}  # fmt: skip
SLOW_STIFF = {"jax:jit": [("kvaerno3", "rows"), ("auto", "adaptive"), ("auto", "jump")]}


@pytest.mark.settings(
    solver=["kvaerno3", "kencarp4", "auto"], way=WAYS, few=FEW_STIFF, slow=SLOW_STIFF
)
def test_calls_and_jacobians_of_methods_that_solve_equations(backend, solver, way, monkeypatch):
    """As many as were seen: Newton's iterations are no constant of a method."""
    calls, jacobians = [], []

    class Pol:
        def __call__(self, t, y, k):
            backend.bk.call_back(lambda: calls.append(1))
            return backend.xp.stack([y[1], k * (1 - y[0] * y[0]) * y[1] - y[0]])

        def jac(self, t, y, k):
            backend.bk.call_back(lambda: jacobians.append(1))
            row = [-2 * k * y[0] * y[1] - 1, k * (1 - y[0] * y[0])]
            return backend.xp.stack([0 * k, 1 + 0 * k, *row])

    if solver == "auto" and "dt" in WAYS[way]:
        pytest.skip("auto needs adaptive steps")
    prepare, prepared = prepare_derivatives.prepare_derivatives, []

    def preparing(*given, **keywords):
        before = len(calls)
        prepare(*given, **keywords)
        prepared.append(len(calls) - before)

    monkeypatch.setattr(prepare_derivatives, "prepare_derivatives", preparing)
    f, keywords = Pol(), {"solver": solver, **WAYS[way]}
    solve = backend.compiled(lambda y, k: rg.solve(f, y, 0.0, 2.0, k, **keywords))
    sol = solve(backend.array([2.0, 0.0]), backend.array(20.0))
    if not backend.eager:
        pytest.importorskip("jax").effects_barrier()
    stats = {name: int(value) for name, value in sol.stats.items()}
    # what derivatives of f call it for belongs to Jacobians: before the solve, where one is looked
    # at, and for df/dt in each
    reported = stats["num_f_evals"] + stats.get("num_trial_f_evals", 0)
    looks = 1 if backend.eager else 0
    by_time = stats["num_jac_evals"] if solver == "auto" and backend.eager else 0
    assert reported + by_time + (sum(prepared) if backend.eager else 0) == len(calls)
    assert stats["num_jac_evals"] + looks == len(jacobians)
    assert stats["num_factorizations"] >= stats["num_jac_evals"] >= (solver != "auto")
