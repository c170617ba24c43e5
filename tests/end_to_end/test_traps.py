"""What other libraries got wrong: each case has the number of the thread that told of it."""

from __future__ import annotations

import gc
import importlib
import time

import numpy as np
import pytest

import retrograde as rg
from retrograde.measure import traced_peak

DTYPES = ("float32", "float64")
both = pytest.mark.parametrize("dtype", DTYPES)


def decay(t, y, rate):
    return -rate * y


# --- gradients


SLOPES = {1.0: 0.446134893, 2.0: 2.145918785}


@pytest.mark.settings(t1=SLOPES, few={"strict": [], "jax": [], "jax:jit": [2.0]})
def test_lorenz_sensitivity(backend, t1):
    """dz(T)/drho on the attractor, where a continuous adjoint gives 1.28 to 1.92 (T2)."""

    def lorenz(t, y, rho):
        xp = backend.namespace(y)
        u, v, w = y[0], y[1], y[2]
        return xp.stack([10.0 * (v - u), u * (rho - w) - v, u * v - 8.0 / 3.0 * w])

    y0, rho = backend.array([1.0, 1.0, 1.0]), backend.array(28.0)
    keywords = {"rtol": 1e-10, "atol": 1e-10, "adjoint": rg.RecursiveCheckpointAdjoint(16)}
    g = backend.gradient(lorenz, y0, 0.0, t1, rho, np.asarray([[0.0, 0.0, 1.0]]), **keywords)
    np.testing.assert_allclose(g.args, SLOPES[t1], rtol=1e-7)


@pytest.mark.libraries("torch", slow="jax jax:jit")
def test_second_derivatives(backend):
    """y1 = y0 exp(a b): first and second derivatives by DirectAdjoint (torchdiffeq#29, T5)."""
    y0, a, b = backend.array([4.0]), backend.array(2.0), 3.0
    keywords = {"adjoint": rg.DirectAdjoint(), "rtol": 1e-10, "atol": 1e-10, "max_steps": 256}

    def loss(a):
        return rg.solve(lambda t, y, a: a * b * y, y0, 0.0, 1.0, a, **keywords).ys[0, 0]

    exact = 4.0 * np.exp(6.0) * np.asarray([1.0, 3.0, 9.0])
    np.testing.assert_allclose(
        [backend.to_numpy(x) for x in backend.second(loss, a)], exact, rtol=1e-7
    )


@pytest.mark.parametrize("keywords", [{"dt": -0.05}, {"rtol": 1e-8, "atol": 1e-10}])
def test_time_runs_backward(backend, keywords):
    """u' = 1.01 u from u(1) = 0.1 back to t = 0 (T8)."""
    y0, k = backend.array([0.1]), backend.array(-1.01)
    g = backend.gradient(decay, y0, 1.0, 0.0, k, **keywords)
    np.testing.assert_allclose(g.ys, [[0.1 * np.exp(-1.01)]], rtol=1e-7)
    np.testing.assert_allclose(g.y0, [np.exp(-1.01)], rtol=1e-7)
    np.testing.assert_allclose(g.args, 0.1 * np.exp(-1.01), rtol=1e-7)  # d/dk, k = -1.01


class Field:
    """A field that is an object with settings and a counter."""

    def __init__(self):
        self.scale = 2.0
        self.calls = 0

    def __call__(self, t, y, args):
        self.calls += 1
        return args["slope"] + 0.0 * y if args["name"] == "line" else self.scale * y


def test_parameters_of_every_kind(backend):
    """Unused, only linear, integer, None and text leaves; a field with state (T10)."""
    f = Field()
    args = {
        "unused": backend.array([1.0, 2.0]),
        "slope": backend.array([0.5, 0.25]),
        "index": backend.xp.asarray([1, 2]),
        "count": 3,
        "nothing": None,
        "name": "line",
    }
    g = backend.gradient(f, backend.array([1.0, 1.0]), 0.0, 2.0, args, dt=0.25)
    np.testing.assert_allclose(g.ys, [[2.0, 1.5]], rtol=1e-14)
    np.testing.assert_allclose(g.args["slope"], [2.0, 2.0], rtol=1e-14)
    assert g.args["unused"].tolist() == [0.0, 0.0]
    assert all(g.args[name] is None for name in ("index", "count", "nothing", "name"))
    assert f.calls > 0


