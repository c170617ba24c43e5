"""The figure of ``how-to/which_solver`` on gradients: their error, and the CPU time they take.

``python docs/figures/gradients.py`` draws ``gradients.svg`` from ``gradients.json``; ``--measure``
takes the readings first (JAX, diffrax, PyTorch, torchdiffeq; five minutes on one core). How is told
in ``work_precision``, whose problems and drawing these are.

A gradient is that of the first component at t1 by y0 and args, solve included. Its error is the
largest over y0 and args, each relative to its largest element, those by args in units of the args.
The reference is ours on NumPy at 1e-11; the lines of others that come down to it tell that it is
right. Every program has the bound of 4096 tries, which is diffrax's default.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import retrograde as rg

sys.path.insert(0, str(Path(__file__).parent))
import work_precision as wp
from work_precision import Case, Line, Run

READINGS = Path(__file__).with_suffix(".json")
TRIES = 4096
ROWS = (
    ("jax", "seconds", "CPU time [ms], JAX", 1e3),
    ("torch", "seconds", "CPU time [ms], PyTorch", 1e3),
)
LINES = {
    "Lotka-Volterra": {
        "jax": [Line("tsit5"), Line("Tsit5", "diffrax")],
        "torch": [
            Line("tsit5"), Line("odeint", "torchdiffeq"), Line("adjoint", "torchdiffeq", True)
        ],
    },
    "Robertson": {
        "jax": [Line("rodas5p"), Line("kvaerno5", "", True), Line("Kvaerno5", "diffrax", True)],
        "torch": [Line("rodas5p")],
    },
}  # fmt: skip


def cases() -> dict[str, Case]:
    """The problems."""
    both = wp.cases("nonstiff") | wp.cases("stiff")
    tolerances = [10.0**-k for k in range(3, 9)]
    return {name: both[name]._replace(tolerances=tolerances) for name in LINES}


def reference(case: Case, stiff: bool) -> Any:
    """By y0 and args."""
    solver, f = "rodas5p" if stiff else "dopri8", partial(case.f, np)
    tight = wp.settings(case, 1e-11)
    sol, pullback = rg.solve_vjp(f, case.y0, 0.0, case.t1, case.args, solver=solver, **tight)
    pick = np.zeros_like(sol.ys)
    pick[-1, 0] = 1.0
    g = pullback(pick)
    return g.y0, g.args


def error(case: Case, exact: Any, found: Any) -> float:
    """The larger of two."""
    pairs = zip(found, exact, (1.0, case.args), strict=True)
    parts = [(np.asarray(a) * unit, b * unit) for a, b, unit in pairs]
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in parts)


def jax_run(case: Case, line: Line, tol: float) -> Run:
    """A compiled gradient, of checkpoints that each chooses by itself."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    f = partial(case.f, jnp)

    def ours(y0: Any, args: Any) -> Any:
        return rg.solve(
            f, y0, 0.0, case.t1, args, solver=line.solver, max_steps=TRIES,
            **wp.settings(case, tol),
        ).ys[-1, 0]  # fmt: skip

    def theirs(y0: Any, args: Any) -> Any:
        import diffrax

        p, i = (0.3, 0.3) if line.solver == "Kvaerno5" else (0.2, 0.65)
        steps = diffrax.PIDController(**wp.settings(case, tol), pcoeff=p, icoeff=i)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), getattr(diffrax, line.solver)(), 0.0, case.t1, None, y0, args,
            stepsize_controller=steps, max_steps=TRIES,
        ).ys[-1, 0]  # fmt: skip

    inputs = jnp.asarray(case.y0), jnp.asarray(case.args)
    gradient = jax.jit(jax.grad(theirs if line.peer else ours, argnums=(0, 1)))
    compiled = gradient.lower(*inputs).compile()
    return lambda: jax.block_until_ready(compiled(*inputs))


def torch_run(case: Case, line: Line, tol: float) -> Run:
    """By ``backward`` through the solve, or by torchdiffeq's adjoint equation."""
    import torch
    import torchdiffeq

    y0, args = (torch.tensor(x, requires_grad=True) for x in (case.y0, case.args))
    f, keywords = partial(case.f, torch), wp.settings(case, tol)
    ts = torch.tensor([0.0, case.t1], dtype=y0.dtype)

    def run() -> Any:
        if not line.peer:
            end = rg.solve(f, y0, 0.0, case.t1, args, solver=line.solver, **keywords).ys[-1, 0]
        else:
            adjoint = line.solver == "adjoint"
            odeint = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
            more = {"adjoint_params": (args,)} if adjoint else {}
            field = lambda t, y: f(t, y, args)  # noqa: E731
            end = odeint(field, y0, ts, method="dopri5", **keywords, **more)[-1, 0]
        return torch.autograd.grad(end, (y0, args))

    return run


RUNS = {"jax": jax_run, "torch": torch_run}


def measure() -> None:
    """Take readings into the file."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, Any] = {"problems": {}}
    for name, case in cases().items():
        missed = partial(error, case, reference(case, name == "Robertson"))
        rows: list[dict[str, Any]] = []
        for library, lines in LINES[name].items():
            rows += wp.measured(case, library, lines, RUNS[library], missed)
            print(name, library, len(rows), f"{time.process_time():.0f} s", flush=True)
        found["problems"][name] = wp.dated(rows)
        READINGS.write_text(wp.dumped(found), encoding="utf-8")


def drawn(found: dict[str, Any]) -> str:
    """The picture."""
    lines = [[LINES[name][row[0]] for row in ROWS] for name in LINES]
    return wp.draw(tuple(LINES), ROWS, lines, found, "error of the gradient")


def main() -> None:
    """Measure where asked, and draw."""
    parser = argparse.ArgumentParser(description="Gradients of how-to/which_solver.")
    parser.add_argument("--measure", action="store_true", help="take readings first")
    if parser.parse_args().measure:
        measure()
    found = json.loads(READINGS.read_text(encoding="utf-8"))
    READINGS.with_suffix(".svg").write_text(drawn(found), encoding="utf-8")


if __name__ == "__main__":
    main()
