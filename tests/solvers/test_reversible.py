"""Reversible solvers: order, exact inverse, exact vjp, stability, energy, counts.

One field serves them all: a driven pendulum of two bodies, a separable system whose y is the pair
(q, p) of trees with two leaves each, non-autonomous in both halves.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde._adjoints import field_pullback
from retrograde._problem import Problem
from retrograde._types import Wanted
from retrograde.backend import Capability

SOLVERS = {
    "semi_implicit_euler": rg.SemiImplicitEuler(),
    "velocity_verlet": rg.VelocityVerlet(),
    "reversible_heun": rg.ReversibleHeun(),
    "alf": rg.ALF(),
    "alf damped": rg.ALF(0.8),
    "coupled heun": rg.Reversible(rg.Heun(), 0.99),
    "coupled bosh3": rg.Reversible(rg.Bosh3()),
    "coupled rk4": rg.Reversible(rg.RK4()),
}
CARRIED = {"reversible_heun": 3, "alf": 2, "alf damped": 2}
CARRIED |= {name: 2 for name in SOLVERS if name.startswith("coupled")}
ADJOINTS = {
    "all": rg.RecursiveCheckpointAdjoint(),
    "1 slot": rg.RecursiveCheckpointAdjoint(1),
    "4 slots": rg.RecursiveCheckpointAdjoint(4),
    "window": rg.RecursiveCheckpointAdjoint(3, window=2),
    "segments": rg.RecursiveCheckpointAdjoint(5, window=4),
    "one tape": rg.RecursiveCheckpointAdjoint(3, one_tape=True),
    "direct": rg.DirectAdjoint(),
}
WISHES = {
    "t1": {},
    "rows": {"t0": True, "ts": [0.0, 0.33, 0.41, 0.95], "t1": True},
    "steps": {"steps": True},
    "fn": {"ts": [0.33, 0.95], "fn": lambda t, y, p: p[0] * y[0][1] * t},
}
Y0 = (([0.7, -0.2], [[0.4]]), ([0.1, 0.5], [[-0.3]]))
P = [1.3, 0.6]
each = pytest.mark.parametrize("name", SOLVERS)


def pendulums(backend):
    """f, y0 and args."""

    def f(t, y, p):
        (a, b), (u, v) = y
        xp = backend.namespace(a)
        rate = 1.0 + 0.1 * xp.sin(t)
        push = p[1] * xp.cos(t)
        forces = (-p[0] * xp.sin(a) + push, -xp.sin(b) * p[1] + xp.sum(a) * 0.2)
        return (u * rate, v + 0.3 * xp.sum(u)), forces

    leaves = [[backend.array(x) for x in half] for half in Y0]
    return f, (tuple(leaves[0]), tuple(leaves[1])), backend.array(P)


# --- accuracy


@pytest.fixture(scope="module")
def exact(reference):
    f, y0, p = pendulums(reference)
    return rg.solve(f, y0, 0.0, 1.0, p, rtol=1e-13, atol=1e-13).ys


@each
def test_observed_order(backend, exact, name):
    if not backend.eager and name not in ("velocity_verlet", "reversible_heun", "coupled bosh3"):
        pytest.skip("three solvers are enough to compile")
    solver, (f, y0, p), errors = SOLVERS[name], pendulums(backend), []
    for n in (40, 80) if solver.order < 3 else (8, 16):
        ys = backend.to_numpy(rg.solve(f, y0, 0.0, 1.0, p, solver=solver, dt=1 / n).ys)
        pairs = zip(flat(ys), flat(exact), strict=True)
        errors.append(max(np.max(np.abs(a - b)) for a, b in pairs))
    assert solver.order - 0.2 < math.log2(errors[0] / errors[1]) < solver.order + 0.4


@pytest.mark.parametrize("name", ["reversible_heun", "coupled heun", "coupled bosh3"])
def test_tolerance_controls_the_error(backend, exact, name):
    if backend.jit:
        pytest.skip("as without jit")
    (f, y0, p), found = pendulums(backend), []
    for tol in (1e-3, 1e-5) if backend.eager else (1e-5,):
        sol = rg.solve(f, y0, 0.0, 1.0, p, solver=SOLVERS[name], rtol=tol, atol=tol)
        ends = zip(flat(backend.to_numpy(sol.ys)), flat(exact), strict=True)
        found.append(max(np.max(np.abs(a - b)) for a, b in ends))
    assert found[-1] < 2e-4
    assert found[-1] < found[0] / 10 or not backend.eager


def test_interpolants_join_the_ends_of_a_step(reference):
    for solver in SOLVERS.values():
        sweep, s, made = forward(reference, solver)
        s1, _, _ = sweep.attempt(0.3, 0.1, s, None)
        for theta, end in ((0.0, s), (1.0, s1)):
            expected = made.layout.split(end, solver.copies)[0]
            np.testing.assert_allclose(sweep.interpolate(theta), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["velocity_verlet", "reversible_heun", "alf", "coupled bosh3"])
def test_order_of_the_interpolant(reference, name):
    """A row inside a step is as accurate as the solve's end, up to order 2 (3 if coupled)."""
    (f, y0, p), errors = pendulums(reference), []
    at = rg.SaveAt(ts=[0.5 + 1 / 97])
    expected = rg.solve(f, y0, 0.0, 1.0, p, rtol=1e-13, atol=1e-13, max_steps=10**5, dt=1e-4,
                        saveat=at).ys  # fmt: skip
    for n in (20, 40):
        ys = rg.solve(f, y0, 0.0, 1.0, p, solver=SOLVERS[name], dt=1 / n, saveat=at).ys
        pairs = zip(flat(ys), flat(expected), strict=True)
        errors.append(max(np.max(np.abs(a - b)) for a, b in pairs))
    # theta differs between the two: the bound is of the size, not of the quotient
    assert errors[1] < (1e-6 if name == "coupled bosh3" else 1e-3)


