"""The continuous adjoint: right in the limit, at the solver's order; nan where it fails."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest

import retrograde as rg
from retrograde._adjoints.continuous import ContinuousAdjoint
from retrograde.measure import traced_peak

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflow where a way back fails

CONTINUOUS = {
    "reset": ContinuousAdjoint(),
    "free": ContinuousAdjoint(reset=False),
    "full norm": ContinuousAdjoint(seminorm=False),
}
STEPS = {
    "constant": {"solver": "tsit5", "dt": 0.06},
    "given": {"solver": "rk4", "controller": rg.StepTo(np.linspace(0.0, 2.0, 33).tolist())},
    "adaptive": {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-7, "max_steps": 128},
}
WISHES = {
    "t1": {},
    "rows": {"t0": True, "ts": [0.0, 0.4, 0.41, 0.41, 1.5, 2.0], "t1": True},
    "steps": {"t0": True, "steps": True},
    "fn": {"t0": True, "ts": [0.3, 1.9], "fn": lambda t, y, p: p[0] * y * t},
}


def oscillator(backend, t0=0.0):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([y[1], p[0] * (1 - y[0] ** 2) * y[1] - p[1] * y[0] + xp.cos(t)])

    return f, backend.array([1.2, -0.3]), t0, 2.0, backend.array([0.8, 1.4])


def weights_of(shape):
    return np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape)


ROWS = {"t1": 1, "rows": 8, "fn": 3}


@functools.cache
def exact_of(reference, wish):
    """Weights of the rows, and the gradient of the true ODE."""
    weights = weights_of((ROWS[wish], 2))
    return weights, flow(reference, weights, **WISHES[wish])


def flow(reference, weights, **wish):
    """The gradient of the true ODE: the discrete one of so fine a grid that they agree."""
    keywords = {"dt": 1 / 256, "saveat": rg.SaveAt(**wish), "times": True}
    return reference.gradient(*oscillator(reference), weights, **keywords)


def error(g, exact, parts=("y0", "args", "t0", "t1", "ts")):
    pairs = [(getattr(g, x), getattr(exact, x)) for x in parts if getattr(exact, x) is not None]
    return max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs)


# --- in the limit
@pytest.mark.parametrize("wish", ["t1", "rows", "fn"])
@pytest.mark.parametrize("name", ["reset", "free"])
@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("midpoint", 2), ("bosh3", 3), ("rk4", 4), ("tsit5", 5)]
)
def test_the_order_is_the_solvers(reference, solver, order, name, wish):
    """y0, parameters, t0, t1 and ts alike; rows inside steps are of the interpolant's order."""
    if solver == "tsit5" and wish != "t1":
        order = 4  # its interpolant's
    w, exact = exact_of(reference, wish)
    keywords = {"solver": solver, "saveat": rg.SaveAt(**WISHES[wish]), "times": True}
    keywords["adjoint"] = CONTINUOUS[name]
    coarse, fine = 0.08, 0.02
    errors = [
        error(reference.gradient(*oscillator(reference), w, dt=dt, **keywords), exact)
        for dt in (coarse, fine)
    ]
    observed = np.log(errors[0] / errors[1]) / np.log(coarse / fine)
    assert order - 0.4 < observed, (errors, observed)


@pytest.mark.parametrize("steps", STEPS)
def test_rows_of_all_steps(reference, steps):
    """Rows of steps' ends are rows of their times; those move with t0 unless they were given."""
    keywords = {**STEPS[steps], "saveat": rg.SaveAt(steps=True)}
    sol = rg.solve(*oscillator(reference), **keywords)
    w = weights_of(sol.ys.shape)
    g = reference.gradient(
        *oscillator(reference),
        w,
        times=True,
        adjoint=rg.BacksolveAdjoint(mode="continuous"),
        **keywords,
    )
    exact = flow(reference, w, ts=sol.ts.tolist())
    moved = 0.0 if steps == "given" else np.sum(exact.ts[:-1])
    exact = exact._replace(t0=exact.t0 + moved, t1=exact.ts[-1], ts=None)
    assert error(g, exact) < 2e-3 * np.max(np.abs(exact.args))


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("wish", ["t1", "rows", "fn"])
def test_adaptive_errors_follow_the_tolerance(reference, name, wish):
    (w, exact), errors = exact_of(reference, wish), []
    for tol in (1e-4, 1e-8):
        keywords = {"rtol": tol, "atol": tol, "saveat": rg.SaveAt(**WISHES[wish])}
        g = reference.gradient(
            *oscillator(reference), w, times=True, adjoint=CONTINUOUS[name], **keywords
        )
        errors.append(error(g, exact))
        assert errors[-1] < 200 * tol
    assert errors[1] < 1e-2 * errors[0]


