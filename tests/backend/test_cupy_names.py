"""CuPy itself where there is no device: its names, and what its functions do with variables."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from retrograde import UnsupportedByBackend
from retrograde._autodiff.vjp import vjp

from ..derivative.cases import CASES

cupy = pytest.importorskip("cupy")
BACKENDS = Path(__file__).parents[2] / "backends/retrograde_backends"
NO_DEVICE = cupy.cuda.runtime.CUDARuntimeError


def test_every_name_that_the_adapter_uses_is_there():
    found = set()
    for path in BACKENDS.glob("*cupy*.py"):
        found |= set(re.findall(r"\bcupy\.([a-zA-Z_][\w.]*)", path.read_text(encoding="utf-8")))
    found -= {name for name in found if name.startswith(("MemoryHook", "py"))}
    assert {"ndarray", "full", "cuda.runtime.memGetInfo", "cuda.MemoryHook"} <= found
    for name in found:
        functools.reduce(getattr, name.rstrip(".").split("."), cupy)


@pytest.mark.parametrize("name", CASES)
def test_functions_of_variables_give_a_result_or_one_clear_error(name):
    for call, *inputs in CASES[name]:
        arrays = [np.asarray(x) for x in inputs]
        try:
            found, pull = vjp(lambda *x: call(cupy, *x), arrays, np)  # noqa: B023
        except UnsupportedByBackend as error:
            assert "rg.VectorField(f, vjp=...)" in str(error)  # noqa: PT017
            continue
        except (NO_DEVICE, AttributeError, ImportError):  # it makes arrays, or there is none
            continue
        expected, back = vjp(lambda *x: call(np, *x), arrays, np)  # noqa: B023
        ct = [np.ones(x.shape) for x in found]
        for a, b in zip([*found, *pull(ct)], [*expected, *back(ct)], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
