"""``compile=True`` in PyTorch: the same numbers, one compilation, clear refusals.

Where the point is what is compiled and how often, dynamo alone runs (the back end ``eager``, half
a second a program); one test goes through the real compiler.

Guards row T3p of ``asv_bench/report.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import retrograde as rg

torch = pytest.importorskip("torch")
kernels = pytest.importorskip("retrograde_backends.torch.compiled.cache")

TIGHT = {"rtol": 1e-7, "atol": 1e-9}
SHORT = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-6}
"""Four stages to compile, where TIGHT has seven."""
TS = rg.SaveAt(ts=[0.0, 0.3, 0.35, 1.5], t1=True)


class Pair(NamedTuple):
    x: object
    v: object


@pytest.fixture
def cheap(monkeypatch):
    """Dynamo without a compiler behind it, and kernels of this test's own."""
    monkeypatch.setattr(kernels, "BACKEND", "eager")
    monkeypatch.setattr(kernels, "_kernels", type(kernels._kernels)())


def compilations():
    return sum(kernel.compilations for kernel in kernels._kernels.values())


def leaf(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


def flat(tree):
    return torch.utils._pytree.tree_leaves(tree)


def network():
    torch.manual_seed(0)
    parts = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    return torch.nn.Sequential(*parts).double()


def module():
    """A network on a batch, scaled by args."""
    net = network()
    y0 = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.1, -1.0]], dtype=torch.float64, requires_grad=True)
    return lambda t, y, a: torch.sin(t) * net(y) * a["k"], y0, tuple(net.parameters())


def tree():
    """A dict with a named tuple and a 0-d leaf; what f closes over was computed from a leaf."""
    base = leaf(0.5, -0.3)
    rate = 2.0 * base

    def f(t, y, a):
        x, v = y["p"].x, y["p"].v
        return {"p": Pair(torch.tanh(v) * a["k"][:2], -x * rate), "s": t - y["s"] * x.sum()}

    y0 = {"p": Pair(leaf(1.0, 2.0), leaf(0.1, -0.4)), "s": leaf(0.7)[0].detach().requires_grad_()}
    return f, y0, (base,)


def gradient(case, compile, *, times=False, **keywords):
    """(what is saved, gradients by y0, args, captured leaves and times, the solution)."""
    f, y0, captured = case()
    args = {"k": leaf(0.5, 0.6, 0.7), "name": "x", "n": 2, "none": None}
    ends = [torch.tensor(t, dtype=torch.float64, requires_grad=times) for t in (0.0, 1.5)]
    t0, t1 = ends if times else (0.0, 1.5)
    sol = rg.solve(f, y0, t0, t1, args, compile=compile, **keywords)
    loss = sum((x * x).sum() for x in flat(sol.ys))
    sources = [*flat(y0), args["k"], *captured, *(ends if times else ())]
    return [x.detach() for x in flat(sol.ys)], torch.autograd.grad(loss, sources), sol


def assert_same(case, **keywords):
    ys, grads, sol = gradient(case, True, **keywords)
    expected, reference, plain = gradient(case, False, **keywords)
    assert sol.stats["num_steps"] == plain.stats["num_steps"]
    for found, right in zip([*ys, *grads], [*expected, *reference], strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-11)
    return sol


@pytest.mark.quick("adaptive-module", "ts-tree", "implicit-module")
@pytest.mark.parametrize("case", [module, tree])
@pytest.mark.parametrize(
    "keywords",
    [
        TIGHT,
        {"solver": "rk4", "dt": 0.1},
        {**SHORT, "saveat": TS, "times": True},
        {"solver": "bosh3", "dt": 0.1, "saveat": TS},
        {**TIGHT, "solver": "dopri8", "saveat": TS, "times": True},
        {**SHORT, "solver": "rosenbrock23", "saveat": TS, "times": True},
        {"solver": "rodas5p", "dt": 0.1},
    ],
    ids=["adaptive", "rk4", "ts", "ts-dt", "dopri8", "implicit", "implicit-dt"],
)
def test_gradients_are_those_without_it(cheap, case, keywords):
    assert_same(case, **keywords)


def robertson(t, y, k):
    """As a differential-algebraic system."""
    gain, loss = k[1] * y[1] * y[2], k[0] * y[0]
    return torch.stack((gain - loss, loss - gain - k[2] * y[1] ** 2, y.sum() - 1))


