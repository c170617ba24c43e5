"""PyTorch fields that draw random numbers: one function of time in a solve and in its gradient."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import retrograde as rg

torch = pytest.importorskip("torch")

ADJOINTS = {
    "stored": rg.RecursiveCheckpointAdjoint(),
    "slots": rg.RecursiveCheckpointAdjoint(3),
    "one tape": rg.RecursiveCheckpointAdjoint(3, one_tape=True),
    "window": rg.RecursiveCheckpointAdjoint(4, window=3),
    "clocked": rg.RecursiveCheckpointAdjoint(3, record=False),
    "backsolve": rg.BacksolveAdjoint(),
}
STEPS = {
    "constant": {"dt": 0.05, "solver": "euler"},
    "fsal": {"dt": 0.05, "saveat": rg.SaveAt(ts=[0.31, 0.33, 1.0])},
    "adaptive": {"rtol": 1e-2, "atol": 1e-2, "saveat": rg.SaveAt(t0=True, ts=[0.4], t1=True)},
    "dopri8": {"rtol": 1e-2, "atol": 1e-2, "solver": "dopri8", "saveat": rg.SaveAt(ts=[0.4])},
}


def drop(y):
    return torch.nn.functional.dropout(y, 0.1)


def run(f, seed=1, t1=1.0, **keywords):
    torch.manual_seed(seed)
    y0 = torch.linspace(0.5, 1.5, 8, dtype=torch.float64).requires_grad_()
    p = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    ys = rg.solve(f, y0, 0.0, t1, p, **keywords).ys
    return ys.detach(), *torch.autograd.grad(ys.square().sum(), [y0, p])


def dropped(t, y, p):
    return -p * drop(y)


def late(t, y, p):
    return -p * (drop(y) if t > 0.5 else y)


@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_gradients_are_those_of_every_step_recorded(steps, adjoint):
    for f in (dropped, late):
        want = run(f, adjoint="direct", **steps)
        got = run(f, adjoint=adjoint, **steps)
        # adaptive steps are chosen by error estimates whose rounding differs
        torch.testing.assert_close(got, want, rtol=1e-8 if "rtol" in steps else 1e-12, atol=1e-13)
    assert (want[0] != run(f, seed=2, adjoint=adjoint, **steps)[0]).any()


def test_a_field_of_noise_is_one_function_of_time():
    """Gradients against differences of the same noise, in which equal times have equal numbers."""
    calls = []

    def f(t, y, p):
        noise = torch.randn_like(y)
        calls.append((round(float(t), 12), noise[0].item()))
        return p * torch.sin(y + noise)

    ys, _, g = run(f, dt=0.1, solver="rk4", adjoint=rg.RecursiveCheckpointAdjoint(2))
    met = set(calls[2:])  # after those that look at f
    assert len({t for t, _ in met}) == len({noise for _, noise in met}) == len(met) == 21
    ends = []
    for p in (1.5 - 1e-6, 1.5 + 1e-6):
        torch.manual_seed(1)
        y0 = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
        with torch.no_grad():
            end = rg.solve(f, y0, 0.0, 1.0, torch.tensor(p, dtype=y0.dtype), dt=0.1, solver="rk4")
        ends.append(end.ys.square().sum().item())
    np.testing.assert_allclose(g, (ends[1] - ends[0]) / 2e-6, rtol=1e-7)
    assert ys.shape == (1, 8)


def test_a_solve_takes_one_number_of_the_generator_and_no_more():
    after = []
    for dt in (0.5, 0.01):
        run(dropped, dt=dt, adjoint=rg.RecursiveCheckpointAdjoint(3))
        after.append(torch.rand(1).item())
    assert after[0] == after[1]
    torch.manual_seed(1)
    want = torch.rand(1).item()
    run(lambda t, y, p: -p * y, dt=0.1)  # which draws nothing
    assert torch.rand(1).item() == want


def test_pullbacks_and_output_functions_hold_their_numbers():
    y0, p = torch.ones(8, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    wish = rg.SaveAt(ts=[0.3, 1.0], fn=lambda t, y, p: torch.nn.functional.dropout(y, 0.5))
    found = []
    for adjoint in ("direct", rg.RecursiveCheckpointAdjoint(2)):
        torch.manual_seed(3)
        sol, pull = rg.solve_vjp(dropped, y0, 0.0, 1.0, p, dt=0.1, saveat=wish, adjoint=adjoint)
        g = pull(torch.ones_like(sol.ys))
        found.append((sol.ys, g.y0, g.args, pull(torch.ones_like(sol.ys)).args))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_a_plan_charges_what_is_kept_and_follows_its_budget():
    y0, p = torch.ones(400, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    plan = functools.partial(rg.plan, y0=y0, t0=0.0, t1=1.0, args=p, dt=0.01, memory="96 KiB")
    assert plan(dropped).items["times of random numbers"] >= 100 * 6 * 8
    assert "times of random numbers" not in plan(lambda t, y, p: -p * y).items


def test_what_can_not_be_held_is_refused():
    own = torch.Generator().manual_seed(1)
    noisy = lambda t, y, p: p * torch.rand(8, generator=own, dtype=y.dtype) * y  # noqa: E731
    with pytest.raises(rg.InputError, match="two results for the same arguments"):
        run(noisy, dt=0.1, adjoint="recursive_checkpoint")
    assert run(noisy, dt=0.1, adjoint="direct")[2] != 0
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(rg.UnsupportedByBackend, match="`body` draws random numbers"):
        rg.scan(lambda c, _: (c * drop(c), None), x, length=8, checkpoints=2)
    rg.scan(lambda c, _: (c * drop(c), None), x, length=8, kind="bounded")[0].sum().backward()
    with pytest.raises(rg.UnsupportedByBackend, match="`compile` is True, but `f` draws"):
        run(dropped, dt=0.1, compile=True)


def test_numpy_fields_that_draw_are_refused():
    rng = np.random.default_rng(0)
    f = lambda t, y, p: -p * y * rng.integers(0, 2, y.shape)  # noqa: E731
    rg.solve(f, np.ones(8), 0.0, 1.0, np.asarray(1.5), dt=0.1)
    with pytest.raises(rg.InputError, match="two results for the same arguments"):
        rg.solve_vjp(f, np.ones(8), 0.0, 1.0, np.asarray(1.5), dt=0.1)
