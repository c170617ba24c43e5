"""Bad input is an error at call time that names the argument and says what to do.

Every message is one to three sentences, has what it is about in backticks, and none is met
twice for two causes (``test_messages_differ``).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import retrograde as rg

RODAS5P = {"solver": "rodas5p"}
BAD = {
    # f
    "shape of f": ({"f": lambda t, y, a: y[:1]}, "`f` returned the shape (1,)", "make them equal"),
    "dtype of f": (
        {"f": lambda t, y, a: _astype(y, "float32")},
        "`f` returned dtype",
        "convert `y0`",
    ),
    "tree of f": ({"f": lambda t, y, a: (y, y)}, "`f` returned a tuple of 2", "must return"),
    "number from f": ({"f": lambda t, y, a: 1.0}, "`f` returned ", "`y0`"),
    "no function": ({"f": 3}, "`f` is 3", "pass f(t, y, args)"),
    "f without args": ({"f": lambda t, y: -y}, "`f` is called with (t, y, args), but", "give it"),
    "jac of y alone": (
        {"f": rg.VectorField(lambda t, y, a: -y, jac=lambda y: y), **RODAS5P},
        "`jac` is called with (t, y, args), but takes (y)",
        "all of these parameters",
    ),
    "jac of lists": (
        {"f": rg.VectorField(lambda t, y, a: -y, jac=lambda *x: [[1.0] * 2] * 2), **RODAS5P},
        "`jac` returned arrays of shapes [(), (), (), ()]",
        "must return one matrix of shape (2, 2)",
    ),
    "mass of text": ({"mass": "M", **RODAS5P}, "`mass` is 'M'", "pass a matrix"),
    # y0
    "boolean y0": ({"y0": lambda b: b.xp.asarray([True, True])}, "`y0` has dtype", "convert it"),
    "empty tree": ({"y0": lambda b: ()}, "`y0` holds no array", "pass an array"),
    "empty array": ({"y0": lambda b: b.array([])}, "`y0` has a leaf of shape (0,)", "drop it"),
    "nan in y0": ({"y0": lambda b: b.array([1.0, float("nan")])}, "`y0` holds nan", "finite"),
    "inf in y0": ({"y0": lambda b: b.array([float("inf"), 1.0])}, "`y0` holds nan or inf", ""),
    "text as y0": ({"y0": lambda b: "1.0"}, "`y0` holds no array", "pass an array"),
    "text among y0": (
        {"y0": lambda b: (b.array([1.0]), "2"), "f": lambda t, y, a: y},
        "`y0` has a leaf of type str",
        "make every leaf an array",
    ),
    "rows of two lengths": (
        {"y0": lambda b: [[1.0, 2.0], [3.0]]},
        "`y0` holds a list that is no array",
        "equally long",
    ),
    # times
    "nan as t0": ({"t0": float("nan")}, "`t0` is nan", "pass a finite time"),
    "inf as t1": ({"t1": float("inf")}, "`t1` is inf", "pass a finite time"),
    "text as t1": ({"t1": "1"}, "`t1` is '1'", "pass a number"),
    "array as t0": ({"t0": lambda b: b.array([0.0, 1.0])}, "`t0` has shape (2,)", "pass a number"),
    # steps
    "text as dt": ({"dt": "0.1"}, "`dt` is '0.1'", "pass a number"),
    "a number that is none": (
        {"args": 10**400},
        "`args` holds a number that is no float",
        "numbers finite",
    ),
    "dt of zero": ({"dt": 0.0}, "`dt` is 0.0", "other than 0"),
    "nan as dt": ({"dt": float("nan")}, "`dt` is nan", "finite step size"),
    "dt of the wrong sign": ({"dt": -0.1}, "`dt` is -0.1", "pass dt=0.1 or swap"),
    "dt0 of the wrong sign": (
        {"controller": rg.PIDController(dt0=-0.1)},
        "`dt0` is -0.1",
        "give it the sign",
    ),
    "negative rtol": ({"rtol": -1e-3}, "`rtol` is -0.001", "of 0 or more"),
    "text as rtol": ({"rtol": "1e-3"}, "`rtol` is '1e-3'", "of 0 or more"),
    "negative atol": ({"atol": -1e-3}, "`atol` is -0.001", "of 0 or more"),
    "no tolerance": ({"rtol": 0, "atol": 0}, "`rtol` and `atol` are both 0", "make one"),
    "negative array of atol": (
        {"atol": lambda b: b.array([1e-3, -1e-3])},
        "`atol` has negative entries",
        "tolerances of 0",
    ),
    "atol that does not fit": (
        {"atol": lambda b: b.array([1e-3, 1e-3, 1e-3])},
        "`atol` does not broadcast against `y0`",
        "",
    ),
    "max_steps of zero": ({"max_steps": 0}, "`max_steps` is 0", "at least 1"),
    "fractional max_steps": ({"max_steps": 1.5}, "`max_steps` is 1.5", "whole number"),
    "StepTo beside the ends": (
        {"controller": rg.StepTo([0.0, 0.5])},
        "`t1` is 1.0",
        "make them equal",
    ),
    "StepTo there and back": (
        {"controller": rg.StepTo([0.0, 0.7, 0.5, 1.0])},
        "`ts` must be strictly monotone",
        "sort it",
    ),
    # names
    "unknown solver": ({"solver": "rk5"}, "`solver` is 'rk5'", "tsit5"),
    "class of a solver": ({"solver": rg.Tsit5}, "`solver` is the class Tsit5", "pass `Tsit5()`"),
    "unknown adjoint": ({"adjoint": "magic"}, "`adjoint` is 'magic'", "recursive_checkpoint"),
    "no controller": ({"controller": "pid"}, "`controller` is 'pid'", "PIDController"),
    "stiff method of SciPy": (
        {"solver": "Radau"},
        "`solver` is 'Radau'",
        "the nearest here is 'rodas5p'",
    ),
    "no saveat": ({"saveat": 0.5}, "`saveat` is 0.5", "pass rg.SaveAt"),
    "solver without error": ({"solver": "euler"}, "`solver` Euler has no error", "pass `dt=`"),
    "auto on constant steps": (
        {"solver": "auto", "dt": 0.1},
        "`solver` is auto, which tells by the errors",
        "pass 'rodas5p' or 'tsit5'",
    ),
    "no slots": (
        {"adjoint": lambda b: rg.RecursiveCheckpointAdjoint(0)},
        "`checkpoints` is 0",
        "at least 1",
    ),
    # solvers of pairs
    "array for a pair": ({"solver": "leapfrog", "dt": 0.1}, "needs `y0` as a pair", "`y0=(q, p)`"),
    "dict for a pair": (
        {"solver": "leapfrog", "dt": 0.1, "y0": lambda b: {"q": b.array([1.0])}},
        "but it is a dict with keys ['q']",
        "`y0=(q, p)`",
    ),
    "halves of two sizes": (
        {
            "solver": "semi_implicit_euler",
            "dt": 0.1,
            "y0": lambda b: (b.array([1.0]), b.array([1.0, 2.0])),
        },
        "needs halves of `y0` = (q, p) that are alike",
        "give each q its p",
    ),
    "halves of other leaves": (
        {
            "solver": "semi_implicit_euler",
            "dt": 0.1,
            "y0": lambda b: ((b.array([1.0]), b.array([1.0])), b.array([1.0, 2.0])),
        },
        "q has 2 leaves of 2 elements in all and p 1 of 2",
        "give each q its p",
    ),
    "adaptive steps of a pair": (
        {"solver": "leapfrog", "y0": lambda b: (b.array([1.0]), b.array([1.0]))},
        "`solver` VelocityVerlet has no error",
        "pass `dt=`",
    ),
    # saved times
    "unsorted ts": ({"saveat": rg.SaveAt(ts=[0.5, 0.2])}, "`saveat.ts[1]` is 0.2", "sort `ts`"),
    "ts outside": ({"saveat": rg.SaveAt(ts=[0.5, 1.5])}, "`saveat.ts[1]` is 1.5", "drop it"),
    "nan in ts": ({"saveat": rg.SaveAt(ts=[float("nan")])}, "`saveat.ts[0]` is nan", "finite"),
    "no ts": ({"saveat": lambda b: rg.SaveAt(ts=[])}, "`saveat.ts` is empty", "at least one"),
    "an empty array of ts": ({"saveat": lambda b: b.array([])}, "`saveat.ts` is empty", "at least"),
    "rows of ts": (
        {"saveat": lambda b: rg.SaveAt(ts=[[0.5, 1.0]])},
        "`saveat.ts` has",
        "flat list",
    ),
    "a matrix of ts": (
        {"saveat": lambda b: b.array([[0.5, 1.0]])},
        "`saveat.ts` has shape (1, 2)",
        "shape (k,)",
    ),
    "a time as ts": ({"saveat": lambda b: rg.SaveAt(ts=0.5)}, "`saveat.ts` is 0.5", "a list"),
    # memory
    "no bytes": ({"memory": "lots"}, "`memory` is 'lots'", "write for example"),
    "bytes of zero": ({"memory": "0 KiB"}, "`memory` is '0 KiB'", "write for example"),
    "negative bytes": ({"memory": -5}, "`memory` is -5", "pass a positive number"),
    "all as a fraction": ({"memory": 1.5}, "`memory` is 1.5", "a fraction"),
    "a list of bytes": ({"memory": [64]}, "`memory` is [64]", "pass bytes"),
    "too few bytes": ({"memory": "20 B"}, "`memory` is 20 B", "Raise the budget"),
}


def call(backend, f=None, y0=None, t0=0.0, t1=1.0, args=None, **keywords):
    """A gradient of a solve with some arguments replaced; callables are given the backend."""
    made = {
        k: v(backend) if callable(v) and not isinstance(v, type) else v for k, v in keywords.items()
    }
    y0 = backend.array([1.0, 2.0]) if y0 is None else y0(backend)
    t0, args = (x(backend) if callable(x) else x for x in (t0, args))
    return rg.solve_vjp(f or (lambda t, y, a: -y), y0, t0, t1, args, **made)


@pytest.mark.libraries("numpy strict torch jax")  # the same checks as without jit
@pytest.mark.parametrize("case", BAD)
def test_the_message_names_the_argument_and_the_remedy(backend, case):
    arguments, named, remedy = BAD[case]
    kind = rg.PlanInfeasible if case == "too few bytes" else rg.InputError
    with pytest.raises(kind) as caught:
        call(backend, **arguments)
    message = str(caught.value)
    assert named in message
    assert remedy in message
    assert isinstance(caught.value, (rg.RetrogradeError, ValueError))
    assert message[-1] == "."
    assert len(re.findall(r"[.;] ", message)) <= 3
    assert re.search(r"`\w", message)


def test_messages_differ(reference):
    """No message serves two causes that need two remedies."""
    messages = {}
    for case, (arguments, *_) in BAD.items():
        with pytest.raises(rg.RetrogradeError) as caught:
            call(reference, **arguments)
        messages.setdefault(str(caught.value), []).append(case)
    shared = [cases for cases in messages.values() if len(cases) > 1]
    assert shared == [
        ["empty tree", "text as y0"],
        ["nan in y0", "inf in y0"],
        ["no ts", "an empty array of ts"],
    ]


def test_two_libraries(backend):
    """Arrays of two libraries are refused, with both names."""
    if backend.bk.name == "numpy":
        strict = pytest.importorskip("array_api_strict")
        foreign = strict.asarray([1.0])
    else:
        foreign = np.asarray([1.0])
    with pytest.raises(rg.InputError, match=r"`args` holds one of .*convert them to one library"):
        call(backend, args=lambda b: foreign)
    with pytest.raises(rg.InputError, match=r"mix arrays of .*convert them to one library"):
        call(backend, y0=lambda b: (b.array([1.0]), foreign))


@pytest.mark.parametrize("where", ["y0", "args", "f"])
def test_two_devices(where):
    strict = pytest.importorskip("array_api_strict")
    here = strict.asarray([1.0, 2.0])
    there = strict.asarray([1.0, 2.0], device=strict.Device("device1"))
    y0 = (here, there) if where == "y0" else here
    f = (lambda t, y, a: there) if where == "f" else (lambda t, y, a: y)
    with pytest.raises(rg.InputError, match=r"mix the devices .*; move all arrays to one\."):
        rg.solve(f, y0, 0.0, 1.0, there if where == "args" else None)


def test_a_field_that_writes_into_its_argument(backend):
    if backend.bk.name not in ("numpy", "torch", "strict", "cupy"):
        pytest.skip("arrays of this library can't be written into")

    def f(t, y, args):
        y[0] = 0.0
        return -y

    y0 = backend.array([1.0, 2.0])
    with pytest.raises(rg.InputError, match="`f` changed its argument `y` in place; return a new"):
        rg.solve(f, y0, 0.0, 1.0)
    assert backend.to_numpy(y0).tolist() == [1.0, 2.0]


def test_what_this_version_has_not(reference):
    with pytest.raises(rg.InputError, match=r"`event` is <object .*; pass rg\.Event"):
        call(reference, event=object())
    with pytest.raises(rg.InputError, match="`per_sample` is 2; pass True or False"):
        call(reference, per_sample=2)
    with pytest.raises(TypeError, match="'stepsize'"):
        call(reference, stepsize=0.1)


def test_a_cotangent_of_another_shape(backend):
    _, pullback = call(backend, dt=0.5)
    with pytest.raises(rg.InputError, match=r"cotangent has leaves of shape .* make them equal"):
        pullback(backend.array([1.0, 1.0]))
    with pytest.raises(rg.InputError, match=r"cotangent has leaves of shape .* make them equal"):
        pullback((backend.array([[1.0, 1.0]]), backend.array([[1.0, 1.0]])))


@pytest.mark.libraries("numpy strict torch jax")  # the same checks as without jit
@pytest.mark.parametrize("cotangent", [1j, "text", None, [[1.0], [1.0, 2.0]]])
def test_no_cotangent(backend, cotangent):
    """Complex ones of a real solve among them: they are no loss's gradient."""
    _, pullback = call(backend, dt=0.5)
    if cotangent == 1j:
        cotangent = 1j * backend.xp.asarray([[1.0, 1.0]], dtype=backend.xp.complex128)
    with pytest.raises(rg.InputError, match=r"the cotangent (holds|has) .*(array|equal)"):
        pullback(cotangent)
    with pytest.raises(rg.InputError, match="the cotangent holds"):
        pullback([[1j, 1.0]])


