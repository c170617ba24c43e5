"""Progress of a solve, by a callable or a bar: by the clock, or of a program at every per cent."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import retrograde as rg

pytestmark = pytest.mark.optimised  # bits with and without reports are compared


@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {"rtol": 1e-6}], ids=["constant", "adaptive"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_parts_grow_from_zero_to_one(backend, keywords, span):
    if "dt" in keywords:
        keywords = {"dt": keywords["dt"] if span[1] > span[0] else -keywords["dt"]}
    y0, parts = backend.array([1.0, 0.5]), []

    def run(**more):
        solve = lambda y0: rg.solve(lambda t, y, a: -y, y0, *span, **keywords, **more)  # noqa: E731
        return backend.compiled(solve)(y0)

    watched = run(progress=parts.append)
    reports(backend)
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    steps = int(watched.stats["num_steps"])
    assert (3 if backend.eager else 6) <= len(parts) <= steps + 1
    assert np.array_equal(backend.to_numpy(watched.ys), backend.to_numpy(run().ys))


def reports(backend):
    """Wait for what programs say on the way."""
    if not backend.eager:
        import jax

        jax.effects_barrier()


@pytest.mark.parametrize(("seconds", "most"), [(1.0, 1), (1e-2, 5), (1e-6, 50_000)])
def test_reports_come_twenty_times_a_second(monkeypatch, seconds, most):
    """At every step of dear ones; the number of steps between two reports at most doubles."""
    from retrograde._backend.clock import HostClock
    from retrograde._integrate import progress

    tries, parts, gaps = 0, [], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds * tries)
    watch = progress.Watch(None, HostClock(), progress.Reporter(parts.append), (0.0, 1e6))
    for _ in range(40):
        gaps.append(watch.look(float(tries), tries) - tries)
        tries += gaps[-1]
    assert 0.8 * most <= gaps[-1] <= max(gaps) <= most  # rounded down
    assert all(b <= 2 * a for a, b in itertools.pairwise(gaps))
    assert len(parts) == len(gaps)


def test_a_failed_solve_tells_how_far_it_came(backend):
    parts = []
    keywords = {"rtol": 1e-10, "max_steps": 5, "throw": False, "progress": parts.append}
    sol = rg.solve(lambda t, y, a: -y, backend.array([1.0]), 1.0, 3.0, **keywords)
    reports(backend)
    assert parts[-1] == pytest.approx((float(sol.t_final) - 1.0) / 2.0, rel=1e-6)
    assert max(parts) < 1.0


def test_a_callable_is_told_nothing_of_the_reverse_pass(backend):
    """Nor of its replays: the parts are those of the solve."""
    parts, y0 = [], backend.array([1.0, 0.5])
    adjoint = rg.RecursiveCheckpointAdjoint(3)
    keywords = {"dt": 0.1, "adjoint": adjoint, "progress": parts.append}
    sol, pullback = rg.solve_vjp(
        lambda t, y, k: -k * y, y0, 0.0, 1.0, backend.array(1.0), **keywords
    )
    reports(backend)
    before = list(parts)
    found = [backend.to_numpy(pullback(0 * sol.ys + 1).args) for _ in range(2)]
    reports(backend)
    assert parts == before
    assert found[0] == found[1] == pytest.approx(-np.exp(-1.0) * 1.5, rel=1e-6)


@pytest.mark.libraries("numpy strict torch")
@pytest.mark.parametrize("adjoint", ["recursive_checkpoint", "slots", "backsolve", "reversible"])
def test_a_bar_of_the_reverse_pass(backend, adjoint, capsys):
    """It goes from t1 to t0, and changes no number."""
    pytest.importorskip("tqdm")
    slots = rg.RecursiveCheckpointAdjoint(3, record=False)
    keywords = {"adjoint": slots if adjoint == "slots" else adjoint, "rtol": 1e-6}
    if adjoint == "reversible":
        keywords = {"adjoint": adjoint, "solver": "reversible_heun", "dt": 0.01}
    call = lambda t, y, k: -k * y, backend.array([1.0, 0.5]), 0.0, 1.0, backend.array(1.0)
    found = []
    for progress in (False, True):
        sol, pullback = rg.solve_vjp(*call, **keywords, progress=progress)
        capsys.readouterr()
        found.append(backend.to_numpy(pullback(0 * sol.ys + 1).args))
        assert capsys.readouterr().err.count("reverse: 100%") == int(progress)
    assert found[0] == found[1] == pytest.approx(-np.exp(-1.0) * 1.5, rel=1e-4)


def test_a_bar_is_drawn_and_nonsense_refused(backend, capsys):
    pytest.importorskip("tqdm")
    y0 = backend.array([1.0, 2.0])
    rg.solve(lambda t, y, a: -y, y0, 0.0, 1.0, dt=0.1, progress=True)
    reports(backend)
    assert capsys.readouterr().err.count("100%") == 1
    with pytest.raises(rg.InputError, match="`progress` is 3; pass True for a bar, or a callable"):
        rg.solve(lambda t, y, a: -y, y0, 0.0, 1.0, dt=0.1, progress=3)


@pytest.mark.quick("adaptive")
@pytest.mark.parametrize(
    ("keywords", "most"),
    [({"dt": 1e-3}, 103), ({"rtol": 1e-8}, 60)],
    ids=["constant", "adaptive"],
)
def test_jax_reports_a_per_cent_once_and_lanes_the_least(keywords, most):
    """A batch has one row of parts, and its gradient is what it is."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    y0, parts = jax.numpy.asarray([[1.0], [2.0], [1e3]]), []

    def total(y0, k):
        keywords["progress"] = parts.append
        one = lambda y: rg.solve(lambda t, y, k: -k * y * y, y, 0.0, 1.0, k, **keywords).ys  # noqa: E731
        return jax.vmap(one)(y0).sum()

    found = jax.jit(jax.grad(total, argnums=(0, 1)))(y0, 1.0)
    jax.effects_barrier()
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert 10 < len(parts) <= most
    y1 = 1 / (1 / np.asarray(y0) + 1.0)
    if "rtol" in keywords:  # constant steps are too long for the largest
        np.testing.assert_allclose(found[0], (y1 / y0) ** 2, rtol=2e-4)
        np.testing.assert_allclose(found[1], -np.sum(y1**2), rtol=2e-4)


@pytest.mark.libraries("jax:jit")
def test_without_progress_jax_has_the_same_program(backend):
    import jax

    def text(**keywords):
        solve = lambda y: rg.solve(lambda t, y, a: -y, y, 0.0, 1.0, **keywords).ys.sum()  # noqa: E731
        return jax.jit(jax.grad(solve)).lower(backend.array([1.0])).as_text()

    assert text() == text(progress=False)
    assert "callback" not in text()
    assert "callback" in text(progress=lambda part: None)
