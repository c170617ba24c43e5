"""Adapters announced by entry points: the how-to's example, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import retrograde as rg

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/array_library.md").read_text(encoding="utf-8")


def test_the_example_of_the_how_to(tmp_path):
    """Arrays without ``__array_namespace__`` and ``device``, found by their announced adapter."""
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
    pattern = r'```toml\n\[project\.entry-points\."(.*?)"\]\n(.*?)```'
    ((group, line),) = re.findall(pattern, PAGE, re.DOTALL)
    info = tmp_path / "retrograde_tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: retrograde-tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    run = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "use.py"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert (run.stdout, run.stderr) == (printed, "")
    y0, rate = np.asarray([1.0, 2.0]), np.asarray(0.5)
    sol, pullback = rg.solve_vjp(lambda t, y, p: -p * np.sin(y), y0, 0.0, 1.0, rate, rtol=1e-6)
    value = float(pullback(np.ones(sol.ys.shape)).args)
    assert printed.split() == ["tiny", str(round(value, 4))]