# --- the inverse


START = 0.375


def forward(backend, solver):
    """A forward sweep, a carried state at START, and the problem."""
    f, y0, p = pendulums(backend)
    made = Problem(backend.bk, f, y0, p)
    sweep = solver.forward_sweep(backend.bk, made.layout, made.bind((p,)))
    real, h = backend.bk.clock(made.layout).real, 0.125
    s = sweep.start(real(0.0), made.y0)
    for i in range(3):  # the copies of y part
        s = sweep.advance(real(i * h), real(h), s)
    return sweep, s, made


@each
def test_inverse_of_a_step(backend, name):
    """To a few units in the last place, both ways in time.

    Steps follow each other: a slope that is carried must be that of its state and time.
    """
    if backend.jit:
        pytest.skip("as without jit")
    solver, rng = SOLVERS[name], np.random.default_rng(0)
    sweep, s, made = forward(backend, solver)
    wide, real = solver.carried(backend.bk, made.layout), backend.bk.clock(made.layout).real
    assert solver.reversible
    with backend.bk.quiet():
        t = START
        for h in rng.uniform(-0.4, 0.4, 5).tolist():
            after = sweep.advance(real(t), real(h), s)
            back = sweep.invert(real(t), real(h), after)
            pairs = zip(*(backend.to_numpy(tuple(wide.unpack(x))) for x in (back, s)), strict=True)
            assert max(np.max(np.abs(a - b)) for a, b in pairs) < 4e-15
            s, t = after, t + h


@each
def test_a_solve_and_back(reference, name):
    """A hundred steps; damping of the inverse's own (1 / lam, 1 / |1 - 2 eta|) is allowed for."""
    solver = SOLVERS[name]
    sweep, s, _ = forward(reference, solver)
    states, dt, n = [s], 0.05, 100
    for i in range(n):
        states.append(sweep.advance(START + i * dt, dt, states[-1]))
    growth = {"alf damped": 1 / 0.6, "coupled heun": 1 / 0.99}.get(name, 1 / 0.999)
    worst, s = 0.0, states[-1]
    for i in reversed(range(n)):
        s = sweep.invert(START + i * dt, dt, s)
        worst = max(worst, np.max(np.abs(s - states[i])) / growth ** (n - i))
    assert worst < 2e-13


