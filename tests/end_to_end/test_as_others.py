"""What users of SciPy's ``solve_ivp`` and of torchdiffeq's ``odeint`` rely on."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

integrate = pytest.importorskip("scipy.integrate")


def predators(t, y, a=1.5, b=1.0, c=3.0, d=1.0):
    x, z = y
    return [a * x - b * x * z, -c * z + d * x * z]


def ours(f):
    return lambda t, y, args: f(t, y, *(args or ()))


@pytest.mark.parametrize("span", [(0.0, 4.0), (4.0, 0.0)], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853", "rk45"])
def test_methods_of_scipy_by_their_names(reference, method, span):
    """Both within their tolerance of one solution, at the same times, either way."""
    t_eval = np.linspace(*span, 9)
    tol = {"rtol": 1e-6, "atol": 1e-8}
    theirs = integrate.solve_ivp(
        predators, span, [10.0, 5.0], method=method.upper(), t_eval=t_eval, **tol
    )
    sol = rg.solve(ours(predators), [10.0, 5.0], *span, solver=method, saveat=t_eval, **tol)
    np.testing.assert_array_equal(sol.ts, theirs.t)
    assert sol.ys.shape == theirs.y.T.shape
    np.testing.assert_allclose(sol.ys, theirs.y.T, rtol=2e-3, atol=2e-3)
    assert sol.stats["num_f_evals"] < 2 * theirs.nfev


def test_a_complex_state_and_tolerances_for_each_element(reference):
    f = lambda t, y: 1j * y * np.asarray([1.0, 20.0])  # noqa: E731
    y0, atol = np.asarray([1.0 + 0.0j, 1e-3 + 0.0j]), np.asarray([1e-4, 1e-9])
    sol = rg.solve(ours(f), y0, 0.0, 2.0, rtol=0.0, atol=atol)
    error = np.abs(sol.ys[-1] - y0 * np.exp(2j * np.asarray([1.0, 20.0])))
    assert np.all(error < 300 * atol)


def test_first_and_largest_steps(reference):
    """``first_step`` is dt0, ``max_step`` dtmax; every step is returned as SciPy does without
    t_eval."""
    controller = rg.PIDController(1e-3, 1e-6, dt0=0.01, dtmax=0.05)
    sol = rg.solve(
        ours(predators), [10.0, 5.0], 0.0, 1.0, controller=controller,
        saveat=rg.SaveAt(t0=True, steps=True),
    )  # fmt: skip
    sizes = np.diff(sol.ts)
    assert sizes[0] == pytest.approx(0.01)
    assert np.all(sizes <= 0.05 * (1 + 1e-12))
    assert (sol.ts[0], sol.ts[-1]) == (0.0, 1.0)
    assert len(sol.ts) == sol.stats["num_accepted_steps"] + 1


def test_args_and_an_empty_span(reference):
    args = (0.5, 0.02, 0.9, 0.02)
    theirs = integrate.solve_ivp(
        predators, (0.0, 3.0), [30.0, 4.0], args=args, rtol=1e-9, atol=1e-9
    )
    sol = rg.solve(ours(predators), [30.0, 4.0], 0.0, 3.0, args, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sol.ys[-1], theirs.y[:, -1], rtol=1e-7)
    assert rg.solve(ours(predators), [1.0, 2.0], 3.0, 3.0).ys.tolist() == [[1.0, 2.0]]


def test_dense_output_as_scipys(reference):
    """``sol(t)`` is ``sol.evaluate(t)``: inside of steps, at one time or many."""
    tol = {"rtol": 1e-8, "atol": 1e-10}
    theirs = integrate.solve_ivp(predators, (0.0, 4.0), [10.0, 5.0], dense_output=True, **tol)
    sol = rg.solve(ours(predators), [10.0, 5.0], 0.0, 4.0, saveat=rg.SaveAt(dense=True), **tol)
    t = np.asarray([0.0, 0.123, 1.7, 3.999, 4.0])
    np.testing.assert_allclose(sol.evaluate(t), theirs.sol(t).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sol.evaluate(1.7), theirs.sol(1.7), rtol=1e-4, atol=1e-4)


def test_failures_have_a_status_and_a_message(reference):
    """SciPy's ``success`` and ``message``: here an error, or a status with ``throw=False``."""
    blow = lambda t, y, args: y * y  # noqa: E731
    sol = rg.solve(blow, [1.0], 0.0, 2.0, rtol=1e-6, throw=False)
    assert sol.status is not rg.Status.converged
    assert sol.status.message
    assert float(sol.t_final) == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(rg.SolveFailed, match=r"At t = (0\.9|1\.0)"):
        rg.solve(blow, [1.0], 0.0, 2.0, rtol=1e-6)