def _astype(y, dtype):
    xp = y.__array_namespace__() if hasattr(y, "__array_namespace__") else None
    return (
        y.to(getattr(__import__("torch"), dtype))
        if xp is None
        else xp.astype(y, getattr(xp, dtype))
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_its_steps(backend, dtype):
    """Its own sums would lose them: y' = -y with dt = 0.001 gave 1.0 in bfloat16."""
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend.bk.name} has no {dtype}")
    y0 = backend.array([1.0, 2.0], dtype)
    ys = backend.compiled(lambda y: rg.solve(decay, y, 0.0, 1.0, dt=0.001).ys)(y0)
    found = [float(ys[0, 0]), float(ys[0, 1])]
    np.testing.assert_allclose(found, np.exp(-1.0) * np.asarray([1, 2]), rtol=1e-2)

    def f(t, y, args):  # the same by hand
        return -_astype(_astype(y, dtype), "float32")

    sol = rg.solve(f, backend.array([1.0, 2.0], "float32"), 0.0, 1.0, dt=0.001)
    backend.assert_close(sol.ys, np.exp(-1.0, dtype="float32") * np.float32([[1, 2]]), rtol=1e-2)


@pytest.mark.parametrize("call", [rg.solve, rg.solve_vjp, rg.plan])
@pytest.mark.parametrize(("dtype", "dt"), [("float64", 1e-300), ("float32", 1e-9)])
def test_a_dt_that_is_nothing_beside_the_span(backend, call, dtype, dt):
    y0 = backend.array([1.0], dtype)
    for span in ((0.0, 1.0), (5.0, 4.0)):
        signed = dt * (span[1] - span[0])
        with pytest.raises(rg.InputError, match=rf"`dt` = {signed}: t \+ dt == t .* pass a `dt`"):
            call(decay, y0, *span, dt=signed)


