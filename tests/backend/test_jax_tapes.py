"""JAX: tapes that an integration keeps (``TapeAdjoint``), and stages as loops in both
directions.

Guards row J5 of ``asv_bench/report.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jnp = jax.numpy
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")

marking = pytest.mark.skipif(not gate.enabled(), reason="kernels are for the CPU, from JAX 0.7 on")


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def network(t: Any, y: Any, p: Any) -> Any:
    """Costly and short: stages are a loop forward alone."""
    return jnp.tanh(y @ p["in"] + t * p["bias"]) @ p["out"]


def bodies(t: Any, y: Any, p: Any) -> Any:
    """Costly and long: a loop in both directions; the result joins arrays."""
    x, v = y[:3], y[3:]
    apart = x[None] - x[:, None]
    pull = p[None, :, None] * apart / (jnp.sum(apart**2, -1) + 0.1)[:, :, None] ** 1.5
    return jnp.concatenate([v, jnp.sum(pull, axis=1) * (1 + 0.1 * jnp.sin(t))])


def stiffening(t: Any, y: Any, p: Any) -> Any:
    """Steps of it are rejected; two leaves."""
    u, v = y["u"], y["v"]
    return {"u": v, "v": p * (1 - jnp.exp(2 * jnp.log(jnp.abs(u) + 1e-3))) * v - jnp.sin(u)}


RNG = np.random.default_rng(3)
WEIGHTS = {
    "in": np.asarray(RNG.standard_normal((3, 9))),
    "bias": np.asarray(RNG.standard_normal(9)),
    "out": np.asarray(0.4 * RNG.standard_normal((9, 3))),
}
START = {"u": np.asarray([2.0, 1.5, 0.3, -1.0]), "v": np.asarray([0.0, 0.5, 0.1, 1.0])}
GIVEN: dict[str, tuple[Any, Any, Any]] = {
    "network": (network, np.asarray([1.0, -0.4, 0.3]), WEIGHTS),
    "bodies": (bodies, np.asarray(RNG.standard_normal((6, 2))), np.asarray([1.0, 0.6, 0.8])),
    "stiffening": (stiffening, START, np.asarray(6.0)),
}
CONSTANT: dict[str, Any] = {"solver": "tsit5", "dt": 0.05}
SHORT: dict[str, Any] = {"solver": "bosh3", "dt": 0.05}
ADAPTIVE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-7, "max_steps": 200}
STEPS: dict[str, dict[str, Any]] = {
    "euler": {"solver": "euler", "dt": 0.02},
    "rk4": {"solver": "rk4", "dt": 0.05},
    "tsit5": CONSTANT,
    "a shorter last step": {"solver": "dopri5", "dt": 0.07},
    "dopri8": {"solver": "dopri8", "dt": 0.1},
    "adaptive": ADAPTIVE,
    "bosh3": {"solver": "bosh3", **ADAPTIVE},
    "not the next step's slope": {"solver": "heun", **ADAPTIVE, "max_steps": 600},
}
OUTPUTS: dict[str, rg.SaveAt] = {
    "t1": rg.SaveAt(),
    "times": rg.SaveAt(t0=True, ts=[0.0, 0.31, 0.32, 0.9], t1=True),
    "steps": rg.SaveAt(steps=True),
}


def loss(name: str, adjoint: Any, **keywords: Any) -> Any:
    f = GIVEN[name][0]

    def total(y: Any, p: Any) -> Any:
        ys = rg.solve(f, y, 0.0, 1.0, p, adjoint=adjoint, **keywords).ys
        parts = [jnp.where(jnp.isfinite(x), x, 0.0) for x in jax.tree_util.tree_leaves(ys)]
        return sum(jnp.sum(jnp.sin(1 + jnp.arange(x.size)) * x.ravel()) for x in parts)

    return total


def given(name: str) -> tuple[Any, Any, Any]:
    """f, y0 and args, in double precision."""
    f, *arrays = GIVEN[name]
    return f, *jax.tree_util.tree_map(jnp.asarray, arrays)


def agree(found: Any, expected: Any, rtol: float = 1e-10) -> None:
    pairs = zip(*map(jax.tree_util.tree_leaves, (found, expected)), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max()))


CASES = [
    *((name, steps, "t1") for name in GIVEN for steps in ("tsit5", "adaptive")),
    *(
        ("stiffening", steps, wish)
        for steps in ("tsit5", "adaptive")
        for wish in ("times", "steps")
    ),
    *(("network", steps, "t1") for steps in STEPS if steps not in ("tsit5", "adaptive")),
    ("bodies", "tsit5", "times"),
]


@pytest.mark.quick("stiffening-adaptive-t1")
@pytest.mark.parametrize(("name", "steps", "outputs"), CASES)
def test_the_gradient_of_direct_differentiation(name, steps, outputs):
    keywords = {**STEPS[steps], "saveat": OUTPUTS[outputs]}
    _, y, p = given(name)
    found, expected = (
        jax.jit(jax.grad(loss(name, a, **keywords), (0, 1)))(y, p)
        for a in (rg.TapeAdjoint(), rg.DirectAdjoint())
    )
    agree(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adjoint"),
    [("bodies", rg.RecursiveCheckpointAdjoint()), ("stiffening", rg.BacksolveAdjoint(4))],
)
def test_loops_of_stages_where_states_are_stored(name, adjoint):
    """Rows inside steps, parameters and times: all that such a pull gives."""
    f, y, p = given(name)

    def total(adjoint: Any, y: Any, p: Any, t0: Any, t1: Any) -> Any:
        saveat = rg.SaveAt(ts=[0.3, 0.77], t1=True, fn=lambda t, y, p: t * jnp.sin(flat(y)))
        keywords = {**CONSTANT, "max_steps": 40, "saveat": saveat, "adjoint": adjoint}
        return jnp.sum(rg.solve(f, y, t0, t1, p, **keywords).ys ** 2)

    def flat(y: Any) -> Any:
        return jnp.concatenate([x.ravel() for x in jax.tree_util.tree_leaves(y)])

    found, expected = (
        jax.jit(jax.grad(lambda *x, a=a: total(a, *x), (0, 1, 2, 3)))(y, p, 0.0, 1.0)
        for a in (adjoint, rg.DirectAdjoint())
    )
    agree(found, expected)


def test_steps_of_these_cases_are_rejected():
    f, y, p = given("stiffening")
    assert rg.solve(f, y, 0.0, 1.0, p, **ADAPTIVE).stats["num_rejected_steps"] > 0


@pytest.mark.quick("0")
@pytest.mark.parametrize("wanted", [0, 1])
def test_of_the_start_or_of_parameters_alone(wanted):
    _, y, p = given("network")
    kept = [jax.tree_util.tree_leaves(jax.vjp(loss("network", a, **SHORT), y, p)[1])
            for a in (rg.TapeAdjoint(), rg.RecursiveCheckpointAdjoint())]  # fmt: skip
    assert len(kept[0]) >= len(kept[1])
    found, expected = (
        jax.jit(jax.grad(loss("network", a, **SHORT), wanted))(y, p)
        for a in (rg.TapeAdjoint(), rg.DirectAdjoint())
    )
    agree(found, expected)


@pytest.mark.slow
def test_states_stand_in_for_gradients_by_times_or_of_functions_of_states():
    f, y, p = given("bodies")
    fn = {"saveat": rg.SaveAt(ts=[0.2, 0.8], fn=lambda t, y, p: t * y**2 * p[0])}

    def total(adjoint: Any, keywords: Any) -> Any:
        return lambda y, p, t1: jnp.sum(
            rg.solve(f, y, 0.0, t1, p, adjoint=adjoint, max_steps=40, **CONSTANT, **keywords).ys
        )

    for keywords, at in (({}, (0, 1, 2)), (fn, (0, 1))):
        found, expected = (
            jax.grad(total(a, keywords), at)(y, p, 1.0)
            for a in (rg.TapeAdjoint(), rg.DirectAdjoint())
        )
        agree(found, expected)


@marking
def test_a_row_has_the_state_and_what_is_costly():
    _, y, p = given("network")
    plan = rg.plan(network, y, 0.0, 1.0, p, **CONSTANT)
    assert plan.adjoint == rg.TapeAdjoint()
    row = (3 + 9 + 1) * 8  # the state, tanh, and the time that the bias is multiplied by
    shown = {c.method: c.bytes for c in plan.candidates}
    assert plan.memory == next(size for method, size in shown.items() if "TapeAdjoint" in method)
    assert 20 * 6 * row <= plan.memory <= 20 * 6 * row + sum(plan.items.values())
    pull = jax.vjp(lambda y: rg.solve(network, y, 0.0, 1.0, p, **CONSTANT).ys, y)[1]
    kept = sum(x.nbytes for x in jax.tree_util.tree_leaves(pull))
    weights = sum(x.nbytes for x in jax.tree_util.tree_leaves(p))
    assert kept <= 20 * 6 * row + row + weights + 8 * y.nbytes


@marking
def test_the_planner_takes_tapes_where_they_are_a_gain_and_fit():
    def chosen(name: str, **keywords: Any) -> Any:
        f, y, p = given(name)
        return rg.plan(f, y, 0.0, 1.0, p, **{**CONSTANT, **keywords}).adjoint

    everything = rg.RecursiveCheckpointAdjoint()
    assert chosen("network") == chosen("bodies") == rg.TapeAdjoint()
    assert chosen("bodies", memory="20 kB") == everything
    assert chosen("network", dt=None, rtol=1e-4, max_steps=100) == rg.TapeAdjoint()
    assert chosen("network", dt=None, rtol=1e-4) == everything  # room for 4,096 tries is cleared
    assert chosen("network", dt=1e-6) != rg.TapeAdjoint()  # pages of memory cost more
    cheap = lambda t, y, p: -p * y  # noqa: E731
    plan = rg.plan(cheap, jnp.ones(3), 0.0, 1.0, jnp.ones(3), **CONSTANT)
    assert plan.adjoint == everything


@marking
@pytest.mark.quick("False-bodies")
@pytest.mark.parametrize("name", ["network", "bodies"])
@pytest.mark.parametrize("by_time", [False, True])
def test_measured_bytes_are_within_the_plan(name, by_time):
    f, y, p = given(name)
    for steps in (3, 50, 400):
        settings = {"dt": 1.0 / steps, "max_steps": steps}
        plan = rg.plan(f, y, 0.0, 1.0, p, **settings)
        assert plan.adjoint == rg.TapeAdjoint()

        def total(y: Any, p: Any, t1: Any, settings: Any = settings) -> Any:
            return jnp.sum(rg.solve(f, y, 0.0, t1, p, **settings).ys)

        gradient = jax.jit(jax.grad(total, (0, 1, 2) if by_time else (0, 1)))
        compiled = gradient.lower(y, p, 1.0).compile()
        assert compiled.memory_analysis().temp_size_in_bytes <= plan.memory


@marking
def test_f_stands_in_a_gradient_once_each_way(monkeypatch):
    monkeypatch.setenv("RETROGRADE_XLA_CPU", "1")
    _, y, p = given("bodies")
    for adjoint in (rg.TapeAdjoint(), rg.RecursiveCheckpointAdjoint()):
        gradient = jax.jit(jax.grad(loss("bodies", adjoint, **CONSTANT), (0, 1)))
        text = str(gradient.lower(y, p).as_text())
        assert text.count("xla_cpu_small_call") == 2
        # two for f and its derivative; some of what depends on parameters alone, which XLA drops
        assert 2 <= text.count("stablehlo.power") <= 8  # 18 with a copy for each stage


def test_effects_of_f_happen_once_a_stage():
    seen: list[Any] = []

    def f(t: Any, y: Any, p: Any) -> Any:
        jax.debug.callback(lambda y: seen.append(float(y[0])), y)
        return -p * jnp.tanh(y)

    keywords = {"dt": 0.25, "solver": "rk4", "adjoint": rg.TapeAdjoint()}
    jax.grad(lambda y, p: jnp.sum(rg.solve(f, y, 0.0, 1.0, p, **keywords).ys))(jnp.ones(3), 0.7)
    jax.effects_barrier()
    assert len(seen) == 4 * 4 + 1  # one more for the row before the first step
    assert all(seen)  # and none at a state that is not the solve's


def test_a_solve_that_fails_has_no_gradient():
    _, y, p = given("bodies")
    keywords = {"solver": "tsit5", "rtol": 1e-9, "atol": 1e-9, "max_steps": 3}
    g = jax.jit(jax.grad(loss("bodies", rg.TapeAdjoint(), throw=False, **keywords), (0, 1)))(y, p)
    assert all(bool(jnp.isnan(x).all()) for x in g)


@pytest.mark.quick("bodies")
@pytest.mark.parametrize("name", ["network", "bodies"])
def test_a_batch(name):
    _, y, p = given(name)
    many = jax.tree_util.tree_map(lambda x: jnp.stack([x, 1.1 * x]), y)
    one = jax.grad(loss(name, rg.TapeAdjoint(), **SHORT))
    agree(jax.jit(jax.vmap(one, (0, None)))(many, p)[1], jax.jit(one)(many[1], p))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network", "bodies"])
def test_transforms_in_any_order(name):
    _, y, p = given(name)
    many = jax.tree_util.tree_map(lambda x: jnp.stack([x, 1.1 * x, 0.9 * x]), y)
    tape, direct = (loss(name, a, **CONSTANT) for a in (rg.TapeAdjoint(), rg.DirectAdjoint()))
    one = jax.jit(jax.grad(direct, (0, 1)))
    each = [one(x, p) for x in many]
    expected = jax.tree_util.tree_map(lambda *x: jnp.stack(x), *each)
    over = (0, None)
    agree(jax.vmap(jax.grad(tape, (0, 1)), over)(many, p), expected)
    agree(jax.vmap(jax.jit(jax.grad(tape, (0, 1))), over)(many, p), expected)
    agree(jax.vmap(jax.grad(loss(name, "auto", **CONSTANT), (0, 1)), over)(many, p), expected)
    by_p = jax.grad(lambda p: jnp.sum(jax.vmap(tape, over)(many, p)))(p)
    agree(by_p, jax.tree_util.tree_map(lambda x: jnp.sum(x, axis=0), expected[1]))
    agree(jax.jvp(tape, (y, p), (y, p))[1], jax.jvp(direct, (y, p), (y, p))[1])
    agree(jax.hessian(tape)(y, p), jax.hessian(direct)(y, p), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network", "bodies"])
def test_jacobians(name):
    f, y, p = given(name)

    def end(adjoint: Any) -> Any:
        return lambda y, p: rg.solve(f, y, 0.0, 1.0, p, adjoint=adjoint, **CONSTANT).ys

    expected = jax.jacfwd(end(rg.DirectAdjoint()), (0, 1))(y, p)
    agree(jax.jacrev(end(rg.TapeAdjoint()), (0, 1))(y, p), expected)
    agree(jax.jit(jax.jacrev(end("auto"), (0, 1)))(y, p), expected)


@pytest.mark.slow
def test_float32_and_complex_states():
    _, y, p = given("network")
    y32, p32 = jax.tree_util.tree_map(lambda x: x.astype(jnp.float32), (y, p))
    gradient = jax.jit(jax.grad(loss("network", rg.TapeAdjoint(), **CONSTANT), (0, 1)))
    found, expected = gradient(y32, p32), gradient(y, p)
    assert all(x.dtype == jnp.float32 for x in jax.tree_util.tree_leaves(found))
    agree(found, expected, 1e-4)

    def f(t: Any, y: Any, p: Any) -> Any:
        return 1j * p * jnp.tanh(y) + jnp.exp(-y)

    z, q = jnp.linspace(0.1, 0.5, 9) * (1 + 0.5j), jnp.asarray(0.7)

    def total(adjoint: Any) -> Any:
        return lambda y, p: jnp.sum(
            jnp.abs(rg.solve(f, y, 0.0, 1.0, p, adjoint=adjoint, solver="rk4", dt=0.05).ys) ** 2
        )

    found, expected = (
        jax.jit(jax.grad(total(a), (0, 1)))(z, q) for a in (rg.TapeAdjoint(), rg.DirectAdjoint())
    )
    agree(found, expected)


def test_what_cannot_keep_tapes_says_so():
    _, y, p = given("network")
    message = r"`adjoint` TapeAdjoint can't store the tapes"
    for keywords in (
        {"solver": "reversible_heun", "dt": 0.1},
        {"solver": "dopri8", "dt": 0.1, "saveat": rg.SaveAt(ts=[0.5])},
    ):
        with pytest.raises(rg.UnsupportedByBackend, match=message):
            jax.grad(loss("network", rg.TapeAdjoint(), **keywords))(y, p)
    with pytest.raises(rg.UnsupportedByBackend, match=message):
        rg.solve_vjp(lambda t, y, p: -y, np.ones(2), 0.0, 1.0, dt=0.1, adjoint="tape")


@pytest.mark.slow
def test_a_pullback_of_solve_vjp_has_states():
    f, y, p = given("network")
    solution, pullback = rg.solve_vjp(f, y, 0.0, 1.0, p, adjoint="tape", **CONSTANT)
    found = pullback(jnp.ones_like(solution.ys))
    total = lambda y, p: jnp.sum(  # noqa: E731
        rg.solve(f, y, 0.0, 1.0, p, adjoint=rg.DirectAdjoint(), **CONSTANT).ys
    )
    agree((found.y0, found.args), jax.jit(jax.grad(total, (0, 1)))(y, p))