def test_events_as_scipys(reference):
    """``terminal``, ``direction``, several at once, what each recorded, and the state there."""

    def flight(t, y):
        return np.stack([y[2], y[3], -0.1 * y[2], -9.81 - 0.1 * y[3]])

    def ground(t, y):
        return y[1]

    def apex(t, y):
        return y[3]

    ground.terminal, ground.direction = True, -1
    y0, tol = np.asarray([0.0, 1.0, 5.0, 12.0]), {"rtol": 1e-9, "atol": 1e-10}
    theirs = integrate.solve_ivp(flight, (0.0, 100.0), y0, events=[ground, apex], **tol)
    events = [
        rg.Event(lambda t, y, args: ground(t, y), direction=-1),
        rg.Event(lambda t, y, args: apex(t, y), terminal=False),
    ]
    sol = rg.solve(ours(flight), y0, 0.0, 100.0, event=events, **tol)
    assert (sol.status, sol.event, theirs.status) == (rg.Status.event, 0, 1)
    for hit, times, states in zip(sol.events, theirs.t_events, theirs.y_events, strict=True):
        np.testing.assert_allclose(hit.ts, times, rtol=1e-7)
        np.testing.assert_allclose(hit.ys, states, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sol.ys[-1], theirs.y[:, -1], rtol=1e-6, atol=1e-7)


# --- torchdiffeq


@pytest.mark.parametrize("way", [1.0, -1.0], ids=["forward", "backward"])
def test_odeint_at_a_vector_of_times(way):
    """Rows at t, the first of them y0; gradients by every time, by y0 and by the parameters."""
    torch = pytest.importorskip("torch")
    torchdiffeq = pytest.importorskip("torchdiffeq")
    rotation = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64, requires_grad=True)
    t = (way * torch.linspace(0.0, 0.5, 7, dtype=torch.float64)).requires_grad_()
    weights = torch.cos(torch.arange(14.0, dtype=torch.float64)).reshape(7, 2)
    f, tol = lambda t, y: (y**3) @ rotation, {"rtol": 1e-9, "atol": 1e-9}

    def with_gradients(ys):
        return ys, *torch.autograd.grad((ys * weights).sum(), (rotation, y0, t))

    theirs = with_gradients(torchdiffeq.odeint(f, y0, t, method="dopri5", **tol))
    saveat = rg.SaveAt(ts=t)
    sol = rg.solve(
        lambda t, y, args: f(t, y), y0, t[0], t[-1], solver="dopri5", saveat=saveat, **tol
    )
    for a, b in zip(with_gradients(sol.ys), theirs, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(sol.ys[0], y0)


def test_odeint_of_a_tuple_and_of_a_module():
    torch = pytest.importorskip("torch")
    torchdiffeq = pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    ).double()
    y0 = torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def f(t, y):
        return net(y[0]), y[0].sum(1, keepdim=True)

    found = []
    for solve in (
        lambda: torchdiffeq.odeint_adjoint(
            f, y0, t, rtol=1e-9, atol=1e-9, adjoint_params=tuple(net.parameters())
        ),
        lambda: rg.solve(lambda t, y, args: f(t, y), y0, 0.0, 1.0, rtol=1e-9, atol=1e-9).ys,
    ):
        ys = solve()
        loss = ys[0][-1].square().sum() + ys[1][-1].sum()
        found.append((loss.item(), *torch.autograd.grad(loss, list(net.parameters()))))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_a_jump_of_the_field_that_is_named_costs_less():
    """torchdiffeq's ``jump_t``, and ``perturb``: f is read on its own side of the jump."""
    torch = pytest.importorskip("torch")
    times = []

    def f(t, y, args):
        times.append(float(t))
        return torch.where(t < 1.0, 1.0, -y)

    y0 = torch.zeros(1, dtype=torch.float64)
    steps = []
    for jumps in ([1.0], None):
        times.clear()
        controller = rg.PIDController(1e-8, 1e-10, jump_ts=jumps)
        sol = rg.solve(f, y0, 0.0, 2.0, controller=controller)
        assert float(sol.ys[-1, 0]) == pytest.approx(np.exp(-1.0), rel=1e-6)
        steps.append((sol.stats["num_rejected_steps"], len(times)))
        if jumps:
            assert any(abs(t - 1.0) < 1e-9 for t in times)
    assert steps[0][0] < steps[1][0]
    assert steps[0][1] < steps[1][1]


def test_odeint_event_and_the_gradient_of_its_time():
    torch = pytest.importorskip("torch")
    torchdiffeq = pytest.importorskip("torchdiffeq")
    gravity = torch.tensor([9.8], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([10.0, 1.0], dtype=torch.float64, requires_grad=True)
    t0 = torch.tensor(0.0, dtype=torch.float64)

    def f(t, y):
        return torch.cat([y[1:], -gravity])

    def ground(t, y):
        return y[0]

    theirs = torchdiffeq.odeint_event(f, y0, t0, event_fn=ground, rtol=1e-9, atol=1e-10)
    sol = rg.solve(
        lambda t, y, args: f(t, y), y0, 0.0, 100.0, rtol=1e-9, atol=1e-10,
        event=rg.Event(lambda t, y, args: ground(t, y)),
    )  # fmt: skip
    found = []
    for time, speed in ((theirs[0], theirs[1][-1, 1]), (sol.ts[-1], sol.ys[-1, 1])):
        found.append((time, speed, *torch.autograd.grad(time + speed, (gravity, y0))))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-5)
    exact = (1.0 + np.sqrt(1.0 + 2 * 9.8 * 10.0)) / 9.8
    assert sol.ts[-1].item() == pytest.approx(exact, rel=1e-9)