def test_runge_kutta_steps_are_inverted_to_their_order(backend):
    """One step back: not exact, O(h**(order + 1)); what a guarded backsolve begins with."""
    if backend.jit:
        pytest.skip("as without jit")
    sweep, s, made = forward(backend, rg.RK4())
    real, errors = backend.bk.clock(made.layout).real, []
    for h in (0.2, 0.1):
        back = sweep.invert(real(0.3), real(h), sweep.advance(real(0.3), real(h), s))
        pairs = zip(*(backend.to_numpy(tuple(made.layout.unpack(x))) for x in (back, s)),
                    strict=True)  # fmt: skip
        errors.append(max(np.max(np.abs(a - b)) for a, b in pairs))
    assert not rg.RK4().reversible
    assert 4.5 < math.log2(errors[0] / errors[1]) < 6.5


# --- the step's vjp


@each
@pytest.mark.parametrize("one_tape", [False, True])
def test_inner_product_identity(backend, name, one_tape):
    """<g, J v> = <J^T g, v> for a carried state, the parameters, t and h."""
    if not backend.eager:
        pytest.skip("the generic layout, which strict covers")
    solver, rng = SOLVERS[name], np.random.default_rng(1)
    _, s, made = forward(backend, solver)
    wide, params, t, h = solver.carried(backend.bk, made.layout), backend.array(P), 0.3, 0.25
    vjp = field_pullback(made, (params,), Wanted((True,), True, True, False))
    field = made.bind((params,)) if one_tape else None
    sweep = solver.reverse_sweep(
        backend.bk, made.layout, vjp, outputs=False, time=True, field=field
    )

    def packed(leaves):
        return wide.pack([backend.array(x) for x in leaves])

    def noise():
        return [rng.normal(size=shape) for shape in wide.shapes]

    def numbers(state):
        return backend.to_numpy(tuple(wide.unpack(state)))

    def ahead(e, v, q, a, b):
        moved = packed([x + e * d for x, d in zip(base, v, strict=True)])
        run = made.bind((backend.array(np.asarray(P) + e * q),))
        forth = solver.forward_sweep(backend.bk, made.layout, run)
        return [x.copy() for x in numbers(forth.advance(t + e * a, h + e * b, moved))]

    base, g = [np.asarray(x).copy() for x in numbers(s)], noise()
    with backend.bk.quiet():
        step, _ = sweep.pull(t, h, packed(base), packed(g), vjp.zero())
        cts, ct_p = numbers(step.y), backend.to_numpy(vjp.finish(step.params)[0])
        for _ in range(3):
            v, q, (a, b), e = noise(), rng.normal(size=2), rng.normal(size=2).tolist(), 1e-5
            ends = zip(ahead(e, v, q, a, b), ahead(-e, v, q, a, b), strict=True)
            slopes = [(x - y) / (2 * e) for x, y in ends]
            expected = sum(np.sum(x * y) for x, y in zip(g, slopes, strict=True))
            found = sum(np.sum(x * y) for x, y in zip(cts, v, strict=True)) + ct_p @ q
            np.testing.assert_allclose(
                found + float(step.t) * a + float(step.h) * b, expected, rtol=2e-8
            )


# --- gradients of solves


def gradient(backend, name, wish, adjoint, weights=None, **keywords):
    f, y0, p = pendulums(backend)
    saveat = rg.SaveAt(**WISHES[wish])
    keywords = {"solver": SOLVERS[name], "dt": 0.1, "times": True, **keywords}
    return backend.gradient(
        f, y0, 0.0, 1.0, p, weights, saveat=saveat, adjoint=ADJOINTS[adjoint], **keywords
    )