def samples(t, y, k):
    """Two numbers a sample, stiff; not holomorphic where y is complex."""
    return torch.stack((-k[0] * y[:, 0] + y[:, 1] ** 2, -k[1] * y[:, 1] * t - y[:, 0].conj()), 1)


IMPLICIT = {
    "mass": (robertson, leaf(1.0, 0.0, 0.0), {"mass": torch.diag(torch.tensor([1.0, 1.0, 0.0]))}),
    "batch": (rg.VectorField(samples, structure="batch"), leaf(1.0, 2.0).repeat(3, 1), {}),
    "complex": (samples, (1 + 0.5j) * leaf(1.0, 2.0).repeat(2, 1), {}),
    "lu": (lambda t, y, k: -k[2] * (y - y.roll(1)) * y, torch.linspace(1, 2, 33).double(), {}),
}


@pytest.mark.quick("mass")
@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_steps(cheap, name):
    f, y0, keywords = IMPLICIT[name]
    found = []
    for compile in (True, False):
        y, k = y0.detach().requires_grad_(), leaf(0.04, 1e4, 3e7 if name == "mass" else 30.0)
        sol = rg.solve(
            f, y, 0.0, 0.3, k, solver="rodas5p", rtol=1e-4, atol=1e-8, compile=compile, **keywords
        )
        loss = (sol.ys * sol.ys.conj()).real.sum()
        found.append((sol.ys.detach(), *torch.autograd.grad(loss, (y, k))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_no_implicit_step_compiles_anew(cheap):
    """States, spans, tolerances, parameters, the entries of M, what f closes over."""

    def run(scale, t1, rtol):
        weight = scale * torch.eye(3, dtype=torch.float64)
        f = lambda t, y, k: k * torch.sin(9 * t) - weight @ y  # noqa: E731
        y0, k = scale * leaf(1.0, 2.0, 3.0), leaf(scale)
        ys = rg.solve(
            f, y0, 0.1 * scale, t1, k, solver="rodas5p", rtol=rtol, mass=weight, compile=True
        ).ys
        torch.autograd.grad(ys.sum(), (y0, k))

    run(1.0, 2.0, 1e-4)
    before = compilations()
    assert before == 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(1.7, 9.0, 1e-7)
        run(0.3, 4.0, 1e-3)
    assert compilations() == before


def test_equations_without_a_solution_are_told(cheap):
    """W is 0 in the step: a status, as without it; an adaptive solve takes another size."""
    rate = 1.0 / (0.1 * rg.Rodas5P.tableau.gamma)
    solve = lambda **keywords: rg.solve(  # noqa: E731
        lambda t, y, a: rate * y, leaf(1.0).detach(), 0.0, 0.2, solver="rodas5p", compile=True,
        throw=False, **keywords,
    )  # fmt: skip
    failed = solve(dt=0.1)
    assert failed.status is rg.Status.unsolved
    controller = rg.PIDController(rtol=1e-6, atol=1e-9, dt0=0.1)
    sol = solve(controller=controller)
    assert float(sol.ys[0]) == pytest.approx(np.exp(rate * 0.2), rel=1e-5)
    assert sol.stats["num_rejected_steps"] >= 1
    tries = sol.stats["num_steps"]
    assert sol.stats["num_factorizations"] == sol.stats["num_jac_evals"] == tries
    assert sol.stats["num_f_evals"] >= 8 * tries


@pytest.mark.slow
def test_saved_functions_of_the_state_too(cheap):
    fn = lambda t, y, a: torch.sin(y) * t * a["k"]  # noqa: E731
    keywords = {**SHORT, "saveat": rg.SaveAt(ts=[0.3, 1.2], t1=True, fn=fn), "times": True}
    assert_same(module, **keywords)
    # constant steps: rounding in an error estimate moves the ends of adaptive ones
    assert_same(module, solver="heun", dt=0.1, times=True, saveat=rg.SaveAt(steps=True, t0=True))


def test_every_discrete_adjoint(cheap):
    """All of them by the same few programs."""
    for adjoint in (
        rg.RecursiveCheckpointAdjoint(2),
        rg.RecursiveCheckpointAdjoint(3, one_tape=True),
        rg.DirectAdjoint(),
        rg.BacksolveAdjoint(checkpoints=3),
    ):
        assert_same(module, solver="bosh3", dt=0.1, adjoint=adjoint)


def test_a_budget_is_planned_as_without_it(cheap):
    sol = assert_same(module, dt=0.05, memory="4 KiB")
    assert sol.plan.memory <= 4096
    # a recorded integration would run f once a stage: states are stored where all is allowed
    assert isinstance(
        gradient(module, True, dt=0.05)[2].plan.adjoint, rg.RecursiveCheckpointAdjoint
    )


@pytest.mark.parametrize("field", ["identity", "constant", "strided"])
def test_results_that_are_inputs(cheap, field):
    """f hands back its argument, or what it closes over: no output of the program of its own."""
    fixed = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    f = {
        "identity": lambda t, y, a: y,
        "constant": lambda t, y, a: fixed,
        "strided": lambda t, y, a: -y * t,
    }[field]
    y0 = torch.arange(6.0, dtype=torch.float64).requires_grad_()[::2]
    found = [rg.solve(f, y0, 0.0, 1.0, compile=c, **SHORT).ys for c in (True, False)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
    found = [torch.autograd.grad(ys.sum(), y0)[0] for ys in found]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_nothing_compiles_anew(cheap):
    """T34: steps, spans, states, parameters, tolerances, and functions of the same code."""

    def run(scale, t1, rtol, weight):
        f = lambda t, y, a: torch.tanh(y @ weight) * a + torch.sin(9 * t) - y  # noqa: E731
        y0 = (scale * torch.ones(2, 3, dtype=torch.float64)).requires_grad_()
        a = leaf(scale)
        sol = rg.solve(f, y0, 0.1 * scale, t1, a, rtol=rtol, compile=True)
        torch.autograd.grad(sol.ys.sum(), (y0, a, weight))
        rg.solve(f, y0.detach(), t1, 0.0, a.detach(), rtol=rtol, compile=True)
        return sol.stats["num_steps"]

    weight = torch.eye(3, dtype=torch.float64).requires_grad_()
    run(1.0, 2.0, 1e-4, weight)
    before = compilations()
    assert before == 2  # an attempt, and a pull
    with torch._dynamo.config.patch(error_on_recompile=True):
        steps = run(1.7, 9.0, 1e-9, weight)
        with torch.no_grad():
            weight *= 1.3
        run(0.3, 4.0, 1e-5, weight)
        run(0.3, 4.0, 1e-5, weight.detach().clone().requires_grad_())
    assert steps > 50
    assert compilations() == before


def test_module_parameters_are_inputs_of_the_program(cheap):
    """A training loop compiles once, whatever the optimiser does to the parameters."""
    net, y0 = network(), torch.ones(3, dtype=torch.float64)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    losses, counts = [], []
    for _ in range(4):
        ys = rg.solve(lambda t, y, a: net(y), y0, 0.0, 1.0, compile=True).ys
        loss = (ys**2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        counts.append(compilations())
    assert losses[-1] < losses[0]
    assert counts == [2] * 4


@pytest.mark.quick("auto")
@pytest.mark.parametrize("adjoint", ["auto", "direct"])
def test_solve_vjp(cheap, adjoint):
    y0, k = (x.detach() for x in (leaf(1.0, 2.0), leaf(0.5, 0.7)))
    found = []
    for compile in (True, False):
        keywords = {"saveat": TS, "adjoint": adjoint, "compile": compile, **SHORT}
        sol, pull = rg.solve_vjp(lambda t, y, k: -k * y * y, y0, 0.0, 1.5, k, **keywords)
        found.append([*pull(torch.ones_like(sol.ys)), *pull(torch.ones_like(sol.ys))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def decay(t, y, a):
    return -y


def branches(t, y, a):
    return -y if y[0] > 0 else y


REFUSED = {
    "a branch": (branches, {}, rg.UnsupportedByBackend, "one program of `f`.*branch.*leave"),
    "solver": (
        lambda t, y, a: (y[1], -y[0]), {"solver": "velocity_verlet", "dt": 0.1},
        rg.UnsupportedByBackend, "`compile`.*velocity_verlet.*explicit Runge-Kutta",
    ),
    "own vjp": (
        rg.VectorField(lambda t, y, a: -y, vjp=lambda t, y, a, ct: (0 * t, -ct, None)), {},
        rg.InputError, "`compile`.*`vjp`",
    ),
    "continuous": (
        lambda t, y, a: -y, {"adjoint": rg.BacksolveAdjoint(mode="continuous")},
        rg.UnsupportedByBackend, "tsit5 with `compile=True`",
    ),
    "forward mode": (
        lambda t, y, a: -y, {"adjoint": "forward"}, rg.UnsupportedByBackend,
        "`compile`.*reverse mode",
    ),
    "not a bool": (lambda t, y, a: -y, {"compile": 1}, rg.InputError, "`compile` is 1"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_argument(cheap, name):
    f, keywords, kind, said = REFUSED[name]
    y0 = leaf(1.0, 2.0)
    with pytest.raises(kind, match="(?s)" + said):
        rg.solve(f, (y0, y0) if name == "solver" else y0, 0.0, 1.0, **{"compile": True, **keywords})


def test_a_number_that_changes_is_an_error_in_the_end(cheap):
    def run(k):
        rg.solve(lambda t, y, a: -k * y, leaf(1.0).detach(), 0.0, 1.0, compile=True)

    with torch._dynamo.config.patch(recompile_limit=2):
        run(0.1)
        run(0.2)
        with pytest.raises(rg.UnsupportedByBackend, match="`args`"):
            run(0.3)


def test_transforms_are_refused(cheap):
    solve = lambda y: rg.solve(lambda t, y, a: -y, y, 0.0, 1.0, dt=0.1, compile=True).ys  # noqa: E731
    with pytest.raises(rg.UnsupportedByBackend, match=r"torch\.func"):
        torch.func.vmap(solve)(torch.ones(2, 3))


def test_libraries_without_a_compiler_say_so():
    with pytest.raises(rg.UnsupportedByBackend, match="`compile` is True, but numpy"):
        rg.solve(lambda t, y, a: -y, np.ones(2), 0.0, 1.0, compile=True)


def test_jax_is_compiled_anyway():
    jnp = pytest.importorskip("jax.numpy")
    found = [
        rg.solve(lambda t, y, a: -y, jnp.ones(2), 0.0, 1.0, compile=c).ys for c in (True, False)
    ]
    assert np.array_equal(*found)


def test_the_real_compiler(monkeypatch):
    """About 10 s where nothing is in its cache on disk."""
    monkeypatch.setattr(kernels, "_kernels", type(kernels._kernels)())

    def field(t, y, p):
        return torch.stack((p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]))

    def run(compile):
        y0, p = leaf(1.0, 1.0), leaf(1.5, 1.0, 3.0, 1.0)
        ys = rg.solve(field, y0, 0.0, 5.0, p, compile=compile, **TIGHT).ys
        return ys.detach(), *torch.autograd.grad(ys.sum(), (y0, p))

    assert_compiled_once(run)


def assert_compiled_once(run):
    try:
        found = run(True)
    except rg.UnsupportedByBackend as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(f"no C++ compiler: {error}")
    assert compilations() == 2
    run(True)
    assert compilations() == 2
    for a, b in zip(found, run(False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_the_real_compiler_of_implicit_steps(monkeypatch):
    """Half a minute; a network crashed the interpreter where its Jacobian came by forward mode."""
    monkeypatch.setattr(kernels, "_kernels", type(kernels._kernels)())
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    net = net.double()
    f = rg.VectorField(lambda t, y, k: net(y) * torch.cos(t) - k * y, structure="batch")

    def run(compile):
        y0, k = leaf(1.0, -0.5).repeat(3, 1), leaf(300.0, 1.0)
        ys = rg.solve(f, y0, 0.0, 1.0, k, solver="rodas5p", rtol=1e-6, compile=compile).ys
        return ys.detach(), *torch.autograd.grad(ys.sum(), (y0, k, *net.parameters()))

    assert_compiled_once(run)


def test_a_missing_compiler_is_an_error_that_says_so(monkeypatch):
    import torch._inductor.config as settings

    monkeypatch.setattr(kernels, "_kernels", type(kernels._kernels)())
    f = lambda t, y, a: -1.2345678901 * y  # noqa: E731
    patched = settings.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with patched, pytest.raises(rg.UnsupportedByBackend, match=r"`compile`.*C\+\+ compiler"):
        rg.solve(f, torch.ones(2), 0.0, 1.0, compile=True)
