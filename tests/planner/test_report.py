"""What a plan says: its table, its data, its picture; and the order of the rules."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest

import retrograde as rg
from retrograde._planner.rules import RULES
from retrograde._solvers import ExplicitRungeKutta
from retrograde.measure import traced_peak

SIZE = 10_000


def heat(t, u, conductivity):
    return conductivity * (np.roll(u, 1) - 2 * u + np.roll(u, -1))


def plan_of(**keywords):
    keywords = {"solver": "rk4", "dt": 1e-3, "memory": "2 MiB", **keywords}
    return rg.plan(heat, np.linspace(0.0, 1.0, SIZE), 0.0, 1.0, np.asarray(0.3), **keywords)


PLANS = {
    "slots": {},
    "stored": {"memory": "1 GiB"},
    "named": {"adjoint": rg.RecursiveCheckpointAdjoint(10), "memory": None},
    "named, in a budget": {"adjoint": rg.RecursiveCheckpointAdjoint(3), "memory": "1 GiB"},
    "adaptive": {"solver": "tsit5", "dt": None, "memory": "4 MiB"},
    "rows": {"saveat": rg.SaveAt(t0=True, ts=[0.1, 0.2])},
}
every_plan = pytest.mark.parametrize("keywords", PLANS.values(), ids=PLANS)


def walk(x):
    yield x
    if isinstance(x, dict):
        assert all(isinstance(key, str) for key in x)
        x = list(x.values())
    if isinstance(x, list):
        yield from itertools.chain.from_iterable(walk(part) for part in x)


@every_plan
def test_data_survive_json(reference, keywords):
    plan = plan_of(**keywords)
    data = plan.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    plain = (str, int, float, bool, type(None), list, dict)
    assert all(type(x) in plain for x in walk(data))


@every_plan
def test_data_are_complete(reference, keywords):
    plan = plan_of(**keywords)
    data = plan.to_dict()
    for name in ("memory", "source", "steps", "known", "steps_source", "reason", "items", "vjp"):
        assert data[name] == getattr(plan, name)
    assert data["outputs"] == plan.outputs
    assert data["budget"] == (None if keywords.get("memory", 1) is None else plan.budget)
    assert [c["reason"] for c in data["candidates"]] == [c.reason for c in plan.candidates]
    adjoint = dict(data["adjoint"])
    assert getattr(rg, adjoint.pop("name"))(**adjoint) == plan.adjoint


@every_plan
def test_every_candidate_has_its_reason(reference, keywords):
    plan = plan_of(**keywords)
    text, chosen = str(plan), next(c for c in plan.candidates if c.verdict == "chosen")
    assert chosen.reason == plan.reason
    for candidate in plan.candidates:
        assert candidate.reason
        assert candidate.reason in text
        if candidate.verdict == "too large":
            assert candidate.bytes > plan.budget
            assert candidate.reason.startswith("too large by ")
        elif candidate.verdict == "fits":
            assert candidate.bytes <= plan.budget
            assert candidate.reason.startswith("fits, ")


def test_what_is_dearer_says_by_how_much(reference):
    plan = plan_of(adjoint=rg.RecursiveCheckpointAdjoint(), memory="1 GiB")
    assert plan.candidates[0].verdict == "chosen"
    slots = plan_of(adjoint=rg.RecursiveCheckpointAdjoint(3), memory="1 GiB")
    everything = next(c for c in slots.candidates if "every state" in c.method)
    assert everything.reason == "fits, but another was named"


def test_tapes_beat_states_in_torch():
    torch = pytest.importorskip("torch")
    plan = rg.plan(lambda t, y, args: -y, torch.ones(10), 0.0, 1.0, dt=0.1, memory="1 GiB")
    states = next(c for c in plan.candidates if "every state" in c.method)
    assert states.reason == "fits, but takes 4.0 F a step to 3.0"


def test_outputs_stand_beside_the_budget(reference):
    one, many = plan_of(), plan_of(saveat=rg.SaveAt(t0=True, t1=True, ts=np.linspace(0, 1, 50)))
    assert one.outputs == {"saved states": 8 * SIZE, "their times": 8}
    assert many.outputs == {"saved states": 52 * 8 * SIZE, "their times": 52 * 8}
    assert not set(one.outputs) & set(one.items)
    assert many.memory <= many.budget
    assert "asked for, beside the budget: saved states 3.97 MiB, their times 416 B" in str(many)
    steps = plan_of(saveat=rg.SaveAt(steps=True))
    assert steps.outputs["saved states"] == 1000 * 8 * SIZE


def test_what_is_not_counted_is_said(reference):
    """The rows' cotangents, and within half what a solve alone takes at its peak."""
    saveat = rg.SaveAt(ts=np.linspace(0.1, 1.0, 5))
    plan = plan_of(saveat=saveat)
    assert plan.beside["cotangents of saved states"] == 5 * 8 * SIZE
    u0, k = np.linspace(0.0, 1.0, SIZE), np.asarray(0.3)
    own = traced_peak(lambda: rg.solve(heat, u0, 0.0, 1.0, k, solver="rk4", dt=1e-2))
    assert own / 2 < plan.beside["working set of the solve"] < 2 * own
    assert plan.to_dict()["beside"] == plan.beside
    assert "not counted either, about: cotangents of saved states 391 KiB" in str(plan)


def test_small_numbers_are_bounds(reference):
    """Up to 64 KiB, where tables and headers are as large as what is counted."""
    few = rg.plan(lambda t, y, args: -y, np.ones(2), 0.0, 1.0, dt=0.01, memory="8 KiB")
    assert "at most " in str(few)
    assert "at most " not in str(plan_of())


def test_outputs_of_a_function_are_what_it_returns(reference):
    plan = plan_of(saveat=rg.SaveAt(t1=True, fn=lambda t, y, args: np.sum(y)))
    assert plan.outputs["saved states"] == 8


# --- the picture


def test_a_picture(reference, tmp_path):
    pytest.importorskip("matplotlib")
    plan, path = plan_of(), tmp_path / "plan.png"
    axes = plan.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert axes.get_yscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == len(plan.candidates) + 1
    assert "budget, 2.00 MiB" in labels
    assert sum("(chosen)" in label for label in labels) == 1


def test_a_picture_on_given_axes(reference):
    figures = pytest.importorskip("matplotlib.figure")
    axes = figures.Figure().subplots()
    plan = plan_of(adjoint=rg.RecursiveCheckpointAdjoint(10), memory=None)
    assert plan.plot(ax=axes) is axes
    assert not any("budget" in text.get_text() for text in axes.get_legend().get_texts())


def test_no_picture_without_matplotlib(reference, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(rg.RetrogradeError, match=r'pip install "retrograde\[plot\]"'):
        plan_of().plot()


# --- the rules


def test_the_rules_in_their_order():
    names = [rule.__name__ for rule in RULES]
    assert names[0] == "the_named_one"
    assert names[-1] == "checkpoints"


def test_rules_know_implicit_solvers(reference):
    class Implicit(rg.RK4):
        tableau = rg.RK4.tableau
        implicit = True

    assert issubclass(Implicit, ExplicitRungeKutta)
    call = heat, np.linspace(0.0, 1.0, 20), 0.0, 1.0, np.asarray(0.3)
    assert rg.plan(*call, solver=Implicit(), dt=1e-3).shape.stiff
    assert not rg.plan(*call, solver="rk4", dt=1e-3).shape.stiff