@pytest.mark.device
def test_a_complex_linear_problem(backend):
    """L = Re(conj(w) y0 exp(rate T)) has its gradient in closed form."""
    y0, rate, w, t = 0.7 - 0.2j, -0.4 + 1.3j, 0.3 + 0.9j, 1.5
    g = backend.gradient(
        lambda t, y, rate: rate * y,
        backend.array([y0], "complex128"),
        0.0,
        t,
        backend.array(rate, "complex128"),
        np.asarray([[w]]),
        dt=0.02,
        times=True,
        adjoint=rg.BacksolveAdjoint(mode="continuous"),
    )
    growth = np.exp(rate * t)
    slope = np.real(np.conj(w) * rate * y0 * growth)
    np.testing.assert_allclose(g.y0, [np.conj(growth) * w], rtol=1e-9)
    np.testing.assert_allclose(g.args, np.conj(t * y0 * growth) * w, rtol=1e-9)
    np.testing.assert_allclose([g.t0, g.t1], [-slope, slope], rtol=1e-9)


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_backward_and_no_time(backend):
    """t1 < t0, and t0 == t1 where dL/dt1 = f = -dL/dt0."""

    def solve(t0, t1, **keywords):
        return backend.gradient(
            lambda t, y, k: -k * t * y,
            backend.array([2.0]),
            t0,
            t1,
            backend.array(0.5),
            times=True,
            adjoint=rg.BacksolveAdjoint(mode="continuous"),
            **keywords,
        )

    g = solve(1.0, 0.5, rtol=1e-9, atol=1e-9, max_steps=512)
    factor = np.exp(0.25 * (1 - 0.25))
    np.testing.assert_allclose(g.y0, [factor], rtol=1e-7)
    np.testing.assert_allclose(g.args, 2 * factor * 0.5 * (1 - 0.25), rtol=1e-7)
    np.testing.assert_allclose([g.t0, g.t1], [factor, -0.5 * factor], rtol=1e-7)
    for keywords in ({"dt": 0.1}, {"max_steps": 8}):
        g = solve(1.0, 1.0, **keywords)
        np.testing.assert_allclose([g.y0[0], g.args, g.t0, g.t1], [1.0, 0.0, 1.0, -1.0])


