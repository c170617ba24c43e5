"""Parameters and states spread over processes (DDP, FSDP, DTensor): right, or an error at the call.

By default in one process, which is a group of its own; the slow test runs the same checks in two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import retrograde as rg

torch = pytest.importorskip("torch")

ADJOINTS = ("auto", "direct", rg.RecursiveCheckpointAdjoint(3), "backsolve")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def joined(store, rank, size):
    """A mesh of all processes, or a skip where this build of PyTorch has none."""
    distributed = pytest.importorskip("torch.distributed")
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("PyTorch without gloo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    mesh = pytest.importorskip("torch.distributed.device_mesh")
    return mesh.init_device_mesh("cpu", (size,))


@pytest.fixture
def mesh(tmp_path):
    yield joined(tmp_path / "store", 0, 1)
    torch.distributed.destroy_process_group()


def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers).double()


def state():
    return torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(8, 3)


def whole(x):
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gradients(net, f, y0, **keywords):
    rg.solve(lambda t, y, args: f(y), y0, 0.0, 1.0, dt=0.1, **keywords).ys[
        -1
    ].square().mean().backward()
    return [whole(p.grad) for p in net.parameters()]


def close(a, b, rtol=1e-12, atol=1e-15):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def check_modules(mesh):
    """Gradients of one process, where each has its part of the batch."""
    net = network()
    want = gradients(net, net, state())
    mine = state().chunk(mesh.size())[mesh.get_rank()]
    for adjoint in ADJOINTS:
        net = network()
        close(
            gradients(net, torch.nn.parallel.DistributedDataParallel(net), mine, adjoint=adjoint),
            want,
        )
        net = network()
        torch.distributed.fsdp.fully_shard(net, mesh=mesh)
        if adjoint in ("auto", "direct"):
            close(gradients(net, net, mine, adjoint=adjoint), want)
            continue
        with pytest.raises(rg.UnsupportedByBackend, match="FSDP shards") as error:
            gradients(net, net, mine, adjoint=adjoint)
        assert "adjoint='direct'" in str(error.value)
        assert "DistributedDataParallel" in str(error.value)
        with torch.no_grad():
            rg.solve(lambda t, y, args: net(y), mine, 0.0, 1.0, dt=0.1, adjoint=adjoint)  # noqa: B023
    leaf = mine.clone().requires_grad_()
    body = lambda y: y + 0.1 * net(y)  # noqa: E731
    with pytest.raises(rg.UnsupportedByBackend, match="kind='bounded'"):
        rg.while_loop(
            lambda y: y.abs().sum() < 1e3, body, leaf, checkpoints=2, max_steps=5, throw=False
        )


def check_states(mesh):
    """A DTensor's values and gradients are those of the whole tensor."""
    tensors = pytest.importorskip("torch.distributed.tensor")

    def f(t, y, k):
        return -k * y.sin()

    def run(y0, **keywords):
        y0, k = y0.detach().requires_grad_(), torch.tensor(1.3, dtype=torch.float64)
        ys = rg.solve(f, y0, 0.0, 1.0, k, **keywords).ys
        ys.square().sum().backward()
        with torch.no_grad():
            plain = rg.solve(f, y0, 0.0, 1.0, k, **keywords).ys
        return [whole(x) for x in (ys.detach(), plain, y0.grad)]

    for placement in (tensors.Shard(0), tensors.Shard(1), tensors.Replicate()):
        y0 = tensors.distribute_tensor(state(), mesh, [placement])
        for steps in ({"dt": 0.1}, {"rtol": 1e-6, "atol": 1e-8}):
            close(run(y0, **steps), run(state(), **steps), rtol=1e-13)
        for adjoint in ADJOINTS[2:]:
            with pytest.raises(rg.UnsupportedByBackend, match="`y0` is a DTensor"):
                run(y0, dt=0.1, adjoint=adjoint)
        with pytest.raises(rg.UnsupportedByBackend, match="`y0` is a DTensor"):
            rg.solve_vjp(f, y0, 0.0, 1.0, 1.0, dt=0.1)


def test_modules_of_one_process(mesh):
    check_modules(mesh)


def test_states_of_one_process(mesh):
    check_states(mesh)


@pytest.mark.slow
def test_two_processes(tmp_path):
    here = Path(__file__)
    script = (
        f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as t\n"
        f"mesh = t.joined({str(tmp_path / 'store')!r}, int(sys.argv[1]), 2)\n"
        "t.check_modules(mesh); t.check_states(mesh)\n"
        "t.torch.distributed.destroy_process_group()\n"
    )
    calls = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for call in calls:
        _, said = call.communicate(timeout=300)
        assert call.returncode == 0, said.decode()
