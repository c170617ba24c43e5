"""The PyTorch adapter: its gradients, what fields close over, and what it refuses."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import pytest

import retrograde as rg

torch = pytest.importorskip("torch")

# PyTorch's own forward mode scripts its formulas
JIT = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
CHECKPOINTS = {"adjoint": "recursive_checkpoint"}
TIGHT = {"rtol": 1e-8, "atol": 1e-8}
W = np.asarray([[0.3, -0.2], [1.0, 2.0], [0.5, 1.0]])
TS = [0.5, 1.5, 3.0]


def tensor(x, **keywords):
    return torch.tensor(x, dtype=torch.float64, **keywords)


def leaf(x):
    return tensor(x, requires_grad=True)


def field(t, y, p):
    """Lotka-Volterra with a prey rate that changes in time; NumPy and torch alike."""
    xp = torch if isinstance(y, torch.Tensor) else np
    return xp.stack(
        [p[0] * (1 + 0.1 * t) * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]]
    )


def field_vjp(t, y, p, ct):
    both = y[0] * y[1] * (p[3] * ct[1] - p[1] * ct[0])
    grow = p[0] * (1 + 0.1 * t) * ct[0]
    ct_y = np.stack([grow + both / y[0], both / y[1] - p[2] * ct[1]])
    first = (1 + 0.1 * t) * y[0] * ct[0]
    ct_p = np.stack([first, -y[0] * y[1] * ct[0], -y[1] * ct[1], y[0] * y[1] * ct[1]])
    return 0.1 * p[0] * y[0] * ct[0], ct_y, ct_p


def numpy_gradient(saveat, weights, **keywords):
    f = rg.VectorField(field, vjp=field_vjp)
    p = np.asarray([1.5, 1.0, 3.0, 1.0])
    sol, pull = rg.solve_vjp(f, np.asarray([1.0, 2.0]), 0.0, 3.0, p, saveat=saveat, **keywords)
    return sol, pull(weights)


@pytest.mark.parametrize("checkpoints", [None, 1, 3])
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_are_those_of_numpy(checkpoints, inside):
    adjoint = rg.RecursiveCheckpointAdjoint(checkpoints)
    keywords = {"dt": 0.05, "adjoint": adjoint}
    weights = W if inside else W[:1]
    wish = rg.SaveAt(ts=TS) if inside else None
    sol, want = numpy_gradient(wish, weights, **keywords)
    y0, p, t0, t1 = leaf([1.0, 2.0]), leaf([1.5, 1.0, 3.0, 1.0]), leaf(0.0), leaf(3.0)
    ts = leaf(TS)
    wish = rg.SaveAt(ts=ts) if inside else None
    ys = rg.solve(field, y0, t0, t1, p, saveat=wish, **keywords).ys
    (ys * tensor(weights)).sum().backward()
    np.testing.assert_allclose(ys.detach(), sol.ys, rtol=1e-12)
    pairs = [(y0, want.y0), (p, want.args), (t0, want.t0), (t1, want.t1)]
    for x, g in pairs + ([(ts, want.ts)] if inside else []):
        np.testing.assert_allclose(x.grad, g, rtol=1e-11, atol=1e-12)


def test_adaptive_gradients_are_those_of_numpy():
    sol, want = numpy_gradient(rg.SaveAt(ts=TS), W, **TIGHT)
    y0, p = leaf([1.0, 2.0]), leaf([1.5, 1.0, 3.0, 1.0])
    got = rg.solve(field, y0, 0.0, 3.0, p, saveat=rg.SaveAt(ts=TS), **TIGHT)
    (got.ys * tensor(W)).sum().backward()
    apart = ("trial", "reverse")  # the graph of a recorded solve calls no f
    marched = {name: n for name, n in sol.stats.items() if not any(x in name for x in apart)}
    assert marched.items() <= got.stats.items()
    # steps are chosen by error estimates whose rounding differs
    np.testing.assert_allclose(y0.grad, want.y0, rtol=1e-8)
    np.testing.assert_allclose(p.grad, want.args, rtol=1e-8)


@pytest.mark.parametrize("adjoint", ["recursive_checkpoint", "direct"])
def test_solve_vjp_is_backward(adjoint):
    y0, p = tensor([1.0, 2.0]), tensor([1.5, 1.0, 3.0, 1.0])
    keywords = {"saveat": rg.SaveAt(ts=TS), "adjoint": adjoint, **TIGHT}
    sol, pull = rg.solve_vjp(field, y0, 0.0, 3.0, p, **keywords)
    g, again = pull(tensor(W)), pull(tensor(W))
    y0, p, t0, t1, ts = leaf([1.0, 2.0]), p.requires_grad_(), leaf(0.0), leaf(3.0), leaf(TS)
    keywords["saveat"] = rg.SaveAt(ts=ts)
    ys = rg.solve(field, y0, t0, t1, p, **keywords).ys
    want = torch.autograd.grad((ys * tensor(W)).sum(), [y0, p, t0, t1, ts])
    torch.testing.assert_close(tuple(g[:5]), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tuple(again[:5]), want, rtol=1e-12, atol=1e-12)
    assert sol.ys.grad_fn is None
    assert g.y0.grad_fn is None


@pytest.mark.parametrize("adjoint", ["recursive_checkpoint", "direct"])
def test_trees_and_complex_states_pass_gradcheck(adjoint):
    def f(t, y, args):
        a, (b, n) = y["a"], y["b"]
        return {"a": -args["k"] * a + b.sum(), "b": (b * torch.cos(a).sum(), n * 0.5 * 1j)}

    def loss(a, b, n, k):
        y0 = {"a": a, "b": (b, n)}
        sol = rg.solve(f, y0, 0.0, 1.0, {"k": k, "unused": 3}, dt=0.25, adjoint=adjoint)
        return sol.ys["a"], *sol.ys["b"]

    c = torch.complex128
    a = torch.tensor([[1.0 + 0.5j, 0.3j]], dtype=c, requires_grad=True)
    b = torch.tensor([0.2 - 0.1j, 0.4, 1j], dtype=c, requires_grad=True)
    n = torch.tensor(1.0 + 0j, dtype=c, requires_grad=True)
    k = torch.tensor(0.7 + 0.2j, dtype=c, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (a, b, n, k))


def test_adaptive_complex_steps_with_tolerances_by_element():
    y0 = torch.tensor([[1.0 + 0j], [2j]], dtype=torch.complex128, requires_grad=True)
    rtol, atol = tensor([[1e-9], [1e-7]]), tensor(1e-10)
    ys = rg.solve(lambda t, y, args: 1j * y, y0, 0.0, 1.0, rtol=rtol, atol=atol).ys
    turn = torch.exp(torch.tensor(1j, dtype=torch.complex128))
    torch.testing.assert_close(ys[-1], y0 * turn, rtol=1e-6, atol=0.0)
    (g,) = torch.autograd.grad(ys.real.sum(), y0)
    torch.testing.assert_close(g, turn.conj().expand(2, 1), rtol=1e-6, atol=0.0)


def test_float32_stays_float32():
    y0 = torch.tensor([1.0, 2.0], requires_grad=True)
    p = torch.tensor([1.5, 1.0, 3.0, 1.0], requires_grad=True)
    seen = []

    def f(t, y, p):
        seen.append((t.dtype, t.shape, y.dtype))
        return field(t, y, p)

    sol = rg.solve(f, y0, 0.0, 1.0, p, saveat=rg.SaveAt(ts=TS[:1], t1=True))
    sol.ys.sum().backward()
    assert {sol.ys.dtype, sol.ts.dtype, y0.grad.dtype, p.grad.dtype} == {torch.float32}
    assert set(seen) == {(torch.float32, torch.Size([]), torch.float32)}


# --- autograd's rules
def test_tensors_changed_in_place_after_the_solve_raise():
    def run():
        y0, p, w = leaf([1.0, 2.0]), leaf(0.5), leaf(0.1)
        out = rg.solve(lambda t, y, p: -p * y + w, y0, 0.0, 1.0, p, **CHECKPOINTS).ys.sum()
        return out, (y0, p, w)

    for i in range(3):
        out, tensors = run()
        with torch.no_grad():
            tensors[i].add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


@pytest.mark.parametrize("loss", [lambda y: y.sum(), lambda y: (y**2).sum()])
def test_a_second_derivative_names_direct(loss):
    y0, z = leaf([2.0, 3.0]), leaf(2.3)
    out = loss(rg.solve(lambda t, y, z: -z * y, y0, 0.0, 1.0, z, **CHECKPOINTS).ys)
    g = torch.autograd.grad(out, z, create_graph=True)[0]
    with pytest.raises(rg.UnsupportedByBackend, match='adjoint="direct"'):
        torch.autograd.grad(g, z)
    with pytest.raises(rg.UnsupportedByBackend, match='adjoint="direct"'):
        (g + z * out).backward()


@JIT
def test_direct_gives_second_derivatives_and_tangents():
    y0, z = leaf([2.0, 3.0]), leaf(2.3)

    def solve(z):
        return rg.solve(lambda t, y, z: -z * y, y0, 0.0, 1.0, z, adjoint="direct", **TIGHT).ys

    g = torch.autograd.grad(solve(z).sum(), z, create_graph=True)[0]
    second = torch.autograd.grad(g, z)[0]
    torch.testing.assert_close(second, 5 * torch.exp(-z.detach()), rtol=1e-6, atol=0.0)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        tangent = forward.unpack_dual(solve(forward.make_dual(z.detach(), tensor(1.0)))).tangent
    torch.testing.assert_close(tangent.sum(), g.detach(), rtol=1e-10, atol=0.0)


def test_direct_is_the_recursive_gradient():
    def gradient(adjoint):
        inputs = [leaf([1.0, 2.0]), leaf([1.5, 1.0, 3.0, 1.0]), leaf(0.1), leaf(3.0), leaf(TS)]
        y0, p, t0, t1, ts = inputs
        wish = rg.SaveAt(ts=ts, t1=True)
        ys = rg.solve(field, y0, t0, t1, p, saveat=wish, adjoint=adjoint, **TIGHT).ys
        w = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
        return torch.autograd.grad((w * ys).sum(), inputs)

    torch.testing.assert_close(
        gradient("direct"), gradient("recursive_checkpoint"), rtol=1e-10, atol=1e-9
    )


def test_backward_twice_and_no_growth():
    def run():
        y0, p = leaf([1.0, 2.0]), leaf([1.5, 1.0, 3.0, 1.0])
        adjoint = rg.RecursiveCheckpointAdjoint(3)
        out = rg.solve(field, y0, 0.0, 1.0, p, dt=0.1, adjoint=adjoint).ys.sum()
        first = torch.autograd.grad(out, [y0, p], retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(out, [y0, p]), first, rtol=0.0, atol=0.0)

    def living():
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    run()
    gc.collect()
    before = living()
    gc.disable()  # no reference cycle may hold tensors until the collector comes
    try:
        for _ in range(20):
            run()
        assert living() <= before
    finally:
        gc.enable()


def test_no_grad_and_detached_inputs_stay_outside_of_the_graph():
    y0, p = leaf([1.0, 2.0]), leaf([1.5, 1.0, 3.0, 1.0])
    with torch.no_grad():
        sol = rg.solve(field, y0, 0.0, 1.0, p)
    assert not sol.ys.requires_grad
    assert sol.plan is None  # a plain integration, as for tensors that require none
    assert not rg.solve(field, y0.detach(), 0.0, 1.0, p.detach()).ys.requires_grad
    ys = rg.solve(field, y0.detach(), 0.0, 1.0, p).ys
    ys.sum().backward()
    assert y0.grad is None
    assert p.grad is not None


@JIT
def test_what_can_have_no_gradient_is_refused():
    y0, p = tensor([1.0, 2.0]), leaf(0.5)
    with pytest.raises(rg.InputError, match=r"loss\.backward"):
        rg.solve_vjp(lambda t, y, args: -p * y, y0, 0.0, 1.0)
    with pytest.raises(rg.InputError, match="in place"):
        rg.solve(lambda t, y, args: y.mul_(2.0), y0, 0.0, 1.0)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        dual = forward.make_dual(y0, y0)
        with pytest.raises(rg.UnsupportedByBackend, match="direct"):
            rg.solve(lambda t, y, args: -y, dual, 0.0, 1.0, **CHECKPOINTS)


def test_a_tape_counts_what_dies_with_it():
    from retrograde._base.types import NeedsGradient
    from retrograde_backends.torch.adapter import backend

    big, y = torch.ones(100, 100, dtype=torch.float64), torch.ones(100, dtype=torch.float64)
    layout = backend.layout([y])
    wanted = NeedsGradient((), False, False, False)

    def bytes_of(f):
        vjp = backend.pullback(layout, lambda params: lambda t, leaves: (f(*leaves),), (), wanted)
        return backend.tape_bytes(vjp, layout.time(0.0), y)[0]

    assert bytes_of(lambda y: big @ y) == 800  # the state of its stage, which the pull holds
    assert bytes_of(lambda y: torch.tanh(y)) == 2 * 800
    assert bytes_of(lambda y: torch.exp(torch.tanh(y)) * y) == 3 * 800


def test_a_vector_field_with_its_own_vjp_is_used():
    calls = []

    def vjp(t, y, z, ct):
        calls.append(t)
        return 0.0 * t, -z * ct, -(y * ct).sum()

    y0, z = leaf([2.0, 3.0]), leaf(2.3)
    f = rg.VectorField(lambda t, y, z: -z * y, vjp=vjp)
    rg.solve(f, y0, 0.0, 1.0, z, dt=0.25).ys.sum().backward()
    want = torch.autograd.grad(rg.solve(f.f, y0, 0.0, 1.0, z, dt=0.25).ys.sum(), [y0, z])
    torch.testing.assert_close((y0.grad, z.grad), want, rtol=1e-13, atol=0.0)
    assert calls
    with pytest.raises(rg.InputError, match="vjp"):
        rg.solve(f, y0, 0.0, 1.0, z, dt=0.25, adjoint="direct")


def test_step_sizes_that_require_a_gradient_are_refused():
    for name in ("dt", "rtol"):
        with pytest.raises(rg.InputError, match=f"`{name}` requires a gradient"):
            rg.solve(lambda t, y, args: -y, tensor([1.0]), 0.0, 1.0, **{name: leaf(0.1)})


@pytest.mark.parametrize("keywords", [{"dt": 0.05}, TIGHT], ids=["constant", "adaptive"])
@pytest.mark.parametrize("wish", [None, rg.SaveAt(ts=TS)], ids=["end", "rows"])
def test_more_steps_than_there_is_room_for_fall_back_to_checkpoints(keywords, wish, monkeypatch):
    from retrograde._adjoints import RecursiveCheckpointAdjoint

    y0, p = leaf([1.0, 2.0]), leaf([1.5, 1.0, 3.0, 1.0])
    slots, reversals = rg.RecursiveCheckpointAdjoint(4), []
    plan = rg.plan(field, y0, 0.0, 3.0, p, saveat=wish, **keywords)
    assert isinstance(plan.adjoint, rg.DirectAdjoint)
    small = dataclasses.replace(plan, adjoint=rg.DirectAdjoint(limit=5), fallback=slots)
    real = RecursiveCheckpointAdjoint.reverse
    spy = lambda self, *rest: reversals.append(self) or real(self, *rest)  # noqa: E731
    monkeypatch.setattr(RecursiveCheckpointAdjoint, "reverse", spy)

    def gradient(adjoint):
        ys = rg.solve(field, y0, 0.0, 3.0, p, saveat=wish, adjoint=adjoint, **keywords).ys
        return torch.autograd.grad(ys.sum(), [y0, p])

    torch.testing.assert_close(gradient(small), gradient(slots), rtol=0.0, atol=0.0)
    assert reversals == [slots, slots]


@pytest.mark.parametrize("settings", [{}, CHECKPOINTS], ids=["planned", "checkpoints"])
def test_what_overflows_has_a_status_and_no_warning_of_numpy(settings):
    """Small states are summed by NumPy in PyTorch's memory; warnings are errors here."""
    y0 = torch.full((4,), 1e200, dtype=torch.float64, requires_grad=True)
    for solver in (rg.RK4(), rg.Reversible(rg.Tsit5())):
        keywords = {"solver": solver, "dt": 0.5, "throw": False, **settings}
        for start in (y0, y0.detach()):
            sol = rg.solve(lambda t, y, args: y * y - y, start, 0.0, 1.0, **keywords)
            assert sol.status is rg.Status.non_finite