@pytest.mark.settings(slots=[None, 3], few={"jax": [3]})
def test_nan_beyond_the_end_stays_there(backend, slots):
    """f is nan behind t1, and on no lane of a batch does that reach a gradient (T11)."""
    starts = (0.1, 30.0)

    def f(t, y, args):
        xp = backend.namespace(y)
        return -(y**2) * xp.sqrt(1.0625 - t)

    keywords = {"solver": "bosh3", "rtol": 1e-5, "max_steps": 128}
    keywords["adjoint"] = rg.RecursiveCheckpointAdjoint(slots)
    if backend.eager:
        slopes = [backend.gradient(f, backend.array([x]), 0.0, 1.0, **keywords).y0 for x in starts]
    else:
        jax = importlib.import_module("jax")
        one = jax.jit(jax.grad(lambda x: rg.solve(f, x, 0.0, 1.0, **keywords).ys.sum()))
        slopes = [one(backend.array([x])) for x in starts]
        batch = jax.jit(jax.vmap(one))(backend.array([[x] for x in starts]))
        np.testing.assert_allclose(batch, slopes, rtol=1e-10)
    area = (1.0625**1.5 - 0.0625**1.5) * 2 / 3
    exact = [[1 / (1 + area * x) ** 2] for x in starts]
    np.testing.assert_allclose(slopes, exact, rtol=1e-3)


# --- time and steps


LATE = 967.1378944377053


