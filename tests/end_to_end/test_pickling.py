"""Plans, solutions and pullbacks, copied or sent elsewhere, tell and give the same there."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import retrograde as rg

SETTINGS: dict[str, dict[str, Any]] = {
    "slots": {"dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint(3)},
    "adaptive": {"max_steps": 64},
    "inverted": {"dt": 0.1, "adjoint": "backsolve"},
    "recorded": {"dt": 0.1, "adjoint": "direct", "saveat": rg.SaveAt(ts=[0.25, 1.0])},
}


def field(t: Any, y: Any, args: Any) -> Any:
    return -args["rate"] * y * y


def through_pickle(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


@pytest.mark.settings(
    name=SETTINGS,
    few={"jax": ["adaptive"]},
    slow={"jax": [(x,) for x in SETTINGS if x != "adaptive"]},
)
def test_what_a_solve_gives_goes_through_pickle_and_copy(backend, name):
    settings = SETTINGS[name]
    if name == "recorded" and backend.bk.name != "torch":
        settings = {**settings, "adjoint": "auto"}
    call = field, backend.array([1.0, 0.5]), 0.0, 1.0, {"rate": backend.array(0.5), "name": "a"}
    plan = rg.plan(*call, **settings)
    sent = through_pickle(plan)
    assert str(sent) == str(plan)
    rest = {k: v for k, v in settings.items() if k != "adjoint"}
    sol, pullback = rg.solve_vjp(*call, adjoint=sent, **rest)
    again = through_pickle(sol)
    backend.assert_close(again.ys, backend.to_numpy(sol.ys))
    assert (again.status, again.stats["num_steps"]) == (sol.status, sol.stats["num_steps"])
    ones = backend.map(lambda x: 1.0 + 0.0 * x, sol.ys)
    before = through_pickle(pullback)
    right = backend.to_numpy(pullback(ones))
    for other in (before, through_pickle(pullback), copy.deepcopy(pullback)):
        found = backend.to_numpy(other(ones))
        np.testing.assert_allclose(found.y0, right.y0, rtol=1e-14)
        np.testing.assert_allclose(found.args["rate"], right.args["rate"], rtol=1e-14)
        np.testing.assert_allclose(found.t1, right.t1, rtol=1e-14)


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_lambdas_and_closures_go_through_cloudpickle(backend):
    cloudpickle = pytest.importorskip("cloudpickle")
    rate = 0.5
    sol, pullback = rg.solve_vjp(
        lambda t, y, args: -rate * y * y, backend.array([1.0, 0.5]), 0.0, 1.0, dt=0.1,
        adjoint=rg.RecursiveCheckpointAdjoint(3),
    )  # fmt: skip
    sol, sent = cloudpickle.loads(cloudpickle.dumps((sol, pullback)))
    ones = backend.map(lambda x: 1.0 + 0.0 * x, sol.ys)
    found, right = (backend.to_numpy(g(ones).y0) for g in (sent, pullback))
    np.testing.assert_allclose(found, right, rtol=1e-14)
