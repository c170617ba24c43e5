"""Whatever a single solve does, each sample of a batch does with steps of its own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import retrograde as rg

NEAR = {"rtol": 1e-4, "atol": 1e-4}
"""Coarse: then rounding is little of an error, and steps agree to 1e-11 and better."""

SAMPLES = 5
STARTS = 0.5 + 2.0 * np.random.default_rng(3).random((SAMPLES, 2))
SPEEDS = np.array([1.0, 3.0, 1.0, 2.0, 1.5])
BEGINS, ENDS = np.linspace(-0.5, 0.5, SAMPLES), np.array([2.0, 3.0, 2.5, 1.5, 2.25])
LOOKS = np.stack([BEGINS + part * (ENDS - BEGINS) for part in (0.05, 0.15, 0.2)], axis=1)


class Field:
    """Lotka-Volterra systems forced in time, of one sample or of a batch."""

    def __init__(self, backend=None):
        self.backend = backend

    def __call__(self, t, y, args):
        xp = np if self.backend is None else self.backend.namespace(y)
        growth, speed = args
        prey, hunters = y[..., 0], y[..., 1]
        meet = prey * hunters
        slope = [growth * prey - meet, meet - (3.0 + 0.1 * t) * hunters]
        return speed[..., None] * xp.stack(slope, axis=-1)


def few_prey(t, y, args):
    return y[..., 0] - 1.6 * args[0]


def many_hunters(t, y, args):
    return y[..., 1] - 1.2 * args[0]


def fled(t, y, args):
    return 0.75 * y + 0.02 * args[0]


def product(t, y, args):
    return args[0] * y[..., 0] * y[..., 1] + t


WATCH = rg.Event(few_prey, terminal=False)
STOP = rg.Event(many_hunters, direction=1)
FLEE = rg.Event(many_hunters, direction=1, reset=fled)
CASES = {
    "steps": {"saveat": rg.SaveAt(t0=True, steps=True), "solver": "bosh3"},
    "several": {
        "saveat": {
            "looks": rg.SaveAt(ts=LOOKS, fn=product),
            "two": (rg.SaveAt(t0=True, t1=True), rg.SaveAt(ts=LOOKS)),
        }
    },
    "dense": {"saveat": rg.SaveAt(dense=True)},
    "events": {"event": [WATCH, STOP], "saveat": rg.SaveAt(ts=LOOKS, t1=True)},
    "second": {"event": rg.Event(many_hunters, terminal=2), "saveat": rg.SaveAt(dense=True)},
    "resets": {"event": FLEE, "saveat": rg.SaveAt(steps=True)},
    "stops": {
        "controller": rg.PIDController(1e-4, 1e-4, step_ts=[0.3, 1.1], jump_ts=[0.75]),
        "saveat": rg.SaveAt(ts=LOOKS),
    },
    "max": {"controller": rg.PIDController(1e-4, 1e-4, norm="max")},
    "own norm": {
        "controller": rg.PIDController(1e-4, 1e-4, norm=lambda r: abs(r) @ (0.0 * r + 1.0))
    },
    "reversible": {"solver": "reversible_heun", "dt": 0.05, "adjoint": "reversible"},
}


def of(i, saveat):
    """The wish of sample i."""
    if isinstance(saveat, dict):
        return {key: of(i, x) for key, x in saveat.items()}
    if isinstance(saveat, tuple):
        return tuple(of(i, x) for x in saveat)
    ts = None if saveat.ts is None else saveat.ts[i]
    return rg.SaveAt(saveat.t0, saveat.t1, ts, saveat.steps, saveat.fn, saveat.dense)


def arrays(backend, saveat):
    """A wish with times of the library."""
    if isinstance(saveat, dict):
        return {key: arrays(backend, x) for key, x in saveat.items()}
    if isinstance(saveat, tuple):
        return tuple(arrays(backend, x) for x in saveat)
    ts = None if saveat.ts is None else backend.array(saveat.ts)
    return rg.SaveAt(saveat.t0, saveat.t1, ts, saveat.steps, saveat.fn, saveat.dense)


def leaves(tree):
    """The arrays of nested dicts and tuples."""
    if isinstance(tree, (dict, tuple, list)):
        parts = tree.values() if isinstance(tree, dict) else tree
        return [x for part in parts for x in leaves(part)]
    return [] if tree is None else [np.asarray(tree)]


def weights(tree):
    """Cotangents of a tree: of finite numbers a wave, of the others 0."""
    if isinstance(tree, dict):
        return {key: weights(x) for key, x in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(weights(x) for x in tree)
    if tree is None:
        return None
    wave = np.cos(1.7 * np.arange(tree.size).reshape(tree.shape))
    return np.where(np.isfinite(tree), wave, 0.0)


def part(tree, i, like):
    """Column i of a tree, as many rows as ``like`` has."""
    if isinstance(tree, dict):
        return {key: part(x, i, like[key]) for key, x in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(part(x, i, y) for x, y in zip(tree, like, strict=True))
    return None if tree is None else tree[: len(like), i]


def singles(**keywords):
    """(solution, pullback) of each sample by itself, in NumPy."""
    found = []
    for i in range(SAMPLES):
        given = {**NEAR, **keywords}
        if "saveat" in given:
            given["saveat"] = of(i, given["saveat"])
        args = (np.float64(1.5), SPEEDS[i])
        found.append(rg.solve_vjp(Field(), STARTS[i], BEGINS[i], ENDS[i], args, **given))
    return found


def call(backend, **keywords):
    """The arguments of the batch."""
    args = (backend.array(np.float64(1.5)), rg.PerSample(backend.array(SPEEDS)))
    if "saveat" in keywords:
        keywords["saveat"] = arrays(backend, keywords["saveat"])
    start, times = backend.array(STARTS), (backend.array(BEGINS), backend.array(ENDS))
    return (Field(backend), start, *times, args), {"per_sample": True, **NEAR, **keywords}


def values(backend, sol):
    """(ys, ts, what events recorded, y at some times) of a solution, in NumPy."""
    looks = None if sol.dense is None else sol.evaluate(backend.array(LOOKS))
    hits = [(hit.ts, hit.ys, hit.after) for hit in sol.events]
    ts = tuple(sol.ts) if isinstance(sol.ts, tuple) else sol.ts
    return backend.to_numpy((sol.ys, ts, hits, looks))


def assert_like_singles(backend, sol, alone):
    """Values of every sample to rounding, counts exactly; inf where it has no row."""
    tree = values(backend, sol)
    stats = backend.to_numpy(sol.stats)
    for i, (one, _) in enumerate(alone):
        hits = [(hit.ts, hit.ys, hit.after) for hit in one.events]
        looks = None if one.dense is None else one.evaluate(LOOKS[i])
        own = one.ys, one.ts, hits, looks
        for x, y, whole in zip(leaves(part(tree, i, own)), leaves(own), leaves(tree), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
            assert np.isinf(whole[len(y) :, i]).all()
        for name in ("num_steps", "num_accepted_steps", "num_f_evals"):
            assert stats[name][i] == one.stats[name], name
        if sol.events:
            assert backend.to_numpy(sol.event)[i] == one.event
            counts = [int(backend.to_numpy(hit.count)[i]) for hit in sol.events]
            assert counts == [hit.count for hit in one.events]
    assert all(sum(int(n) for n in backend.to_numpy(hit.count)) > 2 for hit in sol.events)


def pulled(backend, pull, given, counts=(), looks=LOOKS):
    """A pullback of cotangents of (ys, ts, hits, y at times)."""
    ys, ts, hits, value = given
    keywords = {}
    if hits:
        pairs = zip(hits, counts, strict=True)
        keywords["events"] = [rg.Hit(*backend.tree(hit), count) for hit, count in pairs]
    if value is not None:
        keywords["evaluated"] = (backend.tree(looks), backend.tree(value))
    return pull(backend.tree(ys), backend.tree(ts), **keywords)


class Plain:
    """NumPy's arrays as they are."""

    @staticmethod
    def tree(tree):
        return tree


