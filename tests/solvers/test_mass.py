"""Mass matrices: differential-algebraic systems of index 1, their starts and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

RATES = [0.04, 3e7, 1e4]
ROBERTSON = np.diag([1.0, 1.0, 0.0])
LOOP = [[2.0, -2.0], [-2.0, 2.0]]


def robertson(backend):
    """The third equation is that of the sum."""

    def f(t, y, k):
        a, b, c = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
        return backend.namespace(y).stack([c - a, a - b - c, y[0] + y[1] + y[2] - 1.0])

    return f, backend.array([1.0, 0.0, 0.0])


def circuit(backend):
    """A capacitor of 2 between two nodes, each behind a resistor of k: M is singular, not
    diagonal."""

    def f(t, v, k):
        return backend.namespace(v).stack([(1.0 - v[0]) / k, -v[1] / k])

    return f, backend.array([0.5, 0.5])


STIFF = {"solver": "rodas5p", "rtol": 1e-7, "atol": 1e-13, "max_steps": 400}


@pytest.mark.libraries("numpy torch jax:jit", slow="strict")
def test_robertson(backend):
    """Its end by Radau at 1e-11, and its gradient by that of the ordinary system's rates."""
    f, y0 = robertson(backend)
    weights = np.asarray([[1.0, 0.0, 0.0]])
    g = backend.gradient(
        f, y0, 0.0, 1e5, backend.array(RATES), weights, mass=ROBERTSON,
        adjoint=rg.RecursiveCheckpointAdjoint(8), **STIFF,
    )  # fmt: skip
    end = [0.0178659211421158, 7.274751468442964e-08, 0.9821340061103861]
    np.testing.assert_allclose(backend.to_numpy(g.ys)[0], end, rtol=1e-6)
    # central differences of solves at 1e-10
    np.testing.assert_allclose(g.args, [-0.79304714, -5.2818034e-10, 3.1690758e-06], rtol=1e-6)


