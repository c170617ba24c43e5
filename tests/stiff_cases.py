"""Stiff problems with their ends, for tests.

References: SciPy's Radau at rtol 1e-11, atol 1e-11 times the scale of each problem, and of systems
with a mesh CVODE's BDF at the same (scikit-sundae, bands); ``python tests/stiff_cases.py`` prints
them anew. Problems are those of Hairer & Wanner, *Solving ODEs II*, and of the test set of Bari.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import retrograde as rg
from retrograde._backend.structure import bandwidth


class Case(NamedTuple):
    """A problem, its scale (that of atol), and where it ends."""

    f: Any
    y0: list[float]
    t1: float
    args: Any
    scale: float
    end: list[float]


def robertson(xp, t, y, k):
    a, b, c = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
    return xp.stack([c - a, a - b - c, b])


def van_der_pol(xp, t, y, mu):
    return xp.stack([y[1], mu * ((1.0 - y[0] ** 2) * y[1]) - y[0]])


def oregonator(xp, t, y, k):
    return xp.stack([
        k[0] * (y[1] + y[0] * (1.0 - k[1] * y[0] - y[1])),
        (y[2] - (1.0 + y[0]) * y[1]) / k[0],
        k[2] * (y[0] - y[2]),
    ])  # fmt: skip


def hires(xp, t, y, k):
    bound = k * y[5] * y[7] - 1.81 * y[6]
    return xp.stack([
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -k * y[5] * y[7] + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        bound,
        -bound,
    ])  # fmt: skip


RATES = [0.04, 3e7, 1e4]
CASES = {
    "robertson": Case(robertson, [1.0, 0.0, 0.0], 1e5, RATES, 1e-6,
        [0.0178659211421158, 7.274751468442964e-08, 0.9821340061103861]),
    "robertson, long": Case(robertson, [1.0, 0.0, 0.0], 1e11, RATES, 1e-6,
        [2.0833401546205094e-08, 8.333360790011816e-14, 0.9999999791664946]),
    "van der pol": Case(van_der_pol, [2.0, 0.0], 3000.0, 1000.0, 1.0,
        [-1.5106069368192336, 0.0011783800005806294]),
    "oregonator": Case(oregonator, [1.0, 2.0, 3.0], 360.0, [77.27, 8.375e-6, 0.161], 1e-3,
        [1.000814870318523, 1228.178521549901, 132.0554942846629]),
    "hires": Case(hires, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057], 321.8122, 280.0, 1e-3,
        [0.0007371312573325968, 0.00014424857263162436, 5.888729740968132e-05,
         0.0011756513432832048, 0.0023863561988322285, 0.00623896825274533,
         0.0028499983951866792, 0.0028500016048133418]),
}  # fmt: skip


class Slopes(NamedTuple):
    """The gradient of sum(weights * y(t1))."""

    weights: list[float]
    y0: list[float]
    args: Any


SLOPES = {
    "robertson": Slopes([1.0, 2e3, 3.0], [2.932708654, 2.932716183, 2.932712354],
        [1.583160868, 1.051987571e-09, -6.326440695e-06]),
    "van der pol": Slopes([1.0, 2.0], [-1.774629766, -5.915433879e-04], -3.549975401e-03),
    "oregonator": Slopes([1.0, 2.0, 3.0], [-0.3633481716, 2341.788241, 202.1850050],
        [427.1782814, -9.078948241e08, -66543.55840]),
    "hires": Slopes([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        [1.873027567, 1.868752885, 1.872566936, 1.864542081, 1.852372633, 1.782292225,
         -407.2907851, -408.8229013], -3.839940137e-04),
}  # fmt: skip
"""By central differences of SciPy's Radau at 1e-12, in two steps (Richardson)."""


def slopes(case, weights, e=4e-4):
    """Those of a case; its numbers are moved by e of themselves, zeros by 1e-4 e."""
    from scipy.integrate import solve_ivp

    n, at = len(case.y0), np.concatenate([case.y0, np.ravel(case.args)])

    def loss(x):
        args = x[n:].reshape(np.shape(case.args))
        found = solve_ivp(
            lambda t, y: case.f(np, t, y, args), (0.0, case.t1), x[:n], method="Radau",
            rtol=1e-12, atol=1e-12 * case.scale,
        )  # fmt: skip
        return np.dot(weights, found.y[:, -1])

    def slope(i, e):
        step = np.zeros_like(at)
        step[i] = e * (abs(at[i]) or 1e-4)
        return (loss(at + step) - loss(at - step)) / (2 * step[i])

    return [(4 * slope(i, e / 2) - slope(i, e)) / 3 for i in range(len(at))]


def field(backend, f):
    return lambda t, y, args: f(backend.namespace(y), t, y, args)


def call(backend, case):
    """f, y0, t0, t1, args."""
    y0, args = backend.array(case.y0), backend.array(case.args)
    return field(backend, case.f), y0, 0.0, case.t1, args


def keywords(case, rtol=1e-6, **more):
    return {"solver": "rodas5p", "rtol": rtol, "atol": rtol * case.scale, **more}