COMPILED = {
    False: {
        ("velocity_verlet", "rows", "4 slots"),
        ("reversible_heun", "steps", "window"),
        ("coupled heun", "rows", "segments"),
    },
    True: {
        ("velocity_verlet", "rows", "direct"),
        ("reversible_heun", "rows", "direct"),
        ("alf", "fn", "4 slots"),
    },
}
"""What is compiled for a test, without jax.jit and with it."""


@each
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_every_adjoint_gives_one_gradient(backend, reference, name, wish, adjoint):
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has no autodiff")
    if not backend.eager and (name, wish, adjoint) not in COMPILED[backend.jit]:
        pytest.skip("the settings that compile to programs of their own")
    weights = waves(gradient(reference, name, wish, "all").ys)
    expected = gradient(reference, name, wish, "all", weights)
    same(gradient(backend, name, wish, adjoint, weights), expected)


@pytest.mark.parametrize("name", ["reversible_heun", "coupled heun"])
@pytest.mark.parametrize("wish", ["rows", "steps"])
@pytest.mark.parametrize("adjoint", ["4 slots", "direct"])
def test_adaptive_steps(backend, reference, name, wish, adjoint):
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has no autodiff")
    compiled = {("coupled heun", "4 slots", False), ("reversible_heun", "direct", True)}
    if not backend.eager and (wish == "steps" or (name, adjoint, backend.jit) not in compiled):
        pytest.skip("a program of each is enough to compile")
    steps = {"dt": None, "rtol": 1e-3, "atol": 1e-4, "max_steps": 128}
    weights = waves(gradient(reference, name, wish, "all", **steps).ys)
    expected = gradient(reference, name, wish, "all", weights, **steps)
    same(gradient(backend, name, wish, adjoint, weights, **steps), expected)


def waves(ys):
    """Different weights for all rows and elements."""
    if isinstance(ys, tuple):
        return tuple(waves(x) for x in ys)
    return np.cos(np.arange(ys.size)).reshape(ys.shape)


def same(g, expected):
    for actual, value in zip(flat(g), flat(expected), strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-11)


def flat(tree):
    if tree is None:
        return []
    if isinstance(tree, tuple):
        return [x for part in tree for x in flat(part)]
    return [np.asarray(tree)]


@each
def test_gradient_against_differences(reference, name):
    """All inputs at once, along one direction; the last step is short, for then t1 may move."""
    f, y0, p = pendulums(reference)
    rng, t1 = np.random.default_rng(2), 0.97
    ts = np.asarray([0.33, 0.41, 0.95])

    def loss(y0, p, start, end, ts):
        rows = rg.SaveAt(ts=ts, t1=True)
        sol = rg.solve(f, y0, start, end, p, solver=SOLVERS[name], dt=0.1, saveat=rows)
        return sum(np.sum(w * x) for w, x in zip(flat(waves(sol.ys)), flat(sol.ys), strict=True))

    rows = rg.SaveAt(ts=ts, t1=True)
    sol, pullback = rg.solve_vjp(
        f, y0, 0.0, t1, p, solver=SOLVERS[name], dt=0.1, saveat=rows,
        adjoint=rg.RecursiveCheckpointAdjoint(4),
    )  # fmt: skip
    g = pullback(waves(sol.ys))
    inputs = (y0, p, 0.0, t1, ts)
    directions = [rng.normal(size=x.shape) for x in flat(inputs)]

    def moved(e):
        new = iter(x + e * d for x, d in zip(flat(inputs), directions, strict=True))
        start = ((next(new), next(new)), (next(new), next(new)))
        return loss(start, next(new), float(next(new)), float(next(new)), next(new))

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    cts = flat((g.y0, g.args, g.t0, g.t1, g.ts))
    found = sum(np.sum(x * d) for x, d in zip(cts, directions, strict=True))
    np.testing.assert_allclose(found, slope, rtol=1e-7)


# --- the linear test problem


