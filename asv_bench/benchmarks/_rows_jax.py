"""Timed rows of the report on JAX: J1, J2, J4 to J9, L1p; peers are diffrax and plain scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import retrograde as rg

from . import _peers as peers
from . import _problems as problems
from . import loops  # not its classes: asv would find them here again
from ._backends import library
from ._by_hand import Scan
from ._cases import (
    EQUAL_ERROR,
    Case,
    Entrant,
    Rival,
    ours_forward,
    ours_gradient,
    per,
    their_forward,
    their_gradient,
)
from ._problem import Problem
from ._systems import SYSTEMS
from .compile import fresh, program_bytes

__all__ = ["FLAGGED", "JAX"]

SLOTS = {"diffrax, default": None, "diffrax, 4096 slots": 4096}


def diffrax(problem: Problem, slots: int | None = None) -> Callable[[], Entrant]:
    """How to make diffrax's gradient."""
    return partial(their_gradient, peers.Diffrax, problem, checkpoints=slots)


def toy_rows() -> Iterator[Case]:
    """J1 and J2: the seed's toy, 500 Euler steps."""
    toy = problems.toy()
    scan = partial(their_gradient, Scan, toy)
    yield Case(
        "gradient, toy", partial(ours_gradient, "jax", toy), (Rival("J1", "lax.scan", 0.85, scan),),
        quick=True,
    )  # fmt: skip
    segments = rg.RecursiveCheckpointAdjoint(10, 50)
    rivals = (
        Rival("J2", "lax.scan", 0.45, scan),
        Rival("J2", "diffrax, 10 slots", 40.0, diffrax(toy, 10)),
    )
    work = "gradient, toy, 10 slots"
    yield Case(work, partial(ours_gradient, "jax", toy, adjoint=segments), rivals, quick=True)


def small_rows() -> Iterator[Case]:
    """J4 and J5: Lotka-Volterra, adaptive, and systems of 200 constant steps."""
    lv = problems.lotka_volterra()
    rival = Rival("J4", "diffrax", 5.0, partial(their_forward, peers.Diffrax, lv))
    ours = partial(ours_forward, "jax", lv, tolerance=EQUAL_ERROR)
    yield Case("forward, Lotka-Volterra", ours, (rival,), quick=True)
    names = zip(SLOTS, (40.0, 20.0), strict=True)
    rivals = tuple(Rival("J5", name, least, diffrax(lv, SLOTS[name])) for name, least in names)
    ours = partial(ours_gradient, "jax", lv, tolerance=EQUAL_ERROR)
    yield Case("gradient, Lotka-Volterra", ours, rivals, quick=True)
    for name, make in SYSTEMS.items():
        problem, least = make(), 6.0 if name == "3-body" else 8.0
        rival = Rival("J5", "diffrax, 4096 slots", least, diffrax(problem, 4096))
        yield Case(f"gradient, {name}", partial(ours_gradient, "jax", problem), (rival,))


def flagged_rows() -> Iterator[Case]:
    """J4 and J5 where XLA may turn loops of any size into one kernel, for us as for diffrax."""
    lv = problems.lotka_volterra()
    rival = Rival("J4", "diffrax", 0.0, partial(their_forward, peers.Diffrax, lv))
    yield Case(
        "flag: forward, Lotka-Volterra",
        partial(ours_forward, "jax", lv, tolerance=EQUAL_ERROR),
        (rival,),
    )
    names = zip(SLOTS, (5.0, 5.0), strict=True)
    rivals = tuple(Rival("J5", name, least, diffrax(lv, SLOTS[name])) for name, least in names)
    ours = partial(ours_gradient, "jax", lv, tolerance=EQUAL_ERROR)
    yield Case("flag: gradient, Lotka-Volterra", ours, rivals)


def network_rows() -> Iterator[Case]:
    """J6: a neural ODE; equal steps, so the time of one of them is compared."""
    net = problems.neural_ode("float64")
    lib = library("jax")

    def counted(entrant: Entrant, steps: int) -> Entrant:
        return dataclasses.replace(entrant, part=per(steps))

    def ours() -> Entrant:
        stats = lib.jax.jit(lambda *x: solution(lib, net, x).stats)(*lib.inputs(net))
        return counted(ours_gradient("jax", net), int(stats["num_steps"]))

    def theirs(slots: int | None) -> Entrant:
        steps = peers.peer(peers.Diffrax).steps(net)
        return counted(diffrax(net, slots)(), steps)

    rivals = (
        Rival("J6", "diffrax, default", 1.25, partial(theirs, None)),
        Rival("J6", "diffrax, 4096 slots", 2.5, partial(theirs, 4096)),
    )
    yield Case("a step of the gradient, neural ODE", ours, rivals)
    fixed = dataclasses.replace(net, dt=1 / 7)
    scan = Rival("J6", "lax.scan", 0.9, partial(their_gradient, Scan, fixed))
    ours = partial(ours_gradient, "jax", fixed)
    yield Case("gradient, neural ODE, 7 constant steps", ours, (scan,))


