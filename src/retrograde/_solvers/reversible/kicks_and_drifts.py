"""Symplectic steps as kicks and drifts: a splitting of a separable system, and its inverse.

A kick moves p by the force of q, a drift moves q by the velocity of p. Each is a shear, symplectic
and undone by the same shear with its sign turned; so is any row of them. Their weights decide the
order. A time that f depends on is a coordinate more of each half: a force is taken at the time that
the drifts before it have reached, a velocity at that of the kicks before it, which keeps the
order and the symmetry of the autonomous method. Hairer, Lubich, Wanner, *Geometric Numerical
Integration*, 2nd ed. (2006), doi:10.1007/3-540-30666-8, Sec. II.5.
"""

from __future__ import annotations

from .solver import Polynomial, Programs, cubic
from .straight_line import Evaluate, Instruction, LinearCombination, StraightLine

_INSIDE = ("hv", "hv1", "ha", "ha1")


def kicks_and_drifts(
    kicks: tuple[float, ...],
    drifts: tuple[float, ...],
    dense: tuple[tuple[Polynomial, ...], ...] | None = None,
) -> Programs:
    """The method kick, drift, kick, ..., kick with these weights.

    Parameters
    ----------
    kicks, drifts : tuple of float
        Weights of p's moves, and of q's between them; each sum to 1.
    dense : tuple of tuple of Polynomial, optional
        The interpolant of the registers ``q p q1 p1``. By default the cubic through both ends and
        slopes, for which f is evaluated once more, at the end.
    """
    last = len(drifts)
    step: list[Instruction] = []
    inverse: list[Instruction] = []
    q, p, reached_q, reached_p = "q", "p", 0.0, 0.0
    for i, kick in enumerate(kicks):
        # both halves of the first slope: the velocity belongs to the interpolant
        force = Evaluate(("v" if i == 0 and dense is None else None, f"a{i}"), reached_q, (q, p))
        p1 = f"p_{i}" if i < last else "p1"
        step += [force, LinearCombination(p1, ((p, 1.0, 0.0), (f"a{i}", 0.0, kick)))]
        back = LinearCombination(p, ((p1, 1.0, 0.0), (f"a{i}", 0.0, -kick)))
        inverse += [back, Evaluate((None, f"a{i}"), reached_q, (q, p1))]
        p, reached_p = p1, reached_p + kick
        if i == last:
            break
        drift, q1 = drifts[i], f"q_{i}" if i < last - 1 else "q1"
        velocity = Evaluate((f"v{i}", None), reached_p, (q, p))
        step += [velocity, LinearCombination(q1, ((q, 1.0, 0.0), (f"v{i}", 0.0, drift)))]
        back = LinearCombination(q, ((q1, 1.0, 0.0), (f"v{i}", 0.0, -drift)))
        inverse += [back, Evaluate((f"v{i}", None), reached_p, (q1, p))]
        q, reached_q = q1, reached_q + drift
    forth = StraightLine(("q", "p"), tuple(step), ("q1", "p1"))
    undone = StraightLine(("q1", "p1"), tuple(reversed(inverse)), ("q", "p"))
    if dense is not None:
        return Programs(forth, undone, dense)
    dense = (cubic("q", "q1", "hv", "hv1"), cubic("p", "p1", "ha", "ha1"))
    slopes = zip(_INSIDE, ("v", "v_end", "a0", f"a{last}"), strict=True)
    inside: tuple[Instruction, ...] = (
        Evaluate(("v_end", None), 1.0, ("q1", "p1")),
        *(LinearCombination(name, ((slope, 0.0, 1.0),)) for name, slope in slopes),
    )
    return Programs(forth, undone, dense, inside=inside)


def of_leapfrogs(weights: tuple[float, ...]) -> Programs:
    """Steps of :class:`VelocityVerlet` of these sizes one after the other, their kicks joined."""
    ends = zip((0.0, *weights), (*weights, 0.0), strict=True)
    return kicks_and_drifts(tuple((a + b) / 2 for a, b in ends), weights)
