"""Batches whose samples have steps of their own: each is a solve by itself."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

TIGHT = {"rtol": 1e-6, "atol": 1e-6}
SAMPLES = 23
STARTS = 0.5 + 2.5 * np.random.default_rng(1).random((SAMPLES, 2))
SPEEDS = np.where(np.arange(SAMPLES) % 8 == 3, 6.0, 1.0)
BEGINS = np.linspace(-1.0, 1.0, SAMPLES)
ENDS = np.linspace(2.0, 5.0, SAMPLES)[::-1].copy()


def predators(backend):
    """Lotka-Volterra systems, each of a speed of its own, forced in time."""

    def f(t, y, args):
        xp = backend.namespace(y)
        growth, speed = args
        prey, hunters = y[:, 0], y[:, 1]
        meet = prey * hunters
        slope = xp.stack([growth * prey - meet, meet - (3.0 + 0.1 * t) * hunters], axis=1)
        return speed[:, None] * slope

    return f


def alone(i, t0, t1, **keywords):
    """Sample i by itself, in NumPy."""

    def f(t, y, args):
        meet = y[0] * y[1]
        slope = [args * y[0] - meet, meet - (3.0 + 0.1 * t) * y[1]]
        return SPEEDS[i] * np.stack(slope)

    t0, t1 = (float(np.broadcast_to(t, SAMPLES)[i]) for t in (t0, t1))
    return rg.solve(f, STARTS[i], t0, t1, 1.5, **{**TIGHT, **keywords})


def batch(backend, t0, t1, **keywords):
    args = (1.5, rg.PerSample(backend.array(SPEEDS)))
    t0, t1 = (backend.array(t) if isinstance(t, np.ndarray) else t for t in (t0, t1))
    start, keywords = backend.array(STARTS), {**TIGHT, **keywords}
    return rg.solve(predators(backend), start, t0, t1, args, per_sample=True, **keywords)


TIMES = np.linspace(BEGINS, ENDS, 4).T
CASES = {
    "end": (0.0, 4.0, {}, None),
    "spans": (BEGINS, ENDS, {}, None),
    "times": (0.0, 4.0, {"saveat": rg.SaveAt(t0=True, t1=True, ts=[0.0, 1.0, 1.1, 4.0])}, None),
    "rows": (BEGINS, ENDS, {"solver": "dopri8"}, TIMES),
    "back": (ENDS, BEGINS, {"solver": "bosh3"}, TIMES[:, ::-1].copy()),
    "constant": (BEGINS, ENDS, {"dt": 0.03, "solver": "rk4"}, TIMES),
}


@pytest.mark.settings(
    case=list(CASES), few={"strict": ["rows"], "torch": ["times", "back"], "jax": [], "jax:jit": []}
)
def test_each_sample_is_a_solve_of_its_own(backend, case):
    """Counts are equal; values too, to the rounding that steps of their own size amplify."""
    t0, t1, keywords, ts = CASES[case]
    wish = {} if ts is None else {"saveat": backend.array(ts)}
    found = batch(backend, t0, t1, **keywords, **wish)
    ys, times, stats, status = backend.to_numpy((found.ys, found.ts, found.stats, found.status))
    assert ys.shape[1:] == (SAMPLES, 2)
    assert times.shape == ys.shape[:2]
    assert (status == 0).all()
    assert found.t_final.shape == (SAMPLES,)
    for i in range(SAMPLES):
        wish = {} if ts is None else {"saveat": ts[i]}
        one = alone(i, t0, t1, **keywords, **wish)
        np.testing.assert_allclose(ys[:, i], one.ys, rtol=1e-10 if "solver" in keywords else 1e-11)
        np.testing.assert_allclose(times[:, i], one.ts, rtol=1e-15, atol=1e-15)
        for name in ("num_steps", "num_accepted_steps", "num_rejected_steps"):
            assert stats[name][i] == one.stats[name]


@pytest.mark.libraries("numpy strict torch")
def test_little_more_is_evaluated_than_samples_need(backend):
    """Those that have ended are dropped: f is called for a tenth more at most."""
    sol = batch(backend, 0.0, ENDS)
    needed = int(backend.to_numpy(sol.stats["num_f_evals"]).sum())
    assert needed <= sol.stats["num_sample_f_evals"] <= 1.1 * needed
    assert int(backend.to_numpy(sol.stats["num_f_evals"])[3]) > 3 * needed / SAMPLES


@pytest.mark.libraries("numpy strict torch", slow="jax")
def test_a_sample_of_nan_ends_alone(backend):
    """After one evaluation, with a status of its own; the others keep every bit."""
    growth = np.full(SAMPLES, 1.5)
    args = lambda x: (rg.PerSample(backend.array(x)[:, None]), rg.PerSample(backend.array(SPEEDS)))  # noqa: E731

    def f(t, y, args):
        xp = backend.namespace(y)
        prey, hunters = y[:, 0], y[:, 1]
        slope = [args[0][:, 0] * prey - prey * hunters, prey * hunters - hunters]
        return args[1][:, None] * xp.stack(slope, axis=1)

    def solved(growth):
        call = f, backend.array(STARTS), 0.0, 4.0, args(growth)
        sol = rg.solve(*call, per_sample=True, throw=False, saveat=rg.SaveAt(t1=True, ts=[1.0]))
        return sol, backend.to_numpy((sol.ys, sol.ts, sol.status, sol.t_final, sol.stats))

    whole = solved(growth)[1][0]
    growth[5] = np.nan
    sol, (ys, ts, status, t_final, stats) = solved(growth)
    others = np.arange(SAMPLES) != 5
    assert status[5] == rg.Status.non_finite
    assert (status[others] == 0).all()
    assert np.isnan(ys[:, 5]).all()
    assert np.isnan(ts[:, 5]).all()
    assert t_final[5] == 0.0
    assert (ys[:, others] == whole[:, others]).all()
    if backend.eager:
        assert stats["num_f_evals"][5] == 1
        assert stats["num_steps"][5] == 0
    with pytest.raises(rg.SolveFailed, match=r"Sample 5 \(1 of 23 failed\): .*nan or inf"):
        sol.raise_if_failed()


@pytest.mark.libraries("numpy torch", slow="strict")
def test_a_sample_that_fails_on_the_way(backend):
    """y' = y**2 of blow-up times 1/y0: one of the samples meets it, rows before it are there."""
    y0 = backend.array([[0.5], [2.0], [0.25]])
    wish = rg.SaveAt(ts=[0.25, 0.75, 1.0])
    sol = rg.solve(
        lambda t, y, a: y * y, y0, 0.0, 1.0, saveat=wish, per_sample=True, throw=False, **TIGHT
    )
    ys, status, t = backend.to_numpy((sol.ys[..., 0], sol.status, sol.t_final))
    assert status.tolist()[::2] == [0, 0]
    assert status[1] in (2, 3)
    assert abs(t[1] - 0.5) < 1e-3
    exact = [[1 / (1 / y - t) for y in (0.5, 2.0, 0.25)] for t in (0.25, 0.75, 1.0)]
    exact = np.asarray(exact)
    exact[1:, 1] = np.nan
    np.testing.assert_allclose(ys, exact, rtol=1e-5)
    with pytest.raises(rg.SolveFailed, match="Sample 1"):
        rg.solve(lambda t, y, a: y * y, y0, 0.0, 1.0, per_sample=True, **TIGHT)


