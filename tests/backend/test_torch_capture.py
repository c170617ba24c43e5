"""Tensors that fields close over: found, differentiated, or refused; never a silent zero."""

from __future__ import annotations

import functools

import pytest

import retrograde as rg

torch = pytest.importorskip("torch")


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def leaf(x):
    return tensor(x).requires_grad_()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2, dtype=torch.float64)
        self.late = torch.nn.Parameter(tensor(0.3))
        self.unused = torch.nn.Parameter(tensor(1.0))

    def forward(self, t, y, args=None):
        y = torch.tanh(self.inner(y))
        return y * self.late if t > 2.0 else y


@pytest.fixture(autouse=True, params=["recursive_checkpoint", "direct"])
def adjoint(request, monkeypatch):
    """Every case runs through the solve's own node and through plain autograd."""
    monkeypatch.setattr(rg, "solve", functools.partial(rg.solve, adjoint=request.param))
    return request.param


GLOBAL = leaf([0.5, -0.2])
BOX = {"w": [leaf([[0.1, 0.2], [0.3, -0.4]])]}


def by_hand(f, y0, tensors, steps=30, t1=3.0):
    """Gradients of sum(y(t1)) of Euler's method by plain autograd."""
    y, h = y0, t1 / steps
    for i in range(steps):
        y = y + h * f(tensor(i * h), y, None)
    return torch.autograd.grad(y.sum(), [y0, *tensors])


def check_capture(f, tensors):
    y0 = leaf([1.0, 2.0])
    want = by_hand(f, y0, tensors)
    ys = rg.solve(f, y0, 0.0, 3.0, solver="euler", dt=0.1).ys
    got = torch.autograd.grad(ys.sum(), [y0, *tensors])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_module_parameters_get_gradients_and_unused_ones_none():
    net = Net()
    check_capture(net, [*net.inner.parameters(), net.late])
    check_capture(net.forward, [*net.inner.parameters(), net.late])
    check_capture(functools.partial(net), [*net.inner.parameters(), net.late])
    rg.solve(net, tensor([1.0, 2.0]), 0.0, 3.0).ys.sum().backward()
    assert net.unused.grad is None
    assert net.late.grad is not None


def test_globals_and_containers_get_gradients():
    check_capture(lambda t, y, args: BOX["w"][0] @ y * GLOBAL, [GLOBAL, BOX["w"][0]])


def test_captured_tensors_that_were_computed_get_gradients():
    p = leaf([0.1, 0.4, 0.3, -0.4])
    w = (p**2).reshape(2, 2)
    a, b = w.unbind(0)
    check_capture(lambda t, y, args: w @ y, [w])
    check_capture(lambda t, y, args: torch.stack([a @ y, b @ y]), [a, b])
    y0 = tensor([1.0, 2.0])
    rg.solve(lambda t, y, args: torch.stack([a @ y, b @ y]), y0, 0.0, 1.0).ys.sum().backward()
    assert p.grad.abs().min() > 0


def test_a_captured_tensor_and_its_source_are_refused():
    p = leaf([0.1, 0.4])
    w = 2 * p
    with pytest.raises(rg.InputError, match="pass them through `args`"):
        rg.solve(lambda t, y, args: y * w + p, tensor([1.0, 2.0]), 0.0, 1.0)


def test_a_tensor_that_only_a_later_branch_reaches_is_never_lost(adjoint):
    hidden = [[[[[leaf(0.5)]]]]]

    def f(t, y, args):
        return y if t < 0.5 else hidden[0][0][0][0][0] * y

    ys = rg.solve(f, leaf([1.0]), 0.0, 1.0, dt=0.1).ys
    if adjoint == "direct":
        ys.sum().backward()
        assert hidden[0][0][0][0][0].grad != 0
        return
    with pytest.raises(rg.InputError, match="did not use at t0; pass it through `args`"):
        ys.sum().backward()


def test_hooks_of_parameters_see_the_whole_gradient_once():
    p = leaf(0.5)
    want = by_hand(lambda t, y, args: -p * y, leaf([1.0]), [p])[1]
    seen = []
    p.register_hook(lambda g: seen.append(g.clone()))
    y0 = tensor([1.0])
    rg.solve(lambda t, y, args: -p * y, y0, 0.0, 3.0, solver="euler", dt=0.1).ys.sum().backward()
    torch.testing.assert_close(seen, [want], rtol=1e-12, atol=0.0)


def test_output_functions_close_over_tensors_too():
    p, scale = leaf(0.5), leaf([2.0, 3.0])
    wish = rg.SaveAt(ts=[0.5, 1.5, 3.0], fn=lambda t, y, args: scale * y)
    y0, tight = tensor([1.0, 2.0]), {"rtol": 1e-8, "atol": 1e-8}
    ys = rg.solve(lambda t, y, args: -p * y, y0, 0.0, 3.0, saveat=wish, **tight).ys
    ys.sum().backward()
    t = tensor([0.5, 1.5, 3.0])
    decay = torch.exp(-0.5 * t)
    torch.testing.assert_close(scale.grad, decay.sum() * tensor([1.0, 2.0]), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(p.grad, -(8.0 * t * decay).sum(), rtol=1e-6, atol=0.0)
