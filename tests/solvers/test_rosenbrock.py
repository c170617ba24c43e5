"""The mathematics of Rosenbrock methods: tableaus, stability, orders, the exact vjp of a step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import retrograde as rg

METHODS = [rg.Rodas5P(), rg.Rosenbrock23()]
every_method = pytest.mark.parametrize("solver", METHODS, ids=lambda solver: solver.name)

Y0, ARGS, T0, T1 = [1.0, 0.3, -0.2], [5.0, 1.3, 2.0], 0.1, 1.2
TS = [0.33, 0.7123, 1.1234]
"""Not at the ends of steps, where the interpolant's slope jumps."""


def forced(backend):
    """A field that depends on its time, with second derivatives by everything."""

    def f(t, y, k):
        xp = backend.namespace(y)
        return xp.stack([
            -k[0] * (y[0] - xp.cos(t)) + y[1] ** 2,
            k[1] * y[0] * y[2] - y[1],
            xp.sin(k[2] * t) * y[0] - y[2],
        ])  # fmt: skip

    return f


def stability(tableau, z):
    """What a step of y' = lambda y makes of y = 1, and its embedded method, for z = h lambda."""
    u = []
    for a, c in zip(tableau.a, tableau.coupling, strict=True):
        argument = 1.0 + sum(x * v for x, v in zip(a, u, strict=True))
        right = z * argument + sum(x * v for x, v in zip(c, u, strict=True))
        u.append(right / (1.0 / tableau.gamma - z))
    y1 = 1.0 + sum(x * v for x, v in zip(tableau.b, u, strict=True))
    return y1, y1 - sum(x * v for x, v in zip(tableau.b_error, u, strict=True))


@every_method
def test_the_tableau_has_the_orders_that_it_states(solver):
    tableau = solver.tableau
    tableau.check()
    for name in ("a", "coupling", "b_error", "interpolation"):
        rows = getattr(tableau, name)
        # entries of the last stage may be anything: it is of the order of the error
        if name == "b_error":
            wrong = (rows[0] + 1e-6, *rows[1:])
        else:
            wrong = (*rows[:-1], (rows[-1][0] + 1e-6, *rows[-1][1:]))
        with pytest.raises(ValueError, match="is off by"):
            dataclasses.replace(tableau, **{name: wrong}).check()
    assert tableau.weights(1.0) == tableau.b
    with pytest.raises(ValueError, match="entries"):
        dataclasses.replace(tableau, c=tableau.c[1:])
    with pytest.raises(ValueError, match="lengths"):
        dataclasses.replace(tableau, a=tableau.a[1:])


@every_method
def test_l_stable(solver):
    """No growth on the imaginary axis, which bounds the left half plane; nothing left at infinity.

    The embedded method of Rodas5P is L-stable, too: estimates of stiff errors are not too large.
    """
    for w in np.geomspace(1e-2, 1e6, 2001):
        assert abs(stability(solver.tableau, 1j * w)[0]) <= 1.0 + 1e-9
    y1, lower = stability(solver.tableau, -1e9)
    assert abs(y1) < 1e-7
    if isinstance(solver, rg.Rodas5P):
        assert abs(lower) < 1e-7
        ends = solver.tableau.a[-1], solver.tableau.b
        assert ends[0] == ends[1][:-1]  # y1 is the last stage with its increment
        assert ends[1][-1] == 1.0


@every_method
@pytest.mark.libraries("numpy strict")
def test_order_of_steps_and_of_their_inside(backend, solver):
    """Constant steps of a field that depends on its time, forward and back, against dopri8."""
    f, y0, k = forced(backend), backend.array(Y0), backend.array(ARGS)
    ends = [(T0, T1), (T0, -0.4)] if backend.bk.name == "numpy" else [(T0, T1)]
    for t0, t1 in ends:
        ts = [t0 + x * (t1 - t0) for x in (0.21, 0.57, 1.0)]
        close = {"solver": "dopri8", "rtol": 1e-13, "atol": 1e-14, "saveat": ts}
        exact = backend.to_numpy(rg.solve(f, y0, t0, t1, k, **close).ys)
        errors = []
        for n in (16, 32):
            dt = (t1 - t0) / n
            sol = rg.solve(f, y0, t0, t1, k, solver=solver, dt=dt, saveat=ts)
            errors.append(np.max(np.abs(backend.to_numpy(sol.ys) - exact), axis=1))
        rate = np.log2(errors[0] / errors[1])
        assert rate[-1] > solver.order - 0.35
        assert np.all(rate > solver.tableau.interpolation_order - 0.35)


