"""Loops within their budgets, by each library's own account."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg
from retrograde.measure import peak_gradient_bytes


@pytest.mark.quick("scan-1000-1048576", "while_loop-10-131072")
@pytest.mark.parametrize("budget", [128 * 1024, 1024 * 1024])
@pytest.mark.parametrize("size", [1, 10, 1000])
@pytest.mark.parametrize("loop", ["scan", "while_loop"])
def test_a_compiled_loop_keeps_its_budget(loop, size, budget):
    """Tables of slots are part of it, however small the carry."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    n = 50_000

    def loss(y: Any) -> Any:
        if loop == "scan":
            return rg.scan(lambda y, _: (1.5 * y - y**3, None), y, None, n, memory=budget)[0].sum()
        start = 0, y
        return rg.while_loop(
            lambda c: c[0] < n, lambda c: (c[0] + 1, 1.5 * c[1] - c[1] ** 3), start, memory=budget
        )[1].sum()

    y = jax.numpy.linspace(0.1, 0.9, size)
    compiled = [jax.jit(f).lower(y).compile().memory_analysis() for f in (jax.grad(loss), loss)]
    used = compiled[0].temp_size_in_bytes - compiled[1].temp_size_in_bytes
    assert used <= budget
    assert used > 0.7 * min(budget, n * y.nbytes)


def decay(c: Any) -> Any:
    y, w = c
    return y + 0.1 * (w @ y - y**3), w


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_what_is_handed_on_takes_no_slot(library):
    """A matrix in the carry: the budget buys slots for the vector alone."""
    xp: Any = pytest.importorskip(library)
    n, budget, calls = 400, 1024 * 1024, [0]
    w = np.eye(100) + 0.01 * np.sin(np.arange(10_000.0)).reshape(100, 100)
    y, w = xp.asarray(np.linspace(0.1, 1.0, 100)), xp.asarray(w)

    def body(c: Any, _: Any) -> Any:
        calls[0] += 1
        return decay(c), None

    def gradient(y: Any, w: Any) -> Any:
        _, pull = rg.loop_vjp(rg.scan, body, (y, w), None, n, memory=budget)
        return pull(((xp.ones_like(y), None), None))

    def forward(y: Any, w: Any) -> Any:
        return rg.scan(body, (y, w), None, n)[0]

    gradient(y, w)
    assert calls[0] <= 2 * n + 2  # every state is stored; one step more tells the tape's bytes
    size = peak_gradient_bytes(forward, gradient, y, w)
    assert size.bytes <= budget


def test_a_recorded_loop_in_a_twentieth_of_the_bytes():
    """PyTorch: what autograd saves of 2,000 steps, and ours."""
    torch: Any = pytest.importorskip("torch")
    n, width = 2000, 16
    torch.manual_seed(0)
    w = torch.randn(width, width, dtype=torch.float64) / 4
    h = torch.randn(64, width, dtype=torch.float64)
    budget = n * h.nbytes // 20

    def body(h: Any, w: Any) -> Any:
        return h + 0.01 * torch.tanh(h @ w)

    def plain(h: Any, w: Any) -> Any:
        for _ in range(n):
            h = body(h, w)
        return h.sum()

    def ours(h: Any, w: Any) -> Any:
        return rg.scan(lambda h, _: (body(h, w), None), h, None, n, memory=budget)[0].sum()

    def gradient(loss: Any) -> Any:
        leaves = [x.clone().requires_grad_() for x in (h, w)]
        return torch.autograd.grad(loss(*leaves), leaves)

    for a, b in zip(gradient(ours), gradient(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0.0)

    def forward() -> Any:
        with torch.no_grad():
            return plain(h, w)

    sizes = [peak_gradient_bytes(forward, lambda f=f: gradient(f), backend="torch").bytes
             for f in (ours, plain)]  # fmt: skip
    assert sizes[0] <= budget
    assert sizes[0] <= sizes[1] / 20


def test_compiled_bodies_are_not_compiled_again():
    """``torch.compile``: as many compilations for 10 steps as for 60."""
    torch: Any = pytest.importorskip("torch")
    testing: Any = pytest.importorskip("torch._dynamo.testing")

    def compilations(n: int) -> int:
        torch._dynamo.reset()
        counter = testing.CompileCounter()
        w = torch.tensor(1.3, requires_grad=True)

        @torch.compile(backend=counter)  # type: ignore[untyped-decorator]
        def body(h: Any, _: Any) -> Any:
            return h + 0.01 * torch.sin(w * h), None

        h = torch.tensor([0.3, 0.4], requires_grad=True)
        for keywords in ({}, {"checkpoints": 4}):
            rg.scan(body, h, None, n, **keywords)[0].sum().backward()
        return int(counter.frame_count)

    assert compilations(60) == compilations(10) <= 4


def test_torch_transforms():
    torch: Any = pytest.importorskip("torch")
    h, w = torch.tensor([0.3, 0.4], dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)

    def loss(h: Any, w: Any) -> Any:
        def step(c: Any) -> Any:
            return c[0] + 1, c[1] + 0.01 * torch.sin(w * c[1])

        return rg.while_loop(lambda c: c[0] < 20, step, (0, h), checkpoints=3)[1].sum()

    leaves = [x.clone().requires_grad_() for x in (h, w)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    _, pull = torch.func.vjp(loss, h, w)
    for found in (torch.func.grad(loss, (0, 1))(h, w), pull(torch.ones((), dtype=h.dtype))):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
