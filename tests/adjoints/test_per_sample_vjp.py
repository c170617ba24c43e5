"""Gradients of batches whose samples have steps of their own: those of single solves, exactly."""

from __future__ import annotations

import functools
import gc

import numpy as np
import pytest

import retrograde as rg
from retrograde._base.errors import PlanInfeasible

TIGHT = {"rtol": 1e-6, "atol": 1e-6}
SAMPLES = 9
RNG = np.random.default_rng(2)
STARTS = 0.5 + 2.5 * RNG.random((SAMPLES, 2))
SPEEDS = np.where(np.arange(SAMPLES) % 4 == 1, 3.0, 1.0)
BEGINS, ENDS = np.linspace(-1.0, 1.0, SAMPLES), 2.0 + 3.0 * RNG.random(SAMPLES)
TIMES = np.linspace(BEGINS, ENDS, 5).T.copy()


def predators(backend, axis):
    """Lotka-Volterra systems with a speed of their own; ``axis`` of the two species."""

    def f(t, y, args):
        xp = backend.namespace(y)
        growth, speed = args
        prey, hunters = (y[:, 0], y[:, 1]) if axis else (y[0], y[1])
        meet = prey * hunters
        slope = xp.stack([growth * prey - meet, meet - (3.0 + 0.1 * t) * hunters], axis=axis)
        return (speed[:, None] if axis else speed) * slope

    return f


def weights(shape):
    return np.cos(1.7 * np.arange(np.prod(shape)).reshape(shape))


@functools.cache
def singles(reference, case):
    """Gradients of all samples, one by one."""
    found = []
    for i in range(SAMPLES):
        given = {**TIGHT, **CASES[case]}
        wish = given.pop("saveat", None)
        if wish is not None:
            given["saveat"] = rg.SaveAt(t0=wish.t0, t1=wish.t1, ts=wish.ts[i])
        sol, pull = rg.solve_vjp(
            predators(reference, 0), STARTS[i], BEGINS[i], ENDS[i], (1.5, SPEEDS[i]), **given
        )
        rows = len(sol.ys)
        found.append(pull(weights((rows, SAMPLES, 2))[:, i], weights((rows, SAMPLES))[:, i]))
    return found


CASES = {
    "end": {},
    "few": {"adjoint": rg.RecursiveCheckpointAdjoint(checkpoints=3, one_tape=True)},
    "rows": {"solver": "bosh3", "saveat": rg.SaveAt(t0=True, t1=True, ts=TIMES)},
    "order 8": {"solver": "dopri8", "saveat": rg.SaveAt(ts=TIMES)},
    "constant": {"dt": 0.04, "solver": "rk4", "saveat": rg.SaveAt(t1=True, ts=TIMES)},
}


@pytest.mark.settings(
    case=list(CASES), few={"strict": ["end"], "torch": ["few", "order 8"], "jax": []}
)
def test_gradients_of_single_solves(backend, reference, case):
    """By y0, parameters of all and of samples, t0, t1 and saved times of each."""
    keywords = CASES[case]
    right = singles(reference, case)
    if "saveat" in keywords:
        wish = keywords["saveat"]
        keywords = {**keywords, "saveat": rg.SaveAt(wish.t0, wish.t1, backend.array(TIMES))}
    args = (1.5, rg.PerSample(backend.array(SPEEDS)))
    call = backend.array(STARTS), backend.array(BEGINS), backend.array(ENDS), args
    sol, pull = rg.solve_vjp(predators(backend, 1), *call, per_sample=True, **{**TIGHT, **keywords})
    ct, of_times = (backend.array(weights(tuple(x.shape)).tolist()) for x in (sol.ys, sol.ts))
    g = pull(ct, of_times)
    for name in ("y0", "t0", "t1", *(["ts"] if "saveat" in keywords else [])):
        stacked = np.stack([getattr(one, name) for one in right])
        np.testing.assert_allclose(backend.to_numpy(getattr(g, name)), stacked, 1e-9, 1e-10)
    shared, own = backend.to_numpy(g.args)
    np.testing.assert_allclose(own, [one.args[1] for one in right], 1e-9, 1e-10)
    np.testing.assert_allclose(shared, sum(one.args[0] for one in right), 1e-9)


@pytest.mark.libraries("numpy")
def test_central_differences(backend):
    """Of the same steps: a parameter of all samples, a start and the end of one; rows of fn."""

    def loss(growth, start, end):
        y0, t1 = STARTS.copy(), ENDS.copy()
        y0[4, 0], t1[4] = start, end
        wish = rg.SaveAt(ts=TIMES[:, :-1], t1=True, fn=lambda t, y, a: a[0] * y * t[:, None])
        sol, pull = rg.solve_vjp(
            predators(backend, 1), y0, BEGINS, t1, (growth, rg.PerSample(SPEEDS)),
            per_sample=True, saveat=wish, dt=0.05, solver="rk4",
        )  # fmt: skip
        w = weights(sol.ys.shape)
        return (w * sol.ys).sum(), pull(w)

    point = np.array([1.5, STARTS[4, 0], ENDS[4]])
    _, g = loss(*point)
    for i, found in enumerate((g.args[0], g.y0[4, 0], g.t1[4])):
        step = 1e-5 * (np.arange(3) == i)
        slope = (loss(*(point + step))[0] - loss(*(point - step))[0]) / 2e-5
        np.testing.assert_allclose(found, slope, rtol=2e-7)


