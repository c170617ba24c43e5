"""Ratios to other libraries, row by row, from one process: ``python asv_bench/report.py``.

Entrants of a row run in turn, round after round, on one thread; what counts is processor time,
warm-up excluded, and the median over rounds of the ratio within a round, so that a busy machine
slows both sides alike. Before anything is timed, each entrant's error is taken against a
reference from outside (``_problems``): a row is missed if ours is larger than the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import benchmarks  # noqa: F401  sets one thread, so it comes before any array library

# isort: split
import numpy as np
from benchmarks._rows import ROWS, Case, Entrant
from benchmarks.overhead import seconds

ROUNDING = 1e-7
"""Relative errors below this are those of the reference: no row is lost by them."""


@dataclass(frozen=True)
class Line:
    """A line of the report; times in seconds."""

    row: str
    work: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    target: float
    error: float
    peer_error: float

    @property
    def verdict(self) -> str:
        """'pass', or why not."""
        if self.error > max(1.02 * self.peer_error, ROUNDING):
            return "MISS: less accurate"
        return "pass" if self.ratio >= self.target else "MISS"


def interleaved(entrants: Sequence[Entrant], rounds: int, slice_: float) -> Any:
    """What each entrant is compared by, shape (rounds, entrants); slow work gets 5 rounds."""
    repeats = [max(1, round(slice_ / max(seconds(e.run, 1), 1e-6))) for e in entrants]
    turns: list[list[float]] = []
    end = time.monotonic() + rounds * slice_ * len(entrants) * 2
    while len(turns) < 5 or (len(turns) < rounds and time.monotonic() < end):
        pairs = zip(entrants, repeats, strict=True)
        turns.append([e.overhead(seconds(e.run, n)) for e, n in pairs])
    return np.asarray(turns)


def lines(case: Case, rows: set[str] | None, rounds: int, slice_: float) -> Iterator[Line]:
    """Run the wanted rivals of a case; none of them, no work."""
    rivals = [r for r in case.rivals if rows is None or r.row in rows]
    if not rivals:
        return
    print(f"{rivals[0].row}: {case.work}", file=sys.stderr, flush=True)
    entrants = [case.ours(), *(rival.make() for rival in rivals)]
    errors = [e.error(e.run()) for e in entrants]
    table = interleaved(entrants, rounds, slice_)
    middle = np.median(table, axis=0)
    for j, rival in enumerate(rivals, start=1):
        ratio = float(np.median(table[:, j] / table[:, 0]))
        yield Line(
            rival.row, case.work, float(middle[0]), rival.name, float(middle[j]), ratio,
            rival.target, errors[0], errors[j],
        )  # fmt: skip


def render(found: Sequence[Line]) -> str:
    """The lines as one table."""
    head = ("row", "work", "ours", "peer", "ratio", "target", "error", "peer's", "verdict")
    cells = [head]
    for x in found:
        cells.append(
            (x.row, x.work, duration(x.ours), f"{x.peer} {duration(x.theirs)}", f"{x.ratio:.2f}",
             f"{x.target:.2f}", f"{x.error:.1e}", f"{x.peer_error:.1e}", x.verdict)
        )  # fmt: skip
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def duration(t: float) -> str:
    """Seconds in a unit that suits them."""
    return f"{t * 1e6:.1f} us" if t < 1e-3 else f"{t * 1e3:.2f} ms"


def main() -> int:
    """Print the table; the exit status counts the lines that missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="ids, with commas: J1,N1; all if left out")
    parser.add_argument("--quick", action="store_true", help="few short rounds: a smoke test")
    parser.add_argument("--json", metavar="FILE", help="write the lines there, too")
    options = parser.parse_args()
    rows = set(options.rows.split(",")) if options.rows else None
    rounds, slice_ = (5, 0.01) if options.quick else (21, 0.05)
    warnings.simplefilter("ignore")  # of the peers
    found: list[Line] = []
    for make in ROWS:
        for case in make():
            try:
                found += lines(case, rows, rounds, slice_)
            except NotImplementedError as absent:
                print(f"{case.work}: skipped, {absent}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n{render(found)}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{**asdict(x), "verdict": x.verdict} for x in found], file, indent=1)
    return sum(x.verdict != "pass" for x in found)


if __name__ == "__main__":
    raise SystemExit(main())
