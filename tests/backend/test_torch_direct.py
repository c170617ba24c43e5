"""Stages that autograd records, PyTorch's form of them against the plain one.

Guards row T4p of ``asv_bench/report.py``.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from retrograde._backend.gradient_hooks import DirectStages  # noqa: E402
from retrograde._backend.registry import adapter  # noqa: E402
from retrograde._backend.stages import Scale  # noqa: E402
from retrograde._solvers import find_solver  # noqa: E402

SHAPES = {"short": [(3,)], "long": [(100,)], "matrix": [(2, 3)], "leaves": [(2,), (3,)]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("solver", ["tsit5", "bosh3", "heun"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_a_step_and_its_gradient(shapes, solver, dtype):
    bk, tableau = adapter("torch"), find_solver(solver).tableau
    generator = torch.Generator().manual_seed(1)
    leaf = lambda s: torch.randn(s, dtype=dtype, generator=generator).requires_grad_()  # noqa: E731
    y = tuple(leaf(s) for s in SHAPES[shapes])
    matrix = torch.randn((), dtype=dtype, generator=generator).requires_grad_()
    layout = bk.direct_layout(bk.layout([x.detach() for x in y]))

    def field(t, leaves):
        return tuple(torch.sin(matrix * x) * t for x in leaves)

    def step(kind):
        w = kind(layout, tableau, Scale(1e-3, 1e-2))
        w.begin(0.3, 0.2, y)
        w.put(0, field(w.time(0), y))
        w.evaluate(field, 1, tableau.stages)
        y1 = w.result()
        loss = sum((x * x.conj()).real.sum() for x in (*y1, *w.combine(tableau.stages - 1)))
        return (*y1, *torch.autograd.grad(loss, (*y, matrix)), torch.tensor(w.error2(y1)))

    for a, b in zip(step(bk.direct_stages), step(DirectStages), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_forward_mode_and_transforms_get_the_plain_form():
    bk, tableau = adapter("torch"), find_solver("tsit5").tableau
    layout = bk.direct_layout(bk.layout([torch.ones(2)]))
    own = type(bk.direct_stages(layout, tableau, None))
    with torch.autograd.forward_ad.dual_level():
        plain = bk.direct_stages(layout, tableau, None)
    assert not isinstance(plain, own)
    assert type(plain)._sum is DirectStages._sum
    assert type(plain).evaluate is DirectStages.evaluate