@pytest.mark.libraries("numpy torch")
def test_trees_of_complex_leaves_and_rows_of_fn(backend):
    """Leaves (B,) and (B, 2, 2); rows of fn, whose leaves have the samples in front as well."""
    rates = np.linspace(0.5, 1.5, 6)
    y0 = {"a": np.ones(6) + 0j, "b": np.ones((6, 2, 2)) * (1 + 1j)}

    def f(t, y, k):
        return {"a": -k * y["a"], "b": 1j * k[:, None, None] * y["b"]}

    def fn(t, y, k):
        return {"t": t + 0.0 * k, "b": abs(y["b"][:, 0, 1])}

    start = {name: backend.array(x.tolist(), "complex128") for name, x in y0.items()}
    args = rg.PerSample(backend.array(rates, "float64"))
    keywords = {"per_sample": True, "rtol": 1e-9, "atol": 1e-9}
    sol = rg.solve(f, start, 0.0, 2.0, args, **keywords)
    exact = {"a": np.exp(-2 * rates), "b": np.exp(2j * rates)[:, None, None] * y0["b"]}
    for name, x in backend.to_numpy(sol.ys).items():
        np.testing.assert_allclose(x[0], exact[name], rtol=1e-7)
    wish = rg.SaveAt(ts=[0.0, 0.5], fn=fn)
    rows = backend.to_numpy(rg.solve(f, start, 0.0, 2.0, args, saveat=wish, **keywords).ys)
    np.testing.assert_allclose(rows["t"], np.full((2, 6), [[0.0], [0.5]]))
    np.testing.assert_allclose(rows["b"], np.full((2, 6), 2**0.5), rtol=1e-7)


