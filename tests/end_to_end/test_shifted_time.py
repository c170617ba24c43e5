"""A solve from t0 is the same solve from 0, shifted: to rounding, at any t0, in every library.

Times of 1e6 in float32 have a resolution of 0.06, of 2.46e6 in float64 one of 5e-10: what a solve
needs are their differences, which are exact. Each test solves the field ``g(t - t0, y)`` from t0,
or ``-y``, and holds it to the solve of ``g(t, y)`` from 0.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

SPAN = 1.0
KINDS = ["constant", "adaptive", "given"]


def decay(t, y, a):
    return -a * y


def pulse(backend, origin):
    """A field of t that knows where its time begins."""

    def f(t, y, a):
        xp = backend.namespace(y)
        return -a * y + xp.cos(3.0 * (t - origin))

    return f


def steps(kind, origin):
    """Constant, adaptive or given steps."""
    if kind == "constant":
        return {"dt": 1 / 64}
    if kind == "given":
        ts = [origin + SPAN * (i / 16) for i in range(17)]
        return {"controller": rg.StepTo(ts)}
    return {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.settings(kind=KINDS, few={"jax:jit": ["adaptive"]})
def test_values_in_single_precision(backend, kind):
    """Of an f without time, whatever the resolution of t itself."""
    found = []
    for origin in (0.0, 1e6):
        y0, a = backend.array([1.0, 2.0], "float32"), backend.array(1.5, "float32")
        saveat = rg.SaveAt(ts=[origin + x * SPAN for x in (0.0, 0.3125, 0.75, 1.0)], t1=True)
        keywords = {"saveat": saveat, **steps(kind, origin)}
        g = backend.gradient(decay, y0, origin, origin + SPAN, a, **keywords)
        found.append((g.ys, g.y0, g.args))
        np.testing.assert_allclose(g.ys[-1], np.exp(-1.5) * np.array([1, 2]), rtol=1e-5)
    for mine, twin in zip(*found[::-1], strict=True):
        np.testing.assert_allclose(mine, twin, rtol=1e-6)


@pytest.mark.settings(kind=KINDS, end=[SPAN, -SPAN], few={"jax:jit": [("adaptive", SPAN)]})
def test_gradients_by_times(backend, kind, end):
    """By t0, t1 and saved times, of an f of time; forward and backward in time."""
    if end < 0 and kind == "given":
        pytest.skip("forward only")
    found = []
    weights = np.array([[1.0, -2.0], [0.5, 1.0], [2.0, 0.25]])
    for origin in (0.0, 1024.0):
        y0, a = backend.array([1.0, 2.0]), backend.array(1.5)
        ts = backend.array([origin + 0.3125 * end, origin + 0.75 * end])
        settings = steps(kind, origin)
        if "dt" in settings:
            settings["dt"] *= end
        t0, t1 = (backend.array(origin + x) for x in (0.0, end))
        f = pulse(backend, origin)
        keywords = {"saveat": rg.SaveAt(ts=ts, t1=True), "times": True, **settings}
        found.append(backend.gradient(f, y0, t0, t1, a, weights, **keywords))
    for name in ("ys", "y0", "args", "t0", "t1", "ts"):
        mine, twin = (getattr(g, name) for g in found[::-1])
        np.testing.assert_allclose(mine, twin, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", ["constant", "adaptive"])
def test_microseconds_of_a_julian_date(backend, kind):
    """Float64 at 2.46e6 with steps of 1e-6: the span is what t1 - t0 is."""
    origin, small = 2.46e6, 1e-6
    end = origin + 100 * small
    span = end - origin
    y0, rate = backend.array([1.0, 2.0]), backend.array(1e4)
    keywords = {"dt": small} if kind == "constant" else {"rtol": 1e-8, "atol": 1e-10}
    saveat = rg.SaveAt(steps=True) if kind == "constant" and backend.eager else None
    sol = rg.solve(decay, y0, origin, end, rate, saveat=saveat, **keywords)
    twin = rg.solve(decay, y0, 0.0, span, rate, saveat=saveat, **keywords)
    rtol = 1e-12 if kind == "adaptive" else 1e-5  # it takes 100 steps, not 101
    np.testing.assert_allclose(
        backend.to_numpy(sol.ys)[-1], backend.to_numpy(twin.ys)[-1], rtol=rtol
    )
    exact = np.exp(-1e4 * span) * np.array([1.0, 2.0])
    np.testing.assert_allclose(backend.to_numpy(sol.ys)[-1], exact, rtol=1e-8)
    if kind == "constant":
        assert int(sol.stats["num_steps"]) == 100
    assert float(sol.t_final) == end == float(sol.ts[-1])


@pytest.mark.parametrize("origin", [0.0, 3.0, 1e5])
def test_what_f_and_the_user_see(reference, origin):
    """f and SaveAt.fn get t0 + t, ``sol.ts`` and ``t_final`` are the user's times exactly."""
    seen = []

    def f(t, y, args):
        seen.append(float(t))
        return -y

    ts = [origin, origin + 0.1, origin + 0.7, origin + 1.1]
    saveat = rg.SaveAt(t0=True, ts=ts, t1=True, fn=lambda t, y, args: t + 0 * y)
    for keywords in ({"dt": 0.25}, {"rtol": 1e-6}):
        y0 = reference.array([1.0])
        sol = rg.solve(f, y0, origin, origin + 1.1, saveat=saveat, **keywords)
        assert [*sol.ts.tolist(), sol.t_final] == [origin, *ts, origin + 1.1, origin + 1.1]
        np.testing.assert_allclose(sol.ys[:, 0], sol.ts, rtol=1e-15)
        assert min(seen) == origin
        assert abs(max(seen) - origin - 1.1) < 1e-9
        ends = rg.solve(f, y0, origin, origin + 1.1, saveat=rg.SaveAt(steps=True), **keywords)
        assert ends.ts[-1] == origin + 1.1
        assert (np.diff(ends.ts) > 0).all()