# --- on meshes
class Mesh(NamedTuple):
    """A problem on a mesh: as above, with what is known of its Jacobian, and its end at some
    numbers of y."""

    f: Any
    y0: Any
    t1: float
    args: Any
    structure: Any
    at: list[int]
    end: list[float]


def brusselator(xp, t, y, k):
    """In one dimension, u and v side by side (II, IV.10): k is (diffusion, A, B)."""
    u, v = y[0::2], y[1::2]
    scale = k[0] * (u.shape[0] + 1.0) ** 2

    def spread(x, edge):
        wide = xp.concat([edge, x, edge])
        return scale * (wide[2:] - 2.0 * x + wide[:-2])

    both = u * u * v
    du = k[1] + both - (k[2] + 1.0) * u + spread(u, k[1:2])
    dv = k[2] * u - both + spread(v, k[2:3])
    return xp.reshape(xp.stack([du, dv], axis=1), (-1,))


def on_a_line(cells, at, end):
    """With so many cells."""
    x = np.arange(1, cells + 1) / (cells + 1)
    y0 = np.stack([1 + np.sin(2 * np.pi * x), 3 + 0 * x], axis=1).reshape(-1)
    return Mesh(brusselator, y0, 10.0, [0.02, 1.0, 3.0], rg.Banded(2, 2), at, end)


def brusselator_2d(xp, t, y, k):
    """On a square with no flow through its sides (I, II.10): k is (diffusion, A, B)."""
    side = round((y.shape[0] / 2) ** 0.5)
    y = xp.reshape(y, (side, side, 2))
    wide = xp.concat([y[:1, ...], y, y[-1:, ...]], axis=0)
    high = xp.concat([y[:, :1, :], y, y[:, -1:, :]], axis=1)
    around = wide[2:, ...] + wide[:-2, ...] + high[:, 2:, :] + high[:, :-2, :]
    flow = k[0] * (side - 1.0) ** 2 * (around - 4.0 * y)
    u, v = y[:, :, 0], y[:, :, 1]
    both = u * u * v
    own = [k[1] + both - (k[2] + 1.0) * u, k[2] * u - both]
    return xp.reshape(xp.stack(own, axis=2) + flow, (-1,))


def neighbours(side):
    """Rows and columns of the Jacobian's entries."""
    cell = np.arange(side * side).reshape(side, side)
    pairs = [(cell, cell), (cell[1:], cell[:-1]), (cell[:, 1:], cell[:, :-1])]
    pairs = [(a.reshape(-1), b.reshape(-1)) for a, b in pairs]
    rows = [2 * a + i for a, _ in pairs[:1] for i in (0, 1, 0, 1)]
    columns = [2 * b + i for _, b in pairs[:1] for i in (0, 1, 1, 0)]
    for a, b in pairs[1:]:
        rows += [2 * x + i for i in (0, 1) for x in (a, b)]
        columns += [2 * x + i for i in (0, 1) for x in (b, a)]
    return np.concatenate(rows).tolist(), np.concatenate(columns).tolist()


def on_a_square(side, at, end):
    """With so many cells along each side."""
    x = np.linspace(0.0, 1.0, side)
    y0 = np.stack(np.broadcast_arrays(0.5 + x[:, None], 1.0 + 5.0 * x[None, :]), axis=2)
    structure = rg.Coloured(neighbours(side))
    return Mesh(brusselator_2d, y0.reshape(-1), 1.0, [1.0, 1.0, 3.4], structure, at, end)


MESHES = {
    "line of 200": on_a_line(100, [0, 55, 110, 199],
        [0.9743403971413364, 3.611056571555522, 0.43357904393900465, 3.0329816395339404]),
    "line of 1000": on_a_line(500, [0, 275, 550, 999],
        [0.994825197898841, 3.609402991929647, 0.43310182014068577, 3.0066503658210255]),
    "square of 2048": on_a_square(32, [0, 701, 1402, 2047],
        [1.3560801728406529, 2.98242718089217, 1.3576759655641955, 2.9818451525596816]),
}  # fmt: skip


def mesh_call(backend, mesh):
    """f with its structure, y0, t0, t1, args."""
    y0, args = backend.array(mesh.y0.tolist()), backend.array(mesh.args)
    f = rg.VectorField(field(backend, mesh.f), structure=mesh.structure)
    return f, y0, 0.0, mesh.t1, args


def reference(mesh, tolerance=1e-11):
    """The end by CVODE."""
    from sksundae.cvode import CVODE

    args, width = np.asarray(mesh.args), max(bandwidth(mesh.structure.rows(len(mesh.y0))))

    def rhs(t, y, ydot):
        ydot[:] = mesh.f(np, t, y, args)

    solver = CVODE(
        rhs, rtol=tolerance, atol=tolerance, linsolver="band", lband=width, uband=width,
        max_num_steps=10**6,
    )  # fmt: skip
    return solver.solve([0.0, mesh.t1], mesh.y0).y[-1]


if __name__ == "__main__":
    for name, mesh in MESHES.items():
        print(name, reference(mesh)[mesh.at].tolist())
    for name, known in SLOPES.items():
        print(name, slopes(CASES[name], known.weights))
