"""Butcher tableaus of explicit Runge-Kutta methods: their numbers, their shapes, their claims.

A `Tableau` is numbers only: tuples of Python floats, no arrays, so that one table serves every
array library and every precision. It checks its shapes when it is made, and its mathematics
(``order_conditions``) when `Tableau.check` is called: by the tests, never at import. Explicit
methods only.

Notation and theory are those of E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary
Differential Equations I", 2nd ed., Springer (1993), doi:10.1007/978-3-540-78862-1, Sec. II.1, II.2
and II.6; two error estimates made one: Sec. II.10.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import fsum
from operator import mul

from .order_conditions import order_conditions

# Rounding leaves Tsit5, whose coefficients reach 90, residuals of up to 1.4e-14.
_SUM_TOLERANCE = 1e-14
_ORDER_TOLERANCE = 1e-13


@dataclass(frozen=True, slots=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method with ``s`` stages.

    One step of size ``h`` from ``(t, y)`` is::

        k_i       = f(t + c_i h, y + h sum_{j<i} a_ij k_j)
        y_new     = y + h sum_i b_i k_i
        error     = h sum_i b_error_i k_i
        y(theta)  = y + h sum_i b_i(theta) k_i,     0 <= theta <= 1

    An interpolant may need stages of its own, which come behind those of the step and are
    evaluated only where y inside a step is asked for: then ``c``, ``a`` and ``interpolation``
    have ``S > s`` rows.

    Parameters
    ----------
    c : tuple of float, length S
        Nodes, in units of the step; ``c[0]`` is 0.
    a : tuple of tuples of float, lengths 0, 1, ..., S - 1
        Stage coefficients below the diagonal; row ``i`` sums to ``c[i]``.
    b : tuple of float, length s
        Weights of the solution that is carried on; they sum to 1.
    b_error : tuple of float, length s, or None
        ``b`` minus the weights ``b_hat`` of the embedded method; they sum to 0. None for a
        method without an error estimate.
    order : int
        Order ``p`` of the solution that is carried on: its global error is O(h**p).
    error_order : int
        Exponent ``k`` of the error estimate, O(h**k), whose ``k``-th root the step controller
        takes: 1 more than the order of the less accurate method of the pair, hence ``p`` for a
        pair p(p-1). Without an estimate ``p + 1``, the exponent of the local error itself.
    interpolation : tuple of S tuples of float, all of one length d
        Row ``i`` holds the coefficients of ``theta**1, ..., theta**d`` in ``b_i(theta)``.
    interpolation_order : int
        Order ``q`` of the interpolant: inside a step that starts exactly its error is
        O(h**(q+1)).
    b_coarse : tuple of float, length s, or None
        The same as `b_error` with a third method, 2 orders below the embedded one. The two
        estimates are made one: with N and M their squared norms, the error's is
        ``N**2 / (N + 0.01 M)``. Its exponent is 3 more than the order of ``b_hat``.

    Raises
    ------
    ValueError
        If the shapes do not fit each other, a row of `a` does not sum to its node, or the
        weights do not sum to 1 (`b`) or 0 (`b_error`, `b_coarse`).

    Examples
    --------
    >>> from retrograde._solvers.runge_kutta.tableau import Tableau
    >>> midpoint = Tableau(
    ...     c=(0.0, 0.5), a=((), (0.5,)), b=(0.0, 1.0), b_error=(-1.0, 1.0), order=2,
    ...     error_order=2, interpolation=((1.0, -1.0), (0.0, 1.0)), interpolation_order=2,
    ... )
    >>> midpoint.check()
    >>> midpoint.weights(0.5)
    (0.25, 0.25)
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...] | None
    order: int
    error_order: int
    interpolation: tuple[tuple[float, ...], ...]
    interpolation_order: int
    b_coarse: tuple[float, ...] | None = None
    fsal: bool = field(init=False, repr=False, compare=False)
    """Whether the last stage of a step is the first of the next ("first same as last")."""
    late: bool = field(init=False, repr=False, compare=False)
    """Whether a rejected step needs no last stage: it is the next's first, and no more."""

    def __post_init__(self) -> None:
        self._check_shapes()
        last, errors = len(self.b) - 1, (self.b_error, self.b_coarse)
        fsal = self.c[last] == 1.0 and self.b[-1] == 0.0 and self.a[last] == self.b[:-1]
        # every solve reads them some ten times
        object.__setattr__(self, "fsal", fsal)
        late = fsal and all(e is None or e[-1] == 0.0 for e in errors)
        object.__setattr__(self, "late", late)
        for i, row in enumerate(self.a):
            check_sum(f"a[{i}]", row, self.c[i])
        check_sum("b", self.b, 1.0)
        for name in ("b_error", "b_coarse"):
            entries = getattr(self, name)
            if entries is not None:
                check_sum(name, entries, 0.0)

    def _check_shapes(self) -> None:
        s, inside = len(self.b), max(len(self.b), len(self.interpolation))
        counts = {"c": inside, "a": inside, "b_error": s, "b_coarse": s, "interpolation": inside}
        for name, count in counts.items():
            entries = getattr(self, name)
            if entries is not None and len(entries) != count:
                whose = "`b`" if count == s else "`interpolation`"
                raise ValueError(
                    f"`{name}` has {len(entries)} entries, but {whose} has {count}: one for each "
                    "stage."
                )
        if self.b_coarse is not None and self.b_error is None:
            raise ValueError("`b_coarse` goes with a `b_error`, which is None; pass both.")
        for i, row in enumerate(self.a):
            if len(row) != i:
                raise ValueError(
                    f"`a[{i}]` has {len(row)} entries instead of {i}, one for each earlier stage."
                )
        degrees = {len(row) for row in self.interpolation}
        if len(degrees) != 1 or 0 in degrees:
            raise ValueError(
                f"The rows of `interpolation` have lengths {sorted(degrees)}, but all need one "
                "common length of at least 1; pad with zeros."
            )
        ranges = {"error_order": (2, self.order + 1), "interpolation_order": (1, self.order)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; with `order` {self.order} it can be "
                    f"{least} to {most}."
                )

    @property
    def stages(self) -> int:
        """Number of stages ``s`` of a step, the first and the last included."""
        return len(self.b)

    @property
    def inside(self) -> int:
        """Number of stages ``S`` that the interpolant needs, those of the step included."""
        return len(self.a)

    @property
    def bare(self) -> "Tableau":
        """The same without the interpolant's own stages (and then without its true order)."""
        s = len(self.b)
        if s == len(self.a):
            return self
        short = {name: getattr(self, name)[:s] for name in ("c", "a", "interpolation")}
        return replace(self, **short)

    @property
    def b_hat(self) -> tuple[float, ...] | None:
        """Weights of the embedded method, ``b - b_error``; None without an error estimate."""
        if self.b_error is None:
            return None
        return tuple(b - e for b, e in zip(self.b, self.b_error, strict=True))

    def weights(self, theta: float) -> tuple[float, ...]:
        """Weights ``b_i(theta)`` of the interpolant.

        Parameters
        ----------
        theta : float
            Place in the step, 0 at its start and 1 at its end. Only ``+`` and ``*`` are applied
            to it, so a scalar of an array library, traced or not, serves as well.

        Returns
        -------
        tuple of float, length S
            They vanish at 0 and equal `b` at 1 (to rounding, not to the bit).
        """
        return tuple(horner(row, theta) * theta for row in self.interpolation)

    def weight_derivatives(self, theta: float) -> tuple[float, ...]:
        """Derivatives of `weights`: ``dy/dt = sum_i b_i'(theta) k_i`` along the interpolant.

        Parameters
        ----------
        theta : float
            As for `weights`.

        Returns
        -------
        tuple of float, length S
            They sum to 1.
        """
        return slopes(self.interpolation, theta)

    def check(self, tolerance: float = _ORDER_TOLERANCE) -> None:
        """Verify that the tableau has the orders it states.

        Held to their order conditions are `b`, `b_hat` (up to ``error_order - 1``; with a
        `b_coarse` to ``error_order - 3``, and that to 2 less) and, for every theta, the
        interpolant, which also has to end in `b`. Takes about 1 ms; 40 at order 8.

        Parameters
        ----------
        tolerance : float
            Largest residual that passes for rounding.

        Raises
        ------
        ValueError
            If a residual exceeds `tolerance`.
        """
        for name, residuals in self._residuals():
            worst = max(map(abs, residuals))
            if not worst <= tolerance:
                raise ValueError(
                    f"{name} of this tableau is off by {worst:.1e}; {tolerance:.1e} is allowed. "
                    "A coefficient is mistyped, or a stated order is too high."
                )

    def _residuals(self) -> Iterator[tuple[str, Sequence[float]]]:
        yield f"Order {self.order} of `b`", order_conditions(self, self.order)
        if self.b_hat is not None:
            lower = self.error_order - (1 if self.b_coarse is None else 3)
            yield f"Order {lower} of `b_hat`", order_conditions(self, lower, self.b_hat)
        if self.b_coarse is not None:
            coarse = [b - e for b, e in zip(self.b, self.b_coarse, strict=True)]
            yield (
                f"Order {lower - 2} of `b - b_coarse`", order_conditions(self, lower - 2, coarse)
            )  # fmt: skip
        # Each residual is a polynomial in theta without a constant term, so as many places as
        # its degree decide whether it vanishes for every theta.
        q = self.interpolation_order
        degree = max(q, len(self.interpolation[0]))
        for j in range(1, degree + 1):
            theta = j / degree
            name = f"Order {q} of `interpolation` at theta = {theta:.2g}"
            yield name, order_conditions(self, q, self.weights(theta), theta)
        b = (*self.b, *[0.0] * (self.inside - self.stages))
        ends = zip(self.weights(1.0), b, strict=True)
        yield "The end of `interpolation`, which should be `b`,", [w - b for w, b in ends]


