"""Calls that type checkers must reject, each in its line; read by ``test_types.py``, never run."""

import numpy as np

import retrograde as rg

y0 = np.ones(2)


def f(t: object, y: object, args: object) -> object:
    return y


rg.solve(f, y0, 0.0, 1.0, solver="nope")
rg.solve(f, y0, 0.0, 1.0, solver=rg.Tsit5)
rg.solve(f, y0, 0.0, 1.0, memory=[])
rg.solve(f, y0, 0.0, 1.0, adjoint="magic")
rg.solve(f, y0, 0.0, 1.0, controller="pid")
rg.solve(f, y0, 0.0, 1.0, saveat=0.5)
rg.solve(f, y0, 0.0, 1.0, max_steps="many")
rg.solve(f, y0, 0.0, 1.0, stepsize=0.1)
rg.solve(f, y0, 0.0, "1")
rg.solve(f, y0, 0.0, 1.0, dt="0.1")
rg.solve(f, y0, 0.0, 1.0, event=f)
rg.solve(f, y0, 0.0)
rg.solve(lambda t, y: y, y0, 0.0, 1.0)
rg.solve("f", y0, 0.0, 1.0)
rg.solve_vjp(f, y0, 0.0, 1.0, solver="nope")
rg.solve_vjp(f, y0, 0.0, 1.0, memory=[])
rg.solve_vjp(f, y0, 0.0, 1.0, stepsize=0.1)
rg.plan(f, y0, 0.0, 1.0, solver="nope")
rg.plan(f, y0, 0.0, 1.0, memory=[])
rg.plan(f, y0, 0.0, 1.0, calibrated=True)
rg.solve(f, y0, 0.0, 1.0).ys.nothing()
rg.solve(f, [1.0], 0.0, 1.0).rows()
rg.SaveAt(ts=0.5)
rg.SaveAt(fn=3)
rg.StepTo("now")
rg.PIDController(dtmax="small")
rg.while_loop(f, f, y0, kind="best")
rg.scan(f, y0, memory=[])
rg.SaveAt(fn=lambda t, y: y)
rg.while_loop(lambda c: True, lambda c, x: c, y0)
rg.scan(lambda c: c, y0, y0)
rg.loop_vjp(rg.scan, f, y0)[1](y0, y0)
rg.solve(f, y0, 0.0, 1.0).plan.to_dict()
