"""Steps that are recorded whole: the same gradients as stage by stage, in fewer calls.

Guards row T4p of ``asv_bench/report.py``.
"""

from __future__ import annotations

import gc
import weakref

import pytest

import retrograde as rg

torch = pytest.importorskip("torch")

STAGES = pytest.importorskip("retrograde_backends.torch.field_vjp")
FLAT = pytest.importorskip("retrograde_backends.flat.stages")


def real(*shape):
    return torch.linspace(0.1, 1.0, max(1, torch.Size(shape).numel()), dtype=torch.float64).reshape(
        shape
    )


def matrix(t, y, p):
    return torch.tanh(y @ p) - 0.1 * t * y


def tree(t, y, p):
    return {"a": -y["a"] * y["b"].sum() + p.sum(), "b": torch.cos(t) * y["b"]}


CASES = {
    "matrix": (matrix, real(5, 3), real(3, 3)),
    "vector": (lambda t, y, p: torch.sin(y * p.sum()), real(4), real(2)),
    "tree": (tree, {"a": real(2, 2), "b": real(3)}, real(2)),
    "complex": (lambda t, y, p: 1j * y * p.sum(), real(4).to(torch.complex128), real(2)),
    "constant": (lambda t, y, p: torch.ones_like(y), real(4), real(2)),
}


def gradient(case, checkpoints, **keywords):
    f, y0, p = CASES[case]
    pairs = y0.items() if isinstance(y0, dict) else [("y", y0)]
    leaves = {name: x.clone().requires_grad_() for name, x in pairs}
    p = p.clone().requires_grad_()
    adjoint = rg.RecursiveCheckpointAdjoint(checkpoints)
    start = leaves if isinstance(y0, dict) else leaves["y"]
    ys = rg.solve(f, start, 0.0, 1.0, p, adjoint=adjoint, **keywords).ys
    ys = list(ys.values()) if isinstance(ys, dict) else [ys]
    loss = sum((x * x.conj()).real.sum() for x in ys)
    return torch.autograd.grad(loss, [*leaves.values(), p], materialize_grads=True)


@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {"rtol": 1e-6, "atol": 1e-6}])
@pytest.mark.parametrize("solver", ["tsit5", "bosh3", "rk4"])
@pytest.mark.parametrize("case", CASES)
def test_whole_steps_give_the_gradient_of_single_stages(case, solver, keywords):
    if solver == "rk4" and "dt" not in keywords:
        pytest.skip("rk4 has no estimate of its error")
    whole = gradient(case, None, solver=solver, **keywords)
    stages = gradient(case, 2, solver=solver, **keywords)
    for a, b in zip(whole, stages, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_one_call_of_autograd_a_step(monkeypatch):
    calls, inner = [], STAGES._gradients
    monkeypatch.setattr(STAGES, "_gradients", lambda *a: calls.append(1) or inner(*a))
    gradient("matrix", None, dt=0.1)
    assert len(calls) == 10
    gradient("matrix", 2, dt=0.1)
    assert len(calls) == 10 + 60  # those that are replayed are pulled stage by stage


def test_a_gradient_is_no_memory_of_the_cotangent():
    y0 = real(4).requires_grad_()
    adjoint = rg.RecursiveCheckpointAdjoint()
    ys = rg.solve(lambda t, y, p: torch.ones_like(y), y0, 0.0, 1.0, dt=0.5, adjoint=adjoint).ys
    ct = torch.ones_like(ys)
    (g,) = torch.autograd.grad(ys, y0, ct)
    assert torch.equal(g, torch.ones_like(g))
    assert g.data_ptr() != ct.data_ptr()


def test_the_solve_leaves_no_memory_behind(monkeypatch):
    """Its stages are freed when it ends, not when the interpreter looks for cycles."""
    made_stages, made = [], FLAT.FlatStages.__init__

    def noted(self, *args, **keywords):
        made(self, *args, **keywords)
        made_stages.append(weakref.ref(self))

    monkeypatch.setattr(FLAT.FlatStages, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        gradient("vector", None, rtol=1e-6, atol=1e-6)
        gradient("vector", 2, rtol=1e-6, atol=1e-6)
    finally:
        gc.enable()
    assert made_stages
    assert not any(space() for space in made_stages)


@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {"rtol": 1e-6, "atol": 1e-6}])
@pytest.mark.parametrize("adjoint", ["direct", "recursive_checkpoint", "auto"])
@pytest.mark.parametrize("detached", [False, True])
def test_a_result_that_is_written_again_is_refused(detached, adjoint, keywords):
    buffer = torch.zeros(4, dtype=torch.float64)

    def f(t, y, p):
        if detached:
            buffer.detach_()
        buffer[...] = torch.sin(y) * p
        return buffer

    y0, p = real(4).requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with pytest.raises(rg.InputError, match="changed a tensor in place that it had returned"):
        rg.solve(f, y0, 0.0, 1.0, p, adjoint=adjoint, **keywords).ys.sum().backward()
    with torch.no_grad():  # stages are copies there
        ours = rg.solve(f, y0, 0.0, 1.0, p, **keywords).ys
        new = rg.solve(lambda t, y, p: torch.sin(y) * p, y0, 0.0, 1.0, p, **keywords).ys
    assert torch.equal(ours, new)
