"""The picture of the house in ``explanation/architecture``: floors, rooms and their door signs.

Floors are the table of ``tests/backend/test_import.py``, which holds every import to them; words
are the first sentences of the folders' ``__init__``. Run it after a folder is added or renamed; a
test compares.
"""

from __future__ import annotations

import ast
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE, ADAPTERS = ROOT / "src" / "retrograde", ROOT / "backends" / "retrograde_backends"
SVG = Path(__file__).with_suffix(".svg")
LOOSE = {
    "__init__": "The public names.",
    "backend": "A face for authors of adapters.",
    "interpolate": "Functions of time out of data.",
    "measure": "Measured bytes of a gradient.",
    "__main__": "python -m retrograde.",
    "numpy.py": "NumPy.",
    "cupy.py": "CuPy.",
}
LEFT, WIDTH, GAP, LINE, ASIDE = 36, 640, 8, 14, 250


def floors() -> dict[int, list[str]]:
    """Rooms by floor, 1 the ground."""
    tree = ast.parse((ROOT / "tests" / "backend" / "test_import.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            return {floor: rooms.split() for floor, rooms in ast.literal_eval(node.value).items()}
    raise AssertionError("test_import.py has no table FLOORS")


def sign(folder: Path) -> str:
    """The first sentence of a folder's door sign."""
    words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    return " ".join(words.split("\n\n")[0].replace("``", "").split())


def room(x: float, y: float, width: float, name: str, words: str) -> tuple[str, float]:
    """A rectangle with a name and words in it, and its height."""
    lines = textwrap.wrap(words, max(int((width - 16) / 6.3), 8))
    height = 26 + LINE * len(lines)
    out = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{{height:g}}" rx="4" class="room"/>',
        f'<text x="{x + 8:g}" y="{y + 17:g}" class="name">{escape(name)}</text>',
    ]
    for i, line in enumerate(lines, 1):
        out.append(f'<text x="{x + 8:g}" y="{y + 17 + LINE * i:g}">{escape(line)}</text>')
    return "\n".join(out), height


def floor(y: float, number: int, rooms: list[str]) -> tuple[str, float]:
    """A row of rooms, and its height."""
    width = (WIDTH - GAP * (len(rooms) - 1)) / len(rooms)
    drawn = []
    for i, name in enumerate(rooms):
        folder = CORE / name
        words = LOOSE.get(name) or sign(folder)
        label = name + "/" if folder.is_dir() else name + ".py"
        drawn.append(room(LEFT + i * (width + GAP), y, width, label, words))
    height = max(h for _, h in drawn)
    label = f'<text x="{LEFT - 24}" y="{y + height / 2 + 4:g}" class="name">{number}</text>'
    return "\n".join(
        [label, *(text.replace("{height:g}", f"{height:g}") for text, _ in drawn)]
    ), height


def adapters() -> tuple[str, float]:
    """The package of adapters, beside the core, and its height."""
    x, y, out = LEFT + WIDTH + 40, 40.0, []
    loose = [(name, LOOSE[name]) for name in ("numpy.py", "cupy.py")]
    folders = sorted(p.parent for p in ADAPTERS.rglob("__init__.py") if p.parent != ADAPTERS)
    rows = loose + [(f"{p.relative_to(ADAPTERS).as_posix()}/", sign(p)) for p in folders]
    for name, words in rows:
        inner = 14 * name.rstrip("/").count("/")
        text, height = room(x + inner, y, ASIDE - inner, name, words)
        out.append(text.replace("{height:g}", f"{height:g}"))
        y += height + GAP
    head = f'<text x="{x}" y="24" class="name">retrograde_backends: adapters</text>'
    return "\n".join([head, *out]), y


def draw() -> str:
    """The picture."""
    y, rows = 40.0, []
    for number, rooms in sorted(floors().items(), reverse=True):
        text, height = floor(y, number, rooms)
        rows.append(text)
        y += height + GAP
    beside, bottom = adapters()
    y = max(y, bottom) + 4
    width = LEFT + WIDTH + 40 + ASIDE + 12
    head = f'<text x="{LEFT}" y="24" class="name">retrograde: imports go down only</text>'
    style = (
        "text{font:12px sans-serif;fill:#222}.name{font-weight:bold}"
        ".room{fill:#eef3f8;stroke:#8aa4bd}.page{fill:#fff}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y:g}" '
        f'width="{width}" height="{y:g}">\n<style>{style}</style>\n'
        f'<rect class="page" width="100%" height="100%"/>\n'
        + "\n".join([head, *rows, beside])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    SVG.write_text(draw())