def matrix(solver, z):
    """A step of size 1 on y' = z y, as the matrix on what is carried."""
    y0 = np.asarray([1.0 + 0j])
    made = Problem(np_backend(), lambda t, y, args: z * y, y0, None)
    sweep = solver.forward_sweep(made.bk, made.layout, made.bind(()))
    unit = np.eye(solver.copies, dtype=complex)
    return np.stack([sweep.advance(0.0, 1.0, e) for e in unit], axis=1)


def np_backend():
    from retrograde._registry import adapter

    return adapter("numpy")


@pytest.mark.parametrize("lam", [0.999, 0.99, 0.9])
@pytest.mark.parametrize("base", [rg.Heun(), rg.RK4(), rg.Tsit5()], ids=lambda s: s.name)
def test_coupled_steps_on_the_linear_problem(base, lam):
    """Determinant lam; stable on the negative axis exactly where the base's R(z) is above lam."""
    solver = rg.Reversible(base, lam)
    for z in (-0.3, 0.2, 0.5j, -0.1 + 1j):
        np.testing.assert_allclose(np.linalg.det(matrix(solver, z)), lam, rtol=1e-13)

    def radius(z):
        return np.max(np.abs(np.linalg.eigvals(matrix(solver, z))))

    edge = -math.log(lam)
    assert radius(-0.98 * edge) <= 1 + 1e-12
    assert radius(-1.05 * edge) > 1


@pytest.mark.parametrize("solver", [rg.ReversibleHeun(), rg.ALF()], ids=lambda s: s.name)
def test_undamped_solvers_are_stable_on_a_segment(solver):
    def radius(z):
        return np.max(np.abs(np.linalg.eigvals(matrix(solver, z))))

    for y in (0.1, 0.5, 0.99):
        assert radius(1j * y) < 1 + 1e-7
    assert radius(1.02j) > 1.05
    assert radius(-0.05) > 1.04


@pytest.mark.parametrize("eta", [0.6, 0.8, 0.95])
def test_damped_alf_on_the_linear_problem(eta):
    def radius(z):
        return np.max(np.abs(np.linalg.eigvals(matrix(rg.ALF(eta), z))))

    for z in (-0.2, 0.3j, 0.1):
        determinant = np.linalg.det(matrix(rg.ALF(eta), z))
        np.testing.assert_allclose(determinant, 1 - 2 * eta, rtol=1e-13)
    edge = 2 * (1 - eta) / eta
    assert radius(-0.99 * edge) <= 1 + 1e-12
    assert radius(-1.01 * edge) > 1


# --- long times


def oscillator(t, y, k):
    return y[1], -k * y[0]


@pytest.mark.parametrize("solver", ["semi_implicit_euler", "leapfrog"])
def test_energy_stays_bounded(reference, solver):
    """Twelve thousand steps of a pendulum; Euler's energy grows beyond all bounds on the way."""

    def pendulum(t, y, args):
        return y[1], -np.sin(y[0])

    def energies(solver, n):
        y0 = (np.asarray([1.0]), np.asarray([0.0]))
        at = rg.SaveAt(ts=list(np.linspace(0, n * 0.1, 400)))
        q, p = rg.solve(pendulum, y0, 0.0, n * 0.1, solver=solver, dt=0.1, saveat=at).ys
        return p**2 / 2 - np.cos(q)

    e = energies(solver, 12_000)
    bound = 0.06 if solver == "semi_implicit_euler" else 3e-3
    assert np.max(np.abs(e - e[0])) < bound
    late, early = np.max(np.abs(e[200:] - e[0])), np.max(np.abs(e[:200] - e[0]))
    assert late < 1.1 * early
    assert np.max(np.abs(energies("euler", 1200) - e[0])) > 1