@pytest.mark.parametrize(
    ("dtype", "dtmin", "span"),
    [("float32", 0.2, 3.0), ("float64", 0.2, 3.0), ("float64", 1e-9, 1.5e-8)],
)
def test_forced_smallest_step_at_a_late_time(backend, dtype, dtmin, span):
    """(t + dt) - t is not dt there, and yet the solve ends (diffrax#703, T16)."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return 0.0 * y + 1e9 * xp.sin(1e10 * t)

    controller = rg.PIDController(1e-8, 1e-8, dt0=dtmin, dtmin=dtmin, force_dtmin=True)
    y0 = backend.array([0.0], dtype)
    sol = rg.solve(f, y0, LATE, LATE + span, controller=controller, max_steps=100)
    assert int(sol.status) == rg.Status.converged
    assert 15 <= int(sol.stats["num_steps"]) <= 16


@both
@pytest.mark.parametrize("tau", [1e-6, 1e-11])
def test_a_thousand_steps_are_a_thousand(backend, tau, dtype):
    """dt = tau/1000 whatever the rounding of t (diffrax#632, T18)."""

    def f(t, y, args):
        return y * (-1 / tau)

    sol = rg.solve(f, backend.array([1.0], dtype), 0.0, tau, solver="euler", dt=tau / 1000)
    assert int(sol.stats["num_steps"]) == 1000
    rtol = 1e-4 if dtype == "float32" else 1e-10
    backend.assert_close(sol.ys, np.asarray([[0.999**1000]], dtype), rtol=rtol)
    backend.assert_close(sol.ts, np.asarray([tau], dtype), rtol=1e-6)


@both
@pytest.mark.parametrize("keywords", [{}, {"dt": 0.1}])
def test_no_time_passes(backend, dtype, keywords):
    """t0 == t1 returns y0 and the cotangent as they are (T20)."""
    y0, rate = backend.array([1.0, 2.0], dtype), backend.array(0.5, dtype)
    saveat = rg.SaveAt(t0=True, ts=[1.0], t1=True)
    sol = rg.solve(decay, y0, 1.0, 1.0, rate, saveat=saveat, **keywords)
    backend.assert_close(sol.ys, np.asarray([[1.0, 2.0]] * 3, dtype))
    backend.assert_close(sol.ts, np.asarray([1.0] * 3, dtype))
    weights = [[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]
    g = backend.gradient(decay, y0, 1.0, 1.0, rate, np.asarray(weights), saveat=saveat, **keywords)
    assert g.y0.tolist() == [3.0, 4.0]
    assert g.args == 0.0


def test_a_save_at_the_end_is_the_end(backend):
    """Rows at t0 and t1, asked for both ways, are equal to the bit (T20)."""
    saveat = rg.SaveAt(t0=True, ts=[0.0, 0.3, 1.0], t1=True)
    sol = rg.solve(decay, backend.array([1.0]), 0.0, 1.0, backend.array(0.7), saveat=saveat)
    ys = backend.to_numpy(sol.ys)
    assert ys[0] == ys[1] == 1.0
    np.testing.assert_allclose(ys[3], ys[4], rtol=1e-14)
    assert backend.to_numpy(sol.ts).tolist() == [0.0, 0.0, 0.3, 1.0, 1.0]


@pytest.mark.parametrize("keywords", [{"dt": 0.92}, {"controller": rg.StepTo((-2.36, -0.5, 0.09))}])
def test_a_save_at_the_end_is_found_whatever_the_rounding(backend, keywords):
    """The last step's start plus its size is 0.08999999999999997 here, and t1 is 0.09 (T20)."""
    y0, rate = backend.array([1.0]), backend.array(0.7)
    span, rows = (-2.36, 0.09), rg.SaveAt(ts=[-1.0, 0.09], t1=True)
    sol = rg.solve(decay, y0, *span, rate, saveat=rows, **keywords)
    ys = backend.to_numpy(sol.ys)
    np.testing.assert_allclose(ys[1], ys[2], rtol=1e-14)
    steps = rg.solve(decay, y0, *span, rate, saveat=rg.SaveAt(steps=True), **keywords)
    assert backend.to_numpy(steps.ts)[-1] == 0.09
    weights = np.asarray([[0.0], [1.0], [1.0]])
    g = backend.gradient(decay, y0, *span, rate, weights, saveat=rows, **keywords)
    np.testing.assert_allclose(g.y0, 2 * ys[2], rtol=1e-12)


@pytest.mark.libraries("numpy strict torch")  # compiled loops round as the compiler fuses them
def test_restart_midway_reproduces_the_run(backend):
    """A later part of the recorded steps, started from its state, ends on the same bits (T26)."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return xp.sin(3.0 * t) * y - y**3

    y0 = backend.array([1.0, 0.5])
    sol = rg.solve(f, y0, 0.0, 6.0, saveat=rg.SaveAt(steps=True), rtol=1e-6)
    times = backend.to_numpy(sol.ts).tolist()
    k = len(times) // 2
    controller = rg.StepTo(times[k:])
    rest = rg.solve(f, sol.ys[k, ...], times[k], 6.0, controller=controller)
    assert backend.to_numpy(rest.ys[-1, ...]).tolist() == backend.to_numpy(sol.ys[-1, ...]).tolist()


# --- memory and time


@pytest.mark.libraries("numpy torch", slow="strict")  # each call would be compiled anew
def test_a_hundred_gradients_leave_nothing_behind(backend):
    """Objects alive after 110 gradients as after 10 (torchdiffeq#152, #180, T29)."""
    y0, rate = backend.array([1.0, 2.0]), backend.array(0.5)
    keywords = {"solver": "heun", "dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint(3)}
    alive = []
    for count in (10, 100):
        for _ in range(count):
            backend.gradient(decay, y0, 0.0, 1.0, rate, **keywords)
        gc.collect()
        alive.append(len(gc.get_objects()))
    assert alive[1] - alive[0] < 50


def test_gradient_time_is_linear_in_steps_and_rows(reference):
    """Every step saved, 8 times the steps: 8 times the time, not 64 (T30)."""

    def seconds(n):
        y0, rate = reference.array([1.0, 2.0]), reference.array(0.5)
        keywords = {"solver": "euler", "dt": 1.0 / n, "saveat": rg.SaveAt(steps=True)}
        best = np.inf
        for _ in range(3):
            start = time.process_time()
            reference.gradient(decay, y0, 0.0, 1.0, rate, **keywords)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(4000) < 2.5 * 8 * seconds(500)


# --- the array API


@both
@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {}])
def test_dtypes_stay_and_t_is_an_array(backend, dtype, keywords):
    """Python floats promote nothing; t is 0-d, of y's library, dtype and device (T31, T32)."""
    seen = set()

    def f(t, y, rate):
        own = backend.bk.is_array(t)
        device = backend.bk.device_of(t) == backend.bk.device_of(y) if own else None
        seen.add((tuple(t.shape), str(t.dtype).rpartition(".")[-1], device))
        return -rate * y * 0.5 + t * 0.1

    y0, rate = backend.array([1.0, 2.0], dtype), backend.array(0.5, dtype)
    sol, pullback = rg.solve_vjp(f, y0, 0.0, 1.0, rate, **keywords)
    g = pullback(backend.array([[1.0, 1.0]], dtype))
    for x, shape in ((sol.ys, (1, 2)), (sol.ts, (1,)), (g.y0, (2,)), (g.args, ()), (g.t1, ())):
        backend.assert_close(x, backend.to_numpy(x))
        assert (tuple(x.shape), str(x.dtype).rpartition(".")[-1]) == (shape, dtype)
    assert seen <= {((), dtype, True), ((), dtype, None)}  # None: what the tape records
    assert ((), dtype, True) in seen


@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {"dt": 0.1, "solver": "heun"}, {}])
def test_f_may_reuse_its_output(backend, keywords):
    """A field that returns one buffer again and again, and keeps what it was given (T33)."""
    if backend.bk.name not in ("numpy", "torch", "cupy"):
        pytest.skip("arrays of this library are not written into")
    y0 = backend.array([1.0, 2.0])
    out, given = backend.array([0.0, 0.0]), []

    def reusing(t, y, args):
        given.append((y, backend.to_numpy(y).copy()))
        out[...] = -0.5 * y * (1.0 + t)
        return out

    def fresh(t, y, args):
        return -0.5 * y * (1.0 + t)

    sol = rg.solve(reusing, y0, 0.0, 2.0, **keywords)
    expected = rg.solve(fresh, y0, 0.0, 2.0, **keywords)
    assert backend.to_numpy(sol.ys).tolist() == backend.to_numpy(expected.ys).tolist()
    for y, copy in given:
        assert backend.to_numpy(y).tolist() == copy.tolist()


