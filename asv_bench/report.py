"""All rows of the performance targets in one table: ``python asv_bench/report.py``.

Timed rows: entrants run in turn, round after round, on one thread; what counts is processor time,
warm-up excluded, and the median over rounds of the ratio within a round, so that a busy machine
slows both sides alike. Each entrant's error is taken first against a reference from outside
(``_integrate.problem``): a row is missed if ours is larger than the peer's.

Exact rows: bytes, executed steps, traces, accuracy; they say pass or FAIL. ``--quick`` runs all of
these and the short ones of the timed rows, whose ratios it does not judge; its exit status counts
FAIL alone. Without it, whatever misses its target counts.

With ``RETROGRADE_DEVICE=cuda`` the rows of a GPU take the place of all others, timed by the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import benchmarks  # sets one thread, so it comes before any array library

# isort: split
import numpy as np
from benchmarks._cases import Case, Entrant, Fact, Skipped
from benchmarks._rows import DEVICE_ROWS, FACTS, FLAGGED, ROWS
from benchmarks.overhead import seconds

ROUNDING = 1e-7
"""Relative errors below this are those of the reference: no row is lost by them."""

FLAG = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000"
"""Lets XLA turn loops into single kernels whatever their size: it speeds small systems in every
library on JAX, so that a fair table shows its lines, too."""

IN_FLAGGED = "RETROGRADE_REPORT_FLAGGED"


@dataclass(frozen=True)
class Line:
    """A line of the report; times in seconds, bytes in bytes."""

    row: str
    work: str
    kind: str
    verdict: str
    unit: str = ""
    ours: float = math.nan
    peer: str = ""
    theirs: float = math.nan
    ratio: float = math.nan
    target: str = ""
    error: float = 0.0
    peer_error: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it counts in quick runs."""
        return self.verdict.startswith("FAIL")

    @property
    def missed(self) -> bool:
        """Whether it counts in full ones."""
        return self.failed or self.verdict.startswith("MISS")


def interleaved(entrants: Sequence[Entrant], rounds: int, slice_: float) -> Any:
    """What each entrant is compared by, shape (rounds, entrants); slow work gets 3 to 9 rounds."""
    alone = [seconds(e.run, 1) for e in entrants]
    pairs = zip(entrants, alone, strict=True)
    repeats = [e.repeats or max(1, round(slice_ / max(t, 1e-6))) for e, t in pairs]
    least = min(rounds, 3 if sum(alone) > 2 else 9)
    turns: list[list[float]] = []
    end = time.monotonic() + rounds * slice_ * len(entrants) * 2
    while len(turns) < least or (len(turns) < rounds and time.monotonic() < end):
        turn = zip(entrants, repeats, strict=True)
        turns.append([e.part(_after_rest(e.run, n)) for e, n in turn])
    return np.asarray(turns)


def _after_rest(run: Any, n: int) -> float:
    """Seconds of n runs, begun when what ran before has put its memory away.

    XLA frees what a program held when its results are there already: 20 ms for 200 MB, which would
    be charged to the next in turn.
    """
    for _ in range(100):
        before = time.process_time()
        time.sleep(1e-3)
        if time.process_time() - before < 1e-4:
            break
    return seconds(run, n)


def timed(case: Case, rows: set[str] | None, quick: bool) -> Iterator[Line]:
    """Run the wanted rivals of a case; none of them, no work."""
    rivals = [r for r in case.rivals if rows is None or r.row in rows]
    if not rivals or (quick and not case.quick):
        return
    rounds, slice_ = (5, 0.01) if quick else (case.rounds or 15, 0.04)
    entrants, there = [case.ours()], []
    for rival in rivals:
        try:
            entrants.append(rival.make())
        except NotImplementedError as absent:
            yield Line(rival.row, case.work, "time", f"skipped: {absent}", peer=rival.name)
        else:
            there.append(rival)
    if not there:
        return
    errors = [e.error(e.run()) for e in entrants]
    table = interleaved(entrants, rounds, slice_)
    middle = np.median(table, axis=0)
    for j, rival in enumerate(there, start=1):
        ratio = float(np.median(table[:, j] / table[:, 0]))
        within = rival.target <= ratio <= rival.most
        verdict = "not judged" if quick or not rival.target else "pass" if within else "MISS"
        if errors[0] > max(1.02 * errors[j], ROUNDING):
            verdict = f"FAIL: error {errors[0]:.1e}, the peer's {errors[j]:.1e}"
        span = f" to {rival.most:g}" if math.isfinite(rival.most) else ""
        yield Line(
            rival.row, case.work, "time", verdict, "s", float(middle[0]), rival.name,
            float(middle[j]), ratio, f">= {rival.target:.2f}{span}" if rival.target else "",
            errors[0], errors[j],
        )  # fmt: skip


