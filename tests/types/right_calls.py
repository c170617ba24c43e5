"""Calls that type checkers must accept; read by ``test_types.py``, never run."""

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import retrograde as rg

Vector = npt.NDArray[np.float64]
y0: Vector = np.ones(2)
pair: tuple[Vector, Vector] = (y0, y0)
named: dict[str, Vector] = {"q": y0}


def f(t: Any, y: Any, args: Any) -> Any:
    return -y


assert_type(rg.solve(f, y0, 0.0, 1.0), rg.Solution[Vector])
assert_type(rg.solve(f, y0, 0, 1).ys, Vector)
assert_type(rg.solve(f, pair, 0.0, 1.0, None).ys, tuple[Vector, Vector])
assert_type(rg.solve(f, named, 0.0, 1.0, {"k": 1}).ys, dict[str, Vector])
assert_type(rg.solve(f, [1.0, 0.0], 0, 1).ys, Any)
assert_type(rg.solve(f, (1, 2), 0, 1).ys, Any)
assert_type(rg.solve(f, {"q": 1.0, "p": [0, 1]}, 0, 1).ys, Any)
rg.solve(f, 1.0, np.asarray(0.0), np.float64(1.0), 0.5, saveat=[0.5, 1]).ys.ravel()
rg.solve(lambda t, y, args: [y[1], -y[0]], y0, 0.0, 1.0, saveat=np.linspace(0.0, 1.0, 5))
rg.solve(f, y0, 0.0, 1.0, solver="RK45", adjoint="backsolve", memory="64 MiB", max_steps=9)
rg.solve(f, y0, 0.0, 1.0, solver=rg.Dopri8(), adjoint=rg.BacksolveAdjoint(), memory=0.5)
rg.solve(f, y0, 0.0, 1.0, controller=rg.PIDController(dtmax=0.1), memory=2**20, progress=print)
rg.solve(f, y0, 0.0, 1.0, dt=np.asarray(0.1), saveat=rg.SaveAt(ts=(0.5, 1.0), t0=True))
rg.solve(rg.VectorField(f), y0, 0.0, 1.0, rtol=np.ones(2), atol=[1e-6, 1e-8], throw=False)
sol, pullback = rg.solve_vjp(f, pair, 0.0, 1.0, (0.5, y0), solver="tsit5", saveat=[1.0])
assert_type(sol.ys, tuple[Vector, Vector])
assert_type(pullback(sol.ys).y0, tuple[Vector, Vector])
assert_type(rg.plan(f, [1, 0], 0, 1, memory="2 KiB", calibrate=True), rg.Plan)
rg.solve(f, y0, 0.0, 1.0, adjoint=rg.plan(f, y0, 0.0, 1.0)).stats.get("num_steps")
assert_type(rg.solve(f, y0, 0.0, 1.0).plan, rg.Plan | None)
rg.solve(f, y0, 0.0, 1.0, saveat=rg.SaveAt(ts=y0, fn=lambda t, y, args: {"energy": y @ y}))
rg.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] / 2), (0, y0), max_steps=9).count(0)
rg.scan(lambda c, x: (c + x, c), 0.0, y0, kind="bounded", memory="1 MiB")[1].sum()
rg.loop_vjp(rg.scan, lambda c, x: (c + x, c), y0, y0)[1]((y0, None))
rg.solve(f, y0, 0.0, 1.0, controller=rg.StepTo([0.0, 0.5, 1.0]))
rg.solve(f, y0, 0.0, 1.0, controller=rg.StepTo(np.linspace(0.0, 1.0, 5)))