@pytest.mark.libraries("torch")
def test_autograd(backend):
    """`backward` through the solve, of what f closes over too; times that samples share."""
    import torch

    growth, y0, t1 = (
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.5, STARTS, 3.0)
    )
    speeds = torch.tensor(SPEEDS)

    def f(t, y, speed):
        meet = y[:, 0] * y[:, 1]
        return speed[:, None] * torch.stack([growth * y[:, 0] - meet, meet - 3 * y[:, 1]], 1)

    sol = rg.solve(f, y0, 0.0, t1, rg.PerSample(speeds), per_sample=True, **TIGHT)
    found = torch.autograd.grad(sol.ys.sin().sum() + sol.ts.sum(), (growth, y0, t1))
    total = 0.0
    for i in range(SAMPLES):
        one = lambda t, y, _, i=i: f(t[None], y[None], speeds[i : i + 1])[0]  # noqa: E731
        alone = rg.solve(one, y0[i], 0.0, t1, **TIGHT)
        total = total + alone.ys.sin().sum() + alone.ts.sum()
    for x, y in zip(found, torch.autograd.grad(total, (growth, y0, t1)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)
    assert sol.plan.steps == int(sol.stats["num_accepted_steps"].max())


@pytest.mark.libraries("numpy torch")
def test_a_budget_of_total_bytes(backend):
    """States of all samples count together; what does not fit is an error; values stay."""
    args = (1.5, rg.PerSample(backend.array(SPEEDS)))
    call = predators(backend, 1), backend.array(STARTS), 0.0, 5.0, args

    def gradient(memory):
        sol, pull = rg.solve_vjp(*call, per_sample=True, memory=memory, **TIGHT)
        return sol.plan, backend.to_numpy(pull(backend.array(weights((1, SAMPLES, 2)))).y0)

    ample, right = gradient("1 MiB")
    assert ample.adjoint.checkpoints is None
    tight, found = gradient(ample.memory - 3000)
    assert tight.memory <= tight.budget
    assert 1 <= tight.adjoint.checkpoints < tight.steps
    np.testing.assert_allclose(found, right, rtol=1e-12)
    with pytest.raises(PlanInfeasible, match="for all samples together"):
        gradient("1 KiB")
    plan = rg.plan(*call, per_sample=True, memory="56 KiB", **TIGHT)
    assert plan.memory <= plan.budget == 56 * 1024
    assert not plan.known
    assert 0.6 < plan.steps / tight.steps < 1.7
    sol, pull = rg.solve_vjp(*call, per_sample=True, adjoint=plan, **TIGHT)
    found = backend.to_numpy(pull(backend.array(weights((1, SAMPLES, 2)))).y0)
    np.testing.assert_allclose(found, right, rtol=1e-12)
    assert sol.plan.adjoint == plan.adjoint


@pytest.mark.libraries("numpy", slow="strict")
def test_a_failed_sample_has_no_gradient(backend):
    """nan for it and what it shares, unless the loss leaves it out."""
    xp, y0 = backend.xp, backend.array([[0.5], [2.0], [0.25]])

    def f(t, y, args):
        return args[0] * y * y * args[1][:, None]

    args = (backend.array(1.0), rg.PerSample(backend.array([1.0, 1.0, 1.0])))
    sol, pull = rg.solve_vjp(f, y0, 0.0, 1.0, args, per_sample=True, throw=False, **TIGHT)
    g = pull(xp.ones_like(sol.ys))
    y, shared = backend.to_numpy((g.y0[:, 0], g.args[0]))
    exact = np.array([1 / (1 - 0.5) ** 2, np.nan, 1 / (1 - 0.25) ** 2])
    np.testing.assert_allclose(y, exact, rtol=1e-5)
    assert np.isnan(shared)
    g = pull(backend.array([[[1.0], [0.0], [1.0]]]))
    y, shared = backend.to_numpy((g.y0[:, 0], g.args[0]))
    np.testing.assert_allclose(y[[0, 2]], exact[[0, 2]], rtol=1e-5)
    np.testing.assert_allclose(shared, 0.25 * exact[0] + 0.0625 * exact[2], rtol=1e-5)


@pytest.mark.libraries("jax:jit")
def test_jax_differentiates_its_own(backend, reference):
    """`jax.grad` of the mapped solves and `solve_vjp` of the mapped solves agree with NumPy."""
    jax, short = pytest.importorskip("jax"), {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-5}

    def loss(y0, t1, speed):
        args = (1.5, rg.PerSample(speed))
        sol = rg.solve(predators(backend, 1), y0, 0.0, t1, args, per_sample=True, **short)
        return (backend.array(weights((1, SAMPLES, 2))) * sol.ys).sum()

    given = [backend.array(x) for x in (STARTS, ENDS, SPEEDS)]
    found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*given)
    args = (1.5, rg.PerSample(SPEEDS))
    _, pull = rg.solve_vjp(
        predators(reference, 1), STARTS, 0.0, ENDS, args, per_sample=True, **short
    )
    g = pull(weights((1, SAMPLES, 2)))
    for x, y in zip(found, (g.y0, g.t1, g.args[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)

    def pulled(y0, t1, speed):
        args = (1.5, rg.PerSample(speed))
        call = predators(backend, 1), y0, 0.0, t1, args
        _, pull = rg.solve_vjp(*call, per_sample=True, **short)
        return pull(backend.array(weights((1, SAMPLES, 2))))

    again = jax.jit(pulled)(*given)
    for x, y in zip((again.y0, again.t1, *again.args), (g.y0, g.t1, *g.args), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("batch", [True, False])
def test_a_cotangent_of_another_shape_is_named_by_what_it_is_of(reference, batch):
    y0 = STARTS[:3]
    _, pull = rg.solve_vjp(
        lambda t, y, args: -y, y0, 0.0, 1.0, saveat=rg.SaveAt(dense=True), per_sample=batch
    )
    with pytest.raises(rg.InputError, match=r"`sol.evaluate\(t\)` has \[\(2, 3, 2\)\]"):
        pull(None, evaluated=(np.array([0.5, 0.7]), np.ones((3, 2, 2))))
    with pytest.raises(rg.InputError, match=r"`sol\.ys` has"):
        pull(np.ones((1, 2)) if batch else np.ones(2))


LEFT = {
    "end": {},
    "rows": {"saveat": np.linspace(0.1, 1.0, 5)},
    "steps": {"saveat": rg.SaveAt(steps=True)},
    "dense": {"saveat": rg.SaveAt(dense=True)},
    "event": {"event": rg.Event(lambda t, y, args: y[:, 0] - 2.0)},
    "one slot": {"adjoint": rg.RecursiveCheckpointAdjoint(1)},
    "rodas5p": {"solver": "rodas5p"},
    "one by one": {"solver": "kvaerno3"},
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_batch_leaves_nothing_to_the_collector(reference, kind):
    """What waits for the garbage collector is in no plan; and a measure of bytes would not see
    what takes its place."""
    args = (1.5, rg.PerSample(SPEEDS[:3]))
    call = predators(reference, 1), STARTS[:3], 0.0, 1.0, args
    looks = {"evaluated": (np.array([0.5]), np.ones((1, 3, 2)))} if kind == "dense" else {}

    def gradient():
        sol, pull = rg.solve_vjp(*call, per_sample=True, rtol=1e-3, atol=1e-3, **LEFT[kind])
        return pull(None if looks else reference.map(np.ones_like, sol.ys), **looks)

    gradient()  # what is made once a process
    gc.collect()
    gc.disable()
    try:
        gradient()
        assert gc.collect() == 0
    finally:
        gc.enable()


BUDGETS = {
    "everything": ((300, 16), 140, "tsit5", None),
    "some states": ((300, 16), 65, "tsit5", None),
    "one tape": ((300, 16), 48, "tsit5", None),
    "rows": ((300, 16), 140, "tsit5", np.linspace(0.1, 4.0, 30)),
    "matrices": ((400, 4), 125, "rodas5p", None),
    "many steps": ((2000, 1), 185, "rosenbrock23", None),
}
"""Sizes, budgets in states, methods and rows."""


@pytest.mark.libraries("numpy torch")
@pytest.mark.settings(kind=list(BUDGETS), few={"numpy": ["some states"], "torch": ["rows"]})
def test_measured_bytes_are_within_the_budget(backend, kind):
    """Every state stored, some, and one tape at a time; rows inside of steps, matrices."""
    (samples, size), states, solver, ts = BUDGETS[kind]
    rng = np.random.default_rng(0)
    y0 = backend.array(rng.standard_normal((samples, size)))
    w = backend.array(0.3 * rng.standard_normal((size, size)))
    speeds = backend.array(np.where(np.arange(samples) % 100 == 0, 8.0, 1.0))
    memory = 8 * samples * size * states
    keywords = {"per_sample": True, "saveat": ts, "solver": solver, **TIGHT}
    plans = []

    def f(t, y, args):
        return args[1][:, None] * backend.namespace(y).tanh(y @ args[0])

    def solve(y0, w):
        return rg.solve(f, y0, 0.0, 4.0, (w, rg.PerSample(speeds)), **keywords).ys

    def gradient(y0, w):
        args = w, rg.PerSample(speeds)
        sol, pull = rg.solve_vjp(f, y0, 0.0, 4.0, args, memory=memory, **keywords)
        pull(0 * sol.ys + 1)
        plans.append(sol.plan)

    measured = rg.measure.peak_gradient_bytes(solve, gradient, y0, w).bytes
    assert plans[0].memory <= memory
    assert plans[0].memory / 4 < measured <= plans[0].memory
