"""Every hook of every adapter against the generic answer: plain array API and Python loops.

The generic forms (``ListLayout``, ``Stages``, ``StageCotangents``, ``EagerBackend``) are run on
NumPy's namespace; an adapter's own forms must give the same numbers from the same calls.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.clock import HostClock
from retrograde._base.types import Scale
from retrograde._checkpointing import FAR, Slots
from retrograde.backend import AbstractBackend, Capability, EagerBackend, MemoryInfo

GENERIC = EagerBackend(np)
TABLEAUS = {"euler": rg.Euler, "bosh3": rg.Bosh3, "tsit5": rg.Tsit5, "dopri8": rg.Dopri8}
FORMS = {"vector": [(3,)], "matrix": [(2, 2)], "scalar": [()], "leaves": [(2,), (), (1, 3)]}
DTYPES = {"float64": 1e-13, "float32": 1e-5, "complex128": 1e-13}
T, H = 0.3, 0.125

form = pytest.mark.parametrize("form", FORMS)
TRACED = [
    ("vector", "float32"),
    ("matrix", "float64"),
    ("scalar", "complex128"),
    ("leaves", "float64"),
]
dtypes = pytest.mark.settings(form=FORMS, dtype=DTYPES, few={"jax": TRACED})
pytestmark = pytest.mark.libraries("numpy strict torch jax")  # jax.jit says nothing of a hook


class Both:
    """One layout of an adapter, and its generic twin."""

    def __init__(self, backend, form, dtype="float64"):
        self.backend, self.dtype, self.rtol = backend, dtype, DTYPES[dtype]
        self.shapes, self.rng = FORMS[form], np.random.default_rng(3)
        like = self.leaves()
        self.mine = backend.bk.layout([backend.array(x, dtype) for x in like])
        self.generic = GENERIC.layout(like)

    def leaves(self):
        """Random leaves, as NumPy arrays."""
        made = [self.rng.normal(size=s) for s in self.shapes]
        if self.dtype.startswith("complex"):
            made = [x + 1j * self.rng.normal(size=x.shape) for x in made]
        return [np.asarray(x, self.dtype) for x in made]

    def states(self):
        """One random state in both forms."""
        leaves = self.leaves()
        native = tuple(self.backend.array(x.tolist(), self.dtype) for x in leaves)
        return self.mine.pack(native), tuple(leaves)

    def assert_same(self, mine, generic):
        """Two states are equal."""
        self.backend.assert_close(
            tuple(self.mine.unpack(mine)), tuple(generic), rtol=self.rtol, atol=self.rtol
        )

    def assert_numbers(self, mine, generic):
        np.testing.assert_allclose(np.asarray(float(mine)), float(generic), rtol=10 * self.rtol)


# --- layouts


@dtypes
def test_layout(backend, form, dtype):
    both = Both(backend, form, dtype)
    mine, generic = both.mine, both.generic
    assert tuple(mine.shapes) == tuple(generic.shapes)
    assert (mine.size, mine.nbytes) == (generic.size, generic.nbytes)
    (x, x0), (y, y0) = both.states(), both.states()
    both.assert_same(x, x0)
    both.assert_same(mine.add(x, y), generic.add(x0, y0))
    both.assert_same(mine.axpy(x, 0.25, y), generic.axpy(x0, 0.25, y0))
    both.assert_same(mine.zeros(), generic.zeros())
    scale = Scale(0.01, 0.1)
    both.assert_numbers(mine.norm2(x, y, scale), generic.norm2(x0, y0, scale))
    if dtype != "complex128":  # each library has its own convention there
        both.assert_numbers(mine.inner(x, y), generic.inner(x0, y0))
    assert bool(mine.finite(x))
    nan = mine.axpy(x, float("nan"), y)
    assert not bool(mine.finite(nan))
    t = mine.time(T)
    assert tuple(t.shape) == ()
    assert backend.bk.is_array(t)


@dtypes
def test_parts(backend, form, dtype):
    """Repeated, joined, cut again, added up with weights; the parts of a part too."""
    both = Both(backend, form, dtype)
    (x, x0), (y, y0) = both.states(), both.states()
    wide, wide0 = both.mine.repeat(3), both.generic.repeat(3)
    assert tuple(wide.shapes) == wide0.shapes
    assert (wide.size, wide.nbytes) == (3 * both.mine.size, 3 * both.mine.nbytes)
    joined, joined0 = both.mine.join([x, y, x]), both.generic.join([x0, y0, x0])
    found, expected = tuple(wide.unpack(joined)), tuple(wide0.unpack(joined0))
    backend.assert_close(found, expected)
    for part, part0 in zip(wide.split(joined, 3), (x0, y0, x0), strict=True):
        both.assert_same(part, part0)
    backend.assert_close(tuple(wide.unpack(wide.zeros())), tuple(wide0.zeros()))
    for terms in ([(1.0, 0)], [(2.0, 0)], [(1.0, 0), (-0.5, 1)], [(0.3, 1), (1.0, 0), (2, 1)]):
        mine = both.mine.weighted([(w, (x, y)[i]) for w, i in terms])
        both.assert_same(mine, both.generic.weighted([(w, (x0, y0)[i]) for w, i in terms]))
    both.assert_same(x, x0)  # sums are formed beside their terms
    both.assert_same(both.mine.own(both.mine.unpack(y)), y0)


@dtypes
def test_error_of_a_state(backend, form, dtype):
    both, scale = Both(backend, form, dtype), Scale(0.01, 0.1)
    (e, e0), (x, x0), (y, y0) = both.states(), both.states(), both.states()
    both.assert_numbers(both.mine.error2(e, x, y, scale), both.generic.error2(e0, x0, y0, scale))


@pytest.mark.settings(form=FORMS, few={"jax": ["matrix", "leaves"]})
def test_rows(backend, form):
    both = Both(backend, form)
    pairs = [both.states() for _ in range(3)]
    stacked = both.mine.stack([x for x, _ in pairs])
    expected = both.generic.stack([x for _, x in pairs])
    backend.assert_close(tuple(stacked), expected)
    for i in range(3):
        both.assert_same(both.mine.row(stacked, i), pairs[i][1])


# --- stages


@pytest.mark.settings(
    form=FORMS,
    dtype=DTYPES,
    name=TABLEAUS,
    few={"jax": [(*x, y) for x, y in zip(TRACED, TABLEAUS, strict=True)]},
)
def test_stages(backend, form, dtype, name):
    """One step's calls in their order; then a second one with the slope kept."""
    both, tableau = Both(backend, form, dtype), TABLEAUS[name].tableau
    scale = Scale(1e-3, 1e-3) if tableau.b_error else None
    mine = backend.bk.stages(both.mine, tableau, scale)
    generic = GENERIC.stages(both.generic, tableau, scale)
    kept = kept0 = None
    for turn in range(2):
        (y, y0), k, k0 = both.states(), kept, kept0
        kept, kept0 = mine.begin(T, H, y, k), generic.begin(T, H, y0, k0)
        for i in range(tableau.stages):
            if i or turn == 0:
                if i:
                    both.assert_same(mine.combine(i), generic.combine(i))
                s, s0 = both.states()
                mine.put(i, both.mine.unpack(s))
                generic.put(i, s0)
                both.assert_same(mine.derivative(i), generic.derivative(i))
            np.testing.assert_allclose(float(mine.time(i)), float(generic.time(i)), rtol=1e-6)
        y1, y10 = mine.result(), generic.result()
        both.assert_same(y1, y10)
        if scale is not None:
            both.assert_numbers(mine.error2(y1), generic.error2(y10))
        for i in range(tableau.stages, tableau.inside):  # the interpolant's own
            both.assert_same(mine.inside(i), generic.inside(i))
            s, s0 = both.states()
            mine.put(i, both.mine.unpack(s))
            generic.put(i, s0)
        weights = tableau.weights(0.4)
        both.assert_same(mine.interpolate(weights), generic.interpolate(weights))
        both.assert_same(mine.slope(weights), generic.slope(weights))
        kept, kept0 = (both.mine.unpack(mine.derivative(0)), generic.derivative(0))


