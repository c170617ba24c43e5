"""PyTorch's modes around a solve: inference, autocast, torch.compile."""

from __future__ import annotations

import functools

import pytest

import retrograde as rg

torch = pytest.importorskip("torch")

LOW = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
ADJOINTS = {
    "direct": {"adjoint": "direct"},
    "slots": {"adjoint": rg.RecursiveCheckpointAdjoint(3)},
    "one tape": {"adjoint": rg.RecursiveCheckpointAdjoint(3, one_tape=True)},
    "backsolve": {"adjoint": "backsolve"},
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def state(**keywords):
    return torch.linspace(-1.0, 1.0, 12, **keywords).reshape(4, 3)


def gradients(net, y0, f=None, **keywords):
    net.zero_grad()
    y0 = y0.detach().requires_grad_()
    sol = rg.solve(f or (lambda t, y, args: net(y)), y0, 0.0, 1.0, dt=0.1, **keywords)
    sol.ys[-1].square().mean().backward()
    return [y0.grad, *(p.grad.clone() for p in net.parameters())]


def close(a, b, rtol=1e-6, atol=1e-7):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# --- inference mode
@pytest.mark.parametrize("steps", [{"dt": 0.1}, {}], ids=["constant", "adaptive"])
def test_a_solve_in_inference_mode_is_that_without_a_gradient(steps):
    net, y0 = network(), state()
    wish = rg.SaveAt(ts=[0.0, 0.3, 1.0], fn=lambda t, y, args: net(y["a"]))
    solve = functools.partial(rg.solve, lambda t, y, args: {"a": net(y["a"])})
    with torch.no_grad():
        want = solve({"a": y0}, 0.0, 1.0, saveat=wish, **steps).ys
    with torch.inference_mode():
        got = [solve({"a": x}, 0.0, 1.0, saveat=wish, **steps).ys for x in (y0, y0.clone())]
        with pytest.raises(rg.InputError, match="in place"):
            rg.solve(lambda t, y, args: y.mul_(2.0), y0, 0.0, 1.0)
        root = rg.while_loop(lambda x: x < 100, lambda x: x * x, torch.tensor(3.0))
    assert got[0].is_inference()
    close(got, [want] * 2, rtol=0.0, atol=0.0)
    assert root == 6561.0


def test_pullbacks_and_plans_are_the_same_in_inference_mode():
    y0, rate = state(), torch.tensor(0.5)

    def everything(y0, rate):
        f = lambda t, y, k: -k * torch.tanh(y) * t  # noqa: E731
        sol, pull = rg.solve_vjp(f, y0, 0.0, 1.0, rate, dt=0.1)
        again, direct = rg.solve_vjp(f, y0, 0.0, 1.0, rate, dt=0.1, adjoint="direct")
        ones = torch.ones_like(sol.ys)
        x, back = rg.loop_vjp(rg.while_loop, lambda x: x < 100, lambda x: x * x, 6 * rate)
        plan = rg.plan(f, y0, 0.0, 1.0, rate, dt=0.1, memory="3 KiB").to_dict()
        return sol.ys, *pull(ones)[:4], again.ys, *direct(ones)[:4], x, back(x), plan

    want = everything(y0, rate)
    with torch.inference_mode():
        got = everything(y0, rate), everything(y0.clone(), rate.clone())
    for *tensors, plan in got:
        close(tensors, list(want[:-1]), rtol=1e-6)
        assert plan == want[-1]


@pytest.mark.parametrize("keywords", ADJOINTS.values(), ids=ADJOINTS)
def test_tensors_made_in_inference_mode_are_taken_outside_of_it(keywords):
    net, rate = network(), torch.tensor(0.5)

    def loss(y0, rate, t1):
        f = lambda t, y, k: k * net(y)  # noqa: E731
        ys = rg.solve(f, y0, 0.0, t1, rate, dt=0.1, **keywords).ys
        return torch.autograd.grad(ys.square().sum(), list(net.parameters()))

    want = loss(state(), rate, torch.tensor(1.0))
    with torch.inference_mode():
        made = state(), rate.clone(), torch.tensor(1.0)
    close(loss(*made), want, rtol=0.0, atol=0.0)


def test_backward_may_be_called_in_inference_mode():
    net, y0 = network(), state()
    want = gradients(net, y0, adjoint="recursive_checkpoint")
    ys = rg.solve(lambda t, y, a: net(y), y0, 0.0, 1.0, dt=0.1, adjoint="recursive_checkpoint").ys
    net.zero_grad()
    loss = ys[-1].square().mean()
    with torch.inference_mode():
        loss.backward()
    close([p.grad for p in net.parameters()], want[1:])


# --- autocast
def by_hand(net, y0, cached):
    """Euler's method in a loop, as autograd records it."""
    net.zero_grad()
    y = y0 = y0.detach().requires_grad_()
    with LOW(cache_enabled=cached):
        for _ in range(10):
            y = y + 0.1 * net(y).float()
    y.square().mean().backward()
    return [y0.grad, *(p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize("keywords", ADJOINTS.values(), ids=ADJOINTS)
def test_a_field_in_autocast_gives_the_gradients_of_a_loop_in_it(keywords):
    net, y0 = network(), state()
    # a cached cast sums its cotangents in bfloat16
    cached = keywords["adjoint"] == "direct"
    want = by_hand(net, y0, cached)
    with LOW():
        net(y0)  # whose casts are in autocast's cache
        got = gradients(net, y0, solver="euler", **keywords)
        again = gradients(net, y0, solver="euler", **keywords)
        net.zero_grad()
        net(y0).sum().backward()
        assert all(p.grad is not None for p in net.parameters())
    close(got, want, rtol=0.02, atol=2e-3)
    close(again, got, rtol=0.0, atol=0.0)
    net.zero_grad()
    with LOW():
        f = lambda t, y, args: net(y)  # noqa: E731
        ys = rg.solve(f, y0.requires_grad_(), 0.0, 1.0, dt=0.1, solver="euler", **keywords).ys
    assert ys.dtype == torch.float32
    ys[-1].square().mean().backward()  # outside of the context
    close([y0.grad, *(p.grad for p in net.parameters())], got, rtol=0.0, atol=0.0)


def test_a_field_in_autocast_is_called_as_in_a_loop():
    net, y0, seen, steps = network(), state(), [], {"dt": 0.25}

    def f(t, y, args):
        seen.append((torch.is_autocast_enabled("cpu"), y["a"].dtype, net(y["a"]).dtype))
        return {"a": net(y["a"])}

    def cubic(t, y, k):
        return -k * y @ (y.T @ y)

    with LOW():
        rows = rg.SaveAt(ts=[0.5, 1.0], fn=lambda t, y, args: net(y["a"]))
        ys = rg.solve(f, {"a": y0}, 0.0, 1.0, saveat=rows, **steps).ys
        sol, pull = rg.solve_vjp(cubic, y0, 0.0, 1.0, torch.tensor(0.5), **steps)
        low = pull(torch.ones_like(sol.ys))
    assert ys.dtype == torch.float32
    assert set(seen) == {(True, torch.float32, torch.bfloat16)}
    sol, pull = rg.solve_vjp(cubic, y0, 0.0, 1.0, torch.tensor(0.5), **steps)
    full = pull(torch.ones_like(sol.ys))
    close((low.y0, low.args), (full.y0, full.args), rtol=0.05, atol=0.05)
    assert (low.y0 != full.y0).any()


@pytest.mark.parametrize("keywords", ADJOINTS.values(), ids=ADJOINTS)
def test_arithmetic_of_a_solve_is_outside_of_autocast(keywords):
    """What the field computes in float32 comes out bit for bit, guards' verdicts too."""
    net, y0 = network(), state()

    def f(t, y, args):
        with torch.autocast("cpu", enabled=False):
            return net(y)

    def both(steps, low):
        leaf = y0.detach().requires_grad_()
        with LOW(enabled=low):
            sol = rg.solve(f, leaf, 0.0, 1.0, **steps, **keywords)
        (g,) = torch.autograd.grad(sol.ys.square().sum(), leaf)
        return sol.ys.detach(), g, sol.stats

    for steps in ({"dt": 0.1}, {"rtol": 1e-5, "atol": 1e-7}):
        want, got = both(steps, False), both(steps, True)
        close(got[:2], want[:2], rtol=0.0, atol=0.0)
        assert got[2] == want[2]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_only_the_field_runs_in_autocast(kind):
    """Watched on the CPU for the autocast of another device too, which casts nothing there."""
    inside, calls = [0], []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append((func.__name__, bool(inside[0]), on(kind)))
            return func(*args, **(kwargs or {}))

    on = torch.is_autocast_enabled

    def f(t, y, args):
        inside[0] += 1
        try:
            return -y.sin()
        finally:
            inside[0] -= 1

    y0 = torch.ones(3000, requires_grad=True)  # beyond what NumPy is asked to sum
    with Watch():
        for adjoint in ("direct", "recursive_checkpoint"):
            for steps in ({}, {"dt": 0.1}):
                torch.set_autocast_enabled(kind, True)
                try:
                    ys = rg.solve(f, y0, 0.0, 1.0, adjoint=adjoint, **steps).ys
                finally:
                    torch.set_autocast_enabled(kind, False)
                ys.sum().backward()
    names = {name for name, _, _ in calls}
    assert {"mv", "add", "sin"} <= names
    own = {"mv", "addmv", "add", "stack", "mul", "dot"}
    assert not {name for name, within, state in calls if name in own and state and not within}
    assert {state for _, within, state in calls if within} == {True}


def test_loops_take_their_bodies_in_autocast():
    net, y0 = network(), state()
    want = by_hand(net, y0, False)
    net.zero_grad()
    with LOW():
        net(y0)
        leaf = y0.detach().requires_grad_()
        body = lambda y, _: (y + 0.1 * net(y), None)  # noqa: E731
        y, _ = rg.scan(body, leaf, length=10, checkpoints=3)
        loss = y.square().mean()
    loss.backward()
    close([leaf.grad, *(p.grad for p in net.parameters())], want, rtol=0.02, atol=2e-3)


# --- torch.compile
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch._dynamo's, of itself
def test_a_solve_within_torch_compile_is_a_break_in_its_graph():
    w, x = torch.tensor(1.5, requires_grad=True), state()

    def loss(x, w):
        f = lambda t, y, args: -w * y  # noqa: E731
        sol = rg.solve(f, 2 * x, 0.0, 1.0, adjoint="recursive_checkpoint")
        root = rg.while_loop(lambda x: x < 100, lambda x: x * x, 2 * w)
        return 3 * sol.ys.square().sum() + root

    compiled = torch.compile(loss, backend="eager")
    want = torch.autograd.grad(loss(x, w), w)
    close(torch.autograd.grad(compiled(x, w), w), want)
    close(torch.autograd.grad(compiled(x + 1, w), w), torch.autograd.grad(loss(x + 1, w), w))
    plain = lambda x: rg.solve(lambda t, y, args: -y, x, 0.0, 1.0).ys  # noqa: E731
    whole = torch.compile(plain, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"retrograde\.solve takes steps by the values"):
        whole(x)


@pytest.mark.parametrize("keywords", ADJOINTS.values(), ids=ADJOINTS)
def test_a_field_that_was_compiled_gives_the_same_gradients(keywords):
    net, y0 = network(), state()
    compiled = torch.compile(net, backend="aot_eager")
    want = gradients(net, y0, **keywords)
    close(gradients(net, y0, lambda t, y, args: compiled(y), **keywords), want)