BAD = {
    "no axis": ({"y0": 1.0}, "first axis of the samples"),
    "unequal": ({"y0": (np.ones((3, 1)), np.ones(2))}, "first axis of the samples, 3"),
    "args": ({"args": rg.PerSample(np.ones(2))}, "what rg.PerSample marks"),
    "t1": ({"t1": np.ones(2)}, r"`t1` has shape \(2,\); pass a number, or one for each"),
    "nan": ({"t1": np.array([1.0, np.nan, 1.0])}, "`t1` holds nan"),
    "ts": ({"saveat": np.ones((2, 1))}, r"a row for each sample, \(3, k\)"),
    "outside": ({"saveat": [0.5, 2.0]}, "outside of t0 to t1"),
    "order": ({"saveat": [0.5, 0.25]}, "out of order"),
    "StepTo": ({"controller": rg.StepTo([0.0, 1.0])}, "leave `per_sample` out"),
    "norm": ({"controller": rg.PIDController(norm="worst_sample")}, "choose 'rms' or 'max'"),
    "compile": ({"compile": True}, "`compile` is no part of"),
    "dt": ({"dt": -0.1}, "`dt` is -0.1"),
}


@pytest.mark.libraries("numpy")
@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(backend, case):
    given, message = BAD[case]
    call = {"y0": np.ones((3, 2)), "t0": 0.0, "t1": 1.0, "args": None, **given}
    with pytest.raises(rg.InputError, match=message):
        rg.solve(lambda t, y, a: y, per_sample=True, **call)


@pytest.mark.libraries("numpy")
def test_arrays_of_samples_that_f_closes_over(backend):
    """They are as long as the whole batch: an error that says how to hand them in."""
    speeds = SPEEDS[:, None]
    with pytest.raises(rg.InputError, match=r"marked as rg.PerSample\(array\)"):
        rg.solve(lambda t, y, a: -speeds * y[:1], STARTS, 0.0, ENDS, per_sample=True)


@pytest.mark.libraries("numpy torch")
def test_f_that_changes_y_is_told(backend):
    """Whenever it begins to, and whoever's arrays the loop works in."""

    def f(t, y, args):
        if t[0] > 0.5:
            y[0] = 0.0
        return -y

    with pytest.raises(rg.InputError, match="`f` changed its argument `y` in place"):
        rg.solve(f, backend.array(STARTS), 0.0, 1.0, per_sample=True)


@pytest.mark.libraries("torch")
def test_numpys_arithmetic_is_that_of_tensors(backend, monkeypatch):
    """Small batches on the CPU: PyTorch calls f alone, and all numbers are as its own would be."""
    import retrograde_backends.torch.adapter as adapter

    wish = {"saveat": rg.SaveAt(t1=True, ts=backend.array(TIMES), fn=lambda t, y, a: y * y)}
    kinds = []

    def f(t, y, args):
        kinds.append({type(x).__module__ for x in (t, y, args)})
        return -args * y

    def solved():
        args = rg.PerSample(backend.array(SPEEDS[:, None]))
        times = backend.array(BEGINS), backend.array(ENDS)
        return rg.solve(f, backend.array(STARTS), *times, args, per_sample=True, **wish)

    found = solved()
    monkeypatch.setattr(adapter, "HOSTED", 0)
    own = solved()
    backend.assert_close(found.ys, own.ys, rtol=1e-13)
    backend.assert_close(found.ts, own.ts, rtol=1e-15)
    for name in ("num_steps", "num_f_evals"):
        assert (found.stats[name] == own.stats[name]).all()
    assert all(kind == {"torch"} for kind in kinds)


@pytest.mark.libraries("jax:jit")
def test_mapped_solves_agree(backend, reference):
    """JAX: single solves under vmap, times and rows by the sample, gradients its own."""
    wish = {"saveat": backend.array(TIMES)}
    solve = backend.compiled(lambda: batch(backend, BEGINS, ENDS, **wish))
    found, eager = solve(), batch(reference, BEGINS, ENDS, saveat=TIMES)
    backend.assert_close(found.ys, eager.ys, rtol=1e-10)
    backend.assert_close(found.ts, eager.ts, rtol=1e-14)
    assert (np.asarray(found.stats["num_steps"]) == eager.stats["num_steps"]).all()
    assert found.status.shape == found.t_final.shape == (SAMPLES,)
