"""Functions of the user's that write into what they are given.

They must not spoil a solve, whenever they begin to: the values are right (where the library lets
them have copies), or it is an error that says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

SOLVES = {
    "adaptive": {},
    "fsal constant": {"dt": 0.1},
    "rk4": {"dt": 0.1, "solver": "rk4"},
    "late last stage": {"solver": "dopri8"},
    "reversible": {"dt": 0.1, "solver": "reversible_heun"},
    "rows inside": {"saveat": rg.SaveAt(ts=[0.5, 2.0])},
    "checkpoints": {"dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint(3)},
}


def clamp_that_bites_later(backend: Any) -> Any:
    """f of y' = -1 that clamps its argument: [1, 0.3] at 0 is [-1, -1.7] at 2."""

    def f(t: Any, y: Any, args: Any) -> Any:
        y[y < 0] = 0.0
        return -backend.xp.ones_like(y)

    return f


@pytest.mark.libraries("numpy strict torch")
@pytest.mark.parametrize("keywords", SOLVES.values(), ids=SOLVES)
@pytest.mark.parametrize("rows", [1, 2000])
def test_a_state_changed_after_the_first_call(backend, keywords, rows):
    y0 = backend.array([1.0, 0.3] * rows)
    try:
        ys = rg.solve(clamp_that_bites_later(backend), y0, 0.0, 2.0, **keywords).ys
    except rg.InputError as error:
        assert "`f` changed its argument `y` in place; return a new" in str(error)  # noqa: PT017
    else:
        np.testing.assert_allclose(backend.to_numpy(ys)[-1, :2], [-1.0, -1.7], rtol=1e-12)
    assert backend.to_numpy(y0)[:2].tolist() == [1.0, 0.3]


@pytest.mark.libraries("numpy strict torch")
def test_a_tree_changed_after_the_first_call(backend):
    def f(t: Any, y: Any, args: Any) -> Any:
        if t > 1.0:
            y["a"][...] = 0.0
        return {"a": -y["a"], "b": 0.0 * y["b"]}

    y0 = {"a": backend.array([[1.0, 2.0]]), "b": backend.array(1.0)}
    try:
        ys = rg.solve(f, y0, 0.0, 2.0, dt=0.25).ys
    except rg.InputError as error:
        assert "`f` changed its argument `y` in place" in str(error)  # noqa: PT017
    else:  # f sees zeros from then on, but the state stays
        assert np.all(backend.to_numpy(ys["a"]) > 0.1)


@pytest.mark.libraries("numpy strict torch")
def test_output_functions_and_args_that_are_changed(backend):
    def fn(t: Any, y: Any, args: Any) -> Any:
        if t > 0.6:
            y[...] = 0.0
        return 1.0 * y

    y0, rate = backend.array([1.0]), backend.array([1.0])
    wish = rg.SaveAt(ts=[0.5, 0.7, 1.0], t1=True, fn=fn)
    try:
        rg.solve(lambda t, y, a: 0.0 * y, y0, 0.0, 1.0, dt=0.1, saveat=wish)
    except rg.InputError as error:
        assert "in place" in str(error)  # noqa: PT017
    plain = rg.SaveAt(ts=[0.5, 0.7, 1.0], t1=True)
    assert np.all(backend.to_numpy(rg.solve(lambda t, y, a: 0.0 * y, y0, 0.0, 1.0, dt=0.1,
                                            saveat=plain).ys) == 1.0)  # fmt: skip

    def f(t: Any, y: Any, rate: Any) -> Any:
        if t > 0.5:
            rate *= 2.0
        return -rate * y

    with pytest.raises(rg.InputError, match=r"changed its argument .* in place; return a new"):
        rg.solve(f, y0, 0.0, 1.0, rate, dt=0.1)


@pytest.mark.libraries("numpy strict torch")
def test_the_vjp_of_a_field_sees_the_state_that_the_step_had(backend):
    def f(t: Any, y: Any, args: Any) -> Any:
        if t > 0.5:
            y += 1.0
        return -(y * y)

    field = rg.VectorField(f, vjp=lambda t, y, a, ct: (0.0 * t, -2.0 * y * ct, None))
    y0 = backend.array([1.0])
    try:
        sol = rg.solve_vjp(field, y0, 0.0, 1.0, dt=0.1)[0]
    except rg.InputError as error:
        assert "in place" in str(error)  # noqa: PT017
        return
    plain = rg.solve(f, y0, 0.0, 1.0, dt=0.1)  # what f does with its copy is its own affair
    np.testing.assert_array_equal(backend.to_numpy(sol.ys), backend.to_numpy(plain.ys))


def test_a_vjp_that_writes_into_its_state(backend):
    """d/dy0 of y' = -y*y, whose vjp spoils the state of every step that it is given."""
    if not backend.eager or backend.bk.counts_changes:
        pytest.skip("nothing lent is written into, or nobody looks")

    def vjp(t: Any, y: Any, args: Any, ct: Any) -> Any:
        found = -2.0 * y["y"] * ct["y"]
        y["y"][...] = 7.0
        return 0.0 * t, {"y": found}, None

    field = rg.VectorField(lambda t, y, a: {"y": -(y["y"] * y["y"])}, vjp=vjp)
    sol, pullback = rg.solve_vjp(field, {"y": backend.array([[1.0]])}, 0.0, 1.0, dt=0.01)
    try:
        g = pullback(backend.map(lambda x: 0.0 * x + 1.0, sol.ys))
    except rg.InputError as error:
        assert "in place" in str(error)  # noqa: PT017
    else:
        np.testing.assert_allclose(backend.to_numpy(g.y0)["y"], [[0.25]], rtol=1e-6)


@pytest.mark.libraries("numpy strict torch")
def test_bodies_and_conditions_that_change_their_carry_later(backend):
    def body(c: Any) -> Any:
        if c["n"] > 1:
            c["x"][...] = 0.0
        return {"n": c["n"] + 1, "x": c["x"] + 1.0, "kept": c["kept"]}

    def cond(c: Any) -> bool:
        if c["n"] > 1:
            c["kept"][...] = 5.0
        return bool(c["n"] < 4)

    def row(c: Any, x: Any) -> Any:
        if c > 2.5:
            x[...] = 0.0
        return c + x[0], c

    one = backend.array([1.0])
    init = {"n": 0, "x": backend.array([1.0]), "kept": one}
    calls = (
        lambda: rg.while_loop(lambda c: c["n"] < 4, body, init),
        lambda: rg.while_loop(cond, lambda c: {**c, "n": c["n"] + 1, "x": c["x"] + 1.0}, init),
        lambda: rg.scan(row, backend.array(1.0), backend.array([[1.0], [1.0], [1.0]])),
    )
    for call in calls:
        try:
            result = call()
        except rg.InputError as error:
            assert "changed its argument in place; return a new" in str(error)  # noqa: PT017
        else:
            kept = result["kept"] if isinstance(result, dict) else one
            assert backend.to_numpy(kept).tolist() == [1.0]


def test_what_comes_back_can_be_written_into(reference):
    y0, table = np.asarray([1.0, 2.0]), np.asarray([3.0])
    sol = rg.solve(lambda t, y, a: -y, y0, 0.0, 1.0, table, saveat=rg.SaveAt(t0=True, t1=True))
    carry = rg.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1]), (0, table))
    sol.ys[...] = 0.0
    y0[...] = 0.0
    carry[1][...] = 0.0
    assert table.tolist() == [0.0]  # handed on as it is
