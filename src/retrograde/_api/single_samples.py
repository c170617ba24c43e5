"""``per_sample=True`` by single solves: each sample is solved by itself, and results are joined.

In a traced library the solves are mapped, by the batching rule of its adapter. In an eager one they
run one after the other: that serves whatever a single solve does, and is for what the loop over all
samples at once (``per_sample``) does not.

Rows have times first, then samples. Of those that a sample does not have (``SaveAt.steps``, events)
times and states are inf, and nan behind a solve that failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .._adjoints import find_adjoint
from .._backend.protocols import Capability
from .._base.errors import InputError
from .._base.memory import budget_bytes
from .._base.plain_input import state
from .._base.types import Array, Function, Time, Tree, VectorFieldFn
from .._integrate.events import Hit
from .._integrate.progress import Reporter
from .._integrate.samples.dense import joined
from .._integrate.samples.problem import check_batch
from .._integrate.saveat import filled, parted
from .._integrate.solution import Solution, Status
from .._planner.plan import Plan
from .arguments import saveats_of
from .of_one import OfOne, events_of_one, field_of_one

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .options import Options

DONE = (Status.converged, Status.event)


class Batch(NamedTuple):
    """The arguments of a batch, and which of them every sample has its own part of.

    Attributes
    ----------
    samples : int
    y0, t0, t1 : tree, time, time
    ts : list of times
        Those of each SaveAt, () for none.
    values : list
        Leaves of args, and
    treedef
        their structure.
    mapped : list of bool
        Of y0, t0, t1, each of ts and each of values.
    """

    samples: int
    y0: Tree
    t0: Time
    t1: Time
    ts: list[Tree]
    values: list[Tree]
    treedef: Tree
    mapped: list[bool]

    def arguments(self) -> list[Tree]:
        """All that ``mapped`` tells of."""
        return [self.y0, self.t0, self.t1, *self.ts, *self.values]


class SingleSolves:
    """Single solves of the samples of a batch.

    Parameters
    ----------
    single : callable
        ``solve``, or ``solve_vjp``.
    bk : AbstractBackend
    field : tuple
        f, and which leaves of args belong to samples.
    options : Options
    """

    def __init__(
        self,
        single: Function,
        bk: AbstractBackend,
        field: tuple[VectorFieldFn, Sequence[bool]],
        options: Options,
    ) -> None:
        self.single, self.bk, (self.f, self.marks), self.options = single, bk, field, options
        self.saveats, self.places = saveats_of(options.saveat)
        self.traced = Capability.TRACED in bk.capabilities
        self.reporter: Reporter | None = None

    # --- arguments
    def batch(self, y0: Tree, t0: Time, t1: Time, args: Tree) -> Batch:
        """The arguments, checked as far as they are a batch's."""
        bk, options = self.bk, self.options
        if options.compile:
            raise InputError("`compile` is no part of `per_sample=True`; leave it out.")
        if options.on_step is not None and self.traced:
            raise InputError(
                f"`on_step` can't tell samples apart in programs of {bk.name}; leave it out, or "
                "solve a sample by itself."
            )
        y0 = state(bk, y0, (args, t0, t1))
        leaves = bk.flatten(y0)[0]
        check_batch("y0", leaves, None)
        samples = int(leaves[0].shape[0])
        values, treedef = bk.flatten(args)
        check_batch("args", [x for x, m in zip(values, self.marks, strict=True) if m], samples)
        ts = [() if one.ts is None else one.ts for one in self.saveats]
        times = [("t0", t0, 0), ("t1", t1, 0), *(("saveat.ts", x, 1) for x in ts)]
        each = [check_times(name, t, samples, least) for name, t, least in times]
        mapped = [True, *each, *self.marks]
        return Batch(samples, y0, t0, t1, ts, values, treedef, mapped)

    def call(self, batch: Batch, parts: Sequence[Tree], number: int | None = None) -> Any:
        """A single solve of one sample's part of all arguments."""
        count, bk, options = len(batch.ts), self.bk, self.options
        y0, t0, t1 = parts[:3]
        ts, values = parts[3 : 3 + count], parts[3 + count :]
        wishes = [
            replace(one, ts=None if one.ts is None else t, fn=self._of_one(one.fn))
            for one, t in zip(self.saveats, ts, strict=True)
        ]
        own = replace(
            options, per_sample=False, throw=False, saveat=filled(self.places, wishes),
            event=events_of_one(bk, options.event, self.marks), **self._told(batch, number),
        )  # fmt: skip
        f = field_of_one(bk, self.f, self.marks)
        return self.single(f, y0, t0, t1, bk.unflatten(batch.treedef, values), **vars(own))

    def _of_one(self, fn: VectorFieldFn | None) -> VectorFieldFn | None:
        return None if fn is None else OfOne(self.bk, fn, tuple(self.marks))

    def _told(self, batch: Batch, number: int | None) -> dict[str, Any]:
        """The keywords of a sample that depend on how many there are, and on which it is."""
        options, samples, bk = self.options, batch.samples, self.bk
        found: dict[str, Any] = {}
        first = bk.flatten(batch.y0)[0][0]
        named = isinstance(options.adjoint, Plan) or find_adjoint(options.adjoint) is not None
        if options.memory is not None or not (self.traced or named):
            found["memory"] = max(1, budget_bytes(options.memory, bk, first)[0] // samples)
        if isinstance(plan := options.adjoint, Plan):
            parts = {name: getattr(plan, name) // samples for name in ("memory", "budget")}
            found["adjoint"] = replace(plan, **parts)
        if number is None:
            return found
        if self.reporter is not None:
            report = self.reporter.report
            found["progress"] = lambda part: report((number + part) / samples)
        if (tell := options.on_step) is not None:
            xp, device = bk.xp, bk.device_of(first)

            def one(t: float, y: Tree, h: float, accepted: bool) -> None:
                times = [bk.array([x], bk.real_dtype(first), device) for x in (t, h)]
                rest = [xp.asarray([x], device=device) for x in (accepted, number)]
                leaves, treedef = bk.flatten(y)
                y = bk.unflatten(treedef, [x[None, ...] for x in leaves])
                tell(times[0], y, times[1], *rest)

            found["on_step"] = one
        return found

    # --- solutions
    def solution(self, y0: Tree, t0: Time, t1: Time, args: Tree) -> Solution[Tree]:
        """The solution of the batch."""
        batch = self.batch(y0, t0, t1, args)
        if self.traced:
            return self.checked(self.mapped(batch))
        return self.checked(self.join(batch, self.each(batch)))

    def mapped(self, batch: Batch) -> Solution[Tree]:
        """By the library's own map over samples."""
        one = lambda *parts: self.call(batch, parts)  # noqa: E731
        sol = self.bk.map_samples(one, batch.samples, batch.mapped, batch.arguments())
        return self.samples_second(sol)

    def samples_second(self, sol: Solution[Tree]) -> Solution[Tree]:
        """A mapped solution, whose rows have the samples in front, with times in front."""
        bk, out = self.bk, []
        most = bk.concrete(bk.xp.max(sol.stats["num_accepted_steps"]))
        for one, ts, ys in zip(
            self.saveats, *(self._parted(x) for x in (sol.ts, sol.ys)), strict=True
        ):
            rows, treedef = bk.flatten((ts, ys))
            if one.steps and most is not None:  # what no sample has filled
                rows = [x[:, : int(most) + one.t0, ...] for x in rows]
            out.append(bk.unflatten(treedef, [bk.xp.moveaxis(x, 0, 1) for x in rows]))
        ts, ys = (filled(self.places, [x[k] for x in out]) for k in (0, 1))
        hits = []
        for hit in sol.events:
            rows, treedef = bk.flatten((hit.ts, hit.ys, hit.after))
            rows = [bk.xp.moveaxis(x, 0, 1) for x in rows]
            at, ys_, after = bk.unflatten(treedef, rows)
            hits.append(Hit(at, ys_, after, hit.count))
        return replace(sol, ts=ts, ys=ys, events=tuple(hits))

    def _parted(self, tree: Tree) -> list[Tree]:
        return parted(self.places, tree, "the solution")

    def each(self, batch: Batch) -> list[Any]:
        """What ``single`` returns for each sample; None where y0 is not finite."""
        bk, found = self.bk, []
        leaves = bk.flatten(batch.y0)[0]
        if self.options.progress:
            self.reporter = Reporter(self.options.progress)
        for i in range(batch.samples):
            sound = all(bool(bk.xp.all(bk.xp.isfinite(x[i, ...]))) for x in leaves)
            found.append(self.of_sample(batch, i) if sound else None)
        if self.reporter is not None:
            self.reporter.close()
        if all(x is None for x in found):
            raise InputError("`y0` holds nan or inf in every sample; one has to be finite.")
        return found

    def of_one(self, batch: Batch, i: int) -> tuple[VectorFieldFn, Tree, Tree]:
        """f, y0 and args of sample i."""
        pairs = zip(batch.arguments(), batch.mapped, strict=True)
        parts = [_part(self.bk, x, i) if m else x for x, m in pairs]
        values = parts[3 + len(batch.ts) :]
        f = field_of_one(self.bk, self.f, self.marks)
        return f, parts[0], self.bk.unflatten(batch.treedef, values)

    def of_sample(self, batch: Batch, i: int) -> Any:
        """What ``single`` returns for sample i."""
        pairs = zip(batch.arguments(), batch.mapped, strict=True)
        return self.call(batch, [_part(self.bk, x, i) if m else x for x, m in pairs], i)

    def join(self, batch: Batch, sols: Sequence[Solution[Tree] | None]) -> Solution[Tree]:
        """One solution of those of all samples, None for one that was never begun."""
        bk, xp = self.bk, self.bk.xp
        first = next(x for x in sols if x is not None)
        ok = [x is not None and x.status in DONE for x in sols]
        device = bk.device_of(bk.flatten(batch.y0)[0][0])

        def array(values: Sequence[Any]) -> Array:
            return xp.asarray(values, device=device)

        parts: list[list[Any]] = [
            [None] * 2 if x is None else [self._parted(x.ts), self._parted(x.ys)] for x in sols
        ]
        out: list[list[Tree]] = [[], []]
        for k, one in enumerate(self.saveats):
            for kind, rows in enumerate(out):
                trees = [None if p[kind] is None else p[kind][k] for p in parts]
                rows.append(self._rows(trees, ok, final=one.final))
        ts, ys = (filled(self.places, rows) for rows in out)
        reported = [{} if x is None else x.stats for x in sols]
        names = {name: None for one in reported for name in one}
        stats = {name: array(_column(reported, name)) for name in names}
        stats["num_sample_f_evals"] = int(sum(x.stats["num_f_evals"] for x in sols if x))
        status = array([int(Status.non_finite if x is None else x.status) for x in sols])
        starts = [
            float(_part(bk, batch.t0, i) if batch.mapped[1] else batch.t0) for i in range(len(sols))
        ]
        ends = array(
            [t if x is None else float(x.t_final) for x, t in zip(sols, starts, strict=True)]
        )
        hits = tuple(self._hits(sols, j, ok, array) for j in range(len(first.events)))
        event = array([-1 if x is None else x.event for x in sols]) if hits else -1
        dense = None
        if first.dense is not None:
            dense = joined(bk, [None if x is None else x.dense for x in sols])
        return Solution(ts, ys, stats, status, ends, _plan(sols), dense, event, hits)

    def _hits(
        self, sols: Sequence[Solution[Tree] | None], j: int, ok: list[bool], array: Function
    ) -> Hit:
        """What event j recorded in each sample."""
        own = [None if x is None else x.events[j] for x in sols]
        trees = [[None if x is None else getattr(x, n) for x in own] for n in ("ts", "ys", "after")]
        none = all(x is None for x in trees[2])
        rows = [None if k == 2 and none else self._rows(part, ok) for k, part in enumerate(trees)]
        return Hit(
            rows[0], rows[1], rows[2], array([0 if x is None else int(x.count) for x in own])
        )

    def _rows(self, trees: Sequence[Tree], ok: list[bool], *, final: bool = False) -> Tree:
        """Rows of all samples, (k, B, *shape): as many as the longest has."""
        bk, xp = self.bk, self.bk.xp
        leaves = [None if x is None else bk.flatten(x)[0] for x in trees]
        like = next(x for x in trees if x is not None)
        first, treedef = bk.flatten(like)
        found = []
        for n, one in enumerate(first):
            most = max(x[n].shape[0] for x in leaves if x is not None)
            columns = []
            for own, good in zip(leaves, ok, strict=True):
                x = one[:0, ...] if own is None else own[n]
                if final and not good and own is not None:  # where it stopped is not t1
                    x = x[:-1, ...]
                shape = (most - x.shape[0], *x.shape[1:])
                fill = math.inf if good else math.nan
                rest = xp.full(shape, fill, dtype=x.dtype, device=bk.device_of(x))
                columns.append(xp.concat([x, rest], axis=0) if shape[0] else x)
            found.append(xp.stack(columns, axis=1))
        return bk.unflatten(treedef, found)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "bk": None, "reporter": None}

    def checked(self, sol: Solution[Tree]) -> Solution[Tree]:
        """The solution, unless it is to raise where a sample failed."""
        known = self.options.throw and self.bk.concrete(self.bk.xp.max(sol.status)) is not None
        return sol.raise_if_failed() if known else sol


def check_times(name: str, t: Tree, samples: int, least: int) -> bool:
    """Whether samples have times of their own; ``least``: axes of what they share.

    Raises
    ------
    InputError
        Where there are others than one for each sample.
    """
    shape = tuple(getattr(t, "shape", ()))
    if len(shape) <= least:
        return False
    if len(shape) > least + 1 or shape[0] != samples:
        what = ("a number, or one for each sample, shape", f"({samples},)")
        if least:
            what = ("(k,), or a row for each sample,", f"({samples}, k)")
        raise InputError(f"`{name}` has shape {shape}; pass {' '.join(what)}.")
    return True


def _part(bk: AbstractBackend, x: Tree, i: int) -> Tree:
    """Sample i of a tree."""
    leaves, treedef = bk.flatten(x)
    return bk.unflatten(treedef, [leaf[i, ...] for leaf in leaves])


def _column(reported: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """A statistic of all samples; of those that do not tell it 0, or nan where it is no count."""
    whole = all(isinstance(one.get(name, 0), int) for one in reported)
    return [one.get(name, 0 if whole else math.nan) for one in reported]


def _plan(sols: Sequence[Solution[Tree] | None]) -> Plan | None:
    plans = [x.plan for x in sols if x is not None and x.plan is not None]
    return of_all(plans) if plans else None


def of_all(plans: Sequence[Plan]) -> Plan:
    """The plan of the sample whose gradient takes most; bytes are those of all together."""
    most = max(plans, key=lambda plan: plan.memory)
    total, budget = (sum(getattr(p, name) for p in plans) for name in ("memory", "budget"))
    return replace(most, memory=total, budget=budget)
