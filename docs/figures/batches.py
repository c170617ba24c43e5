"""Draws ``batches.svg``: where steps end, of samples by themselves and of a batch in one step.

Run it after a change of the default controller: ``python docs/figures/batches.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import retrograde as rg

SVG = Path(__file__).with_suffix(".svg")
SPEEDS = (1.0, 2.0, 12.0)
WIDTH, ROW, LEFT, END = 640, 34, 150, 6.0


def oscillators(t: np.ndarray, y: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Van der Pol's, along axis 0 of y the two unknowns."""
    return speed * np.stack([y[1], (1.0 - y[0] ** 2) * y[1] - y[0]])


def ends(y0: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Ends of the steps of a solve."""
    sol = rg.solve(oscillators, y0, 0.0, END, speed, saveat=rg.SaveAt(steps=True), rtol=1e-3)
    found: np.ndarray = sol.ts
    return found


def draw() -> str:
    """The picture."""
    rows = [(f"speed {s:g}", ends(np.array([2.0, 0.0]), np.asarray(s))) for s in SPEEDS]
    start = np.array([[2.0] * 3, [0.0] * 3])
    rows.append(("one step for all", ends(start, np.asarray(SPEEDS))))
    height = ROW * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" rx="6" fill="#fff"/>',
    ]
    for i, (name, times) in enumerate(rows):
        y, colour = ROW * (i + 1), "#b5482f" if i == len(rows) - 1 else "#2f6fb5"
        parts.append(f'<text x="8" y="{y + 4}" fill="#444">{name}: {len(times)}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y}" y2="{y}" stroke="#bbb"/>')
        for t in times:
            x = LEFT + (WIDTH - 12 - LEFT) * float(t) / END
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="2.2" fill="{colour}"/>')
    foot = f'<text x="{LEFT}" y="{height - 10}" fill="#444">ends of steps, t = 0 to {END:g}</text>'
    return "\n".join([*parts, foot, "</svg>", ""])


if __name__ == "__main__":
    SVG.write_text(draw(), encoding="utf-8")
