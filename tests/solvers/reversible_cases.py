"""The solvers under test, and one field that serves them all.

It is a driven pendulum of two bodies: a separable system whose y is the pair (q, p) of trees with
two leaves each, non-autonomous in both halves.
"""

from __future__ import annotations

import numpy as np

import retrograde as rg
from retrograde._backend.registry import adapter
from retrograde._integrate.problem import Problem

SOLVERS = {
    "semi_implicit_euler": rg.SemiImplicitEuler(),
    "velocity_verlet": rg.VelocityVerlet(),
    "reversible_heun": rg.ReversibleHeun(),
    "alf": rg.ALF(),
    "alf damped": rg.ALF(0.8),
    "coupled heun": rg.Reversible(rg.Heun(), 0.99),
    "coupled bosh3": rg.Reversible(rg.Bosh3()),
    "coupled rk4": rg.Reversible(rg.RK4()),
    "yoshida4": rg.Yoshida4(),
    "mclachlan4": rg.McLachlan4(),
    "yoshida6": rg.Yoshida6(),
}
Y0 = (([0.7, -0.2], [[0.4]]), ([0.1, 0.5], [[-0.3]]))
P = [1.3, 0.6]
START = 0.375


def pendulums(backend):
    """f, y0 and args."""

    def f(t, y, p):
        (a, b), (u, v) = y
        xp = backend.namespace(a)
        rate = 1.0 + 0.1 * xp.sin(t)
        push = p[1] * xp.cos(t)
        forces = (-p[0] * xp.sin(a) + push, -xp.sin(b) * p[1] + xp.sum(a) * 0.2)
        return (u * rate, v + 0.3 * xp.sum(u)), forces

    leaves = [[backend.array(x) for x in half] for half in Y0]
    return f, (tuple(leaves[0]), tuple(leaves[1])), backend.array(P)


def oscillator(t, y, k):
    return y[1], -k * y[0]


def forward(backend, solver):
    """A forward pass, a carried state at START, and the problem."""
    f, y0, p = pendulums(backend)
    made = Problem(backend.bk, f, y0, p)
    stepper = solver.stepper(backend.bk, made.layout, made.bind((p,)))
    real, h = backend.bk.clock(made.layout).real, 0.125
    s = stepper.start(real(0.0), made.y0)
    for i in range(3):  # the copies of y part
        s = stepper.step(real(i * h), real(h), s, None, error=False).y1
    return stepper, s, made


def matrix(solver, z):
    """A step of size 1 on y' = z y, as the matrix on what is carried."""
    y0 = np.asarray([1.0 + 0j])
    made = Problem(adapter("numpy"), lambda t, y, args: z * y, y0, None)
    stepper = solver.stepper(made.bk, made.layout, made.bind(()))
    unit = np.eye(solver.copies, dtype=complex)
    return np.stack([stepper.step(0.0, 1.0, e, None, error=False).y1 for e in unit], axis=1)


def waves(ys):
    """Different weights for all rows and elements."""
    if isinstance(ys, tuple):
        return tuple(waves(x) for x in ys)
    return np.cos(np.arange(ys.size)).reshape(ys.shape)


def flat(tree):
    if tree is None:
        return []
    if isinstance(tree, tuple):
        return [x for part in tree for x in flat(part)]
    return [np.asarray(tree)]
