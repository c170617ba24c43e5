"""A problem on its library: rows and gradients, by each way of asking for them."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import retrograde as rg

from .drawing import Inputs, Problem, dtype_of, save_at, solver_of
from .fields import FORMS, field_of, output_of, row_leaves

FIND = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))["_find"]


class Wrong(Exception):
    """A number is not what it must be."""


class Answer(NamedTuple):
    """Rows and gradients as NumPy arrays."""

    ys: list[Any]
    g: Inputs
    sol: Any


class Solve:
    """A problem on its library."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.h = FIND(problem.library)
        if isinstance(self.h, str):
            raise LookupError(self.h)
        self.real = "float32" if problem.dtype == "float32" else "float64"
        y0 = [self.array(x) for x in problem.leaves]
        params = {name: self.array(x) for name, x in problem.params.items()}
        ts = None if problem.ts is None else self.h.array(problem.ts, self.real)
        own = problem.route == "own" and problem.wanted in ("", "times")
        times = [self.h.array(t, self.real) if own else t for t in (problem.t0, problem.t1)]
        self.inputs = Inputs(y0, params, *times, ts if own else problem.ts)

    def array(self, x: Any) -> Any:
        return self.h.array(x, dtype_of(self.problem, x))

    def call(self, x: Inputs, adjoint: str, memory: Any, **more: Any) -> tuple[Any, Any]:
        """Arguments and keywords of ``solve``."""
        problem = self.problem
        closed = x.params[problem.closed] if problem.closed else None
        f = field_of(problem, self.h.namespace, closed)
        y0 = FORMS[len(problem.leaves)][problem.form][0](*x.y0)
        args = {
            "p": {k: v for k, v in x.params.items() if k != problem.closed},
            "spare": [None, 3, "text"],
            "count": self.h.array([1, 2], "int64"),
            "unread": self.array(np.ones(2)),
        }
        saveat = save_at(problem, x.ts, output_of(problem, self.h.namespace, closed))
        keywords = {"solver": solver_of(problem.solver), "saveat": saveat, **problem.keywords}
        keywords |= {"adjoint": adjoint.strip("'"), "memory": memory, **more}
        if problem.spread:
            for name in ("rtol", "atol"):
                each = [self.array(np.full(np.shape(x), keywords[name])) for x in problem.leaves]
                keywords[name] = FORMS[len(each)][problem.form][0](*each)
        if adjoint.startswith("rg."):
            keywords["adjoint"] = eval(adjoint)
        elif adjoint == "'plan'":
            keywords["adjoint"] = "auto"
            plan = rg.plan(f, y0, x.t0, x.t1, args, **keywords)
            keywords |= {"adjoint": plan, "memory": None}
        return (f, y0, x.t0, x.t1, args), keywords

    def budget(self) -> Any:
        """Bytes to give, from what the candidates of the plan take."""
        kind = self.problem.memory
        if kind in ("none", "ample"):
            return {"none": None, "ample": "1 GiB"}[kind]
        args, keywords = self.call(self.followed(), "'auto'", "1 GiB")
        plan = rg.plan(*args, **keywords)
        exact = [c.bytes for c in plan.candidates if c.accuracy in ("exact", "guarded")]
        sizes = exact or [plan.memory]
        low, high = min(sizes), max(sizes)
        share = np.random.default_rng([self.problem.seed, self.problem.number, 2]).random()
        return int(low + share * (high - low)) if kind == "tight" else low + 64

    def followed(self) -> Inputs:
        """Inputs that a gradient is asked for by."""
        if self.problem.route != "own" or self.problem.library != "torch":
            return self.inputs
        leaves, treedef = self.h.bk.flatten(self.inputs)
        free = [x.detach().clone() if self.h.bk.is_array(x) else x for x in leaves]
        fixed = self.problem.only(self.inputs, lambda x: None)
        for x, given in zip(free, self._flat(fixed), strict=True):
            if given is not None:
                x.requires_grad_()
        return self.h.bk.unflatten(treedef, free)

    def _flat(self, x: Inputs) -> list[Any]:
        """Leaves, None among them, in the order in which inputs flatten."""
        params = [x.params[k] for k in sorted(x.params)]
        return [*x.y0, *params, x.t0, x.t1, *([] if self.inputs.ts is None else [x.ts])]

    def gradient(self, adjoint: str, memory: Any, weights: Weights) -> Answer:
        """Rows, and the gradient of Re <weights, rows>."""
        if self.problem.route == "solve_vjp":
            return self._pulled(adjoint, memory, weights)
        if self.problem.library == "torch":
            return self._backward(adjoint, memory, weights)
        return self._jax(adjoint, memory, weights)

    def _pulled(self, adjoint: str, memory: Any, weights: Weights) -> Answer:
        h = self.h
        args, keywords = self.call(self.inputs, adjoint, memory)
        sol, pullback = rg.solve_vjp(*args, **keywords)
        _, treedef = h.bk.flatten(sol.ys)
        cotangent = h.bk.unflatten(treedef, self._ordered(sol.ys, weights))
        g = pullback(h.map(h._flip, cotangent))
        flipped = [h.map(h._flip, tree) for tree in (g.y0, g.args)]
        y0 = FORMS[len(self.problem.leaves)][self.problem.form][1](flipped[0])
        assert type(flipped[0]) is type(args[1]), "the gradient by y0 has another tree"
        _alike(h, h.bk.flatten(args[4]["p"])[0], h.bk.flatten(flipped[1]["p"])[0])
        _alike(h, self.inputs.y0, y0)
        params = flipped[1]["p"]
        if self.problem.number % 4 == 0:
            again = h.bk.flatten(pullback(h.map(h._flip, cotangent)))[0]
            for a, b in zip(again, h.bk.flatten(g)[0], strict=True):
                if h.bk.is_array(b) and not np.allclose(
                    h.one_to_numpy(a), h.one_to_numpy(b), rtol=1e-6, atol=1e-6
                ):
                    raise Wrong("a second pull gives another gradient")
        assert not np.any(h.one_to_numpy(flipped[1]["unread"])), "a gradient by what is not read"
        found = Inputs(y0, params, g.t0, g.t1, g.ts)
        return Answer(self._rows(sol), self._numpy(found), sol)

    def _backward(self, adjoint: str, memory: Any, weights: Weights) -> Answer:
        x = self.followed()
        args, keywords = self.call(x, adjoint, memory)
        sol = rg.solve(*args, **keywords)
        assert type(sol.ys) is type(args[1]) or keywords["saveat"].fn, "ys has another tree"
        rows, xp = row_leaves(self.problem, sol.ys), self.h.xp
        pairs = [(self._weight(w, r), r) for w, r in zip(weights(rows), rows, strict=True)]
        sum(xp.sum(xp.real(xp.conj(w) * r)) for w, r in pairs).backward()
        _, treedef = self.h.bk.flatten(x)
        # None is autograd's word for a zero: differences tell whether it is one
        leaves = [leaf if self.h.bk.is_array(leaf) else xp.tensor(leaf) for leaf in self._flat(x)]
        grads = [xp.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        _alike(self.h, leaves, grads)
        found = self.h.bk.unflatten(treedef, grads)
        return Answer(self._rows(sol), self._numpy(found), sol)

    def _jax(self, adjoint: str, memory: Any, weights: Weights) -> Answer:
        import jax

        names = {"": Inputs._fields, "times": ("t0", "t1", "ts")}
        names = names.get(self.problem.wanted, (self.problem.wanted,))

        def loss(part: dict[str, Any]) -> Any:
            x = self.inputs._replace(**part)
            args, keywords = self.call(x, adjoint, memory)
            rows = row_leaves(self.problem, (sol := rg.solve(*args, **keywords)).ys)
            pairs = [(self._weight(w, r), r) for w, r in zip(weights(rows), rows, strict=True)]
            value = sum(self.h.xp.sum(self.h.xp.real(self.h.xp.conj(w) * r)) for w, r in pairs)
            return value, (rows, sol.ts)

        pull = self.h.compiled(jax.value_and_grad(loss, has_aux=True))
        part = {name: getattr(self.inputs, name) for name in names}
        (_, (rows, ts)), g = pull(part)
        leaves, treedef = jax.tree.flatten(g)
        _alike(self.h, jax.tree.leaves(part), leaves)
        g = jax.tree.unflatten(treedef, [self.h._flip(leaf) for leaf in leaves])
        zeros = jax.tree.map(self.h.xp.zeros_like, self.inputs)
        found = zeros._replace(**g)
        return Answer([np.asarray(r) for r in rows], self._numpy(found), ts)

    def _weight(self, w: Any, row: Any) -> Any:
        return self.h.array(w, str(row.dtype).rpartition(".")[-1])

    def _ordered(self, ys: Any, weights: Weights) -> list[Any]:
        """Weights of ``row_leaves`` in the order in which the tree flattens."""
        rows = row_leaves(self.problem, ys)
        by_id = {id(r): self._weight(w, r) for w, r in zip(weights(rows), rows, strict=True)}
        return [by_id[id(leaf)] for leaf in self.h.bk.flatten(ys)[0]]

    def _rows(self, sol: Any) -> list[Any]:
        return [self.h.one_to_numpy(x) for x in row_leaves(self.problem, sol.ys)]

    def _numpy(self, x: Inputs) -> Inputs:
        one = self.h.one_to_numpy
        params = {k: one(v) for k, v in x.params.items()}
        ts = None if x.ts is None else one(x.ts)
        return Inputs([one(v) for v in x.y0], params, one(x.t0), one(x.t1), ts)


class Weights:
    """Random numbers for every row: the loss is Re <weights, rows>."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __call__(self, rows: list[Any]) -> list[Any]:
        """Of rows of any library."""
        rng = np.random.default_rng([self.problem.seed, self.problem.number, 3])
        twisted = self.problem.dtype == "complex128"
        parts = [[rng.normal(size=tuple(r.shape)) for _ in range(1 + twisted)] for r in rows]
        return [x[0] + 1j * x[1] if twisted else x[0] for x in parts]


def _alike(h: Any, inputs: Any, gradients: Any) -> None:
    """Gradients are like their inputs."""
    for x, g in zip(inputs, gradients, strict=True):
        assert h.bk.is_array(g), f"a gradient is {g!r}"
        assert tuple(x.shape) == tuple(g.shape), "a gradient has another shape than its input"
        assert x.dtype == g.dtype, "a gradient has another dtype than its input"


def accepted(problem: Problem, answer: Answer) -> Any:
    """Ends of the accepted steps [relative to t0]; n + 1 of them."""
    if problem.control == "given":
        times = problem.keywords["controller"].ts
        return np.asarray(times, np.longdouble) - np.longdouble(problem.t0)
    if problem.control == "constant":
        dt, span = problem.keywords["dt"], problem.t1 - problem.t0
        n = max(int(np.ceil(span / dt - 1e-9)), 1)
        return np.asarray([*(i * np.longdouble(dt) for i in range(n)), np.longdouble(span)])
    if problem.own_steps:
        ts = np.asarray(answer.sol.ts.detach().numpy(), np.longdouble)
        return ts - np.longdouble(problem.t0)
    numpy = dataclasses.replace(problem, library="numpy", route="solve_vjp", closed="")
    side = Solve(numpy if problem.traced else dataclasses.replace(problem, route="solve_vjp"))
    args, keywords = side.call(side.inputs, "'auto'", None)
    keywords |= {"saveat": rg.SaveAt(t0=True, steps=True)}
    ts = np.asarray(side.h.one_to_numpy(rg.solve(*args, **keywords).ts), np.longdouble)
    return ts - np.longdouble(problem.t0)
