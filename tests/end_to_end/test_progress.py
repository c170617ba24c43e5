"""Progress of a solve, by a callable or a bar."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability


@pytest.mark.parametrize("keywords", [{"dt": 0.1}, {"rtol": 1e-6}], ids=["constant", "adaptive"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_parts_grow_from_zero_to_one(backend, keywords, span):
    if "dt" in keywords:
        keywords = {"dt": keywords["dt"] if span[1] > span[0] else -keywords["dt"]}
    y0, parts = backend.array([1.0, 0.5]), []
    run = lambda **more: rg.solve(lambda t, y, a: -y, y0, *span, **keywords, **more)  # noqa: E731
    if Capability.TRACED in backend.bk.capabilities:
        with pytest.raises(rg.UnsupportedByBackend, match="`progress` is set"):
            run(progress=parts.append)
        return
    watched = run(progress=parts.append)
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert len(parts) == watched.stats["num_steps"] + 1
    assert np.array_equal(backend.to_numpy(watched.ys), backend.to_numpy(run().ys))


def test_a_bar_is_drawn_and_nonsense_refused(reference, capsys):
    pytest.importorskip("tqdm")
    rg.solve(lambda t, y, a: -y, np.ones(2), 0.0, 1.0, dt=0.1, progress=True)
    assert "100%" in capsys.readouterr().err
    with pytest.raises(rg.InputError, match="`progress` is 3; pass True for a bar, or a callable"):
        rg.solve(lambda t, y, a: -y, np.ones(2), 0.0, 1.0, dt=0.1, progress=3)