@every_method
@pytest.mark.libraries("numpy strict torch jax:jit")
def test_the_gradient_is_that_of_the_discrete_solve(backend, solver):
    """All inputs, rows inside of steps and a shortened last one, by central differences in
    NumPy."""
    call = forced(backend), backend.array(Y0), T0, T1, backend.array(ARGS)
    weights = np.asarray([[0.3, 1.0, -2.0], [1.0, 2.0, 0.5], [-1.0, 0.4, 0.7], [0.5, -0.5, 1.0]])
    saveat = rg.SaveAt(ts=TS, t1=True)
    keywords = {"solver": solver, "dt": 0.17, "max_steps": 16}
    g = backend.gradient(*call, weights, times=True, saveat=saveat, **keywords)
    expected = differences(solver, weights, {"dt": 0.17})
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(g, name), value, rtol=2e-8, atol=2e-8, err_msg=name)


@every_method
@pytest.mark.libraries("numpy torch", slow="strict jax:jit")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_the_gradient_of_a_last_row_alone(backend, solver):
    """Stages that serve an error or rows inside alone are not pulled."""
    call = forced(backend), backend.array(Y0), T0, T1, backend.array(ARGS)
    weights = np.asarray([[0.5, -0.5, 1.0]])
    g = backend.gradient(*call, weights, times=True, solver=solver, dt=0.17)
    expected = differences(solver, weights, {"dt": 0.17}, ts=None)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(g, name), value, rtol=2e-8, atol=2e-8, err_msg=name)
    if backend.bk.name == "torch":  # dual numbers go through Jacobians, too
        forward = backend.gradient(*call, weights, solver=solver, dt=0.17, adjoint="forward")
        np.testing.assert_allclose(forward.args, g.args, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(forward.y0, g.y0, rtol=1e-10, atol=1e-14)
    adaptive = backend.gradient(*call, weights, solver=solver, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(adaptive.args, g.args, rtol=2e-2)


def differences(solver, weights, keywords, ts=TS):
    """Of the loss of the tests above, by y0, args, t0, t1 and ts."""

    class NumPy:
        namespace = staticmethod(lambda y: np)

    def loss(y0, args, t0, t1, ts):
        saveat = rg.SaveAt(ts=ts if np.ndim(ts) else None, t1=True)
        sol = rg.solve(
            forced(NumPy), y0, float(t0), float(t1), args, solver=solver, saveat=saveat, **keywords
        )
        return float(np.sum(weights * sol.ys))

    names = ("y0", "args", "t0", "t1", "ts")[: 4 + (ts is not None)]
    point = [np.asarray(x, dtype=float) for x in (Y0, ARGS, T0, T1, 0.0 if ts is None else ts)]
    found = {}
    for i, name in enumerate(names):
        x, values, e = point[i], np.zeros(point[i].shape), 1e-5
        for j in np.ndindex(x.shape):
            ends = []
            for step in (-2 * e, -e, e, 2 * e):
                moved = x.copy()
                moved[j] += step
                ends.append(loss(*point[:i], moved, *point[i + 1 :]))
            values[j] = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * e)
        found[name] = values
    return found


def test_samples_whose_equations_have_no_solution_say_so(reference):
    """W is 0 in a step of the second sample: its status, as that of a single solve."""
    dt = 0.125
    rates = reference.array([[-1.0, -1.0], [1.0 / (dt * rg.Rodas5P.tableau.gamma)] * 2])
    y0 = reference.array(np.ones((2, 2)))
    f = lambda t, y, a: a * y  # noqa: E731
    keywords = {"solver": "rodas5p", "dt": dt, "throw": False}
    sol = rg.solve(f, y0, 0.0, 0.5, rg.PerSample(rates), per_sample=True, **keywords)
    single = rg.solve(f, y0[1, :], 0.0, 0.5, rates[1, :], **keywords)
    assert single.status == rg.Status.unsolved
    assert [int(x) for x in sol.status] == [rg.Status.converged, rg.Status.unsolved]