class Of:
    """Trees of NumPy's arrays as those of a library."""

    def __init__(self, backend):
        self.backend = backend

    def tree(self, tree):
        if isinstance(tree, dict):
            return {key: self.tree(x) for key, x in tree.items()}
        if isinstance(tree, (tuple, list)):
            return type(tree)(self.tree(x) for x in tree)
        return tree if tree is None else self.backend.array(tree)


def assert_gradients(backend, sol, pull, alone):
    """Of rows, their times, events and dense output, by y0, args and all times."""
    tree = values(backend, sol)
    cts = weights(tree)
    counts = [hit.count for hit in sol.events]
    g = pulled(Of(backend), pull, cts, counts)
    right = []
    for i, (one, own_pull) in enumerate(alone):
        hits = [(hit.ts, hit.ys, hit.after) for hit in one.events]
        looks = None if one.dense is None else one.evaluate(LOOKS[i])
        mine = part(cts, i, (one.ys, one.ts, hits, looks))
        right.append(pulled(Plain, own_pull, mine, [hit.count for hit in one.events], LOOKS[i]))
    close = lambda x, y: np.testing.assert_allclose(backend.to_numpy(x), y, 1e-9, 1e-9)  # noqa: E731
    for name in ("y0", "t0", "t1"):
        close(getattr(g, name), np.stack([getattr(one, name) for one in right]))
    close(g.args[0], sum(one.args[0] for one in right))
    close(g.args[1], np.stack([one.args[1] for one in right]))
    for x, *y in zip(
        leaves(backend.to_numpy(g.ts)), *(leaves(one.ts) for one in right), strict=True
    ):
        close(x, np.stack(y))


