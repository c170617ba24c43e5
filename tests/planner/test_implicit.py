"""What solves by implicit methods leave behind, take, and are planned to take."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import retrograde as rg


def heat(t, y, k):
    """Diffusion between cold ends, a reaction, and a force that depends on time."""
    cold = np.zeros(1)
    between = np.concat([y[1:], cold]) - 2.0 * y + np.concat([cold, y[:-1]])
    return 30.0 * k * between - y**3 + np.cos(t)


def cooled(t, y, k):
    """A part that is not stiff."""
    return k * np.cos(y)


SOLVERS = {
    "tsit5": "tsit5",
    "rodas5p": "rodas5p",
    "kvaerno3": "kvaerno3",
    "auto": "auto",
    "gmres": rg.Kvaerno3(linear_solver=rg.GMRES()),
    "split": "kencarp3",
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_leaves_nothing_to_the_collector(name):
    """A matrix that waits for the garbage collector is one that no plan has counted."""
    f = rg.Split(cooled, heat) if name == "split" else heat
    y0 = np.linspace(0.2, 1.0, 12)

    def gradient():
        sol, pull = rg.solve_vjp(f, y0, 0.0, 0.1, np.asarray(0.7), solver=SOLVERS[name])
        return pull(np.ones_like(sol.ys))

    gradient()  # what is made once a process
    gc.collect()
    gc.disable()
    try:
        gradient()
        assert gc.collect() == 0
    finally:
        gc.enable()