def test_adjoints_agree_at_a_large_origin(reference):
    """All of them walk the same times back."""
    y0, a = reference.array([1.0, 2.0], "float32"), reference.array(1.5, "float32")
    adjoints = [
        rg.RecursiveCheckpointAdjoint(),
        rg.RecursiveCheckpointAdjoint(3),
        rg.RecursiveCheckpointAdjoint(3, record=False),
        rg.BacksolveAdjoint(checkpoints=3, guard=1),
        rg.BacksolveAdjoint(mode="continuous"),
    ]
    for keywords in ({"dt": 1 / 64}, {"rtol": 1e-6, "atol": 1e-7}):
        for adjoint in adjoints:
            found = []
            for origin in (0.0, 1e6):
                saveat = rg.SaveAt(ts=[origin + 0.3125, origin + 0.75])
                settings = {"saveat": saveat, "adjoint": adjoint, **keywords}
                found.append(reference.solve_vjp(decay, y0, origin, origin + 1.0, a, **settings))
            for name in ("ys", "y0", "args"):
                pair = [getattr(g, name) for g in found]
                np.testing.assert_allclose(*pair, rtol=2e-6, err_msg=f"{adjoint} {keywords}")


@pytest.mark.libraries("numpy torch", slow="strict jax:jit")
@pytest.mark.parametrize("steps", [{"dt": 1 / 64}, {"rtol": 1e-10, "atol": 1e-12}], ids=str)
def test_adjoints_give_f_its_time(backend, steps):
    """y' = -k t y from 3 to 2: every stage of every pass must see t itself."""
    adjoints = [rg.RecursiveCheckpointAdjoint(3), rg.BacksolveAdjoint(mode="continuous")]
    if backend.eager:
        adjoints += [rg.BacksolveAdjoint(checkpoints=3, guard=1), rg.RecursiveCheckpointAdjoint()]
    if "dt" in steps:
        steps = {"dt": -1 / 64}
    for adjoint in adjoints:
        g = backend.gradient(
            lambda t, y, k: -k * t * y, backend.array([2.0]), 3.0, 2.0, backend.array(0.5),
            times=True, adjoint=adjoint, max_steps=256, **steps,
        )  # fmt: skip
        factor = np.exp(0.25 * (9.0 - 4.0))
        np.testing.assert_allclose(g.y0, [factor], rtol=1e-6, err_msg=str(adjoint))
        np.testing.assert_allclose(g.args, 5.0 * factor, rtol=1e-6)
        np.testing.assert_allclose([g.t0, g.t1], [3.0 * factor, -2.0 * factor], rtol=1e-6)