@pytest.mark.settings(
    form=FORMS,
    dtype=DTYPES,
    name=TABLEAUS,
    sources=[False, True],
    few={
        "jax": [
            ("vector", "float32", "tsit5", True),
            ("matrix", "float64", "dopri8", True),
            ("scalar", "complex128", "bosh3", False),
            ("leaves", "float64", "tsit5", True),
            ("leaves", "complex128", "euler", True),
        ]
    },
)
def test_adjoint(backend, form, dtype, name, sources):
    both, tableau = Both(backend, form, dtype), TABLEAUS[name].tableau
    mine = backend.bk.adjoint(both.mine, tableau)
    generic = GENERIC.adjoint(both.generic, tableau)
    for count in (tableau.inside, tableau.stages):  # not every step's inside has a cotangent
        (g, g0), (ct, ct0), q, q0 = both.states(), both.states(), None, None
        mine.forget(count)
        if sources:
            weights = [H * w for w in tableau.weights(0.3)]
            q = mine.add_source(mine.sources(), weights, ct)
            q0 = generic.add_source(generic.sources(), weights, ct0)
        mine.begin(H, g, q)
        generic.begin(H, g0, q0)
        for i in reversed(range(count)):
            lam = tuple(mine.lam(i))
            backend.assert_close(lam, tuple(generic.lam(i)), rtol=both.rtol, atol=both.rtol)
            mu, mu0 = both.states()
            mine.push(i, both.mine.unpack(mu))
            generic.push(i, mu0)
        both.assert_same(mine.total(), generic.total())


