"""Norms of the error: what a step is accepted by, in every library's form."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg

NORMS = {
    "rms": lambda x: float(np.sqrt(np.mean(x**2))),
    "max": lambda x: float(np.max(np.abs(x))),
    "worst_sample": lambda x: float(np.sqrt(np.max(np.mean(x**2, axis=1)))),
}


def first_error(norm, y0, f, h, rtol, atol):
    """The error of the first step of Heun's method in this norm, by hand."""
    k1 = f(0.0, y0)
    k2 = f(h, y0 + h * k1)
    y1 = y0 + h * (k1 + k2) / 2
    scale = atol + rtol * np.maximum(np.abs(y0), np.abs(y1))
    return norm(h * (k2 - k1) / 2 / scale)


@pytest.mark.parametrize("name", list(NORMS))
def test_a_step_is_accepted_up_to_an_error_of_one(backend, name):
    """A tolerance just above the error by hand takes the first step, one just below does not."""
    rates = np.asarray([[1.0, 2.0], [5.0, 0.1], [3.0, 3.0]])
    y0 = np.asarray([[1.0, -2.0], [0.5, 4.0], [1.0, 1.0]])
    exact = first_error(NORMS[name], y0, lambda t, y: -rates * y, 0.1, 1.0, 1.0)
    theirs = backend.array(rates)
    for part, first in ((1.0001, 1), (0.9999, 0)):
        tries = []
        controller = rg.PIDController(part * exact, part * exact, dt0=0.1, norm=name)
        rg.solve(
            lambda t, y, a: -theirs * y, backend.array(y0), 0.0, 1.0, controller=controller,
            solver="heun", on_step=lambda *tried, to=tries: to.append(tried[3]), max_steps=500,
        )  # fmt: skip
        assert tries[0] == first


@pytest.mark.libraries("numpy torch jax:jit", slow="strict jax")
def test_a_norm_of_the_users_own(backend):
    """As a tree like y0: here it is the built-in one, and it leaves a wild leaf out."""

    def f(t, y, args):
        xp = backend.namespace(y["x"])
        return {"x": -y["x"], "wild": 20.0 * xp.cos(90.0 * t) * xp.ones_like(y["wild"])}

    def rms(ratios):
        xp = backend.namespace(ratios["x"])
        assert tuple(ratios["wild"].shape) == (3,)
        return xp.sqrt(xp.mean(ratios["x"] ** 2))

    y0 = {"x": backend.array([1.0, 2.0]), "wild": backend.array([0.0, 0.0, 0.0])}
    steps = [
        rg.solve(
            f, y0, 0.0, 2.0, controller=rg.PIDController(1e-6, 1e-6, norm=norm), max_steps=4000,
            solver=solver,
        ).stats["num_steps"]
        for norm, solver in ((rms, "dopri8"), ("rms", "dopri8"))
    ]  # fmt: skip
    alone = rg.solve(
        lambda t, y, a: -y, y0["x"], 0.0, 2.0, rtol=1e-6, atol=1e-6, solver="dopri8"
    ).stats["num_steps"]
    assert abs(int(steps[0]) - int(alone)) <= 1
    assert int(steps[1]) > 10 * int(alone)


@pytest.mark.settings(
    norm=["max", "worst_sample"],
    adjoint=["auto", "backsolve", rg.BacksolveAdjoint(mode="continuous")],
    few={"jax": [("max", "auto")], "jax:jit": [("worst_sample", "auto")]},
)
def test_gradients_of_solves_by_norms(backend, norm, adjoint):
    y0 = np.asarray([[1.0, 2.0], [3.0, -1.0]])
    g = backend.gradient(
        lambda t, y, k: -k * y, backend.array(y0), 0.0, 2.0, backend.array(0.7),
        controller=rg.PIDController(1e-9, 1e-9, norm=norm), adjoint=adjoint, max_steps=300,
    )  # fmt: skip
    assert g.args == pytest.approx(-2 * math.exp(-1.4) * y0.sum(), rel=1e-7)


def test_errors_of_norms(reference):
    f = lambda t, y, a: -y  # noqa: E731
    for norm, y0, message in (
        ("l2", np.ones(2), "`norm` is 'l2'; choose one of 'rms', 'max', 'worst_sample'"),
        ("worst_sample", np.asarray(1.0), "axis 0 must be the samples"),
        (lambda r: r, np.ones(2), "must return a number or a 0-d array"),
    ):
        with pytest.raises(rg.InputError, match=message):
            rg.solve(f, y0, 0.0, 1.0, controller=rg.PIDController(norm=norm))


@pytest.mark.libraries("numpy torch jax", slow="strict jax:jit")
def test_tolerances_of_leaves_and_elements(backend):
    """As a tree of numbers, or of arrays that broadcast; inf leaves an element out."""

    def f(t, y, args):
        xp = backend.namespace(y["x"])
        return {"x": -y["x"], "wild": 20.0 * xp.cos(90.0 * t) * xp.ones_like(y["wild"])}

    y0 = {"x": backend.array([1.0, 2.0]), "wild": backend.array([[0.0, 0.0, 0.0]])}
    steps = {}
    for name, atol in (
        ("all", 1e-6),
        ("numbers", {"x": 1e-6, "wild": math.inf}),
        ("arrays", {"x": backend.array([1e-6, 1e-6]), "wild": backend.array([[1e9]])}),
    ):
        sol = rg.solve(f, y0, 0.0, 2.0, rtol=1e-6, atol=atol, solver="dopri8", max_steps=4000)
        steps[name] = int(sol.stats["num_steps"])
    assert steps["all"] > 10 * steps["numbers"]
    assert abs(steps["numbers"] - steps["arrays"]) <= 1


@pytest.mark.parametrize(
    ("atol", "message"),
    [
        ({"a": 1e-6, "c": 1e-6}, r"`atol` is a dict with keys \['a', 'c'\] where `y0` is a dict"),
        ({"a": np.ones(3), "b": 1e-6}, "`atol` does not broadcast against `y0`"),
        ({"a": -1.0, "b": 1e-6}, "negative entries or nan"),
        ({"a": math.nan, "b": 1e-6}, "negative entries or nan"),
    ],
)
def test_bad_tolerances(reference, atol, message):
    y0 = {"a": np.ones(2), "b": np.ones(2)}
    with pytest.raises(rg.InputError, match=message):
        rg.solve(lambda t, y, a: y, y0, 0.0, 1.0, atol=atol)