def test_single_precision_alone():
    """JAX's default mode: a float64 is nowhere to be had but on the host."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def row(a, t0, t1, ts, dt):
        y0 = jnp.ones((), jnp.float32)
        saveat = rg.SaveAt(ts=ts)
        return rg.solve(decay, y0, t0, t1, a, solver="bosh3", dt=dt, saveat=saveat).ys

    exact = np.exp(-np.array([0.5, 1.0]))
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        for dt, rtol in ((0.01, 1e-5), (0.001, 3e-5)):  # a thousand sums round, from 0 too
            t0, ts = 1e6, [1e6 + 0.5, 1e6 + 1]
            one = jnp.ones(())
            np.testing.assert_allclose(row(one, t0, t0 + 1, ts, dt), exact, rtol=1e-5)
            gradient = jax.jit(jax.grad(lambda a: row(a, t0, t0 + 1, ts, dt).sum()))  # noqa: B023
            np.testing.assert_allclose(gradient(one), -(exact @ [0.5, 1.0]), rtol=rtol)
        traced = jax.jit(lambda a, t0, ts: row(a, t0, t0 + 1, ts, 0.01))
        found = traced(jnp.ones(()), jnp.asarray(t0), jnp.asarray(ts))
        np.testing.assert_allclose(found, exact, rtol=1e-5)
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.settings(
    begin=[0.0, 3.0], end=[0.1, 0.3, 1.1, 5.9, 10.1], few={"jax:jit": [(0.0, 0.3), (3.0, 5.9)]}
)
def test_an_end_that_rounding_moved_is_the_end(backend, begin, end):
    """Saved times of single precision up to a t1 of double, and back to such a t0."""
    y0, a = backend.array([1.0], "float32"), backend.array(0.5, "float32")
    ts = np.linspace(begin, begin + end, 3, dtype="float32")
    exact = np.exp(-0.5 * np.array([0.0, end / 2, end])[:, None])

    def rows(t0, t1, ts, sign):
        def solve(a, ts):
            saveat = rg.SaveAt(ts=ts)
            return rg.solve(decay, y0, t0, t1, sign * a, saveat=saveat, rtol=1e-5).ys

        return backend.to_numpy(backend.compiled(solve)(a, backend.array(ts, "float32")))

    np.testing.assert_allclose(rows(begin, begin + end, ts, 1), exact, rtol=1e-4)
    np.testing.assert_allclose(rows(begin + end, begin, ts[::-1].copy(), -1), exact, rtol=1e-4)


def test_an_end_of_a_range(reference):
    """``arange`` ends on 0.30000000000000004; a time beyond is still an error."""
    y0 = reference.array([1.0])
    keywords = {"saveat": rg.SaveAt(ts=np.arange(0, 0.35, 0.1)), "dt": 0.1}
    sol = rg.solve(lambda t, y, args: -y, y0, 0.0, 0.3, **keywords)
    np.testing.assert_allclose(sol.ys[-1], np.exp(-0.3), rtol=1e-6)
    keywords["saveat"] = rg.SaveAt(ts=[0.1, 0.3 + 1e-12])
    with pytest.raises(rg.InputError, match=r"outside of .* \(`t1=ts\[-1\]`\)"):
        rg.solve(lambda t, y, args: -y, y0, 0.0, 0.3, **keywords)


@pytest.mark.libraries("numpy torch", slow="strict jax:jit")
def test_ends_of_single_precision(backend):
    """Given and constant steps up to a t1 that float32 moved: as many as up to the t1 meant."""
    y0, a = backend.array([1.0], "float32"), backend.array(0.5, "float32")
    for t0, t1 in ((10.0, 11.22), (997.0, 998.13), (0.0, 1.22)):
        end = backend.array(t1, "float32")
        times = [t0 + (t1 - t0) * i / 16 for i in range(16)] + [t1]
        for keywords in ({"dt": (t1 - t0) / 16}, {"controller": rg.StepTo(times)}):
            saveat = rg.SaveAt(ts=[t0, 0.5 * (t0 + t1), t1], t1=True)
            sol = rg.solve(decay, y0, t0, end, a, saveat=saveat, **keywords)
            assert int(sol.stats["num_steps"]) == 16
            exact = np.exp(-0.5 * (t1 - t0) * np.array([0.0, 0.5, 1.0, 1.0]))
            np.testing.assert_allclose(backend.to_numpy(sol.ys)[:, 0], exact, rtol=1e-4)
            np.testing.assert_allclose(float(sol.t_final), t1, rtol=1e-7)