def test_the_controllers_settings_hold_on_the_way_back(reference):
    """Its first step changes its sign; and a pullback can be called again."""
    controller = rg.PIDController(rtol=1e-8, atol=1e-8, dt0=0.05, dtmax=0.1, dcoeff=0.05)
    keywords = {
        "saveat": rg.SaveAt(ts=[1.0, 1.0, 2.0]),
        "adjoint": rg.BacksolveAdjoint(mode="continuous"),
    }
    _, pullback = rg.solve_vjp(*oscillator(reference), controller=controller, **keywords)
    w = weights_of((3, 2))
    first, second = pullback(w), pullback(w)
    exact = flow(reference, w, ts=[1.0, 1.0, 2.0])
    assert error(first, exact) < 1e-5
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# --- one answer on every library
@pytest.mark.settings(
    steps=STEPS,
    wish=WISHES,
    name=CONTINUOUS,
    few={
        "numpy": [],  # the reference itself
        "jax": [("given", "fn", "free")],
        "jax:jit": [("adaptive", "rows", "reset")],
    },
    slow={
        "jax": [("given", "steps", "reset"), ("adaptive", "steps", "full norm")],
        "jax:jit": [("constant", "steps", "free"), ("constant", "t1", "free")],
    },
)
def test_all_libraries_agree(backend, reference, name, steps, wish):
    keywords = {**STEPS[steps], "saveat": rg.SaveAt(**WISHES[wish]), "times": True}
    keywords["adjoint"] = CONTINUOUS[name]
    shape = rg.solve(*oscillator(reference), **STEPS[steps], saveat=keywords["saveat"]).ys.shape
    w = weights_of(shape)
    expected = reference.gradient(*oscillator(reference), w, **keywords)
    # in the middle of a traced program the rows of steps are as many as the bound
    gradient = backend.gradient if backend.eager or wish != "steps" else backend.solve_vjp
    g = gradient(*oscillator(backend), w, **keywords)
    for actual, value in zip(g, expected, strict=True):
        if value is not None:
            np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-12)


@pytest.mark.settings(
    name=["reset", "full norm"],
    steps=["constant", "adaptive"],
    few={"jax": [("reset", "constant")]},
    slow={"jax:jit": [("full norm", "adaptive")]},
)
def test_trees_and_mixed_dtypes(backend, name, steps):
    """Parameters of another dtype than y's; integers, None and unused ones pass through."""

    def f(t, y, args):
        k = args["k"]
        return {"a": -k[0] * y["a"], "b": k[1] * y["b"] * args["n"] + 0.0 * y["a"][0]}

    y0 = {"a": backend.array([1.0, 2.0]), "b": backend.array([[0.5]])}
    args = {"k": backend.array([0.5, -0.25], "float32"), "n": 2, "none": None}
    args["unused"] = backend.array([1.0, 1.0])
    g = backend.gradient(f, y0, 0.0, 1.0, args, adjoint=CONTINUOUS[name], **STEPS[steps])
    assert g.args["k"].dtype == np.float32
    np.testing.assert_allclose(g.y0["a"], [np.exp(-0.5)] * 2, rtol=1e-5)
    np.testing.assert_allclose(g.y0["b"], [[np.exp(-0.5)]], rtol=1e-5)
    np.testing.assert_allclose(g.args["k"], [-3 * np.exp(-0.5), np.exp(-0.5)], rtol=1e-5)
    np.testing.assert_array_equal(g.args["unused"], [0.0, 0.0])


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_array_tolerances(backend):
    rtol = backend.array([1e-7, 1e-6])
    keywords = {"rtol": rtol, "atol": 1e-8, "max_steps": 256}
    g = backend.gradient(
        *oscillator(backend), adjoint=rg.BacksolveAdjoint(mode="continuous"), **keywords
    )
    exact = backend.gradient(*oscillator(backend), **keywords)
    np.testing.assert_allclose(g.args, exact.args, rtol=1e-4)
    with pytest.raises(rg.InputError, match="pass numbers, or seminorm=True"):
        backend.gradient(*oscillator(backend), adjoint=CONTINUOUS["full norm"], **keywords)


def test_the_users_vjp_is_used(reference):
    used = []

    def vjp(t, y, k, ct):
        used.append(1)
        return 0.0, -k * ct, -np.sum(ct * y)

    field = rg.VectorField(lambda t, y, k: -k * y, vjp=vjp)
    call = (np.asarray([1.0, 2.0]), 0.0, 1.0, np.asarray(0.5))
    g = reference.gradient(
        field, *call, solver="rk4", dt=0.1, adjoint=rg.BacksolveAdjoint(mode="continuous")
    )
    assert len(used) == 4 * 10
    np.testing.assert_allclose(g.args, -3 * np.exp(-0.5), rtol=1e-6)