@pytest.mark.device
@pytest.mark.parametrize("size", [2, 1 << 14])
def test_one_host_read_a_step(backend, monkeypatch, size):
    """The error norm is all that an adaptive step reads back (cupy#4197, T35).

    Small states of PyTorch on the CPU are read where they lie, by no call of a tensor.
    """
    kind = type(backend.array(0.0))
    if not backend.eager or kind is np.ndarray:
        pytest.skip("no reads to count")
    reads = []

    def counting(plain):
        return lambda x, *rest: (reads.append(plain.__name__), plain(x, *rest))[1]

    for name in ("__float__", "__bool__", "__int__", "item"):
        if hasattr(kind, name):
            monkeypatch.setattr(kind, name, counting(getattr(kind, name)))
    counts = []
    for t1 in (2.0, 20.0):
        reads.clear()
        y0 = backend.array([1.0, 2.0] * (size // 2))
        sol = rg.solve(decay, y0, 0.0, t1, backend.array(0.7), rtol=1e-8)
        counts.append((len(reads), sol.stats["num_steps"]))
    (few, short), (many, long) = counts
    shared = backend.bk.name == "torch" and size == 2 and backend.array(0.0).device.type == "cpu"
    assert long - short > 10
    assert many - few == (0 if shared else long - short)


@pytest.mark.slow
def test_three_slots_keep_three_states(reference):
    """T28: 100 steps with 3 slots; two more slots than one are two more states alive."""
    y0 = np.linspace(0.0, 1.0, 20_000)
    field = rg.VectorField(lambda t, y, a: -a * y, vjp=lambda t, y, a, ct: (0.0, -a * ct, None))

    def peak(slots):
        adjoint = rg.RecursiveCheckpointAdjoint(slots)

        def gradient():
            keywords = {"solver": "euler", "dt": 0.01, "adjoint": adjoint}
            return rg.solve_vjp(field, y0, 0.0, 1.0, 0.5, **keywords)[1](y0[None])

        return traced_peak(gradient)

    states = (peak(3) - peak(1)) / y0.nbytes
    assert states == pytest.approx(2.0, abs=0.05)
    assert (peak(8) - peak(3)) / y0.nbytes == pytest.approx(5.0, abs=0.05)
