"""The accounts of memory, and the promise that they check: measured peak <= budget."""

from __future__ import annotations

import importlib
import types

import numpy as np
import pytest

import retrograde as rg
from retrograde import UnsupportedByBackend
from retrograde._autodiff.tape import object_bytes
from retrograde._autodiff.vjp import vjp
from retrograde._backend.registry import adapter
from retrograde._commands.demo.fit import Objective
from retrograde._commands.demo.problem import guesses
from retrograde.measure import live_bytes, peak_gradient_bytes


def test_a_peak_counts_what_was_alive_at_once() -> None:
    def forward() -> None:
        np.zeros(100_000)

    def gradient() -> None:
        kept = []
        for _ in range(3):
            kept.clear()
            kept.append(np.zeros(200_000))

    size, source = peak_gradient_bytes(forward, gradient, backend="numpy")
    assert 800_000 <= size < 804_000
    assert "tracemalloc" in source


def test_live_bytes_are_the_peaks_between_marks() -> None:
    def grow(mark: object) -> None:
        kept = np.zeros(10_000)
        mark()  # type: ignore[operator]
        np.zeros(50_000)
        mark()  # type: ignore[operator]
        del kept

    first, second, last = live_bytes(grow)
    assert 80_000 <= first < 82_000
    assert 480_000 <= second < 482_000
    assert 80_000 <= last < 82_000


def test_a_library_without_an_account_says_so() -> None:
    with pytest.raises(UnsupportedByBackend, match="'other' keeps no account"):
        peak_gradient_bytes(print, print, backend=types.SimpleNamespace(name="other"))


def test_whose_account_is_read_is_found_from_the_arrays() -> None:
    with pytest.raises(rg.InputError, match="`arguments` must hold arrays of one library"):
        peak_gradient_bytes(print, print, 1.0)
    size, source = peak_gradient_bytes(len, lambda x: [np.ones(9000)], {"x": np.ones(3)})
    assert size == pytest.approx(72_000, rel=0.02)
    assert "tracemalloc" in source


def test_torch_follows_storages_until_they_die() -> None:
    torch = pytest.importorskip("torch")
    LiveStorages = importlib.import_module("retrograde_backends.torch.memory").LiveStorages
    x = torch.ones(1000, dtype=torch.float64)
    with LiveStorages() as storages:
        y = x * 2
        view, x = y[:10], x.mul_(3)  # neither a view nor a write in place makes a storage
        assert storages.live == 8000
        z = y + 1
        del y, view
        assert storages.live == 8000  # z alone
    assert storages.peak == 16_000
    assert z.shape == (1000,)


def test_torch_follows_memory_that_numpy_made() -> None:
    torch = pytest.importorskip("torch")
    LiveStorages = importlib.import_module("retrograde_backends.torch.memory").LiveStorages
    with LiveStorages() as storages:
        x = torch.from_numpy(np.ones(1000))
        assert storages.live == 8000
        y = x[:10]
        del x
        assert storages.live == 8000  # its memory is y's
        del y
    assert (storages.live, storages.peak) == (0, 8000)


def test_torch_counts_what_backward_keeps() -> None:
    torch = pytest.importorskip("torch")
    x = torch.linspace(0, 1, 1000, dtype=torch.float64, requires_grad=True)

    def sines(x: object) -> object:
        for _ in range(20):
            x = torch.sin(x)
        return x

    def forward(x: object) -> None:
        with torch.no_grad():
            sines(x)

    size, _ = peak_gradient_bytes(forward, lambda x: torch.autograd.grad(sines(x).sum(), x), x)
    assert 18 * 8000 <= size <= 22 * 8000


def test_jax_counts_what_a_scan_keeps() -> None:
    jax = pytest.importorskip("jax")

    def sines(x: object) -> object:
        return jax.lax.scan(lambda c, _: (jax.numpy.sin(c), None), x, length=100)[0].sum()

    x = jax.numpy.ones(1000, dtype="float32")
    size, source = peak_gradient_bytes(sines, jax.grad(sines), x)
    assert 100 * 4000 <= size <= 102 * 4000
    assert "XLA" in source


@pytest.mark.quick("160")
@pytest.mark.parametrize("kib", [96, 160, 256])
def test_a_gradient_on_numpy_keeps_its_budget_and_uses_it(kib: int) -> None:
    numpy = adapter("numpy")
    x, weights = guesses(np, 64), np.ones((21, 2, 64))
    objective = Objective(numpy, f"{kib} KiB")
    size, _ = peak_gradient_bytes(lambda x, _: objective.curves(x), objective.pull, x, weights)
    assert 0.7 * kib * 1024 <= size <= kib * 1024


def test_objects_of_a_tape_do_not_depend_on_the_size_of_its_arrays() -> None:
    def field(y: object) -> object:
        return np.stack([np.exp(y[0]) * y[1], y[0] - y[1]])  # type: ignore[index]

    small, large = (object_bytes(vjp(field, [np.ones((2, n))], np)[1]) for n in (1, 10_000))
    assert small == large > 1000
