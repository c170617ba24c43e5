"""The table of ``how-to/which_adjoint``: what ``rg.plan`` chooses, and why it says it does.

4096 oscillators, whose state takes 64 KiB, on every library at hand. Budgets are
multiples of a state, so that one word means the same for all: "ample" is more than all that a
gradient could take, "half" half of every state, "small" 64 states, "tiny" 25.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

import retrograde as rg

PAIRS = 4096
STATE = 2 * PAIRS * 8
SOLVES = {
    "constant": {"solver": "rk4", "dt": 0.01},
    "adaptive": {"rtol": 1e-10, "atol": 1e-10},
    "reversible": {"solver": "velocity_verlet", "dt": 0.01},
}
LIBRARIES = ("numpy", "torch", "jax")


def installed() -> list[str]:
    """Libraries to ask for."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name)]


def state(library: str) -> Any:
    """Positions, of which a gradient is wanted."""
    if library == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        return jax.numpy.ones(PAIRS)
    if library == "torch":
        import torch

        return torch.ones(PAIRS, dtype=torch.float64, requires_grad=True)
    return np.ones(PAIRS)


def oscillators(t: Any, y: Any, args: Any) -> Any:
    """q' = p, p' = -q."""
    q, p = y
    return p, -1.0 * q


def choices(library: str) -> Iterator[tuple[str, str, rg.Plan]]:
    """(solve, budget, plan) of every case."""
    q = state(library)
    for solve, keywords in SOLVES.items():
        problem = (oscillators, (q, 0.0 * q), 0.0, 10.0)
        steps = rg.plan(*problem, **keywords, adjoint="recursive_checkpoint").steps
        budgets = {"ample": 2**30, "half": steps * STATE // 2, "small": 64 * STATE}
        for budget, size in {**budgets, "tiny": 25 * STATE}.items():
            yield solve, budget, rg.plan(*problem, **keywords, memory=size)


def shown(plan: rg.Plan) -> str:
    """The adjoint with what it was given."""
    settings = plan.to_dict()["adjoint"]
    slots, guard = settings.get("checkpoints"), settings.get("guard", 1)
    words = [] if slots is None else [f"{slots} slots"]
    words += [f"guard every {guard}"] if guard and guard > 1 else []
    words += ["no guard"] if guard == 0 else []
    words += ["one tape"] if settings.get("one_tape") else []
    words += ["times not recorded"] if not settings.get("record", True) else []
    return f"{settings['name']} ({', '.join(words)})" if words else settings["name"]


def table() -> list[str]:
    """Lines: a row for every case, then the reasons that they give."""
    rows, reasons = [], []
    for library in installed():
        for solve, budget, plan in choices(library):
            reason = re.sub(r"\b\d+ slots", "c slots", plan.reason)
            if reason not in reasons:
                reasons.append(reason)
            number = reasons.index(reason) + 1
            rows.append(f"{library:5}  {solve:10}  {budget:5}  {shown(plan):40} [{number}]")
    return rows + [""] + [f"[{i}] {reason}" for i, reason in enumerate(reasons, 1)]


if __name__ == "__main__":
    print("\n".join(table()))