def spring(backend, t1, saves, dt=1e-4):
    """T7: r' = v, v' = -k r from (1, 0), its rows and the gradient of sum(r) to k."""
    y0 = (backend.array([1.0]), backend.array([0.0]))
    ts = [t1 * (i + 1) / saves for i in range(saves)]
    weights = (np.ones((saves, 1)), np.zeros((saves, 1)))
    g = backend.gradient(
        oscillator, y0, 0.0, t1, backend.array(1.0), weights, solver="leapfrog", dt=dt,
        saveat=rg.SaveAt(ts=ts), adjoint=rg.RecursiveCheckpointAdjoint(100),
    )  # fmt: skip
    t = np.asarray(ts)
    np.testing.assert_allclose(g.ys[0][:, 0], np.cos(t), atol=3e-8 * max(1, dt / 1e-4) ** 2)
    expected = np.sum(-t * np.sin(t) / 2)
    np.testing.assert_allclose(g.args, expected, rtol=1e-6 * max(1, dt / 1e-4) ** 2)


def test_spring(backend):
    """T7, a tenth of its time in larger steps."""
    spring(backend, 3.0, 30, 1e-3)


@pytest.mark.slow
def test_spring_in_full(backend):
    if backend.bk.name not in ("numpy", "jax"):
        pytest.skip("300,000 steps")
    spring(backend, 30.0, 300)


# --- counts, names, input


@each
@pytest.mark.parametrize("wish", ["t1", "steps", "adaptive"])
def test_evaluations_are_counted_right(reference, name, wish):
    f, y0, p = pendulums(reference)
    solver, calls = SOLVERS[name], []
    keywords = {"dt": 0.1} if wish != "adaptive" else {"rtol": 1e-3}
    if wish == "adaptive" and solver.error_order is None:
        pytest.skip("no error estimate")
    saveat = rg.SaveAt(steps=wish == "steps")

    def counted(t, y, p):
        calls.append(t)
        return f(t, y, p)

    sol = rg.solve(counted, y0, 0.0, 1.0, p, solver=solver, saveat=saveat, **keywords)
    assert sol.stats["num_f_evals"] == len(calls) - 1  # one that looks at what f returns
    assert solver.copies == CARRIED.get(name, 1)


def test_stages_are_evaluations_of_a_pull(reference):
    """What the planner is told: as many tapes as a step linearises with output inside."""
    f, y0, p = pendulums(reference)
    for solver in SOLVERS.values():
        calls = []

        def counted(t, y, p, calls=calls):
            calls.append(t)
            return f(t, y, p)

        _, pullback = rg.solve_vjp(
            counted, y0, 0.0, 0.5, p, solver=solver, dt=0.5, saveat=rg.SaveAt(ts=[0.5])
        )
        calls.clear()
        pullback((tuple(np.ones((1, *x.shape)) for x in y0[0]),) * 2)
        start = solver.programs().start
        assert len(calls) <= solver.stages + (len(start.body) if start else 0)