def horner(coefficients: Sequence[float], theta: float) -> float:
    """A polynomial of these coefficients, the constant one first."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * theta + coefficient
    return value


def slopes(rows: Sequence[Sequence[float]], theta: float) -> tuple[float, ...]:
    """Derivatives of polynomials without constant terms, of rows of coefficients."""
    powers = range(1, len(rows[0]) + 1)
    return tuple(horner([*map(mul, row, powers)], theta) for row in rows)


def check_sum(name: str, entries: tuple[float, ...], total: float) -> None:
    """Raise ValueError unless the entries have this sum."""
    if not abs(fsum(entries) - total) <= _SUM_TOLERANCE:
        raise ValueError(f"`{name}` sums to {fsum(entries)!r}, but has to sum to {total!r}.")


@cache
def reach(tableau: Tableau) -> float:
    """How far along the negative real axis h lambda may go in a stable step, to 0.01.

    Examples
    --------
    >>> import retrograde as rg
    >>> round(reach(rg.Tsit5.tableau), 1), round(reach(rg.Heun.tableau), 1)
    (3.5, 2.0)
    """
    x, stable, k = 0.0, True, [0.0]
    while stable and x < 100.0:
        x, k = x + 0.01, []
        for row in tableau.a[: len(tableau.b)]:
            k.append(1.0 - x * sum(map(mul, row, k)))
        stable = abs(1.0 - x * sum(map(mul, tableau.b, k))) <= 1.0 + 1e-9
    return x