def checked(fact: Fact) -> Line:
    """An exact row; ratios are ours over the peer's."""
    found = fact.measure()
    ours, theirs = found if isinstance(found, tuple) else (found, math.nan)
    value = ours if math.isnan(theirs) else ours / theirs
    verdict = "pass"
    if value > fact.limit * (1 + 1e-12):
        known = fact.known is not None and value <= fact.known
        verdict = f"MISS, known: {fact.why}" if known else "FAIL"
    ratio = math.nan if math.isnan(theirs) else value
    bound = f"<= {fact.limit:g}" + (f" {fact.unit}" if fact.unit and math.isnan(theirs) else "")
    return Line(
        fact.row, fact.work, "exact", verdict, fact.unit, ours, fact.peer, theirs, ratio, bound
    )


def lines(
    makers: Iterable[Any], rows: set[str] | None, quick: bool, seconds: float = math.inf
) -> Iterator[Line]:
    """All lines of some rows; what is absent, fails or comes after the time is up says so."""
    end = time.monotonic() + seconds
    for make in makers:
        for item in make():
            if rows is not None and not rows & _ids(item):
                continue
            start = time.monotonic()
            try:
                if start > end:
                    raise NotImplementedError(f"{seconds:g} s were up")
                if isinstance(item, Skipped):
                    yield Line(item.row, item.work, "skipped", f"skipped: {item.reason}")
                elif isinstance(item, Fact):
                    yield checked(item)
                else:
                    yield from timed(item, rows, quick)
            except NotImplementedError as absent:
                yield Line(min(_ids(item)), item.work, "skipped", f"skipped: {absent}")
            except Exception as error:  # one row that fails must not hide the others
                traceback.print_exc()
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                yield Line(min(_ids(item)), item.work, "failed", f"FAIL: {reason:.200}")
            took = time.monotonic() - start
            if took > 1.0:
                print(f"{item.work}: {took:.0f} s", file=sys.stderr, flush=True)


def _ids(item: Case | Fact | Skipped) -> set[str]:
    return {r.row for r in item.rivals} if isinstance(item, Case) else {item.row}


def flagged() -> list[Line]:
    """The lines of another process, in which XLA has the flag from the start."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        flags = f"{FLAG} {os.environ['XLA_FLAGS']}"  # XLA reads up to the first it does not know
        environment = {**os.environ, IN_FLAGGED: "1", "XLA_FLAGS": flags}
        command = [sys.executable, __file__, "--json", file.name]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        return [Line(**line) for line in json.load(file)]


def render(found: Sequence[Line]) -> str:
    """The lines as one table."""
    head = ("row", "work", "ours", "peer", "ratio", "target", "verdict")
    cells = [head]
    for x in found:
        theirs = f"{x.peer} {amount(x.theirs, x.unit)}".strip()
        ratio = "" if math.isnan(x.ratio) else f"{x.ratio:.2f}"
        cells.append((x.row, x.work, amount(x.ours, x.unit), theirs, ratio, x.target, x.verdict))
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def amount(x: float, unit: str) -> str:
    """A number in a unit that suits it."""
    if math.isnan(x):
        return ""
    if unit == "s":
        return f"{x * 1e6:.1f} us" if x < 1e-3 else f"{x * 1e3:.2f} ms" if x < 1 else f"{x:.2f} s"
    return f"{x:,.0f} B" if unit == "B" else f"{x:.3g}"


def main() -> int:
    """Print the table; the exit status counts the lines that missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="ids, with commas: J1,N1; all if left out")
    parser.add_argument("--quick", action="store_true", help="exact rows; short timings unjudged")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after these")
    parser.add_argument("--json", metavar="FILE", help="write the lines there, too")
    options = parser.parse_args()
    rows = set(options.rows.split(",")) if options.rows else None
    warnings.simplefilter("ignore")  # of the peers
    if IN_FLAGGED in os.environ:
        found = list(lines(FLAGGED, rows, quick=False))
    else:
        device = benchmarks.DEVICE != "cpu"
        makers = DEVICE_ROWS if device else (*FACTS, *ROWS)
        found = []
        for line in lines(makers, rows, options.quick, options.seconds):
            found.append(line)
            if device:  # whoever has one for minutes wants each reading at once
                print(render([line]).partition("\n")[2], file=sys.stderr, flush=True)
        if not (device or options.quick) and (rows is None or rows & {"J4", "J5"}):
            found += [x for x in flagged() if rows is None or x.row in rows]
    found.sort(key=lambda x: x.kind == "skipped")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n{render(found)}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(x) for x in found], file, indent=1)
    return sum(x.failed if options.quick else x.missed for x in found)


if __name__ == "__main__":
    assert benchmarks.__doc__
    raise SystemExit(main())
