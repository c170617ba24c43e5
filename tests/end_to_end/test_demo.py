"""The demo finds what an independent fit finds, and its gradients are right."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from retrograde._backend.registry import adapter
from retrograde._commands.demo.fit import Objective, fit
from retrograde._commands.demo.problem import UNKNOWNS, bounds, guesses, series
from retrograde._commands.demo.session import Library, Options
from retrograde._commands.main import main

LITERATURE = (0.55, 0.028, 0.80, 0.024, 33.9, 5.9)  # Carpenter 2018, posterior means


@pytest.fixture(scope="module")
def independent() -> np.ndarray:
    """The same least squares by SciPy's solve_ivp and least_squares, in counts."""
    solve_ivp = pytest.importorskip("scipy.integrate").solve_ivp
    least_squares = pytest.importorskip("scipy.optimize").least_squares
    years, logs = series(np)

    def residuals(x: np.ndarray) -> np.ndarray:
        a, b, c, d, *start = np.exp(x)

        def field(t: float, y: np.ndarray) -> list[float]:
            return [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]

        ys = solve_ivp(
            field, (0.0, 20.0), start, method="LSODA", t_eval=years, rtol=1e-9, atol=1e-9
        ).y.T
        return (np.log(ys) - logs).reshape(-1)

    return np.exp(least_squares(residuals, np.log(LITERATURE), diff_step=1e-5).x)


def test_the_demo_agrees_with_an_independent_fit(
    independent: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--starts", "4", "--backends", "numpy", "--quiet"]) == 0
    out = capsys.readouterr().out
    found = [float(re.search(rf"{re.escape(u.name)} +([\d.]+)", out)[1]) for u in UNKNOWNS]  # type: ignore[index]
    np.testing.assert_allclose(found, independent, rtol=1e-3)
    np.testing.assert_allclose(found, LITERATURE, rtol=0.1)
    assert "EXCEEDED" not in out
    assert re.search(r"numpy +[\d.]+ +\d+ +[\d.]+ ms", out)


@pytest.mark.slow
def test_gradients_agree_with_differences() -> None:
    objective = Objective(adapter("numpy"), "64 KiB", tolerance=1e-10)
    x = guesses(np, 3)
    _, g = objective(x)
    for k in range(6):
        step = 1e-5 * (np.arange(6) == k)[:, None]
        up, down = objective(x + step)[0], objective(x - step)[0]
        np.testing.assert_allclose(g[k], (up - down) / 2e-5, rtol=1e-5, atol=1e-4)


@pytest.mark.quick("torch")
@pytest.mark.parametrize("name", ["jax", "torch"])
def test_every_library_has_the_same_gradient(name: str) -> None:
    pytest.importorskip(name)
    options, x = Options(), guesses(np, 4)
    squares, g = Library("numpy", options).gradient(x)
    library = Library(name, options)
    with library.glue.double_precision(name):
        again, same = library.gradient(x)
    np.testing.assert_allclose(again, squares, rtol=1e-9)
    np.testing.assert_allclose(same, g, rtol=1e-8, atol=1e-9 * np.abs(g).max())


def test_a_start_that_blows_up_leaves_the_others_alone() -> None:
    pytest.importorskip("scipy")
    x0 = guesses(np, 3)
    target = np.log([[u.low * 2] for u in UNKNOWNS])

    def gradient(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        squares, g = np.sum((x - target) ** 2, axis=0), 2 * (x - target)
        squares[1], g[:, 1] = np.nan, np.inf
        return squares, g

    found = fit(gradient, np, x0, 50)
    np.testing.assert_allclose(found.x[:, [0, 2]], np.repeat(target, 2, axis=1), atol=1e-5)
    np.testing.assert_array_equal(found.x[:, 1], x0[:, 1])
    assert found.best != 1


def test_first_guesses_fill_their_box() -> None:
    x = guesses(np, 64)
    low, high = np.log([[u.low, u.high] for u in UNKNOWNS]).T
    unit = (x - low[:, None]) / (high - low)[:, None]
    assert ((unit > 0) & (unit < 1)).all()
    for row in unit:
        assert np.histogram(row, 8, (0, 1))[0].min() >= 6  # of 8, were they even
    box = np.asarray(bounds(np, 64)).reshape(6, 64, 2)
    assert ((box[:, :, 0] < x) & (x < box[:, :, 1])).all()


def test_too_small_a_promise_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy")
    from retrograde.measure import Measured

    monkeypatch.setattr(Library, "peak", lambda self, x: Measured(2**20, "a made-up account"))
    monkeypatch.setattr("retrograde._commands.demo.session.ITERATIONS", 1)
    assert main(["demo", "--starts", "1", "--backends", "numpy", "--quiet"]) == 1
    assert "EXCEEDED" in capsys.readouterr().out


@pytest.mark.slow
def test_the_picture_and_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    monkeypatch.setattr("retrograde._commands.demo.session.ITERATIONS", 2)
    picture = tmp_path / "out.png"
    argv = ["--starts", "2", "--backends", "numpy", "--plot", str(picture), "--progress"]
    assert main(argv) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "fit on numpy" in capsys.readouterr().err