@pytest.mark.libraries("numpy torch")
def test_a_circuit(backend):
    """v = (1 +- (1 - exp(-t / 4 k))) / 2, and its derivative by k."""
    f, v0 = circuit(backend)
    k, t = 1.5, 3.0
    g = backend.gradient(
        f, v0, 0.0, t, backend.array(k), np.asarray([[1.0, 0.0]]), mass=LOOP, solver="rodas5p",
        rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    left = np.exp(-t / (4 * k))
    np.testing.assert_allclose(backend.to_numpy(g.ys)[0], [1 - left / 2, left / 2], rtol=1e-7)
    np.testing.assert_allclose(g.args, -left * t / (8 * k**2), rtol=1e-6)


def test_a_regular_matrix_is_divided_by(reference):
    f = lambda t, y, k: np.stack([-y[0], -3.0 * y[1]])  # noqa: E731
    matrix, y0 = np.asarray([[2.0, 1.0], [0.0, 4.0]]), np.ones(2)
    ys = rg.solve(f, y0, 0.0, 1.0, mass=matrix, **STIFF).ys
    divided = lambda t, y, k: np.linalg.solve(matrix, f(t, y, k))  # noqa: E731
    np.testing.assert_allclose(ys, rg.solve(divided, y0, 0.0, 1.0, rtol=1e-9, atol=1e-12).ys,
                               rtol=1e-6)  # fmt: skip


def test_starts(reference):
    f, _ = robertson(reference)
    off, k = np.asarray([0.9, 0.0, 0.3]), np.asarray(RATES)
    with pytest.raises(rg.InputError, match=r"`y0` does not satisfy .* tolerances away"):
        rg.solve(f, off, 0.0, 1.0, k, mass=ROBERTSON, **STIFF)
    found = rg.consistent_initial_values(f, off, 0.0, k, mass=ROBERTSON)
    np.testing.assert_allclose(found, [0.9, 0.0, 0.1], atol=1e-12)
    rg.solve(f, found, 0.0, 1.0, k, mass=ROBERTSON, **STIFF)

    def index_two(t, y, k):
        return np.stack([y[1], y[0] - 1.0])

    with pytest.raises(rg.InputError, match="index is above 1"):
        rg.solve(index_two, np.ones(2), 0.0, 1.0, mass=np.diag([1.0, 0.0]), **STIFF)


@pytest.mark.needs(Capability.TRACED)
def test_an_inconsistent_start_is_nan_in_traced_code(reference):
    import jax
    import jax.numpy as jnp

    def end(y0):
        f = lambda t, y, k: jnp.stack([-y[0], y[0] - y[1]])  # noqa: E731
        settings = {"mass": np.diag([1.0, 0.0]), "solver": "rosenbrock23", "max_steps": 50}
        return rg.solve(f, y0, 0.0, 0.5, **settings).ys[-1]

    good, bad = jax.jit(jax.vmap(end))(jnp.asarray([[1.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_allclose(good, np.exp(-0.5), rtol=1e-3)
    assert np.isnan(bad).all()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"solver": "tsit5"}, r"`mass` needs a Rosenbrock method, but `solver` is tsit5"),
        ({"mass": np.eye(2)}, r"`mass` has shape \(2, 2\), but the state has 3"),
        ({"mass": np.eye(3) * np.nan}, "`mass` holds nan"),
        ({"mass": np.eye(3) * 1j}, "`mass` is complex"),
        ({"mass": lambda k: (np.eye(3), k)}, "`mass` returned a tree"),
    ],
)
def test_what_can_not_be(reference, keywords, message):
    f, y0 = robertson(reference)
    settings = {"mass": ROBERTSON, **STIFF, **keywords}
    with pytest.raises(rg.InputError, match=message):
        rg.solve(f, y0, 0.0, 1.0, np.asarray(RATES), **settings)


def shared(backend, c):
    """M of a capacitor c between two nodes."""
    return c * backend.array([[1.0, -1.0], [-1.0, 1.0]])


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_the_gradient_by_a_capacitor(backend):
    """M as a function of args: the closed form's derivatives by the resistor and the capacitor."""
    f, v0 = circuit(backend)
    k, c, t = 1.5, 2.0, 3.0
    g = backend.gradient(
        lambda t, v, a: f(t, v, a[0]), v0, 0.0, t, backend.array([k, c]),
        np.asarray([[1.0, 0.0]]), mass=lambda a: shared(backend, a[1]), solver="rodas5p",
        rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    slope = -np.exp(-t / (2 * k * c)) * t / (4 * k * c)
    np.testing.assert_allclose(g.args, [slope / k, slope / c], rtol=1e-7)


def test_the_gradient_of_a_matrix_that_has_one():
    """A tensor, and one made of another, by every adjoint; solve_vjp has args alone."""
    torch = pytest.importorskip("torch")
    array = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    f = lambda t, v, k: torch.stack([(1.0 - v[0]) / k, -v[1] / k])  # noqa: E731
    keywords = {"solver": "rodas5p", "rtol": 1e-8, "atol": 1e-10}
    k, c, t = 1.5, 2.0, 3.0
    slope = -np.exp(-t / (2 * k * c)) * t / (4 * k * c)
    for adjoint in ("auto", "direct", rg.RecursiveCheckpointAdjoint(2)):
        size = array(c).requires_grad_()
        whole = size * array([[1.0, -1.0], [-1.0, 1.0]])
        whole.retain_grad()
        end = rg.solve(f, array([0.5, 0.5]), 0.0, t, array(k), mass=whole, adjoint=adjoint,
                       **keywords).ys[-1, 0]  # fmt: skip
        end.backward()
        assert float(size.grad) == pytest.approx(slope / c, rel=1e-7)
        assert whole.grad.shape == (2, 2)


@pytest.mark.needs(Capability.TRACED)
def test_derivatives_by_a_traced_matrix(reference):
    """jvp and Hessian by a capacitor, and a batch of them."""
    import jax
    import jax.numpy as jnp

    k, t = 1.5, 3.0

    def end(c):
        f = lambda t, v, k: jnp.stack([(1.0 - v[0]) / k, -v[1] / k])  # noqa: E731
        mass = c * jnp.asarray([[1.0, -1.0], [-1.0, 1.0]])
        keywords = {"solver": "rosenbrock23", "rtol": 1e-7, "atol": 1e-9}
        return rg.solve(f, jnp.asarray([0.5, 0.5]), 0.0, t, k, mass=mass, **keywords).ys[-1, 0]

    both = jax.jit(jax.vmap(lambda c: (jax.jvp(end, (c,), (1.0,)), jax.grad(end)(c))))
    c = np.asarray([1.0, 2.0])
    x = t / (2 * k * c)
    (value, slope), gradient = both(jnp.asarray(c))
    np.testing.assert_allclose(value, 1 - np.exp(-x) / 2, rtol=1e-5)
    np.testing.assert_allclose(slope, -np.exp(-x) * x / (2 * c), rtol=1e-4)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9)


def test_auto_is_the_stiff_method(reference):
    """The explicit one would divide by M."""
    f, y0 = robertson(reference)
    k, keywords = np.asarray(RATES), {**STIFF, "mass": ROBERTSON}
    one, other = (rg.solve(f, y0, 0.0, 10.0, k, **{**keywords, "solver": name}) for name in
                  ("auto", "rodas5p"))  # fmt: skip
    np.testing.assert_array_equal(one.ys, other.ys)


@pytest.mark.libraries("numpy torch")
def test_a_batch_with_steps_of_its_own(backend):
    """Each sample's solution and gradient are those of a solve of its own."""
    f, v0 = circuit(backend)
    xp = backend.namespace(v0)
    keywords = {"mass": LOOP, "solver": "rodas5p", "rtol": 1e-6, "atol": 1e-9}
    field = lambda t, v, k: xp.stack([(1.0 - v[:, 0]) / k, -v[:, 1] / k], axis=1)  # noqa: E731
    starts, k = backend.array([[0.5, 0.5], [0.9, 0.1]]), backend.array([1.5, 0.3])
    sol, pullback = rg.solve_vjp(
        field, starts, 0.0, 1.0, rg.PerSample(k), per_sample=True, **keywords
    )
    g = pullback(xp.ones_like(sol.ys) * backend.array([1.0, 0.0]))
    for i in range(2):
        one, single = rg.solve_vjp(f, starts[i], 0.0, 1.0, k[i], **keywords)
        backend.assert_close(sol.ys[0, i], one.ys[0], rtol=1e-12)
        expected = single(backend.array([[1.0, 0.0]])).args
        found = g.args.value if hasattr(g.args, "value") else g.args
        backend.assert_close(found[i], expected, rtol=1e-10)


def test_entries_outside_of_the_structure_are_told(reference):
    """A matrix that is kept as a band would lose them."""
    field = rg.VectorField(lambda t, y, args: -y, structure=rg.Banded(0, 0))
    mass = np.eye(3) + 0.1 * np.eye(3, k=1)
    keywords = {"solver": "rodas5p", "mass": mass}
    with pytest.raises(rg.InputError, match="`mass` has entries outside"):
        rg.solve(field, np.ones(3), 0.0, 1.0, **keywords)
    assert rg.solve(field, np.ones(3), 0.0, 1.0, **{**keywords, "mass": np.eye(3)}).status == 0


def test_a_start_is_found_whatever_the_structure(reference):
    """The band of a Jacobian is no square matrix."""
    f = lambda t, y, args: np.stack([-y[0], y[0] * y[1] - 1.0, -y[2]])  # noqa: E731
    mass = np.diag([1.0, 0.0, 1.0])
    field = rg.VectorField(f, structure=rg.Banded(1, 0))
    found = rg.consistent_initial_values(field, np.array([2.0, 3.0, 1.0]), 0.0, mass=mass)
    np.testing.assert_allclose(found, [2.0, 0.5, 1.0])


CHAIN = rg.Coloured(sum(np.eye(40, k=k) for k in (-1, 0, 1)))


@pytest.mark.parametrize("structure", [None, rg.Banded(1, 1), CHAIN, "batch"], ids=str)
@pytest.mark.libraries("numpy strict torch")
def test_starts_of_every_structure(backend, structure):
    """A chain whose odd unknowns are means of their neighbours, and samples of two of them."""
    batch = structure == "batch"

    def f(t, y, args):
        xp = backend.namespace(y)
        if batch:
            return xp.stack([-y[:, 0], y[:, 1] - 2.0 * y[:, 0]], axis=1)
        left = xp.concat([y[:1], y[:-1]])
        right = xp.concat([y[1:], y[-1:]])
        return 0.5 * (left + right) - y

    n = 2 if batch else 40
    mass = np.diag([1.0, 0.0] * (n // 2))
    good = np.asarray([[1.0, 2.0], [0.5, 1.0]]) if batch else np.linspace(1.0, 2.0, n)
    if not batch:
        good[-1] = good[-2]
    field = rg.VectorField(f, structure=structure)
    keywords = {"mass": mass, "solver": "rodas5p", "rtol": 1e-5}
    sol = rg.solve(field, backend.array(good), 0.0, 0.3, **keywords)
    off = backend.array(good + (np.arange(n) % 2) * 0.2)
    with pytest.raises(rg.InputError, match="`y0` does not satisfy"):
        rg.solve(field, off, 0.0, 0.3, **keywords)
    found = rg.consistent_initial_values(field, off, 0.0, mass=mass)
    backend.assert_close(found, good, rtol=1e-8)
    even = backend.to_numpy(sol.ys)[-1].reshape(-1)
    if batch:
        np.testing.assert_allclose(even, good.reshape(-1) * np.exp(-0.3), rtol=1e-4)


def test_a_start_with_a_band_and_a_matrix_that_is_not_diagonal(reference):
    """Two capacitors in a row of nodes: the algebraic equations are sums."""
    f = lambda t, v, a: np.stack([1.0 - v[0], 0.0 * v[0], -v[2]])  # noqa: E731
    mass = np.asarray([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])
    field = rg.VectorField(f, structure=rg.Banded(1, 1))
    found = rg.consistent_initial_values(field, np.asarray([0.5, 0.2, 0.3]), 0.0, mass=mass)
    np.testing.assert_allclose([found[0] + found[2], found[0] - found[1]], [1.0, 0.3])
    keywords = {"mass": mass, "solver": "rodas5p", "rtol": 1e-8}
    end = rg.solve(field, found, 0.0, 1.0, **keywords).ys[-1]
    np.testing.assert_allclose(end, rg.solve(f, found, 0.0, 1.0, **keywords).ys[-1], rtol=1e-10)
    with pytest.raises(rg.InputError, match="`y0` does not satisfy"):
        rg.solve(field, np.asarray([0.5, 0.2, 0.3]), 0.0, 1.0, **keywords)


def test_steps_of_a_given_size(reference):
    """They have no tolerances to hold a start to: those of ``solve`` do."""
    f = lambda t, y, a: np.stack([-y[0], y[0] - y[1]])  # noqa: E731
    keywords = {"mass": np.diag([1.0, 0.0]), "solver": "rodas5p", "dt": 0.1}
    ys = rg.solve(f, np.ones(2), 0.0, 1.0, **keywords).ys[-1]
    np.testing.assert_allclose(ys, np.exp(-1.0), rtol=1e-7)
    with pytest.raises(rg.InputError, match="`y0` does not satisfy"):
        rg.solve(f, np.asarray([1.0, 1.1]), 0.0, 1.0, **keywords)


@pytest.mark.libraries("numpy torch jax:jit", slow="strict jax")
def test_an_equation_that_is_lost_on_the_way(backend):
    """From t = 0.5 on the second says nothing, and the matrix of every step is singular."""

    def f(t, y, k):
        xp = backend.namespace(y)
        there = xp.where(t < 0.5, k, 0.0 * k)
        return xp.stack([-y[0], (y[1] - y[0]) * there])  # strict arrays refuse what is no array

    more = {"solver": "rodas5p", "rtol": 1e-6, "max_steps": 400, "throw": False}
    mass = np.diag([1.0, 0.0])
    run = backend.compiled(lambda y, k: rg.solve(f, y, 0.0, 1.0, k, mass=mass, **more))
    sol = run(backend.array([1.0, 1.0]), backend.array(1.0))
    assert rg.Status(int(sol.status)) is rg.Status.unsolved
    assert 0.5 <= float(sol.t_final) < 0.8
    assert backend.eager or np.all(np.isnan(backend.to_numpy(sol.ys)))
    with pytest.raises(rg.SolveFailed, match="its matrix was singular"):
        sol.raise_if_failed()
