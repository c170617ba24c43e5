"""Stiff systems on meshes by their bands and patterns, on every library: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

from ..stiff_cases import MESHES, mesh_call, on_a_line, on_a_square

STIFF = {"solver": "rodas5p", "rtol": 1e-6, "atol": 1e-6}


@pytest.mark.settings(
    name=MESHES,
    few={"numpy": ["line of 1000"], "strict": [], "torch": ["line of 200"],
         "jax": [], "jax:jit": ["line of 200"]},
    slow={"jax:jit": [("line of 1000",), ("square of 2048",)], "jax": [("line of 200",)]},
)  # fmt: skip
def test_where_a_mesh_ends(backend, name):
    """Ten times the tolerance, of CVODE's at 1e-11."""
    mesh = MESHES[name]
    f, y0, t0, t1, args = mesh_call(backend, mesh)
    solve = backend.compiled(lambda y0, args: rg.solve(f, y0, t0, t1, args, **STIFF).ys[-1, ...])
    found = backend.to_numpy(solve(y0, args))
    np.testing.assert_allclose(found[mesh.at], mesh.end, rtol=1e-5)


SMALL = {"line": on_a_line(20, [], []), "square": on_a_square(5, [], [])}
WEIGHTS = {name: np.cos(np.arange(len(mesh.y0)))[None] for name, mesh in SMALL.items()}


@pytest.fixture(scope="module")
def expected(reference):
    """Gradients in NumPy, whose bands are LAPACK's, with dense matrices."""
    found = {}
    for name, mesh in SMALL.items():
        f, *call = mesh_call(reference, mesh)
        found[name] = reference.gradient(f.f, *call, WEIGHTS[name], **STIFF)
    return found


@pytest.mark.settings(
    name=SMALL,
    few={"numpy": list(SMALL), "strict": [], "torch": ["square"], "jax": [], "jax:jit": ["line"]},
    slow={"jax:jit": [("square",)]},
)  # fmt: skip
def test_gradients_by_bands_are_those_by_dense_matrices(backend, expected, name):
    """By every initial value and rate, on all libraries."""
    g = backend.gradient(*mesh_call(backend, SMALL[name]), WEIGHTS[name], max_steps=512, **STIFF)
    np.testing.assert_allclose(g.ys, expected[name].ys, rtol=1e-10)
    np.testing.assert_allclose(g.y0, expected[name].y0, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(g.args, expected[name].args, rtol=1e-9)


@pytest.mark.libraries("numpy", slow="torch")
def test_gradients_of_a_mesh_are_those_of_close_differences(backend):
    """By the diffusion and an initial value, to 1e-5 of differences of solves at 1e-10."""
    mesh = SMALL["line"]._replace(t1=1.0)
    f, y0, t0, t1, args = mesh_call(backend, mesh)
    close = {"solver": "rodas5p", "rtol": 1e-8, "atol": 1e-8}
    g = backend.gradient(f, y0, t0, t1, args, WEIGHTS["line"], **close)
    close = {"solver": "rodas5p", "rtol": 1e-10, "atol": 1e-10}

    def loss(y, k):
        ys = rg.solve(f, backend.array(y), t0, t1, backend.array(k), **close).ys
        return float(np.sum(WEIGHTS["line"] * backend.to_numpy(ys)))

    for name, i in (("y0", 7), ("args", 0)):
        ends = []
        for e in (1e-4, -1e-4):
            point = {"y0": np.array(mesh.y0), "args": np.asarray(mesh.args)}
            point[name][i] *= 1 + e
            ends.append(loss(point["y0"], point["args"]))
        size = {"y0": mesh.y0, "args": mesh.args}[name][i]
        slope = (ends[0] - ends[1]) / (2e-4 * size)
        np.testing.assert_allclose(getattr(g, name)[i], slope, rtol=1e-5)
