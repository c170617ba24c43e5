"""Several SaveAt at once, and times of rows as functions of the times that a solve was given."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._adjoints.continuous import ContinuousAdjoint

TS = [0.3, 0.5, 0.9, 0.4, 1.2]
POINT = np.asarray([1.0, 2.0, 0.7, 0.2, 1.2, *TS])
"""y0, the rate, t0, t1, the saved times of two outputs."""


def decay(t, y, rate):
    return -rate * y * (1.0 + 0.3 * t)


def energy(t, y, rate):
    return y[0] * y[1] * t * rate


def outputs(ts):
    rows = rg.SaveAt(t0=True, ts=ts[3:], t1=True, fn=energy)
    return {"b": rg.SaveAt(ts=ts[:3]), "a": (rg.SaveAt(steps=True, t0=True), rows)}


def parts(tree):
    return [tree["b"], *tree["a"]]


def solved(x, **keywords):
    keywords = {"dt": 0.1, "max_steps": 16} | keywords
    ts = x[5:] if hasattr(x, "shape") else list(x[5:])
    return rg.solve(decay, x[:2], x[3], x[4], x[2], saveat=outputs(ts), **keywords)


def weighted(sol, convert):
    """A number that depends on every row and time; unused rows (traced) count nothing."""
    total = 0.0
    for i, part in enumerate(parts(sol.ys)):
        draw = np.random.RandomState(i)
        weights, times = draw.randn(12, 2), draw.randn(12)
        k = part.shape[0] if part.shape[0] < 12 else 11
        w = convert(weights[:k] if part.ndim == 2 else weights[:k, 0])
        total = total + (part[:k] * w).sum() + (parts(sol.ts)[i][:k] * convert(times[:k])).sum()
    return total


def pulled(**keywords):
    """The gradient of ``weighted`` by NumPy."""
    y0, rate, t0, t1, ts = POINT[:2], *POINT[2:5], POINT[5:]
    keywords = {"dt": 0.1} | keywords
    sol, pullback = rg.solve_vjp(decay, y0, t0, t1, rate, saveat=outputs(ts), **keywords)
    cts, times = [], []
    for i, part in enumerate(parts(sol.ys)):
        draw = np.random.RandomState(i)
        weights, k = draw.randn(12, 2), part.shape[0]
        cts.append(weights[:k] if part.ndim == 2 else weights[:k, 0])
        times.append(draw.randn(12)[:k])
    g = pullback(*({"b": x[0], "a": (x[1], x[2])} for x in (cts, times)))
    assert g.ts["a"][0] is None
    return np.concatenate([g.y0, [g.args, g.t0, g.t1], g.ts["b"], g.ts["a"][1]])


STEPS = {"constant": {"dt": 0.1}, "adaptive": {"rtol": 1e-6, "solver": "dopri8"}}


@pytest.mark.settings(steps=STEPS, few={"jax": ["constant"], "jax:jit": []})
def test_each_output_has_the_rows_that_it_has_alone(backend, steps):
    y0, several = backend.array([1.0, 2.0]), outputs(TS)

    def solve(saveat):
        return rg.solve(decay, y0, 0.2, 1.2, 0.7, saveat=saveat, max_steps=40, **STEPS[steps])

    found = solve(several)
    for ts, ys, alone in zip(parts(found.ts), parts(found.ys), parts(several), strict=True):
        one = solve(alone)
        backend.assert_close(ts, backend.to_numpy(one.ts), rtol=1e-14)
        backend.assert_close(ys, backend.to_numpy(one.ys), rtol=1e-14)


def test_the_gradient_is_that_of_the_discrete_solve():
    """By y0, args and saved times with the steps as they are; by t0 and t1 on one step."""
    g, eps = pulled(), 1e-5
    for i in (0, 1, 2, 5, 6, 7, 8):
        ends = []
        for sign in (eps, -eps):
            x = POINT.copy()
            x[i] += sign
            ends.append(weighted(solved(x), np.asarray))
        assert abs((ends[0] - ends[1]) / (2 * eps) - g[i]) < 2e-9 * abs(g).max()


METHODS = ["recursive_checkpoint", "direct", "forward"]


@pytest.mark.settings(
    method=METHODS, few={"strict": [], "jax": [], "jax:jit": ["recursive_checkpoint"]}
)
def test_the_library_gives_the_same_gradient(backend, method):
    expected, keywords = pulled(solver="bosh3"), {"adjoint": method, "solver": "bosh3"}
    if "torch" in backend.bk.name:
        torch = pytest.importorskip("torch")
        x = torch.asarray(POINT, requires_grad=True)
        if method == "forward":
            pytest.skip("one solve a number")
        (found,) = torch.autograd.grad(weighted(solved(x, **keywords), torch.asarray), x)
    elif "jax" in backend.bk.name and not backend.eager:
        jax = pytest.importorskip("jax")
        loss = lambda x: weighted(solved(x, **keywords), jax.numpy.asarray)  # noqa: E731
        found = jax.jit(jax.grad(loss))(jax.numpy.asarray(POINT))
        # the last saved time is t1, where a clamp to the end is not seen to move
    else:
        pytest.skip("no gradients of its own, or as under jit")
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10, atol=1e-10)


def test_the_continuous_adjoint_meets_every_row():
    far = pulled(adjoint=ContinuousAdjoint())
    np.testing.assert_allclose(far, pulled(), rtol=3e-4, atol=3e-4)


def test_what_is_wrong_is_said():
    with pytest.raises(rg.InputError, match="rows of its own"):
        rg.SaveAt(t1=True, subs=(rg.SaveAt(),))
    with pytest.raises(rg.InputError, match="tuple, list or dict"):
        rg.SaveAt(subs={"a": 1.0})
    y0 = np.ones(2)
    sol, pullback = rg.solve_vjp(decay, y0, 0.0, 1.0, 0.7, saveat={"a": rg.SaveAt()}, dt=0.1)
    with pytest.raises(rg.InputError, match="a dict with keys"):
        pullback({"b": sol.ys["a"]})
    with pytest.raises(rg.InputError, match="`ts`"):
        pullback(sol.ys, {"a": np.ones(3)})