def test_more_steps_than_a_compiled_loop_counts(backend):
    if backend.eager:
        pytest.skip("Python counts them")
    with pytest.raises(rg.InputError, match=r"`dt` = 1e-10 makes 1e\+10 steps, .* larger `dt`"):
        rg.solve(decay, backend.array([1.0]), 0.0, 1.0, dt=1e-10)


def decay(t, y, args):
    return -y


def foreign(module, name, base=object, **members):
    """An object of a class that looks like another library's."""
    kind = type(name, (base,), {"__module__": module, "shape": (2,), **members})
    return np.ones(2).view(kind) if issubclass(kind, np.ndarray) else kind()


FOREIGN = {
    "astropy": (
        lambda: foreign("astropy.units.quantity", "Quantity", Units),
        "`y0.to_value(unit)`",
    ),
    "pint": (lambda: foreign("pint.registry", "Quantity"), "`y0.to(unit).magnitude`"),
    "pandas": (lambda: foreign("pandas.core.series", "Series"), "`y0.to_numpy()`"),
    "xarray": (lambda: foreign("xarray.core.dataarray", "DataArray"), "`y0.values`"),
    "sparse": (lambda: foreign("scipy.sparse._csr", "csr_array"), "`y0.toarray()`"),
    "matrix": (lambda: np.ones((1, 2)).view(np.matrix), "`np.asarray(y0)`"),
    "masked": (lambda: np.ma.masked_array([1.0, 2.0], [True, False]), "`y0.filled(value)`"),
    "attrs": (lambda: foreign("mine", "State", __attrs_attrs__=()), "`attrs.asdict(y0, recurse="),
    "pydantic": (lambda: foreign("mine", "State", __pydantic_fields__={}), "pass `dict(y0)`"),
}