# --- cost
def test_cost_of_a_step_and_of_the_seminorm(reference):
    """An evaluation and a vjp a stage; without the parameters' errors no more steps than with."""
    f, y0, t0, t1, p = oscillator(reference)
    calls = []

    def counted(t, y, p):
        calls.append(isinstance(y, np.ndarray))
        return f(t, y, p)

    def cost(**keywords):
        _, pullback = rg.solve_vjp(counted, y0, t0, t1, p, **keywords)
        calls.clear()
        pullback(np.ones((1, 2)))
        return calls.count(True), calls.count(False)

    # two more calls of f itself: the derivatives by t0 and t1
    assert cost(solver="rk4", dt=2 / 33, adjoint=rg.BacksolveAdjoint(mode="continuous")) == (
        2,
        4 * 33,
    )
    taken = {}
    for name in ("reset", "full norm"):
        taken[name] = cost(rtol=1e-7, atol=1e-9, adjoint=CONTINUOUS[name])[1]
    assert taken["reset"] < taken["full norm"]


def test_nothing_but_the_end_is_kept(reference):
    """Peak memory does not depend on the number of steps."""
    y0 = np.ones(50_000)

    def solved(n):
        keywords = {"solver": "rk4", "dt": 1 / n, "adjoint": rg.BacksolveAdjoint(mode="continuous")}
        return rg.solve_vjp(lambda t, y, k: -k * y, y0, 0.0, 1.0, np.asarray(0.5), **keywords)

    def peak(n):
        top = traced_peak(lambda: solved(n)[1](np.ones((1, y0.size))))
        tracemalloc.start()
        kept = solved(n), tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return kept[1], top

    few, many = peak(10), peak(100)
    assert abs(many[0] - few[0]) < 0.05 * y0.nbytes
    assert abs(many[1] - few[1]) < 0.05 * y0.nbytes
    assert many[0] < 2.2 * y0.nbytes  # the row, and the state at t1


# --- what it can't do
def test_resets_help_where_the_flow_contracts(reference):
    """y' = 50 (cos t - y): on the way back errors grow by exp(50)."""
    call = (lambda t, y, k: k * (np.cos(t) - y), np.asarray([1.5]), 0.0, 1.0, np.asarray(50.0))
    keywords = {"solver": "rk4", "dt": 0.005, "saveat": rg.SaveAt(ts=np.linspace(0, 1, 17))}
    exact = reference.gradient(*call, **{**keywords, "dt": 0.0005}).args
    errors = {}
    for name in ("reset", "free"):
        g = reference.gradient(*call, adjoint=CONTINUOUS[name], **keywords)
        errors[name] = abs(g.args / exact - 1)
    assert errors["reset"] < 1e-2
    assert errors["free"] > 1e3


@pytest.mark.settings(name=["reset", "full norm"], few={"strict": [], "jax": ["reset"]})
def test_a_way_back_that_fails_gives_nan(backend, name):
    """By overflow on constant steps; by ``max_steps`` on adaptive ones, where a is the larger."""

    def f(t, y, k):
        return backend.namespace(y).cos(t) - k * y

    call = (f, backend.array([1.0]), 0.0, 10.0, backend.array(100.0))
    keywords = {"adjoint": CONTINUOUS[name], "times": True}
    g = backend.gradient(*call, solver="rk4", dt=0.02, **keywords)
    assert np.isfinite(g.ys).all()
    assert all(np.isnan(x).all() for x in g[1:5])
    steps = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-4}
    sol = rg.solve(*oscillator(backend), **steps)
    steps["max_steps"] = int(sol.stats["num_steps"])
    g = backend.gradient(*oscillator(backend), np.asarray([[1e8, 0.0]]), **steps, **keywords)
    assert np.isfinite(g.ys).all()
    assert all(np.isnan(x).all() for x in g[1:5])


def test_a_solve_that_fails_has_no_gradient(backend):
    keywords = {
        "dt": 0.01,
        "max_steps": 40,
        "throw": False,
        "adjoint": rg.BacksolveAdjoint(mode="continuous"),
    }
    g = backend.gradient(*oscillator(backend), times=True, **keywords)
    assert all(np.isnan(x).all() for x in g[1:5])