@pytest.mark.settings(
    case=list(CASES),
    few={
        "strict": ["events", "several"],
        "torch": ["second", "resets", "stops"],
        "jax": [],
    },
    slow={"jax": ["second", "events"]},
)
def test_each_sample_is_a_solve_of_its_own(backend, case):
    keywords = CASES[case]
    alone = singles(**keywords)
    given, keywords = call(backend, **keywords)
    sol, pull = rg.solve_vjp(*given, **keywords)
    assert_like_singles(backend, sol, alone)
    assert_gradients(backend, sol, pull, alone)


@pytest.mark.libraries("numpy")
def test_a_pullback_is_sent_elsewhere(backend):
    """Pickled, of the loop for all samples and of single solves."""
    for case in ("max", "end"):
        given, keywords = call(backend, **CASES.get(case, {}))
        sol, pull = rg.solve_vjp(Field(), *given[1:], **keywords)
        ct = backend.array(weights(backend.to_numpy(sol.ys)))
        there = pickle.loads(pickle.dumps(pull))
        for x, y in zip(
            leaves(backend.to_numpy(pull(ct))), leaves(backend.to_numpy(there(ct))), strict=True
        ):
            np.testing.assert_array_equal(x, y)


@pytest.mark.libraries("numpy torch strict")
@pytest.mark.parametrize("many", [{}, CASES["max"]], ids=["all", "singly"])
def test_tries_and_progress_are_told(backend, many):
    """Every try of every sample: where it began, how far it went, and whether it was accepted."""
    reported, parts = [[] for _ in range(SAMPLES)], []

    def tell(t, y, h, accepted, sample):
        for row in zip(*backend.to_numpy((t, h, accepted, sample, y)), strict=True):
            reported[int(row[3])].append(row)

    given, keywords = call(backend, **many, on_step=tell, progress=parts.append)
    sol = rg.solve(*given, **keywords)
    tries = backend.to_numpy(sol.stats["num_steps"])
    for i, rows in enumerate(reported):
        assert len(rows) == tries[i]
        at, y = BEGINS[i], STARTS[i]
        for t, h, accepted, _, start in rows:
            np.testing.assert_allclose(t, at, rtol=1e-12, atol=1e-12)
            assert (start == y).all() or t > BEGINS[i]
            at = at + h if accepted else at
        np.testing.assert_allclose(at, ENDS[i], rtol=1e-12)
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(1.0)
    assert len(parts) > 10