def test_names(reference):
    y0 = (np.asarray([1.0]), np.asarray([0.5]))
    for name, solver in {
        **dict(list(SOLVERS.items())[:4]),
        "leapfrog": rg.VelocityVerlet(),
    }.items():
        found = [
            rg.solve(oscillator, y0, 0.0, 1.0, 2.0, solver=s, dt=0.1).ys for s in (name, solver)
        ]
        assert np.array_equal(found[0], found[1])
    assert rg.Reversible(rg.RK4()) == rg.Reversible(rg.RK4(), 0.999)
    assert hash(rg.ALF(0.9)) != hash(rg.ALF())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rg.ALF(0.5), r"`eta` is 0.5; .* no inverse"),
        (lambda: rg.ALF(0.0), r"`eta` is 0.0"),
        (lambda: rg.ALF(1.5), r"`eta` is 1.5"),
        (lambda: rg.ALF("1"), r"`eta` is '1'"),
        (lambda: rg.Reversible("rk4"), r"`base` is 'rk4'; .* rg.Tsit5\(\)"),
        (lambda: rg.Reversible(rg.ALF()), r"`base` is ALF"),
        (lambda: rg.Reversible(rg.RK4(), 0.0), r"`coupling` is 0.0"),
        (lambda: rg.Reversible(rg.RK4(), 1.01), r"`coupling` is 1.01"),
        (lambda: rg.Reversible(rg.RK4(), True), r"`coupling` is True"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(rg.InputError, match=message):
        make()


@pytest.mark.parametrize("solver", ["leapfrog", "semi_implicit_euler"])
def test_containers_of_a_pair(backend, solver):
    """Tuple, list and namedtuple; the shapes of q and p may differ, their sizes may not."""
    if backend.jit:
        pytest.skip("as without jit")
    from collections import namedtuple

    kind = namedtuple("Phase", "q p")
    for make in (lambda q, p: (q, p), lambda q, p: [q, p], kind):

        def f(t, y, args, make=make):
            return make(backend.namespace(y[1]).reshape(y[1], (2, 1)), -y[0][:, 0])

        y0 = make(backend.array([[1.0], [0.0]]), backend.array([0.0, 1.0]))
        sol = rg.solve(f, y0, 0.0, 1.0, solver=solver, dt=0.01)
        assert type(sol.ys) is type(y0)
        np.testing.assert_allclose(backend.to_numpy(sol.ys)[1][0, 0], -math.sin(1.0), atol=1e-2)


def test_a_system_that_is_not_separable_is_stepped_and_differentiated(reference):
    """Documented: no error, the exact gradient of the steps taken, an inverse to O(h**2)."""

    def damped(t, y, k):
        q, p = y
        return p - 0.2 * q, -k * q - 0.5 * p

    y0, errors = (np.asarray([1.0]), np.asarray([0.3])), []
    g = reference.gradient(damped, y0, 0.0, 1.0, np.asarray(1.3), solver="leapfrog", dt=0.1)
    ends = [
        sum(x.sum() for x in rg.solve(damped, y0, 0.0, 1.0, k, solver="leapfrog", dt=0.1).ys)
        for k in (1.3 + 1e-6, 1.3 - 1e-6)
    ]
    np.testing.assert_allclose(g.args, (ends[0] - ends[1]) / 2e-6, rtol=1e-8)
    made = Problem(reference.bk, damped, y0, np.asarray(1.3))
    sweep = rg.VelocityVerlet().forward_sweep(reference.bk, made.layout, made.bind(made.params))
    for h in (0.1, 0.05):
        back = sweep.invert(0.0, h, sweep.advance(0.0, h, made.y0))
        errors.append(np.max(np.abs(back - made.y0)))
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.3


@pytest.mark.parametrize("form", ["single", "complex128", "float32"])
def test_dtypes(backend, form):
    """float32 and complex states come out as they went in, carried copies and all."""
    if backend.jit:
        pytest.skip("as without jit")
    dtype = "float64" if form == "single" else form
    for solver in (rg.ReversibleHeun(), rg.ALF(), rg.Reversible(rg.Heun())):
        y0 = backend.array([1.0, 0.5], dtype)
        spin = 0.7j if dtype == "complex128" else -0.3
        sol = rg.solve(lambda t, y, args, spin=spin: spin * y, y0, 0.0, 1.0, solver=solver, dt=0.01)
        assert sol.ys.dtype == y0.dtype
        np.testing.assert_allclose(
            backend.to_numpy(sol.ys)[0], np.exp(spin) * np.asarray([1.0, 0.5]), rtol=1e-4
        )


def test_a_failed_solve_says_where(backend):
    """What is carried turns nan: the last good state and a nan gradient."""
    if backend.jit or backend.bk.name == "array_api_strict":
        pytest.skip("as without jit; strict arrays warn of overflow")

    def blows(t, y, args):
        return y * y

    y0 = backend.array([1.0])
    for solver in ("reversible_heun", "alf"):
        sol = rg.solve(blows, y0, 0.0, 3.0, solver=solver, dt=0.05, throw=False)
        assert sol.status is rg.Status.non_finite
        g = backend.solve_vjp(blows, y0, 0.0, 3.0, solver=solver, dt=0.05, throw=False)
        assert np.isnan(g.y0).all()