# --- clock


@pytest.mark.settings(
    t=[0.0, 1.3, -2.0], h=[0.1, 5.0, -0.1], few={"jax": [(0.0, 0.1), (1.3, 5.0), (-2.0, -0.1)]}
)
def test_clock(backend, t, h):
    clock, host = backend.bk.clock(backend.bk.layout([backend.array([1.0])])), HostClock()
    t1 = t + (1.0 if h > 0 else -1.0)

    def same(a, b):
        np.testing.assert_allclose(float(a), float(b), rtol=1e-15)

    for a, b in zip(
        clock.land(clock.real(t), clock.real(h), clock.real(t1)), host.land(t, h, t1), strict=True
    ):
        same(a, b)
    for name in ("maximum", "minimum"):
        same(getattr(clock, name)(clock.real(t), clock.real(h)), getattr(host, name)(t, h))
    same(clock.power(clock.real(2.5), -0.2), host.power(2.5, -0.2))
    for x in (2.5, 0.3, 1e-16):
        for a, b in zip(
            clock.powers(clock.real(x), (-0.2, 0.04)), host.powers(x, (-0.2, 0.04)), strict=True
        ):
            same(a, b)
    same(clock.clip(clock.real(h), 0.2, 0.9), host.clip(h, 0.2, 0.9))
    same(clock.clip(clock.real(float("nan")), 0.2, 0.9), 0.2)
    for a in (True, False):
        for b in (True, False):
            assert bool(clock.both(a, b)) == (a and b)
            assert bool(clock.either(a, b)) == (a or b)
        same(clock.where(a, clock.real(1.0), clock.real(2.0)), 1.0 if a else 2.0)
    assert bool(clock.is_finite(clock.real(t)))
    assert not bool(clock.is_finite(clock.real(float("inf"))))
    assert int(clock.steps(t, t1, h)) == host.steps(t, t1, h)
    running = (clock.real(t), clock.real(t1), clock.real(h), 0.0, clock.count(3))
    assert bool(clock.running(*running))
    assert not bool(clock.running(*running[:-1], clock.count(0)))


# --- loops and memory


@pytest.mark.libraries("numpy strict torch jax jax:jit")
@pytest.mark.parametrize("n", [0, 1, 7])
def test_loops(backend, n):
    """Counted and conditional; no trip is a trip of none."""
    bk = backend.bk

    def counted(x):
        return bk.for_loop(2, 2 + n, lambda i, s: s * 2.0 + i, x)

    def conditional(x):
        def body(s):
            return s[0] + 1, s[1] * 2.0 + (s[0] + 2)

        return bk.while_loop(lambda s: s[0] < n, body, (bk.index(0), x))[1]

    expected = 1.0
    for i in range(2, 2 + n):
        expected = expected * 2.0 + i
    for program in (counted, conditional):
        result = backend.compiled(program)(backend.array([1.0]))
        assert backend.to_numpy(result).tolist() == [expected]


@pytest.mark.settings(
    form=FORMS, scratch=[False, True], few={"jax": [("matrix", False), ("leaves", True)]}
)
def test_buffers(backend, form, scratch):
    both, bk = Both(backend, form), backend.bk
    pairs = [both.states() for _ in range(4)]
    buffer = bk.new_buffer(4, both.mine, scratch=scratch)
    for i in (2, 0, 3, 1):
        buffer = bk.write(buffer, i, pairs[i][0])
    if scratch:
        buffer = bk.write(buffer, 4, pairs[0][0])
    buffer = bk.write(buffer, 2, pairs[1][0])
    for i, j in enumerate((0, 1, 1, 3)):
        both.assert_same(bk.read(buffer, i), pairs[j][1])
    rows = bk.rows(both.mine, buffer, 2, 2, np.nan)
    backend.assert_close(tuple(rows), both.generic.stack([pairs[0][1], pairs[1][1]]))
    for x in bk.rows(both.mine, buffer, 4, 3, np.nan):  # complex ones in both parts
        x = backend.one_to_numpy(x)
        assert np.all(np.isnan(x[3].real))
        assert np.all(np.isnan(x[3].imag) | (x.dtype.kind != "c"))
        assert np.all(np.isfinite(x[:3]))


