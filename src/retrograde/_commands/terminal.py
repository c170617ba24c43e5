"""What the commands share: options, libraries that are here, a progress bar, columns of text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .._base.errors import RetrogradeError
from .._base.memory import require
from .info import INSTALL, missing

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, as far as commands share it.

    Attributes
    ----------
    backends : tuple of str
    plot : str or None
        File to draw into.
    quiet : bool
        No progress bar.
    progress : bool
        A progress bar even where standard error is no terminal.
    """

    backends: tuple[str, ...] = tuple(INSTALL)
    plot: str | None = None
    quiet: bool = False
    progress: bool = False


def one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split())


def available(
    names: Iterable[str], make: Callable[[str], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """What can be made of each library, and why it can't of the others."""
    found: dict[str, T] = {}
    absent: dict[str, str] = {}
    for name in names:
        why = missing(name)
        try:
            if why is None:
                found[name] = make(name)
        except RetrogradeError:
            raise
        except Exception as error:  # a broken library, or one without its device
            why = f"can't be used: {one_line(error) or type(error).__name__}"
        if why is not None:
            absent[name] = why
    return found, absent


@contextlib.contextmanager
def progress_bar(options: Options, count: Callable[[], int]) -> Iterator[Callable[[str], None]]:
    """``tick(what)`` of a bar on standard error, where somebody looks at it."""
    if options.quiet or not (options.progress or sys.stderr.isatty()):
        yield lambda what: None
        return
    with require("tqdm", "demo").tqdm(total=count(), file=sys.stderr, leave=False) as bar:

        def tick(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()

        yield tick


def padded(rows: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    """Cells as wide as their columns, so many columns to the left and the rest to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            x.ljust(w) if i < left else x.rjust(w)
            for i, (x, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
