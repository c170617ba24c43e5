"""What a solve returns: which rows, in which order, and the gradient through each of them."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

T0, T1 = 0.25, 2.0
TS = [0.5, 0.9, 1.7]
KEYWORDS = {
    "constant": {"dt": 0.2, "solver": "bosh3"},
    "adaptive": {"rtol": 1e-7, "atol": 1e-9},
}
each = pytest.mark.parametrize("steps", KEYWORDS)


def spiral(backend):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([p[0] * y[1] * xp.cos(t), -p[1] * y[0] + 0.1 * t])

    return f, backend.array([1.0, 0.4]), backend.array([1.1, 0.7])


def observe(t, y, p):
    """A function of everything it is given."""
    return {"energy": y[0] * y[0] + p[0] * y[1] * y[1] + t * t}


@each
def test_rows_come_in_their_order(backend, steps):
    f, y0, p = spiral(backend)
    whole = rg.SaveAt(t0=True, ts=TS, t1=True)
    sol = rg.solve(f, y0, T0, T1, p, saveat=whole, **KEYWORDS[steps])
    backend.assert_close(sol.ts, np.asarray([T0, *TS, T1]))
    ys = backend.to_numpy(sol.ys)
    assert ys.shape == (5, 2)
    assert ys[0].tolist() == [1.0, 0.4]
    last = rg.solve(f, y0, T0, T1, p, **KEYWORDS[steps])
    np.testing.assert_allclose(backend.to_numpy(last.ys)[0], ys[-1], rtol=1e-14)
    if backend.eager:
        for row, t in zip(ys[1:-1], TS, strict=True):
            at = rg.solve(f, y0, T0, t, p, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(
                row, backend.to_numpy(at.ys)[0], atol=2e-4 if "dt" in KEYWORDS[steps] else 1e-6
            )


@each
def test_every_step(backend, steps):
    f, y0, p = spiral(backend)
    saveat = rg.SaveAt(t0=True, steps=True)
    sol = rg.solve(f, y0, T0, T1, p, saveat=saveat, max_steps=64, **KEYWORDS[steps])
    n = int(sol.stats["num_accepted_steps"])
    ts, ys = backend.to_numpy(sol.ts), backend.to_numpy(sol.ys)
    ts, ys = ts[: n + 1], ys[: n + 1]
    assert (ts[0], ts[-1]) == (T0, T1)
    assert np.all(np.diff(ts) > 0)
    last = rg.solve(f, y0, T0, T1, p, **KEYWORDS[steps])
    np.testing.assert_allclose(backend.to_numpy(last.ys)[0], ys[-1], rtol=1e-13)
    if steps == "constant":
        np.testing.assert_allclose(ts, [*np.arange(T0, T1, 0.2), T1], rtol=1e-15)


def test_backward_rows(backend):
    f, y0, p = spiral(backend)
    sol = rg.solve(f, y0, T1, T0, p, saveat=rg.SaveAt(ts=TS[::-1]))
    backend.assert_close(sol.ts, np.asarray(TS[::-1]))
    with pytest.raises(rg.InputError, match="sort `ts` in the direction"):
        rg.solve(f, y0, T0, T1, p, saveat=rg.SaveAt(ts=TS[::-1]))


@pytest.mark.settings(steps=KEYWORDS, few={"jax": ["constant"]})
def test_a_function_of_the_state(backend, steps):
    """``fn`` is applied to each row, whatever the row is."""
    f, y0, p = spiral(backend)
    wish = {"t0": True, "ts": TS, "t1": True}
    sol = rg.solve(f, y0, T0, T1, p, saveat=rg.SaveAt(**wish), **KEYWORDS[steps])
    seen = rg.solve(f, y0, T0, T1, p, saveat=rg.SaveAt(**wish, fn=observe), **KEYWORDS[steps])
    ys, ts = backend.to_numpy(sol.ys), np.asarray([T0, *TS, T1])
    energy = ys[:, 0] ** 2 + 1.1 * ys[:, 1] ** 2 + ts**2
    np.testing.assert_allclose(backend.to_numpy(seen.ys)["energy"], energy, rtol=1e-12)


WISHES = {
    "t1": ({}, 1),
    "t0 ts t1": ({"t0": True, "ts": TS, "t1": True}, 5),
    "ends in ts": ({"ts": [T0, 0.9, T1]}, 3),
    "fn": ({"t0": True, "ts": TS, "t1": True, "fn": observe}, 5),
    "steps": ({"t0": True, "steps": True}, 10),
}


@pytest.mark.settings(wish=WISHES, slots=[None, 3], few={"jax": [("t0 ts t1", 3)]})
def test_gradients_agree_with_differences(backend, reference, wish, slots):
    """Through every kind of row to y0, args, t0, t1 and ts; steps move with t0 and t1."""
    keywords, rows = WISHES[wish]
    f, y0, p = spiral(backend)
    solver = {"solver": "bosh3", "dt": 0.2, "adjoint": rg.RecursiveCheckpointAdjoint(slots)}
    weights = np.cos(np.arange(rows * 2.0)).reshape(rows, 2)
    weights = {"energy": weights[:, 0]} if "fn" in keywords else weights
    saveat = rg.SaveAt(**keywords)
    g = backend.gradient(f, y0, T0, T1, p, weights, times=True, saveat=saveat, **solver)
    f, y0, p = spiral(reference)

    def loss(y0, p, t0, t1, *ts):
        wish = rg.SaveAt(**{**keywords, "ts": ts} if ts else keywords)
        ys = rg.solve(f, y0, t0, t1, p, saveat=wish, solver="bosh3", dt=0.2).ys
        return sum(np.sum(w * y) for w, y in zip(_leaves(weights), _leaves(ys), strict=True))

    times = () if wish == "ends in ts" else (T0, T1, *keywords.get("ts", ()))
    if not times:  # a row at an end can't move on its own
        slopes = differences(lambda y0, p: loss(y0, p, T0, T1), y0, p)
    else:
        slopes = differences(loss, y0, p, *times)
        found = [g.t0, g.t1, *(() if g.ts is None else g.ts)]
        np.testing.assert_allclose(found, slopes[2:], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(g.y0, slopes[0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(g.args, slopes[1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("direction", [1, -1])
def test_adaptive_times_agree_with_the_field(backend, direction):
    """dL/dt1 = w f(t1, y1), and dL/dt0 against differences of the exact solution."""
    t0, t1 = (T0, T1)[::direction]
    k, w = backend.array(-0.8), np.asarray([[2.0]])

    def f(t, y, k):
        return k * y * t

    keywords = {"rtol": 1e-9, "atol": 1e-11}
    g = backend.gradient(f, backend.array([1.5]), t0, t1, k, w, times=True, **keywords)
    y1 = 1.5 * np.exp(-0.4 * (t1**2 - t0**2))
    np.testing.assert_allclose(g.ys, [[y1]], rtol=1e-7)
    np.testing.assert_allclose(g.t1, 2.0 * -0.8 * t1 * y1, rtol=1e-5)
    np.testing.assert_allclose(g.t0, 2.0 * 0.8 * t0 * y1, rtol=1e-5)


def differences(loss, *inputs):
    """Central differences by every input."""
    slopes = []
    for i, x in enumerate(inputs):
        x = np.asarray(x, np.float64)
        out = np.zeros_like(x)
        for j in np.ndindex(x.shape):
            d = np.zeros_like(x)
            d[j] = 1e-6
            ends = [loss(*inputs[:i], _as(x + s * d), *inputs[i + 1 :]) for s in (1, -1)]
            out[j] = (ends[0] - ends[1]) / 2e-6
        slopes.append(out if out.shape else float(out))
    return slopes


def _as(x):
    return x if x.shape else float(x)


def _leaves(tree):
    return list(tree.values()) if isinstance(tree, dict) else [tree]


ENDING = {
    "constant": {"dt": 0.07},
    "adaptive": {"rtol": 1e-5, "atol": 1e-7},
}


@pytest.mark.parametrize("steps", ENDING)
@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "bosh3", "dopri5", "tsit5", "dopri8"])
def test_a_time_at_a_steps_end_has_its_numbers(backend, solver, steps):
    """Bit for bit those of the state, not the interpolant's; so has every other step's end."""
    if steps == "adaptive" and solver in ("euler", "rk4"):
        pytest.skip("no error estimate")
    y0 = backend.array([1.0, 0.3])

    @backend.compiled
    def run(y0):
        def solve(**wish):
            return rg.solve(
                lambda t, y, args: -y * (1.0 + t), y0, 0.0, 1.0, solver=solver,
                saveat=rg.SaveAt(**wish), max_steps=1000, **ENDING[steps],
            )  # fmt: skip

        return solve(t1=True, ts=[0.3, 1.0]).ys

    rows = backend.to_numpy(run(y0))
    np.testing.assert_array_equal(rows[1], rows[2])
    assert abs(rows[0, 0] - np.exp(-0.345)) < 0.05


@pytest.mark.quick("auto-grad", "direct-jacfwd")
@pytest.mark.parametrize("take", ["grad", "jacfwd"])
@pytest.mark.parametrize("adjoint", ["auto", "direct"])
def test_derivatives_at_a_steps_end_are_those_of_the_inside(take, adjoint):
    """By the saved time (f there), by t1 (nothing), in both modes."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def last(ts, t1):
        return rg.solve(
            lambda t, y, args: -y, jax.numpy.ones(()), 0.0, t1, dt=0.05,
            saveat=rg.SaveAt(ts=ts), adjoint=adjoint,
        ).ys[-1]  # fmt: skip

    ts, t1 = jax.numpy.asarray([0.5, 1.0]), jax.numpy.asarray(1.0)
    by_ts, by_t1 = jax.jit(getattr(jax, take)(last, (0, 1)))(ts, t1)
    np.testing.assert_allclose(by_ts, [0.0, -np.exp(-1.0)], rtol=1e-7)
    np.testing.assert_allclose(by_t1, 0.0, atol=1e-6)