def test_tables_of_ints(backend):
    bk = backend.bk
    table = bk.table_set(bk.ints([5, 3, 8]), 1, 7)
    assert [int(bk.table_get(table, i)) for i in range(3)] == [5, 7, 8]
    assert int(bk.pick(True, 1, 2)) == 1
    assert int(bk.pick(False, 1, 2)) == 2
    positions = bk.new_positions(4)
    for row, step in ((0, 6), (4, 5), (3, 4), (1, 0)):  # row 4 is scratch
        positions = bk.table_set(positions, row, step)
    placed = Slots(4, bk.ints([0, 4, 5, 6, FAR]), bk.ints([1, 3, 4, 0, 4]), 1, None)
    order, below = bk.rank(placed, positions, 8)
    assert [int(bk.table_get(order, i)) for i in range(4)] == [1, 3, 0, 2]
    assert int(below) == 3


@pytest.mark.parametrize("slots", [1, 2, 5, 40])
def test_split_is_the_binomial_one(backend, slots):
    split, generic = backend.bk.split(slots), GENERIC.split(slots)
    for length in (2, 3, 10, 57, 400):
        for free in {1, 2, slots} & set(range(1, slots + 1)):
            assert int(split(length, free)) == generic(length, free)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_placements_are_the_online_ones(backend, rows):
    mine, generic = backend.bk.placements(rows, 100), GENERIC.placements(rows, 100)
    index = [generic[0][e] for e in range(12)]
    for e in range(sum(i < 100 for i in index)):
        assert int(backend.bk.table_get(mine[0], e)) == index[e]
        assert int(backend.bk.table_get(mine[1], e)) == generic[1][e]


# --- arrays, trees and memory


def test_arrays(backend):
    bk = backend.bk
    for dtype, kind, size in (
        ("float32", "real", 4),
        ("float64", "real", 8),
        ("complex64", "complex", 8),
        ("int32", "", 4),
    ):
        x = backend.array([1, 2, 3], dtype)
        assert bk.is_array(x)
        assert bk.floating(x) == kind
        if kind:
            assert bk.itemsize(x.dtype) == size
            assert bk.nbytes(x) == 3 * size
            assert str(bk.real_dtype(x)).rpartition(".")[-1] == (
                "float64" if dtype == "float64" else "float32"
            )
    assert not bk.is_array([1.0])
    assert not bk.is_array(1.0)
    assert bk.concrete(backend.array(2.5)) == 2.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_matrices(backend, dtype):
    rng = np.random.default_rng(5)
    a, b, x = (rng.normal(size=s).astype(dtype) for s in ((2, 3), (3, 4), (3,)))
    on = [backend.array(v.tolist(), dtype) for v in (a, b, x)]
    backend.assert_close(backend.bk.matmul(on[0], on[1]), a @ b, DTYPES[dtype])
    backend.assert_close(backend.bk.matmul(on[0], on[2]), a @ x, DTYPES[dtype])


def test_trees(backend):
    """Leaves in order; None is no leaf; numbers and text are leaves that are no arrays."""
    bk, x = backend.bk, backend.array([1.0])
    tree = {"b": (x, None), "a": [x, 3], "c": {"d": "text"}}
    leaves, treedef = bk.flatten(tree)
    assert len(leaves) == 4
    again = bk.unflatten(treedef, leaves)
    assert again["b"][1] is None
    assert (again["a"][1], again["c"]["d"]) == (3, "text")
    for empty in ((), None, {"a": []}):
        leaves, treedef = bk.flatten(empty)
        assert leaves == []
        assert bk.unflatten(treedef, leaves) == empty


@pytest.mark.device
def test_memory(backend):
    found = backend.bk.memory(backend.array([1.0]))
    assert isinstance(found, MemoryInfo)
    assert 0 < found.free <= found.total
    assert found.source


def test_a_failed_solve_is_poisoned(backend):
    x = backend.array([1.0, 2.0])
    assert backend.to_numpy(backend.bk.nan_unless(True, x)).tolist() == [1.0, 2.0]
    assert np.all(np.isnan(backend.to_numpy(backend.bk.nan_unless(False, x))))


def test_capabilities_say_what_there_is(backend):
    """No adapter names a capability that is not in the one list, or lacks a hook."""
    bk = backend.bk
    assert isinstance(bk, AbstractBackend)
    assert bk.capabilities <= frozenset(Capability)
    if Capability.AUTODIFF not in bk.capabilities:
        with pytest.raises(rg.UnsupportedByBackend, match=r"has no vjp .* `rg.VectorField"):
            bk.pullback(None, None, (), None)