@pytest.mark.libraries("numpy")
def test_methods_for_stiff_problems_serve_samples(backend):
    """Where one sample is stiff, and an explicit method says so of it alone."""
    rates = np.array([1e4, 1.0, 10.0])

    def f(t, y, k):
        return -k[:, None] * (y - np.cos(t)[:, None])

    call = f, np.zeros((3, 1)), 0.0, 2.0, rg.PerSample(rates)
    sol = rg.solve(*call, per_sample=True, solver="rodas5p")
    k, t = rates, 2.0
    exact = k * (k * np.cos(t) + np.sin(t) - k * np.exp(-k * t)) / (1 + k * k)
    np.testing.assert_allclose(sol.ys[-1, :, 0], exact, atol=1e-4)
    assert sol.stats["num_steps"].max() < 40
    one_by_one = rg.PIDController(norm="max")
    reported = rg.solve(*call, per_sample=True, controller=one_by_one).stats
    assert np.isfinite(reported["stiff_from"]).tolist() == [True, False, False]


@pytest.mark.libraries("torch")
def test_autograd(backend):
    """`backward` through events, their times, dense output and rows of steps, of what a condition
    closes over too; times that every sample has for itself, and such that all share."""
    import torch

    tensor = lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True)  # noqa: E731
    level, begin, end, start = tensor(1.2), tensor(BEGINS), tensor(3.0), tensor(STARTS)
    speeds, looks = backend.array(SPEEDS), backend.array(LOOKS)
    flee = rg.Event(lambda t, y, a: y[..., 1] - level * a[0], direction=1, reset=fled)
    wish = {"all": rg.SaveAt(steps=True, dense=True), "end": rg.SaveAt(t1=True)}
    keywords = {**NEAR, "saveat": wish, "event": [flee, rg.Event(few_prey, terminal=2)]}

    def loss(sol, ts):
        hits = [(hit.ts**2, hit.ys.sin()) for hit in sol.events]
        found = [sol.evaluate(ts).sin(), *(x for hit in hits for x in hit)]
        found += [sol.ts["all"] ** 2, sol.ys["all"].sin(), sol.ts["end"], sol.ys["end"].sin()]
        return sum(torch.where(x.isfinite(), x, 0.0).sum() for x in found)

    def batch():
        args = 1.5, rg.PerSample(speeds)
        sol = rg.solve(Field(backend), start, begin, end, args, per_sample=True, **keywords)
        return loss(sol, looks)

    def alone(i):
        args = 1.5, speeds[i]
        sol = rg.solve(Field(backend), start[i], begin[i], end, args, **keywords)
        return loss(sol, looks[i])

    inputs = level, begin, end, start
    right = torch.autograd.grad(sum(alone(i) for i in range(SAMPLES)), inputs)
    for x, y in zip(torch.autograd.grad(batch(), inputs), right, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.libraries("numpy", slow="strict torch")
def test_a_sample_of_nan_leaves_the_events_of_others(backend):
    """To the last bit; it ends alone, without a hit."""
    given, keywords = call(backend, **CASES["events"])
    whole = backend.to_numpy(rg.solve(*given, **keywords))
    starts = STARTS.copy()
    starts[2] = np.nan
    found = backend.to_numpy(
        rg.solve(given[0], backend.array(starts), *given[2:], **keywords, throw=False)
    )
    assert found.status.tolist() == [*whole.status[:2], rg.Status.non_finite, *whole.status[3:]]
    others = np.arange(SAMPLES) != 2
    for x, y in zip(leaves(values(backend, found)), leaves(values(backend, whole)), strict=True):
        np.testing.assert_array_equal(x[: len(y), others], y[: len(x), others])
        assert np.isnan(x[:, 2]).all()
    assert [int(hit.count[2]) for hit in found.events] == [0, 0]


@pytest.mark.libraries("numpy")
def test_conditions_that_are_boolean_or_touch_zero(backend):
    """True at the end of a step; of one that only touches zero the time has no derivative."""
    far = rg.Event(lambda t, y, a: (y[..., 0] > 2.0) & (t > 0.0))
    y0, rates = np.array([[1.0], [1.5]]), rg.PerSample(np.array([[1.0], [2.0]]))
    keywords = {"per_sample": True, "dt": 0.3, "solver": "rk4"}
    sol, pull = rg.solve_vjp(lambda t, y, k: k * y, y0, 0.0, 3.0, rates, event=far, **keywords)
    np.testing.assert_allclose(sol.t_final, [0.9, 0.3], rtol=1e-15)
    np.testing.assert_allclose(pull(1 + 0 * sol.ys).y0, sol.ys[-1] / y0, rtol=1e-12)
    flat = rg.Event(lambda t, y, k: (y[:, 0] - 2.0) ** 3)
    sol, pull = rg.solve_vjp(lambda t, y, k: k, y0, 0.0, 3.0, rates, event=flat, **keywords)
    np.testing.assert_allclose(sol.t_final, [1.0, 0.25], rtol=1e-5)
    with pytest.raises(rg.InputError, match=r"event\[0\]` only touches zero at t = 1"):
        pull(None, 0.0 * sol.ts + 1.0)
    with pytest.raises(rg.InputError, match=r"condition` returned shape \(\); .* shape \(2,\)"):
        rg.solve(
            lambda t, y, k: y,
            y0,
            0.0,
            3.0,
            event=rg.Event(lambda t, y, k: y[0, 0]),
            per_sample=True,
        )


@pytest.mark.libraries("numpy torch", slow="strict")
def test_stiff_samples_at_once(backend, caplog):
    """Rodas5P takes the steps that it takes of single samples, to an event, with rows between; and
    its gradients are theirs."""
    stiffness = 10.0 ** (1.0 + np.array([0.0, 1.0, 2.0, 0.5, 1.5]))
    starts = np.stack([2.0 + 0.1 * np.arange(5), np.zeros(5)], axis=1)

    def oscillator(t, y, mu):
        xp = backend.namespace(y)
        x, v = y[..., 0], y[..., 1]
        return xp.stack([v, mu * (1.0 - x * x) * v - x + 0.1 * xp.cos(t)], axis=-1)

    watch = rg.Event(lambda t, y, mu: y[..., 0] - 1.95, direction=-1)
    leap = rg.Event(lambda t, y, mu: y[..., 0] - 2.05, reset=lambda t, y, mu: y - 0.02)
    wish = {"looks": rg.SaveAt(ts=[0.2, 0.7]), "steps": rg.SaveAt(steps=True, dense=True)}
    near = {"rtol": 1e-3, "atol": 1e-3}
    keywords = {"solver": "rodas5p", "event": [watch, leap], "saveat": wish, **near}
    marked = rg.PerSample(backend.array(stiffness))
    args = backend.array(starts), 0.0, backend.array(ENDS), marked
    with caplog.at_level("INFO", logger="retrograde"):
        sol, pull = rg.solve_vjp(oscillator, *args, per_sample=True, **keywords)
    assert "sample by sample" not in caplog.text
    status, steps = backend.to_numpy((sol.status, sol.stats["num_steps"]))
    assert set(status.tolist()) == {rg.Status.converged, rg.Status.event}
    cts = weights(backend.to_numpy((sol.ys, sol.ts)))
    g = backend.to_numpy(pull(*Of(backend).tree(cts)))
    for i, (y, end, mu) in enumerate(zip(starts, ENDS, stiffness, strict=True)):
        one, own = rg.solve_vjp(oscillator, y, 0.0, end, mu, **keywords)
        assert (status[i], steps[i]) == (one.status, one.stats["num_steps"])
        likes = (one.ys, one.ts), backend.to_numpy((sol.ys, sol.ts))
        for x, like in zip(leaves(part(likes[1], i, likes[0])), leaves(likes[0]), strict=True):
            np.testing.assert_allclose(x, like, rtol=1e-7, atol=1e-8)
        right = own(*part(cts, i, likes[0]))
        for name in ("y0", "args", "t1"):
            found = getattr(g, name)[i]
            np.testing.assert_allclose(found, getattr(right, name), rtol=1e-6, atol=1e-7)