class Units(np.ndarray):
    """A subclass of NumPy's arrays."""


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_looks_like_an_array_is_refused_with_the_cure(kind):
    """As a state, in one, as a time, times to save, or an argument that wants a gradient."""
    make, cure = FOREIGN[kind]
    x = make()
    f = lambda t, y, args: -y  # noqa: E731
    for call, name in (
        (lambda: rg.solve(f, x, 0.0, 1.0), "y0"),
        (lambda: rg.plan(f, (np.ones(2), x), 0.0, 1.0), "y0"),
        (lambda: rg.solve_vjp(f, np.ones(2), 0.0, 1.0, {"k": x}), "args"),
        (lambda: rg.solve(f, np.ones(2), 0.0, x), "t1"),
        (lambda: rg.solve(f, np.ones(2), 0.0, 1.0, saveat=rg.SaveAt(ts=x)), "saveat.ts"),
        (lambda: rg.solve(lambda t, y, a: x, np.ones(2), 0.0, 1.0), "f's result"),
    ):
        with pytest.raises(rg.InputError, match=f"`{name}` (holds|is)") as caught:
            call()
        assert cure.replace("y0", name) in str(caught.value)


@pytest.mark.parametrize("library", ["jax", "numpy"])
def test_a_plain_dataclass_of_arrays(library):
    """NumPy takes it; JAX has to be told of it, in y0 and in arguments that want gradients."""
    xp = pytest.importorskip("jax.numpy") if library == "jax" else np

    @dataclasses.dataclass
    class State:
        x: Any

    def f(t, y, args):
        return State(-(y.x if args is None else args.x * y.x))

    y0 = State(xp.ones(2))
    if library == "numpy":
        assert rg.solve(f, y0, 0.0, 1.0, dt=0.5).ys.x.shape == (1, 2)
        return
    with pytest.raises(rg.InputError, match=r"`y0` .*register_dataclass\(State\)` once\."):
        rg.solve(f, y0, 0.0, 1.0)
    with pytest.raises(rg.InputError, match=r"`args` .*register_dataclass\(State\)` once\."):
        rg.solve_vjp(lambda t, y, a: -a.x * y, xp.ones(2), 0.0, 1.0, y0)