def solution(lib: Any, problem: Problem, leaves: Any) -> Any:
    """Our Solution object."""
    y0, *args = leaves
    f = problem.field(lib.xp)
    return rg.solve(f, y0, 0.0, problem.t1, problem.pack(args), **problem.settings)


def grid_rows() -> Iterator[Case]:
    """J7: meshes; our gradients within half of the bytes that diffrax' takes."""
    burgers, heat, wave = problems.burgers, problems.heat, problems.wave()
    cases = (
        (burgers(10_000), 59, None, 1.0), (heat(9600, 40.0), 29, None, 0.4),
        (wave, None, None, 1.0), (burgers(1_000_000, 2.0), 8, 2, 0.3),
    )  # fmt: skip
    for problem, steps, rounds, tolerance in cases:
        rival = Rival("J7", "diffrax", 1.1, partial(their_forward, peers.Diffrax, problem))
        ours = partial(ours_forward, "jax", problem, tolerance=tolerance)
        yield Case(f"forward, {problem.name}", ours, (rival,), rounds=rounds)
        fixed = problem if steps is None else dataclasses.replace(problem, dt=problem.t1 / steps)
        rivals = (
            Rival("J7", "diffrax, default", 2.2, diffrax(problem)),
            Rival("J7", "scan, checkpointed body", 1.0,
                  partial(their_gradient, Scan, fixed, checkpoint=True)),
        )  # fmt: skip
        ours = partial(within_half, problem)
        yield Case(f"gradient, {problem.name}", ours, rivals, rounds=rounds)


def half_of_diffrax(problem: Problem) -> int:
    """Half of the bytes of diffrax' default gradient."""
    other = peers.peer(peers.Diffrax)
    return program_bytes(other.lib, other.derivative(problem), problem) // 2


def within_half(problem: Problem) -> Entrant:
    """Our gradient in those."""
    return ours_gradient("jax", problem, memory=half_of_diffrax(problem))


def stiff_rows() -> Iterator[Case]:
    """J8: van der Pol's oscillator from few slots, which are all that is kept."""
    vdp = problems.van_der_pol()
    for slots in (8, 32):
        adjoint = rg.RecursiveCheckpointAdjoint(slots, record=False)
        rival = Rival("J8", f"diffrax, {slots} slots", 3.0, diffrax(vdp, slots))
        ours = partial(ours_gradient, "jax", vdp, tolerance=0.7, adjoint=adjoint)
        yield Case(f"gradient, van der Pol, {slots} slots", ours, (rival,))


def compile_rows() -> Iterator[Case]:
    """J9: tracing and compiling gradients, from new functions each time, JAX itself warm."""
    lv, body = problems.lotka_volterra(), SYSTEMS["3-body"]()
    for problem, least in ((lv, 5.0), (body, 5.0), (problems.neural_ode("float64"), 2.5)):

        def entrant(kind: str, problem: Problem = problem) -> Entrant:
            return Entrant(lambda: fresh(kind, problem), lambda found: 0.0)

        rival = Rival("J9", "diffrax, default", least, partial(entrant, "diffrax"))
        work = f"compile the gradient, {problem.name}"
        yield Case(work, partial(entrant, "ours"), (rival,), rounds=3)


def length_rows() -> Iterator[Case]:
    """L1p: twice the steps in as many slots take twice the time."""
    net = problems.neural_ode("float64")
    adjoint = rg.RecursiveCheckpointAdjoint(16, 8)

    def entrant(steps: int) -> Entrant:
        longer = dataclasses.replace(net, t1=steps / 64, dt=1 / 64)
        run = library("jax").gradient(longer, adjoint=adjoint)
        return Entrant(run, lambda found: 0.0)

    rival = Rival("L1p", "128 steps", 1.7, partial(entrant, 128), most=2.3)
    yield Case("gradient, neural ODE, 64 steps", partial(entrant, 64), (rival,), quick=True)


def loop_rows() -> Iterator[Case]:
    """E1: gradients of public loops in JAX, with as many checkpoints as the peer."""
    targets = {
        "scalar, n = 1000": 10.0, "scalar, n = 10000": 10.0, "scalar, n = 100000": 10.0,
        "100,000 elements": 1.5, "256 x 256 network": 1.0,
    }  # fmt: skip
    for name, target in targets.items():
        rival = Rival("E1", "equinox", target, partial(_loop, name, "equinox"))
        work, quick = f"gradient, loop: {name}", name == "scalar, n = 1000"
        yield Case(work, partial(_loop, name, "ours"), (rival,), quick)


def _loop(name: str, who: str) -> Entrant:
    bench = loops.Equinox()
    bench.setup(name, "scan")
    program = bench.compiled[who == "equinox"]
    reference = bench.plain()

    def error(found: Any) -> float:
        pairs = zip(found, reference, strict=True)
        return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)

    return Entrant(lambda: bench.run(program), error)


JAX = (
    toy_rows, small_rows, network_rows, grid_rows, stiff_rows, compile_rows, length_rows, loop_rows,
)  # fmt: skip
FLAGGED = (flagged_rows,)
